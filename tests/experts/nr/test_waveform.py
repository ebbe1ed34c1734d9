"""The whole waveform: resource elements, boxes, silence, power, speed of change with the seed."""

import json
from dataclasses import fields
from typing import NamedTuple

import numpy as np
import pytest

from experts.nr import DMRS, NR, PDSCH, SSB, Carrier, Control, NRConfig, TDDPattern, User
from lwm.errors import ConfigError, RejectedConfig
from lwm.seeding import rng_for
from lwm.technology import Technology, technology

ORDERS = {"QPSK": 4, "16QAM": 16, "64QAM": 64, "256QAM": 256}
NO_SSB_SOON = SSB("A", "1000", 20, 1)
"""First block 5 ms after the start of the pair of frames."""


class Allocation(NamedTuple):
    """What distinguishes the users of these tests."""

    prb_start: int
    prb_count: int
    modulation: str
    runs: tuple[tuple[int, int], ...]

    def user(self, head: int = 1, additional: int = 1) -> User:
        """With PDSCH from symbol ``head`` on."""
        dmrs = DMRS(additional=additional)
        return User(PDSCH(self.prb_start, self.prb_count, self.modulation, (head, 14 - head), dmrs=dmrs), self.runs)


def described(bandwidth, mu, pci, ssb, tdd, users, head, additional, start, duration) -> NRConfig:
    """A downlink whose users all have the same DM-RS and begin after the same PDCCH symbols."""
    users = tuple(each.user(head, additional) for each in users)
    control = Control(head) if head else None
    return NRConfig(Carrier(bandwidth, mu, pci, tdd), ssb, users, control, start=start, duration=duration)


def lattice(modulation: str) -> np.ndarray:
    """Points of a square constellation with unit mean power: odd integers on both axes."""
    side = int(np.sqrt(ORDERS[modulation]))
    axis = 2 * np.arange(side) - (side - 1)
    points = (axis[:, None] + 1j * axis).reshape(-1)
    return points / np.sqrt(np.mean(np.abs(points) ** 2))


def test_registered_under_its_contract():
    found = technology("nr")
    assert isinstance(found, Technology)
    assert (found.name, found.title, found.link) == ("nr", "5G NR", "both")
    assert {5e6, 10e6, 20e6, 100e6} <= set(found.bandwidths)


@pytest.mark.parametrize("modulation", list(ORDERS))
@pytest.mark.parametrize("mu", [0, 1, 2])
def test_resource_elements(standard, modulation, mu):
    """Ideal demodulation: data on the constellation, reference signals where and what the standard says."""
    users = (Allocation(6, 18, modulation, ((0, 2 << mu),)),)
    config = described(20e6, mu, 77, NO_SSB_SOON, None, users, 2, 2, 0.0, 0.002)
    capture = NR().synthesize(config, rng_for(1))
    grid = standard["demodulate"](capture.iq, config.n_fft, mu, 12 * config.n_rb, 2)
    slots = grid.reshape(-1, 14, 12 * config.n_rb)
    seen: set[int] = set()
    for slot, block in enumerate(slots):
        for symbol in (2, 7, 11):
            c_init = (((14 * slot + symbol + 1) * (2 * 77 + 1) << 17) + 2 * 77) % 2**31
            expected = np.sqrt(2) * standard["reference"](c_init, 6 * 24)[36:]
            received = block[symbol, 72:288:2]
            gain = np.vdot(expected, received) / np.vdot(expected, expected)
            assert abs(received - gain * expected).max() < 0.005 * abs(gain)
            assert abs(block[symbol, 73:288:2]).max() < 1e-4
        data = np.delete(block[2:, 72:288], (0, 5, 9), axis=0).reshape(-1) / gain
        points = lattice(modulation)
        error = np.abs(data[:, None] - points).min(axis=1)
        assert np.sqrt(np.mean(error**2)) < 0.005
        seen |= set(np.abs(data[:, None] - points).argmin(axis=1).tolist())
        # PDCCH: three resource blocks a CCE over two symbols, four CCEs, DM-RS on subcarriers 1, 5, 9.
        c_init = (((14 * slot + 1 + 1) * (2 * 77 + 1) << 17) + 2 * 77) % 2**31
        control = block[1, 72:216] / gain
        np.testing.assert_allclose(control[1::4], standard["reference"](c_init, 3 * 18)[18:], atol=0.005)
        np.testing.assert_allclose(np.abs(control), 1, atol=0.005)
    assert len(seen) == ORDERS[modulation]
    outside = np.delete(slots, np.s_[72:288], axis=2)
    assert abs(outside).max() < 1e-4 * abs(slots).max()


