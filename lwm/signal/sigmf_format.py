"""SigMF in and out. An emission is an annotation; what SigMF has no key for stands under ``lwm:``."""

import json
import lzma
import math
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sigmf
from sigmf import SigMFFile
from sigmf.archivereader import SigMFArchiveReader
from sigmf.error import SigMFError
from sigmf.hashing import calculate_sha512
from sigmf.sigmffile import get_dataset_filename_from_metadata, get_sigmf_filenames

from lwm.errors import CaptureError, OutputError
from lwm.output import atomic_file
from lwm.signal.capture import Capture, Emission
from lwm.signal.recording import (
    DATATYPES,
    SIGMF_ARCHIVES,
    Complex,
    Recording,
    agreed,
    checked_rate,
    datatype_named,
    decode,
    require_file,
    whole_samples,
)

EXTENSION = {"name": "lwm", "version": "0.1.0", "optional": True}
"""How a file that we write declares the keys ``lwm:facts``, ``lwm:link``, ``lwm:modulation``, ``lwm:snr_db`` and
``lwm:attributes``."""

_BROKEN_ARCHIVE = (SigMFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)

_FACTS = ("description", "author", "license", "hw", "recorder", "data_doi", "meta_doi", "sha512")


class _Segment(NamedTuple):
    """A capture segment: samples ``[first, first + samples)``, behind ``skipped`` bytes of headers."""

    first: int
    samples: int
    skipped: int
    stated: dict[str, Any]


def open_sigmf(
    path: Path, sample_rate: float | None = None, center_frequency: float | None = None, verify: bool = False
) -> list[Recording]:
    """Open the capture segments of a SigMF recording, in the order of their samples.

    Each segment has its own centre frequency and time. An annotation is part of every segment that it overlaps; its
    ``core:label`` is the emission's technology; one without a sample count lasts to the end, one without frequency
    edges fills the band. A ``core:comment`` that is a JSON object becomes attributes.
    Arguments and errors are those of :func:`lwm.signal.io.open_recording`.
    """
    with warnings.catch_warnings():
        # The library warns of what is checked, and refused, below.
        warnings.simplefilter("ignore")
        source = _from_archive(path) if path.name.lower().endswith(SIGMF_ARCHIVES) else _from_pair(path)
    kind = _require_complex(path, source)
    _require_whole_numbers(path, source)
    samples = _count(path, source, kind)
    if verify:
        _verify(path, source)
    rate = checked_rate(path, agreed(path, "sample rate", source.get_global_field("core:sample_rate"), sample_rate))
    segments = _segments(path, source, samples)
    return [
        _open_segment(path, source, kind, segment, (number, len(segments), samples), rate, center_frequency)
        for number, segment in enumerate(segments)
    ]


def _segments(path: Path, source: SigMFFile, samples: int) -> list[_Segment]:
    """Capture segments that hold a sample; samples before the first belong to it."""
    offset = source.get_global_field("core:offset", 0)
    stated = sorted(source.get_captures() or [{}], key=lambda capture: capture.get("core:sample_start", 0))
    starts = [0, *(capture.get("core:sample_start", 0) - offset for capture in stated[1:]), samples]
    skipped, segments = 0, []
    for number, capture in enumerate(stated):
        skipped += capture.get("core:header_bytes", 0)
        first, count = starts[number], starts[number + 1] - starts[number]
        if first < 0:
            raise CaptureError(f"{path}: a capture starts at sample {first}", "samples from 0 on")
        if count:
            segments.append(_Segment(first, count, skipped, capture))
    if skipped and (source.data_file is None or source.data_size_bytes is not None):
        raise CaptureError(f"{path}: an archive whose segments have headers", "a pair of files", "unpack it")
    return segments


def _open_segment(
    path: Path,
    source: SigMFFile,
    kind: str,
    segment: _Segment,
    place: tuple[int, int, int],
    rate: float,
    center_frequency: float | None,
) -> Recording:
    """The recording of one segment; ``place``: its number, how many there are, samples of all."""
    number, total, samples = place
    center = agreed(path, "center frequency", segment.stated.get("core:frequency"), center_frequency)
    facts = source.get_global_field("lwm:facts")
    if facts is None:
        stated = {name: source.get_global_field(f"core:{name}") for name in _FACTS}
        stated["datetime"] = segment.stated.get("core:datetime")
        facts = {"source": path.name, "datatype": kind} | {k: v for k, v in stated.items() if v is not None}
    if total > 1:
        facts = facts | {"segment": number, "segment_start_s": segment.first / rate}
    offset = source.get_global_field("core:offset", 0) + segment.first
    end = samples - segment.first
    notes = (_emission(path, note, offset, end, rate, center) for note in source.get_annotations())
    inside = (note.clipped(segment.samples / rate, math.inf) if total > 1 else note for note in notes)
    component = np.dtype(DATATYPES[kind])

    def load(first: int, count: int) -> Complex:
        if segment.skipped:
            begin = segment.skipped + (segment.first + first) * 2 * component.itemsize
            parts = np.fromfile(source.data_file, component, 2 * count, offset=begin)
            return decode(parts.reshape(-1, 2))
        return np.ascontiguousarray(source.read_samples(segment.first + first, count), dtype=np.complex64)

    return Recording(path, segment.samples, rate, center, load, [e for e in inside if e], facts)


