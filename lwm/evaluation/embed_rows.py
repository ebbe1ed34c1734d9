"""What ``lwm embed`` reads: the samples of a data set, or windows of recordings that no data set was made of."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import h5py
import numpy as np
import torch
from torch import Tensor

from lwm.data.dataset import SpectrogramDataset
from lwm.data.ingest import Reading, named_errors
from lwm.data.manifest import ordered_labels
from lwm.data.reader import origin_of
from lwm.data.sources import Source
from lwm.data.windows import Windows
from lwm.output import file_sha256
from lwm.signal.recipe import Recipe

T = TypeVar("T")

_CHUNK = 512
"""Rows whose facts are in memory together."""


class Batch(NamedTuple):
    """``pictures``: float16 ``[B, C, F, T]`` in dB, as shards keep them. ``facts``: of recordings, JSON-able."""

    pictures: Tensor
    facts: list[dict[str, Any]]


class Rows(Protocol):
    """Samples in a fixed order: row i of the output is sample i."""

    count: int
    recipe: Recipe
    keeps_facts: bool

    def settings(self) -> dict[str, Any]:
        """What must not change between an interrupted run and the one that goes on; JSON-able."""
        ...

    def batches(self, first: int, size: int) -> Iterator[Batch]:
        """Batches of up to ``size`` samples from sample ``first`` on."""
        ...

    def write_facts(self, target: h5py.File, kept: Path) -> None:
        """Labels, values, records, times and sources of all rows; ``kept``: a JSON line a row, where facts are kept."""
        ...


class DatasetRows:
    """Samples of a data set, whose facts are read again at the end.

    Args:
        root: the data set's folder.
    """

    keeps_facts = False

    def __init__(self, root: Path) -> None:
        self.dataset = SpectrogramDataset(root)
        self.count, self.recipe = len(self.dataset), self.dataset.recipe

    def settings(self) -> dict[str, Any]:
        """The data set's name and what its manifest holds."""
        root = self.dataset.root
        return {"data": root.name, "manifest": file_sha256(root / "manifest.json")}

    def batches(self, first: int, size: int) -> Iterator[Batch]:
        """Batches of up to ``size`` samples from sample ``first`` on."""
        for start in range(first, self.count, size):
            indices = np.arange(start, min(start + size, self.count))
            yield Batch(self.dataset.batch(indices, dtype=torch.float16)["spectrogram"], [])

    def write_facts(self, target: h5py.File, kept: Path) -> None:
        """Labels, values, records, times and sources of all rows."""
        for name, codes in self.dataset.labels.items():
            target.create_dataset(f"labels/{name}", data=codes.astype("<i4"))
            # A data set of its own: an attribute holds 64 KiB, too little for the names of many channel draws.
            target.create_dataset(f"names/{name}", data=self.dataset.label_names[name], dtype=h5py.string_dtype())
        for name, numbers in self.dataset.values.items():
            target.create_dataset(f"values/{name}", data=numbers.astype("<f4"))
        _write_records(target, self.count, (self.dataset.record(index) for index in range(self.count)))