def test_reference_signals_of_special_slots_and_of_the_second_frame(standard):
    """Slot numbers restart with the frame, and ten downlink symbols have their DM-RS in symbols 2 and 9."""
    users = (Allocation(12, 24, "16QAM", ((28, 1),)), Allocation(36, 15, "64QAM", ((27, 2),)))
    config = described(20e6, 1, 600, SSB("C"), TDDPattern("DDDSU"), users, 1, 1, 0.013, 0.002)
    capture = NR().synthesize(config, rng_for(9))
    slots = standard["demodulate"](capture.iq, 1024, 1, 612, 2).reshape(4, 14, 612)
    # The capture begins with slot 26 of the pair of frames, so slots 27 and 28 are 7 and 8 of the second frame.
    for slot, symbols, prb in ((1, (2, 11), (36, 51)), (2, (2, 9), (12, 51))):
        for symbol in symbols:
            c_init = (((14 * (slot + 6) + symbol + 1) * (2 * 600 + 1) << 17) + 2 * 600) % 2**31
            expected = standard["reference"](c_init, 6 * 51)[6 * prb[0] : 6 * prb[1]]
            received = slots[slot, symbol, 12 * prb[0] : 12 * prb[1] : 2]
            assert abs(np.vdot(expected, received)) > 0.9999 * np.linalg.norm(expected) * np.linalg.norm(received)
    assert abs(slots[2, 10:]).max() < 1e-4


def share_in_box(iq: np.ndarray, rate: float, box) -> float:
    """Share of the energy of ``iq`` inside a box, in time and frequency."""
    inside = iq[round(box.start * rate) : round(box.stop * rate)]
    spectrum = np.abs(np.fft.fft(inside)) ** 2 / inside.size
    frequency = np.fft.fftfreq(inside.size, 1 / rate)
    return spectrum[(frequency >= box.low) & (frequency <= box.high)].sum() / np.sum(np.abs(iq) ** 2)


@pytest.mark.parametrize("prb", [(0, 12), (24, 18), (39, 12)])
def test_user_energy_is_in_its_box_and_the_box_is_tight(prb):
    users = (Allocation(*prb, "64QAM", ((3, 5),)),)
    config = described(20e6, 1, 5, NO_SSB_SOON, None, users, 1, 1, 0.0006, 0.0041)
    capture = NR().synthesize(config, rng_for(2))
    (box,) = capture.emissions
    assert share_in_box(capture.iq, capture.sample_rate, box) > 0.99
    assert box.high - box.low == pytest.approx(prb[1] * 12 * 30e3)
    assert box.start == pytest.approx(0.0015 - 0.0006, abs=1e-6)
    assert box.stop == pytest.approx(0.004 - 0.0006, abs=1e-6)
    assert (box.technology, box.link, box.modulation) == ("5G NR", "downlink", "64QAM")
    # A tenth less width or length loses its share.
    width = (box.high - box.low) / 20
    narrow = type(box)("", low=box.low + width, high=box.high - width, start=box.start, stop=box.stop)
    assert share_in_box(capture.iq, capture.sample_rate, narrow) < 0.95


def test_ssb_energy_is_in_its_box():
    config = described(20e6, 0, 9, SSB("A", "1000", 20, 0, 40, 3), None, (), 1, 1, 0.0, 0.003)
    capture = NR().synthesize(config, rng_for(2))
    (box,) = capture.emissions
    assert share_in_box(capture.iq, capture.sample_rate, box) > 0.99
    assert box.attributes == {"channel": "SSB", "case": "A", "ssb_index": [0]}
    assert box.high - box.low == pytest.approx(3.6e6)


