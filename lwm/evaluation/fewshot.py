"""``lwm fewshot``: k-shot episodes of one task for an encoder beside its baselines.

Every contestant gets the same labelled samples: k a class to learn from and the episode's validation part to choose
settings with or to stop training. See :mod:`lwm.evaluation.episodes` for how samples are drawn.
"""

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lwm.console import progress, say
from lwm.data.dataset import SpectrogramDataset
from lwm.evaluation.contestants import Bench, Contest, load_bench, selected_samples
from lwm.evaluation.episodes import Episode, EpisodeDraw
from lwm.evaluation.features import require_encoder
from lwm.evaluation.journal import Journal, Record
from lwm.evaluation.probe import LINEAR_MODELS
from lwm.evaluation.regimes.names import Contestant
from lwm.evaluation.regimes.statistics import compare
from lwm.evaluation.report import FILES, cell, metric_words, summarise, warnings, write_report
from lwm.evaluation.sweep import finished_runs, require_workers
from lwm.evaluation.task import FewShotTask, load_task
from lwm.hub import from_pretrained
from lwm.output import file_sha256, remove_partial, require_empty

FORMAT_VERSION = 1
JOURNAL = "records.jsonl"
RESULTS = "results.json"
UNSEEN: Record = {"labels_seen": [], "clean_target": None}
"""What a model without pretraining has seen."""

_OURS = (JOURNAL, RESULTS, *FILES)


def fewshot(
    config: str,
    model: str,
    data: str,
    out: str,
    k: list[int] | None = None,
    episodes: int | None = None,
    models: list[str] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    workers: int | None = 0,
) -> dict[str, Any]:
    """Compare an encoder with its baselines on k labelled samples a class.

    Args:
        config: YAML file of the task, or the name of one that ships.
        model: model folder of an encoder or a mixture of experts.
        data: folder of a data set with the task's labels.
        out: folder for results.json, table.md, report.html and pictures.
        k: training samples a class, instead of the task's.
        episodes: draws of the training samples, instead of the task's.
        models: contestants, instead of the task's.
        seed: seed of the draws, of random weights and of training.
        overwrite: replace the results that ``out`` holds.
        resume: keep the runs that ``out`` holds, those of other contestants too, and do the missing ones.
        workers: processes that share the runs, None for as many as are worth it; see
            :func:`lwm.evaluation.sweep.finished_runs`.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: an unknown key in the task's file, ``out`` was begun with other settings, or impossible workers.
        DatasetError: the data set lacks a label, or samples of a class.
        ModelError: the model is no encoder.
        RecipeMismatch: the data set was made with another recipe than the model's.
        OutputError: ``out`` is not empty.
    """
    task = load_task(config).overridden(k, episodes, models)
    folder = Path(out)
    require_empty(folder, resume=resume, overwrite=overwrite)
    require_workers(workers, _device())
    encoder: Any = require_encoder(from_pretrained(model), model)
    dataset = SpectrogramDataset(data, split=task.split, where=task.where)
    encoder.recipe.require_same(dataset.recipe, f"model {model}", f"data set {data}")
    chosen, samples = selected_samples(dataset, task)
    draw = EpisodeDraw(samples, task, seed)
    plan = [(name, episode) for episode in draw for name in task.models]
    _make_room(folder, overwrite)
    settings = _settings(task, model, data, seed)
    journal = Journal(folder / JOURNAL, _shared(settings))
    used = np.concatenate([np.concatenate([e.train, e.validation, e.test]) for e in draw])
    bench = load_bench(dataset, task, chosen, samples, used)
    contest = Contest(encoder.to(_device()), bench, task, seed)
    _run(contest, plan, journal, pretraining_of(model), workers)
    results = _results(settings, bench, draw, plan, journal)
    write_report(folder, results, contest, draw)
    _announce(folder, results, model, data)
    return results


