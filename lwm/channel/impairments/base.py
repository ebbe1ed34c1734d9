"""What every family of impairments is, and the range of its level."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np

from lwm.channel.impairments.arrays import Array
from lwm.channel.limits import require_between
from lwm.errors import ConfigError

Stage = Literal["transmitter", "channel", "air", "receiver"]

STAGES: tuple[Stage, ...] = ("transmitter", "channel", "air", "receiver")
"""In the order in which a signal meets them: the channel fades the wanted signal, the air adds others to it."""

REFERENCE_RATE_HZ = 7.68e6
"""Sample rate for which :meth:`Impairment.at_level` places frequencies when none is given (ours): LTE's 5 MHz."""


@dataclass(frozen=True)
class Impairment(ABC):
    """One family with its parameters in physical units; frozen and JSON-able.

    Subclasses check their parameters when made and raise :class:`lwm.errors.ConfigError` with the allowed range.
    """

    name: ClassVar[str]
    """Name in :data:`lwm.channel.impairments.FAMILIES`."""
    stage: ClassVar[Stage]
    """Where the signal meets it."""
    order: ClassVar[int]
    """Place in the chain from the modulator to the converter's output: smaller comes first."""

    @classmethod
    @abstractmethod
    def at_level(cls, level: float, rng: np.random.Generator, sample_rate: float = REFERENCE_RATE_HZ) -> Self:
        """The family at level lambda: 0 is nearly nothing, 1 the worst that is trained or tested on.

        RF-GPT (arXiv 2602.14833) names IQ imbalance, power amplifier, CFO and TDL fading by such a level, without
        formulas; the units, the ranges and the other families are ours.

        Args:
            level: lambda in ``[0, 1]``.
            rng: draws what the level leaves open, such as signs, phases and sides.
            sample_rate: Hz; only families that sit at a frequency look at it.

        Raises:
            ConfigError: level out of range or not finite.
        """

    @classmethod
    @abstractmethod
    def apply(
        cls, iq: Array, sample_rate: float, rows: "Sequence[Self]", rngs: Sequence[np.random.Generator]
    ) -> list[dict[str, Any]]:
        """Impair ``iq`` complex64 ``[B, S]`` in place, row ``b`` by ``rows[b]`` with random numbers of ``rngs[b]``.

        Returns:
            what was measured or follows for each row, JSON-able.
        """

    def parameters(self) -> dict[str, Any]:
        """Plain JSON-able dict of the parameters."""
        return {key: value.item() if isinstance(value, np.generic) else value for key, value in asdict(self).items()}


def require_whole(name: str, value: Any, low: int, high: int, unit: str) -> None:
    """Check that ``value`` is a whole number in ``[low, high]``.

    Raises:
        ConfigError: it is not; the message says the range and the unit.
    """
    if not require_between(name, value, low, high, unit).is_integer():
        raise ConfigError(f"{name} {value} {unit}", f"a whole number, {low} to {high} {unit}")


def between(level: float, low: float, high: float) -> float:
    """Straight line from ``low`` at level 0 to ``high`` at level 1.

    Raises:
        ConfigError: level out of ``[0, 1]`` or not finite.
    """
    return low + (high - low) * require_between("impairment level", level, 0.0, 1.0, "(no unit)")


def geometric(level: float, low: float, high: float) -> float:
    """Equal ratios for equal steps of the level, from ``low`` at 0 to ``high`` at 1."""
    return float(low * (high / low) ** between(level, 0.0, 1.0))