def test_occupied_bandwidth_of_a_full_carrier():
    users = (Allocation(0, 106, "QPSK", ((0, 4),)),)
    config = described(20e6, 0, 9, NO_SSB_SOON, None, users, 1, 1, 0.0, 0.004)
    capture = NR().synthesize(config, rng_for(2))
    spectrum = np.fft.fftshift(np.abs(np.fft.fft(capture.iq)) ** 2)
    frequency = np.fft.fftshift(np.fft.fftfreq(capture.iq.size, 1 / capture.sample_rate))
    cumulative = np.cumsum(spectrum) / spectrum.sum()
    low, high = (frequency[np.searchsorted(cumulative, edge)] for edge in (0.005, 0.995))
    assert high - low == pytest.approx(106 * 180e3, rel=0.015)
    assert high - low < 20e6


def on_air_mask(capture) -> np.ndarray:
    """Samples inside some box."""
    mask = np.zeros(capture.iq.size, dtype=bool)
    for box in capture.emissions:
        mask[round(box.start * capture.sample_rate) : round(box.stop * capture.sample_rate)] = True
    return mask


@pytest.mark.parametrize("pattern", [None, "DDDSU", "DDSUU"])
def test_silence_is_exact_and_power_is_one(pattern):
    for draw in range(6):
        rng = rng_for(8, draw)
        config = NR().sample(rng, link="downlink", bandwidth=10e6, mu=1, tdd=pattern, activity=0.4, duration=0.01)
        capture = NR().synthesize(config, rng)
        assert not capture.iq[~on_air_mask(capture)].any()
        power = np.sum(np.abs(capture.iq.astype(complex)) ** 2) / capture.iq.size
        assert power / capture.facts["duty_cycle"] == pytest.approx(1, abs=1e-3)


def test_uplink_and_guard_symbols_are_silent():
    users = (Allocation(0, 48, "QPSK", ((0, 4), (5, 4))),)
    config = described(20e6, 1, 9, SSB("C", "1000", 5, 0, 31), TDDPattern("DDDSU"), users, 1, 1, 0.0, 0.005)
    capture = NR().synthesize(config, rng_for(3))
    edges = np.cumsum([0] + [1024 + 72 + (16 if symbol % 14 == 0 else 0) for symbol in range(140)])
    for slot in (3, 8):
        assert not capture.iq[edges[14 * slot + 10] : edges[14 * slot + 28]].any()
        assert np.abs(capture.iq[edges[14 * slot] : edges[14 * slot + 10]]).mean() > 0.5
    assert [box.attributes["channel"] for box in capture.emissions] == ["PDSCH", "SSB", "PDSCH"]
    assert capture.facts["duty_cycle"] == pytest.approx(2 * (3 + 10 / 14) / 10, abs=1e-3)


def test_data_leaves_the_blocks_of_the_ssb_alone(standard):
    """Resource elements of SSB slots: nothing but the SSB in the resource blocks that it touches."""
    ssb = SSB("C", "1000", 20, 0, 10, 2)
    users = (Allocation(0, 51, "256QAM", ((0, 2),)),)
    config = described(20e6, 1, 0, ssb, None, users, 1, 1, 0.0, 0.001)
    capture = NR().synthesize(config, rng_for(4))
    slot = standard["demodulate"](capture.iq, 1024, 1, 612, 1)[:14]
    around = np.abs(slot[:, 120 : 120 + 252])
    assert around[[0, 1, 6, 9, 13]].max() < 1e-4
    assert around[3, 0] < 1e-4 < around[3, 1] < 2
    assert np.abs(slot[4, :120]).max() > 0.5


