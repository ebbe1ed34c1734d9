"""``lwm study``: one command from a study's YAML to its table and pictures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from lwm.console import progress, say
from lwm.data.generation import generate
from lwm.data.manifest import Manifest
from lwm.data.plan import Plan, load_plan, parse_plan
from lwm.data.workers import Finished, run_tasks
from lwm.errors import ConfigError, DatasetError, OutputError
from lwm.evaluation.probe import LINEAR_MODELS
from lwm.output import file_sha256, remove_partial, require_empty, write_json
from lwm.settings import to_plain
from lwm.study.checks import check_data, check_jobs
from lwm.study.job import run_job
from lwm.study.plan import Job, Study, load_study
from lwm.study.report import write_report

SETTINGS = "study.json"


def study(
    config: str,
    out: str,
    data: str = "runs/studies/data",
    seeds: list[int] | None = None,
    sample_steps: int | None = None,
    samples: int | None = None,
    arms: list[str] | None = None,
    k: list[int] | None = None,
    episodes: int | None = None,
    workers: int = 2,
    resume: bool = False,
) -> dict[str, Any]:
    """Pretrain every arm of a study, probe it, and write the table that compares them.

    Args:
        config: YAML file of the study, or the name of one that ships, such as studies/objectives.
        out: folder for runs, records, table and pictures.
        data: folder of the data sets; those that are not there are generated (seed 0).
        seeds: of the runs; the first is run for all arms, the others for the study's headlines.
        sample_steps: samples that pass through each run, instead of the study's.
        samples: of each data set that is generated, instead of its plan's.
        arms: only these, for every seed.
        k: labelled samples a class, instead of the study's.
        episodes: draws of them, instead of the study's.
        workers: runs at a time, each of one thread; 0 runs them here.
        resume: go on with what the folder holds.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: an unknown key, arm, task or option, or ``out`` was begun with another study.
        DatasetError: a data set that is there is of another plan, or lacks what the study asks of it.
        ModelError: training failed.
        OutputError: ``out`` is not empty.
    """
    given: dict[str, Any] = {"sample_steps": sample_steps, "k": None if k is None else tuple(k), "episodes": episodes}
    plan = replace(load_study(config), **{name: value for name, value in given.items() if value is not None})
    plan = _narrowed(plan, arms)
    folder, place, numbers = Path(out), Path(data), list(dict.fromkeys(seeds or [0]))
    jobs = plan.jobs(folder, place, numbers)
    check_jobs(jobs)
    require_empty(folder, resume=resume)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial(folder)
    _require_same(folder, plan, {})
    hashes = _generate(plan, place, samples, workers)
    check_data(jobs)
    _require_same(folder, plan, hashes)
    _run_missing(jobs, workers)
    results = {"study": to_plain(plan), "data_sha256": hashes, "records": all_records(folder)}
    write_report(folder, plan, results)
    say(f"wrote {folder}: table.md, results.json and pictures; a model a run under {folder / 'runs'}")
    say(f"next: lwm inspect {jobs[0].folder / 'model'}")
    return results


def all_records(folder: Path) -> list[dict[str, Any]]:
    """What every run of a study's folder has measured, whichever call of the verb made it."""
    files = sorted(folder.glob("runs/*/records.json")) + sorted(folder.glob("baselines/*.json"))
    return [record for file in files for record in json.loads(file.read_text(encoding="utf-8"))["records"]]


def _run_missing(jobs: list[Job], workers: int) -> None:
    """Run the jobs that have no records yet."""
    missing = [job for job in jobs if not (job.records.is_file() and job.baselines.is_file())]
    # Several run at a time: one of each data set and seed measures the baselines.
    first = {job.baselines: job for job in reversed(missing)}
    tasks = [(job, first[job.baselines] is job) for job in missing]
    with progress("runs", len(jobs), "runs", done=len(jobs) - len(missing)) as bar:
        for event in run_tasks(run_job, tasks, min(workers, len(tasks))):
            if isinstance(event, Finished):
                bar.update()


def _narrowed(plan: Study, arms: list[str] | None) -> Study:
    """The study with some of its arms only; they are then run for every seed."""
    unknown = sorted(set(arms or []) - set(plan.arms))
    if unknown:
        raise ConfigError(f"--arms {unknown}", f"some of {sorted(plan.arms)}")
    if not arms:
        return plan
    return replace(plan, arms={arm: plan.arms[arm] for arm in plan.arms if arm in arms}, headlines=())


def _require_same(folder: Path, plan: Study, hashes: dict[str, str]) -> None:
    """Refuse to mix runs of two studies, of two data sets or of two kinds of probe in a folder; arms may be added."""
    file = folder / SETTINGS
    mine = json.loads(json.dumps(to_plain(plan))) | {"data_sha256": hashes, "linear_models": LINEAR_MODELS}
    if file.is_file():
        try:
            begun = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise OutputError(f"{file} is not JSON ({error})", remedy="use another --out") from error
        for arm, options in begun["arms"].items():
            if mine["arms"].get(arm, options) != options:
                raise ConfigError(f"{folder} was begun with another arm {arm!r}", "the same", "use another --out")
        mine["data_sha256"] = hashes or begun["data_sha256"]
        if not begun["data_sha256"]:
            begun["data_sha256"] = mine["data_sha256"]
        differ = sorted(key for key in set(mine) - {"arms", "headlines"} if begun.get(key) != mine[key])
        if differ:
            raise ConfigError(f"{folder} was begun with another {', '.join(differ)}", "the same", "use another --out")
        mine["arms"] = begun["arms"] | mine["arms"]
    write_json(file, mine)


def _generate(plan: Study, place: Path, samples: int | None, workers: int) -> dict[str, str]:
    """Make the data sets that are not there; SHA-256 of each one's manifest by name.

    Raises:
        DatasetError: one that is there was made from another plan.
    """
    hashes = {}
    for name, config in plan.data.items():
        folder = place / Path(config).stem
        manifest = Manifest.load(folder, incomplete=True) if (folder / "manifest.json").is_file() else None
        if manifest is None or not manifest.complete:
            generate(config, str(folder), samples=samples, workers=workers, resume=folder.is_dir())
        else:
            wanted = load_plan(config) if samples is None else load_plan(config).scaled(samples)
            if _plan_of(manifest, folder) != wanted:
                raise DatasetError(
                    f"{folder} was made from another plan than {config}"
                    + (f" with --samples {samples}" if samples is not None else ""),
                    "the same plan and number of samples",
                    "give another --data, or delete the folder",
                )
        hashes[name] = file_sha256(folder / "manifest.json")
    return hashes


def _plan_of(manifest: Manifest, folder: Path) -> Plan | None:
    """The plan that a data set was made from, with defaults for what plans of its time did not say; None of others'."""
    try:
        return parse_plan(manifest.plan, str(folder))
    except ConfigError:
        return None
