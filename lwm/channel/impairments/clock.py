"""Sampling clock offset: the receiver's samples drift against the transmitter's."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from lwm.channel.impairments.arrays import Array, like, namespace
from lwm.channel.impairments.base import REFERENCE_RATE_HZ, Impairment, Stage, between
from lwm.channel.limits import require_between

_TAPS = 48
_BETA = 5.65
_CUTOFF = 0.925
# Sinc of 48 taps under a Kaiser window for 60 dB, its transition from 0.425 to 0.5 cycles a sample: one that passed the
# band's edge would pass it better at some fractions of a sample than at others, and the edge would beat as they drift.
_HOP = 24
_PORTION = 512
# Outputs of a block, blocks of a matrix product: what fits the cache.
_FRACTIONS = 32
# Filters for 32 fractions of a sample; between two of them a straight line, error below 60 dB over that band.


@dataclass(frozen=True)
class SamplingClockOffset(Impairment):
    """The receiver samples ``ppm`` parts in a million too fast: ``y[n] = x(n / (1 + ppm 1e-6))``.

    The interpolation's error of a tone, measured under it, is at most -58 dB root-mean-square and -46 dB at the worst
    instant over the inner 80 % of the band; -54 dB and -46 dB over 85 %. Beyond, the band's edge is rolled off as by
    the filter before a converter, always alike: what drifts does not beat. What would lie outside the capture is zero.

    Args:
        ppm: error of the receiver's clock over the transmitter's.
    """

    name: ClassVar[str] = "sampling_clock_offset"
    stage: ClassVar[Stage] = "receiver"
    order: ClassVar[int] = 110

    ppm: float

    def __post_init__(self) -> None:
        require_between("sampling clock offset", self.ppm, -1000.0, 1000.0, "ppm")

    @classmethod
    def at_level(cls, level: float, rng: np.random.Generator, sample_rate: float = REFERENCE_RATE_HZ) -> Self:
        """To 50 ppm: two cheap crystals of 25 ppm each (ours); the sign is drawn."""
        return cls(between(level, 0.0, 50.0) * float(rng.choice([-1.0, 1.0])))

    @classmethod
    def apply(
        cls, iq: Array, sample_rate: float, rows: Sequence[Self], rngs: Sequence[np.random.Generator]
    ) -> list[dict[str, Any]]:
        facts = []
        for index, row in enumerate(rows):
            rate = 1 / (1 + row.ppm * 1e-6) - 1
            if rate and iq.shape[1]:
                _stretch(iq[index], rate)
            facts.append({"drift_samples": rate * max(0, iq.shape[1] - 1)})
        return facts


def _stretch(row: Array, rate: float) -> None:
    """Replace ``row`` ``[S]`` by its values at ``n (1 + rate)``.

    A block of outputs is a window of inputs times a banded matrix of filters: for the lower end of its fraction, and
    for the difference to the upper end. All blocks of the same fraction go through one matrix product.
    """
    xp = namespace(row)
    samples = row.shape[0]
    starts = np.arange(-(-samples // _HOP)) * _HOP
    position = starts * (rate * _FRACTIONS)
    place = np.floor(position).astype(np.int64)
    whole, fraction = np.divmod(place, _FRACTIONS)
    pad = _TAPS + int(np.abs(whole).max())
    planes = _zeros((2, len(starts) * _HOP + 2 * pad), row)
    planes[0, pad : pad + samples] = row.real
    planes[1, pad : pad + samples] = row.imag
    windows = _windows(planes)
    begin = starts + whole + (pad - _TAPS // 2 + 1)
    filters = like(_filters(), row)
    slope = like((np.arange(_HOP) * (rate * _FRACTIONS)).astype(np.float32), row)
    offset = like((position - place).astype(np.float32)[:, None], row)
    found = _zeros((2, len(starts), _HOP), row)
    for part in _alike(fraction):
        chosen = like(part, row)
        both = xp.matmul(windows[:, like(begin[part], row)], filters[int(fraction[part[0]])])
        values = both[..., _HOP:] * (offset[chosen] + slope)
        values += both[..., :_HOP]
        found[:, chosen] = values
    flat = found.reshape(2, -1)
    row.real[:] = flat[0, :samples]
    row.imag[:] = flat[1, :samples]


def _alike(fraction: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Numbers of the blocks of each fraction, in portions that fit the cache."""
    order = np.argsort(fraction, kind="stable")
    edges = np.flatnonzero(np.diff(fraction[order])) + 1
    return np.split(order, np.union1d(edges, np.arange(_PORTION, len(order), _PORTION)))


def _zeros(shape: tuple[int, ...], like_this: Array) -> Array:
    """float32 zeros in the namespace and on the device of an array."""
    if isinstance(like_this, np.ndarray):
        return np.zeros(shape, dtype=np.float32)
    return like_this.real.new_zeros(shape)


def _windows(planes: Array) -> Array:
    """View of all windows ``[2, N - width + 1, width]`` of ``[2, N]``."""
    width = _HOP + _TAPS - 1
    if isinstance(planes, np.ndarray):
        return np.lib.stride_tricks.sliding_window_view(planes, width, axis=-1)
    return planes.unfold(-1, width, 1)


@lru_cache(maxsize=1)
def _filters() -> npt.NDArray[np.float32]:
    """Banded matrices ``[fractions, window, 2 * hop]``: filters of a fraction, and the step to the next fraction's."""
    fraction = np.arange(_FRACTIONS + 1)[:, None] / _FRACTIONS
    distance = np.arange(_TAPS) - (_TAPS // 2 - 1) - fraction
    inside = np.clip(1 - (distance / (_TAPS / 2)) ** 2, 0, None)
    kernels = _CUTOFF * np.sinc(_CUTOFF * distance) * np.i0(_BETA * np.sqrt(inside)) / np.i0(_BETA) * (inside > 0)
    banded = np.zeros((_FRACTIONS, _HOP + _TAPS - 1, 2 * _HOP), dtype=np.float32)
    for output in range(_HOP):
        banded[:, output : output + _TAPS, output] = kernels[:-1]
        banded[:, output : output + _TAPS, _HOP + output] = np.diff(kernels, axis=0)
    return banded
