"""Shards: a few hundred spectrograms with labels and facts in one HDF5 file, made to be memory-mapped.

A tiny data set for a test or an experiment is one call (see :func:`write_dataset`)::

    write_dataset(root, spectrogram, recipe, labels={"technology": ["lte", "nr"], "snr": ["0", "5"]},
                  split=["train", "test"], valid=None, clean=None, values={}, records=None)

with ``spectrogram`` float ``[N, C, F, T]`` in dB. Layout of a shard of N samples:

- ``spectrogram`` ``[N, C, F, T]``: float16 dB, or uint8 with attributes ``scale`` and ``shift`` (``stored * scale +
  shift`` is dB), contiguous or in compressed chunks; optional ``clean`` of the same shape: without noise,
- ``valid`` ``[N, T]`` uint8: 0 where a short capture was padded,
- ``labels/NAME`` ``[N]`` int16 codes, attribute ``names``; code -1: not labelled,
- ``values/NAME`` ``[N]`` float32,
- ``record`` ``[N]``: one JSON object a sample,
- optional ``mask`` ``[N, F, T]`` uint8; ``boxes`` ``[M, 4]`` float32 (start s, stop s, low Hz, high Hz) with
  ``box_label`` ``[M]`` int16 (attribute ``names``) and ``box_offset`` ``[N + 1]``; ``iq`` ``[N, S, 2]`` with
  ``iq_length`` ``[N]``, shorter ones filled with zeros,
- ``level_histogram`` int64: see :mod:`lwm.data.statistics`,
- attributes ``recipe``, ``storage``, ``versions`` (JSON), ``seed`` (-1: none), ``licence``.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from lwm.data.finish import finish_dataset
from lwm.data.manifest import Manifest, ShardEntry, package_versions
from lwm.data.reader import RESERVED_LABELS, ShardReader
from lwm.data.statistics import LevelCounter
from lwm.data.storage import Storage
from lwm.errors import DatasetError
from lwm.output import atomic_file
from lwm.signal.capture import Emission
from lwm.signal.recipe import Recipe

__all__ = [
    "UNLABELLED",
    "Sample",
    "ShardReader",
    "ShardWriter",
    "main_emission",
    "shard_name",
    "write_dataset",
]

UNLABELLED = -1
"""Code of a sample that lacks a label which others have."""


CAPTIONED = ("technology", "link", "modulation", "mobility")
"""Labels that stand at the top of a record, where captions look for them."""


@dataclass
class Sample:
    """One row of a shard.

    Args:
        spectrogram: float ``[C, F, T]``, dB.
        valid: bool ``[T]``.
        labels: label to name.
        values: name to number.
        record: JSON-able facts.
        clean: spectrogram without noise, same shape.
        mask: uint8 ``[F, T]``, a class for every cell.
        boxes: float ``[M, 4]``: start s, stop s, low Hz, high Hz.
        box_labels: M names, by default all the same, "signal".
        iq: complex ``[S]``, kept where the writer's storage says so; any number of samples.
    """

    spectrogram: npt.NDArray[Any]
    valid: npt.NDArray[Any]
    labels: dict[str, str] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    clean: npt.NDArray[Any] | None = None
    mask: npt.NDArray[Any] | None = None
    boxes: npt.NDArray[Any] | None = None
    box_labels: Sequence[str] | None = None
    iq: npt.NDArray[Any] | None = None


class _Facts(NamedTuple):
    """What a writer keeps of a sample beside its pictures."""

    labels: dict[str, str]
    values: dict[str, float]
    record: dict[str, Any]
    boxes: npt.NDArray[np.float32] | None
    box_labels: list[str]
    iq: npt.NDArray[Any] | None


class ShardWriter:
    """Collects samples and writes them as one file that appears whole or not at all.

    Args:
        path: final name.
        count: samples that it will hold.
        recipe: of the spectrograms.
        split: train, validation, test or all.
        technology: registry name, or what the recordings are called.
        seed: of the draws; None for recordings.
        licence: of the data.
        storage: how pictures are kept, and whether IQ is.
    """

    def __init__(
        self,
        path: Path,
        count: int,
        recipe: Recipe,
        split: str,
        technology: str,
        seed: int | None,
        licence: str,
        storage: Storage | None = None,
    ) -> None:
        self.path, self.count, self.recipe = path, count, recipe
        self.split, self.technology = split, technology
        self.seed, self.licence = seed, licence
        self.storage = storage or Storage()
        self._facts: list[_Facts] = []
        self._arrays: dict[str, npt.NDArray[Any]] = {}

    def add(self, sample: Sample) -> None:
        """Append one sample; all of a shard have one shape, and all or none a clean picture, a mask, IQ.

        Raises:
            DatasetError: a picture that is not finite, or one that others of the shard have and this one lacks, or
                the reverse, boxes that are not as many as their labels, or a label of :data:`RESERVED_LABELS`.
        """
        row = len(self._facts)
        here = f"sample {row} of {self.path.name}"
        reserved = sorted(RESERVED_LABELS & set(sample.labels))
        if reserved:
            raise DatasetError(
                f"{here} has labels called {reserved}",
                f"none of {sorted(RESERVED_LABELS)}, which a batch holds itself",
                "call them otherwise",
            )
        given = {"spectrogram": sample.spectrogram, "clean": sample.clean, "mask": sample.mask, "valid": sample.valid}
        present = {name: array for name, array in given.items() if array is not None}
        if row == 0:
            types = {"spectrogram": self.storage.stored, "clean": self.storage.stored}
            for name, array in present.items():
                self._arrays[name] = np.empty((self.count, *array.shape), types.get(name, np.dtype(np.uint8)))
        if set(present) != set(self._arrays):
            raise DatasetError(f"{here} has {sorted(present)}", f"{sorted(self._arrays)} as the first one")
        for name, array in present.items():
            if name in ("spectrogram", "clean"):
                if not np.isfinite(array).all():
                    raise DatasetError(f"{here} holds NaN or infinity in its {name}", "dB that are finite")
                self._arrays[name][row] = self.storage.encode(array, self.recipe)
            else:
                self._arrays[name][row] = array
        # The pictures live in the arrays now; their originals are let go.
        self._facts.append(self._facts_of(sample, here))

    def _facts_of(self, sample: Sample, here: str) -> _Facts:
        boxes, names = None, list(sample.box_labels or ())
        if sample.boxes is not None:
            boxes = np.asarray(sample.boxes, np.float32).reshape(-1, 4)
            names = names or ["signal"] * len(boxes)
        if len(names) != (0 if boxes is None else len(boxes)):
            raise DatasetError(f"{here} has {len(names)} box labels for its boxes {boxes!r}", "one for each")
        iq = None
        if self.storage.iq:
            if sample.iq is None:
                raise DatasetError(f"{here} has no IQ", "IQ, which the storage keeps")
            pairs = np.ascontiguousarray(sample.iq, np.complex64).view(np.float32).reshape(-1, 2)
            with np.errstate(over="ignore"):
                iq = pairs.astype(self.storage.iq_dtype)
            if not np.isfinite(iq).all():
                raise DatasetError(
                    f"{here} has IQ beyond {self.storage.iq_dtype}", "finite numbers", "store it as float32"
                )
        return _Facts(sample.labels, sample.values, sample.record, boxes, names, iq)

    def save(self) -> ShardEntry:
        """Write the file and say what it holds.

        Raises:
            DatasetError: another number of samples than announced.
            ConfigError: compression without hdf5plugin.
            OutputError: no space or permission.
        """
        if len(self._facts) != self.count or not self.count:
            raise DatasetError(f"{self.path.name} got {len(self._facts)} samples", f"{self.count}, at least one")
        counter = LevelCounter(self.recipe, self.storage)
        counter.add(self._arrays["spectrogram"], self._arrays["valid"])
        levels = counter.result()
        image = self._image(levels.histogram)
        with atomic_file(self.path) as temporary:
            temporary.write_bytes(image)
        return ShardEntry(
            name=self.path.name,
            split=self.split,
            technology=self.technology,
            count=self.count,
            bytes=len(image),
            sha256=hashlib.sha256(image).hexdigest(),
            cells=levels.cells,
            mean=levels.mean,
            std=levels.std,
        )

    def _image(self, histogram: npt.NDArray[np.int64]) -> bytes:
        """The file's bytes. HDF5 writes to memory, so that a full disk meets a plain ``write`` and its plain error."""
        with h5py.File(self.path.name, "w", driver="core", backing_store=False) as file:
            file.attrs["recipe"] = json.dumps(self.recipe.to_dict())
            file.attrs["storage"] = json.dumps(self.storage.to_dict())
            file.attrs["seed"] = -1 if self.seed is None else self.seed
            file.attrs["versions"] = json.dumps(package_versions())
            file.attrs["licence"] = self.licence
            self._put_pictures(file)
            self._put_columns(file)
            self._put_boxes(file)
            file.create_dataset("level_histogram", data=histogram)
            texts = [json.dumps(facts.record, default=_plain) for facts in self._facts]
            file.create_dataset("record", data=texts, dtype=h5py.string_dtype())
            file.flush()
            return bytes(file.id.get_file_image())

    def _put_pictures(self, file: h5py.File) -> None:
        filters = self.storage.filters()
        scale, shift = self.storage.scale(self.recipe)
        for name, array in self._arrays.items():
            packed = filters and name != "valid"
            chunks = (min(self.storage.chunk, self.count), *array.shape[1:]) if packed else None
            dataset = file.create_dataset(name, data=array, chunks=chunks, **(filters if packed else {}))
            if array.dtype == np.uint8 and name in ("spectrogram", "clean"):
                dataset.attrs["scale"], dataset.attrs["shift"] = scale, shift
        streams = [facts.iq for facts in self._facts if facts.iq is not None]
        if streams:
            lengths = np.array([len(stream) for stream in streams])
            iq = np.zeros((self.count, lengths.max(), 2), streams[0].dtype)
            for row, stream in enumerate(streams):
                iq[row, : len(stream)] = stream
            file.create_dataset("iq", data=iq)
            file.create_dataset("iq_length", data=lengths)

    def _put_columns(self, file: h5py.File) -> None:
        for label in sorted({key for facts in self._facts for key in facts.labels}):
            _put_codes(file, f"labels/{label}", [facts.labels.get(label) for facts in self._facts])
        for value in sorted({key for facts in self._facts for key in facts.values}):
            numbers = [facts.values.get(value, np.nan) for facts in self._facts]
            file.create_dataset(f"values/{value}", data=np.array(numbers, np.float32))

    def _put_boxes(self, file: h5py.File) -> None:
        if all(facts.boxes is None for facts in self._facts):
            return
        none = np.zeros((0, 4), np.float32)
        boxes = [none if facts.boxes is None else facts.boxes for facts in self._facts]
        file.create_dataset("boxes", data=np.concatenate(boxes))
        file.create_dataset("box_offset", data=np.concatenate([[0], np.cumsum([len(part) for part in boxes])]))
        _put_codes(file, "box_label", [name for facts in self._facts for name in facts.box_labels])

    @property
    def label_names(self) -> dict[str, set[str]]:
        """Names that occur, by label."""
        found: dict[str, set[str]] = {}
        for facts in self._facts:
            for label, name in facts.labels.items():
                found.setdefault(label, set()).add(name)
        return found


