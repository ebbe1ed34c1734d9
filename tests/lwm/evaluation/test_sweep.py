"""Runs shared among processes: the same results, errors that arrive, and how many processes are worth it."""

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lwm.data.dataset import SpectrogramDataset
from lwm.errors import ConfigError
from lwm.evaluation.contestants import Contest, load_bench, selected_samples
from lwm.evaluation.episodes import Episode, EpisodeDraw
from lwm.evaluation.fewshot import fewshot
from lwm.evaluation.sweep import chosen_workers, finished_runs, require_workers
from lwm.evaluation.task import load_task
from lwm.models.cores import one_thread
from lwm.models.encoder import SpectrogramEncoder

TaskFile = Callable[..., str]
MODELS = ["frozen", "knn", "head/residual_cnn", "lora", "finetuned", "scratch", "random", "local", "cnn"]


@pytest.fixture(scope="module")
def begun(data: Path, encoder: SpectrogramEncoder, tmp_path_factory: pytest.TempPathFactory, quick_task: str) -> tuple:
    """A contest and its two episodes of two samples a class."""
    file = tmp_path_factory.mktemp("sweep") / "task.yaml"
    file.write_text(quick_task, encoding="utf-8")
    task = load_task(str(file)).overridden([2], None)
    dataset = SpectrogramDataset(data, split="test")
    chosen, samples = selected_samples(dataset, task)
    bench = load_bench(dataset, task, chosen, samples, np.arange(len(chosen)))
    return Contest(encoder, bench, task, 0), list(EpisodeDraw(samples, task, 0))


def test_two_processes_find_what_one_finds(begun: tuple[Contest, list[Episode]], tmp_path: Path) -> None:
    contest, episodes = begun
    wanted = [(name, episode) for episode in episodes for name in MODELS]
    there = {(run.name, run.episode.number): run.result for run in finished_runs(contest, wanted, 2, tmp_path)}
    assert list(tmp_path.iterdir()) == []
    assert not contest._probes  # the processes have fitted their own
    with one_thread():  # as in a process of the pool: the last bits of sums follow the number of threads
        here = {(run.name, run.episode.number): run.result for run in finished_runs(contest, wanted, 0, tmp_path)}
    assert there.keys() == here.keys() == {(name, number) for name in MODELS for number in (0, 1)}
    for key, result in here.items():
        assert there[key] | {"seconds": 0} == result | {"seconds": 0}, key


def test_the_verb_writes_the_same_records_with_processes(
    tmp_path: Path, model: Path, data: Path, task_file: TaskFile
) -> None:
    config = task_file("models: [frozen, cnn]\n")
    runs = [
        fewshot(config, str(model), str(data), str(tmp_path / str(workers)), k=[2], workers=workers)
        for workers in (0, 2)
    ]
    plain = [[(r["model"], r["episode"], r["samples"], r["labels_seen"]) for r in found["records"]] for found in runs]
    assert plain[0] == plain[1]
    frozen = [[r["confusion"] for r in found["records"] if r["model"] == "frozen"] for found in runs]
    assert frozen[0] == frozen[1]


def test_interrupted_processes_keep_what_is_finished(begun: tuple[Contest, list[Episode]], tmp_path: Path) -> None:
    contest, episodes = begun
    runs = finished_runs(contest, [(name, e) for e in episodes for name in ("cnn", "scratch")], 1, tmp_path)
    assert next(runs).name == "cnn"  # while the rest is still to do
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(KeyboardInterrupt):
        runs.throw(KeyboardInterrupt)
    assert list(tmp_path.iterdir()) == []
    assert not multiprocessing.active_children()


def test_what_a_run_raises_arrives(begun: tuple[Contest, list[Episode]], tmp_path: Path) -> None:
    contest, episodes = begun
    with pytest.raises(ConfigError, match="head 'regression'"):
        list(finished_runs(contest, [("head/regression", episodes[0])], 2, tmp_path))


def test_impossible_workers_are_refused_before_anything_is_replaced(
    tmp_path: Path, model: Path, data: Path, task_file: TaskFile
) -> None:
    config, out = task_file("models: [trivial]\n"), tmp_path / "out"
    fewshot(config, str(model), str(data), str(out))
    before = (out / "results.json").read_bytes()
    with pytest.raises(ConfigError, match="-1 workers"):
        fewshot(config, str(model), str(data), str(out), overwrite=True, workers=-1)
    assert (out / "results.json").read_bytes() == before
    with pytest.raises(ConfigError, match="2 workers on cuda"):
        require_workers(2, torch.device("cuda"))


def test_processes_are_started_where_there_is_enough_to_share(
    begun: tuple[Contest, list[Episode]], monkeypatch: pytest.MonkeyPatch
) -> None:
    contest, episodes = begun
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)

    def chosen(*names: str, episodes: list[Episode]) -> int:
        return chosen_workers(contest, [(name, episode) for episode in episodes for name in names])

    many = [replace(episodes[0], number=number) for number in range(16)]
    assert chosen("trivial", "frozen", episodes=many) == 0  # solved, not trained
    assert [chosen("cnn", episodes=many[:count]) for count in (15, 16)] == [0, 2]
    assert chosen("cnn", "scratch", episodes=many) == 4
    assert chosen("head/residual_cnn", "frozen", episodes=many) == 2
    assert chosen(*["cnn"] * 40, episodes=many[:1]) == 0  # nothing to share: they are one and the same
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert chosen("cnn", "scratch", episodes=many) == 0
