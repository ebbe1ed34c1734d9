"""What every channel draw is: taps, each a sum of rays that turn at their own share of the Doppler."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

SINUSOIDS = 32
"""Sinusoids whose sum is one Rayleigh tap (ours)."""


class Rays(NamedTuple):
    """The gain of tap ``l`` at time ``t`` is ``sum over n of amplitudes[l, n] exp(2j pi f_D cosines[l, n] t)``.

    Args:
        cosines: float64 ``[taps, rays]``: cosine of the angle between a ray's arrival and the direction of travel,
            which is its Doppler over the largest Doppler ``f_D``.
        amplitudes: complex128 ``[taps, rays]``: complex amplitudes at time 0.
    """

    cosines: npt.NDArray[np.float64]
    amplitudes: npt.NDArray[np.complex128]


class ChannelDraw(ABC):
    """One channel: everything about it that does not depend on how fast the terminal moves.

    The same draw at another speed has the same taps at time 0, which then turn faster or slower. Draws are frozen
    dataclasses, hashable and JSON-able through :meth:`to_dict`.
    """

    model: ClassVar[str]
    """Kind of draw in :meth:`to_dict`: ``"tdl"`` or ``"site"``."""

    @property
    @abstractmethod
    def id(self) -> str:
        """Name of the draw, the same for the same draw only."""

    @property
    @abstractmethod
    def delays_s(self) -> npt.NDArray[np.float64]:
        """Delay in s of each tap ``[taps]``, 0 or more, the first arrival at 0."""

    @property
    @abstractmethod
    def rays(self) -> Rays:
        """Rays of the taps; the mean over draws of the power, summed over taps and rays, is 1."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dict with ``"model"`` and every parameter."""


def jakes_rays(powers: npt.NDArray[np.float64], rng: np.random.Generator) -> Rays:
    """Rayleigh taps as sums of sinusoids with the Jakes spectrum: mean autocorrelation ``p_l J0(2 pi f_D tau)``.

    Args:
        powers: float64 ``[taps]``: mean power of each tap.
        rng: where the angles and phases come from.

    Returns:
        Rays ``[taps, SINUSOIDS]``, the taps independent of one another.
    """
    shape = (len(powers), SINUSOIDS)
    # One angle in each of SINUSOIDS equal sectors: every one is uniform over the circle, so that the mean
    # autocorrelation is J0 exactly, and no single draw leaves a part of the Jakes spectrum empty.
    angle = 2 * np.pi / SINUSOIDS * (np.arange(SINUSOIDS) + rng.random(shape))
    phase = 2 * np.pi * rng.random(shape)
    return Rays(np.cos(angle), np.sqrt(powers[:, None] / SINUSOIDS) * np.exp(1j * phase))
