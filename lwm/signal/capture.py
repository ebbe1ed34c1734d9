"""A capture: complex baseband samples, what is known about them, and what is in them."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm.errors import CaptureError


@dataclass(frozen=True)
class Emission:
    """One signal inside a capture: a box in time and frequency with its meaning.

    ``start`` and ``stop`` are seconds from the capture's first sample, ``low`` and ``high`` Hz from its centre.
    ``snr_db`` is over the box (occupied bandwidth and active time); None when unknown.
    """

    technology: str
    link: str = ""
    modulation: str = ""
    start: float = 0.0
    stop: float = 0.0
    low: float = 0.0
    high: float = 0.0
    snr_db: float | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.stop >= self.start and self.high >= self.low):
            raise CaptureError(
                f"emission {self.technology!r} from {self.start} to {self.stop} s, {self.low} to {self.high} Hz",
                "stop >= start and high >= low",
            )

    def shifted(self, seconds: float = 0.0, hertz: float = 0.0) -> "Emission":
        """The same emission moved in time and frequency."""
        return replace(
            self,
            start=self.start + seconds,
            stop=self.stop + seconds,
            low=self.low + hertz,
            high=self.high + hertz,
        )

    def clipped(self, duration: float, half_band: float) -> "Emission | None":
        """The part inside ``[0, duration]`` s and ``[-half_band, half_band]`` Hz, or None when nothing is."""
        start, stop = max(self.start, 0.0), min(self.stop, duration)
        low, high = max(self.low, -half_band), min(self.high, half_band)
        if stop <= start or high <= low:
            return None
        return replace(self, start=start, stop=stop, low=low, high=high)


@dataclass
class Capture:
    """IQ samples with their sample rate, emissions and facts.

    Args:
        iq: complex64 ``[samples]``, full scale 1.0 where the source had one.
        sample_rate: Hz, > 0.
        center_frequency: Hz, None when unknown.
        emissions: what is in it.
        facts: plain JSON-able dict: everything else that is known.

    Raises:
        CaptureError: sample rate missing or not positive, or not a one-dimensional array.
    """

    iq: npt.NDArray[np.complex64]
    sample_rate: float
    center_frequency: float | None = None
    emissions: list[Emission] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.iq = np.ascontiguousarray(self.iq, dtype=np.complex64)
        if self.iq.ndim != 1:
            raise CaptureError(f"IQ of shape {self.iq.shape}", "one dimension, [samples]")
        rate = self.sample_rate
        if rate is None or not math.isfinite(rate) or rate <= 0:
            raise CaptureError(f"sample rate {rate}", "a positive number of Hz", "state it (--sample_rate)")
        self.sample_rate = float(rate)

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.iq.size / self.sample_rate

    def require_finite(self) -> None:
        """Raise CaptureError when a sample is NaN or infinite, naming the first."""
        finite = np.isfinite(self.iq.view(np.float32))
        if not finite.all():
            first = int(np.argmin(finite)) // 2
            raise CaptureError(f"IQ sample {first} is not finite", "finite samples", "cut it out or re-record")

    def window(self, start: float, duration: float) -> "Capture":
        """The part from ``start`` (s) lasting ``duration`` (s) or to the end, emissions cut and moved with it.

        Raises:
            CaptureError: ``start`` before the capture.
        """
        if not start >= 0:
            raise CaptureError(f"a window from {start} s", "a start of 0 s or later")
        first = round(start * self.sample_rate)
        count = round(duration * self.sample_rate)
        iq = self.iq[first : first + count]
        seconds = iq.size / self.sample_rate
        moved = (e.shifted(-first / self.sample_rate).clipped(seconds, math.inf) for e in self.emissions)
        return Capture(iq, self.sample_rate, self.center_frequency, [e for e in moved if e], dict(self.facts))
