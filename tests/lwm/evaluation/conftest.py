"""A small data set with two planted labels, a tiny encoder on it, and a quick task."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lwm.data.shard import write_dataset
from lwm.hub import save_pretrained
from lwm.models.encoder import EncoderConfig, SpectrogramEncoder
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe, recipe_named

CHANNELS = 10
REPEATS = 3

TASK = """
name: planted
labels: [snr, mobility]
k: [2, 4]
episodes: 2
test_per_class: 6
test_channels: 0.4
training:
  head: {samples: 32, rates: [1.0e-3], batch_size: 8}
  tuned: {samples: 16, rates: [1.0e-4], batch_size: 8}
  scratch: {samples: 16, rates: [1.0e-3], batch_size: 8}
"""


@pytest.fixture(scope="session")
def small_recipe() -> Recipe:
    return replace(recipe_named("small"), name="tiny", size=(32, 32))


@pytest.fixture(scope="session")
def columns() -> dict[str, list[str]]:
    """Labels of every sample: each channel draw has each class REPEATS times."""
    rows = [
        (snr, mobility, f"test/{channel}")
        for channel in range(CHANNELS)
        for snr in ("-5", "20")
        for mobility in ("pedestrian", "vehicular")
        for _ in range(REPEATS)
    ]
    return dict(zip(("snr", "mobility", "channel"), map(list, zip(*rows, strict=True)), strict=True))


@pytest.fixture(scope="session")
def pictures(columns: dict[str, list[str]]) -> NDArray[np.float32]:
    """dB ``[N, 1, 32, 32]``: contrast follows the SNR, speed of a ripple along time the mobility."""
    rng = rng_for(0, "test", "pictures")
    time, row = np.arange(32), np.arange(32)[:, None]
    made = []
    for snr, mobility in zip(columns["snr"], columns["mobility"], strict=True):
        ripple = np.cos(time * (0.8 if mobility == "vehicular" else 0.1) + rng.uniform(0, 6.3))
        band = (np.abs(row - 16) < 8) * (10.0 if snr == "20" else 6.0)
        made.append(band * (1 + 0.6 * ripple) - 5 + rng.normal(0, 0.5, (32, 32)))
    return np.array(made, dtype=np.float32)[:, None]


@pytest.fixture(scope="session")
def data(
    tmp_path_factory: pytest.TempPathFactory,
    small_recipe: Recipe,
    columns: dict[str, list[str]],
    pictures: NDArray[np.float32],
) -> Path:
    """A data set with only a test split of technology ``lte``."""
    root = tmp_path_factory.mktemp("fewshot") / "data"
    labels = columns | {"technology": ["lte"] * len(pictures)}
    write_dataset(root, pictures, small_recipe, labels, split="test")
    return root


@pytest.fixture(scope="session")
def encoder(small_recipe: Recipe) -> SpectrogramEncoder:
    return SpectrogramEncoder(EncoderConfig(patch=8, width=32, depth=2, heads=2), small_recipe, 0.0, 6.0).eval()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, encoder: SpectrogramEncoder) -> Path:
    folder = tmp_path_factory.mktemp("fewshot") / "model"
    provenance = {"task": "pretrain", "options": {"target": "clean"}}
    return save_pretrained(encoder, folder, provenance)


@pytest.fixture(scope="session")
def quick_task() -> str:
    """YAML of a task that takes seconds with all its contestants."""
    return TASK


@pytest.fixture
def task_file(tmp_path: Path) -> Callable[..., str]:
    """Writes the quick task, with lines added, and gives its path."""

    def write(extra: str = "") -> str:
        path = tmp_path / "task.yaml"
        path.write_text(TASK + extra, encoding="utf-8")
        return str(path)

    return write
