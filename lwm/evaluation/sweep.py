"""The runs of a sweep: here, one after another, or shared among processes of one thread each."""

import functools
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lwm.data.workers import Finished, Report, run_tasks
from lwm.errors import ConfigError
from lwm.evaluation.contestants import Contest
from lwm.evaluation.episodes import Episode
from lwm.evaluation.regimes.names import Contestant
from lwm.output import scratch_file

WORTH = 8
"""Runs trained by gradient that make another process worth its start, which takes some seconds."""

MOST_WORKERS = 8
"""Processes at most where their number is not asked for: each holds a copy of the features."""

Wanted = Sequence[tuple[str, Episode]]
"""Contestants, by name, and the episode that each is to run on."""


class Run(NamedTuple):
    """A contestant on an episode, and how it did."""

    name: str
    episode: Episode
    result: dict[str, Any]


def require_workers(workers: int | None, device: torch.device) -> None:
    """Raise ConfigError for fewer than 0 processes, or for processes that would share an accelerator."""
    if workers is not None and (workers < 0 or (workers and device.type != "cpu")):
        raise ConfigError(f"{workers} workers on {device}", "0 or more, on a CPU", "leave --workers out")


def finished_runs(contest: Contest, wanted: Wanted, workers: int | None, place: Path) -> Generator[Run]:
    """Do runs and yield each when it is done; the order is that of ``wanted`` only without processes.

    Results do not depend on the number of processes but for rounding, which is that of the number of threads. The
    processes are spawned: a script that asks for them needs ``if __name__ == "__main__"``.

    Args:
        contest: what runs them; its features are computed here, once for all processes.
        wanted: what is to run.
        workers: processes of one thread; 0 does all here. None: :func:`chosen_workers`.
        place: folder for what the processes read, under a temporary name, while they run.

    Raises:
        ConfigError: see :func:`require_workers`.
        LWMError: what a run raises.
    """
    require_workers(workers, contest.device)
    count = chosen_workers(contest, wanted) if workers is None else workers
    if count == 0 or not wanted:
        for name, episode in wanted:
            yield Run(name, episode, contest.run(name, episode))
        return
    contest.prepare({name for name, _ in wanted})
    with scratch_file(place / "contest") as file:
        torch.save(contest, file)
        with closing(run_tasks(_do, _shares(str(file), wanted), count)) as events:
            for event in events:
                if isinstance(event, Finished):
                    yield from event.result


@dataclass(frozen=True)
class _Share:
    """What one process does at a time, and what an interruption loses: a run that takes long, or all short ones of an
    episode and a model, which share a probe."""

    contest: str
    runs: tuple[tuple[str, Episode], ...]

    def __str__(self) -> str:
        name, episode = self.runs[0]
        return f"few-shot run of {name}, k = {episode.k}, episode {episode.number}"


def _shares(file: str, wanted: Wanted) -> list[_Share]:
    found: dict[tuple[int, int, str], list[tuple[str, Episode]]] = {}
    for name, episode in wanted:
        contestant = Contestant.parse(name)
        long = contestant.family in ("tuned", "scratch")
        found.setdefault((episode.k, episode.number, name if long else contestant.model), []).append((name, episode))
    return [_Share(file, tuple(runs)) for runs in found.values()]


def _do(share: _Share, report: Report) -> list[Run]:
    contest = _contest(share.contest)
    return [Run(name, episode, contest.run(name, episode)) for name, episode in share.runs]


@functools.lru_cache(maxsize=1)
def _contest(file: str) -> Contest:
    """The contest of this process, read once; its pictures stay in the file, which the processes share."""
    # Written by finished_runs a moment ago: nobody else's pickle.
    contest: Contest = torch.load(file, mmap=True, weights_only=False)
    return contest


def chosen_workers(contest: Contest, wanted: Wanted) -> int:
    """Processes for these runs where nobody says how many.

    None on an accelerator; else one a thread that torch may use, as far as there are runs to share, :data:`WORTH`
    trained ones for each.
    """
    if contest.device.type != "cpu":
        return 0
    trained = sum(Contestant.parse(name).family is not None for name, _ in wanted)
    count = min(torch.get_num_threads(), MOST_WORKERS, trained // WORTH, len(_shares("", wanted)))
    return count if count > 1 else 0
