"""The DC notch against its closed form, and against itself run over the whole recording at once."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import butter, lfilter

from lwm.errors import ConfigError
from lwm.signal.notch import without_dc
from lwm.signal.recording import Recording

RATE = 1e6


def recording(iq):
    return Recording(Path("x"), len(iq), RATE, None, lambda first, count: iq[first : first + count])


@pytest.mark.parametrize("frequency", [500.0, -2e3, 20e3, -3e5])
@pytest.mark.parametrize("corner", [2e3, 50e3])
def test_power_response_of_a_tone(frequency, corner):
    tone = np.exp(2j * np.pi * frequency / RATE * np.arange(60_000)).astype(np.complex64)
    found = without_dc(recording(tone), corner).load(30_000, 20_000)
    ratio = math.tan(math.pi * corner / RATE) / math.tan(math.pi * frequency / RATE)
    assert np.mean(np.abs(found) ** 2) == pytest.approx(1 / (1 + ratio**2), rel=1e-3)


def test_dc_is_gone_from_the_first_sample_on():
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal((40_000, 2)) @ [1, 1j]).astype(np.complex64) / 100
    found = without_dc(recording(noise + np.complex64(0.5 - 0.25j)), 1e3).load(0, 40_000)
    assert abs(found.mean()) < 1e-4
    assert np.std(found) == pytest.approx(np.std(noise), rel=0.01)


def test_parts_are_those_of_the_whole():
    rng = np.random.default_rng(1)
    iq = (rng.standard_normal((50_000, 2)) @ [1, 1j] + 3).astype(np.complex64)
    cleaned = without_dc(recording(iq), 1e3)
    whole = cleaned.load(0, 50_000)
    b, a = butter(1, 1e3, "highpass", fs=RATE)
    direct, _ = lfilter(b, a, iq[20_000:], zi=np.array([-iq.mean() * b[0]]))
    np.testing.assert_allclose(whole[25_000:], direct[5_000:], atol=1e-3)
    for first, count in ((0, 10), (7, 100), (1_000, 5_000), (33_333, 4_000), (49_990, 10)):
        np.testing.assert_allclose(cleaned.load(first, count), whole[first : first + count], atol=1e-3)


@pytest.mark.parametrize("corner", [0.0, -5.0, 1.0, 3e5, float("nan")])
def test_corner_out_of_range(corner):
    with pytest.raises(ConfigError, match="DC notch .* 10 to 250000 Hz for x"):
        without_dc(recording(np.ones(10, np.complex64)), corner)
