"""Loaders of each stage; the order of training comes from seed and epoch."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from lwm.data.datamodule import SeededShuffle, ShardDataModule
from lwm.data.manifest import Manifest
from lwm.errors import ConfigError, DatasetError


def _order(loader: DataLoader) -> list[int]:
    return torch.cat([batch["index"] for batch in loader]).tolist()


def _loader(folder: Path, seed: int, epoch: int) -> DataLoader:
    module = ShardDataModule(str(folder), batch_size=4, seed=seed)
    module.datasets.clear()
    module.setup(None)
    loader = module.train_dataloader()
    assert isinstance(loader.sampler, SeededShuffle)
    loader.sampler.set_epoch(epoch)
    return loader


def test_training_order_depends_on_seed_and_epoch_only(folder: Path) -> None:
    first = _order(_loader(folder, 1, 0))
    assert first == _order(_loader(folder, 1, 0))
    assert len({tuple(first), tuple(_order(_loader(folder, 1, 1))), tuple(_order(_loader(folder, 2, 0)))}) == 3
    assert len(set(first)) == 12  # 14 samples: three whole batches of four


def test_stages_have_their_splits(folder: Path) -> None:
    module = ShardDataModule(str(folder), batch_size=8, where={"technology": ["lte"]})
    module.setup("test")
    assert set(module.datasets) == {"test"}
    assert _order(module.test_dataloader()) == [0, 1, 2]
    assert module.statistics == Manifest.load(folder).training_statistics()
    assert module.recipe.name == "small"
    assert module.label_names["technology"] == ["lte", "nr"]
    module.setup("predict")
    assert _order(module.predict_dataloader()) == list(range(10))


def test_small_training_sets_keep_their_only_batch(folder: Path) -> None:
    module = ShardDataModule(str(folder), batch_size=64)
    module.setup(None)
    assert sorted(_order(module.train_dataloader())) == list(range(14))


def test_what_is_missing_or_impossible_is_refused(folder: Path) -> None:
    with pytest.raises(DatasetError, match="no split 'validation'"):
        ShardDataModule(str(folder)).setup("fit")
    with pytest.raises(ConfigError, match="batch_size 0"):
        ShardDataModule(str(folder), batch_size=0)
