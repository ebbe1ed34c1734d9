"""One shard as a piece of work: what a plan falls into, and what a worker anywhere does with a piece."""

from dataclasses import dataclass, replace
from pathlib import Path

from lwm.data.manifest import SPLITS, ShardEntry
from lwm.data.noise_synthesis import NoiseSynthesizer
from lwm.data.plan import NOISE, Plan
from lwm.data.scene_synthesis import SceneSynthesizer
from lwm.data.shard import ShardWriter, shard_name
from lwm.data.synthesis import Synthesizer
from lwm.data.workers import Report
from lwm.technology import technology

LICENCE = "CC0-1.0"
"""Of generated data."""


@dataclass(frozen=True)
class ShardTask:
    """One shard to make: samples ``first`` to ``first + count - 1`` of a split and technology (or scenes, noise)."""

    root: str
    plan: Plan
    seed: int
    split: str
    technology: str
    number: int
    first: int
    count: int

    @property
    def path(self) -> Path:
        """Where it will stand."""
        return Path(self.root) / shard_name(self.technology, self.split, self.number)

    def __str__(self) -> str:
        return f"shard {self.path.name} (seed {self.seed}, samples {self.first} to {self.first + self.count - 1})"


def shard_tasks(root: Path, plan: Plan, seed: int) -> list[ShardTask]:
    """Every shard of a plan, in the manifest's order; ``root`` is made absolute."""
    size = max(1, plan.samples_per_shard // plan.samples_per_waveform) * plan.samples_per_waveform
    return [
        ShardTask(str(root.absolute()), plan, seed, split, name, first // size, first, min(size, count - first))
        for split in SPLITS
        for name, count in plan.counts(split).items()
        for first in range(0, count, size)
    ]


def make_shard(task: ShardTask, report: Report) -> ShardEntry:
    """Make and write one shard; ``report`` hears of every few samples."""
    synthesizer = _synthesizer(task)
    writer = ShardWriter(
        task.path,
        task.count,
        synthesizer.recipe,
        task.split,
        task.technology,
        task.seed,
        LICENCE,
        task.plan.storage,
    )
    rejected = 0
    for samples, thrown_away in synthesizer.samples(task.first, task.count):
        rejected += thrown_away
        for sample in samples:
            writer.add(sample)
        report(len(samples))
    return replace(writer.save(), rejected=rejected)


def _synthesizer(task: ShardTask) -> Synthesizer | SceneSynthesizer | NoiseSynthesizer:
    if task.technology == NOISE:
        return NoiseSynthesizer(task.plan, task.seed, task.split)
    if task.plan.scene is not None:
        return SceneSynthesizer(task.plan, task.seed, task.split)
    return Synthesizer(task.plan, task.seed, task.split, technology(task.technology))