@pytest.mark.parametrize("bandwidth", [5e6, 10e6, 20e6])
def test_activity_is_met_and_boxes_stay_few(bandwidth):
    for draw in range(6):
        rng = rng_for(11, draw, int(bandwidth))
        activity = rng.uniform(0.3, 1.0)
        duration = 0.016 if draw % 2 else float(np.exp(rng.uniform(np.log(1e-3), np.log(16e-3))))
        link = ("downlink", "uplink")[draw // 2 % 2]
        config = NR().sample(rng, link=link, bandwidth=bandwidth, duration=duration, activity=activity, interleaver=0)
        capture = NR().synthesize(config, rng)
        assert np.isfinite(capture.iq).all()
        assert abs(capture.facts["duty_cycle"] - activity) * duration < 2e-3 / (1 << config.mu)
        shared = [box for box in capture.emissions if "ue" in box.attributes]
        assert len(shared) < (40 if link == "downlink" and len(config.users) <= 4 else 100)
        assert capture.iq.size == round(duration * config.sample_rate)
        assert capture.facts["number_of_ues"] >= 1


def test_draws_are_balanced():
    configs = [
        NR().sample(rng_for(12, i), link="downlink", bandwidth=20e6, mu=i % 2, activity=0.35, duration=0.004, csi_rs=0)
        for i in range(120)
    ]
    for values in (
        [config.tdd is None for config in configs],
        [config.users[0].modulation for config in configs],
        [config.ssb.period_ms for config in configs],
        [len(config.users) for config in configs if config.mu == 0],
    ):
        names, counts = np.unique(values, return_counts=True)
        assert len(names) >= 2
        assert counts.min() > 0.3 * len(values) / len(names)


def test_fixed_values_are_kept():
    config = NR().sample(
        rng_for(1),
        link="downlink",
        bandwidth=20e6,
        mu=1,
        pci=7,
        tdd="DDSUU",
        number_of_ues=3,
        modulation="64QAM",
        ssb_period_ms=5,
    )
    assert (config.mu, config.pci, config.tdd, config.ssb.period_ms) == (1, 7, TDDPattern("DDSUU"), 5)
    assert [user.modulation for user in config.users] == ["64QAM"] * 3
    with pytest.raises(ConfigError, match=r"no setting colour.*activity"):
        NR().sample(rng_for(1), colour="red")


def test_same_seed_same_samples():
    config = NR().sample(rng_for(3, 1), bandwidth=5e6, duration=0.004)
    assert config == NR().sample(rng_for(3, 1), bandwidth=5e6, duration=0.004)
    first, again, other = (NR().synthesize(config, rng_for(seed)).iq for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_start_moves_the_capture_through_the_frame():
    """A capture that begins later holds the same reference signals at the same frame time."""
    ssb = SSB("C", "1000", 20)
    whole = NR().synthesize(described(10e6, 1, 4, ssb, None, (), 1, 1, 0.0, 0.002), rng_for(1))
    late = NR().synthesize(described(10e6, 1, 4, ssb, None, (), 1, 1, 0.00005, 0.001), rng_for(1))
    gain = np.vdot(whole.iq[768:3768], late.iq[:3000]) / np.vdot(whole.iq[768:3768], whole.iq[768:3768])
    # Each capture has unit power of its own, so a real factor may remain.
    np.testing.assert_allclose(late.iq[:3000], gain.real * whole.iq[768:3768], atol=1e-5)
    assert gain.real == pytest.approx(1, abs=0.1)
    assert whole.emissions[0].start - late.emissions[0].start == pytest.approx(5e-5)


def test_facts_are_json_and_described():
    users = (
        Allocation(0, 12, "16QAM", ((0, 2),)),
        Allocation(12, 12, "16QAM", ((1, 1),)),
        Allocation(30, 6, "QPSK", ((90, 1),)),
    )
    config = described(20e6, 1, 5, SSB("C", "1100", 10), TDDPattern("DDDSU"), users, 1, 1, 0.0, 0.01)
    facts = json.loads(json.dumps(NR().synthesize(config, rng_for(1)).facts))
    assert facts["number_of_ues"] == 2
    assert facts["modulation"] == "16QAM"
    assert facts["payload"] == "random symbols"
    lines = NR().describe(facts)
    assert lines[0] == "The carrier is 5G NR with a 20 MHz channel and 30 kHz subcarrier spacing."
    assert "The duplex mode is TDD with slot pattern DDDSU." in lines
    assert "The SSB pattern is case C with 2 blocks every 10 ms." in lines
    assert "2 UEs are scheduled on the downlink." in lines
    assert "UE 2 holds resource blocks 12 to 23 with 16QAM." in lines


FULL = (Allocation(0, 24, "QPSK", ((0, 1),)),)


@pytest.mark.parametrize(
    ("change", "clause", "nearest"),
    [
        ({"bandwidth": 1.4e6, "mu": 0}, "38.101-1 table 5.3.2-1", "nearest is 3 MHz"),
        ({"bandwidth": 60e6, "mu": 0}, "38.101-1 table 5.3.2-1", "nearest is 50 MHz"),
        ({"mu": 3}, "38.211 clause 4.2", "nearest is 2"),
        ({"pci": 1008}, "38.211 clause 7.4.2.1", "nearest is 1007"),
        ({"ssb": SSB("D", "1" * 64)}, "38.213 clause 4.1", "'A', 'B', 'C'"),
        ({"ssb": SSB("C", "0000")}, "38.213 clause 4.1", "one of them 1"),
        ({"ssb": SSB("C", period_ms=15)}, "38.213 clause 4.1", "nearest is 10"),
        ({"ssb": SSB("C", period_ms=5, half_frame=1)}, "38.213 clause 4.1", "expected 0"),
        ({"ssb": SSB("C", k_ssb=3)}, "38.211 clause 7.4.3.1", "nearest is 2"),
        ({"ssb": SSB("C", first_rb=32)}, "38.211 clause 7.4.3.1", "nearest is 31"),
        ({"bandwidth": 5e6, "users": ()}, "38.211 clause 7.4.3.1", "use case A"),
        ({"ssb": SSB("C", "00000001"), "tdd": TDDPattern("DDDSU")}, "38.213 clause 11.1", "another pattern"),
        ({"ssb": SSB("C", "10000001"), "tdd": TDDPattern("DDDSU")}, "38.213 clause 11.1", "is 10000000"),
        ({"tdd": TDDPattern("DDX")}, "38.213 clause 11.1", "DDDSU"),
        ({"tdd": TDDPattern("DDU")}, "38.213 clause 11.1", "nearest is 1 ms"),
        ({"tdd": TDDPattern("DDDSU", (10, 2, 3))}, "38.213 clause 11.1", "sum to 14"),
        ({"control": Control(3)}, "38.211 clause 7.3.2.2", "0, 1 or 2"),
        ({"users": (FULL[0].user(additional=4),)}, "7.4.1.1.2-3", "0 to 3"),
        ({"users": (Allocation(40, 20, "QPSK", ((0, 1),)),)}, "38.214 clause 5.1.2.2.2", "nearest is 40 to 50"),
        ({"users": (Allocation(0, 12, "BPSK", ((0, 1),)),)}, "38.214 clause 5.1.3.1", "256QAM"),
        ({"users": (Allocation(1, 7, "QPSK", ((0, 1),)),)}, "38.213 clause 10.1", "control None"),
        ({"users": (Allocation(0, 12, "QPSK", ()),)}, "slot runs", "first slot"),
        ({"users": FULL + FULL}, "38.214 clause 5.1.2.2", "separate"),
        (
            {"tdd": TDDPattern("DDDSU"), "users": (Allocation(0, 24, "QPSK", ((4, 1),)),)},
            "38.214 table",
            "nearest is slot 3",
        ),
        ({"start": 10.24}, "start", "10.24 s"),
        ({"duration": 0.0}, "duration", "one sample"),
        ({"start": 0.004, "duration": 0.001}, "nothing on the air", "move the start"),
    ],
)
def test_impossible_configurations_are_rejected(change, clause, nearest):
    values = {"bandwidth": 20e6, "mu": 1, "users": FULL} | change
    own = {field.name for field in fields(Carrier)}
    carrier = Carrier(**{name: value for name, value in values.items() if name in own})
    values["users"] = tuple(each if isinstance(each, User) else each.user() for each in values["users"])
    config = NRConfig(carrier, **{name: value for name, value in values.items() if name not in own})
    with pytest.raises(RejectedConfig) as caught:
        NR().validate(config)
    assert clause in str(caught.value)
    assert nearest in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sample_rejects_what_cannot_be():
    for fixed in ({"bandwidth": 7e6}, {"activity": 1.5}, {"bandwidth": 5e6, "number_of_ues": 9}, {"ssb_case": "E"}):
        with pytest.raises(RejectedConfig):
            NR().sample(rng_for(1), **fixed)
