"""The contract of a protocol: what one package in ``experts/`` offers to the rest of the house."""

from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from lwm.registry import TECHNOLOGIES, load, names
from lwm.signal.capture import Capture


@runtime_checkable
class Technology(Protocol):
    """One radio protocol: parameter space, waveform and facts.

    ``sample`` draws a configuration (a frozen dataclass of the package); keyword arguments fix fields, among them
    the three that every technology understands, so that protocols can be drawn alike:

    - ``bandwidth`` (Hz): nominal channel bandwidth,
    - ``duration`` (s): length of the capture,
    - ``activity`` (0..1]: share of the time in which the transmitter should be on the air, met as nearly as the
      frame structure allows.
    """

    name: ClassVar[str]
    """Registry name, for example ``"lte"``."""
    title: ClassVar[str]
    """Name in captions and answers, for example ``"LTE"``."""
    link: ClassVar[str]
    """``"downlink"``, ``"uplink"`` or ``"both"``."""
    bandwidths: ClassVar[tuple[float, ...]]
    """Nominal channel bandwidths in Hz that ``sample`` may draw."""

    def sample(self, rng: np.random.Generator, **fixed: Any) -> Any:
        """Draw a configuration; ``fixed`` overrides fields. Raises RejectedConfig when those are not legal."""
        ...

    def validate(self, config: Any) -> None:
        """Raise RejectedConfig naming the clause of the standard that ``config`` breaks."""
        ...

    def synthesize(self, config: Any, rng: np.random.Generator) -> Capture:
        """Clean baseband capture at the technology's own sample rate, centred on 0 Hz, unit mean power over the
        time in which it is on the air, with exact emissions and facts; where there is a multicarrier, its
        ``subcarrier_spacing`` (Hz) is a fact."""
        ...

    def describe(self, facts: dict[str, Any]) -> list[str]:
        """The facts of one of its captures as short English sentences, for captions."""
        ...


def technology(name: str) -> Technology:
    """The technology registered under ``name`` (entry point ``lwm.technologies``)."""
    return load(TECHNOLOGIES, name)()


def technology_names() -> list[str]:
    """Names of all installed technologies."""
    return names(TECHNOLOGIES)
