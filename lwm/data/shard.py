"""Shards: a few hundred spectrograms with labels and facts in one HDF5 file, made to be memory-mapped.

A tiny data set for a test or an experiment is one call (see :func:`write_dataset`)::

    write_dataset(root, spectrogram, recipe, labels={"technology": ["lte", "nr"], "snr": ["0", "5"]},
                  split=["train", "test"], valid=None, clean=None, values={}, records=None)

with ``spectrogram`` float ``[N, C, F, T]`` in dB. Layout of a shard of N samples:

- ``spectrogram`` ``[N, C, F, T]`` float16 dB, contiguous; optional ``clean`` of the same shape: without noise,
- ``valid`` ``[N, T]`` uint8: 0 where a short capture was padded,
- ``labels/NAME`` ``[N]`` int16 codes, attribute ``names``; code -1: not labelled,
- ``values/NAME`` ``[N]`` float32,
- ``record`` ``[N]``: one JSON object a sample,
- attributes ``recipe`` (JSON), ``seed`` (-1: none), ``versions`` (JSON), ``licence``.
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

from lwm.data.manifest import Manifest, ShardEntry, ordered_labels, package_versions
from lwm.errors import DatasetError
from lwm.output import atomic_file
from lwm.signal.capture import Emission
from lwm.signal.recipe import Recipe

STORED = np.dtype("<f2")
"""Spectrograms are kept in half precision: 0.03 dB at worst between -64 and 64 dB."""

UNLABELLED = -1
"""Code of a sample that lacks a label which others have."""


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
    """

    spectrogram: npt.NDArray[Any]
    valid: npt.NDArray[Any]
    labels: dict[str, str] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    clean: npt.NDArray[Any] | None = None


class _Facts(NamedTuple):
    """What a writer keeps of a sample beside its pictures."""

    labels: dict[str, str]
    values: dict[str, float]
    record: dict[str, Any]


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
    """

    def __init__(
        self, path: Path, count: int, recipe: Recipe, split: str, technology: str, seed: int | None, licence: str
    ) -> None:
        self.path, self.count, self.recipe = path, count, recipe
        self.split, self.technology = split, technology
        self.seed, self.licence = seed, licence
        self._facts: list[_Facts] = []
        self._arrays: dict[str, npt.NDArray[Any]] = {}

    def add(self, sample: Sample) -> None:
        """Append one sample; all of a shard have one shape, and all or none a clean picture."""
        row = len(self._facts)
        pictures = {"spectrogram": sample.spectrogram}
        if sample.clean is not None:
            pictures["clean"] = sample.clean
        if row == 0:
            for name, picture in pictures.items():
                self._arrays[name] = np.empty((self.count, *picture.shape), STORED)
            self._arrays["valid"] = np.empty((self.count, *sample.valid.shape), np.uint8)
        for name, picture in pictures.items():
            self._arrays[name][row] = picture
        self._arrays["valid"][row] = sample.valid
        # The pictures live in the arrays now; their originals are let go.
        self._facts.append(_Facts(sample.labels, sample.values, sample.record))

    def save(self) -> ShardEntry:
        """Write the file and say what it holds.

        Raises:
            DatasetError: another number of samples than announced.
            OutputError: no space or permission.
        """
        if len(self._facts) != self.count or not self.count:
            raise DatasetError(f"{self.path.name} got {len(self._facts)} samples", f"{self.count}, at least one")
        image = self._image()
        with atomic_file(self.path) as temporary:
            temporary.write_bytes(image)
        cells, mean, std = _moments(self._arrays["spectrogram"], self._arrays["valid"], self.recipe)
        return ShardEntry(
            name=self.path.name,
            split=self.split,
            technology=self.technology,
            count=self.count,
            bytes=len(image),
            sha256=hashlib.sha256(image).hexdigest(),
            cells=cells,
            mean=mean,
            std=std,
        )

    def _image(self) -> bytes:
        """The file's bytes. HDF5 writes to memory, so that a full disk meets a plain ``write`` and its plain error."""
        with h5py.File(self.path.name, "w", driver="core", backing_store=False) as file:
            file.attrs["recipe"] = json.dumps(self.recipe.to_dict())
            file.attrs["seed"] = -1 if self.seed is None else self.seed
            file.attrs["versions"] = json.dumps(package_versions())
            file.attrs["licence"] = self.licence
            for name, array in self._arrays.items():
                file.create_dataset(name, data=array)
            for label in sorted({key for sample in self._facts for key in sample.labels}):
                given = [sample.labels.get(label) for sample in self._facts]
                names = sorted({name for name in given if name is not None})
                codes = [UNLABELLED if name is None else names.index(name) for name in given]
                dataset = file.create_dataset(f"labels/{label}", data=np.array(codes, np.int16))
                dataset.attrs["names"] = names
            for value in sorted({key for sample in self._facts for key in sample.values}):
                numbers = [sample.values.get(value, np.nan) for sample in self._facts]
                file.create_dataset(f"values/{value}", data=np.array(numbers, np.float32))
            texts = [json.dumps(sample.record, default=_plain) for sample in self._facts]
            file.create_dataset("record", data=texts, dtype=h5py.string_dtype())
            file.flush()
            return bytes(file.id.get_file_image())

    @property
    def label_names(self) -> dict[str, set[str]]:
        """Names that occur, by label."""
        found: dict[str, set[str]] = {}
        for sample in self._facts:
            for label, name in sample.labels.items():
                found.setdefault(label, set()).add(name)
        return found


