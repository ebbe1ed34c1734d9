"""Every regime learns what is there, finds nothing in shuffled labels, and leaves the encoder it was given alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.neighbors import KNeighborsClassifier

from lwm.data.dataset import SpectrogramDataset
from lwm.data.shard import write_dataset
from lwm.errors import ConfigError, DatasetError, ModelError
from lwm.evaluation.contestants import Bench, Contest, load_bench, selected_samples
from lwm.evaluation.episodes import EpisodeDraw
from lwm.evaluation.networks import network_outputs
from lwm.evaluation.regimes.names import NETWORKS, Contestant
from lwm.evaluation.regimes.neighbours import fit_neighbours
from lwm.evaluation.regimes.ridge import fit_ridge
from lwm.evaluation.regimes.scratch import SCRATCH
from lwm.evaluation.regimes.tuned import FineTuned, new_head, tuned_network, with_lora
from lwm.evaluation.task import BUDGETS, Budget, FewShotTask
from lwm.models.encoder import EncoderConfig, SpectrogramEncoder
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe

ENCODERS = ("frozen", "knn", "head/residual_cnn", "head/attention", "lora", "partial", "finetuned", "scratch")
OTHERS = ("random", "random/knn", "random/lora", "trivial", "trivial/knn", "local", "cnn", "deep_cnn", "resnet18")
SLOW = ("efficientnet_b0", "mobilenetv3")
SIDE, CHANNELS, EACH = 16, 8, 25

QUICK = {
    "head": Budget(samples=320, rates=(4e-3,), batch_size=16),
    "tuned": Budget(samples=160, rates=(1e-3,), batch_size=16),
    "scratch": Budget(samples=480, rates=(2e-3,), batch_size=16),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(small_recipe: Recipe) -> SpectrogramEncoder:
    recipe = replace(small_recipe, size=(SIDE, SIDE))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SpectrogramEncoder(EncoderConfig(patch=4, width=16, depth=3, heads=2), recipe, 0.0, 6.0).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: SpectrogramEncoder) -> Path:
    """Two kinds that differ in contrast, the same labels shuffled, and a number that the contrast follows."""
    rng = rng_for(0, "test", "regimes")
    kind = np.tile(np.arange(2), CHANNELS * EACH)
    level = np.where(kind, 9.0, 4.0) + rng.uniform(-1, 1, len(kind))
    band = (np.abs(np.arange(SIDE) - 8) < 4)[:, None] * np.ones(SIDE)
    pictures = (level[:, None, None] * band - 5 + rng.normal(0, 0.7, (len(kind), SIDE, SIDE))).astype(np.float32)
    channel = np.repeat(np.arange(CHANNELS), 2 * EACH)
    labels = {
        "kind": [("low", "high")[k] for k in kind],
        "shuffled": [("low", "high")[k] for k in rng.permutation(kind)],
        "channel": [f"test/{c}" for c in channel],
    }
    values = {"level_db": level, "level_burst": np.where(kind, level, 0.0)}
    root = tmp_path_factory.mktemp("regimes") / "data"
    write_dataset(root, pictures[:, None], tiny.recipe, labels, split="test", values=values)
    return root


def contest_on(folder: Path, encoder: Any, **settings: Any) -> tuple[Contest, EpisodeDraw]:
    plain: dict[str, Any] = {"k": (8,), "episodes": 2, "test_per_class": 80, "training": QUICK, "test_channels": 0.45}
    task = FewShotTask("t", **(plain | settings))
    dataset = SpectrogramDataset(folder, split="test")
    chosen, samples = selected_samples(dataset, task)
    bench = load_bench(dataset, task, chosen, samples, np.arange(len(chosen)))
    return Contest(encoder, bench, task, 0), EpisodeDraw(samples, task, 0)


@pytest.fixture(scope="module")
def planted(folder: Path, tiny: SpectrogramEncoder) -> tuple[Contest, EpisodeDraw]:
    return contest_on(folder, tiny, labels=("kind",))


@pytest.fixture(scope="module")
def shuffled(folder: Path, tiny: SpectrogramEncoder) -> tuple[Contest, EpisodeDraw]:
    return contest_on(folder, tiny, labels=("shuffled",))


@pytest.mark.parametrize("name", [*ENCODERS, *OTHERS])
def test_what_is_planted_is_found_and_shuffled_labels_are_chance(
    name: str, planted: tuple[Contest, EpisodeDraw], shuffled: tuple[Contest, EpisodeDraw]
) -> None:
    contest, draw = planted
    found = contest.run(name, draw.episode(8, 0))
    # The networks have thirty steps: more than chance is all that is asked of them, and not of ResNet-18, whose running
    # statistics need more.
    least = 0.95 if Contestant.parse(name).regime in ("frozen", "knn") else 0.6
    assert found["accuracy"] > least or name == "resnet18", name
    contest, draw = shuffled
    found = contest.run(name, draw.episode(8, 0))
    # Answers owe nothing to the labels, so that right ones are binomial: four deviations, error below 1e-4 each.
    deviation = np.sqrt(0.25 / len(draw.test))
    assert found["accuracy"] == pytest.approx(0.5, abs=4 * deviation), name


@pytest.mark.parametrize("name", ["head/attention", "head/residual_cnn", "lora", "partial", "finetuned", "scratch"])
def test_the_encoder_is_untouched_and_in_evaluation_mode(name: str, planted: tuple[Contest, EpisodeDraw]) -> None:
    contest, draw = planted
    encoder = contest.encoder
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    modes: list[bool] = []
    first = encoder.blocks[0]

    def note(module: torch.nn.Module, *_: Any) -> None:
        if module is first:  # a copy that is trained carries the hook along
            modes.append(module.training)

    hook = first.register_forward_hook(note)
    contest.run(name, draw.episode(8, 1))
    hook.remove()
    assert not any(modes)
    assert not any(module.training for module in encoder.modules())
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
    assert all(weight.grad is None for weight in encoder.parameters())
    if name == "head/attention":
        assert modes  # tokens went through it


def moved(encoder: Any, regime: str, layer: int, budget: Budget) -> set[str]:
    """Names of the encoder's weights that one step moves."""
    head = new_head("linear", "classification", encoder, ["a", "b"])
    x = torch.randn(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    network, groups = tuned_network(encoder, head, None, layer, regime, budget, x, 1e-2)
    network.train()
    assert isinstance(network, FineTuned)
    before = {name: weight.detach().clone() for name, weight in network.encoder.named_parameters()}
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    for _ in range(2):  # a linear head that starts at zero passes nothing back in the first step
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x), torch.tensor([0, 1, 0, 1])).backward()
        optimizer.step()
    return {name for name, weight in network.encoder.named_parameters() if not torch.equal(before[name], weight)}


