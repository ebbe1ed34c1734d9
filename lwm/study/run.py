"""``lwm study``: one command from a study's YAML to its table and pictures."""

import json
from pathlib import Path
from typing import Any

from lwm.console import progress, say
from lwm.data.generation import generate
from lwm.data.manifest import Manifest
from lwm.data.workers import Finished, run_tasks
from lwm.errors import ConfigError, OutputError
from lwm.output import remove_partial, require_empty, write_json
from lwm.settings import to_plain
from lwm.study.job import run_job
from lwm.study.plan import Study, load_study
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
        arms: only these.
        workers: runs at a time, each of one thread; 0 runs them here.
        resume: go on with what the folder holds.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: an unknown key or arm, or ``out`` was begun with another study.
        ModelError: training failed.
        OutputError: ``out`` is not empty.
    """
    plan = _narrowed(load_study(config), sample_steps, arms)
    folder, place, numbers = Path(out), Path(data), list(dict.fromkeys(seeds or [0]))
    require_empty(folder, resume=resume)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partial(folder)
    _require_same(folder, plan)
    _generate(plan, place, samples, workers)
    jobs = plan.jobs(folder, place, numbers)
    first = {(job.dataset, job.seed): number for number, job in reversed(list(enumerate(jobs)))}
    tasks = [(job, first[job.dataset, job.seed] == number) for number, job in enumerate(jobs)]
    done = sum(job.records.is_file() for job in jobs)
    missing = [task for task in tasks if not task[0].records.is_file()]
    with progress("runs", len(jobs), "runs", done=done) as bar:
        for event in run_tasks(run_job, missing, min(workers, len(missing))):
            if isinstance(event, Finished):
                bar.update()
    records = [record for job in jobs for record in json.loads(job.records.read_text())["records"]]
    results = {"study": to_plain(plan), "seeds": numbers, "records": records}
    write_report(folder, plan, results)
    say(f"wrote {folder}: table.md, results.json and pictures; a model a run under {folder / 'runs'}")
    say(f"next: lwm inspect {jobs[0].folder / 'model'}")
    return results


def _narrowed(plan: Study, sample_steps: int | None, arms: list[str] | None) -> Study:
    from dataclasses import replace

    unknown = sorted(set(arms or []) - set(plan.arms))
    if unknown:
        raise ConfigError(f"--arms {unknown}", f"some of {sorted(plan.arms)}")
    if arms:
        headlines = tuple(arm for arm in plan.headlines if arm in arms)
        plan = replace(plan, arms={arm: plan.arms[arm] for arm in plan.arms if arm in arms}, headlines=headlines)
    return plan if sample_steps is None else replace(plan, sample_steps=sample_steps)


def _require_same(folder: Path, plan: Study) -> None:
    """Refuse to mix the runs of two studies in one folder; arms may be added."""
    file = folder / SETTINGS
    mine = json.loads(json.dumps(to_plain(plan)))
    if file.is_file():
        try:
            begun = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise OutputError(f"{file} is not JSON ({error})", remedy="use another --out") from error
        for arm, options in begun["arms"].items():
            if mine["arms"].get(arm, options) != options:
                raise ConfigError(f"{folder} was begun with another arm {arm!r}", "the same", "use another --out")
        fixed = set(mine) - {"arms", "headlines"}
        differ = sorted(key for key in fixed if begun.get(key) != mine[key])
        if differ:
            raise ConfigError(f"{folder} was begun with another {', '.join(differ)}", "the same", "use another --out")
        mine["arms"] = begun["arms"] | mine["arms"]
    write_json(file, mine)


def _generate(plan: Study, place: Path, samples: int | None, workers: int) -> None:
    for config in plan.data.values():
        folder = place / Path(config).stem
        if not ((folder / "manifest.json").is_file() and Manifest.load(folder, incomplete=True).complete):
            generate(config, str(folder), samples=samples, workers=workers, resume=folder.is_dir())
