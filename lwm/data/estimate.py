"""What a plan will cost, before it is run: counts, disk, time."""

import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from lwm.console import say
from lwm.data.finish import finish_dataset
from lwm.data.manifest import SPLITS, Manifest, ShardEntry, package_versions
from lwm.data.plan import NOISE, Plan
from lwm.data.shard_task import LICENCE, ShardTask, make_shard
from lwm.data.workers import Finished, run_tasks

MEASURE_SECONDS = 6.0
"""How long samples are made for, over all technologies, to learn how fast this machine is."""

WORKERS = (1, 2, 4, 16, 64, 256, 1024)
"""Numbers of workers for which the time is said."""


def iq_bytes(plan: Plan) -> float:
    """Expected bytes of the IQ kept with a sample; 0 where none is kept.

    All of a shard are stored as long as its longest, the greatest of sample rate times length over its waveforms, as
    :meth:`lwm.data.plan.ViewPlan.draw` draws them: the mean of that is the integral of 1 - F^waveforms.
    """
    if not plan.storage.iq:
        return 0.0
    view, duration = plan.view, plan.read_recipe().duration
    shortest = min(view.shortest, duration)
    samples = np.linspace(0.0, duration * max(view.sample_rates), 4097)
    seconds = samples[:, None] / np.array(view.sample_rates)
    # Log-uniform between shortest and duration for the short ones.
    spread = max(np.log(duration / shortest), np.finfo(float).tiny)
    short = np.log(np.clip(seconds, shortest, duration) / shortest) / spread
    below = np.where(seconds >= duration, 1.0, view.short_share * short).mean(1)
    longest = np.trapezoid(1 - below ** max(1, plan.samples_per_shard // plan.samples_per_waveform), samples)
    return float(longest) * 2 * np.dtype(plan.storage.iq_dtype).itemsize


def sample_bytes(plan: Plan) -> float:
    """Bytes of a sample known without making one: its pictures (unless they are compressed) and its IQ."""
    recipe = plan.read_recipe()
    cells = recipe.in_chans * recipe.size[0] * recipe.size[1]
    pictures = 0 if plan.storage.compression else cells * plan.storage.stored.itemsize * (2 if plan.store_clean else 1)
    mask = 0 if plan.storage.compression or plan.scene is None else math.prod(recipe.size)
    return pictures + mask + iq_bytes(plan)


def free_bytes(root: Path) -> int:
    """Free space where ``root`` is or will be."""
    there = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


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
        start_seconds: until a worker process has imported everything and built its tables.
        finish_seconds: of index, shortcut audit and card, after the last shard.
    """

    tasks: Sequence[ShardTask]
    costs: dict[str, Cost]
    start_seconds: float
    finish_seconds: float

    @property
    def bytes(self) -> float:
        """Size of all shards."""
        return sum(self.costs[task.technology].bytes(task) for task in self.tasks)

    def seconds(self, workers: int) -> float:
        """Time on ``workers`` cores like this one, a shard each at a time, start and end included."""
        each = [self.costs[task.technology].seconds(task) for task in self.tasks]
        return self.start_seconds + max(sum(each) / workers, max(each)) + self.finish_seconds


def estimate(tasks: Sequence[ShardTask], seconds: float = MEASURE_SECONDS) -> Estimate:
    """Make samples of every technology for about ``seconds`` in all (in a temporary folder) and reckon from them."""
    first = {task.technology: task for task in reversed(tasks)}
    with tempfile.TemporaryDirectory() as folder:
        costs, entries = {}, []
        for name, task in sorted(first.items()):
            costs[name], entry = _cost(replace(task, root=folder), seconds / len(first))
            entries.append(entry)
        task = replace(next(iter(first.values())), root=folder)
        finish = _finish_seconds(task, entries, sum(each.count for each in tasks))
        start = _start_seconds(task, costs[task.technology])
    return Estimate(tasks, costs, start, finish)


def _start_seconds(task: ShardTask, cost: Cost) -> float:
    """What a fresh process takes for one waveform beyond the waveform."""
    waveform = replace(task, count=min(task.count, task.plan.samples_per_waveform))
    _, spent = _timed(waveform, workers=1)
    return max(0.0, spent - cost.seconds(waveform))


def _finish_seconds(task: ShardTask, entries: list[ShardEntry], total: int) -> float:
    """Index and card of the shards just made, and their audit, scaled to the samples that it would look at."""
    from lwm.data.audit import MOST_SAMPLES, audit

    plan, root = task.plan, Path(task.root)
    manifest = Manifest(plan.read_recipe().to_dict(), plan.to_dict(), task.seed, LICENCE, package_versions())
    manifest.shards = entries
    moments = [time.perf_counter()]
    finish_dataset(root, manifest)
    moments.append(time.perf_counter())
    audit(root, manifest, task.seed)
    moments.append(time.perf_counter())
    whole, audited = np.diff(moments)
    scale = min(MOST_SAMPLES, total) / min(MOST_SAMPLES, manifest.count)
    return float(max(0.0, whole - audited) + audited * scale)


def _cost(task: ShardTask, seconds: float) -> tuple[Cost, ShardEntry]:
    # The first waveform pays for imports and tables, and for a shard of one waveform's size.
    step = task.plan.samples_per_waveform
    small, _ = _timed(replace(task, count=step))
    smallest = _bytes_without_iq(task, small)
    waveforms, spent = 1, 0.0
    while spent < seconds / 2:
        waveforms = max(waveforms + 1, round(waveforms * min(8.0, seconds / spent))) if spent else 2
        entry, spent = _timed(replace(task, first=step, count=waveforms * step))
    rest = _bytes_without_iq(task, entry)
    per_sample = (rest - smallest) / (entry.count - small.count)
    per_shard = smallest - per_sample * small.count
    return Cost(spent / entry.count, per_sample + iq_bytes(task.plan), per_shard, entry.count), entry


def _bytes_without_iq(task: ShardTask, entry: ShardEntry) -> int:
    with h5py.File(Path(task.root) / entry.name, "r") as file:
        return entry.bytes - (file["iq"].id.get_storage_size() if "iq" in file else 0)


def _timed(task: ShardTask, workers: int = 0) -> tuple[ShardEntry, float]:
    """A shard made in this process or another one with one thread, and the seconds it took."""
    started = time.perf_counter()
    (entry,) = (event.result for event in run_tasks(make_shard, [task], workers) if isinstance(event, Finished))
    return entry, time.perf_counter() - started


def report_estimate(root: Path, plan: Plan, tasks: Sequence[ShardTask], workers: int) -> None:
    """Say what the shards in ``tasks`` are, and what they cost; nothing is written to ``root``."""
    total = sum(task.count for task in tasks)
    say(f"{total:,} samples in {len(tasks):,} shards of up to {max(task.count for task in tasks)}; nothing is written")
    splits = [split for split in SPLITS if plan.samples.get(split)]
    for split in splits:
        noise = plan.counts(split).get(NOISE, 0)
        say(
            f"  {split:<11}{plan.samples[split]:>12,} of each ({', '.join(plan.kinds)})"
            + (f", {noise:,} of noise alone" if noise else "")
        )
    classes = len(plan.channel.classes)
    say(f"{classes} classes in each: {len(plan.channel.snr_db)} SNR x {len(plan.channel.mobility)} mobility")
    for split in splits:
        fewest, rest = divmod(plan.samples[split], classes)
        say(f"  {split:<11}{fewest:,}{f' to {fewest + 1:,}' if rest else ''} of each class and technology")
    found = estimate(tasks)
    free = free_bytes(root) / 1e9
    say(f"disk: {found.bytes / 1e9:.3g} GB, {found.bytes / total / 1e3:.1f} kB a sample; {free:.3g} GB are free")
    rates = ", ".join(f"{name} {1 / cost.seconds_per_sample:.0f}" for name, cost in found.costs.items())
    made = sum(cost.made for cost in found.costs.values())
    say(f"speed: {rates} samples/s on one core of this machine ({made} samples made to learn it)")
    wanted = max(1, workers)
    say(f"time on {wanted} worker{'s' * (wanted > 1)}: {_clock(found.seconds(wanted))}, with a free core for each")
    numbers = sorted({count for count in WORKERS if count < len(tasks)} | {len(tasks)})
    others = "; ".join(f"{count}: {_clock(found.seconds(count))}" for count in numbers if count != wanted)
    if others:
        say(f"time on other numbers of workers like this, up to one a shard: {others}")
    say(
        f"of it whatever their number: {_clock(found.start_seconds)} until a worker is at work (imports, tables) and "
        f"{_clock(found.finish_seconds)} for index, shortcut audit and card at the end"
    )


def _clock(seconds: float) -> str:
    """Two units at most: ``2 days 3 h``, ``5 min 10 s``."""
    for name, unit, below, smaller in (("days", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name} {int(seconds % unit // smaller)} {below}"
    return f"{seconds:.1f} s"
