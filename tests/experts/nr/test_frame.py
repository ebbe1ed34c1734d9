"""Carriers, cyclic prefixes, links and every channel through the whole waveform, demodulated by the test itself."""

import numpy as np
import pytest

from experts.nr import (
    CSIRS,
    DMRS,
    NR,
    PDSCH,
    PRACH,
    PUCCH,
    PUSCH,
    SRS,
    SSB,
    Carrier,
    NRConfig,
    Report,
    TDDPattern,
    Uplink,
    User,
)
from experts.nr.carrier import RESOURCE_BLOCKS, symbol_edges
from experts.nr.tdd import link_symbols
from experts.nr.uplink.prach import Occasions
from lwm.errors import RejectedConfig
from lwm.seeding import rng_for

SQUARES = {"QPSK": 2, "16QAM": 4, "64QAM": 8, "256QAM": 16, "1024QAM": 32}
"""Points on a side of each constellation."""


def grid_of(capture, carrier: Carrier, milliseconds: int) -> np.ndarray:
    """Elements ``[slots, symbols, subcarriers]``; prefixes worked out from TS 38.211 clause 5.3.1 in units of T_c."""
    n_fft, starts, now = carrier.n_fft, [], 0.0
    for symbol in range((milliseconds * carrier.symbols) << carrier.mu):
        if carrier.extended_cp:
            prefix = 512 / (1 << carrier.mu)
        else:
            prefix = 144 / (1 << carrier.mu) + (16 if symbol % (7 << carrier.mu) == 0 else 0)
        starts.append(round((now + prefix) * n_fft * (1 << carrier.mu) / 2048))
        now += prefix + 2048 / (1 << carrier.mu)
    bins = np.fft.fft(capture.iq[np.array(starts)[:, None] + np.arange(n_fft)], axis=1) / np.sqrt(n_fft)
    count = 12 * carrier.n_rb
    return bins[:, np.arange(count) - count // 2].reshape(-1, carrier.symbols, count)


def error_vector(data: np.ndarray, modulation: str) -> float:
    """EVM of points against the nearest of the constellation, gain fitted to their power."""
    side = SQUARES[modulation]
    odd = 2 * np.arange(side) - side + 1
    scale = np.sqrt(2 * np.mean(odd**2.0))
    points = data.reshape(-1) / np.sqrt(np.mean(np.abs(data) ** 2)) * scale

    def nearest(part: np.ndarray) -> np.ndarray:
        return np.clip(2 * np.round((part - 1) / 2) + 1, odd[0], odd[-1])

    # The sample's own mean power is not the constellation's: one factor is fitted.
    for _ in range(3):
        ideal = nearest(points.real) + 1j * nearest(points.imag)
        points = points * np.vdot(points, ideal).real / np.vdot(points, points).real
    return float(np.sqrt(np.mean(np.abs(points - ideal) ** 2)) / scale)


def share_in_boxes(capture) -> float:
    """Share of the energy inside the emissions, each in its own time and band; boxes must not overlap."""
    rate, inside = capture.sample_rate, 0.0
    for box in capture.emissions:
        part = capture.iq[round(box.start * rate) : round(box.stop * rate)]
        spectrum = np.abs(np.fft.fft(part)) ** 2 / part.size
        frequency = np.fft.fftfreq(part.size, 1 / rate)
        inside += spectrum[(frequency >= box.low) & (frequency <= box.high)].sum()
    return inside / np.sum(np.abs(capture.iq.astype(complex)) ** 2)


def test_resource_blocks_leave_the_guard_of_the_standard():
    """TS 38.101-1 clause 5.3.3: guard (BW - N_RB 12 SCS) / 2 - SCS / 2, with four of its printed values in kHz."""
    printed = {("FR1", 0, 5): 242.5, ("FR1", 1, 100): 845, ("FR2", 2, 50): 1210, ("FR2", 3, 400): 9860}
    for name, rows in RESOURCE_BLOCKS.items():
        for mu, row in rows.items():
            for mhz, count in row.items():
                guard = (1e3 * mhz - count * 12 * (15 << mu)) / 2 - (15 << mu) / 2
                assert 0.005 < guard / (1e3 * mhz) < 0.12
                assert guard == pytest.approx(printed.get((name, mu, mhz), guard))
    assert {35, 45} <= set(RESOURCE_BLOCKS["FR1"][0])


@pytest.mark.parametrize(
    ("carrier", "modulation"),
    [
        (Carrier(3e6, 0, 5), "QPSK"),
        (Carrier(45e6, 0, 5), "64QAM"),
        (Carrier(20e6, 2, 5, extended_cp=True), "256QAM"),
        (Carrier(50e6, 2, 5, TDDPattern("DDDSU"), "FR2"), "16QAM"),
        (Carrier(400e6, 3, 5, TDDPattern("DDDSU"), "FR2"), "1024QAM"),
    ],
)
def test_pdsch_of_every_kind_of_carrier(standard, carrier, modulation):
    """EVM below 0.5 %, DM-RS of the standard's sequence, silence beside the allocation, memory of the capture."""
    last = carrier.symbols
    shared = PDSCH(2, 8, modulation, (0, last), dmrs=DMRS(additional=0))
    config = NRConfig(carrier, None, (User(shared, ((0, 1 << carrier.mu),)),), None, duration=1e-3)
    if carrier.tdd is not None:
        shared_slots = User(shared, ((0, 3), (5, 3)) if carrier.mu == 3 else ((0, 3),))
        config = NRConfig(carrier, None, (shared_slots,), None, duration=1e-3)
    capture = NR().synthesize(config, rng_for(1))
    assert capture.iq.size == round(1e-3 * carrier.sample_rate) <= 491520
    slots = grid_of(capture, carrier, 1)
    data = np.delete(slots[0, :, 24:120], 2, axis=0)
    assert error_vector(data, modulation) < 0.005
    for slot in range(min(2, len(slots))):
        c_init = (((last * slot + 2 + 1) * (2 * 5 + 1) << 17) + 2 * 5) % 2**31
        expected = standard["reference"](c_init, 6 * 10)[12:]
        received = slots[slot, 2, 24:120:2]
        match = abs(np.vdot(expected, received)) / np.linalg.norm(expected) / np.linalg.norm(received)
        assert match > 0.9999
    assert np.abs(slots[0][:, :24]).max() < 1e-3
    assert np.abs(slots[0][:, 120:]).max(initial=0) < 1e-3
    assert share_in_boxes(capture) > 0.99
    assert capture.facts["cp"] == ("extended" if carrier.extended_cp else "normal")


def test_pattern1_and_pattern2_alternate():
    pattern = TDDPattern.parse("DDDSU+DDSUU")
    pattern.validate(1)
    first, stop = link_symbols(pattern, "uplink", 14, 0, 20)
    letters = "DDDSUDDSUU" * 2
    expected = [{"D": 0, "S": 2, "U": 14}[letter] for letter in letters]
    assert (stop - first).tolist() == expected
    assert pattern.downlink_share == pytest.approx((5 + 2 * 10 / 14) / 10)
    with pytest.raises(RejectedConfig, match="divisor of 20 ms"):
        TDDPattern.parse("DDDSU+DU").validate(1)


def uplink(**fields) -> NRConfig:
    """An uplink of 20 MHz with 30 kHz subcarriers, 4 ms of it."""
    users = fields.pop("users", ())
    return NRConfig(Carrier(20e6, 1, 77), None, users, None, uplink=Uplink(**fields), duration=0.004)


def test_pusch_is_found_with_its_dmrs(standard):
    shared = PUSCH((10, 30), modulation="64QAM", hopping="intra-slot", hop_offset=20)
    capture = NR().synthesize(uplink(users=(User(shared, ((2, 3),)),)), rng_for(2))
    slots = grid_of(capture, Carrier(20e6, 1, 77), 4)
    assert {box.link for box in capture.emissions} == {"uplink"}
    assert len(capture.emissions) == 6
    assert share_in_boxes(capture) > 0.99
    for hop, symbol, prb in ((0, 2, 10), (1, 7, 30)):
        c_init = (((14 * 3 + symbol + 1) * (2 * 77 + 1) << 17) + 2 * 77) % 2**31
        expected = standard["reference"](c_init, 6 * 51)[6 * prb : 6 * (prb + 20)]
        received = slots[3, symbol, 12 * prb : 12 * (prb + 20) : 2]
        assert abs(np.vdot(expected, received)) > 0.999 * np.linalg.norm(expected) * np.linalg.norm(received)
        rows = slice(3, 7) if hop == 0 else slice(8, 14)
        assert error_vector(slots[3, rows, 12 * prb : 12 * (prb + 20)], "64QAM") < 0.005


@pytest.mark.parametrize(
    ("signals", "channel", "count"),
    [
        ({"reports": (Report(PUCCH(0, (5, 6), (12, 14)), (4, 1)),)}, "PUCCH", 2),
        ({"reports": (Report(PUCCH(3, (40, 44), (0, 14), second_prb=2), (8, 3)),)}, "PUCCH", 2),
        ({"srs": (SRS((2, 1), 3, (9, 0, 0), 4, symbols=2, offset=1, period=(4, 2)),)}, "SRS", 2),
        ({"prach": PRACH("B4", 30.0, prb=7, occasions=Occasions(slots=(1, 3)))}, "PRACH", 2),
        ({"prach": PRACH("0", prb=20, occasions=Occasions(slots=(2,)))}, "PRACH", 1),
    ],
)
def test_uplink_signals_lie_in_their_boxes_and_nowhere_else(signals, channel, count):
    capture = NR().synthesize(uplink(**signals), rng_for(3))
    assert [box.attributes["channel"] for box in capture.emissions] == [channel] * count
    # The sidelobes of the few subcarriers of a PUCCH hold up to 3 % of it, 25 dB below its density.
    assert share_in_boxes(capture) > (0.97 if channel == "PUCCH" else 0.99)
    name = {"PUCCH": "pucch_count", "SRS": "srs_count", "PRACH": "prach_count"}[channel]
    assert capture.facts[name] == (count if channel == "PRACH" else 1)


def test_srs_elements_are_its_comb():
    resource = SRS((4, 1), 0, (9, 0, 0), 4, offset=0, period=(4, 2))
    slots = grid_of(NR().synthesize(uplink(srs=(resource,)), rng_for(3)), Carrier(20e6, 1), 4)
    power = np.abs(slots) ** 2
    slot, symbol, subcarrier = np.nonzero(power > power.max() / 2)
    assert set(slot.tolist()) == {2, 6}
    assert set(symbol.tolist()) == {13}
    assert sorted(set(subcarrier.tolist())) == list(range(12 * 4 + 1, 12 * (4 + resource.resource_blocks), 4))
    np.testing.assert_allclose(power[slot, symbol, subcarrier], power.max(), rtol=1e-4)


def test_csi_rs_is_where_the_table_says_and_pdsch_leaves_it():
    carrier = Carrier(20e6, 1, 9)
    resource = CSIRS(1, "0010", 6, density=3.0, n_rb=52, period=4, offset=1, n_id=9)
    users = (User(PDSCH(0, 24, "QPSK", (1, 13)), ((0, 4),)),)
    alone = NR().synthesize(NRConfig(carrier, None, (), None, (resource,), duration=2e-3), rng_for(1))
    slots = grid_of(alone, carrier, 2)
    slot, symbol, subcarrier = np.nonzero(np.abs(slots) > np.abs(slots).max() / 2)
    assert (set(slot.tolist()), set(symbol.tolist())) == ({1}, {6})
    assert subcarrier.tolist() == list(range(1, 12 * 51, 4))
    assert share_in_boxes(alone) > 0.99
    both = grid_of(
        NR().synthesize(NRConfig(carrier, None, users, None, (resource,), duration=2e-3), rng_for(1)), carrier, 2
    )
    places = both[1, 6, 1:612:4]
    gain = np.vdot(slots[1, 6, 1:612:4], places) / np.vdot(slots[1, 6, 1:612:4], slots[1, 6, 1:612:4])
    np.testing.assert_allclose(places, gain * slots[1, 6, 1:612:4], atol=1e-3)
    with pytest.raises(RejectedConfig, match=r"7\.4\.1\.5\.3"):
        NR().validate(NRConfig(carrier, None, users, None, (CSIRS(3, "000001", 2, n_rb=52, period=4),)))


def test_ssb_of_240_khz_in_a_60_khz_carrier():
    carrier = Carrier(100e6, 2, 500, TDDPattern("DDDSU"), "FR2")
    ssb = SSB("E", "1" + "0" * 63, 20, 0, 10, 0, mib=_fr2_mib())
    capture = NR().synthesize(NRConfig(carrier, ssb, (), None, duration=1e-3), rng_for(1))
    (box,) = capture.emissions
    assert share_in_boxes(capture) > 0.99
    assert box.high - box.low == pytest.approx(57.6e6)
    # Case E: the first candidate begins in symbol 8 of 240 kHz.
    assert box.start == pytest.approx(symbol_edges(512, 4, 1)[8] / carrier.sample_rate)


def _fr2_mib():
    from experts.nr import MIB

    return MIB(scs_common=60)


@pytest.mark.parametrize("link", ["downlink", "uplink"])
def test_coded_payload_keeps_the_constellation(link):
    if link == "downlink":
        user = User(PDSCH(0, 20, "16QAM", (0, 14)), ((0, 4),), 490)
        config = NRConfig(Carrier(20e6, 1, 3), None, (user,), None, payload="coded", duration=2e-3)
        rows = slice(3, 11)
    else:
        user = User(PUSCH((0, 20), modulation="16QAM"), ((0, 4),), 490)
        config = NRConfig(Carrier(20e6, 1, 3), None, (user,), None, uplink=Uplink(), payload="coded", duration=2e-3)
        rows = slice(3, 14)
    capture = NR().synthesize(config, rng_for(4))
    slots = grid_of(capture, config.carrier, 2)
    assert error_vector(slots[1, rows, :240], "16QAM") < 0.005
    assert capture.facts["payload"] == "coded"
    assert capture.facts["users"][0]["code_rate"] == pytest.approx(490 / 1024)


def test_fixing_one_choice_leaves_the_others():
    for index in range(2):
        free = NR().sample(rng_for(21, index), link="downlink", duration=0.002)
        given = NR().sample(rng_for(21, index), link="downlink", duration=0.002, pci=13)
        assert given.carrier.pci == 13
        assert (given.bandwidth, given.mu, given.tdd, given.start) == (free.bandwidth, free.mu, free.tdd, free.start)
        assert [u.prb_start for u in given.users] == [u.prb_start for u in free.users]


def test_draws_cover_both_links_and_ranges_and_few_are_rejected():
    links, ranges, rejected = [], [], 0
    for index in range(24):
        rng = rng_for(22, index)
        try:
            config = NR().sample(rng, duration=0.0005)
        except RejectedConfig:
            rejected += 1
            continue
        links.append(config.link)
        ranges.append(config.carrier.frequency_range)
    assert rejected <= 3
    # Binomial: 24 draws of a half are below 5 or above 19 with probability 0.15 %.
    assert 5 <= links.count("uplink") <= 19
    assert 5 <= ranges.count("FR2") <= 19
