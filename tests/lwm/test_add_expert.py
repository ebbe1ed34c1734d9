"""One more protocol into a mixture: only the router's new column is trained, and it is found."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lwm.add_expert import Cached, add_expert, fit_column
from lwm.cli import main
from lwm.data.dataset import SpectrogramDataset
from lwm.data.shard import write_dataset
from lwm.errors import ConfigError, DatasetError, ModelError, OutputError, RecipeMismatch
from lwm.hub import check_model, from_pretrained, save_pretrained, weights_sha256
from lwm.models.encoder import EncoderConfig, SpectrogramEncoder, build_encoder
from lwm.models.moe import MoEEncoder
from lwm.models.novelty import NoveltyConfig, NoveltyDetector, NoveltyScore, fit_novelty
from lwm.models.router import Router, RouterConfig, fit_temperature
from lwm.models.router_view import experts_of, view_dataset
from lwm.output import file_sha256
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe, recipe_named

RECIPE = recipe_named("small")
OLD = ("lte", "nr")
PROTOCOLS = (*OLD, "ble")


def picture(name: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Vertical stripes are LTE, horizontal ones NR, small squares BLE; phase and noise are drawn."""
    along, across = ((np.arange(64) + rng.integers(0, 16)) // 8 % 2 for _ in range(2))
    on = {"lte": along[None, :], "nr": across[:, None], "ble": along[None, :] & across[:, None]}[name]
    return (np.where(on, 5.0, -30.0) + rng.normal(0, 3, (64, 64))).astype(np.float32)


def dataset(root: Path, counts: dict[str, int], recipe: Recipe = RECIPE, looks: dict[str, str] | None = None) -> str:
    """``counts`` samples of each protocol in training, half of them in validation and in test.

    ``looks``: protocols that look like another.
    """
    rng = rng_for(0, "test", "add-expert")
    rows = [
        (name, split) for split, part in (("train", 1), ("validation", 2), ("test", 2)) for name in counts
        for _ in range(counts[name] // part)
    ]  # fmt: skip
    pictures = np.stack([picture((looks or {}).get(name, name), rng) for name, _ in rows])[:, None]
    write_dataset(root, pictures, recipe, {"technology": [n for n, _ in rows]}, split=[s for _, s in rows])
    return str(root)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("add-expert")


@pytest.fixture(scope="module")
def data(place: Path) -> str:
    """Uneven on purpose: four times as much of the old protocols."""
    return dataset(place / "data", {"lte": 48, "nr": 48, "ble": 12})


@pytest.fixture(scope="module")
def mixture(place: Path, data: str) -> str:
    """A mixture of LTE and NR whose router tells them apart: a random trunk and a fitted head."""
    torch.manual_seed(0)
    router = Router(RouterConfig(OLD, temperature=1.5), RECIPE, -12, 18).eval()
    train = SpectrogramDataset(data, "train", "technology in ['lte', 'nr']")
    batch = train.batch(range(len(train)))
    names = np.array(train.label_names["technology"])[batch["technology"]]
    truth = torch.from_numpy(np.array([OLD.index(name) for name in names]))
    with torch.no_grad():
        split = Cached(router.features(batch["spectrogram"]), truth, torch.full((len(truth),), 1 / len(truth)))
        fit_column(router, split, split)
        assert (router(batch["spectrogram"]).argmax(1) == truth).float().mean() > 0.95
    experts = {name: build_encoder("tiny", RECIPE, -12, 18, name, seed) for seed, name in enumerate(OLD)}
    folder = place / "mixture"
    return str(save_pretrained(MoEEncoder(experts, router), folder, {"command": "lwm fit", "seed": 3}))


def expert_folder(path: Path, name: str = "ble", **changes: object) -> str:
    encoder = build_encoder("tiny", RECIPE, -12, 18, name, 9)
    if changes:
        encoder = SpectrogramEncoder(replace(encoder.config, **changes), RECIPE)  # type: ignore[arg-type]
    return str(save_pretrained(encoder, path))


@pytest.fixture(scope="module")
def newcomer(place: Path) -> str:
    return expert_folder(place / "ble")


def content(folder: str) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in sorted(Path(folder).iterdir())}


def test_only_the_new_column_is_trained(mixture: str, newcomer: str, data: str, tmp_path: Path) -> None:
    before, folder = content(mixture), tmp_path / "moe"
    assert main(["add-expert", "--model", mixture, "--expert", newcomer, "--data", data, "--out", str(folder)]) == 0
    assert content(mixture) == before
    assert check_model(folder) == []
    old, new = from_pretrained(mixture), from_pretrained(folder)
    assert new.expert_names == PROTOCOLS
    now = new.state_dict()
    for name, value in old.state_dict().items():
        if name == "router.temperature":
            continue  # Fitted again: it belongs to no column and changes no choice.
        part = now[name][:2] if name.startswith("router.head.") else now[name]
        assert torch.equal(part, value), name
    assert now["router.head.weight"][2].abs().max() > 0
    assert weights_sha256(new.experts["ble"]) == weights_sha256(from_pretrained(newcomer))
    test = SpectrogramDataset(data, "test")
    batch = test.batch(range(len(test)))
    names = np.array(test.label_names["technology"])[batch["technology"]]
    chosen = np.array(PROTOCOLS)[new.route(batch["spectrogram"]).argmax(1)]
    for name in PROTOCOLS:
        assert (chosen[names == name] == name).mean() > 0.8, name


def test_provenance_says_what_came_from_where(mixture: str, newcomer: str, data: str, tmp_path: Path) -> None:
    folder = add_expert(mixture, newcomer, [data], str(tmp_path / "moe"))
    said = json.loads((folder / "provenance.json").read_text())
    assert {name: each["from"] for name, each in said["experts"].items()} == {"lte": mixture, "nr": mixture} | {
        "ble": newcomer
    }
    assert said["experts"]["ble"]["weights_sha256"] == weights_sha256(from_pretrained(newcomer))
    assert said["experts"]["lte"]["provenance_sha256"] == file_sha256(Path(mixture) / "provenance.json")
    assert said["router"]["columns"] == {"lte": mixture, "nr": mixture, "ble": "trained here"}
    assert said["data"] == [{"folder": data, "manifest_sha256": file_sha256(Path(data) / "manifest.json")}]
    assert set(said["validation"]["after"]["accuracy_by_protocol"]) == set(PROTOCOLS)
    assert set(said["validation"]["before"]["accuracy_by_protocol"]) == set(OLD)
    again = add_expert(mixture, newcomer, [data], str(tmp_path / "again"))
    assert file_sha256(again / "model.safetensors") == file_sha256(folder / "model.safetensors")


def test_data_of_old_and_new_protocols_from_two_folders(mixture: str, newcomer: str, data: str, tmp_path: Path) -> None:
    old = dataset(tmp_path / "old", {"lte": 8, "nr": 8})
    with pytest.raises(DatasetError, match=r"no train samples of \['ble'\]"):
        add_expert(mixture, newcomer, [old], str(tmp_path / "moe"))
    new = dataset(tmp_path / "new", {"ble": 8})
    folder = add_expert(mixture, newcomer, [old, new], str(tmp_path / "moe"))
    assert from_pretrained(folder).expert_names == PROTOCOLS


@pytest.mark.parametrize("score", ["mahalanobis", "energy"])
def test_mode_and_novelty_detector_know_the_new_protocol(
    score: NoveltyScore, mixture: str, newcomer: str, data: str, tmp_path: Path
) -> None:
    old = from_pretrained(mixture)
    train, held = (SpectrogramDataset(data, split, 'technology != "ble"') for split in ("train", "validation"))
    old.set_detector(fit_novelty(old, train, held, score))
    old.set_mode("top-k", 2)
    save_pretrained(old, tmp_path / "old")
    folder = add_expert(str(tmp_path / "old"), newcomer, [data], str(tmp_path / "moe"))
    new = from_pretrained(folder)
    assert (new.mode, new.top_k) == ("top-k", 2)
    # The same as fitted from pictures.
    peer = fit_novelty(new, SpectrogramDataset(data, "train"), SpectrogramDataset(data, "validation"), score)
    x = SpectrogramDataset(data, "test").batch(range(10))["spectrogram"]
    found = new.novelty_score(x)
    new.set_detector(peer)
    torch.testing.assert_close(found, new.novelty_score(x), atol=1e-3, rtol=1e-3)
    assert from_pretrained(tmp_path / "old").detector.config.protocols == 2


def test_temperature_is_balanced_as_the_column_is(mixture: str, newcomer: str, data: str, tmp_path: Path) -> None:
    new = from_pretrained(add_expert(mixture, newcomer, [data], str(tmp_path / "moe")))
    held = SpectrogramDataset(data, "validation")
    logits, truth = view_dataset(new.router, held).logits, torch.from_numpy(experts_of(held, new.expert_names))
    weight = 1 / torch.bincount(truth)[truth]
    assert float(new.router.temperature) == pytest.approx(fit_temperature(logits, truth, weight), rel=1e-2)
    assert float(new.router.temperature) != pytest.approx(fit_temperature(logits, truth), rel=2e-2)


def test_what_is_lost_is_said(
    mixture: str, newcomer: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A newcomer that looks like NR takes NR's captures; data without sample rates take the test for white noise."""
    old = from_pretrained(mixture)
    width = old.router.head.in_features
    old.set_detector(NoveltyDetector(NoveltyConfig("energy", width, len(OLD), 10, silence=True)))
    save_pretrained(old, tmp_path / "old")
    alike = dataset(tmp_path / "alike", dict.fromkeys(PROTOCOLS, 16), looks={"ble": "nr"})
    capsys.readouterr()
    folder = add_expert(str(tmp_path / "old"), newcomer, [alike], str(tmp_path / "moe"))
    said = capsys.readouterr().out
    figures = json.loads((folder / "provenance.json").read_text())["validation"]
    before, after = (figures[when]["accuracy_by_protocol"]["nr"] for when in ("before", "after"))
    assert before - after > 0.1, "else there is nothing to say"
    assert f"ble takes points of validation accuracy from old protocols: nr {100 * (before - after):.1f}\n" in said
    assert "no sample rates: the new mixture's novelty detector does not test for white noise" in said
    assert not from_pretrained(folder).detector.config.silence
    add_expert(mixture, newcomer, [data], str(tmp_path / "apart"))
    said = capsys.readouterr().out
    assert "takes points" not in said
    assert "no sample rates" not in said


def test_the_column_is_the_optimum() -> None:
    # Against scipy's own minimiser of the same convex loss, and each protocol counts alike however rare it is.
    from scipy.optimize import minimize

    torch.manual_seed(0)
    router = Router(RouterConfig(PROTOCOLS, width=8, heads=2), RECIPE)
    truth = torch.arange(90) % 3
    features = torch.randn(90, 8) + 2 * torch.nn.functional.one_hot(truth, 8)
    features, truth = (torch.cat([part, part[truth == 0].repeat_interleave(3, 0)]) for part in (features, truth))
    weight = 1 / (3 * torch.bincount(truth)[truth])
    split = Cached(features, truth, weight)
    kept = {name: value.clone() for name, value in router.head.state_dict().items()}
    strength = fit_column(router, split, split)
    for name, value in router.head.state_dict().items():
        assert torch.equal(value[:2], kept[name][:2])
    given = (features.double() @ kept["weight"].double().T + kept["bias"].double())[:, :2].numpy()
    standard = ((features - features.mean(0)) / features.std(0)).double().numpy()

    def loss(v: NDArray[np.float64]) -> float:
        logits = np.column_stack([given, standard @ v[:-1] + v[-1]])
        rows = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(truth)), truth.numpy()]
        return float((weight.double().numpy() * rows).sum() + strength * (v[:-1] ** 2).sum())

    best = minimize(loss, np.zeros(9), method="BFGS").x
    row = best[:-1] / features.std(0).double().numpy()
    torch.testing.assert_close(router.head.weight[2].detach().double(), torch.from_numpy(row), atol=5e-3, rtol=5e-3)