def test_each_regime_moves_its_own_weights(tiny: SpectrogramEncoder) -> None:
    budget = replace(QUICK["tuned"], last=1)
    blocks = {name for name, _ in tiny.named_parameters() if name.startswith("blocks.1.")}
    partial = moved(tiny, "partial", 1, budget)
    assert partial <= blocks
    assert "blocks.1.mlp.fc2.weight" in partial
    full = moved(tiny, "finetuned", 1, budget)
    assert {"patch_embed.weight", "blocks.0.attn.qkv.weight", "blocks.1.mlp.fc2.weight"} <= full
    assert not any(name.startswith(("blocks.2.", "norm.")) for name in full)  # above the head's layer
    low_rank = moved(tiny, "lora", 1, budget)
    assert low_rank
    assert all("lora_" in name for name in low_rank)


def test_lora_starts_where_the_encoder_is_and_names_what_it_lacks(tiny: SpectrogramEncoder) -> None:
    import copy

    x = torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    changed = with_lora(copy.deepcopy(tiny), 4)
    with torch.no_grad():
        assert torch.allclose(changed.forward_features(x), tiny.forward_features(x), atol=1e-6)
    count = sum(w.numel() for w in changed.parameters() if w.requires_grad)
    sides = sum(
        w.in_features + w.out_features for n, w in tiny.named_modules() if n.endswith(("qkv", "proj", "fc1", "fc2"))
    )
    assert count == 4 * sides
    with pytest.raises(ModelError, match="LoRA on a Linear"):
        with_lora(torch.nn.Linear(2, 2), 4)


@pytest.mark.parametrize("name", SLOW)
def test_larger_networks_take_the_recipe(name: str) -> None:
    network = SCRATCH[name](1, 3)
    assert network_outputs(network, torch.zeros(2, 1, 64, 64)).shape == (2, 3)