def _put_codes(file: h5py.File, place: str, given: Sequence[str | None]) -> None:
    """Names as int16 codes with the list of names as an attribute."""
    names = sorted({name for name in given if name is not None})
    code_of = {name: code for code, name in enumerate(names)}
    codes = [UNLABELLED if name is None else code_of[name] for name in given]
    dataset = file.create_dataset(place, data=np.array(codes, np.int16))
    dataset.attrs["names"] = np.array(names, h5py.string_dtype())


def _plain(value: Any) -> Any:
    """A numpy number or array that got into a record, as JSON takes it."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} in a record")


def write_dataset(
    root: Path | str,
    spectrogram: npt.NDArray[Any],
    recipe: Recipe,
    labels: Mapping[str, Sequence[str]],
    *,
    split: str | Sequence[str] = "train",
    valid: npt.NDArray[Any] | None = None,
    clean: npt.NDArray[Any] | None = None,
    values: Mapping[str, Sequence[float]] | None = None,
    records: Sequence[dict[str, Any]] | None = None,
    samples_per_shard: int = 128,
    storage: Storage | None = None,
    card: bool = False,
) -> Manifest:
    """A complete data set from arrays, one shard or more for every split and technology.

    Args:
        root: folder to make or to add to.
        spectrogram: float ``[N, C, F, T]``, dB.
        recipe: what made them (their shape is not checked against it).
        labels: label to N names; ``technology`` also names the shards (``"unknown"`` without it).
        split: one for all samples or one for each.
        valid: bool ``[N, T]``; all True by default.
        clean: noise-free pictures ``[N, C, F, T]``.
        values: name to N numbers.
        records: N JSON-able dicts; by default the labels (under ``labels``; those that captions read also at the top)
            and the values.
        samples_per_shard: largest count.
        storage: how pictures are kept.
        card: write the shortcut audit and the card too.

    Raises:
        DatasetError: pictures that are not finite, or a label of :data:`RESERVED_LABELS`.
    """
    root, count = Path(root), len(spectrogram)
    columns = spectrogram.shape[-1 if recipe.axes == "frequency-time" else -2]
    valid = np.ones((count, columns), bool) if valid is None else valid
    splits = [split] * count if isinstance(split, str) else list(split)
    technologies = list(labels.get("technology", ["unknown"] * count))
    manifest = Manifest(recipe.to_dict(), {"kind": "arrays"}, None, "unknown", package_versions())
    for part, technology in sorted(set(zip(splits, technologies, strict=True))):
        rows = [i for i in range(count) if (splits[i], technologies[i]) == (part, technology)]
        for number, first in enumerate(range(0, len(rows), samples_per_shard)):
            chosen = rows[first : first + samples_per_shard]
            path = root / shard_name(technology, part, number)
            writer = ShardWriter(path, len(chosen), recipe, part, technology, None, "unknown", storage)
            for i in chosen:
                named = {label: str(names[i]) for label, names in labels.items()}
                numbers = {name: float(column[i]) for name, column in (values or {}).items()}
                record = {**numbers, **described(named)} if records is None else records[i]
                picture = None if clean is None else clean[i]
                writer.add(Sample(spectrogram[i], valid[i], named, numbers, record, picture))
            manifest.shards.append(writer.save())
    finish_dataset(root, manifest, card=card)
    return manifest


def shard_name(technology: str, split: str, number: int) -> str:
    """File name of a shard."""
    return f"{technology}-{split}-{number:05d}.h5"


def described(labels: Mapping[str, str]) -> dict[str, Any]:
    """Labels as they stand in a record: all under ``labels``, apart from the record's own keys, so that no label is
    taken for one; those of :data:`CAPTIONED` at the top as well, as generated samples have them."""
    return {**{name: labels[name] for name in CAPTIONED if name in labels}, "labels": dict(labels)}


def main_emission(emissions: list[Emission]) -> Emission:
    """The one with the largest box among those whose modulation is known, or among all where none is."""
    named = [emission for emission in emissions if emission.modulation] or emissions
    return max(named, key=lambda e: (e.stop - e.start) * (e.high - e.low))
