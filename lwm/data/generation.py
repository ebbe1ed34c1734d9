"""``lwm generate``: a synthetic data set from a plan, shard by shard, in several processes, resumable."""

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lwm.console import progress, say
from lwm.data.manifest import FILE_NAME, Manifest, ShardEntry, ordered_labels, package_versions
from lwm.data.plan import SPLITS, Plan, load_plan
from lwm.data.shard import STORED, ShardReader, ShardWriter, shard_name
from lwm.data.synthesis import Synthesizer
from lwm.data.workers import Made, Report, run_tasks
from lwm.errors import ConfigError, DatasetError, OutputError
from lwm.output import disk_errors, file_sha256, remove_partial, require_empty
from lwm.technology import technology

LICENCE = "CC0-1.0"
"""Of generated data."""

_SAVE_EVERY = 1.0
"""Seconds between two savings of the manifest while shards are being made."""


@dataclass(frozen=True)
class ShardTask:
    """One shard to make: samples ``first`` to ``first + count - 1`` of a technology and split."""

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


def make_shard(task: ShardTask, report: Report) -> ShardEntry:
    """Make and write one shard; ``report`` hears of every few samples."""
    synthesizer = Synthesizer(task.plan, task.seed, task.split, technology(task.technology))
    writer = ShardWriter(task.path, task.count, synthesizer.recipe, task.split, task.technology, task.seed, LICENCE)
    rejected = 0
    for samples, thrown_away in synthesizer.samples(task.first, task.count):
        rejected += thrown_away
        for sample in samples:
            writer.add(sample)
        report(len(samples))
    return replace(writer.save(), rejected=rejected)


