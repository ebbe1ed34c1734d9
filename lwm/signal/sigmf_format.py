"""SigMF in and out. An emission is an annotation; what SigMF has no key for stands under ``lwm:``."""

import json
import math
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

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
    checked_rate,
    datatype_named,
    whole_samples,
)

EXTENSION = {"name": "lwm", "version": "0.1.0", "optional": True}
"""How a file that we write declares the keys ``lwm:facts``, ``lwm:link``, ``lwm:modulation``, ``lwm:snr_db`` and
``lwm:attributes``."""

_FACTS = ("description", "author", "license", "hw", "recorder", "data_doi", "meta_doi", "sha512")


def open_sigmf(
    path: Path, sample_rate: float | None = None, center_frequency: float | None = None, verify: bool = False
) -> Recording:
    """Open a SigMF recording; arguments and errors are those of :func:`lwm.signal.io.open_recording`.

    An annotation's ``core:label`` is the emission's technology; one without a sample count lasts to the end, one
    without frequency edges fills the band. A ``core:comment`` that is a JSON object becomes attributes.
    """
    with warnings.catch_warnings():
        # The library warns of what is checked, and refused, below.
        warnings.simplefilter("ignore")
        source = _from_archive(path) if path.name.lower().endswith(SIGMF_ARCHIVES) else _from_pair(path)
    kind = _require_complex(path, source)
    samples = _count(path, source, kind)
    if verify:
        _verify(path, source)
    first = (source.get_captures() or [{}])[0]
    rate = _agreed(path, "sample rate", source.get_global_field("core:sample_rate"), sample_rate)
    center = _agreed(path, "center frequency", first.get("core:frequency"), center_frequency)
    rate = checked_rate(path, rate)
    facts = source.get_global_field("lwm:facts")
    if facts is None:
        stated = {name: source.get_global_field(f"core:{name}") for name in _FACTS}
        stated["datetime"] = first.get("core:datetime")
        facts = {"source": path.name, "datatype": kind} | {k: v for k, v in stated.items() if v is not None}
    offset = source.get_global_field("core:offset", 0)
    emissions = [_emission(path, note, offset, samples, rate, center) for note in source.get_annotations()]

    def load(first: int, count: int) -> Complex:
        return np.ascontiguousarray(source.read_samples(first, count), dtype=np.complex64)

    return Recording(path, samples, rate, center, load, emissions, facts)


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
    _require_file(path)
    try:
        return SigMFArchiveReader(path, skip_checksum=True).sigmffile
    except (SigMFError, tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError) as error:
        raise CaptureError(f"{path} is no readable SigMF archive ({error})", "a whole .sigmf file") from None


def _from_pair(path: Path) -> SigMFFile:
    names = get_sigmf_filenames(path)
    meta = names["meta_fn"]
    _require_file(meta, f"SigMF metadata beside {path}", "write it, or state --datatype and --sample_rate")
    try:
        metadata = json.loads(meta.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CaptureError(f"{meta} is not JSON ({error})", "SigMF metadata") from None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("global"), dict):
        raise CaptureError(f"{meta} has no 'global' object", "SigMF metadata")
    if any(not isinstance(metadata.setdefault(part, []), list) for part in ("captures", "annotations")):
        raise CaptureError(f"{meta}: 'captures' or 'annotations' is no list", "SigMF metadata")
    if metadata["global"].get("core:datatype") is None:
        raise CaptureError(f"{meta} has no core:datatype", f"one of {', '.join(DATATYPES)}")
    datatype_named(str(metadata["global"]["core:datatype"]))
    try:
        data = get_dataset_filename_from_metadata(meta, metadata)
        if data is None:
            raise CaptureError(f"no data file {names['data_fn']}", f"the samples that {meta} describes")
        _require_file(data)
        return SigMFFile(metadata=metadata, data_file=data, skip_checksum=True)
    except (SigMFError, KeyError, TypeError, ValueError) as error:
        raise CaptureError(f"{meta} cannot be used ({error})", "valid SigMF metadata") from None


def _require_file(path: Path, expected: str = "a recording", remedy: str = "check the name") -> None:
    if not path.is_file():
        raise CaptureError(f"no file {path}", expected, remedy)
    if path.stat().st_size == 0:
        raise CaptureError(f"{path} is empty", expected, "record or copy it again")


def _require_complex(path: Path, source: SigMFFile) -> str:
    kind = datatype_named(str(source.get_global_field("core:datatype")))
    if source.num_channels != 1:
        raise CaptureError(f"{path} interleaves {source.num_channels} channels", "one", "split the channels")
    return kind


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


def _agreed(path: Path, what: str, stated: Any, given: float | None) -> float | None:
    """The file's own value, or the one given where it has none; CaptureError when the two differ."""
    if stated is None:
        return given
    if isinstance(stated, bool) or not isinstance(stated, int | float):
        raise CaptureError(f"{path}: {what} {stated!r}", "a number of Hz")
    if given is not None and not math.isclose(given, stated, rel_tol=1e-9):
        raise CaptureError(f"{path}: {what} {given:g} Hz was given", f"{stated:g} Hz, which the file states itself")
    return float(stated)


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
