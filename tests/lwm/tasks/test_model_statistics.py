"""A model standardises with the statistics of the data it was pretrained on, whatever data it meets later."""

from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from lwm.data.datamodule import ShardDataModule
from lwm.data.shard import write_dataset
from lwm.evaluation.embed import POOLING, embed
from lwm.evaluation.features import frozen_features, layer_tokens
from lwm.evaluation.networks import Labelled, fine_tune
from lwm.evaluation.probe import fit_probe
from lwm.evaluation.task import Budget
from lwm.export import export
from lwm.hub import from_pretrained
from lwm.models.encoder import SpectrogramEncoder
from lwm.models.pooling import pool
from lwm.signal.recipe import PRESETS
from lwm.tasks.pretrain import MaskedModeling

RECIPE = PRESETS["small"]
SPLITS = ["train"] * 16 + ["validation"] * 8
TECHNOLOGIES = ["lte"] * 8 + ["nr"] * 8 + ["lte"] * 4 + ["nr"] * 4


class Made(NamedTuple):
    """A data set: folder, pictures dB ``[24, 1, 64, 64]``, mean and deviation of its valid training cells."""

    root: str
    pictures: np.ndarray
    mean: float
    std: float


class Pretrained(NamedTuple):
    task: Any
    checkpoint: Path
    folder: Path
    encoder: Any


def _make(root: Path, level: float, spread: float, seed: int) -> Made:
    """Validation pictures are 6 dB higher and a quarter of the columns is padded at the floor: neither may count."""
    pictures = np.random.default_rng(seed).normal(level, spread, (24, 1, 64, 64)).astype(np.float16)
    pictures[16:] += 6
    pictures[:, :, :, 48:] = RECIPE.floor_db
    valid = np.ones((24, 64), bool)
    valid[:, 48:] = False
    write_dataset(root, pictures, RECIPE, {"technology": TECHNOLOGIES}, split=SPLITS, valid=valid)
    seen = pictures[:16, ..., :48].astype(np.float64)
    return Made(str(root), pictures.astype(np.float32), float(seen.mean()), float(seen.std()))


@pytest.fixture(scope="module")
def low(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _make(tmp_path_factory.mktemp("low") / "set", -20.0, 3.0, 0)


@pytest.fixture(scope="module")
def high(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _make(tmp_path_factory.mktemp("high") / "set", 8.0, 6.0, 1)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, low: Made) -> Pretrained:
    """Two steps on ``low``, from the checkpoint into a model folder."""
    folder = tmp_path_factory.mktemp("run")
    task = MaskedModeling(size="tiny", name="lte")
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, datamodule=ShardDataModule(low.root, batch_size=8))
    trainer.save_checkpoint(folder / "last.ckpt")
    export(str(folder / "last.ckpt"), str(folder / "model"))
    return Pretrained(task, folder / "last.ckpt", folder / "model", from_pretrained(folder / "model"))


def without_statistics(encoder: Any) -> SpectrogramEncoder:
    """The same weights; what they are given has to be standardised before."""
    bare = SpectrogramEncoder.from_config(encoder.get_config(), encoder.recipe)
    bare.load_state_dict(encoder.state_dict() | {"mean": torch.tensor(0.0), "std": torch.tensor(1.0)})
    return bare.eval()


def standardised(data: Made, by: Made) -> torch.Tensor:
    return torch.from_numpy((data.pictures - by.mean) / by.std).float()


def test_pretraining_takes_the_statistics_of_its_training_data(low: Made, pretrained: Pretrained) -> None:
    for encoder in (pretrained.task.encoder, pretrained.encoder):
        assert (encoder.mean.item(), encoder.std.item()) == pytest.approx((low.mean, low.std), abs=2e-3)
    seen = pretrained.encoder.normalize(torch.from_numpy(low.pictures[:16, ..., :48]))
    assert abs(seen.mean().item()) < 1e-3
    assert seen.std().item() == pytest.approx(1, abs=1e-3)


def test_features_of_other_data_are_standardised_with_the_models(low: Made, high: Made, pretrained: Pretrained) -> None:
    bare = without_statistics(pretrained.encoder)
    found = frozen_features(pretrained.encoder, torch.from_numpy(high.pictures))
    for ours, right, wrong in zip(
        found,
        frozen_features(bare, standardised(high, by=low)),
        frozen_features(bare, standardised(high, by=high)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, right, atol=5e-3)
        assert np.abs(ours - wrong).mean() > 0.1


@torch.inference_mode()
def test_embeddings_of_other_data_are_standardised_with_the_models(
    low: Made, high: Made, pretrained: Pretrained, tmp_path: Path
) -> None:
    bare = without_statistics(pretrained.encoder)
    with h5py.File(embed(str(pretrained.folder), high.root, str(tmp_path / "vectors.h5"))) as file:
        vectors = file["embedding"][:]
    right, wrong = (
        pool(bare.forward_features(standardised(high, by)), bare.grid_size, POOLING).numpy() for by in (low, high)
    )
    np.testing.assert_allclose(vectors, right, atol=5e-3)
    assert np.abs(vectors - wrong).mean() > 0.1


def test_fine_tuning_on_other_data_keeps_the_models(low: Made, high: Made, pretrained: Pretrained) -> None:
    codes = np.arange(24) % 2
    contrast = torch.from_numpy(codes).float()[:, None, None, None]
    pictures = torch.from_numpy(high.pictures) + contrast
    train, validation = np.arange(16), np.arange(16, 24)
    probe = fit_probe(frozen_features(pretrained.encoder, pictures), codes, train, validation)
    labelled = Labelled(pictures, torch.from_numpy(codes))
    budget = Budget(samples=32, rates=(1e-3,), batch_size=8)
    network: Any = fine_tune(
        pretrained.encoder, probe, "linear", labelled.part(train), labelled.part(validation), budget, 0
    )[0]
    bare = without_statistics(network.encoder)
    with torch.inference_mode():
        found = network(pictures)
        right, wrong = (
            network.head(layer_tokens(bare, standardised(high, by) + contrast / by.std, network.layer)[0])
            for by in (low, high)
        )
    torch.testing.assert_close(found, right, atol=5e-3, rtol=1e-3)
    assert (found - wrong).abs().mean() > 0.1


def test_a_run_that_starts_from_a_model_keeps_the_models(
    low: Made, high: Made, pretrained: Pretrained, quiet: dict[str, Any]
) -> None:
    task = MaskedModeling(size="tiny", name="lte", training={"weights": str(pretrained.folder)})
    pl.Trainer(max_steps=1, limit_val_batches=0, **quiet).fit(task, datamodule=ShardDataModule(high.root, 8))
    assert (task.mean, task.std) == pytest.approx((low.mean, low.std), abs=2e-3)
    assert (task.encoder.mean.item(), task.encoder.std.item()) == pytest.approx((low.mean, low.std), abs=2e-3)


def test_a_checkpoint_on_other_data_keeps_its_own(
    low: Made, high: Made, pretrained: Pretrained, quiet: dict[str, Any]
) -> None:
    task = MaskedModeling.load_from_checkpoint(pretrained.checkpoint, weights_only=True)
    trainer = pl.Trainer(**quiet)
    trainer.validate(task, datamodule=ShardDataModule(high.root, batch_size=8), verbose=False)
    assert (task.mean, task.std) == pytest.approx((low.mean, low.std), abs=2e-3)
    assert (task.encoder.mean.item(), task.encoder.std.item()) == pytest.approx((low.mean, low.std), abs=2e-3)
