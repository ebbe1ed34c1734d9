"""A folder of shards as a torch data set: labels in memory, pictures mapped, no file opened for a sample."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from lwm.data.manifest import Manifest, Statistics
from lwm.data.shard import UNLABELLED, ShardReader
from lwm.errors import DatasetError
from lwm.signal.recipe import Recipe

_RECORD_SHARDS = 64
"""Shards whose records are kept in memory once one of them was asked for."""


class SpectrogramDataset(Dataset[dict[str, Any]]):
    """Spectrograms of a data set's folder, all or a selection.

    Args:
        root: folder with ``manifest.json``.
        split: train, validation, test, or what the data set has; None for all.
        where: label to the names that are wanted, for example ``{"technology": ["lte"]}``.

    Attributes:
        root: the folder.
        recipe: what made the spectrograms.
        statistics: over valid cells of the whole train split (of everything where there is none), whatever the
            selection: all experts of one MoE standardise alike.
        label_names: label to its names; codes mean the same in every split and selection.
        labels: label to int64 codes ``[len(self)]``; -1 where a sample lacks it.
        values: name to float32 ``[len(self)]``; NaN where a sample lacks it.
        has_clean: whether samples have ``"clean"``.

    Raises:
        DatasetError: no whole data set in ``root``, no such split or label, or nothing selected.
    """

    def __init__(
        self, root: Path | str, split: str | None = None, where: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.root = Path(root)
        manifest = Manifest.load(self.root)
        self.recipe: Recipe = manifest.read_recipe()
        self.statistics: Statistics = manifest.training_statistics()
        self.label_names: dict[str, list[str]] = manifest.labels
        splits = sorted({entry.split for entry in manifest.shards})
        if split is not None and split not in splits:
            raise DatasetError(f"data set {self.root} has no split {split!r}", f"one of {splits}")
        chosen = [entry for entry in manifest.shards if split in (None, entry.split)]
        self._shards = [ShardReader(self.root / entry.name, entry) for entry in chosen]
        for shard in self._shards:
            there = f"shard {shard.path.name}"
            self.recipe.require_same(Recipe.from_dict(shard.recipe), "the manifest", there)
        self.has_clean = all(shard.has_clean for shard in self._shards)
        self._gather()
        self._select(where or {})
        self._records: dict[int, list[str]] = {}

    def _gather(self) -> None:
        counts = [shard.count for shard in self._shards]
        self._shard = np.repeat(np.arange(len(counts)), counts)
        self._row = np.concatenate([np.arange(count) for count in counts])
        self.labels: dict[str, npt.NDArray[np.int64]] = {}
        for label, names in self.label_names.items():
            self.labels[label] = np.concatenate([_codes(shard, label, names) for shard in self._shards])
        self.values: dict[str, npt.NDArray[np.float32]] = {}
        for value in sorted({name for shard in self._shards for name in shard.values}):
            missing = [np.full(count, np.nan, np.float32) for count in counts]
            columns = [s.values.get(value, none) for s, none in zip(self._shards, missing, strict=True)]
            self.values[value] = np.concatenate(columns)

    def _select(self, where: Mapping[str, Sequence[str]]) -> None:
        keep = np.ones(len(self._row), bool)
        for label, wanted in where.items():
            if label not in self.label_names:
                raise DatasetError(f"no label {label!r} in {self.root}", f"one of {sorted(self.label_names)}")
            names = self.label_names[label]
            unknown = [name for name in wanted if name not in names]
            if unknown:
                raise DatasetError(f"label {label!r} has no {unknown} in {self.root}", f"some of {names}")
            keep &= np.isin(self.labels[label], [names.index(name) for name in wanted])
        if not keep.any():
            raise DatasetError(f"nothing in {self.root} is {dict(where)}", "at least one sample", "widen the selection")
        self._shard, self._row = self._shard[keep], self._row[keep]
        self.labels = {label: codes[keep] for label, codes in self.labels.items()}
        self.values = {name: numbers[keep] for name, numbers in self.values.items()}

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample: ``spectrogram`` float32 ``[C, F, T]`` in dB (not normalised), ``valid`` bool ``[T]``, ``index``,
        ``clean`` where stored, and every label's code."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Samples of a batch (torch's batched protocol): each shard is read once."""
        batch = self.batch(indices)
        return [{key: column[i] for key, column in batch.items()} for i in range(len(indices))]

    def batch(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> dict[str, Any]:
        """Samples stacked: ``spectrogram [B, C, F, T]``, ``valid [B, T]``, ``index`` and codes int64 ``[B]``."""
        chosen = np.asarray(indices, np.int64)
        shards, rows = self._shard[chosen], self._row[chosen]
        pictures = ["spectrogram", "clean"] if self.has_clean else ["spectrogram"]
        out: dict[str, Any] = {}
        for number in np.unique(shards):
            shard, places = self._shards[number], np.flatnonzero(shards == number)
            parts = {name: shard.read(rows[places], name) for name in pictures}
            parts["valid"] = shard.valid[rows[places]]
            for name, part in parts.items():
                if name not in out:
                    out[name] = torch.empty((len(chosen), *part.shape[1:]), dtype=torch.from_numpy(part).dtype)
                out[name][torch.from_numpy(places)] = torch.from_numpy(part)
        out["index"] = torch.from_numpy(chosen)
        out |= {label: torch.from_numpy(codes[chosen]) for label, codes in self.labels.items()}
        return out

    def record(self, index: int) -> dict[str, Any]:
        """The JSON record of a sample: technology, link, modulation, snr_db, mobility, emissions, facts, source ..."""
        number = int(self._shard[index])
        if number not in self._records:
            if len(self._records) >= _RECORD_SHARDS:
                self._records.pop(next(iter(self._records)))
            self._records[number] = self._shards[number].records()
        return json.loads(self._records[number][self._row[index]])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_records": {}}


def _codes(shard: ShardReader, label: str, names: list[str]) -> npt.NDArray[np.int64]:
    """A shard's own codes of a label turned into the data set's."""
    if label not in shard.labels:
        return np.full(shard.count, UNLABELLED)
    codes, own = shard.labels[label]
    unknown = sorted(set(own) - set(names))
    if unknown:
        raise DatasetError(
            f"shard {shard.path} has {label} {unknown}", f"names the manifest knows, {names}", "make the data set again"
        )
    table = np.array([names.index(name) for name in own] + [UNLABELLED], np.int64)
    return table[codes]
