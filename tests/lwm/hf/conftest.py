"""Model folders of a small encoder and of a mixture of two."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lwm.hf  # noqa: F401 (registers)
from lwm.hub import save_pretrained
from lwm.models.encoder import EncoderConfig, SpectrogramEncoder
from lwm.models.moe import MoEEncoder
from lwm.models.router import Router, RouterConfig
from lwm.signal.recipe import Recipe, recipe_named

NAMES = ("lte", "nr")


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return replace(recipe_named("small"), name="tiny", size=(32, 64))


def make_encoder(recipe: Recipe, seed: int, **changes: Any) -> SpectrogramEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = EncoderConfig(patch=8, width=32, depth=2, heads=2, **changes)
        return SpectrogramEncoder(config, recipe, -3.0, 6.0).eval()


def make_mixture(seed: int = 0) -> MoEEncoder:
    """Experts of square pictures, which the router wants; its scores are far apart."""
    recipe = replace(recipe_named("small"), name="square", size=(32, 32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        router = Router(RouterConfig(NAMES, grid=4), recipe, -3.0, 6.0)
    router.head.weight.data.mul_(20)
    return MoEEncoder({name: make_encoder(recipe, i + 1) for i, name in enumerate(NAMES)}, router).eval()


def written(model: Any, folder: Path) -> Path:
    """A model folder as it is written."""
    return save_pretrained(model, folder)


@pytest.fixture(scope="session")
def encoder(recipe: Recipe) -> SpectrogramEncoder:
    """With two prefix tokens and learned positions: what differs most from a plain ViT."""
    return make_encoder(recipe, 0, cls_token=True, registers=1, position="learned")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, encoder: SpectrogramEncoder) -> Path:
    return written(encoder, tmp_path_factory.mktemp("hf") / "encoder")


@pytest.fixture(scope="session")
def mixture() -> MoEEncoder:
    return make_mixture()


@pytest.fixture(scope="session")
def mixture_folder(tmp_path_factory: pytest.TempPathFactory, mixture: MoEEncoder) -> Path:
    return written(mixture, tmp_path_factory.mktemp("hf") / "mixture")


@pytest.fixture
def tied(tmp_path: Path) -> tuple[MoEEncoder, Path]:
    """A mixture whose experts share a layer, and its folder."""
    mixture = make_mixture()
    first, second = mixture.experts.values()  # type: ignore[operator]
    second.patch_embed = first.patch_embed
    return mixture, written(mixture, tmp_path / "tied")
