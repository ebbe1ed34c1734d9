"""What is looked at before a generation touches the folder: space, packages, the scheduler, the plan itself."""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from lwm.data.cluster import require_scheduler
from lwm.data.estimate import free_bytes, sample_bytes
from lwm.data.plan import Plan
from lwm.data.shard_task import ShardTask, make_shard
from lwm.data.workers import run_tasks
from lwm.errors import OutputError


def require_means(
    root: Path, plan: Plan, tasks: Sequence[ShardTask], scheduler: str | None, replaced: Iterable[Path] = ()
) -> None:
    """Refuse to begin what cannot be ended: too little space, compression without its package, no scheduler.

    Args:
        root: the data set's folder.
        plan: of the data set.
        tasks: shards to make.
        scheduler: address of a Dask scheduler.
        replaced: files that will be deleted before.

    Raises:
        OutputError: the disk is too small.
        ConfigError: a package is not installed, no scheduler answers.
    """
    count = sum(task.count for task in tasks)
    needed = count * sample_bytes(plan)
    free = free_bytes(root) + sum(path.stat().st_size for path in replaced)
    if needed > free:
        raise OutputError(
            f"{root} has {free / 1e9:.2f} GB of free space", f"{needed / 1e9:.2f} GB for {count} samples", "free some"
        )
    plan.storage.filters()
    if scheduler is not None and tasks:
        require_scheduler(scheduler)


def try_plan(plan: Plan, tasks: Sequence[ShardTask]) -> None:
    """Make one waveform's samples of every technology in a temporary folder, as a worker would.

    Raises:
        LWMError: what would end the run at its first shard.
    """
    first = {task.technology: task for task in reversed(tasks)}
    with tempfile.TemporaryDirectory() as folder:
        trials = [
            replace(task, root=folder, count=min(task.count, plan.samples_per_waveform)) for task in first.values()
        ]
        for _ in run_tasks(make_shard, trials, 0):
            pass
