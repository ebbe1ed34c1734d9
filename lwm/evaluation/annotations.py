"""Annotations beside somebody's recording: a copy of its SigMF metadata with more of them, the recording untouched."""

import json
import os
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import sigmf
from sigmf.archivereader import SigMFArchiveReader
from sigmf.sigmffile import get_dataset_filename_from_metadata, get_sigmf_filenames

from lwm.data.sources import recording_name
from lwm.errors import CaptureError
from lwm.evaluation.readout import Finding
from lwm.signal.recording import SIGMF_ARCHIVES, SIGMF_SUFFIXES
from lwm.signal.sigmf_format import EXTENSION

_GENERATOR = "lwm predict"


class AnnotatedMetadata:
    """SigMF metadata of a recording in the making: what it said itself, and annotations that are added.

    Annotations go to a file as they come and only their places stay in memory, so that a recording may be long. The
    metadata point at the recording's data by a path relative to where they will stand (``core:dataset``; the standard
    wants both in one folder, which is not ours to write to). Samples in a container, such as WAV, numpy or an archive,
    cannot be pointed at: those metadata are marked ``core:metadata_only`` and name the file under ``lwm:recording``.

    Args:
        path: the recording's file.
        folder: where the metadata will stand in the end.
        scratch: file for the annotations; whoever calls deletes it.
        described: what is known of it: ``sample_rate`` (Hz), ``center_frequency`` (Hz or None), and ``datatype``, the
            SigMF name of raw samples, None where the file is no raw IQ.

    Raises:
        CaptureError: metadata that cannot be read.
    """

    def __init__(self, path: Path, folder: Path, scratch: Path, described: dict[str, Any]) -> None:
        self.metadata = _metadata_of(path, folder, described)
        self.rate = float(described["sample_rate"])
        self.offset = int(self.metadata["global"].get("core:offset", 0))
        self._firsts, self._places = array("q"), array("q")
        self._scratch = scratch
        self._file: IO[bytes] = scratch.open("w+b")
        for note in self.metadata.pop("annotations", []):
            self._put(int(note.get("core:sample_start", 0)), note)

    def add(self, finding: Finding) -> None:
        """One annotation for each name of a finding."""
        first = self.offset + round(finding.start * self.rate)
        count = max(1, self.offset + round(finding.stop * self.rate) - first)
        center = finding.center_frequency or 0.0
        for name, sure in finding.names.items():
            note: dict[str, Any] = {
                "core:sample_start": first,
                "core:sample_count": count,
                "core:freq_lower_edge": finding.band[0] + center,
                "core:freq_upper_edge": finding.band[1] + center,
                "core:label": name,
                "core:generator": _GENERATOR,
            }
            if finding.probability is not None:
                note["lwm:attributes"] = {"probability": round(sure, 6)}
            self._put(first, note)

    def write(self, path: Path) -> None:
        """The whole metadata, annotations in the order of their samples, to ``path``."""
        plain = json.dumps(self.metadata, indent=1, ensure_ascii=False)
        order = np.argsort(np.array(self._firsts, np.int64), kind="stable")
        with path.open("w", encoding="utf-8") as out:
            out.write(plain[: plain.rindex("}")].rstrip() + ',\n "annotations": [')
            for number, place in enumerate(order):
                self._file.seek(self._places[place])
                out.write((",\n  " if number else "\n  ") + self._file.readline().decode().rstrip("\n"))
            out.write("\n ]\n}\n")

    def close(self) -> None:
        """Let go of the scratch file and delete it."""
        self._file.close()
        self._scratch.unlink(missing_ok=True)

    def _put(self, first: int, note: dict[str, Any]) -> None:
        self._firsts.append(first)
        self._places.append(self._file.tell())
        self._file.write(json.dumps(note, ensure_ascii=False).encode() + b"\n")


def unique_names(paths: Sequence[Path]) -> list[str]:
    """A name for each recording's metadata: its own; where two would clash, with its folder's, then with a number."""
    plain = [recording_name(path) for path in paths]
    count = Counter(name.casefold() for name in plain)
    chosen, taken = [], set()
    for path, name in zip(paths, plain, strict=True):
        wanted = name if count[name.casefold()] == 1 else f"{path.absolute().parent.name}-{name}"
        found, number = wanted, 2
        while found.casefold() in taken:
            found, number = f"{wanted}-{number}", number + 1
        taken.add(found.casefold())
        chosen.append(found)
    return chosen


def _metadata_of(path: Path, folder: Path, described: dict[str, Any]) -> dict[str, Any]:
    """Global, captures and annotations of a recording, its data pointed at from ``folder``."""
    names = get_sigmf_filenames(path)
    meta = Path(names["meta_fn"])
    if path.name.lower().endswith(SIGMF_ARCHIVES):
        inside = SigMFArchiveReader(path, skip_checksum=True).sigmffile
        found, data = json.loads(inside.dumps()), None
    elif path.name.lower().endswith(SIGMF_SUFFIXES) or meta.is_file():
        found = json.loads(meta.read_text(encoding="utf-8"))
        data = get_dataset_filename_from_metadata(meta, found)
        if data is None:
            raise CaptureError(f"no data file {names['data_fn']}", f"the samples that {meta} describes")
    else:
        found, data = _described(described), path if described["datatype"] is not None else None
    whole = found["global"]
    extensions = [one for one in whole.get("core:extensions", []) if one.get("name") != EXTENSION["name"]]
    whole.setdefault("core:sample_rate", described["sample_rate"])
    whole["core:extensions"] = [*extensions, EXTENSION]
    whole["lwm:recording"] = path.name
    if data is None:
        whole.pop("core:dataset", None)
        whole["core:metadata_only"] = True
    else:
        whole.pop("core:metadata_only", None)
        whole["core:dataset"] = os.path.relpath(Path(data).resolve(), folder.resolve())
    return {"global": whole, "captures": found.get("captures") or [{"core:sample_start": 0}]} | {
        "annotations": found.get("annotations") or []
    }


def _described(described: dict[str, Any]) -> dict[str, Any]:
    center = described["center_frequency"]
    stated = {
        "core:version": sigmf.__specification__,
        # What a container's samples are read as.
        "core:datatype": described["datatype"] or "cf32_le",
    }
    capture = {"core:sample_start": 0} | ({} if center is None else {"core:frequency": center})
    return {"global": stated, "captures": [capture]}
