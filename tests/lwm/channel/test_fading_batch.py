"""Many channels in one call: shapes, the same values as single calls, numpy as torch, memory; timing offsets."""

import tracemalloc

import numpy as np
import pytest
import torch

from lwm.channel import TDLDraw, apply_channel, delay
from lwm.channel.blocks import ROWS
from lwm.errors import CaptureError

RATE = 7.68e6
DOPPLERS = [0.0, 3.0, 700.0, 289.0, 289.0]
DRAWS = [
    TDLDraw("TDL-A", 30e-9, seed=1),
    TDLDraw("TDL-C", 300e-9, seed=1, index=1),
    TDLDraw("TDL-D", 100e-9, seed=1, index=2),
    TDLDraw("TDL-E", 1e-6, seed=1, index=3),
    TDLDraw("TDL-E", 1e-6, seed=1, index=4),
]
FLOAT32 = 2e-6
"""numpy against torch, norm of the difference over the norm: some tens of float32 roundings of 6e-8."""


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal((*shape, 2), dtype=np.float32).view(np.complex64)[..., 0]


def test_one_waveform_through_many_channels_is_as_many_single_calls_exactly():
    iq = noise(50_000)
    found = apply_channel(iq, RATE, DRAWS, DOPPLERS)
    singles = [apply_channel(iq, RATE, *pair) for pair in zip(DRAWS, DOPPLERS, strict=True)]
    np.testing.assert_array_equal(found, np.stack(singles))


def test_rows_go_each_through_their_channel_exactly():
    iq = noise(5, 9000)
    found = apply_channel(iq, RATE, DRAWS, DOPPLERS)
    singles = [apply_channel(*args) for args in zip(iq, [RATE] * 5, DRAWS, DOPPLERS, strict=True)]
    np.testing.assert_array_equal(found, np.stack(singles))


def test_rows_go_all_through_one_channel_exactly():
    iq = noise(40, 3000)
    found = apply_channel(iq, RATE, DRAWS[1], 289.0)
    np.testing.assert_array_equal(found, np.stack([apply_channel(row, RATE, DRAWS[1], 289.0) for row in iq]))


@pytest.mark.parametrize("cls", [np.asarray, torch.from_numpy])
def test_shapes(cls):
    one, two = cls(noise(500)), cls(noise(2, 500))
    assert apply_channel(one, RATE, DRAWS[0], 3.0).shape == (500,)
    assert apply_channel(one, RATE, DRAWS[:1], 3.0).shape == (1, 500)
    assert apply_channel(one, RATE, DRAWS[0], [0.0, 3.0, 9.0]).shape == (3, 500)
    assert apply_channel(one, RATE, DRAWS[:3], 3.0).shape == (3, 500)
    assert apply_channel(two, RATE, DRAWS[0], 3.0).shape == (2, 500)
    assert apply_channel(two, RATE, DRAWS[:2], [0.0, 3.0]).shape == (2, 500)


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(CaptureError, match="2 signals, 3 draws, 1 Dopplers; expected the same number of each, or 1"):
        apply_channel(noise(2, 500), RATE, DRAWS[:3], 3.0)
    with pytest.raises(CaptureError, match="1 signals, 0 draws"):
        apply_channel(noise(500), RATE, [], 3.0)
    with pytest.raises(CaptureError, match=r"IQ of shape \(2, 3, 500\)"):
        apply_channel(noise(2, 3, 500), RATE, DRAWS[0], 3.0)


@pytest.mark.parametrize("shape", [(50_000,), (5, 9000)])
def test_torch_is_numpy(shape):
    iq = noise(*shape)
    wanted = apply_channel(iq, RATE, DRAWS, DOPPLERS, start=0.3)
    found = apply_channel(torch.from_numpy(iq), RATE, DRAWS, DOPPLERS, start=0.3)
    assert found.dtype == torch.complex64
    assert found.device.type == "cpu"
    for mine, theirs in zip(found.numpy(), wanted, strict=True):
        assert np.linalg.norm(mine - theirs) < FLOAT32 * np.linalg.norm(theirs)


def test_more_rows_than_are_run_at_once():
    draws = [TDLDraw("TDL-B", 100e-9, seed=5, index=index) for index in range(2 * ROWS + 3)]
    iq = noise(3000)
    found = apply_channel(torch.from_numpy(iq), RATE, draws, 289.0).numpy()
    wanted = np.stack([apply_channel(iq, RATE, draw, 289.0) for draw in draws])
    assert (np.linalg.norm(found - wanted, axis=1) < FLOAT32 * np.linalg.norm(wanted, axis=1)).all()


def peak_bytes(call):
    """Most memory held during a call, without what it returns."""
    call()
    tracemalloc.start()
    try:
        returned = call()
        return tracemalloc.get_traced_memory()[1] - returned.nbytes
    finally:
        tracemalloc.stop()


def test_memory_is_that_of_a_chunk():
    draws = [TDLDraw("TDL-C", 300e-9, seed=2, index=index) for index in range(40)]
    short, long = noise(100_000), noise(400_000)
    small = peak_bytes(lambda: apply_channel(short, RATE, draws[:3], 289.0))
    longer = peak_bytes(lambda: apply_channel(long, RATE, draws[:3], 289.0))
    wider = peak_bytes(lambda: apply_channel(short, RATE, draws, 289.0))
    assert small < 16e6
    assert longer < 1.1 * small + 1e5
    # Forty draws' kernels and rays (some 50 kB each), not forty signals (0.8 MB each).
    assert wider < small + 40 * 100e3


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("samples", [0.0, 0.5, 3.37, 11.0, -0.25, -40.6, 1000.123])
def test_delay_is_that_of_a_phase_ramp(library, samples):
    frequencies = np.fft.fftfreq(4096)
    inside = np.fft.ifft(np.fft.fft(noise(4096, seed=4)) * (np.abs(frequencies) < 0.45))
    # Smoothly gone at both ends, so that nothing of the cyclic shift comes in at the other.
    iq = (inside * np.exp(-(((np.arange(4096) - 2048) / 200) ** 2) / 2)).astype(np.complex64)
    found = np.asarray(delay(library(iq), samples / RATE, RATE))
    wanted = np.fft.ifft(np.fft.fft(iq) * np.exp(-2j * np.pi * frequencies * samples))
    assert found.dtype == np.complex64
    assert np.linalg.norm(found - wanted) < 1e-3 * np.linalg.norm(wanted)


def test_delays_by_row():
    iq = noise(3, 2000)
    seconds = np.array([0.0, 2.5, -7.75]) / RATE
    for found in (delay(iq, seconds, RATE), delay(torch.from_numpy(iq), seconds, RATE).numpy()):
        singles = np.stack([delay(row, each, RATE) for row, each in zip(iq, seconds, strict=True)])
        np.testing.assert_allclose(found, singles, atol=1e-5)
    assert delay(iq[0], seconds, RATE).shape == (3, 2000)


@pytest.mark.parametrize("seconds", [1e-3, -1e-3, float("nan")])
def test_delay_as_long_as_the_capture_is_refused(seconds):
    with pytest.raises(CaptureError, match=r"timing offset of .* s; expected less than 0.001 s"):
        delay(noise(1000), seconds, 1e6)
