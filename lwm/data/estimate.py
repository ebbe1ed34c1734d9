"""What a plan will cost, before it is run: counts, disk, time."""

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lwm.console import say
from lwm.data.manifest import SPLITS, ShardEntry
from lwm.data.plan import Plan
from lwm.data.shard_task import ShardTask, make_shard
from lwm.data.workers import Finished, run_tasks

MEASURE_SECONDS = 6.0
"""How long samples are made for, over all technologies, to learn how fast this machine is."""

WORKERS = (1, 2, 4, 16, 64, 256, 1024)
"""Numbers of workers for which the time is said."""


@dataclass(frozen=True)
class Cost:
    """What one technology's samples cost on one core of this machine, and how many were made to find out."""

    seconds_per_sample: float
    bytes_per_sample: float
    bytes_per_shard: float
    made: int

    def seconds(self, task: ShardTask) -> float:
        """Time of a shard on one core."""
        return self.seconds_per_sample * task.count

    def bytes(self, task: ShardTask) -> float:
        """Size of a shard."""
        return self.bytes_per_sample * task.count + self.bytes_per_shard


@dataclass(frozen=True)
class Estimate:
    """What a plan's shards cost together.

    Args:
        tasks: the shards.
        costs: of every technology.
    """

    tasks: Sequence[ShardTask]
    costs: dict[str, Cost]

    @property
    def bytes(self) -> float:
        """Size of all shards."""
        return sum(self.costs[task.technology].bytes(task) for task in self.tasks)

    def seconds(self, workers: int) -> float:
        """Time on ``workers`` cores like this one, a shard each at a time."""
        each = [self.costs[task.technology].seconds(task) for task in self.tasks]
        return max(sum(each) / workers, max(each))


def estimate(tasks: Sequence[ShardTask], seconds: float = MEASURE_SECONDS) -> Estimate:
    """Make samples of every technology for about ``seconds`` in all (in a temporary folder) and reckon from them."""
    first = {task.technology: task for task in reversed(tasks)}
    with tempfile.TemporaryDirectory() as folder:
        costs = {name: _cost(replace(task, root=folder), seconds / len(first)) for name, task in sorted(first.items())}
    return Estimate(tasks, costs)


def _cost(task: ShardTask, seconds: float) -> Cost:
    # The first waveform pays for imports and tables, and for a shard of one waveform's size.
    step = task.plan.samples_per_waveform
    small, _ = _timed(replace(task, count=step))
    waveforms, spent = 1, 0.0
    while spent < seconds / 2:
        waveforms = max(waveforms + 1, round(waveforms * min(8.0, seconds / spent))) if spent else 2
        entry, spent = _timed(replace(task, first=step, count=waveforms * step))
    per_sample = (entry.bytes - small.bytes) / (entry.count - small.count)
    return Cost(spent / entry.count, per_sample, small.bytes - per_sample * small.count, entry.count)


def _timed(task: ShardTask) -> tuple[ShardEntry, float]:
    """A shard made in this process with one thread, and the seconds it took."""
    started = time.perf_counter()
    (entry,) = (event.result for event in run_tasks(make_shard, [task], 0) if isinstance(event, Finished))
    return entry, time.perf_counter() - started


def report_estimate(root: Path, plan: Plan, tasks: Sequence[ShardTask], workers: int) -> None:
    """Say what the shards in ``tasks`` are, and what they cost; nothing is written to ``root``."""
    total = sum(task.count for task in tasks)
    say(f"{total:,} samples in {len(tasks):,} shards of up to {max(task.count for task in tasks)}; nothing is written")
    splits = [split for split in SPLITS if plan.samples.get(split)]
    for split in splits:
        say(f"  {split:<11}{plan.samples[split]:>12,} of each technology ({', '.join(plan.technologies)})")
    classes = len(plan.channel.classes)
    say(f"{classes} classes in each: {len(plan.channel.snr_db)} SNR x {len(plan.channel.mobility)} mobility")
    for split in splits:
        fewest, rest = divmod(plan.samples[split], classes)
        say(f"  {split:<11}{fewest:,}{f' to {fewest + 1:,}' if rest else ''} of each class and technology")
    found = estimate(tasks)
    there = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free / 1e9
    say(f"disk: {found.bytes / 1e9:.3g} GB, {found.bytes / total / 1e3:.1f} kB a sample; {free:.3g} GB are free")
    rates = ", ".join(f"{name} {1 / cost.seconds_per_sample:.0f}" for name, cost in found.costs.items())
    made = sum(cost.made for cost in found.costs.values())
    say(f"speed: {rates} samples/s on one core of this machine ({made} samples made to learn it)")
    wanted = max(1, workers)
    say(f"time on {wanted} worker{'s' * (wanted > 1)}: {_clock(found.seconds(wanted))}, with a free core for each")
    others = "; ".join(f"{count}: {_clock(found.seconds(count))}" for count in WORKERS if count != wanted)
    say(f"time on other numbers of workers like this: {others}")


def _clock(seconds: float) -> str:
    """Two units at most: ``2 days 3 h``, ``5 min 10 s``."""
    for name, unit, below, smaller in (("days", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name} {int(seconds % unit // smaller)} {below}"
    return f"{seconds:.1f} s"
