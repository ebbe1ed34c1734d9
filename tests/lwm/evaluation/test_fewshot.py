"""The verb: results, resume, refusals; the frozen encoder stays as it is."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lwm.data.dataset import SpectrogramDataset
from lwm.data.shard import write_dataset
from lwm.errors import ConfigError, DatasetError, ModelError, OutputError, RecipeMismatch
from lwm.evaluation import fewshot as verb
from lwm.evaluation.contestants import Contest, load_bench, selected_samples
from lwm.evaluation.episodes import EpisodeDraw
from lwm.evaluation.features import frozen_features, random_twin, require_encoder
from lwm.evaluation.fewshot import fewshot, pretraining_of
from lwm.evaluation.task import BUDGETS, MODELS, FewShotTask, load_task
from lwm.models.encoder import SpectrogramEncoder
from lwm.models.moe import MoEEncoder
from lwm.models.pooling import pool
from lwm.models.router import Router, RouterConfig
from lwm.signal.recipe import Recipe

TaskFile = Callable[..., str]


def contest_on(data: Path, encoder: Any, task: FewShotTask) -> tuple[Contest, EpisodeDraw]:
    dataset = SpectrogramDataset(data, split="test")
    chosen, samples = selected_samples(dataset, task)
    draw = EpisodeDraw(samples, task, 0)
    return Contest(encoder, load_bench(dataset, task, chosen, samples, np.arange(len(chosen))), task, 0), draw


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model: Path, data: Path, quick_task: str) -> tuple[Path, Path]:
    """One whole sweep of all contestants: its task file and its folder."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "task.yaml").write_text(quick_task, encoding="utf-8")
    fewshot(str(folder / "task.yaml"), str(model), str(data), str(folder / "out"))
    return folder / "task.yaml", folder / "out"


def test_results_have_every_record_and_summary_row(finished: tuple[Path, Path]) -> None:
    results = json.loads((finished[1] / "results.json").read_text(encoding="utf-8"))
    found = [(r["model"], r["k"], r["episode"]) for r in results["records"]]
    assert found == [(m, k, e) for k in (2, 4) for e in (0, 1) for m in MODELS]
    wanted = {"task", "model", "regime", "labels_seen", "k", "episode", "seed", "accuracy", "macro_f1", "per_class"}
    for record in results["records"]:
        assert wanted | {"per_snr", "confusion", "samples", "clean_target"} <= record.keys()
        assert list(record["per_class"]) == results["classes"]
        assert list(record["per_snr"]) == ["-5", "20"]
        assert record["labels_seen"] == []
        assert record["clean_target"] is (True if record["model"] in ("frozen", "finetuned") else None)
        assert record["samples"]["validation"] == 2 * 4
    assert results["classes"] == ["-5 pedestrian", "-5 vehicular", "20 pedestrian", "20 vehicular"]
    assert results["chance"] == 0.25
    assert [(row["model"], row["k"]) for row in results["summary"]] == [(m, k) for m in MODELS for k in (2, 4)]
    row = results["summary"][0]
    values = [r["macro_f1"] for r in results["records"] if (r["model"], r["k"]) == (row["model"], row["k"])]
    assert row["macro_f1_mean"] == pytest.approx(np.mean(values))
    assert row["macro_f1_std"] == pytest.approx(np.std(values, ddof=1))


def test_linear_models_find_what_was_planted(finished: tuple[Path, Path]) -> None:
    results = json.loads((finished[1] / "results.json").read_text(encoding="utf-8"))
    mean = {row["model"]: row["macro_f1_mean"] for row in results["summary"] if row["k"] == 4}
    assert mean["frozen"] > 0.8
    assert mean["random"] > 0.8
    # Statistics without an order in time see the contrast, not the speed: two of four classes at best.
    assert 0.4 < mean["trivial"] < 0.8


def test_table_and_pictures_are_written(finished: tuple[Path, Path]) -> None:
    table = (finished[1] / "table.md").read_text(encoding="utf-8")
    assert "| encoder, frozen | frozen | none (noise-free target) |" in table
    assert "| encoder, fine-tuned | finetuned (linear) | none (noise-free target) |" in table
    assert table.split("## Paired")[0].count(" ± ") == len(MODELS) * 2 + 1  # and the title's
    assert " of 4 runs." in table
    for name in ("curve.png", "per_snr.png", "confusion.png", "embedding.png"):
        assert (finished[1] / name).read_bytes().startswith(b"\x89PNG")