def shard_tasks(root: Path, plan: Plan, seed: int) -> list[ShardTask]:
    """Every shard of a plan, in the manifest's order."""
    size = max(1, plan.samples_per_shard // plan.samples_per_waveform) * plan.samples_per_waveform
    return [
        ShardTask(str(root), plan, seed, split, name, first // size, first, min(size, count - first))
        for split in SPLITS
        for name in plan.technologies
        for count in (plan.samples.get(split, 0),)
        for first in range(0, count, size)
    ]


def generate(
    config: str,
    out: str,
    samples: int | None = None,
    seed: int | None = None,
    workers: int = 2,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Make a synthetic data set: spectrogram shards with labels and facts, and a manifest.

    The same plan and seed give the same samples whatever the number of workers.

    Args:
        config: plan: a YAML file or the name of a shipped one (generate/demo, generate/tiny).
        out: folder to make.
        samples: about so many samples over all technologies and splits instead of the plan's, in its proportions.
        seed: of all draws, 0 by default.
        workers: processes; 0 works in this one.
        resume: go on with what an interrupted run left in the folder.
        overwrite: replace the data set that the folder holds.

    Returns:
        The folder.

    Raises:
        ConfigError: a plan that is wrong or that its technologies cannot meet.
        OutputError: the folder is not empty, the disk is full.
        DatasetError: the folder holds something else than what is to be resumed, or making a sample failed.
    """
    if workers < 0 or (seed or 0) < 0 or (resume and overwrite):
        raise ConfigError(
            f"workers {workers}, seed {seed}, resume {resume}, overwrite {overwrite}",
            "workers and seed of 0 or more, and either --resume or --overwrite",
        )
    plan = load_plan(config)
    plan = plan if samples is None else plan.scaled(samples)
    root = Path(out)
    manifest = _prepare(root, plan, seed, resume, overwrite)
    tasks = shard_tasks(root, plan, manifest.seed or 0)
    finished = _finished(root, manifest, tasks)
    missing = [task for task in tasks if task.path.name not in finished]
    started = time.monotonic()
    if missing:
        try:
            _make(root, manifest, missing, finished, workers)
        finally:
            remove_partial(root)
    _complete(root, manifest, tasks, finished)
    made = sum(task.count for task in missing)
    _report(root, manifest, made, time.monotonic() - started)
    return root


def _prepare(root: Path, plan: Plan, seed: int | None, resume: bool, overwrite: bool) -> Manifest:
    """The manifest to go on with, or a fresh one, saved."""
    require_empty(root, resume=resume, overwrite=overwrite)
    if overwrite and root.exists():
        require_replaceable(root)
        shutil.rmtree(root)
    fresh = Manifest(plan.read_recipe().to_dict(), plan.to_dict(), seed or 0, LICENCE, package_versions())
    if resume and root.is_dir() and any(root.iterdir()):
        return _resumed(root, fresh, seed)
    _require_space(root, plan)
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    fresh.save(root)
    return fresh


def _resumed(root: Path, fresh: Manifest, seed: int | None) -> Manifest:
    found = Manifest.load(root, incomplete=True)
    if seed is None:
        fresh.seed = found.seed
    for what in ("recipe", "plan", "seed"):
        theirs, ours = getattr(found, what), getattr(fresh, what)
        if theirs != ours:
            raise DatasetError(
                f"{root} was begun with another {what} ({_difference(theirs, ours)})",
                "the command that began it",
                "give the same --config, --samples and --seed, or start anew with --overwrite",
            )
    if found.versions != fresh.versions:
        say(f"note: {root} was begun with other versions: {_difference(found.versions, fresh.versions)}")
    remove_partial(root)
    return found


def _difference(theirs: Any, ours: Any) -> str:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
        return "; ".join(f"{key} {theirs.get(key)} against {ours.get(key)}" for key in keys)
    return f"{theirs} against {ours}"


def require_replaceable(root: Path) -> None:
    """Refuse to overwrite what no data set is.

    Raises:
        OutputError: ``root`` is a file, or a folder with something in it but no manifest.
    """
    if root.is_dir() and any(root.iterdir()) and not (root / FILE_NAME).is_file():
        raise OutputError(f"{root} holds no {FILE_NAME}", "a data set to overwrite", "delete it yourself")
    if root.is_file():
        raise OutputError(f"{root} is a file", "a data set to overwrite", "choose another --out")


def _finished(root: Path, manifest: Manifest, tasks: list[ShardTask]) -> dict[str, ShardEntry]:
    """Shards that an earlier run wrote and that still are what it wrote; others are made again."""
    wanted = {task.path.name for task in tasks}
    finished = {}
    for entry in manifest.shards:
        path = root / entry.name
        if entry.name in wanted and path.is_file() and file_sha256(path) == entry.sha256:
            finished[entry.name] = entry
        else:
            say(f"note: shard {path} is not what was written; it is made again")
    return finished


def _require_space(root: Path, plan: Plan) -> None:
    """Refuse to begin what the disk cannot hold."""
    recipe = plan.read_recipe()
    count = len(plan.technologies) * sum(plan.samples.values())
    cells = recipe.in_chans * recipe.size[0] * recipe.size[1]
    needed = count * cells * STORED.itemsize * (2 if plan.store_clean else 1)
    there = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OutputError(
            f"{root} has {free / 1e9:.2f} GB of free space", f"{needed / 1e9:.2f} GB for {count} samples", "free some"
        )


def _make(
    root: Path, manifest: Manifest, tasks: list[ShardTask], finished: dict[str, ShardEntry], workers: int
) -> None:
    """Make what is missing; ``finished`` and the manifest on disk grow with it, however it ends."""
    done = sum(entry.count for entry in finished.values())
    saved = time.monotonic()
    with progress("generate", done + sum(task.count for task in tasks), "samples", done) as bar:
        try:
            for event in run_tasks(make_shard, tasks, workers):
                if isinstance(event, Made):
                    bar.update(event.samples)
                    continue
                finished[event.result.name] = event.result
                if time.monotonic() - saved > _SAVE_EVERY:
                    _save(root, manifest, finished)
                    saved = time.monotonic()
        finally:
            _save(root, manifest, finished)


def _save(root: Path, manifest: Manifest, finished: dict[str, ShardEntry]) -> None:
    manifest.shards = [finished[name] for name in sorted(finished)]
    manifest.complete = False
    manifest.save(root)


def _complete(root: Path, manifest: Manifest, tasks: list[ShardTask], finished: dict[str, ShardEntry]) -> None:
    manifest.shards = [finished[task.path.name] for task in tasks]
    found: dict[str, set[str]] = {}
    for entry in manifest.shards:
        for label, (_, names) in ShardReader(root / entry.name, entry).labels.items():
            found.setdefault(label, set()).update(names)
    channel = manifest.plan["channel"]
    order = {
        "technology": list(manifest.plan["technologies"]),
        "mobility": list(channel["mobility"]),
        "channel": [f"{split}/{number}" for split, draws in channel["draws"].items() for number in range(draws)],
    }
    manifest.labels = ordered_labels(found, order)
    manifest.complete = True
    manifest.save(root)


def _report(root: Path, manifest: Manifest, made: int, seconds: float) -> None:
    size = sum(entry.bytes for entry in manifest.shards) / 1e6
    rejected = sum(entry.rejected for entry in manifest.shards)
    say(
        f"wrote {root}: {manifest.count} samples in {len(manifest.shards)} shards, {size:.1f} MB; "
        f"{made} made in {seconds:.1f} s ({made / max(seconds, 1e-9):.0f} samples/s), "
        f"{rejected} draws rejected and drawn again"
    )
    say(f"next: lwm inspect {root}")
