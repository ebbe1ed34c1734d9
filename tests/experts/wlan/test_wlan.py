"""WLAN captures: decoded by the tests' receiver, measured against their own emissions and facts."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from experts.wlan import WLAN, WLANConfig
from lwm.errors import ConfigError, RejectedConfig
from lwm.seeding import rng_for
from lwm.technology import Technology, technology

RATES = (6.0, 9.0, 12.0, 18.0, 24.0, 36.0, 48.0, 54.0)
SNR_DB = {6: 8, 9: 9, 12: 10, 18: 13, 24: 16, 36: 20, 48: 24, 54: 26}
"""dB at which a clause 17 receiver should lose nothing: minimum sensitivity's margin of table 17-18 and some more."""


def make(seed: int = 0, **fields) -> tuple[WLANConfig, object]:
    config = replace(WLANConfig(duration=3e-3, min_octets=100, max_octets=400), **fields)
    return config, WLAN().synthesize(config, rng_for(seed, "wlan"))


def spoilt(iq: np.ndarray, sample_rate: float, snr_db: float, cfo: float, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((2, iq.size)) * 10 ** (-snr_db / 20) / np.sqrt(2)
    turn = np.exp(2j * np.pi * (cfo / sample_rate * np.arange(iq.size) + rng.uniform()))
    return iq * turn + noise[0] + 1j * noise[1]


def whole(capture) -> list:
    """Emissions that lie inside the capture with both ends."""
    last = (capture.iq.size - 1) / capture.sample_rate
    return [e for e in capture.emissions if e.start > 0 and e.stop < last]


def test_is_a_technology():
    assert isinstance(technology("wlan"), Technology)


@pytest.mark.parametrize(
    ("rate", "bandwidth"),
    # The clockings share their samples: three rates are enough for the slower ones.
    [(rate, 20e6) for rate in RATES] + [(rate, slow) for rate in (9.0, 24.0, 48.0) for slow in (10e6, 5e6)],
)
def test_every_ppdu_is_received(rate, bandwidth, receive_all):
    """In noise and with a frequency offset of 60 kHz (scaled), each PPDU's rate, length, place and FCS come back."""
    clock = bandwidth / 20e6
    config, capture = make(
        bandwidth=bandwidth, rates=(rate * clock,), max_octets=200, duration=2e-3 / clock, station_level_db=3.0
    )
    # Levels of the two stations differ by 3 dB: the weaker one keeps the SNR.
    iq = spoilt(capture.iq, bandwidth, SNR_DB[int(rate)] + 3, 60e3 * clock)
    found = [ppdu for ppdu in receive_all(iq, bandwidth) if ppdu.fcs_ok]
    expected = whole(capture)
    assert len(expected) >= 3
    assert [(p.rate * clock, p.length) for p in found] == [
        (e.attributes["rate_mbps"], e.attributes["length"]) for e in expected
    ]
    starts = np.array([e.start for e in expected]) * bandwidth
    assert np.abs(np.array([p.start for p in found]) - starts).max() <= 1
    # Five standard deviations of the L-LTF's estimate: 64 products a distance of 64 samples apart.
    snr = 10 ** ((SNR_DB[int(rate)] + 3) / 10) / 2
    allowed = 5 * bandwidth / (2 * np.pi * 64 * np.sqrt(64 * snr))
    assert max(abs(p.cfo - 60e3 * clock) for p in found) < allowed
    kinds = ["ack" if p.psdu[0] == 0xD4 else "data" for p in found]
    assert kinds == [e.attributes["frame"] for e in expected]
    assert {p.rate * clock for p in found if p.psdu[0] == 0x08} == set(config.rates)


def test_error_vector_without_noise(receive_all):
    for rate in (6.0, 54.0):
        _, capture = make(rates=(rate,))
        found = receive_all(capture.iq.astype(np.complex128))
        assert all(ppdu.fcs_ok for ppdu in found)
        assert max(ppdu.evm_db for ppdu in found) < -60


def test_ack_answers_the_data_frame_after_sifs(receive_all):
    _, capture = make(seed=4, activity=0.9)
    found = receive_all(capture.iq.astype(np.complex128))
    emissions = whole(capture)
    pairs = 0
    for (data, ack), (box, reply) in zip(pairwise(found), pairwise(emissions), strict=True):
        if data.psdu[0] == 0x08 and ack.psdu[0] == 0xD4:
            pairs += 1
            # Receiver address of the Ack is the transmitter's of the data frame; Duration covers SIFS and Ack.
            assert ack.psdu[4:10] == data.psdu[10:16]
            assert int.from_bytes(data.psdu[2:4], "little") == round(16 + 1e6 * (reply.stop - reply.start))
            assert reply.start - box.stop == pytest.approx(16e-6, abs=1e-9)
            assert {box.attributes["direction"], reply.attributes["direction"]} == {"downlink", "uplink"}
    assert pairs >= 2


def test_payloads_differ(receive_all):
    _, capture = make(seed=2, activity=0.9)
    bodies = [p.psdu[24:-4] for p in receive_all(capture.iq.astype(np.complex128)) if p.psdu[0] == 0x08]
    assert len(bodies) >= 2
    assert len(set(bodies)) == len(bodies)


def test_gaps_are_empty_and_power_is_one():
    for seed in range(6):
        _, capture = make(seed=seed, activity=0.4, station_level_db=-4.0)
        silent = np.ones(capture.iq.size, dtype=bool)
        for e in capture.emissions:
            # The window's last edge is one sample longer.
            silent[round(e.start * 20e6) : round(e.stop * 20e6) + 1] = False
        assert silent.any()
        assert not capture.iq[silent].any()
        on = capture.facts["duty_cycle"] * capture.iq.size
        assert np.sum(np.abs(capture.iq) ** 2) / on == pytest.approx(1, rel=1e-4)


def test_power_lies_in_the_box():
    for windowed in (True, False):
        _, capture = make(windowed=windowed, activity=0.9, rates=(54.0,))
        assert len(capture.emissions) > 3
        power = np.abs(np.fft.fft(capture.iq)) ** 2
        frequency = np.fft.fftfreq(capture.iq.size, 1 / 20e6)
        box = capture.emissions[0]
        inside = power[(frequency >= box.low) & (frequency <= box.high)].sum() / power.sum()
        assert inside >= 0.99
        # Nothing is wasted: without the outermost subcarrier at each side the box would miss its share.
        narrow = power[np.abs(frequency) < box.high - 312.5e3].sum() / power.sum()
        assert narrow < inside - 0.02


def test_peak_to_average_power():
    _, capture = make(rates=(54.0,), activity=0.9, duration=8e-3)
    peak = 10 * np.log10(np.max(np.abs(capture.iq) ** 2))
    assert 7 < peak < 10 * np.log10(52)


def test_station_level():
    _, capture = make(seed=3, station_level_db=-6.0, activity=0.9, duration=5e-3, min_octets=600, max_octets=900)
    levels: dict[str, list[float]] = {"downlink": [], "uplink": []}
    for e in whole(capture):
        part = capture.iq[round(e.start * 20e6) : round(e.stop * 20e6)]
        levels[e.attributes["direction"]].append(10 * np.log10(np.mean(np.abs(part) ** 2)))
    assert np.mean(levels["downlink"]) - np.mean(levels["uplink"]) == pytest.approx(6, abs=0.3)


@pytest.mark.parametrize("bandwidth", WLAN.bandwidths)
@pytest.mark.parametrize("duration", [1e-3, 16e-3])
def test_duty_cycle_meets_activity(bandwidth, duration):
    wlan = WLAN()
    for seed in range(20):
        rng = rng_for(seed, "duty")
        config = wlan.sample(rng, bandwidth=bandwidth, duration=duration)
        capture = wlan.synthesize(config, rng)
        on = sum(e.stop - e.start for e in capture.emissions) / capture.duration
        if len(capture.emissions) == capture.facts["ppdu_count"]:
            assert on == pytest.approx(capture.facts["duty_cycle"], abs=1e-9)
        assert capture.iq.size == round(duration * bandwidth)
        # A SIFS before and after each Ack is the least idle time there can be.
        reach = config.activity if config.activity < 0.9 else 0.9
        assert reach - 0.021 <= capture.facts["duty_cycle"] <= config.activity + 0.021


def test_captures_begin_and_end_anywhere():
    edges = Counter()
    for seed in range(80):
        _, capture = make(seed=seed, activity=0.5, duration=4e-3)
        edges[(bool(capture.iq[0]), bool(capture.iq[-1]))] += 1
    assert len(edges) == 4
    assert min(edges.values()) >= 5


def test_many_short_frames_share_boxes():
    _, capture = make(duration=16e-3, min_octets=28, max_octets=60, rates=(54.0,), activity=0.6)
    assert capture.facts["ppdu_count"] > 40
    assert len(capture.emissions) <= 1 + 0.5 * capture.facts["ppdu_count"]
    counted = sum(
        e.attributes.get("data", 0) + e.attributes.get("ack", 0) + ("length" in e.attributes) for e in capture.emissions
    )
    assert counted == capture.facts["ppdu_count"]


def test_single_rate_fixes_the_modulation():
    config, capture = make(rates=(18.0,), activity=0.8)
    assert capture.facts["modulation"] == "QPSK"
    assert capture.facts["rates_mbps"] == [18.0]
    assert {e.modulation for e in capture.emissions if e.attributes["frame"] == "data"} == {"QPSK"}
    assert config.rates == (18.0,)


def test_rates_mixed_in_one_capture():
    _, capture = make(rates=[6.0, 24.0, 54.0], activity=0.9, duration=10e-3)
    assert capture.facts["rates_mbps"] == [6.0, 24.0, 54.0]
    assert capture.facts["modulation"] == "BPSK"


def test_same_seed_same_samples():
    first, again, other = make(seed=1)[1], make(seed=1)[1], make(seed=2)[1]
    assert np.array_equal(first.iq, again.iq)
    assert first.emissions == again.emissions
    assert not np.array_equal(first.iq, other.iq)


def test_sample_is_balanced():
    wlan = WLAN()
    rng = rng_for(0, "sample")
    drawn = [wlan.sample(rng, bandwidth=20e6) for _ in range(800)]
    counts = Counter(config.rates[0] for config in drawn)
    assert set(counts) == set(RATES)
    # Five standard deviations of a binomial with p = 1/8.
    assert max(abs(n - 100) for n in counts.values()) < 5 * np.sqrt(800 / 8 * 7 / 8)
    assert {wlan.sample(rng).bandwidth for _ in range(40)} == set(WLAN.bandwidths)
    assert {wlan.sample(rng, modulation="64QAM", bandwidth=5e6).rates[0] for _ in range(30)} == {12.0, 13.5}
    fixed = wlan.sample(rng, bandwidth=10e6, duration=2e-3, activity=0.5, rates=(27.0,), min_octets=4000)
    assert (fixed.bandwidth, fixed.duration, fixed.activity, fixed.rates) == (10e6, 2e-3, 0.5, (27.0,))
    assert 4000 == fixed.min_octets <= fixed.max_octets


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bandwidth": 40e6}, "clause 17.1.*nearest legal: 2e\\+07"),
        ({"bandwidth": "wide"}, "bandwidth 'wide'"),
        ({"rates": (11.0,)}, "clause 17.3.2.2.*nearest legal: 12"),
        ({"bandwidth": 5e6, "rates": (24.0,)}, "table 17-4.*nearest legal: 13.5"),
        ({"rates": ()}, "rates \\(\\)"),
        ({"rates": ("fast",)}, "rate 'fast'"),
        ({"max_octets": 5000}, "17.3.4.3 LENGTH.*nearest legal: 4095"),
        ({"min_octets": 20}, "9.3.2.1.*nearest legal: 28"),
        ({"min_octets": 600, "max_octets": 500}, "nearest legal: min_octets 500"),
        ({"activity": 0.0}, "activity"),
        ({"activity": 1.5}, "activity.*nearest legal: 1"),
        ({"activity": float("nan")}, "activity nan"),
        ({"duration": -1.0}, "17.3.2.4"),
        ({"downlink_share": 2}, "downlink_share"),
        ({"station_level_db": 90}, "station_level_db.*nearest legal: 20"),
        ({"windowed": 1}, "windowed"),
    ],
)
def test_illegal_configurations_are_rejected(fields, said):
    wlan = WLAN()
    with pytest.raises(RejectedConfig, match=said):
        wlan.validate(replace(WLANConfig(), **fields))
    with pytest.raises(RejectedConfig):
        wlan.synthesize(replace(WLANConfig(), **fields), rng_for(0))


def test_sample_refuses_what_is_no_setting():
    wlan = WLAN()
    with pytest.raises(ConfigError, match=r"bandwith.*bandwidth"):
        wlan.sample(rng_for(0), bandwith=20e6)
    with pytest.raises(ConfigError, match="256QAM"):
        wlan.sample(rng_for(0), modulation="256QAM")
    with pytest.raises(RejectedConfig, match=r"clause 17\.1"):
        wlan.sample(rng_for(0), bandwidth=80e6)


def test_description_says_the_facts():
    wlan = WLAN()
    _, capture = make(rates=(54.0,), activity=0.8)
    said = " ".join(wlan.describe(capture.facts))
    for part in ("WLAN", "20 MHz", "312.5 kHz", "54 Mbit/s with 64QAM", "Ack 16 us later"):
        assert part in said
    lonely = capture.facts | {"data_count": 0, "ack_count": 1, "ppdu_count": 1, "rates_mbps": [24.0]}
    assert "Only an Ack at 24 Mbit/s" in " ".join(wlan.describe(lonely))
