"""Gains of the taps against the closed forms of TR 38.901 clause 7.7.2: fixed seeds, stated errors."""

import numpy as np
import pytest
from scipy.special import j0

from lwm.channel import PROFILES, TDLDraw, apply_channel, tap_gains

NOW = np.zeros(1)


def draws(profile, count, spread=100e-9):
    return [TDLDraw(profile, spread, seed=11, index=index) for index in range(count)]


def test_speeds_share_the_taps_of_the_first_instant():
    draw = TDLDraw("TDL-D", 100e-9, seed=3)
    np.testing.assert_allclose(tap_gains(draw, 0.0, NOW), tap_gains(draw, 300.0, NOW), atol=1e-6)


@pytest.mark.parametrize("profile", ["TDL-A", "TDL-D"])
def test_tap_powers_are_those_of_the_table(profile):
    table = PROFILES[profile]
    gains = np.stack([tap_gains(d, 0.0, NOW)[:, 0] for d in draws(profile, 2500)])
    wanted = table.powers.copy()
    wanted[0] += table.los_power
    # Standard error of an exponential power over 2500 draws: 2 %.
    np.testing.assert_allclose(np.mean(np.abs(gains) ** 2, axis=0), wanted, rtol=0.08)


@pytest.mark.parametrize(("profile", "factor_db"), [("TDL-D", 13.3), ("TDL-E", 22.0)])
def test_k_factor_of_the_first_tap(profile, factor_db):
    # Moments (Greenstein 1999): with power P and v the variance of the power, K = sqrt(P^2 - v) / (P - sqrt(P^2 - v)).
    power = np.abs([tap_gains(d, 0.0, NOW)[0, 0] for d in draws(profile, 6000)]) ** 2
    steady = np.sqrt(power.mean() ** 2 - power.var())
    # The variance over 6000 draws is known to 2 %, 0.08 dB.
    assert 10 * np.log10(steady / (power.mean() - steady)) == pytest.approx(factor_db, abs=0.3)


def test_autocorrelation_is_the_bessel_function():
    doppler = 200.0
    lags = np.linspace(0, 2 / doppler, 9)
    gains = np.stack([tap_gains(d, doppler, lags) for d in draws("TDL-A", 500)])
    found = np.mean(gains * gains[..., :1].conj(), axis=0).sum(axis=0)
    # 500 draws of 23 unequal taps, some nine of weight: standard error about 0.015.
    np.testing.assert_allclose(found, j0(2 * np.pi * doppler * lags), atol=0.06)


def test_autocorrelation_behind_the_channel_is_the_bessel_function():
    rate, doppler, samples = 100e3, 500.0, 4000
    iq = np.ones(samples, dtype=np.complex64)
    found = apply_channel(iq, rate, draws("TDL-B", 150, spread=0.0), doppler)[:, 100:-100]
    lags = np.arange(0, 800, 50)
    measured = [np.mean(found[:, lag:] * found[:, : found.shape[1] - lag].conj()) for lag in lags]
    # 150 draws, each over 19 periods of its Doppler: the power alone has a standard error of about 0.02.
    np.testing.assert_allclose(measured, j0(2 * np.pi * doppler * lags / rate), atol=0.06)


def test_doppler_spectrum_is_that_of_jakes():
    doppler, rate, samples = 100.0, 500.0, 4096
    times = np.arange(samples) / rate
    spectrum = np.zeros(samples)
    for draw in draws("TDL-B", 40):
        gains = tap_gains(draw, doppler, times) / np.sqrt(PROFILES["TDL-B"].powers)[:, None]
        spectrum += (np.abs(np.fft.fft(gains * np.hanning(samples))) ** 2).sum(axis=0)
    frequency = np.fft.fftshift(np.fft.fftfreq(samples, 1 / rate))
    share = np.cumsum(np.fft.fftshift(spectrum)) / spectrum.sum()
    # Jakes' density 1 / (pi f_D sqrt(1 - (f / f_D)^2)) sums up to 1/2 + arcsin(f / f_D) / pi. A sum of 32 lines a tap
    # in 920 taps, one line a sector: the share below a frequency is known to 0.002, the window smears 0.2 Hz (the
    # steepest Hz, at the edge, holds 4.5 % of the power).
    wanted = 0.5 + np.arcsin(np.clip(frequency / doppler, -1, 1)) / np.pi
    np.testing.assert_allclose(share, wanted, atol=0.02)
    assert np.abs(share - wanted)[np.abs(frequency) < 90].max() < 0.008


def test_line_of_sight_turns_at_seven_tenths_of_the_doppler():
    times = np.arange(4096) / 2000.0
    gains = tap_gains(TDLDraw("TDL-E", 1e-7, seed=0), 100.0, times)[0]
    spectrum = np.abs(np.fft.fft(gains * np.hanning(4096)))
    assert np.fft.fftfreq(4096, 1 / 2000.0)[spectrum.argmax()] == pytest.approx(70.0, abs=0.5)


def test_taps_are_independent_of_each_other_and_of_the_next_draw():
    gains = np.stack([tap_gains(d, 0.0, NOW)[:, 0] for d in draws("TDL-B", 3000)])
    gains /= np.sqrt(np.mean(np.abs(gains) ** 2, axis=0))
    # Standard error of a correlation over 3000 draws: 0.018; the largest of 529 stays below 4.5 of them.
    np.testing.assert_allclose(gains.conj().T @ gains / 3000, np.eye(23), atol=0.085)
    np.testing.assert_allclose(gains[1:].conj().T @ gains[:-1] / 2999, 0, atol=0.085)


def test_taps_stay_independent_as_they_turn():
    times = np.arange(200) / 100.0
    gains = np.stack([tap_gains(d, 50.0, times)[:6] for d in draws("TDL-A", 60)])
    gains /= np.sqrt(np.mean(np.abs(gains) ** 2, axis=(0, 2)))[:, None]
    correlation = np.einsum("dat,dbt->ab", gains.conj(), gains) / (60 * 200)
    # 60 draws of 100 periods, sums of 32 lines that hardly ever meet: standard error below 0.02.
    np.testing.assert_allclose(correlation, np.eye(6), atol=0.07)


def test_rayleigh_taps_are_gaussian():
    gain = np.array([tap_gains(d, 0.0, NOW)[1, 0] for d in draws("TDL-A", 4000)])
    power = np.abs(gain) ** 2 / np.mean(np.abs(gain) ** 2)
    # Sum of 32 unit phasors: E|h|^4 = 2 - 1/32.
    assert np.mean(power**2) == pytest.approx(2 - 1 / 32, abs=0.12)
    assert np.mean(power < 0.1) == pytest.approx(1 - np.exp(-0.1), abs=0.012)
