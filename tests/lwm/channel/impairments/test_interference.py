"""Interferer and bursts: power, band and time; statistical tests state their error."""

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