def _run(
    contest: Contest, plan: list[tuple[str, Episode]], journal: Journal, pretraining: Record, workers: int | None
) -> None:
    done = {(record["model"], record["k"], record["episode"]) for record in journal.records}
    missing = [(name, episode) for name, episode in plan if (name, episode.k, episode.number) not in done]
    # Closed at once when interrupted: its processes and its files must not outlive this.
    with (
        progress("few-shot runs", len(plan), "runs", done=len(plan) - len(missing)) as bar,
        closing(finished_runs(contest, missing, workers, journal.path.parent)) as runs,
    ):
        for name, episode, result in runs:
            contestant = Contestant.parse(name)
            head = {
                "task": contest.task.name,
                "model": name,
                "backbone": contestant.model,
                "regime": contestant.regime,
                "head": contest.task.head_of(contestant) if contestant.carries_head else None,
                **(pretraining if contestant.pretrained else UNSEEN),
                "k": episode.k,
                "episode": episode.number,
                "seed": contest.seed,
            }
            journal.add(head | result)
            bar.update()


def _results(
    settings: Record, bench: Bench, draw: EpisodeDraw, plan: list[tuple[str, Episode]], journal: Journal
) -> Record:
    order = {(name, e.k, e.number): place for place, (name, e) in enumerate(plan)}
    places = [order.get((r["model"], r["k"], r["episode"])) for r in journal.records]
    found = [(place, r) for place, r in zip(places, journal.records, strict=True) if place is not None]
    records = [record for _, record in sorted(found, key=lambda pair: pair[0])]
    results = {
        "format_version": FORMAT_VERSION,
        **settings,
        "classes": bench.classes,
        "chance": None if draw.task.target else 1 / len(bench.classes),
        "test_samples": len(draw.test),
        "test_channels": len(draw.test_channels),
        "summary": summarise(records, draw.task),
        "paired_tests": compare(records, draw.task),
        "records": records,
    }
    return results | {"warnings": warnings(results)}


def _settings(task: FewShotTask, model: str, data: str, seed: int) -> Record:
    weights = Path(model) / "model.safetensors"
    plain = json.loads(json.dumps(asdict(task)))
    more = {"model_sha256": file_sha256(weights) if weights.is_file() else None, "linear_models": LINEAR_MODELS}
    return compared(plain, model, data, seed) | more


def _shared(settings: Record) -> Record:
    """What all runs of a journal share: everything but who takes part."""
    return settings | {"task": {key: value for key, value in settings["task"].items() if key != "models"}}


def compared(task: Record, model: str | None, data: str, seed: int) -> Record:
    """What a report says it is about: its task (JSON-able), model, data and seed."""
    return {
        "task": task,
        "model": None if model is None else Path(model).name,
        "data": Path(data).name,
        "data_sha256": file_sha256(Path(data) / "manifest.json"),
        "seed": seed,
    }


def pretraining_of(model: str | None) -> dict[str, Any]:
    """What pretraining saw, from the model folder's provenance; None where that does not say.

    Masked modelling sees no label; a router saw the one it was trained to tell.

    Returns:
        ``labels_seen`` (list of label columns) and ``clean_target`` (whether noise-free pictures were the target).
    """
    if model is None:
        return UNSEEN
    file = Path(model) / "provenance.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    options = known.get("options", {})
    by_task = {"pretrain": [], "router": [options.get("label", "technology")]}
    target, weight = options.get("target"), (options.get("terms") or {}).get("lambda_reconstruction", 1.0)
    used = max(weight) > 0 if isinstance(weight, list) else weight > 0
    return {
        "labels_seen": known.get("labels_seen", by_task.get(known.get("task", ""))),
        "clean_target": None if target is None else target == "clean" and used,
    }


def _make_room(folder: Path, overwrite: bool) -> None:
    """The folder, without what an interrupted or (with ``overwrite``) an earlier sweep left; other files stay."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial(folder)
    if overwrite:
        for name in _OURS:
            (folder / name).unlink(missing_ok=True)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _announce(folder: Path, results: Record, model: str, data: str) -> None:
    for row in results["summary"]:
        say(f"  {row['title']:<34} k = {row['k']:<4} {metric_words(results['task'])} {cell(row, results['task'])}")
    for warning in results["warnings"]:
        say(f"  note: {warning}")
    say(f"wrote {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    say(f"next: lwm embed --model {model} --data {data} --out {folder / 'embeddings.h5'}")
