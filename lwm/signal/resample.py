"""Rational resampling and frequency shift of complex baseband."""

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from scipy.signal import resample_poly

from lwm.errors import CaptureError
from lwm.signal.capture import Capture

LARGEST_FACTOR = 2000
"""Largest numerator or denominator of a resampling ratio; beyond it the nearest such ratio is taken."""


def resample(iq: npt.NDArray[np.complex64], from_rate: float, to_rate: float) -> npt.NDArray[np.complex64]:
    """Polyphase resampling with scipy's default Kaiser filter along the last axis.

    Raises:
        CaptureError: the ratio cannot be met by integers up to :data:`LARGEST_FACTOR` within a part in 10^5.
    """
    exact = to_rate / from_rate
    ratio = Fraction(exact).limit_denominator(LARGEST_FACTOR)
    if ratio == 0 or ratio.numerator > LARGEST_FACTOR or abs(float(ratio) / exact - 1) > 1e-5:
        raise CaptureError(
            f"resampling from {from_rate:g} to {to_rate:g} Hz", f"a ratio of integers up to {LARGEST_FACTOR}"
        )
    if ratio == 1:
        return iq
    return resample_poly(iq, ratio.numerator, ratio.denominator, axis=-1).astype(np.complex64)


def tune(capture: Capture, offset: float, sample_rate: float) -> Capture:
    """What a receiver at another frequency and rate would have recorded, emissions moved and cut with it.

    Args:
        capture: centred where it was made.
        offset: Hz by which the signal appears above the new centre; the receiver is tuned ``offset`` below.
        sample_rate: Hz of the new capture; what lies outside its band is filtered away.
    """
    iq = capture.iq
    # An upsampled signal is shifted at the new rate and a downsampled one at the old: neither ever wraps around
    # while both rates hold it.
    if sample_rate > capture.sample_rate:
        iq = shift(resample(iq, capture.sample_rate, sample_rate), offset, sample_rate)
    else:
        iq = resample(shift(iq, offset, capture.sample_rate), capture.sample_rate, sample_rate)
    duration = iq.size / sample_rate
    moved = (e.shifted(hertz=offset).clipped(duration, sample_rate / 2) for e in capture.emissions)
    center = None if capture.center_frequency is None else capture.center_frequency - offset
    return Capture(iq, sample_rate, center, [e for e in moved if e], dict(capture.facts))


def shift(iq: npt.NDArray[np.complex64], offset: float, sample_rate: float) -> npt.NDArray[np.complex64]:
    """Multiply by ``exp(2j pi offset t)``; phase kept in float64, so that long captures do not drift."""
    if offset == 0:
        return iq
    cycles = np.arange(iq.shape[-1]) * (offset / sample_rate)
    angle = ((cycles % 1.0) * (2 * math.pi)).astype(np.float32)
    turn = np.empty(angle.shape, dtype=np.complex64)
    np.cos(angle, out=turn.real)
    np.sin(angle, out=turn.imag)
    return iq * turn