def test_every_network_has_a_name_and_every_family_the_same_grid() -> None:
    assert set(SCRATCH) == set(NETWORKS)
    task = FewShotTask("t", labels=("kind",), models=("cnn", "resnet18", "scratch", "lora", "finetuned", "partial"))
    of = {c.name: task.budget(c) for c in task.contestants}
    assert of["cnn"] is of["resnet18"] is of["scratch"] is BUDGETS["scratch"]
    assert of["lora"] is of["finetuned"] is of["partial"] is BUDGETS["tuned"]
    assert (of["cnn"].samples, len(of["cnn"].rates)) == (of["lora"].samples, len(of["lora"].rates))


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("frozen", ("encoder", "frozen", None)),
        ("head/attention", ("encoder", "head", "attention")),
        ("random", ("random", "frozen", None)),
        ("random/lora/attention", ("random", "lora", "attention")),
        ("cnn", ("cnn", "scratch", None)),
        ("scratch", ("encoder", "scratch", None)),
        ("encoder/knn", ("encoder", "knn", None)),
    ],
)
def test_names_of_contestants(name: str, parsed: tuple[str, str, str | None]) -> None:
    found = Contestant.parse(name)
    assert (found.model, found.regime, found.head) == parsed


@pytest.mark.parametrize("name", ["vgg", "cnn/lora", "frozen/attention", "random/scratch", "a/b/c/d", "trivial/head"])
def test_impossible_contestants_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="contestant"):
        Contestant.parse(name)


def test_neighbours_are_scikit_learns() -> None:
    rng = rng_for(0, "test", "knn")
    codes = np.arange(80) % 4
    features = (rng.normal(size=(80, 6)) + 1.5 * np.eye(4, 6)[codes]).astype(np.float32)
    train, test = np.arange(40), np.arange(40, 80)
    found = fit_neighbours([features], codes, train, test)
    known = (features - found.shift) / found.scale

    def weight(distance: Any) -> Any:
        return np.exp(-distance / 0.07)  # cosine is 1 - distance

    reference = KNeighborsClassifier(found.count, metric="cosine", weights=weight).fit(known[train], codes[train])
    assert (found.predict(features[test]) == reference.predict(known[test])).all()


def test_ridge_is_scikit_learns_and_quantities_are_told(folder: Path, tiny: SpectrogramEncoder) -> None:
    rng = rng_for(0, "test", "ridge")
    features = rng.normal(size=(50, 80)).astype(np.float32)
    values = features[:, 0] * 3.0 + rng.normal(size=50)
    found = fit_ridge([features], values, np.arange(30), np.arange(30, 50))
    scaled = (features - found.shift) / found.scale
    reference = SklearnRidge(alpha=1 / found.strength).fit(scaled[:30], values[:30])
    np.testing.assert_allclose(found.predict(features), reference.predict(scaled), atol=1e-6)
    contest, draw = contest_on(folder, tiny, target="level_db")
    assert contest.bench.classes == [f"fifth {n}" for n in range(1, 6)]
    guess = float(np.abs(contest.bench.truth - np.median(contest.bench.truth)).mean())
    for name in ("frozen", "knn", "head", "finetuned", "cnn"):
        record = contest.run(name, draw.episode(8, 0))
        assert record["mae"] < guess, name
        assert record["r2"] <= 1
    assert contest.run("frozen", draw.episode(8, 0))["r2"] > 0.9


def test_classes_by_expression(folder: Path, tiny: SpectrogramEncoder) -> None:
    label = {"quiet": "level_burst == 0", "jammed": 'level_burst > 8.5 and kind == "high"'}
    contest, draw = contest_on(folder, tiny, label=label)
    bench: Bench = contest.bench
    assert bench.classes == ["jammed", "quiet"]
    dataset = SpectrogramDataset(folder, split="test")
    burst = dataset.values["level_burst"]
    assert len(bench.codes) == ((burst == 0) | (burst > 8.5)).sum() < len(dataset)
    assert contest.run("frozen", draw.episode(8, 0))["accuracy"] > 0.95
    with pytest.raises(DatasetError, match="belong to two"):
        contest_on(folder, tiny, label=label | {"loud": "level_db > 8.8"})
    with pytest.raises(DatasetError, match="no value 'speed'"):
        contest_on(folder, tiny, target="speed")


def test_a_head_of_another_kind_is_refused(planted: tuple[Contest, EpisodeDraw]) -> None:
    contest, draw = planted
    with pytest.raises(ConfigError, match="'regression', which is for regression"):
        contest.run("head/regression", draw.episode(8, 0))
