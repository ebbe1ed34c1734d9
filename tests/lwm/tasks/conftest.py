"""A data module in memory: what the tasks need of one, at a few samples."""

from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lwm.signal.recipe import Recipe, recipe_named


class Statistics(NamedTuple):
    mean: float
    std: float


class ToyData(pl.LightningDataModule):
    """Vertical stripes are `lte`, horizontal ones `nr`; noise over both; every third sample is half padding."""

    label_names = {"technology": ["lte", "nr"]}  # noqa: RUF012

    def __init__(self, samples: int = 8, clean: bool = True, recipe: Recipe | None = None) -> None:
        super().__init__()
        self.samples, self.clean = samples, clean
        self.recipe = recipe or recipe_named("small")
        self.statistics = Statistics(-12.0, 18.0)

    def items(self) -> list[dict[str, Any]]:
        generator = torch.Generator().manual_seed(0)
        technology = torch.arange(self.samples) % 2
        stripe = (torch.arange(64) // 8) % 2 == 0
        on = torch.where(technology[:, None, None] == 0, stripe[None, None, :], stripe[None, :, None])
        clean = torch.where(on, 5.0, -40.0).expand(-1, 64, 64)[:, None].contiguous()
        noise = 2 * torch.randn(self.samples, 1, 64, 64, generator=generator) - 10
        valid = torch.arange(64) < torch.where(torch.arange(self.samples) % 3 == 2, 32, 64)[:, None]
        found = [
            {
                "spectrogram": torch.maximum(clean, noise)[i],
                "valid": valid[i],
                "index": i,
                "technology": int(technology[i]),
            }
            for i in range(self.samples)
        ]
        return [item | {"clean": clean[i]} for i, item in enumerate(found)] if self.clean else found

    def batch(self) -> dict[str, torch.Tensor]:
        return torch.utils.data.default_collate(self.items())

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.items(), batch_size=4)  # type: ignore[arg-type]

    val_dataloader = train_dataloader
    test_dataloader = train_dataloader


@pytest.fixture
def toy() -> type[ToyData]:
    return ToyData


@pytest.fixture
def quiet() -> dict[str, Any]:
    """Trainer options of every test."""
    return {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
