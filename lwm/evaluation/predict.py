"""``lwm predict``: what a model with a head says of recordings, window by window, as a table and SigMF annotations.

``predictions.csv`` has a row a window (of a detection head: a box) with the columns of :mod:`lwm.evaluation.readout`,
times in seconds from the begin of the recording; ``NAME.sigmf-meta`` is a copy of the recording's metadata with
annotations added; ``predictions.json`` says with which model all that was made. A recording is read window by window
and nothing of it is kept.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from lwm import __version__
from lwm.console import progress, say
from lwm.data.ingest import Reading
from lwm.data.sources import Source, find_sources
from lwm.errors import ConfigError, ModelError, OutputError
from lwm.evaluation.annotations import AnnotatedMetadata, unique_names
from lwm.evaluation.embed_rows import RecordingRows, ahead
from lwm.evaluation.readout import Finding, Place, Readout, RunMerger
from lwm.hub import from_pretrained, weights_sha256
from lwm.models.headed import HeadedModel
from lwm.output import atomic_folder, require_empty, write_json
from lwm.signal.csi_recipe import CsiRecipe
from lwm.signal.recording import SUFFIXES, datatype_named

TABLE = "predictions.csv"
SUMMARY = "predictions.json"

Said = tuple[dict[str, Any], list[Finding]]
"""Facts of a window and what was found in it."""


def predict(
    paths: list[str],
    model: str,
    out: str,
    overwrite: bool = False,
    batch_size: int = 32,
    threshold: float = 0.5,
    hop: float | None = None,
    sample_rate: float | None = None,
    datatype: str | None = None,
    center_frequency: float | None = None,
    dc_notch: float | None = None,
    variable: str | None = None,
) -> Path:
    """Say what a model with a head finds in recordings: a table and SigMF annotations; returns their folder.

    Either all recordings get through or nothing is written. The recordings stay as they are.

    Args:
        paths: recordings, folders of them (with subfolders) or tables, as lwm ingest takes.
        model: model folder with a head, for example the one that lwm fewshot wrote.
        out: folder to make: predictions.csv, predictions.json and a .sigmf-meta for each recording of IQ.
        overwrite: replace the predictions that the folder holds.
        batch_size: windows at a time.
        threshold: probability from which a label of several, or a box, counts.
        hop: seconds from window to window; the recipe's duration by default.
        sample_rate: Hz, for recordings that do not state theirs; packets per second for CSI.
        datatype: sample format of raw IQ, for example ci16_le.
        center_frequency: Hz, for recordings that do not state theirs.
        dc_notch: Hz on both sides of 0 below which IQ is taken away; what the head learnt with by default.
        variable: variable of a .mat file, or dataset of an HDF5 file, that holds the samples.

    Raises:
        ModelError: no model folder, or a model without a head.
        CaptureError: a recording that cannot be used, or that cannot give the recipe's window, naming it.
        ConfigError: no recording found, or an impossible option.
        OutputError: the folder is not empty or holds other things than predictions, or cannot be written.
    """
    folder = Path(out)
    if batch_size < 1 or not 0 < threshold < 1 or (hop is not None and not hop > 0):
        raise ConfigError(
            f"batch_size {batch_size}, threshold {threshold}, hop {hop}", "at least 1, between 0 and 1, above 0 s"
        )
    _require_replaceable(folder, overwrite)
    headed = load_headed(model)
    learnt = _learnt_with(model)
    kind: Any = "csi" if isinstance(headed.recipe, CsiRecipe) else "iq"
    notch = learnt.get("dc_notch") if dc_notch is None else dc_notch
    reading = Reading(kind, headed.recipe, sample_rate, datatype, center_frequency, hop, notch, variable)
    sources = find_sources(paths, kind, any_suffix=datatype is not None)
    rows = RecordingRows(sources, reading)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    headed.to(device)
    with atomic_folder(folder, overwrite=overwrite) as partial:
        writer = _Writer(folder, partial, sources, reading, Readout(headed.head, headed.recipe, threshold))
        with progress("predict", rows.count, "windows") as bar:
            writer.write(_say_of(headed, rows, batch_size, writer.readout, bar))
        summary = writer.summary(rows.count, sorted(learnt.get("sample_rates", [])))
        write_json(partial / SUMMARY, _origin(model, headed) | summary)
        if overwrite:
            _require_replaceable(folder, overwrite)  # again: it took a while
    _tell(folder, summary)
    return folder


def load_headed(folder: str) -> HeadedModel:
    """A model with a head, in evaluation mode.

    Raises:
        ModelError: no model folder, or one without a head.
    """
    model = from_pretrained(folder)
    if not isinstance(model, HeadedModel):
        raise ModelError(
            f"{folder} is a {type(model).__name__} without a head",
            "a model folder with a head",
            "make one with lwm fewshot --data FOLDER_OF_CLASSES, which writes OUT/head",
        )
    return model


def _learnt_with(folder: str) -> dict[str, Any]:
    """How the head's own recordings were read, where its folder says so."""
    file = Path(folder) / "provenance.json"
    known = json.loads(file.read_text(encoding="utf-8")).get("reading") if file.is_file() else None
    return known if isinstance(known, dict) else {}


def _origin(folder: str, headed: HeadedModel) -> dict[str, Any]:
    return {
        "lwm_version": __version__,
        "model": Path(folder).name,
        "weights_sha256": weights_sha256(headed),
        "head": headed.head.head_type,
        "targets": list(headed.head.targets),
        "recipe": headed.recipe.to_dict(),
    }


