"""A router's detector from the splits of its training, where some captures carry no label."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lwm.data.dataset import SpectrogramDataset
from lwm.data.mixing import MixedDataset
from lwm.data.shard import write_dataset
from lwm.errors import DatasetError, RecipeMismatch
from lwm.models.router import Router, RouterConfig
from lwm.models.router_view import experts_by_code, experts_of, view_dataset
from lwm.seeding import rng_for
from lwm.signal.recipe import recipe_named
from lwm.tasks.detecting import fit_known

RECIPE = recipe_named("small")
NAMES = ("nr", "lte")


@pytest.fixture
def router() -> Router:
    torch.manual_seed(0)
    return Router(RouterConfig(NAMES, width=16), RECIPE).train()


def dataset(root: Path, labels: dict[str, list[str]], seed: int) -> SpectrogramDataset:
    pictures = rng_for(seed, "test", "detecting").normal(0, 3, (len(next(iter(labels.values()))), 1, 64, 64))
    write_dataset(root, pictures.astype("float32"), RECIPE, labels)
    return SpectrogramDataset(root)


def half_labelled(folder: Path, seed: int) -> MixedDataset:
    """Twelve captures of known protocols, six of another, and ten of which no technology is told."""
    told = dataset(folder / "told", {"technology": ["lte", "nr", "wlan"] * 6}, seed)
    silent = dataset(folder / "silent", {"site": ["roof"] * 10}, seed + 100)
    return MixedDataset([told, silent], {"technology": told.label_names["technology"], "site": ["roof"]})


def test_samples_without_a_label_are_no_experts(tmp_path: Path, router: Router) -> None:
    splits = {split: half_labelled(tmp_path / split, seed) for seed, split in enumerate(("train", "validation"))}
    detector = fit_known(router, SimpleNamespace(datasets=splits), "technology", "mahalanobis")
    assert detector is not None
    assert router.training
    assert detector.config.calibration == 12
    told = splits["train"].members[0]
    view = view_dataset(router, told)
    names = [told.label_names["technology"][code] for code in told.labels["technology"]]
    for number, name in enumerate(NAMES):
        mean = view.features[[found == name for found in names]].mean(0)
        torch.testing.assert_close(detector.means[number], mean, atol=1e-5, rtol=1e-4)
    assert fit_known(router, SimpleNamespace(datasets={"train": told}), "technology", "energy") is None


def test_expert_of_every_code(tmp_path: Path, router: Router) -> None:
    assert experts_by_code({"technology": ["lte", "wlan", "nr"]}, NAMES, "technology").tolist() == [1, -1, 0, -1]
    mixed = half_labelled(tmp_path, 0)
    told = mixed.members[0]
    stored = [told.label_names["technology"][code] for code in told.labels["technology"]]
    expected = [NAMES.index(name) if name in NAMES else -1 for name in stored] + [-1] * 10
    assert sorted(expected) == [-1] * 16 + [0] * 6 + [1] * 6
    assert experts_of(mixed, NAMES).tolist() == expected
    with pytest.raises(DatasetError, match=r"no label 'mode'.*\['site', 'technology'\]"):
        experts_of(mixed, NAMES, "mode")


def test_view_of_some_samples_in_their_order(tmp_path: Path, router: Router) -> None:
    mixed = half_labelled(tmp_path, 0)
    whole, some = view_dataset(router, mixed), [20, 3, 27]
    part = view_dataset(router, mixed, torch.tensor(some).numpy(), batch_size=2)
    torch.testing.assert_close(part.features, whole.features[some], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(part.logits, whole.logits[some], atol=1e-5, rtol=1e-4)
    other = Router(RouterConfig(NAMES, width=16), recipe_named("lwm"))
    with pytest.raises(RecipeMismatch, match="told"):
        view_dataset(other, mixed)