class RecordingRows:
    """Windows of recordings, read and made into pictures as they are asked for.

    Args:
        sources: the recordings.
        reading: how they are opened and cut.

    Raises:
        CaptureError: a recording that cannot be used, naming it.
    """

    keeps_facts = True

    def __init__(self, sources: Sequence[Source], reading: Reading) -> None:
        self.sources, self.reading = sources, reading
        self.recipe: Recipe = reading.recipe  # type: ignore[assignment] # one of CSI is a recipe to a model
        self.count = sum(len(windows.starts) for _, windows in self._windows())

    def _windows(self) -> Iterator[tuple[Source, Windows]]:
        for source in self.sources:
            with named_errors(source):
                for windows in self.reading.windows(source):
                    yield source, windows

    def settings(self) -> dict[str, Any]:
        """The recordings with sizes and times of their last change, and how they are opened and cut."""
        files = [[str(source.path), *_stamps(source.path)] for source in self.sources]
        labels = [[source.labels, source.spans] for source in self.sources]
        how = {name: value for name, value in asdict(self.reading).items() if name != "recipe"}
        return {"data": f"{len(files)} recordings", "files": files, "labels": labels, **how}

    def batches(self, first: int, size: int) -> Iterator[Batch]:
        """Batches of up to ``size`` windows from window ``first`` on; those before are not read."""
        places = ((source, windows, start) for source, windows in self._windows() for start in windows.starts)
        for _, group in _groups(islice(places, first, None), size):
            pictures, facts = [], []
            for source, windows, start in group:
                with named_errors(source):
                    sample = windows.sample(start)
                pictures.append(torch.as_tensor(sample.spectrogram).half())
                facts.append({"labels": sample.labels, "values": sample.values, "record": sample.record})
            yield Batch(torch.stack(pictures), facts)

    def write_facts(self, target: h5py.File, kept: Path) -> None:
        """Labels, values, records, times and sources of all rows, of their JSON lines."""
        names: dict[str, set[str]] = defaultdict(set)
        values: set[str] = set()
        for facts in _lines(kept):
            values.update(facts["values"])
            for label, name in facts["labels"].items():
                names[label].add(name)
        ordered = ordered_labels(names, {})
        codes = {label: {name: code for code, name in enumerate(found)} for label, found in ordered.items()}
        for label, found in ordered.items():
            target.create_dataset(f"names/{label}", data=found, dtype=h5py.string_dtype())
        columns = {label: target.create_dataset(f"labels/{label}", (self.count,), "<i4") for label in ordered}
        numbers = {name: target.create_dataset(f"values/{name}", (self.count,), "<f4") for name in sorted(values)}
        for first, part in _groups(_lines(kept)):
            rows = slice(first, first + len(part))
            for label, column in columns.items():
                column[rows] = [codes[label].get(facts["labels"].get(label), -1) for facts in part]
            for name, column in numbers.items():
                column[rows] = [facts["values"].get(name, np.nan) for facts in part]
        _write_records(target, self.count, (facts["record"] for facts in _lines(kept)))


def ahead(batches: Iterator[Batch], pin: bool) -> Iterator[Batch]:
    """The batches, each made in a thread while the one before is used; ``pin`` puts them where a GPU reads them."""

    def following() -> Batch | None:
        batch = next(batches, None)
        return batch._replace(pictures=batch.pictures.pin_memory()) if batch is not None and pin else batch

    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(following)
        while (batch := waiting.result()) is not None:
            waiting = thread.submit(following)
            yield batch


def _write_records(target: h5py.File, count: int, records: Iterator[dict[str, Any]]) -> None:
    """``record``, ``source`` and ``time`` of all rows, some at a time."""
    text = h5py.string_dtype()
    whole, source = target.create_dataset("record", (count,), text), target.create_dataset("source", (count,), text)
    time = target.create_dataset("time", (count,), "<f8")
    for first, part in _groups(records):
        rows = slice(first, first + len(part))
        whole[rows] = [json.dumps(record) for record in part]
        source[rows] = [str(record.get("source") or origin_of(record)) for record in part]
        time[rows] = [_seconds(record) for record in part]


def _seconds(record: dict[str, Any]) -> float:
    """Where a sample begins, s from the begin of its recording; NaN where it is of none."""
    if record.get("start") is None:
        return float("nan")
    facts = record.get("facts") or {}
    return float(record["start"]) + float(facts.get("segment_start_s") or 0.0)


def _groups(items: Iterator[T], size: int = _CHUNK) -> Iterator[tuple[int, list[T]]]:
    """Up to ``size`` items at a time, with the number of the first."""
    first = 0
    while part := list(islice(items, size)):
        yield first, part
        first += len(part)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _stamps(path: Path) -> list[list[int]]:
    """Bytes and time of the last change (ns) of a recording's file; of a SigMF recording also those of its samples."""
    files = dict.fromkeys([path, path.with_suffix(".sigmf-data")])
    return [[found.st_size, found.st_mtime_ns] for found in (each.stat() for each in files if each.is_file())]
