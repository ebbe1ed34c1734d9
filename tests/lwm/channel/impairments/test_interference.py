"""Interferer and bursts: power, band and time; statistical tests state their error."""

import tracemalloc

import numpy as np
import pytest
from scipy.signal import welch

from lwm.channel.impairments import AdjacentChannelInterferer, BurstNoise, impair
from lwm.channel.impairments.arrays import gaussian
from lwm.seeding import rng_for

RATE = 7.68e6


def added(impairment, samples=1 << 17, amplitude=2.0, seed=0):
    """What an impairment adds to a constant, in units of the constant, and the facts."""
    iq = np.full((1, samples), amplitude, dtype=np.complex64)
    out, facts = impair(iq, RATE, [[impairment]], [rng_for(seed)])
    return (out[0] - iq[0]) / amplitude, facts[0][0]["measured"]


@pytest.mark.parametrize(("offset", "bandwidth"), [(2e6, 1.5e6), (-1e6, 0.5e6), (0.0, 3e6)])
def test_interferer_has_its_power_in_its_band(offset, bandwidth):
    noise, facts = added(AdjacentChannelInterferer(-7.0, offset, bandwidth))
    total = np.mean(np.abs(noise) ** 2)
    # 120 symbols of 67 subcarriers or more with QPSK, whose power does not vary: only the symbols' cut edges do.
    assert 10 * np.log10(total) == pytest.approx(-7.0, abs=0.1)
    assert facts["level_in_band_db"] == pytest.approx(10 * np.log10(total), abs=1e-3)
    assert facts["high_hz"] - facts["low_hz"] == pytest.approx(bandwidth, abs=RATE / 1024)
    assert (facts["high_hz"] + facts["low_hz"]) / 2 == pytest.approx(offset, abs=RATE / 1024)
    frequency, spectrum = welch(noise, RATE, "blackman", 4096, return_onesided=False)
    inside = (frequency > facts["low_hz"] + 2e4) & (frequency < facts["high_hz"] - 2e4)
    # Leakage of OFDM with raised-cosine edges, 13 and 66 subcarriers beside the band.
    for distance, level in ((1e5, -28), (5e5, -43)):
        outside = (frequency < facts["low_hz"] - distance) | (frequency > facts["high_hz"] + distance)
        assert 10 * np.log10(spectrum[outside].max() / spectrum[inside].mean()) < level


def test_interferer_is_cut_by_the_edge_of_the_band():
    whole, _ = added(AdjacentChannelInterferer(0.0, 0.0, 2e6))
    half, facts = added(AdjacentChannelInterferer(0.0, RATE / 2, 2e6))
    ratio = np.mean(np.abs(half) ** 2) / np.mean(np.abs(whole) ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(-3.01, abs=0.1)
    assert facts["high_hz"] <= RATE / 2
    outside, facts = added(AdjacentChannelInterferer(0.0, RATE, 2e6))
    assert not outside.any()
    assert facts["level_in_band_db"] is None


def test_interferer_looks_like_noise_and_differs_from_draw_to_draw():
    first, second = (added(AdjacentChannelInterferer(0.0, 1e6, 1e6), seed=seed)[0] for seed in (1, 2))
    # Kurtosis of the envelope 2 for a complex Gaussian, 2 - 1/133 for that many QPSK subcarriers; 0.1 is allowed.
    assert np.mean(np.abs(first) ** 4) / np.mean(np.abs(first) ** 2) ** 2 == pytest.approx(2, abs=0.1)
    assert abs(np.vdot(first, second)) < 0.05 * np.linalg.norm(first) * np.linalg.norm(second)


def test_bursts_fill_their_share_of_the_time_at_their_level():
    impairment = BurstNoise(3000.0, 40e-6, 5.0)
    draws = [added(impairment, seed=seed) for seed in range(20)]
    noisy = np.concatenate([noise for noise, _ in draws])
    active = noisy != 0
    # 20 captures of 17 ms hold about 1020 bursts: 3.1 % standard deviation of the share.
    assert active.mean() == pytest.approx(1 - np.exp(-3000 * 40e-6), rel=0.1)
    assert np.mean([facts["active_share"] for _, facts in draws]) == pytest.approx(active.mean(), rel=1e-6)
    # Some 300,000 noisy samples: 0.2 % standard deviation of the power.
    assert 10 * np.log10(np.mean(np.abs(noisy[active]) ** 2)) == pytest.approx(5.0, abs=0.05)
    lengths = np.diff(np.flatnonzero(np.diff(np.pad(active.astype(int), 1))))[::2]
    assert np.median(lengths) == pytest.approx(40e-6 * RATE, abs=1)


def test_bursts_that_overlap_everywhere_cost_what_the_capture_costs():
    # 1e8 bursts would have begun before these captures and reach into them.
    tracemalloc.start()
    noise, facts = added(BurstNoise(1e6, 1e2, 0.0), samples=100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert facts["bursts"] == 1
    assert facts["active_share"] == 1.0
    # 100,000 noisy samples: 0.3 % standard deviation of the power.
    assert 10 * np.log10(np.mean(np.abs(noise) ** 2)) == pytest.approx(0.0, abs=0.06)
    assert peak < 100 * 100_000
    whole, facts = impair(np.ones((1, 1000), np.complex64), 1.0, [[BurstNoise(1e6, 1e3, 0.0)]], [rng_for(1)])
    assert facts[0][0]["measured"]["active_share"] == 1.0
    assert np.all(whole != 1)


@pytest.mark.parametrize(("rate", "duration", "samples"), [(2e4, 100e-6, 500), (4e6 / 7.68, 1 / 7.68e6, 400)])
def test_every_sample_is_as_likely_to_be_noisy_from_the_first_to_the_last(rate, duration, samples):
    # A Poisson process that has always run: a sample is noisy with 1 - exp(-rate duration) wherever it stands.
    impairment, length = BurstNoise(rate, duration, 0.0), round(duration * RATE)
    active = np.array([added(impairment, samples, seed=seed)[0] != 0 for seed in range(1500)])
    wanted = 1 - np.exp(-rate * length / RATE)
    error = np.sqrt(wanted * (1 - wanted) / 1500)
    for place in (0, 1, samples // 2, samples - 1):
        assert active[:, place].mean() == pytest.approx(wanted, abs=4 * error)
    # Whether the first sample is noisy because of an old burst or of a new one, its noise goes on as long.
    both = 1 - 2 * np.exp(-rate * length / RATE) + np.exp(-rate * (length + 1) / RATE)
    assert (active[:, 0] & active[:, 1]).mean() == pytest.approx(both, abs=4 * error)


def test_no_bursts_at_no_rate():
    noise, facts = added(BurstNoise(0.0, 1e-5, 20.0))
    assert not noise.any()
    assert facts["bursts"] == 0
    assert facts["level_measured_db"] is None


def test_noise_of_bursts_is_circular_white_and_gaussian():
    noise = gaussian(rng_for(9), 400_000).astype(np.complex128)
    # Standard deviations: 0.16 % of the power, 0.16 % of a correlation, 0.7 % of the fourth moment.
    assert np.mean(np.abs(noise) ** 2) == pytest.approx(1, abs=0.008)
    assert abs(np.mean(noise**2)) < 0.008
    assert abs(np.mean(noise[1:] * noise[:-1].conj())) < 0.008
    assert np.mean(np.abs(noise) ** 4) == pytest.approx(2, abs=0.05)
    # One-sided tail of the amplitude beyond 3: exp(-9), 49 of 400,000, standard deviation 7.
    assert abs(np.count_nonzero(np.abs(noise) > 3) - 400_000 * np.exp(-9)) < 28
