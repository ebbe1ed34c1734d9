"""A folder of shards as a torch data set: labels in memory, pictures mapped, no file opened for a sample."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from lwm.data.expression import select
from lwm.data.index import load_index
from lwm.data.manifest import Manifest, Statistics
from lwm.data.masks import mask_names
from lwm.data.pictures import Part, PictureFiles, read_pictures
from lwm.data.reader import RESERVED_LABELS, ShardReader
from lwm.errors import DatasetError
from lwm.signal.recipe import Recipe

_RECORD_SHARDS = 64
"""Shards whose records are kept in memory once one of them was asked for."""

Indices = Sequence[int] | npt.NDArray[np.int64]


class Columns(Mapping[str, npt.NDArray[Any]]):
    """Columns of a selection by name, made from those of the whole data set when they are asked for.

    Args:
        whole: name to a column of the whole data set.
        rows: int64 ``[n]``, what is selected.
        dtype: of what is given out.
    """

    def __init__(self, whole: Mapping[str, npt.NDArray[Any]], rows: npt.NDArray[np.int64], dtype: Any) -> None:
        self._whole, self._rows, self._dtype = whole, rows, dtype

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.of(name, slice(None))

    def of(self, name: str, chosen: Any) -> npt.NDArray[Any]:
        """The column at some places of the selection."""
        return self._whole[name][self._rows[chosen]].astype(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)


class SpectrogramDataset(Dataset[dict[str, Any]]):
    """Spectrograms of a data set's folder, all or a selection. Opening reads the manifest and the index, no shard.

    Args:
        root: folder with ``manifest.json``.
        split: train, validation, test, or what the data set has; None for all.
        where: selection by labels and values, for example ``snr >= 0 and technology == "lte"``
            (:mod:`lwm.data.expression`); None for all.

    Attributes:
        root: the folder.
        recipe: what made the spectrograms.
        statistics: over valid cells of the whole train split (of everything where there is none), whatever the
            selection: all experts of one MoE standardise alike.
        label_names: label to its names; codes mean the same in every split and selection.
        labels: label to int64 codes ``[len(self)]``; -1 where a sample lacks it.
        values: name to float32 ``[len(self)]``; NaN where a sample lacks it.
        has_clean: whether samples have ``"clean"``.
        has_mask: whether samples have ``"mask"``.
        mask_names: names of the mask's classes where a plan of scenes says them, else none.

    Raises:
        DatasetError: no whole data set in ``root``, no such split or label, a label that is called as something else
            in a batch is, or nothing selected. A shard that is
            missing or truncated is met when a sample of it is asked for.
    """

    def __init__(self, root: Path | str, split: str | None = None, where: str | None = None) -> None:
        self.root = Path(root)
        manifest = Manifest.load(self.root)
        self.recipe: Recipe = manifest.read_recipe()
        self.statistics: Statistics = manifest.training_statistics()
        self.label_names: dict[str, list[str]] = manifest.labels
        splits = sorted({entry.split for entry in manifest.shards})
        if split is not None and split not in splits:
            remedy = "share recordings out with lwm ingest ... --split 0.8 0.1 0.1" if splits == ["all"] else ""
            raise DatasetError(f"data set {self.root} has no split {split!r}", f"one of {splits}", remedy)
        reserved = sorted(RESERVED_LABELS & set(self.label_names))
        if reserved:
            raise DatasetError(
                f"data set {self.root} has labels called {reserved}",
                f"none of {sorted(RESERVED_LABELS)}, which a batch holds itself",
                "make it again with other names",
            )
        self._index = load_index(self.root, manifest)
        self._files = PictureFiles(self.root, manifest.shards, self._index)
        self.has_clean = "clean" in self._index.places
        self.has_mask = "mask" in self._index.places
        scenes = manifest.plan.get("scene") is not None
        self.mask_names: list[str] = mask_names(manifest.plan["technologies"]) if scenes else []
        self._rows: npt.NDArray[np.int64] = np.arange(self._index.starts[-1])
        if split is not None:
            inside = np.array([entry.split == split for entry in manifest.shards])
            self._rows = self._rows[np.repeat(inside, np.diff(self._index.starts))]
        self._select()
        if where is not None:
            kept = select(where, self.labels, self.label_names, self.values, len(self))
            if not kept.any():
                raise DatasetError(
                    f"nothing in {self.root} fulfils {where!r}", "at least one sample", "widen the selection"
                )
            self.keep(np.flatnonzero(kept))
        self._records: dict[int, list[str]] = {}

    def _select(self) -> None:
        self.labels = Columns(self._index.labels, self._rows, np.int64)
        self.values = Columns(self._index.values, self._rows, np.float32)

    def keep(self, indices: npt.NDArray[np.int64]) -> None:
        """Narrow the data set to some of its samples, int64 ``[n]``."""
        self._rows = self._rows[indices]
        self._select()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample: ``spectrogram`` float32 ``[C, F, T]`` in dB (not normalised), ``valid`` bool ``[T]``, ``index``,
        ``clean`` and ``mask`` (uint8 ``[F, T]``) where stored, and every label's code."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Samples of a batch (torch's batched protocol): each shard is read once."""
        batch = self.batch(indices)
        return [{key: column[i] for key, column in batch.items()} for i in range(len(indices))]

    def batch(self, indices: Indices, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
        """Samples stacked: ``spectrogram [B, C, F, T]``, ``valid [B, T]``, ``index`` and codes int64 ``[B]``; ``clean``
        and ``mask`` uint8 ``[B, F, T]`` where stored.

        Args:
            indices: of the samples, in any order.
            dtype: of spectrogram and clean; float16 hands out what is stored and is twice as fast.
        """
        chosen = np.asarray(indices, np.int64)
        part = self.part(chosen, np.arange(len(chosen)))
        pictures = ("spectrogram", "clean") if self.has_clean else ("spectrogram",)
        out: dict[str, Any] = {name: read_pictures([part], len(chosen), name, dtype) for name in pictures}
        if self.has_mask:
            out["mask"] = read_pictures([part], len(chosen), "mask", torch.uint8)
        out["valid"] = torch.from_numpy(self.valid(chosen))
        out["index"] = torch.from_numpy(chosen)
        return out | {label: torch.from_numpy(self.labels.of(label, chosen)) for label in self.labels}

    def part(self, indices: npt.NDArray[np.int64], places: npt.NDArray[np.int64]) -> Part:
        """Samples that go to ``places`` of a batch, for :func:`lwm.data.pictures.read_pictures`."""
        return Part(self._files, self._rows[indices], places)

    @property
    def columns(self) -> int:
        """Time columns of a picture."""
        return self._index.columns

    def valid(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Valid columns of samples, bool ``[n, T]``."""
        return self._index.valid_columns(self._rows[indices])

    def chunks(self, size: int) -> npt.NDArray[np.int64]:
        """Number of the chunk (run of ``size`` rows of a shard) of each sample ``[len(self)]``, not decreasing."""
        shards, rows = self._index.locate(self._rows)
        new = (np.diff(shards) != 0) | (np.diff(rows // size) != 0)
        return np.concatenate([[0], np.cumsum(new)]).astype(np.int64)

    def record(self, index: int) -> dict[str, Any]:
        """The JSON record of a sample: technology, link, modulation, snr_db, mobility, emissions, facts, source ..."""
        shards, rows = self._index.locate(self._rows[[index]])
        number = int(shards[0])
        if number not in self._records:
            if len(self._records) >= _RECORD_SHARDS:
                self._records.pop(next(iter(self._records)))
            entry = self._files.entries[number]
            self._records[number] = ShardReader(self.root / entry.name, entry).records()
        return json.loads(self._records[number][rows[0]])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_records": {}}
