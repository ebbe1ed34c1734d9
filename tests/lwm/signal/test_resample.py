"""Resampling and frequency shift against closed forms."""

import numpy as np
import pytest
from scipy.signal import resample_poly

from lwm.errors import CaptureError
from lwm.signal.capture import Capture, Emission
from lwm.signal.resample import resample, shift, tune


def tone(frequency, rate, samples):
    return np.exp(2j * np.pi * frequency / rate * np.arange(samples)).astype(np.complex64)


@pytest.mark.parametrize(("old", "new"), [(1.92e6, 7.68e6), (20e6, 1.92e6), (15.36e6, 20e6)])
def test_a_tone_is_the_same_tone_at_another_rate(old, new):
    frequency = 3e5
    found = resample(tone(frequency, old, 40_000), old, new)
    wanted = tone(frequency, new, round(40_000 * new / old))
    assert found.dtype == np.complex64
    assert len(found) == pytest.approx(len(wanted), abs=1)
    inner = slice(200, len(wanted) - 200)
    # The passband ripple of scipy's default Kaiser filter is a fraction of a per cent.
    np.testing.assert_allclose(found[inner], wanted[inner], atol=0.01)


def test_same_rate_changes_nothing():
    iq = tone(1e3, 1e6, 100)
    assert resample(iq, 1e6, 1e6) is iq


@pytest.mark.parametrize("rate", [3e9, 1e-3, 1e6 / 1999.5])
def test_impossible_ratio_is_refused(rate):
    with pytest.raises(CaptureError, match="ratio of integers up to 2000"):
        resample(tone(1e3, 1e6, 100), 1e6, rate)


def test_shift_moves_a_tone_and_keeps_its_phase_over_ten_million_samples():
    rate, samples = 10e6, 10_000_000
    moved = shift(np.ones(samples, np.complex64), 123_456.0, rate)
    late = np.arange(samples - 1000, samples)
    wanted = np.exp(2j * np.pi * ((123_456.0 / rate * late) % 1.0))
    np.testing.assert_allclose(moved[-1000:], wanted, atol=1e-5)


def test_shift_by_nothing_changes_nothing():
    iq = tone(1e3, 1e6, 100)
    assert shift(iq, 0.0, 1e6) is iq


@pytest.mark.parametrize("rate", [4e6, 20e6])
def test_tune_moves_signal_emission_and_centre_alike(rate):
    box = Emission("x", start=0.0, stop=1e-3, low=1e5, high=3e5)
    capture = Capture(tone(2e5, 10e6, 10_000), 10e6, 1e9, [box], {"a": 1})
    tuned = tune(capture, 5e5, rate)
    spectrum = np.abs(np.fft.fft(tuned.iq * np.hanning(tuned.iq.size)))
    peak = np.fft.fftfreq(tuned.iq.size, 1 / rate)[spectrum.argmax()]
    assert peak == pytest.approx(7e5, abs=1.1e3)
    (moved,) = tuned.emissions
    assert (moved.low, moved.high, moved.stop) == (6e5, 8e5, pytest.approx(1e-3))
    assert tuned.center_frequency == 1e9 - 5e5
    assert tuned.sample_rate == rate


def test_tune_filters_away_what_lies_outside_and_its_emission():
    box = Emission("x", start=0.0, stop=1e-3, low=3.9e6, high=4.1e6)
    tuned = tune(Capture(tone(4e6, 10e6, 10_000), 10e6, emissions=[box]), 0.0, 2e6)
    assert tuned.emissions == []
    assert np.mean(np.abs(tuned.iq[50:-50]) ** 2) < 1e-5


@pytest.mark.parametrize("samples", [7, 1000, 30_001])
@pytest.mark.parametrize("ratio", [(1, 4), (48, 125), (4, 1), (125, 96), (1, 16), (317, 320), (400, 401)])
def test_resampling_is_scipys(ratio, samples):
    rng = np.random.default_rng(samples)
    iq = (rng.standard_normal(samples) + 1j * rng.standard_normal(samples)).astype(np.complex64)
    found = resample(iq, float(ratio[1]), float(ratio[0]))
    wanted = resample_poly(iq.astype(np.complex128), *ratio)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=5e-6)


@pytest.mark.parametrize(("rate", "ratio"), [(2.5e6, (1, 4)), (3.84e6, (48, 125)), (7.68e6, (96, 125))])
def test_tuning_down_is_a_shift_and_then_a_filter(rate, ratio):
    rng = np.random.default_rng(0)
    iq = (rng.standard_normal(50_001) + 1j * rng.standard_normal(50_001)).astype(np.complex64)
    found = tune(Capture(iq, 10e6), 1_234_567.8, rate).iq
    turned = iq * np.exp(2j * np.pi * ((np.arange(iq.size) * (1_234_567.8 / 10e6)) % 1.0))
    np.testing.assert_allclose(found, resample_poly(turned, *ratio), atol=5e-6)
