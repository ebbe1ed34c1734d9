"""One draw of a tapped-delay-line channel: profile, delay spread, angles and phases."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm.channel.limits import require_between
from lwm.channel.profiles import PROFILES
from lwm.errors import ConfigError
from lwm.seeding import rng_for

SINUSOIDS = 32
"""Sinusoids whose sum is one Rayleigh tap (ours)."""

MAX_DELAY_SPREAD_S = 10e-6
"""Largest delay spread taken (ours): ten times the longest of TR 38.901 table 7.7.3-1."""

DELAY_SPREADS: dict[str, float] = {
    "very short": 10e-9,
    "short": 30e-9,
    "nominal": 100e-9,
    "long": 300e-9,
    "very long": 1000e-9,
}
"""Example RMS delay spreads in s, TR 38.901 table 7.7.3-1."""


@dataclass(frozen=True)
class ChannelDraw:
    """One channel: everything about it that does not depend on how fast the terminal moves.

    The same draw at another speed has the same taps at time 0, which then turn faster or slower.

    Args:
        profile: name in :data:`PROFILES`.
        delay_spread_s: RMS delay spread in s by which the normalised delays are scaled, clause 7.7.3.
        seed: seed of the angles and phases.
        index: number of the draw under that seed.

    Raises:
        ConfigError: unknown profile, delay spread out of ``[0, MAX_DELAY_SPREAD_S]`` or NaN, negative seed or index.
    """

    profile: str
    delay_spread_s: float
    seed: int
    index: int = 0

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ConfigError(f"no channel profile {self.profile!r}", f"one of {list(PROFILES)}")
        require_between("delay spread", self.delay_spread_s, 0.0, MAX_DELAY_SPREAD_S, "s")
        if self.seed < 0 or self.index < 0:
            raise ConfigError(f"channel seed {self.seed}, index {self.index}", "both 0 or more")

    @property
    def id(self) -> str:
        """Name of the draw, the same for the same draw only."""
        return f"{self.profile}/{self.delay_spread_s * 1e9:.6g}ns/{self.seed}/{self.index}"

    @property
    def delays_s(self) -> npt.NDArray[np.float64]:
        """Delay in s of each tap ``[taps]``."""
        return np.array(PROFILES[self.profile].delays) * self.delay_spread_s

    @cached_property
    def sinusoids(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.complex128], complex]:
        """Angles and phases of the draw.

        Returns:
            cosines of the angles of arrival ``[taps, SINUSOIDS]`` (times the Doppler: each sinusoid's frequency),
            complex amplitudes at time 0 ``[taps, SINUSOIDS]``, complex amplitude of the line of sight.
        """
        profile = PROFILES[self.profile]
        rng = rng_for(self.seed, "tdl", self.index)
        shape = (len(profile.delays), SINUSOIDS)
        # One angle in each of SINUSOIDS equal sectors: every one is uniform over the circle, so that the mean
        # autocorrelation is J0 exactly, and no single draw leaves a part of the Jakes spectrum empty.
        angle = 2 * np.pi / SINUSOIDS * (np.arange(SINUSOIDS) + rng.random(shape))
        phase = 2 * np.pi * rng.random(shape)
        amplitude = np.sqrt(profile.powers[:, None] / SINUSOIDS) * np.exp(1j * phase)
        los = complex(np.sqrt(profile.los_power) * np.exp(2j * np.pi * rng.random()))
        return np.cos(angle), amplitude, los

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dict; :meth:`from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "ChannelDraw":
        """Draw from :meth:`to_dict`; missing and unknown fields are errors."""
        known = {field.name for field in fields(cls)}
        if set(plain) != known:
            raise ConfigError(f"channel draw with fields {sorted(plain)}", f"exactly {sorted(known)}")
        return cls(**plain)


def draw_channel(
    seed: int,
    index: int,
    profiles: Sequence[str] = tuple(PROFILES),
    delay_spreads_s: Sequence[float] = (DELAY_SPREADS["short"], DELAY_SPREADS["long"]),
) -> ChannelDraw:
    """Draw number ``index`` of ``seed``: a profile out of ``profiles`` and a delay spread, log-uniform.

    Args:
        seed: the run's seed.
        index: number of the draw.
        profiles: names in :data:`PROFILES` to choose from.
        delay_spreads_s: smallest and largest RMS delay spread in s, > 0.
    """
    low, high = delay_spreads_s
    require_between("smallest delay spread", low, 1e-12, MAX_DELAY_SPREAD_S, "s")
    require_between("largest delay spread", high, low, MAX_DELAY_SPREAD_S, "s")
    rng = rng_for(seed, "channel", index)
    profile = profiles[int(rng.integers(len(profiles)))]
    # Rounded to picoseconds, so that the draw is the same after a trip through JSON and in its printed name.
    spread = round(float(np.exp(rng.uniform(np.log(low), np.log(high)))), 12)
    return ChannelDraw(profile, spread, seed, index)
