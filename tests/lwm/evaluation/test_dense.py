"""The trainer of heads, segmentation of scenes that a threshold solves, and its report."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from heads.segmentation import SegmentationHead
from lwm.data.finish import finish_dataset
from lwm.data.manifest import Manifest, package_versions
from lwm.data.masks import PADDED
from lwm.data.shard import Sample, ShardWriter
from lwm.errors import ConfigError, DatasetError, OutputError
from lwm.evaluation.dense import Examples, HeadSpec, Training, headed_model, mean_loss, predicted_classes, train_headed
from lwm.evaluation.segmentation import (
    PICTURE,
    RESULTS,
    SegmentationTask,
    load_segmentation_task,
    mask_scores,
    segmentation_report,
)
from lwm.models.encoder import SpectrogramEncoder
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe

NAMES = ("noise", "nr", "lte")
QUICK = Training(steps=4, batch_size=4)


def scenes(count: int, name: str, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Noise at -12 dB, NR at 0 dB in the lower half, LTE at 12 dB in the upper; edges random on the patches' grid."""
    rng = rng_for(0, "scenes", name)
    side, cell = recipe.size[0], 8
    mask = np.zeros((count, side, side), np.uint8)
    for picture in mask:
        for code in (1, 2):
            row = (code - 1) * side // 2
            left = int(rng.integers(0, side // cell // 2)) * cell
            picture[row : row + side // 2 - cell, left : left + side // 2] = code
    levels = np.array([-12.0, 0.0, 12.0])[mask] + rng.normal(0, 1, mask.shape)
    return levels[:, None].astype(np.float32), mask


def examples(count: int, name: str, recipe: Recipe) -> Examples:
    return Examples(*map(torch.from_numpy, scenes(count, name, recipe)))


@pytest.fixture(scope="module")
def spec(small_recipe: Recipe) -> HeadSpec:
    return HeadSpec("segmentation", NAMES, small_recipe, (0.0, 6.0), {"depth": 1})


@pytest.fixture(scope="module")
def scene_data(tmp_path_factory: pytest.TempPathFactory, small_recipe: Recipe) -> Path:
    """A data set as a plan of scenes leaves it, twelve training scenes."""
    root = tmp_path_factory.mktemp("segmentation") / "data"
    plan = {"technologies": ["nr", "lte"], "scene": {"carriers": [2, 2]}}
    manifest = Manifest(small_recipe.to_dict(), plan, 0, "CC0-1.0", package_versions())
    for split, count in (("train", 12), ("validation", 4), ("test", 6)):
        pictures, masks = scenes(count, split, small_recipe)
        writer = ShardWriter(root / f"scene-{split}-00000.h5", count, small_recipe, split, "scene", 0, "CC0-1.0")
        for row in range(count):
            labels = {"snr": ("0", "20")[row % 2]}
            writer.add(Sample(pictures[row], np.ones(32, bool), labels, {"snr_db": 0.0}, {"n": row}, mask=masks[row]))
        manifest.shards.append(writer.save())
    finish_dataset(root, manifest, card=False)
    return root


def test_a_scene_that_a_threshold_solves_is_segmented_through_a_frozen_random_encoder(
    encoder: SpectrogramEncoder, spec: HeadSpec, small_recipe: Recipe
) -> None:
    model = headed_model(encoder, spec, "frozen", 1, 0)
    train, test = examples(48, "learn", small_recipe), examples(16, "score", small_recipe)
    losses = train_headed(model, train, Training(steps=150, batch_size=16), 3e-3, 0, True)
    found = mask_scores(test.target.numpy(), predicted_classes(model, test).numpy(), list(NAMES), None)
    assert losses[-1] < losses[0]
    assert found["mean_class_accuracy"] > 0.99
    assert found["mean_iou"] > 0.98


def test_shuffled_masks_teach_nothing(encoder: SpectrogramEncoder, spec: HeadSpec, small_recipe: Recipe) -> None:
    """Each cell's class a draw of its own: the test's classes are told no better than by chance (a third, +-5 %)."""
    train, test = examples(16, "learn", small_recipe), examples(16, "score", small_recipe)
    rng = rng_for(0, "shuffled")
    drawn = Examples(train.pictures, torch.from_numpy(rng.integers(0, 3, train.target.shape).astype(np.uint8)))
    model = headed_model(encoder, spec, "frozen", 1, 0)
    train_headed(model, drawn, Training(steps=40, batch_size=8), 1e-3, 0, True)
    found = mask_scores(test.target.numpy(), predicted_classes(model, test).numpy(), list(NAMES), None)
    assert found["mean_class_accuracy"] == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize(
    ("regime", "moved"),
    [
        ("frozen", set()),
        ("random", set()),
        ("partial", {"blocks.1", "norm"}),
        ("finetuned", {"patch_embed", "blocks.0", "blocks.1", "norm"}),
        ("scratch", {"patch_embed", "blocks.0", "blocks.1", "norm"}),
    ],
)
def test_only_what_a_regime_trains_moves(
    encoder: SpectrogramEncoder, spec: HeadSpec, small_recipe: Recipe, regime: str, moved: set[str]
) -> None:
    original = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = headed_model(encoder, spec, regime, 1, 0)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in model.encoder.named_parameters()}
    same = all(torch.equal(before[name], value) for name, value in encoder.named_parameters())
    assert same == (regime not in ("random", "scratch"))
    train_headed(model, examples(8, "learn", small_recipe), QUICK, 1e-2, 0, regime == "finetuned")
    differ = {name for name, value in model.encoder.named_parameters() if not torch.equal(before[name], value)}
    found = {".".join(name.split(".")[: 2 if name.startswith("blocks") else 1]) for name in differ}
    assert found == moved
    assert not model.training
    assert all(torch.equal(original[n], v) for n, v in encoder.state_dict().items())
    assert not any(w.requires_grad for w in model.encoder.parameters()) or moved


def test_tokens_kept_in_half_precision_train_as_those_made_anew(
    encoder: SpectrogramEncoder, spec: HeadSpec, small_recipe: Recipe
) -> None:
    train = examples(8, "learn", small_recipe)
    kept = headed_model(encoder, spec, "frozen", 1, 0)
    anew = headed_model(encoder, spec, "frozen", 1, 0)
    anew.frozen = False  # gradients stay off: its weights do not ask for any
    for model in (kept, anew):
        train_headed(model, train, QUICK, 1e-3, 0, True)
    assert mean_loss(kept, train) == pytest.approx(mean_loss(anew, train), rel=1e-3)


def test_the_same_seed_gives_the_same_model(encoder: SpectrogramEncoder, spec: HeadSpec, small_recipe: Recipe) -> None:
    train = examples(8, "learn", small_recipe)
    runs = [train_headed(headed_model(encoder, spec, "scratch", 1, s), train, QUICK, 1e-3, s, False) for s in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_an_unknown_regime_is_refused(encoder: SpectrogramEncoder, spec: HeadSpec) -> None:
    with pytest.raises(ConfigError, match="regime"):
        headed_model(encoder, spec, "half", 1, 0)  # type: ignore[arg-type]


def test_scores_are_those_counted_by_hand() -> None:
    truth = np.array([[[0, 0, 1, 1], [2, 2, PADDED, PADDED]]], np.uint8)
    found = np.array([[[0, 1, 1, 1], [2, 0, 1, 2]]])
    said = mask_scores(truth, found, list(NAMES), ["5"])
    assert said["accuracy"] == pytest.approx(4 / 6)
    assert said["per_class"] == {"noise": 0.5, "nr": 1.0, "lte": 0.5}
    assert said["mean_class_accuracy"] == pytest.approx(2 / 3)
    assert said["mean_iou"] == pytest.approx((1 / 3 + 2 / 3 + 1 / 2) / 3)
    assert said["per_snr"] == {"5": pytest.approx(2 / 3)}
    assert said["confusion"] == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]


def test_a_class_that_does_not_occur_does_not_count() -> None:
    truth = np.zeros((1, 2, 2), np.uint8)
    assert mask_scores(truth, truth.astype(np.int64), list(NAMES), None)["mean_class_accuracy"] == 1.0


def test_report_has_every_regime_and_its_picture(scene_data: Path, model: Path, tmp_path: Path) -> None:
    task = SegmentationTask("scenes", k=(4, 8), regimes=("frozen", "partial", "scratch"), training=QUICK)
    task = replace(task, training=replace(QUICK, rates=(1e-3, 1e-2)), head_options={"depth": 1})
    out = tmp_path / "out"
    results = segmentation_report(task, str(scene_data), str(out), str(model))
    assert json.loads((out / RESULTS).read_text(encoding="utf-8")) == results
    assert (out / PICTURE).read_bytes().startswith(b"\x89PNG")
    assert [(r["k"], r["regime"]) for r in results["records"]] == [(k, r) for k in (4, 8) for r in task.regimes]
    first = results["records"][0]
    assert first["labels_seen"] == []
    assert first["rate"] in (1e-3, 1e-2)
    assert set(first["per_snr"]) == {"0", "20"}
    assert results["classes"] == list(NAMES)
    assert results["test_samples"] == 6
    with pytest.raises(OutputError, match="not empty"):
        segmentation_report(task, str(scene_data), str(out), str(model))


def test_without_a_model_only_what_needs_none_is_run(scene_data: Path, tmp_path: Path) -> None:
    task = SegmentationTask("scenes", k=(4,), training=QUICK, size="tiny", head_options={"depth": 1})
    results = segmentation_report(task, str(scene_data), str(tmp_path / "out"))
    assert [record["regime"] for record in results["records"]] == ["scratch", "random"]
    with pytest.raises(ConfigError, match="--model"):
        segmentation_report(replace(task, regimes=("frozen",)), str(scene_data), str(tmp_path / "none"))


def test_data_that_cannot_serve_is_refused(scene_data: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no masks"):
        segmentation_report(SegmentationTask("a", train="test", validation="test"), str(data), str(tmp_path / "a"))
    with pytest.raises(DatasetError, match="largest k"):
        segmentation_report(SegmentationTask("b", k=(13,), regimes=("random",)), str(scene_data), str(tmp_path / "b"))


def test_shipped_task_is_read() -> None:
    task = load_segmentation_task("tasks/segmentation")
    assert task.name == "segmentation"
    assert set(task.head_options) <= set(SegmentationHead.__init__.__annotations__)
