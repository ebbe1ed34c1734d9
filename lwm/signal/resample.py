"""Rational resampling and frequency shift of complex baseband."""

import math
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.signal import firwin, resample_poly

from lwm.errors import CaptureError
from lwm.signal.capture import Capture

LARGEST_FACTOR = 2000
"""Largest numerator or denominator of a resampling ratio; beyond it the nearest such ratio is taken."""

_LARGEST_PRODUCT = 320
"""Largest factor for which a product with matrices beats a polyphase filter."""

_BLOCK = 16
"""Fewest rows and columns of those matrices, below which the product is slow."""

_PHASORS = 512

Complex = npt.NDArray[np.complex64]


def resample(iq: Complex, from_rate: float, to_rate: float) -> Complex:
    """Polyphase resampling with scipy's default Kaiser filter along the last axis.

    Raises:
        CaptureError: the ratio cannot be met by integers up to :data:`LARGEST_FACTOR` within a part in 10^5.
    """
    ratio = _ratio(from_rate, to_rate)
    return iq if ratio == 1 else _resampled(iq, ratio, 0.0)


def tune(capture: Capture, offset: float, sample_rate: float) -> Capture:
    """What a receiver at another frequency and rate would have recorded, emissions moved and cut with it.

    Args:
        capture: centred where it was made.
        offset: Hz by which the signal appears above the new centre; the receiver is tuned ``offset`` below.
        sample_rate: Hz of the new capture; what lies outside its band is filtered away.
    """
    ratio = _ratio(capture.sample_rate, sample_rate)
    # An upsampled signal is shifted at the new rate and a downsampled one at the old: neither ever wraps around
    # while both rates hold it.
    if ratio < 1:
        iq = _resampled(capture.iq, ratio, offset / capture.sample_rate)
    else:
        iq = shift(resample(capture.iq, capture.sample_rate, sample_rate), offset, sample_rate)
    duration = iq.size / sample_rate
    moved = (e.shifted(hertz=offset).clipped(duration, sample_rate / 2) for e in capture.emissions)
    center = None if capture.center_frequency is None else capture.center_frequency - offset
    return Capture(iq, sample_rate, center, [e for e in moved if e], dict(capture.facts))