def _plain(value: Any) -> Any:
    """A numpy number or array that got into a record, as JSON takes it."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} in a record")


def valid_cells(db: npt.NDArray[Any], valid: npt.NDArray[Any], recipe: Recipe) -> npt.NDArray[np.float64]:
    """Cells of the valid columns of ``[N, C, F, T]`` (or ``[N, C, T, F]``, as the recipe says), flat."""
    in_columns = db if recipe.axes == "frequency-time" else db.swapaxes(-1, -2)
    return np.moveaxis(in_columns, -1, 1)[valid.astype(bool)].astype(np.float64).ravel()


def _moments(db: npt.NDArray[Any], valid: npt.NDArray[Any], recipe: Recipe) -> tuple[int, float, float]:
    """Number, mean and standard deviation of the valid cells."""
    cells = valid_cells(db, valid, recipe)
    return (cells.size, float(cells.mean()), float(cells.std())) if cells.size else (0, 0.0, 0.0)


class ShardReader:
    """One shard opened for reading: labels in memory, pictures mapped from the file, nothing kept open.

    Picklable; a mapping is made again in every process that reads.

    Args:
        path: the file.
        entry: what the manifest says about it.

    Raises:
        DatasetError: missing, truncated, not HDF5, or not what ``entry`` says.
    """

    def __init__(self, path: Path, entry: ShardEntry) -> None:
        self.path, self.entry = path, entry
        self._maps: dict[str, npt.NDArray[Any]] = {}
        _check_size(path, entry)
        try:
            with h5py.File(path, "r") as file:
                self._read_header(file)
        except (OSError, KeyError, RuntimeError) as error:
            raise DatasetError(
                f"shard {path} cannot be read ({error})", "a whole HDF5 shard", f"run lwm doctor {path.parent}"
            ) from error
        if self.count != entry.count:
            raise DatasetError(
                f"shard {path} holds {self.count} samples",
                f"{entry.count} as its manifest says",
                f"run lwm doctor {path.parent}",
            )

    def _read_header(self, file: h5py.File) -> None:
        pictures = {name: file[name] for name in ("spectrogram", "clean") if name in file}
        self.count: int = file["spectrogram"].shape[0]
        self.layout: dict[str, tuple[int | None, tuple[int, ...], str]] = {
            name: (dataset.id.get_offset(), dataset.shape, dataset.dtype.str) for name, dataset in pictures.items()
        }
        self.recipe: dict[str, Any] = json.loads(file.attrs["recipe"])
        self.valid: npt.NDArray[np.bool_] = file["valid"][:].astype(bool)
        self.labels: dict[str, tuple[npt.NDArray[np.int64], list[str]]] = {
            name: (dataset[:].astype(np.int64), [str(text) for text in dataset.attrs["names"]])
            for name, dataset in file.get("labels", {}).items()
        }
        self.values: dict[str, npt.NDArray[np.float32]] = {
            name: dataset[:] for name, dataset in file.get("values", {}).items()
        }

    @property
    def has_clean(self) -> bool:
        """Whether noise-free pictures are stored."""
        return "clean" in self.layout

    def read(self, rows: Sequence[int] | npt.NDArray[np.int64], name: str = "spectrogram") -> npt.NDArray[np.float32]:
        """Pictures ``[len(rows), C, F, T]`` as float32; mapped where the data are contiguous, else through h5py."""
        offset, shape, dtype = self.layout[name]
        if offset is None:
            order, back = np.unique(rows, return_inverse=True)
            with h5py.File(self.path, "r") as file:
                return file[name][order][back].astype(np.float32)
        if name not in self._maps:
            self._maps[name] = np.memmap(self.path, dtype, "r", offset, shape)
        return self._maps[name][rows].astype(np.float32)

    def records(self) -> list[str]:
        """The JSON records of all samples."""
        with h5py.File(self.path, "r") as file:
            return list(file["record"].asstr()[:])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}


def _check_size(path: Path, entry: ShardEntry) -> None:
    remedy = f"run lwm doctor {path.parent}, or make it again"
    if not path.is_file():
        raise DatasetError(f"shard {path} is missing", "a file that the manifest lists", remedy)
    size = path.stat().st_size
    if size != entry.bytes:
        what = "is truncated at" if size < entry.bytes else "has"
        raise DatasetError(f"shard {path} {what} {size} bytes", f"{entry.bytes} as its manifest says", remedy)


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
        records: N JSON-able dicts; by default the labels and values.
        samples_per_shard: largest count.
    """
    root, count = Path(root), len(spectrogram)
    columns = spectrogram.shape[-1 if recipe.axes == "frequency-time" else -2]
    valid = np.ones((count, columns), bool) if valid is None else valid
    splits = [split] * count if isinstance(split, str) else list(split)
    technologies = list(labels.get("technology", ["unknown"] * count))
    manifest = Manifest(recipe.to_dict(), {"kind": "arrays"}, None, "unknown", package_versions())
    found: dict[str, set[str]] = {label: set(names) for label, names in labels.items()}
    for part, technology in sorted(set(zip(splits, technologies, strict=True))):
        rows = [i for i in range(count) if (splits[i], technologies[i]) == (part, technology)]
        for number, first in enumerate(range(0, len(rows), samples_per_shard)):
            chosen = rows[first : first + samples_per_shard]
            path = root / shard_name(technology, part, number)
            writer = ShardWriter(path, len(chosen), recipe, part, technology, None, "unknown")
            for i in chosen:
                named = {label: str(names[i]) for label, names in labels.items()}
                numbers = {name: float(column[i]) for name, column in (values or {}).items()}
                record = {**named, **numbers} if records is None else records[i]
                picture = None if clean is None else clean[i]
                writer.add(Sample(spectrogram[i], valid[i], named, numbers, record, picture))
            manifest.shards.append(writer.save())
    manifest.labels = ordered_labels(found, {})
    manifest.complete = True
    manifest.save(root)
    return manifest


def shard_name(technology: str, split: str, number: int) -> str:
    """File name of a shard."""
    return f"{technology}-{split}-{number:05d}.h5"


def main_emission(emissions: list[Emission]) -> Emission:
    """The one with the largest box among those whose modulation is known, or among all where none is."""
    named = [emission for emission in emissions if emission.modulation] or emissions
    return max(named, key=lambda e: (e.stop - e.start) * (e.high - e.low))