def _say_of(headed: HeadedModel, rows: RecordingRows, batch_size: int, readout: Readout, bar: Any) -> Iterator[Said]:
    """What is found in each window, in order; the next windows are read while the model looks at these."""
    device = next(headed.parameters()).device
    for batch in ahead(rows.batches(0, batch_size), pin=device.type == "cuda"):
        predicted = headed.predict(batch.pictures.to(device).float())
        places = [_place(facts) for facts in batch.facts]
        found: dict[int, list[Finding]] = {number: [] for number in range(len(places))}
        for number, finding in readout.findings(predicted, places):
            found[number].append(finding)
        yield from zip(batch.facts, found.values(), strict=True)
        bar.update(len(places))


def _place(facts: dict[str, Any]) -> Place:
    values, record = facts["values"], facts["record"]
    of_recording = record.get("facts") or {}
    return Place(
        float(values["start"]) + float(of_recording.get("segment_start_s") or 0.0),
        float(values["duration"]),
        float(values["sample_rate"]),
        values.get("center_frequency"),
        int(record["valid_columns"]),
        int(of_recording.get("segment") or 0),
    )


class _Writer:
    """The files of a run, recording after recording.

    Args:
        folder: where the files will stand in the end.
        partial: where they are written.
        sources: the recordings.
        reading: how they are opened.
        readout: what makes findings of predictions.
    """

    def __init__(self, folder: Path, partial: Path, sources: list[Source], reading: Reading, readout: Readout) -> None:
        self.folder, self.partial, self.reading, self.readout = folder, partial, reading, readout
        paths = [source.path for source in sources]
        self.names = dict(zip(map(str, paths), unique_names(paths), strict=True))
        self.recordings: list[dict[str, Any]] = []

    def write(self, said: Iterable[Said]) -> None:
        """Take in everything that is said; windows of a recording follow each other."""
        with (self.partial / TABLE).open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(self.readout.columns)
            for recording, windows in groupby(said, key=lambda pair: str(pair[0]["record"]["recording"])):
                self._recording(recording, windows, table)

    def summary(self, windows: int, learnt_rates: list[float]) -> dict[str, Any]:
        """JSON-able: what was found in each recording, and rates that the head never saw."""
        return {
            "windows": windows,
            "recordings": self.recordings,
            "learnt_sample_rates": learnt_rates,
            "files": sorted([SUMMARY, *(path.name for path in self.partial.iterdir())]),
        }

    def _recording(self, recording: str, windows: Iterator[Said], table: Any) -> None:
        count, labels, rates = 0, Counter[str](), set[float]()
        merger = RunMerger(self.readout.merges)
        with ExitStack() as stack:
            notes: AnnotatedMetadata | None = None
            for facts, findings in windows:
                if notes is None and self.reading.kind == "iq":
                    notes = self._metadata(recording, facts)
                    stack.callback(notes.close)
                count += 1
                rates.add(float(facts["values"]["sample_rate"]))
                for finding in findings:
                    labels[finding.label] += 1
                    table.writerow([recording, *_cells(finding)])
                    if notes is not None:
                        for run in merger.add(finding):
                            notes.add(run)
            if notes is not None:
                for run in merger.end():
                    notes.add(run)
                notes.write(self.partial / f"{self.names[recording]}.sigmf-meta")
        self.recordings.append(
            {"recording": recording, "windows": count, "labels": dict(labels), "sample_rates": sorted(rates)}
        )

    def _metadata(self, recording: str, facts: dict[str, Any]) -> AnnotatedMetadata:
        path = Path(recording)
        stated = self.reading.datatype or SUFFIXES.get(path.suffix.lower())
        known = {
            "sample_rate": facts["values"]["sample_rate"],
            "center_frequency": facts["values"].get("center_frequency"),
            "datatype": None if stated is None else datatype_named(stated),
        }
        return AnnotatedMetadata(path, self.folder, self.partial / f".{self.names[recording]}.notes", known)


def _cells(finding: Finding) -> list[str]:
    times = [f"{finding.start:.9g}", f"{finding.stop:.9g}"]
    sure = "" if finding.probability is None else f"{finding.probability:.6g}"
    return [*times, finding.label, sure, *("" if cell is None else f"{cell:.9g}" for cell in finding.cells)]


def _require_replaceable(folder: Path, overwrite: bool) -> None:
    """Refuse an output folder with something in it, and with ``overwrite`` one that holds more than predictions.

    Raises:
        OutputError: see above; a recording that lies there would go with the folder.
    """
    require_empty(folder, overwrite=overwrite)
    if folder.is_file():
        raise OutputError(f"{folder} is a file", "a folder", "choose another --out")
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not there:
        return
    try:
        ours = set(json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, LookupError, TypeError):
        ours = set()
    strange = sorted(there - ours)
    if strange:
        raise OutputError(
            f"{folder} holds {', '.join(strange[:3])}, which lwm predict did not write",
            "predictions only in a folder to overwrite",
            "choose another --out",
        )


def _tell(folder: Path, summary: dict[str, Any]) -> None:
    known = set(summary["learnt_sample_rates"])
    for found in summary["recordings"]:
        total = sum(found["labels"].values())
        said = ", ".join(f"{name or 'no label'} {count}" for name, count in Counter(found["labels"]).most_common(4))
        say(f"  {Path(found['recording']).name}: {found['windows']} windows{f', {said}' if total else ''}")
        new = [rate for rate in found["sample_rates"] if known and rate not in known]
        if new:
            rates = ", ".join(f"{rate:g}" for rate in sorted(known))
            say(f"  note: its {new[0]:g} Hz are no sample rate that the head learnt from ({rates} Hz)")
    say(f"wrote {folder}: {', '.join(summary['files'])}")
    annotated = [name for name in summary["files"] if name.endswith(".sigmf-meta")]
    if annotated:
        say(f"next: lwm inspect {folder / annotated[0]}")
