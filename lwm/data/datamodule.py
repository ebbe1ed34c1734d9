"""Shards for Lightning: one data module for every task, over one data set or several."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from lwm.data.dataset import SpectrogramDataset
from lwm.data.index import index_key
from lwm.data.loader import ShardLoader
from lwm.data.manifest import Manifest, Statistics
from lwm.data.mixing import MixedDataset, distinct_labels, merged_labels, mixed_statistics, require_one_recipe
from lwm.data.sampler import PlainOrder, Pool, ShuffledOrder
from lwm.errors import ConfigError, DatasetError
from lwm.signal.recipe import Recipe

_SPLIT_OF = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",), "predict": (None,)}
_PICTURES = ("spectrogram", "clean")


class ShardDataModule(pl.LightningDataModule):
    """Loaders over the folders of one data set or more.

    A training epoch is a sequence of batches that follows from ``seed`` and the epoch alone, the same for every number
    of workers and processes; a checkpoint holds the position in it, and a resumed run goes on with the next batch.
    Loaders hand out pictures in half precision as they are stored; Lightning's transfer makes them float32 dB
    on the device (:meth:`on_after_batch_transfer`), so a task sees ``[B, C, F, T]`` float32.

    Args:
        data: folder with ``manifest.json``, or several of one recipe; labels are merged by name, but for identifiers
            (:func:`lwm.data.mixing.distinct_labels`).
        batch_size: samples in a batch; the last, smaller one of training is left out.
        num_workers: loading processes; 0 loads in the training process.
        where: selection by labels and values, for example ``snr >= 0 and technology == "lte"``
            (:mod:`lwm.data.expression`); applied to every data set and split.
        seed: of the training order.
        weights: each data set's share of a training epoch; None: every sample once.
        balance: label of which every training batch holds all names equally; samples that lack it are left out,
            those of rare names come more often.
        group: label of which every training batch holds one name only, ``technology`` for the experts of a MoE.
        chunk: rows of a shard that are read together (:class:`lwm.data.sampler.Pool`).

    Attributes:
        recipe: what made the spectrograms (after :meth:`setup`).
        statistics: of the train split; of several data sets over what an epoch draws, so weighted like it (after
            :meth:`setup`). A model pretrained on them takes them as its own; fine-tuning uses the model's.
        label_names: label to its names, in the order of the codes (after :meth:`setup`).
        datasets: split to data set, for what the stage needs; ``None`` is everything, for prediction.
    """

    recipe: Recipe
    statistics: Statistics
    label_names: dict[str, list[str]]

    def __init__(
        self,
        data: str | list[str],
        batch_size: int = 64,
        num_workers: int = 0,
        where: str | None = None,
        seed: int = 0,
        weights: list[float] | None = None,
        balance: str | None = None,
        group: str | None = None,
        chunk: int = 32,
    ) -> None:
        super().__init__()
        self.data, self.folders = data, [data] if isinstance(data, str) else list(data)
        if batch_size < 1 or num_workers < 0 or seed < 0 or chunk < 1:
            raise ConfigError(
                f"batch_size {batch_size}, num_workers {num_workers}, seed {seed}, chunk {chunk}",
                "a batch and chunk of 1 or more, workers and seed of 0 or more",
            )
        if not self.folders or (weights is not None and not _fit(weights, len(self.folders))):
            raise ConfigError(
                f"weights {weights} for {len(self.folders)} data sets", "at least one data set, a weight > 0 for each"
            )
        if balance is not None and (weights is not None or group is not None):
            raise ConfigError("balance with weights or group", "balance alone, or weights and group")
        self.batch_size, self.num_workers, self.where, self.seed = batch_size, num_workers, where, seed
        self.weights, self.balance, self.group, self.chunk = weights, balance, group, chunk
        self.datasets: dict[str | None, MixedDataset] = {}
        self._manifests: list[Manifest] = []
        self._labels: list[dict[str, list[str]]] = []

    def setup(self, stage: str | None = None) -> None:
        """Open what ``stage`` needs (fit, validate, test, predict; None: every split there is).

        Raises:
            DatasetError: no whole data set, none with the split, or nothing selected.
            RecipeMismatch: data sets of two recipes; both are named.
        """
        self._manifests = [Manifest.load(Path(folder)) for folder in self.folders]
        require_one_recipe(self.folders, self._manifests)
        self.recipe = self._manifests[0].read_recipe()
        self.statistics = mixed_statistics(self._manifests, self.weights)
        self._labels = distinct_labels(self._manifests)
        self.label_names = merged_labels(self._labels)
        there = sorted({entry.split for manifest in self._manifests for entry in manifest.shards})
        for split in _SPLIT_OF[stage] if stage is not None else (*there, None):
            if split not in self.datasets:
                self.datasets[split] = self._open(split)

    def _open(self, split: str | None) -> MixedDataset:
        """A split of all data sets; for evaluation those without it are left out, as long as one has it."""
        have = [
            number
            for number, manifest in enumerate(self._manifests)
            if split is None or split == "train" or any(entry.split == split for entry in manifest.shards)
        ]
        members = []
        for number in have or range(len(self.folders)):
            members.append(SpectrogramDataset(self.folders[number], split))
            members[-1].label_names = self._labels[number]
        return MixedDataset(members, self.label_names, self.where)

    def train_dataloader(self) -> ShardLoader:
        """Batches of the train split, in a new order each epoch (in one and the same where Lightning overfits)."""
        dataset = self.datasets["train"]
        if self.trainer is not None and getattr(self.trainer, "overfit_batches", False):
            return self._plain("train")
        return self._loader(dataset, self._training_order(dataset))

    def val_dataloader(self) -> ShardLoader:
        """Batches of the validation split, in order."""
        return self._plain("validation")

    def test_dataloader(self) -> ShardLoader:
        """Batches of the test split, in order."""
        return self._plain("test")

    def predict_dataloader(self) -> ShardLoader:
        """Batches of everything that is selected, in order."""
        return self._plain(None)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Pictures from half to single precision, on the device."""
        return {key: value.float() if key in _PICTURES else value for key, value in batch.items()}

    def _plain(self, split: str | None) -> ShardLoader:
        dataset = self.datasets[split]
        return self._loader(dataset, PlainOrder(len(dataset), self.batch_size, self._place()[1]))

    def _place(self) -> tuple[int, int]:
        """Rank and number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader(self, dataset: MixedDataset, order: PlainOrder | ShuffledOrder) -> ShardLoader:
        return ShardLoader(dataset, order, self.num_workers, *self._place(), key=self._key(dataset))

    def _key(self, dataset: MixedDataset) -> str:
        """What a training order follows from, in a few words and a hash of the data."""
        content = hashlib.sha256("".join(map(index_key, self._manifests)).encode()).hexdigest()[:16]
        options = {
            "batch_size": self.batch_size,
            "where": self.where,
            "seed": self.seed,
            "weights": self.weights,
            "balance": self.balance,
            "group": self.group,
            "chunk": self.chunk,
        }
        said = ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)
        return f"{len(dataset)} samples of {content} ({said})"

    def _training_order(self, dataset: MixedDataset) -> ShuffledOrder:
        chunks = dataset.chunks(self.chunk)
        groups = None if self.group is None else self._codes(dataset, self.group)
        if self.balance is not None:
            pools = _pools(chunks, self._codes(dataset, self.balance), self.balance)
            return ShuffledOrder(pools, self.batch_size, self.seed, even=True)
        if self.weights is None:
            # Every sample once; in batches of one group also those without it, as a group of their own.
            everything = Pool("all", np.arange(len(dataset)), chunks)
            return ShuffledOrder([everything], self.batch_size, self.seed, groups=groups)
        shares = np.asarray(self.weights) / np.diff(dataset.starts)
        # A group is a pool of its own, so that an epoch has as many batches of it as any other.
        cells = dataset.member_of if groups is None else dataset.member_of * (int(groups.max()) + 2) + groups + 1
        pools = _pools(chunks, cells, "data set")
        each = [float(shares[dataset.member_of[pool.indices[0]]]) * len(pool.indices) for pool in pools]
        return ShuffledOrder(pools, self.batch_size, self.seed, shares=each, groups=groups)

    def _codes(self, dataset: MixedDataset, label: str) -> Any:
        if label not in dataset.labels:
            raise DatasetError(f"no label {label!r} in {self.data}", f"one of {sorted(dataset.labels)}")
        return dataset.labels[label].astype(np.int64)


def _fit(weights: Sequence[float], count: int) -> bool:
    return len(weights) == count and all(0 < weight < float("inf") for weight in weights)


def _pools(chunks: Any, codes: Any, name: str) -> list[Pool]:
    """A pool for every code that occurs; -1 is none."""
    present = np.unique(codes[codes >= 0])
    if not len(present):
        raise DatasetError(f"no sample has the label {name!r}", "at least one")
    members = [np.flatnonzero(codes == code) for code in present]
    return [Pool(f"{name} {code}", inside, chunks[inside]) for code, inside in zip(present, members, strict=True)]
