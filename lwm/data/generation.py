"""``lwm generate``: a synthetic data set from a plan, shard by shard, in several processes, resumable."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lwm.console import progress, say
from lwm.data.card import CARD, SHEET
from lwm.data.cluster import run_on_cluster
from lwm.data.estimate import report_estimate
from lwm.data.finish import finish_dataset
from lwm.data.index import FILE_NAME as INDEX
from lwm.data.journal import Journal
from lwm.data.lock import FILE_NAME as LOCK_NAME
from lwm.data.lock import folder_lock
from lwm.data.manifest import FILE_NAME, Manifest, ShardEntry, package_versions
from lwm.data.plan import Plan, load_plan
from lwm.data.preflight import require_means, try_plan
from lwm.data.replacement import remove_dataset, require_replaceable
from lwm.data.shard_task import LICENCE, ShardTask, make_shard, shard_tasks
from lwm.data.workers import Finished, Made, run_tasks
from lwm.errors import ConfigError, DatasetError, LWMError, OutputError
from lwm.output import file_sha256, is_partial, remove_partial, require_empty


def generate(
    config: str,
    out: str | None = None,
    samples: int | None = None,
    seed: int | None = None,
    workers: int = 2,
    scheduler: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Path:
    """Make a synthetic data set: spectrogram shards with labels and facts, and a manifest.

    The same plan and seed give the same samples whatever the number of workers. What is finished is never lost:
    after an interruption, a killed worker, a full disk, the same command with --resume goes on.

    Args:
        config: plan: a YAML file or the name of a shipped one (generate/demo, generate/tiny).
        out: folder to make; only a dry run does without, and says what is free where it is run.
        samples: about so many samples over all technologies and splits instead of the plan's, in its proportions.
        seed: of all draws, 0 by default.
        workers: processes; 0 works in this one.
        scheduler: address of a Dask scheduler (tcp://HOST:8786) whose workers make the shards instead of processes
            here; they share the folder's file system.
        resume: go on with what an interrupted run left in the folder.
        overwrite: replace the data set that the folder holds.
        dry_run: write nothing; say how many samples there will be of what, how large, and how long it takes.

    Returns:
        The folder.

    Raises:
        ConfigError: a plan that is wrong or that its technologies cannot meet, a scheduler that does not answer.
        OutputError: the folder is not empty, another run is writing to it, the disk is full.
        DatasetError: the folder holds something else than what is to be resumed, or was begun with other versions, or
            making a sample failed.
    """
    if workers < 0 or (seed or 0) < 0 or (resume and overwrite):
        raise ConfigError(
            f"workers {workers}, seed {seed}, resume {resume}, overwrite {overwrite}",
            "workers and seed of 0 or more, and either --resume or --overwrite",
        )
    plan = load_plan(config)
    plan = plan if samples is None else plan.scaled(samples)
    root = Path(out or ".")
    if dry_run:
        report_estimate(root, plan, shard_tasks(root, plan, seed or 0), workers)
        return root
    if out is None:
        raise ConfigError("generate without --out", "a folder to make", "add --out DIR, or --dry-run")
    if root.is_file():
        require_empty(root)
    with folder_lock(root):
        _generate(root, plan, seed, workers, scheduler, resume, overwrite)
    return root


def _generate(
    root: Path, plan: Plan, seed: int | None, workers: int, scheduler: str | None, resume: bool, overwrite: bool
) -> None:
    """Make the data set in a folder that this run holds."""
    fresh = Manifest(plan.read_recipe().to_dict(), plan.to_dict(), seed or 0, LICENCE, package_versions())
    # A temporary file of a run that was killed before it wrote anything is no reason to refuse the folder.
    there = any(path.name != LOCK_NAME and not is_partial(path) for path in root.iterdir())
    if there:
        require_empty(root, resume=resume, overwrite=overwrite)
    manifest = _resumed(root, fresh, seed) if there and resume else fresh
    tasks = shard_tasks(root, plan, manifest.seed or 0)
    finished = _finished(root, manifest)
    missing = [task for task in tasks if task.path.name not in finished]
    if there and resume and not missing and _whole(root, manifest):
        say(f"{root} is complete: {manifest.count} samples in {len(tasks)} shards, none damaged; nothing was changed")
        return
    if finished and missing:
        _require_versions(root, manifest)
    elif missing:
        manifest.versions = package_versions()
    replaced = require_replaceable(root) if there and overwrite else []
    require_means(root, plan, missing, scheduler, replaced)
    if replaced:
        # Nothing old is deleted before something new is known to work.
        try_plan(plan, tasks)
        remove_dataset(root)
    remove_partial(root)
    _save(root, manifest, finished)
    started = time.monotonic()
    if missing:
        events = (
            run_tasks(make_shard, missing, workers)
            if scheduler is None
            else run_on_cluster(make_shard, missing, scheduler, root / FILE_NAME)
        )
        try:
            _make(root, manifest, missing, finished, events)
        finally:
            remove_partial(root)
    manifest.shards = [finished[task.path.name] for task in tasks]
    finish_dataset(root, manifest, _label_order(manifest))
    Journal(root).remove()
    made = sum(task.count for task in missing)
    _report(root, manifest, made, time.monotonic() - started)


def _whole(root: Path, manifest: Manifest) -> bool:
    """Whether a data set whose shards are all there has been finished too."""
    return manifest.complete and all((root / name).is_file() for name in (INDEX, CARD, SHEET))


def _require_versions(root: Path, manifest: Manifest) -> None:
    """Refuse to put samples of other versions beside those that are there."""
    here = package_versions()
    if manifest.versions != here:
        raise DatasetError(
            f"{root} was begun with other versions ({_difference(manifest.versions, here)})",
            "the same ones, for others may give other samples",
            "install them, or start anew with --overwrite",
        )


def _resumed(root: Path, fresh: Manifest, seed: int | None) -> Manifest:
    found = Manifest.load(root, incomplete=True)
    known = {entry.name: entry for entry in found.shards} | {entry.name: entry for entry in Journal(root).read()}
    found.shards = list(known.values())
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
    return found


def _difference(theirs: Any, ours: Any) -> str:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
        return "; ".join(f"{key} {theirs.get(key)} against {ours.get(key)}" for key in keys)
    return f"{theirs} against {ours}"


def _finished(root: Path, manifest: Manifest) -> dict[str, ShardEntry]:
    """Shards that an earlier run wrote and that still are what it wrote; others are made again."""
    if not manifest.shards:
        return {}
    finished = {}
    with ThreadPoolExecutor() as pool, progress("check", manifest.count, "samples") as bar:
        for entry, problem in zip(manifest.shards, pool.map(partial(_problem, root), manifest.shards), strict=True):
            bar.update(entry.count)
            if problem is None:
                finished[entry.name] = entry
            else:
                say(f"note: shard {root / entry.name} {problem}; it is made again")
    return finished


def _problem(root: Path, entry: ShardEntry) -> str | None:
    """What is wrong with a shard that is said to be there."""
    path = root / entry.name
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != entry.bytes:
        return f"is not what was written ({size} bytes instead of {entry.bytes})"
    return None if file_sha256(path) == entry.sha256 else "is not what was written (its SHA-256 differs)"


def _make(
    root: Path,
    manifest: Manifest,
    tasks: list[ShardTask],
    finished: dict[str, ShardEntry],
    events: Iterator[Finished | Made],
) -> None:
    """Make what is missing; ``finished`` and the journal on disk grow with it, however it ends."""
    done = sum(entry.count for entry in finished.values())
    journal = Journal(root)
    with progress("generate", done + sum(task.count for task in tasks), "samples", done) as bar:
        try:
            for event in events:
                if isinstance(event, Made):
                    bar.update(event.samples)
                    continue
                finished[event.result.name] = event.result
                journal.add(event.result)
        except (LWMError, KeyboardInterrupt):
            # Where the disk is full the journal has what the manifest cannot take; the first error is the one to say.
            with suppress(OutputError):
                _save(root, manifest, finished)
            raise


def _save(root: Path, manifest: Manifest, finished: dict[str, ShardEntry]) -> None:
    """Save what is finished in the manifest, and forget the journal, which says the same."""
    manifest.shards = [finished[name] for name in sorted(finished)]
    manifest.complete = False
    manifest.save(root)
    Journal(root).remove()


def _label_order(manifest: Manifest) -> dict[str, list[str]]:
    channel = manifest.plan["channel"]
    return {
        "technology": list(manifest.plan["technologies"]),
        "mobility": list(channel["mobility"]),
        "channel": [f"{split}/{number}" for split, draws in channel["draws"].items() for number in range(draws)],
    }


def _report(root: Path, manifest: Manifest, made: int, seconds: float) -> None:
    size = sum(entry.bytes for entry in manifest.shards) / 1e6
    rejected = sum(entry.rejected for entry in manifest.shards)
    say(
        f"wrote {root}: {manifest.count} samples in {len(manifest.shards)} shards, {size:.1f} MB; "
        f"{made} made in {seconds:.1f} s ({made / max(seconds, 1e-9):.0f} samples/s), "
        f"{rejected} draws rejected and drawn again"
    )
    say(f"next: lwm inspect {root}")