def test_refusals(mixture: str, newcomer: str, data: str, tmp_path: Path) -> None:
    def refused(kind: type[Exception], match: str, **given: str) -> None:
        words = {"model": mixture, "expert": newcomer, "out": str(tmp_path / "moe")} | given
        with pytest.raises(kind, match=match):
            add_expert(words["model"], words["expert"], [words.get("data", data)], words["out"])
        assert not (tmp_path / "moe").exists()

    refused(ModelError, "named 'nr', as an expert", expert=expert_folder(tmp_path / "nr", "nr"))
    refused(ModelError, "without a name", expert=expert_folder(tmp_path / "unnamed", ""))
    refused(ModelError, "num_features 32 and 64", expert=expert_folder(tmp_path / "wide", width=64))
    refused(ModelError, "grid_size", expert=expert_folder(tmp_path / "fine", patch=8))
    refused(ModelError, "a mixture of experts", model=newcomer)
    other = replace(RECIPE, floor_db=-30.0)
    foreign = SpectrogramEncoder(EncoderConfig("ble", patch=16, width=32, depth=2, heads=4), other)
    refused(RecipeMismatch, "floor_db", expert=str(save_pretrained(foreign, tmp_path / "foreign")))
    refused(RecipeMismatch, "floor_db", data=dataset(tmp_path / "other", dict.fromkeys(PROTOCOLS, 4), other))
    refused(ConfigError, "a folder of its own", out=mixture)
    occupied = tmp_path / "occupied"
    shutil.copytree(newcomer, occupied)
    refused(OutputError, "not empty", out=str(occupied))
    with pytest.raises(DatasetError, match="no label 'protocol'"):
        add_expert(mixture, newcomer, [data], str(tmp_path / "moe"), label="protocol")
