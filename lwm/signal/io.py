"""Recordings in, captures out: raw IQ, numpy, MATLAB, HDF5, WAV and SigMF, read in part where they are long."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from lwm.errors import CaptureError
from lwm.signal.arrays import open_hdf5, open_matlab, open_numpy
from lwm.signal.capture import Capture
from lwm.signal.recording import (
    DATATYPES,
    SIGMF_SUFFIXES,
    SUFFIXES,
    Complex,
    Opened,
    Recording,
    agreed,
    checked_rate,
    datatype_named,
    decode,
    require_file,
    whole_samples,
)
from lwm.signal.sigmf_format import open_sigmf, write_sigmf
from lwm.signal.wav import open_wav

__all__ = ["RECORDING_SUFFIXES", "open_recording", "open_segments", "read_capture", "write_sigmf"]

_READERS: dict[str, Callable[[Path, str | None], Opened]] = {
    ".npy": open_numpy,
    ".mat": open_matlab,
    ".h5": open_hdf5,
    ".hdf5": open_hdf5,
    ".wav": open_wav,
}

RECORDING_SUFFIXES = (*SUFFIXES, *_READERS, *SIGMF_SUFFIXES)
"""File name endings that are read without a stated format."""


def open_recording(
    path: str | Path,
    sample_rate: float | None = None,
    datatype: str | None = None,
    center_frequency: float | None = None,
    verify: bool = False,
    variable: str | None = None,
) -> Recording:
    """Open a recording without reading its samples.

    Args:
        path: SigMF (``.sigmf-meta``, ``.sigmf-data``, their common base name, or a ``.sigmf`` archive, ``.gz``, ``.xz``
            and ``.zip`` too), raw IQ (an ending of :data:`SUFFIXES`, or any with ``datatype``), ``.npy``, ``.mat`` or
            HDF5 (complex ``[S]``, or real ``[S, 2]`` or ``[2, S]``), or ``.wav`` with two channels, I and Q.
        sample_rate: Hz, for a file that does not state its own.
        datatype: a name of :data:`DATATYPES`, for raw IQ; endianness is little where left out.
        center_frequency: Hz, for a file that does not state its own.
        verify: compare the data with the metadata's SHA-512, which reads all of them.
        variable: which variable of a ``.mat`` file or dataset of an HDF5 file, where several could be IQ.

    Raises:
        CaptureError: missing, empty or truncated file, unknown or real-valued format, broken metadata, sample rate
            missing, not positive or contradicting the file's own; a SigMF recording of several capture segments.
    """
    segments = open_segments(path, sample_rate, datatype, center_frequency, verify, variable)
    if len(segments) > 1:
        raise CaptureError(
            f"{path} holds {len(segments)} capture segments",
            "one recording of one centre frequency",
            "cut it, or take it in with lwm ingest, which keeps the segments apart",
        )
    return segments[0]


def open_segments(
    path: str | Path,
    sample_rate: float | None = None,
    datatype: str | None = None,
    center_frequency: float | None = None,
    verify: bool = False,
    variable: str | None = None,
) -> list[Recording]:
    """Every capture segment of a recording as a recording of its own: several only where SigMF metadata say so.

    Arguments and errors are those of :func:`open_recording`.
    """
    path = Path(path)
    named = path.name.lower().endswith(SIGMF_SUFFIXES)
    beside = path.with_name(path.name + ".sigmf-meta").is_file() and not path.is_file()
    if beside or (named and datatype is None):
        return open_sigmf(path, sample_rate, center_frequency, verify)
    require_file(path, "IQ samples")
    reader = _READERS.get(path.suffix.lower()) if datatype is None else None
    opened = _open_raw(path, datatype) if reader is None else reader(path, variable)
    rate = checked_rate(path, agreed(path, "sample rate", opened.sample_rate, sample_rate))
    center = agreed(path, "center frequency", opened.center_frequency, center_frequency)
    facts = {"source": path.name, "datatype": opened.kind}
    return [Recording(path, opened.samples, rate, center, opened.load, facts=facts)]


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


def _open_raw(path: Path, datatype: str | None) -> Opened:
    if datatype is None and path.suffix.lower() not in SUFFIXES:
        known = ", ".join(RECORDING_SUFFIXES)
        raise CaptureError(f"{path}: unknown format {path.suffix!r}", f"one of {known}", "or state it (--datatype)")
    try:
        kind = datatype_named(datatype or SUFFIXES[path.suffix.lower()])
    except CaptureError as error:
        raise CaptureError(f"{path}: {error}") from None
    component = np.dtype(DATATYPES[kind])
    samples = whole_samples(path, path.stat().st_size, 2 * component.itemsize, kind)

    def load(first: int, count: int) -> Complex:
        offset = first * 2 * component.itemsize
        return decode(np.fromfile(path, dtype=component, count=2 * count, offset=offset).reshape(-1, 2))

    return Opened(samples, load, kind)