def write_sigmf(capture: Capture, path: str | Path, datatype: str = "cf32_le", overwrite: bool = False) -> Path:
    """Write ``PATH.sigmf-data`` and then ``PATH.sigmf-meta``, each whole or not at all.

    Emissions, cut to the capture, become annotations on whole samples; facts stand under ``lwm:facts``.

    Args:
        capture: what to write.
        path: base name, with or without a SigMF ending.
        datatype: a name of :data:`lwm.signal.io.DATATYPES`; integers need samples within full scale.
        overwrite: replace files that exist.

    Returns:
        path of the metadata file.

    Raises:
        CaptureError: nothing to write, samples not finite or beyond the full scale of an integer format.
        OutputError: the files exist, or cannot be written.
    """
    names = get_sigmf_filenames(path)
    for target in (names["data_fn"], names["meta_fn"]):
        if target.exists() and not overwrite:
            raise OutputError(f"{target} exists", "a new name", "choose another or overwrite")
    kind = datatype_named(datatype)
    if not capture.iq.size:
        raise CaptureError(f"an empty capture for {path}", "IQ samples")
    capture.require_finite()
    encoded = _encode(capture.iq, kind)
    with atomic_file(names["data_fn"]) as temporary:
        encoded.tofile(temporary)
        digest = calculate_sha512(filename=temporary)
        text = _metadata(capture, kind, digest)
    with atomic_file(names["meta_fn"]) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return Path(names["meta_fn"])


