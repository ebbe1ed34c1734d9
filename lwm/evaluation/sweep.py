"""The runs of a sweep: here, one after another, or shared among processes of one thread each."""

import functools
import os
import pickle
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from lwm.data.workers import Finished, Report, run_tasks
from lwm.errors import ConfigError
from lwm.evaluation.contestants import Contest
from lwm.evaluation.episodes import Episode
from lwm.evaluation.regimes.names import Contestant

WORTH = 8
"""Runs trained by gradient that make another process worth its start, which takes some seconds."""

MOST_WORKERS = 8
"""Processes at most where their number is not asked for: each holds a copy of the pictures and the features."""


class Run(NamedTuple):
    """A contestant on an episode, and how it did."""

    name: str
    episode: Episode
    result: dict[str, Any]


def finished_runs(
    contest: Contest, wanted: Sequence[tuple[str, Episode]], workers: int | None = None
) -> Generator[Run]:
    """Do runs and yield each when it is done; the order is that of ``wanted`` only without processes.

    Results do not depend on the number of processes but for rounding, which is that of the number of threads.

    Args:
        contest: what runs them; its features are computed here, once for all processes.
        wanted: contestants and the episodes that they are to run on.
        workers: processes of one thread; 0 does all here. None: one a core where there are enough runs to share, none
            on an accelerator.

    Raises:
        ConfigError: fewer than 0 processes, or processes for what is on an accelerator.
        LWMError: what a run raises.
    """
    count = chosen_workers(contest, wanted) if workers is None else workers
    if count < 0 or (count and contest.device.type != "cpu"):
        raise ConfigError(f"{count} workers on {contest.device}", "0 or more, on a CPU", "leave --workers out")
    if count == 0:
        for name, episode in wanted:
            yield Run(name, episode, contest.run(name, episode))
        return
    contest.prepare({name for name, _ in wanted})
    with TemporaryDirectory(prefix="lwm-fewshot-") as folder:
        file = Path(folder) / "contest.pickle"
        with file.open("wb") as stream:
            pickle.dump(contest, stream, protocol=pickle.HIGHEST_PROTOCOL)
        for event in run_tasks(_do, _shares(str(file), wanted), count):
            if isinstance(event, Finished):
                yield from event.result


@dataclass(frozen=True)
class _Share:
    """What one process does at a time: the runs of an episode that share a model, and so its probe."""

    contest: str
    model: str
    runs: tuple[tuple[str, Episode], ...]

    def __str__(self) -> str:
        episode = self.runs[0][1]
        return f"few-shot runs of {self.model}, k = {episode.k}, episode {episode.number}"


def _shares(file: str, wanted: Sequence[tuple[str, Episode]]) -> list[_Share]:
    found: dict[tuple[int, int, str], list[tuple[str, Episode]]] = {}
    for name, episode in wanted:
        key = episode.k, episode.number, Contestant.parse(name).model
        found.setdefault(key, []).append((name, episode))
    return [_Share(file, key[-1], tuple(runs)) for key, runs in found.items()]


def _do(share: _Share, report: Report) -> list[Run]:
    contest = _contest(share.contest)
    found = []
    for name, episode in share.runs:
        found.append(Run(name, episode, contest.run(name, episode)))
        report(1)
    return found


@functools.lru_cache(maxsize=1)
def _contest(file: str) -> Contest:
    """The contest of this process, read once."""
    with Path(file).open("rb") as stream:
        contest: Contest = pickle.load(stream)  # written by finished_runs a moment ago, in a folder of its own
    return contest


def chosen_workers(contest: Contest, wanted: Sequence[tuple[str, Episode]]) -> int:
    """Processes for these runs where nobody says how many."""
    if contest.device.type != "cpu":
        return 0
    trained = sum(Contestant.parse(name).family is not None for name, _ in wanted)
    cores = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST_WORKERS)
    count = min(cores, trained // WORTH)
    return count if count > 1 else 0
