"""One draw of a tapped-delay-line channel: profile, delay spread, angles and phases."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lwm.channel.draw import ChannelDraw, Rays, jakes_rays
from lwm.channel.limits import require_between, require_number
from lwm.channel.profiles import PROFILES
from lwm.errors import ConfigError
from lwm.seeding import rng_for

LOS_DOPPLER = 0.7
"""Doppler of the line of sight over the largest Doppler, TR 38.901 clause 7.7.2."""

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
class TDLDraw(ChannelDraw):
    """One channel of a TDL model of TR 38.901 clause 7.7.2.

    Args:
        profile: name in :data:`PROFILES`.
        delay_spread_s: RMS delay spread in s by which the normalised delays are scaled, clause 7.7.3.
        seed: seed of the angles and phases.
        index: number of the draw under that seed.

    Raises:
        ConfigError: unknown profile, delay spread out of ``[0, MAX_DELAY_SPREAD_S]`` or NaN, seed or index that is
            negative or no whole number.
    """

    model: ClassVar[str] = "tdl"

    profile: str
    delay_spread_s: float
    seed: int
    index: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.profile, str) or self.profile not in PROFILES:
            raise ConfigError(f"no channel profile {self.profile!r}", f"one of {list(PROFILES)}")
        spread = require_between("delay spread", self.delay_spread_s, 0.0, MAX_DELAY_SPREAD_S, "s")
        # Plain numbers, whatever numpy gave: the draw goes into JSON and its seed into names of random streams.
        object.__setattr__(self, "delay_spread_s", spread)
        object.__setattr__(self, "seed", require_number("channel seed", self.seed))
        object.__setattr__(self, "index", require_number("channel index", self.index))

    @property
    def id(self) -> str:
        """Name of the draw, the same for the same draw only."""
        return f"{self.profile}/{self.delay_spread_s * 1e9:.6g}ns/{self.seed}/{self.index}"

    @property
    def delays_s(self) -> npt.NDArray[np.float64]:
        """Delay in s of each tap ``[taps]``."""
        return np.array(PROFILES[self.profile].delays) * self.delay_spread_s

    @cached_property
    def rays(self) -> Rays:
        """Rays of :func:`~lwm.channel.draw.jakes_rays`; with a line of sight one more, which only the first tap has.

        The line of sight turns at :data:`LOS_DOPPLER` of the Doppler.
        """
        profile = PROFILES[self.profile]
        rng = rng_for(self.seed, "tdl", self.index)
        cosines, amplitudes = jakes_rays(profile.powers, rng)
        if profile.los_db is not None:
            los = np.zeros((len(cosines), 1), dtype=np.complex128)
            los[0] = np.sqrt(profile.los_power) * np.exp(2j * np.pi * rng.random())
            cosines = np.append(cosines, np.full_like(cosines[:, :1], LOS_DOPPLER), axis=1)
            amplitudes = np.append(amplitudes, los, axis=1)
        return Rays(cosines, amplitudes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dict; :meth:`from_dict` reads it back."""
        return {"model": self.model, **asdict(self)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "TDLDraw":
        """Draw from :meth:`to_dict`.

        Raises:
            ConfigError: another model, missing or unknown fields.
        """
        if plain.get("model") != cls.model:
            raise ConfigError(f"channel draw of model {plain.get('model')!r}", repr(cls.model))
        known = {"model", *(field.name for field in fields(cls))}
        if set(plain) != known:
            raise ConfigError(f"channel draw with fields {sorted(plain)}", f"exactly {sorted(known)}")
        return cls(**{name: value for name, value in plain.items() if name != "model"})


def draw_tdl(
    seed: int,
    index: int,
    profiles: Sequence[str] = tuple(PROFILES),
    delay_spreads_s: Sequence[float] = (DELAY_SPREADS["short"], DELAY_SPREADS["long"]),
) -> TDLDraw:
    """Draw number ``index`` of ``seed``: a profile out of ``profiles`` and a delay spread, log-uniform.

    Args:
        seed: the run's seed.
        index: number of the draw.
        profiles: names in :data:`PROFILES` to choose from.
        delay_spreads_s: smallest and largest RMS delay spread in s, > 0.

    Raises:
        ConfigError: no profile or an unknown one, delay spreads out of range, seed or index that is negative or no
            whole number.
    """
    seed, index = require_number("channel seed", seed), require_number("channel index", index)
    if isinstance(profiles, str) or not len(profiles):
        raise ConfigError(f"channel profiles {profiles!r}", f"a list of some of {list(PROFILES)}")
    if len(delay_spreads_s) != 2:
        raise ConfigError(f"delay spreads {delay_spreads_s!r}", "the smallest and the largest, in s")
    low, high = delay_spreads_s
    require_between("smallest delay spread", low, 1e-12, MAX_DELAY_SPREAD_S, "s")
    require_between("largest delay spread", high, low, MAX_DELAY_SPREAD_S, "s")
    rng = rng_for(seed, "channel", index)
    profile = profiles[int(rng.integers(len(profiles)))]
    # Rounded to picoseconds, so that the draw is the same after a trip through JSON and in its printed name.
    spread = round(float(np.exp(rng.uniform(np.log(low), np.log(high)))), 12)
    return TDLDraw(profile, spread, seed, index)
