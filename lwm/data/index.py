"""The index of a data set: labels, numbers and places of all samples in one file, so that opening touches no shard.

``index.hdf5`` beside the manifest, written once when the data set is complete. Layout for N samples in S shards:

- ``labels/NAME`` ``[N]`` int16 (int32 above 32,767 names): codes of the manifest's names; -1: not labelled,
- ``values/NAME`` ``[N]`` float32, NaN where a sample lacks it,
- ``valid`` ``[N, ceil(T / 8)]`` uint8: the bits of the valid columns, most significant first; attribute ``columns``,
- ``layout/NAME`` ``[S]`` for every kind of picture: offset in the shard's file (-1: compressed), type, scale, shift,
  samples in a chunk; attribute ``shape`` ``[C, F, T]``, of masks ``[F, T]``,
- attribute ``key``: hash of what the manifest says about shards, labels and recipe. An index with another key is stale.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lwm.data.manifest import Manifest, ShardEntry
from lwm.data.reader import ShardReader
from lwm.errors import DatasetError, OutputError
from lwm.output import atomic_file
from lwm.signal.recipe import Recipe

FILE_NAME = "index.hdf5"

_VERSION = 1
_UNLABELLED = -1
_PICTURES = ("spectrogram", "clean", "mask")
_PLACE = np.dtype([("offset", "<i8"), ("dtype", "S4"), ("scale", "<f8"), ("shift", "<f8"), ("chunk", "<i4")])


@dataclass
class Index:
    """What is known of every sample without opening a shard.

    Args:
        labels: label to codes ``[N]``, int16 or int32; -1 where a sample lacks it.
        values: name to float32 ``[N]``; NaN where a sample lacks it.
        valid: bits of the valid columns, uint8 ``[N, ceil(T / 8)]``.
        columns: T.
        places: kind of picture to the place of each shard's, ``[S]`` (offset, dtype, scale, shift, chunk).
        shapes: kind of picture to ``[C, F, T]``, of masks ``[F, T]``.
        starts: int64 ``[S + 1]``: number of the first sample of each shard, and N.
    """

    labels: dict[str, npt.NDArray[Any]]
    values: dict[str, npt.NDArray[np.float32]]
    valid: npt.NDArray[np.uint8]
    columns: int
    places: dict[str, npt.NDArray[Any]]
    shapes: dict[str, tuple[int, ...]]
    starts: npt.NDArray[np.int64]

    def locate(self, samples: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Shard and row of samples ``[n]``."""
        shards = np.searchsorted(self.starts, samples, side="right") - 1
        return shards, samples - self.starts[shards]

    def valid_columns(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which columns are valid, bool ``[n, T]``."""
        return np.unpackbits(self.valid[samples], axis=1, count=self.columns).view(np.bool_)


def load_index(root: Path, manifest: Manifest) -> Index:
    """The index of the data set in ``root``; made from the shards' headers where it is missing, stale or damaged.

    Raises:
        DatasetError: it has to be made, and a shard is missing, truncated or damaged.
        RecipeMismatch: it has to be made, and a shard is not of the manifest's recipe.
    """
    found = _read(root / FILE_NAME, index_key(manifest), manifest.shards)
    if found is not None:
        return found
    try:
        return write_index(root, manifest)
    except OutputError:
        # A data set on a read-only place is read all the same, slower to open.
        return _collect(root, manifest)


def write_index(root: Path, manifest: Manifest) -> Index:
    """Make the index of a data set whose shards and labels are final, and save it atomically.

    Raises:
        DatasetError: a shard is missing, truncated or damaged, has a label's name that the manifest lacks, or
            pictures of another shape than the others.
        RecipeMismatch: a shard is not of the manifest's recipe.
        OutputError: no space or permission.
    """
    index = _collect(root, manifest)
    with atomic_file(root / FILE_NAME) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["key"] = index_key(manifest)
        for group, columns in (("labels", index.labels), ("values", index.values)):
            for name, column in columns.items():
                file.create_dataset(f"{group}/{name}", data=column)
        file.create_dataset("valid", data=index.valid).attrs["columns"] = index.columns
        for name, place in index.places.items():
            file.create_dataset(f"layout/{name}", data=place).attrs["shape"] = index.shapes[name]
    return index


def index_key(manifest: Manifest) -> str:
    """What ties an index to its manifest: SHA-256 over shards, labels and recipe."""
    shards = [(entry.name, entry.count, entry.bytes, entry.sha256) for entry in manifest.shards]
    text = json.dumps([_VERSION, shards, manifest.labels, manifest.recipe], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path, key: str, entries: list[ShardEntry]) -> Index | None:
    """The index in a file, None where that is missing, damaged or of another key."""
    if not path.is_file():
        return None
    try:
        with h5py.File(path, "r") as file:
            if file.attrs["key"] != key:
                return None
            index = Index(
                {name: column[:] for name, column in file.get("labels", {}).items()},
                {name: column[:] for name, column in file.get("values", {}).items()},
                file["valid"][:],
                int(file["valid"].attrs["columns"]),
                {name: place[:] for name, place in file["layout"].items()},
                {name: tuple(map(int, place.attrs["shape"])) for name, place in file["layout"].items()},
                _starts(entries),
            )
    except (OSError, KeyError, RuntimeError, ValueError):
        return None
    whole = len(index.valid) == index.starts[-1] and all(len(p) == len(entries) for p in index.places.values())
    return index if whole else None


def _starts(entries: list[ShardEntry]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum([entry.count for entry in entries], dtype=np.int64)]).astype(np.int64)


def _collect(root: Path, manifest: Manifest) -> Index:
    """The index from the shards' headers, one shard open at a time."""
    recipe, starts = manifest.read_recipe(), _starts(manifest.shards)
    count = int(starts[-1])
    labels = {
        label: np.full(count, _UNLABELLED, np.int16 if len(names) <= np.iinfo(np.int16).max else np.int32)
        for label, names in manifest.labels.items()
    }
    tables = {label: {name: code for code, name in enumerate(names)} for label, names in manifest.labels.items()}
    values: dict[str, npt.NDArray[np.float32]] = {}
    places: dict[str, npt.NDArray[Any]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    valid: npt.NDArray[np.uint8] | None = None
    columns = 0
    for number, shard in enumerate(_shards(root, manifest, recipe)):
        rows = slice(starts[number], starts[number + 1])
        for label, (codes, names) in shard.labels.items():
            labels[label][rows] = _codes(shard, label, names, tables.get(label, {}))[codes]
        for name, numbers in shard.values.items():
            values.setdefault(name, np.full(count, np.nan, np.float32))[rows] = numbers
        for name in set(_PICTURES) & set(shard.layout):
            layout = shard.layout[name]
            if shapes.setdefault(name, tuple(layout.shape[1:])) != tuple(layout.shape[1:]):
                raise DatasetError(
                    f"shard {shard.path} has {name} of shape {layout.shape[1:]}", f"{shapes[name]} as the first shard"
                )
            place = places.setdefault(name, np.zeros(len(manifest.shards), _PLACE))
            # An offset of 0 means that the shard lacks this kind of picture: byte 0 is HDF5's signature.
            offset = -1 if layout.offset is None else layout.offset
            place[number] = (offset, layout.dtype.encode(), layout.scale, layout.shift, layout.chunk)
        if valid is None:
            columns = shard.valid.shape[1]
            valid = np.zeros((count, -(-columns // 8)), np.uint8)
        valid[rows] = np.packbits(shard.valid, axis=1)
    if valid is None:
        raise DatasetError(f"data set {root} has no shards", "at least one", "make it again")
    everywhere = {name: place for name, place in places.items() if place["offset"].all()}
    return Index(labels, values, valid, columns, everywhere, {name: shapes[name] for name in everywhere}, starts)


def _shards(root: Path, manifest: Manifest, recipe: Recipe) -> Iterator[ShardReader]:
    for entry in manifest.shards:
        shard = ShardReader(root / entry.name, entry)
        recipe.require_same(Recipe.from_dict(shard.recipe), "the manifest", f"shard {entry.name}")
        yield shard


def _codes(shard: ShardReader, label: str, own: list[str], known: dict[str, int]) -> npt.NDArray[np.int64]:
    """From a shard's own codes to the data set's; the last entry is that of -1."""
    unknown = sorted(set(own) - set(known))
    if unknown:
        raise DatasetError(
            f"shard {shard.path} has {label} {unknown}",
            f"names the manifest knows, {sorted(known)}",
            "make the data set again",
        )
    return np.array([known[name] for name in own] + [_UNLABELLED], np.int64)