def test_resume_keeps_finished_records_and_completes_the_rest(
    finished: tuple[Path, Path], tmp_path: Path, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, out = finished
    lines = (out / "records.jsonl").read_text(encoding="utf-8").splitlines()
    marked = json.loads(lines[1]) | {"seconds": -1.0}
    half = tmp_path / "half"
    half.mkdir()
    (half / "records.jsonl").write_text("\n".join([lines[0], json.dumps(marked), *lines[2:20]]) + "\n" + lines[20][:40])
    ran: list[tuple[str, int, int]] = []
    run = Contest.run
    monkeypatch.setattr(Contest, "run", lambda self, m, e: ran.append((m, e.k, e.number)) or run(self, m, e))
    with pytest.raises(OutputError, match="not empty"):
        fewshot(str(task), str(model), str(data), str(half))
    results = fewshot(str(task), str(model), str(data), str(half), resume=True)
    assert len(ran) == 24 - 19
    assert results["records"][0]["seconds"] == -1.0
    whole = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [r["macro_f1"] for r in results["records"]] == [r["macro_f1"] for r in whole["records"]]


def test_interrupted_sweep_leaves_its_records_and_no_results(
    tmp_path: Path, model: Path, data: Path, task_file: TaskFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = task_file("models: [trivial]\n")
    run = Contest.run

    def stop(self: Contest, name: str, episode: Any) -> Any:
        if episode.number == 1:
            raise KeyboardInterrupt
        return run(self, name, episode)

    monkeypatch.setattr(Contest, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        fewshot(config, str(model), str(data), str(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["records.jsonl"]
    monkeypatch.setattr(Contest, "run", run)
    results = fewshot(config, str(model), str(data), str(tmp_path / "out"), resume=True)
    assert len(results["records"]) == 4
    other = fewshot(config, str(model), str(data), str(tmp_path / "out"), models=["random"], resume=True)
    assert [record["model"] for record in other["records"]] == ["random"] * 4
    assert "Paired tests" not in (tmp_path / "out" / "table.md").read_text()  # there is nothing to compare it with
    monkeypatch.setattr(Contest, "run", stop)  # nothing is run again
    both = fewshot(config, str(model), str(data), str(tmp_path / "out"), models=["random", "trivial"], resume=True)
    assert [r for r in both["records"] if r["model"] == "random"] == other["records"]
    assert [r for r in both["records"] if r["model"] == "trivial"] == results["records"]


def test_resume_with_other_settings_is_refused_and_overwrite_starts_anew(
    tmp_path: Path, model: Path, data: Path, task_file: TaskFile
) -> None:
    config, out = task_file("models: [trivial]\n"), tmp_path / "out"
    fewshot(config, str(model), str(data), str(out))
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="begun with another seed"):
        fewshot(config, str(model), str(data), str(out), seed=1, resume=True)
    results = fewshot(config, str(model), str(data), str(out), seed=1, overwrite=True, k=[3], episodes=1)
    assert [(r["k"], r["episode"], r["seed"]) for r in results["records"]] == [(3, 0, 1)]
    assert (out / "notes.txt").read_text() == "mine"


def test_shuffled_labels_are_chance(
    tmp_path: Path, small_recipe: Recipe, pictures: NDArray[np.float32], columns: dict[str, list[str]],
    encoder: SpectrogramEncoder,
) -> None:  # fmt: skip
    order = np.random.default_rng(0).permutation(len(pictures))
    shuffled = columns | {key: [columns[key][i] for i in order] for key in ("snr", "mobility")}
    write_dataset(tmp_path / "data", pictures, small_recipe, shuffled, split="test")
    task = FewShotTask(name="s", labels=("snr", "mobility"), k=(5,), episodes=4, test_per_class=9)
    contest, draw = contest_on(tmp_path / "data", encoder, task)
    for model in ("frozen", "trivial"):
        found = np.mean([contest.run(model, episode)["accuracy"] for episode in draw])
        assert found == pytest.approx(0.25, abs=0.13), model


def test_frozen_encoder_is_untouched_and_in_evaluation_mode(
    data: Path, encoder: SpectrogramEncoder, task_file: TaskFile
) -> None:
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.train()
    modes: list[bool] = []
    hook = encoder.blocks[0].register_forward_hook(lambda *_: modes.append(encoder.training))
    contest, draw = contest_on(data, encoder, load_task(task_file()))
    frozen = contest.run("frozen", draw.episode(2, 0))
    hook.remove()
    tuned = contest.run("finetuned", draw.episode(2, 0))
    assert modes
    assert not any(modes)
    assert not encoder.training
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert all(weight.grad is None for weight in encoder.parameters())
    assert frozen["samples"] == tuned["samples"]


def test_features_are_the_pooled_tokens_of_each_block(encoder: SpectrogramEncoder, pictures: NDArray[Any]) -> None:
    x = torch.from_numpy(pictures[:5])
    found = frozen_features(encoder, x, batch_size=2)
    with torch.no_grad():
        expected = [pool(tokens, encoder.grid_size) for tokens in encoder.forward_intermediates(x)]
    assert len(found) == encoder.depth
    for mine, theirs in zip(found, expected, strict=True):
        assert np.allclose(mine, theirs.numpy(), atol=1e-5)


def test_random_twin_has_other_weights_and_the_same_statistics(encoder: SpectrogramEncoder) -> None:
    first, again, other = (random_twin(encoder, seed) for seed in (1, 1, 2))
    assert torch.equal(first.patch_embed.weight, again.patch_embed.weight)
    for others in (encoder, other):
        assert not torch.equal(first.patch_embed.weight, others.patch_embed.weight)
    assert first.std == encoder.std == 6.0


def test_mixture_of_experts_is_taken_too(data: Path, small_recipe: Recipe, encoder: SpectrogramEncoder) -> None:
    experts = {name: random_twin(encoder, seed) for seed, name in enumerate(("lte", "nr"))}
    router = Router(RouterConfig(("lte", "nr"), grid=4, width=8, depth=1, heads=2), small_recipe)
    with torch.no_grad():  # everything goes to the second expert
        router.head.weight.zero_()
        router.head.bias.copy_(torch.tensor([0.0, 1.0]))
    mixture = MoEEncoder(experts, router)  # type: ignore[arg-type]
    training = BUDGETS | {"tuned": replace(BUDGETS["tuned"], samples=160, rates=(1e-4,))}
    task = FewShotTask(name="m", labels=("snr", "mobility"), k=(4,), episodes=1, training=training)
    contest, draw = contest_on(data, mixture, task)
    alone, _ = contest_on(data, experts["nr"], task)
    for mine, theirs in zip(contest.frozen, alone.frozen, strict=True):
        assert np.allclose(mine, theirs, atol=1e-5)
    assert len(contest.random) == encoder.depth
    assert contest.run("finetuned", draw.episode(4, 0))["accuracy"] > 0.5


def test_fine_tuning_uses_no_more_blocks_than_allowed(data: Path, encoder: SpectrogramEncoder) -> None:
    task = load_task("tasks/snr_mobility")
    one = replace(task.training["tuned"], blocks=1, samples=8)
    task = replace(task, where=None, k=(3,), training={"tuned": one})
    contest, draw = contest_on(data, encoder, task)
    assert contest.run("finetuned", draw.episode(3, 0))["chosen"]["layer"] == 0


def test_bad_input_is_named(
    tmp_path: Path, model: Path, data: Path, task_file: TaskFile, small_recipe: Recipe, pictures: NDArray[Any],
    columns: dict[str, list[str]],
) -> None:  # fmt: skip
    out = str(tmp_path / "out")
    with pytest.raises(DatasetError, match=r"ask for a smaller k \(--k\), or generate more samples"):
        fewshot(task_file(), str(model), str(data), out, k=[40])
    with pytest.raises(ConfigError, match=r"no key kk; expected keys among \['name', 'labels'"):
        fewshot(task_file("kk: 3\n"), str(model), str(data), out)
    other = replace(small_recipe, name="other", hop=128)
    write_dataset(tmp_path / "other", pictures, other, columns, split="test")
    with pytest.raises(RecipeMismatch, match="'tiny'.*'other'"):
        fewshot(task_file(), str(model), str(tmp_path / "other"), out)
    few = {key: columns[key] for key in ("snr", "channel")}
    write_dataset(tmp_path / "few", pictures, small_recipe, few, split="test")
    with pytest.raises(DatasetError, match=r"no label \['mobility'\]"):
        fewshot(task_file(), str(model), str(tmp_path / "few"), out)
    with pytest.raises(ModelError, match="Linear without"):
        require_encoder(torch.nn.Linear(2, 2), "a linear layer")
    assert not Path(out).exists()


def test_what_pretraining_saw(tmp_path: Path, model: Path) -> None:
    assert pretraining_of(str(model)) == {"labels_seen": [], "clean_target": True}
    for given, expected in (
        ({"task": "router", "options": {"label": "technology"}}, ["technology"]),
        ({"labels_seen": ["snr"]}, ["snr"]),
        ({}, None),
    ):
        (tmp_path / "provenance.json").write_text(json.dumps(given))
        assert pretraining_of(str(tmp_path))["labels_seen"] == expected
    for weight, used in ((0.0, False), ([0.0, 0.5], True), (1.0, True)):
        options = {"target": "clean", "terms": {"lambda_reconstruction": weight}}
        (tmp_path / "provenance.json").write_text(json.dumps({"task": "pretrain", "options": options}))
        assert pretraining_of(str(tmp_path)) == {"labels_seen": [], "clean_target": used}


def test_verb_takes_the_promised_arguments() -> None:
    from lwm.cli import function_parser, parse

    parser = function_parser("fewshot", verb.fewshot)
    given = parse(
        parser,
        ["--config", "c", "--model", "m", "--data", "d", "--out", "o", "--k", "5", "20", "--seed", "3", "--resume"],
    )
    assert (given["k"], given["seed"], given["resume"], given["overwrite"]) == ([5, 20], 3, True, False)
