"""The fading family: a TR 38.901 tapped delay line whose delay spread and Doppler grow with the level."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from lwm.channel.fading import apply_channel
from lwm.channel.impairments.arrays import Array, blocks, column, decibels, power
from lwm.channel.impairments.base import REFERENCE_RATE_HZ, Impairment, Stage, between
from lwm.channel.limits import require_between
from lwm.channel.profiles import PROFILES
from lwm.channel.tdl import MAX_DELAY_SPREAD_S, TDLDraw
from lwm.errors import ConfigError


@dataclass(frozen=True)
class TDLSweep(Impairment):
    """Fading of profile TDL-A to TDL-E (TR 38.901 clause 7.7.2), then back to the row's mean power.

    It is a channel, for evaluation on a cable or behind another channel; a plan's fading is its channel's.

    Without delay spread and Doppler it is then one constant phase; and an SNR that is set later does not depend on
    how deep the draw fades.

    Args:
        profile: name in :data:`lwm.channel.PROFILES`.
        delay_spread_s: RMS delay spread in s.
        doppler_hz: largest Doppler shift in Hz.
    """

    name: ClassVar[str] = "tdl_sweep"
    stage: ClassVar[Stage] = "channel"
    order: ClassVar[int] = 30

    profile: str
    delay_spread_s: float
    doppler_hz: float

    def __post_init__(self) -> None:
        if not isinstance(self.profile, str) or self.profile not in PROFILES:
            raise ConfigError(f"no channel profile {self.profile!r}", f"one of {list(PROFILES)}")
        require_between("delay spread", self.delay_spread_s, 0.0, MAX_DELAY_SPREAD_S, "s")
        require_between("Doppler", self.doppler_hz, 0.0, 1e6, "Hz")

    @classmethod
    def at_level(cls, level: float, rng: np.random.Generator, sample_rate: float = REFERENCE_RATE_HZ) -> Self:
        """TDL-C or TDL-D, drawn; delay spread to 1 us, Doppler to 500 Hz (ours)."""
        profile = str(rng.choice(["TDL-C", "TDL-D"]))
        return cls(profile, between(level, 0.0, 1e-6), between(level, 0.0, 500.0))

    @classmethod
    def apply(
        cls, iq: Array, sample_rate: float, rows: Sequence[Self], rngs: Sequence[np.random.Generator]
    ) -> list[dict[str, Any]]:
        draws = [
            TDLDraw(row.profile, row.delay_spread_s, seed=int(rng.integers(2**31)), index=0)
            for row, rng in zip(rows, rngs, strict=True)
        ]
        before = power(iq)
        iq[:] = apply_channel(iq, sample_rate, draws, [row.doppler_hz for row in rows])
        after = power(iq)
        restore = column(np.sqrt(before / np.where(after > 0, after, 1.0)), iq)
        for group, span in blocks(iq):
            part = iq[group, span]
            part *= restore[group]
        gains = after / np.where(before > 0, before, 1.0)
        return [
            {"draw": draw.to_dict(), "fading_gain_db": decibels(float(gain))}
            for draw, gain in zip(draws, gains, strict=True)
        ]
