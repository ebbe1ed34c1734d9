"""A recording: samples that are read when they are asked for, and the sample formats they are stored in."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lwm.errors import CaptureError
from lwm.signal.capture import Capture, Emission

Complex = npt.NDArray[np.complex64]

DATATYPES: dict[str, str] = {
    "cu8": "|u1",
    "ci8": "|i1",
    "cu16_le": "<u2",
    "cu16_be": ">u2",
    "ci16_le": "<i2",
    "ci16_be": ">i2",
    "ci32_le": "<i4",
    "ci32_be": ">i4",
    "cf32_le": "<f4",
    "cf32_be": ">f4",
    "cf64_le": "<f8",
    "cf64_be": ">f8",
}
"""Complex sample formats by their SigMF name, and the numpy type of one component."""

_ALIASES = {"cs8": "ci8", "cs16": "ci16_le", "ci16": "ci16_le", "cu16": "cu16_le", "ci32": "ci32_le"} | {
    "cs32": "ci32_le",
    "fc32": "cf32_le",
    "cf32": "cf32_le",
    "fc64": "cf64_le",
    "cf64": "cf64_le",
}

SUFFIXES: dict[str, str] = {
    ".cu8": "cu8",
    ".ci8": "ci8",
    ".cs8": "ci8",
    ".ci16": "ci16_le",
    ".cs16": "ci16_le",
    ".cf32": "cf32_le",
    ".fc32": "cf32_le",
    ".cfile": "cf32_le",
}
"""File name endings that say the sample format; any other needs ``datatype``."""


class Opened(NamedTuple):
    """What a reader of one file format found, before it is held against what the user stated.

    ``samples``: complex samples. ``load``: function of first sample and count, complex64 ``[count]``.
    ``kind``: sample format, for the facts. ``sample_rate``, ``center_frequency``: Hz, None where the file does not say.
    """

    samples: int
    load: Callable[[int, int], Complex]
    kind: str
    sample_rate: float | None = None
    center_frequency: float | None = None


SIGMF_ARCHIVES = (".sigmf", ".sigmf.gz", ".sigmf.xz", ".sigmf.zip")
SIGMF_SUFFIXES = (".sigmf-meta", ".sigmf-data", *SIGMF_ARCHIVES)


@dataclass(frozen=True)
class Recording:
    """An opened recording of which nothing but its description is held in memory.

    Args:
        path: the file that was named.
        samples: complex samples in it.
        sample_rate: Hz.
        center_frequency: Hz, None when unknown.
        load: function of first sample and count that returns complex64 ``[count]``, full scale 1.0.
        emissions: what is in it, seconds from its first sample.
        facts: what else is known.
    """

    path: Path
    samples: int
    sample_rate: float
    center_frequency: float | None
    load: Callable[[int, int], Complex]
    emissions: list[Emission] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.samples / self.sample_rate

    def read(self, start: float = 0.0, duration: float | None = None) -> Capture:
        """The part from ``start`` (s) lasting ``duration`` (s), or to the end; emissions cut and moved with it.

        A part has the fact ``start_s``.

        Raises:
            CaptureError: the part begins outside the recording, or holds a sample that is not finite.
        """
        first = round(start * self.sample_rate) if math.isfinite(start) else -1
        wanted = self.samples if duration is None else round(duration * self.sample_rate)
        if not 0 <= first < self.samples or wanted < 1:
            raise CaptureError(
                f"{self.path}: a part from {start} s lasting {duration} s", f"one inside 0 to {self.duration:.6g} s"
            )
        count = min(wanted, self.samples - first)
        seconds = count / self.sample_rate
        moved = (e.shifted(-first / self.sample_rate).clipped(seconds, math.inf) for e in self.emissions)
        facts = dict(self.facts) if count == self.samples else self.facts | {"start_s": first / self.sample_rate}
        capture = Capture(
            self.load(first, count), self.sample_rate, self.center_frequency, [e for e in moved if e], facts
        )
        try:
            capture.require_finite()
        except CaptureError as error:
            raise CaptureError(f"{self.path}: {error}") from None
        return capture

    def windows(self, duration: float, hop: float | None = None) -> Iterator[Capture]:
        """Windows of ``duration`` (s) every ``hop`` (s, the duration by default), one in memory at a time.

        A recording shorter than one window gives itself; a rest at the end that is shorter than one is left out.
        """
        length = round(duration * self.sample_rate)
        step = round((duration if hop is None else hop) * self.sample_rate)
        if min(length, step) < 1:
            raise CaptureError(f"windows of {duration} s every {hop} s", "both longer than one sample")
        last = max(self.samples - length, 0)
        for first in range(0, last + 1, step):
            yield self.read(first / self.sample_rate, duration)


def datatype_named(name: str) -> str:
    """The SigMF name in :data:`DATATYPES` of a sample format, endianness little where left out.

    Raises:
        CaptureError: real-valued or unknown; the message lists those that exist.
    """
    plain = name.lower()
    plain = _ALIASES.get(plain, plain)
    if plain in DATATYPES:
        return plain
    if plain[:1] == "r":
        raise CaptureError(
            f"real-valued samples of datatype {name!r}", "complex samples (IQ)", "convert to IQ with a Hilbert filter"
        )
    raise CaptureError(f"datatype {name!r}", f"one of {', '.join(DATATYPES)}", "state it (--datatype)")


def decode(components: npt.NDArray[Any]) -> Complex:
    """complex64 ``[S]`` of components ``[S, 2]``; integers over their full scale, unsigned around its middle."""
    kind, bits = components.dtype.kind, components.dtype.itemsize * 8
    values = np.ascontiguousarray(components, dtype=np.float32)
    if kind in "iu":
        full = np.float32(2 ** (bits - 1))
        if kind == "u":
            values = values - full
        values = values / full
    return values.view(np.complex64)[..., 0]


def checked_rate(path: Path, sample_rate: float | None) -> float:
    """The sample rate in Hz, or a CaptureError naming the remedy when it is missing, not finite or not positive."""
    if sample_rate is None or not math.isfinite(sample_rate) or sample_rate <= 0:
        said = "no sample rate" if sample_rate is None else f"sample rate {sample_rate}"
        raise CaptureError(f"{path}: {said}", "a positive number of Hz", "state it (--sample_rate)")
    return float(sample_rate)


def agreed(path: Path, what: str, stated: Any, given: float | None) -> float | None:
    """The file's own value in Hz, or the one given where it has none; CaptureError when the two differ."""
    if stated is None:
        return given
    if isinstance(stated, bool) or not isinstance(stated, int | float):
        raise CaptureError(f"{path}: {what} {stated!r}", "a number of Hz")
    if given is not None and not math.isclose(given, stated, rel_tol=1e-9):
        raise CaptureError(f"{path}: {what} {given:g} Hz was given", f"{stated:g} Hz, which the file states itself")
    return float(stated)


def require_file(path: Path, expected: str = "a recording", remedy: str = "check the name") -> None:
    """Raise CaptureError where ``path`` is a folder, missing or empty."""
    if path.is_dir():
        raise CaptureError(f"{path} is a folder", "one recording", "name a file in it")
    if not path.is_file():
        raise CaptureError(f"no file {path}", expected, remedy)
    if path.stat().st_size == 0:
        raise CaptureError(f"{path} is empty", expected, "record or copy it again")


def whole_samples(path: Path, size: int, sample: int, kind: str) -> int:
    """Samples of ``sample`` bytes in ``size`` bytes; CaptureError when the last one is cut or there is none."""
    if size <= 0:
        raise CaptureError(f"{path} holds no samples", "IQ samples", "record or copy it again")
    if size % sample:
        raise CaptureError(
            f"{path} holds {size} bytes", f"a multiple of {sample}, the bytes of a {kind} sample", "it is truncated"
        )
    return size // sample
