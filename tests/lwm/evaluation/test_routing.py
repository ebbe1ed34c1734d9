"""The router's report: figures that follow from counts, files written, protocols without an expert left out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lwm.data.dataset import SpectrogramDataset
from lwm.data.shard import write_dataset
from lwm.errors import DatasetError, RecipeMismatch
from lwm.evaluation.routing import route_dataset, routing_report, score_routing, snr_groups
from lwm.hub import save_pretrained
from lwm.models.encoder import EncoderConfig, SpectrogramEncoder
from lwm.models.moe import MoEEncoder
from lwm.models.router import Router, RouterConfig
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe

NAMES = ("lte", "nr")
SAMPLES = 60


@pytest.fixture(scope="module")
def mixture(small_recipe: Recipe) -> MoEEncoder:
    torch.manual_seed(0)
    shape = EncoderConfig(patch=8, width=32, depth=1, heads=2)
    experts = {name: SpectrogramEncoder(replace(shape, name=name), small_recipe, 0, 6) for name in NAMES}
    return MoEEncoder(experts, Router(RouterConfig(NAMES, temperature=2.0), small_recipe, 0, 6)).eval()


@pytest.fixture(scope="module")
def folder(mixture: MoEEncoder, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_pretrained(mixture, tmp_path_factory.mktemp("routing") / "moe"))


@pytest.fixture(scope="module")
def routed(small_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> str:
    """LTE louder than NR, a radar that no expert knows, and samples without SNR."""
    rng = rng_for(0, "test", "routing")
    rows = [(("lte", "nr", "radar")[i % 3], ("-5", "20", "5")[i // 3 % 3]) for i in range(2 * SAMPLES)]
    level = np.array([{"lte": 10.0, "nr": 0.0, "radar": -5.0}[name] for name, _ in rows])
    pictures = (rng.normal(0, 3, (len(rows), 1, 32, 32)) + level[:, None, None, None]).astype(np.float32)
    labels = {"technology": [name for name, _ in rows], "snr": [snr for _, snr in rows]}
    root = tmp_path_factory.mktemp("routing") / "data"
    split = ["train"] * SAMPLES + ["test"] * SAMPLES
    write_dataset(root, pictures, small_recipe, labels, split=split, values={"snr_db": [float(s) for _, s in rows]})
    return str(root)


def test_report_follows_from_the_probabilities(mixture: MoEEncoder, folder: str, routed: str, tmp_path: Path) -> None:
    report = routing_report(folder, routed, str(tmp_path / "report"))
    test = SpectrogramDataset(routed, "test", 'technology != "radar"')
    chosen = np.array(NAMES)[route_dataset(mixture, test).argmax(1)]
    truth = np.array(test.label_names["technology"])[test.labels["technology"]]
    snr = np.array(test.label_names["snr"])[test.labels["snr"]]
    assert report["samples"] == len(test) == 40
    assert report["experts"] == list(NAMES)
    assert report["accuracy"] == pytest.approx((chosen == truth).mean())
    assert report["confusion"] == [[int(((truth == t) & (chosen == c)).sum()) for c in NAMES] for t in NAMES]
    assert list(report["accuracy_by_snr"]) == ["-5", "5", "20"]
    for name, share in report["accuracy_by_snr"].items():
        assert share == pytest.approx((chosen == truth)[snr == name].mean())
    assert np.sum(list(report["confusion_by_snr"].values()), axis=0).tolist() == report["confusion"]
    assert report["accuracy_by_protocol"]["nr"] == pytest.approx((chosen[truth == "nr"] == "nr").mean())
    assert report["chance"] == 0.5
    # The level alone tells them apart, and the yardstick finds it.
    assert report["trivial_accuracy"] == 1.0
    assert json.loads((tmp_path / "report" / "routing.json").read_text()) == report
    for name in ("reliability", "confusion", "accuracy"):
        assert (tmp_path / "report" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_calibrated_and_uncalibrated_differ_by_the_temperature(mixture: MoEEncoder) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(4000, 2, generator=generator)
    truth = torch.multinomial((logits / 2).softmax(1), 1, generator=generator)[:, 0].numpy()
    report = score_routing(logits, truth, mixture.router, np.array(["", "0"] * 2000))
    assert report["temperature"] == 2.0
    # The labels were drawn at the router's temperature: what is left is sampling, below sqrt(15 * 0.25 / 4000) = 0.03.
    assert report["calibrated"]["ece"] < 0.03 < 0.06 < report["uncalibrated"]["ece"]
    assert report["calibrated"]["log_loss"] < report["uncalibrated"]["log_loss"]
    assert list(report["accuracy_by_snr"]) == ["0"]
    assert np.sum(report["confusion_by_snr"]["0"]) == 2000


def test_snr_from_a_number_where_there_is_no_label(small_recipe: Recipe, tmp_path: Path) -> None:
    values = {"snr_db": [-6.0, 2.4, 2.6, float("nan")]}
    pictures: Any = np.zeros((4, 1, 32, 32), np.float32)
    write_dataset(tmp_path / "data", pictures, small_recipe, {"technology": ["lte"] * 4}, values=values)
    assert snr_groups(SpectrogramDataset(tmp_path / "data")).tolist() == ["-5", "0", "5", ""]
    write_dataset(tmp_path / "none", pictures, small_recipe, {"technology": ["lte"] * 4})
    assert snr_groups(SpectrogramDataset(tmp_path / "none")).tolist() == [""] * 4


def test_refusals(folder: str, routed: str, data: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no label 'protocol'"):
        routing_report(folder, routed, label="protocol")
    with pytest.raises(DatasetError, match="no split 'validation'"):
        routing_report(folder, routed, split="validation")
    with pytest.raises(DatasetError, match="no split 'train'"):
        routing_report(folder, str(data))
    pictures = np.zeros((4, 1, 32, 32), np.float32)
    labels = {"technology": ["radar"] * 4}
    write_dataset(tmp_path / "radar", pictures, small_recipe, labels, split=["train", "test"] * 2)
    with pytest.raises(DatasetError, match=r"no sample of \['lte', 'nr'\]"):
        routing_report(folder, str(tmp_path / "radar"))
    other = replace(small_recipe, floor_db=-30.0)
    labels = {"technology": ["lte", "nr"] * 2}
    write_dataset(tmp_path / "other", pictures, other, labels, split=["train", "train", "test", "test"])
    with pytest.raises(RecipeMismatch, match="floor_db"):
        routing_report(folder, str(tmp_path / "other"))
