"""Recordings in, captures out: raw IQ files, numpy arrays and SigMF, read in part where they are long."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from lwm.errors import CaptureError
from lwm.signal.capture import Capture
from lwm.signal.recording import (
    DATATYPES,
    SIGMF_SUFFIXES,
    SUFFIXES,
    Complex,
    Recording,
    checked_rate,
    datatype_named,
    decode,
    whole_samples,
)
from lwm.signal.sigmf_format import open_sigmf, write_sigmf

__all__ = ["open_recording", "read_capture", "write_sigmf"]


def open_recording(
    path: str | Path,
    sample_rate: float | None = None,
    datatype: str | None = None,
    center_frequency: float | None = None,
    verify: bool = False,
) -> Recording:
    """Open a recording without reading its samples.

    Args:
        path: SigMF (``.sigmf-meta``, ``.sigmf-data``, their common base name, or a ``.sigmf`` archive, ``.gz``, ``.xz``
            and ``.zip`` too), raw IQ (an ending of :data:`SUFFIXES`, or any with ``datatype``), or ``.npy`` (complex
            ``[S]``, or real ``[S, 2]`` or ``[2, S]``).
        sample_rate: Hz, for a file that does not state its own.
        datatype: a name of :data:`DATATYPES`, for raw IQ; endianness is little where left out.
        center_frequency: Hz, for a file that does not state its own.
        verify: compare the data with the metadata's SHA-512, which reads all of them.

    Raises:
        CaptureError: missing, empty or truncated file, unknown or real-valued format, broken metadata, sample rate
            missing, not positive or contradicting the file's own.
    """
    path = Path(path)
    named = path.name.lower().endswith(SIGMF_SUFFIXES)
    beside = path.with_name(path.name + ".sigmf-meta").is_file() and not path.is_file()
    if beside or (named and datatype is None):
        return open_sigmf(path, sample_rate, center_frequency, verify)
    _require_content(path)
    if path.suffix == ".npy":
        samples, load, kind = _open_numpy(path)
    else:
        samples, load, kind = _open_raw(path, datatype)
    facts = {"source": path.name, "datatype": kind}
    return Recording(path, samples, checked_rate(path, sample_rate), center_frequency, load, facts=facts)


def read_capture(
    path: str | Path,
    sample_rate: float | None = None,
    datatype: str | None = None,
    center_frequency: float | None = None,
    start: float = 0.0,
    duration: float | None = None,
    verify: bool = False,
) -> Capture:
    """Read a recording, or the part of it from ``start`` (s) lasting ``duration`` (s).

    Only the part is read. Fixed-point samples are scaled so that full scale is 1.0. See :func:`open_recording` for
    the other arguments, the formats and the errors, :meth:`Recording.read` for those of the part.
    """
    return open_recording(path, sample_rate, datatype, center_frequency, verify).read(start, duration)


def _require_content(path: Path) -> None:
    if path.is_dir():
        raise CaptureError(f"{path} is a folder", "one recording", "name a file in it")
    if not path.is_file():
        raise CaptureError(f"no file {path}", "a recording", "check the name")
    if path.stat().st_size == 0:
        raise CaptureError(f"{path} is empty", "IQ samples", "record or copy it again")


def _open_raw(path: Path, datatype: str | None) -> tuple[int, Callable[[int, int], Complex], str]:
    if datatype is None and path.suffix.lower() not in SUFFIXES:
        known = ", ".join((*SUFFIXES, ".npy", *SIGMF_SUFFIXES))
        raise CaptureError(f"{path}: unknown format {path.suffix!r}", f"one of {known}", "or state it (--datatype)")
    kind = datatype_named(datatype or SUFFIXES[path.suffix.lower()])
    component = np.dtype(DATATYPES[kind])
    samples = whole_samples(path, path.stat().st_size, 2 * component.itemsize, kind)

    def load(first: int, count: int) -> Complex:
        offset = first * 2 * component.itemsize
        return decode(np.fromfile(path, dtype=component, count=2 * count, offset=offset).reshape(-1, 2))

    return samples, load, kind


def _open_numpy(path: Path) -> tuple[int, Callable[[int, int], Complex], str]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise CaptureError(f"{path} cannot be read as a numpy array ({error})", "a whole .npy file") from None
    shape = f"{path}: array {array.dtype} {list(array.shape)}"
    if array.size == 0:
        raise CaptureError(f"{shape} is empty", "IQ samples", "record or copy it again")
    if array.ndim == 1 and array.dtype.kind == "c":
        return len(array), lambda first, count: array[first : first + count].astype(np.complex64), str(array.dtype)
    if array.dtype.kind in "fiu" and array.ndim == 2 and 2 in array.shape:
        pairs = array if array.shape[1] == 2 else array.T
        return len(pairs), lambda first, count: decode(pairs[first : first + count]), str(array.dtype)
    raise CaptureError(shape, "complex [S], or real [S, 2] or [2, S]")
