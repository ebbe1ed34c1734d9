"""When frames are on the air: inter-frame spaces (802.11-2020 table 17-21), duty cycle, where captures begin."""

from itertools import pairwise

import numpy as np
import pytest

from experts.wlan import WLAN, WLANConfig
from experts.wlan.config import TIMING
from experts.wlan.phy import RATES
from experts.wlan.traffic import TOLERANCE, ack_rate, choose_start, draw_frames, idle_gaps
from lwm.seeding import rng_for


@pytest.mark.parametrize(
    ("bandwidth", "sifs_us", "slot_us", "difs_us"), [(20e6, 16, 9, 34), (10e6, 32, 13, 58), (5e6, 64, 21, 106)]
)
def test_timing_table(bandwidth, sifs_us, slot_us, difs_us):
    timing = TIMING[bandwidth]
    microsecond = bandwidth / 1e6
    assert (timing.sifs, timing.slot, timing.difs) == (
        sifs_us * microsecond,
        slot_us * microsecond,
        difs_us * microsecond,
    )


def test_control_response_rate():
    answers = {mbps: ack_rate(rate).mbps for mbps, rate in RATES.items()}
    assert answers == {6: 6, 9: 6, 12: 12, 18: 12, 24: 24, 36: 24, 48: 24, 54: 24}


@pytest.mark.parametrize("activity", [0.05, 0.3, 0.6, 0.8, 0.88])
def test_gaps_fill_the_idle_time(activity):
    """Each gap is a SIFS or at least a DIFS, and with the SIFS before each Ack they make the duty cycle exact."""
    timing = TIMING[20e6]
    rng = rng_for(1, "gaps")
    on = rng.integers(4000, 9000, 200)
    gaps = idle_gaps(rng, on, activity, timing)
    assert np.all((gaps == timing.sifs) | (gaps >= timing.difs))
    period = on.sum() + gaps.sum() + len(on) * timing.sifs
    assert on.sum() / period == pytest.approx(activity, rel=2e-3)


def test_scarce_idle_time_leaves_a_sifs():
    timing = TIMING[20e6]
    gaps = idle_gaps(rng_for(0), np.full(50, 6000), 1.0, timing)
    assert np.all(gaps == timing.sifs)


def test_long_waits_are_exponential():
    """Where air time is small the gaps are nearly all waiting: mean equals standard deviation."""
    gaps = idle_gaps(rng_for(2), np.full(20000, 1000), 0.001, TIMING[20e6])
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("duration", [10, 90, 300, 500])
@pytest.mark.parametrize("activity", [0.2, 0.4, 0.6])
def test_start_gives_the_wanted_duty_cycle(duration, activity):
    """On a timeline that is on the air for 45 %, windows are as near as their length allows to any duty cycle below."""
    edges = np.array([0, 100, 200, 250, 400, 700])
    period = 1000
    busy = np.zeros(2 * period, dtype=bool)
    for a, b in edges.reshape(-1, 2):
        busy[a:b] = busy[a + period : b + period] = True
    for seed in range(10):
        start = choose_start(rng_for(seed), edges, period, duration, activity)
        assert 0 <= start < period
        windows = np.convolve(busy, np.ones(duration) / duration, "valid")[:period]
        nearest = np.abs(windows - min(activity, 0.45)).min()
        assert abs(windows[start] - min(activity, 0.45)) <= nearest + TOLERANCE + 1 / duration


@pytest.mark.parametrize("activity", [0.1, 0.5, 0.95])
def test_frames_are_in_order_and_apart(activity):
    for bandwidth, timing in TIMING.items():
        config = WLANConfig(bandwidth=bandwidth, rates=(6.0 * bandwidth / 20e6, 54.0 * bandwidth / 20e6))
        config = WLAN().sample(rng_for(3), bandwidth=bandwidth, activity=activity, rates=config.rates)
        frames = draw_frames(rng_for(4), config, timing)
        size = round(config.duration * bandwidth)
        assert all(frame.start < size and frame.start + frame.samples > 0 for frame in frames)
        for first, second in pairwise(frames):
            gap = second.start - first.start - first.samples
            assert gap == timing.sifs or gap >= timing.difs
            if second.kind == "ack":
                assert gap == timing.sifs
                assert (first.exchange, first.downlink) == (second.exchange, not second.downlink)


def test_shortest_capture():
    """One OFDM symbol long, wherever it falls."""
    for seed in range(20):
        config = WLANConfig(duration=4e-6, activity=0.5)
        capture = WLAN().synthesize(config, rng_for(seed))
        assert capture.iq.size == 80
        assert np.isfinite(capture.iq).all()
        assert capture.facts["duty_cycle"] == pytest.approx(0.5, abs=0.03)