def shift(iq: Complex, offset: float, sample_rate: float) -> Complex:
    """Multiply by ``exp(2j pi offset t)``; phase kept in float64, so that long captures do not drift."""
    if offset == 0:
        return iq
    cycles, samples = offset / sample_rate, iq.shape[-1]
    # A phasor at every sample is a product of one at every _PHASORS-th and one of the few between.
    coarse = _phasors(cycles, _PHASORS * np.arange(-(-samples // _PHASORS)))
    turn = np.multiply.outer(coarse, _phasors(cycles, np.arange(_PHASORS))).reshape(-1)[:samples]
    return np.multiply(iq, turn, out=turn) if iq.ndim == 1 else iq * turn


def _phasors(cycles: float, samples: npt.NDArray[np.int64]) -> Complex:
    """``exp(2j pi cycles n)`` at samples ``n``, ``cycles`` a sample, computed in float64."""
    return np.exp(2j * np.pi * ((samples * cycles) % 1.0)).astype(np.complex64)


def _ratio(from_rate: float, to_rate: float) -> Fraction:
    """New rate over old, as integers.

    Raises:
        CaptureError: see :func:`resample`.
    """
    exact = to_rate / from_rate
    ratio = Fraction(exact).limit_denominator(LARGEST_FACTOR)
    if ratio == 0 or ratio.numerator > LARGEST_FACTOR or abs(float(ratio) / exact - 1) > 1e-5:
        raise CaptureError(
            f"resampling from {from_rate:g} to {to_rate:g} Hz", f"a ratio of integers up to {LARGEST_FACTOR}"
        )
    return ratio


def _resampled(iq: Complex, ratio: Fraction, cycles: float) -> Complex:
    """IQ ``[..., S]`` shifted by ``cycles`` a sample of the old rate, then resampled."""
    if iq.ndim == 1 and max(ratio.numerator, ratio.denominator) <= _LARGEST_PRODUCT:
        return _by_products(iq.astype(np.complex64, copy=False), ratio, cycles)
    iq = shift(iq, cycles, 1.0)
    # Real and imaginary part as two real signals: the filter is real, and a complex one costs four times as much.
    parts = np.stack([iq.real, iq.imag]).astype(np.float32, copy=False)
    real, imaginary = resample_poly(parts, ratio.numerator, ratio.denominator, axis=-1)
    done = np.empty(real.shape, np.complex64)
    done.real, done.imag = real, imaginary
    return done


def _by_products(iq: Complex, ratio: Fraction, cycles: float) -> Complex:
    """:func:`_resampled` of ``[S]``: the polyphase filter as products of matrices, twenty times faster.

    The signal is cut into blocks that each move the filter by a whole number of its periods; a block of the output is
    a block of the input and a part of its neighbours, times constant matrices. The shift is folded into them: they
    turn within a block, and each block of the output by what has passed before it.
    """
    bank = _bank(ratio)
    wanted = math.ceil(iq.size * ratio)
    blocks = -(-wanted // bank.outputs)
    whole, rest = divmod(iq.size, bank.inputs)
    rows = iq[: whole * bank.inputs].reshape(whole, bank.inputs)
    last = np.zeros((1, bank.inputs), np.complex64)
    last[0, :rest] = iq[whole * bank.inputs :]
    out = np.zeros((blocks, bank.outputs), np.complex64)
    for step, used, taps in bank.parts:
        turned = taps * _phasors(cycles, step * bank.inputs + np.arange(bank.inputs)[used])[:, None]
        # Block b of the output takes block b + step of the input; ``last`` follows the whole ones.
        first, stop = max(0, -step), min(blocks, whole - step)
        if first < stop:
            out[first:stop] += rows[first + step : stop + step, used] @ turned
        if 0 <= whole - step < blocks:
            out[whole - step] += (last[:, used] @ turned)[0]
    if cycles:
        out *= _phasors(cycles, bank.inputs * np.arange(blocks))[:, None]
    return out.reshape(-1)[:wanted]


class _Bank(NamedTuple):
    """A polyphase filter by blocks of ``inputs`` samples that become ``outputs``.

    ``parts``: the neighbour (0 the block itself, -1 the one before), which of its samples count, and their taps
    ``[used, outputs]``.
    """

    inputs: int
    outputs: int
    parts: tuple[tuple[int, slice, npt.NDArray[np.float32]], ...]


@lru_cache(maxsize=64)
def _bank(ratio: Fraction) -> _Bank:
    """The bank of scipy's default filter: Kaiser, beta 5, 20 periods of the slower rate long."""
    up, down = ratio.as_integer_ratio()
    half = 10 * max(up, down)
    taps = firwin(2 * half + 1, 1 / max(up, down), window=("kaiser", 5.0)) * up
    periods = max(-(-_BLOCK // up), -(-_BLOCK // down))
    inputs, outputs = periods * down, periods * up
    return _Bank(inputs, outputs, tuple(_parts(taps, half, up, down, inputs, outputs)))


def _parts(
    taps: npt.NDArray[np.float64], half: int, up: int, down: int, inputs: int, outputs: int
) -> Iterator[tuple[int, slice, npt.NDArray[np.float32]]]:
    reach = -(-half // up)
    for step in range(-reach // inputs, (inputs + reach) // inputs + 1):
        sample = step * inputs + np.arange(inputs)
        place = half + down * np.arange(outputs) - up * sample[:, None]
        there = (place >= 0) & (place <= 2 * half)
        rows = np.flatnonzero(there.any(axis=1))
        if len(rows):
            used = slice(int(rows[0]), int(rows[-1]) + 1)
            values = np.where(there, taps[place.clip(0, 2 * half)], 0.0)
            yield step, used, values[used].astype(np.float32)