def _from_archive(path: Path) -> SigMFFile:
    require_file(path)
    try:
        return SigMFArchiveReader(path, skip_checksum=True).sigmffile
    except (*_BROKEN_ARCHIVE, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise CaptureError(f"{path} is no readable SigMF archive ({error})", "a whole .sigmf file") from None


def _from_pair(path: Path) -> SigMFFile:
    names = get_sigmf_filenames(path)
    meta = names["meta_fn"]
    require_file(meta, f"SigMF metadata beside {path}", "write it, or state --datatype and --sample_rate")
    try:
        metadata = json.loads(meta.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CaptureError(f"{meta} is not JSON ({error})", "SigMF metadata") from None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("global"), dict):
        raise CaptureError(f"{meta} has no 'global' object", "SigMF metadata")
    lists = [metadata.setdefault(part, []) for part in ("captures", "annotations")]
    if any(not isinstance(part, list) or not all(isinstance(entry, dict) for entry in part) for part in lists):
        raise CaptureError(f"{meta}: 'captures' or 'annotations' is no list of objects", "SigMF metadata")
    if metadata["global"].get("core:datatype") is None:
        raise CaptureError(f"{meta} has no core:datatype", f"one of {', '.join(DATATYPES)}")
    try:
        datatype_named(str(metadata["global"]["core:datatype"]))
    except CaptureError as error:
        raise CaptureError(f"{meta}: {error}") from None
    try:
        data = get_dataset_filename_from_metadata(meta, metadata)
        if data is None:
            raise CaptureError(f"no data file {names['data_fn']}", f"the samples that {meta} describes")
        require_file(data)
        return SigMFFile(metadata=metadata, data_file=data, skip_checksum=True)
    except (SigMFError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CaptureError(f"{meta} cannot be used ({error})", "valid SigMF metadata") from None


def _require_complex(path: Path, source: SigMFFile) -> str:
    kind = datatype_named(str(source.get_global_field("core:datatype")))
    if source.num_channels != 1:
        raise CaptureError(f"{path} interleaves {source.num_channels} channels", "one", "split the channels")
    return kind


def _require_whole_numbers(path: Path, source: SigMFFile) -> None:
    """CaptureError where a count of bytes or samples is none, or the facts are no object."""
    stated = {key: source.get_global_field(key, 0) for key in ("core:offset", "core:trailing_bytes")}
    for number, capture in enumerate(source.get_captures()):
        stated[f"core:header_bytes of capture {number}"] = capture.get("core:header_bytes", 0)
    for key, value in stated.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise CaptureError(f"{path}: {key} {value!r}", "a whole number, 0 or more", "mend the metadata")
    if not isinstance(source.get_global_field("lwm:facts", {}), dict):
        raise CaptureError(f"{path}: lwm:facts that are no object", "a JSON object", "mend the metadata")


def _count(path: Path, source: SigMFFile, kind: str) -> int:
    """Samples in the data; CaptureError when the last is cut or an annotation or capture ends beyond them."""
    size = source.data_size_bytes
    if size is None:
        skipped = sum(capture.get("core:header_bytes", 0) for capture in source.get_captures())
        size = Path(source.data_file).stat().st_size - skipped - source.get_global_field("core:trailing_bytes", 0)
    samples = whole_samples(path, size, 2 * np.dtype(DATATYPES[kind]).itemsize, kind)
    offset = source.get_global_field("core:offset", 0)
    for part in (*source.get_captures(), *source.get_annotations()):
        start, count = part.get("core:sample_start", 0), part.get("core:sample_count", 0)
        if not (isinstance(start, int) and isinstance(count, int)):
            raise CaptureError(f"{path}: a sample_start or sample_count is no whole number", "SigMF metadata")
        if start - offset + count > samples:
            raise CaptureError(
                f"{path} holds {samples} samples, its metadata speak of {start - offset + count}",
                "data as long as the metadata say",
                "it is truncated: copy it again",
            )
    return samples


def _verify(path: Path, source: SigMFFile) -> None:
    stated = source.get_global_field("core:sha512")
    if source.data_file is None:
        found = calculate_sha512(fileobj=source.data_buffer)
    elif source.data_size_bytes is None:
        found = calculate_sha512(filename=source.data_file)
    else:  # inside a tar
        found = calculate_sha512(filename=source.data_file, offset=source.data_offset, size=source.data_size_bytes)
    if stated != found:
        raise CaptureError(
            f"{path}: data with SHA-512 {found[:12]}...", f"{stated}"[:12] + "... as the metadata say", "copy it again"
        )


def _emission(
    path: Path, note: dict[str, Any], offset: int, samples: int, rate: float, center: float | None
) -> Emission:
    first = note.get("core:sample_start", 0) - offset
    last = first + note["core:sample_count"] if "core:sample_count" in note else samples
    try:
        attributes = dict(note.get("lwm:attributes", {}))
        if "core:comment" in note:
            attributes |= _comment(note["core:comment"])
        low, high = (
            note[key] - (center or 0.0) if key in note else default
            for key, default in (("core:freq_lower_edge", -rate / 2), ("core:freq_upper_edge", rate / 2))
        )
        return Emission(
            technology=str(note.get("core:label", "")),
            link=note.get("lwm:link", ""),
            modulation=note.get("lwm:modulation", ""),
            start=first / rate,
            stop=last / rate,
            low=low,
            high=high,
            snr_db=note.get("lwm:snr_db"),
            attributes=attributes,
        )
    except (TypeError, ValueError, CaptureError) as error:
        raise CaptureError(f"{path}: annotation at sample {first}: {error}", "a box in time and frequency") from None


def _comment(comment: Any) -> dict[str, Any]:
    try:
        parsed = json.loads(comment)
    except (TypeError, ValueError):
        parsed = None
    return parsed if isinstance(parsed, dict) else {"comment": comment}


def _encode(iq: Complex, kind: str) -> np.ndarray:
    """Components ``[2 S]`` of a format; CaptureError when an integer one cannot hold them."""
    values, component = iq.view(np.float32), np.dtype(DATATYPES[kind])
    if component.kind == "f":
        return values.astype(component)
    full = 2 ** (component.itemsize * 8 - 1)
    scaled = np.round(values.astype(np.float64) * full)
    # +1.0 itself has no integer; like every converter we take the step below it.
    if scaled.max() > full or scaled.min() < -full:
        peak = float(np.abs(values).max())
        raise CaptureError(f"a component of {peak:.4g}", f"at most 1.0 for {kind}", "scale it, or write cf32_le")
    return (np.minimum(scaled, full - 1) + (full if component.kind == "u" else 0)).astype(component)


def _metadata(capture: Capture, kind: str, digest: str) -> str:
    """SigMF metadata of a capture as JSON text, checked against the SigMF schema."""
    rate, center = capture.sample_rate, capture.center_frequency
    described = SigMFFile(
        global_info={
            "core:datatype": kind,
            "core:sample_rate": rate,
            "core:sha512": digest,
            "core:recorder": "lwm",
            "core:extensions": [EXTENSION],
            "lwm:facts": capture.facts,
        }
    )
    if isinstance(capture.facts.get("description"), str):
        described.set_global_field("core:description", capture.facts["description"])
    described.add_capture(0, metadata={} if center is None else {"core:frequency": center})
    inside = (emission.clipped(capture.duration, math.inf) for emission in capture.emissions)
    for emission in (e for e in inside if e):
        start = round(emission.start * rate)
        metadata = {
            "core:label": emission.technology,
            "core:freq_lower_edge": emission.low + (center or 0.0),
            "core:freq_upper_edge": emission.high + (center or 0.0),
            "lwm:link": emission.link,
            "lwm:modulation": emission.modulation,
            "lwm:attributes": emission.attributes,
        }
        if emission.snr_db is not None:
            metadata["lwm:snr_db"] = emission.snr_db
        described.add_annotation(start, length=round(emission.stop * rate) - start, metadata=metadata)
    try:
        described.validate()
    except sigmf.error.SigMFValidationError as error:
        raise CaptureError(f"metadata that SigMF does not allow ({error})", "values of its schema") from None
    return described.dumps(pretty=True)
