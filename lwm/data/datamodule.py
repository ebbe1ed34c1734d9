"""Shards for Lightning: one data module for every task."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler

from lwm.data.dataset import SpectrogramDataset
from lwm.data.manifest import Manifest, Statistics
from lwm.errors import ConfigError
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe

_SPLIT_OF = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",), "predict": (None,)}


class SeededShuffle(Sampler[int]):
    """All indices in an order that comes from a seed and the epoch alone, so that a resumed run sees the same.

    Args:
        size: number of samples.
        seed: of the run.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(rng_for(self.seed, "shuffle", self.epoch).permutation(self.size).tolist())

    def __len__(self) -> int:
        return self.size


class ShardDataModule(pl.LightningDataModule):
    """Loaders over one data set's folder.

    Args:
        data: folder with ``manifest.json``.
        batch_size: samples in a batch; the last, smaller one of training is left out.
        num_workers: loading processes; 0 loads in the training process.
        where: label to the names that are wanted, for example ``{"technology": ["lte"]}``.
        seed: of the training order.

    Attributes:
        recipe: what made the spectrograms (after :meth:`setup`).
        statistics: of the train split (after :meth:`setup`).
        label_names: label to its names, in the order of the codes (after :meth:`setup`).
        datasets: split to data set, for what the stage needs; ``None`` is everything, for prediction.
    """

    recipe: Recipe
    statistics: Statistics
    label_names: dict[str, list[str]]

    def __init__(
        self,
        data: str,
        batch_size: int = 64,
        num_workers: int = 0,
        where: dict[str, list[str]] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0 or seed < 0:
            raise ConfigError(
                f"batch_size {batch_size}, num_workers {num_workers}, seed {seed}",
                "a batch of 1 or more, workers and seed of 0 or more",
            )
        self.data, self.batch_size, self.num_workers = data, batch_size, num_workers
        self.where, self.seed = where, seed
        self.datasets: dict[str | None, SpectrogramDataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Open what ``stage`` needs (fit, validate, test, predict; None: every split there is)."""
        manifest = Manifest.load(Path(self.data))
        self.recipe = manifest.read_recipe()
        self.statistics = manifest.training_statistics()
        self.label_names = manifest.labels
        there = sorted({entry.split for entry in manifest.shards})
        for split in _SPLIT_OF[stage] if stage is not None else (*there, None):
            if split not in self.datasets:
                self.datasets[split] = SpectrogramDataset(self.data, split, self.where)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batches of the train split, shuffled anew each epoch."""
        dataset = self.datasets["train"]
        return self._loader(
            "train", sampler=SeededShuffle(len(dataset), self.seed), drop_last=len(dataset) >= self.batch_size
        )

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batches of the validation split, in order."""
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batches of the test split, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batches of everything that is selected, in order."""
        return self._loader(None)

    def _loader(self, split: str | None, **options: Any) -> DataLoader[dict[str, Any]]:
        return DataLoader(
            self.datasets[split],
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **options,
        )
