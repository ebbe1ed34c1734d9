"""One run of a study: train, export, measure; each step is skipped where its result is there."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from lwm.data.workers import Report
from lwm.errors import ModelError
from lwm.evaluation.features import random_twin
from lwm.evaluation.fewshot import UNSEEN, pretraining_of
from lwm.evaluation.probe import Features
from lwm.evaluation.task import load_task
from lwm.export import load_task as load_checkpoint
from lwm.hub import from_pretrained, save_pretrained
from lwm.output import atomic_file, write_json
from lwm.seeding import rng_for
from lwm.study.plan import Job
from lwm.study.probes import (
    Pictures,
    Record,
    frozen_layers,
    label_records,
    occupancy_records,
    plain_features,
    plain_patches,
)
from lwm.study.reconstruction import reconstruction_records
from lwm.training import last_checkpoint

RANDOM, PLAIN = "random weights", "plain statistics"
"""Baselines, measured beside the first arm of each data set and seed."""

_LINES = 15


def run_job(task: tuple[Job, bool], report: Report) -> None:
    """Train, export and measure a job; with ``True`` beside it, its data set's baselines too.

    Raises:
        ModelError: training failed; the message ends with what it said.
    """
    job, baselines = task
    torch.set_num_threads(1)
    if not job.records.is_file():
        _train(job)
        write_json(job.records, {"records": _measure(job)})
        # It holds the optimizer too: three times the model that is kept.
        last_checkpoint(job.folder / "fit").unlink(missing_ok=True)
    if baselines and not job.baselines.is_file():
        write_json(job.baselines, {"records": _measure_baselines(job)})
    report(1)


def _train(job: Job) -> None:
    """Train in a process of its own, as `lwm fit` would, going on where it was interrupted."""
    kept = last_checkpoint(job.folder / "fit")
    if _model(job).is_dir() and (kept.is_file() or not job.study.mask_ratios):
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    config = job.folder / "fit.yaml"
    with atomic_file(config) as partial:
        partial.write_text(yaml.safe_dump(job.config(), sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "lwm.cli", "fit", "--config", str(config), "--resume"]
    # One thread each: two such processes train twice as fast as one of two threads.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    log = job.folder / "fit.log"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    # A run that is told to end (SIGTERM) keeps a checkpoint and ends in peace, but writes no record.
    if done.returncode or not (job.folder / "fit" / "run.json").is_file():
        said = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES:]
        raise ModelError(f"arm {job.arm!r} on {job.dataset!r} failed: {' '.join(said)}", remedy=f"see {log}")
    task = load_checkpoint(kept)
    save_pretrained(task.export_model(), _model(job), dict(task.provenance), overwrite=True)


def _measure(job: Job) -> list[Record]:
    study, pictures = job.study, Pictures.of(job.data)
    encoder = from_pretrained(_model(job))
    head: Record = {"arm": job.arm, "data": job.dataset, "seed": job.seed} | pretraining_of(str(_model(job)))
    found = [head | record for record in _probed(job, encoder, pictures)]
    if study.mask_ratios:
        task = load_checkpoint(last_checkpoint(job.folder / "fit"))
        found += [head | record for record in reconstruction_records(task, pictures, study.mask_ratios, job.seed)]
    return found


def _measure_baselines(job: Job) -> list[Record]:
    pictures, encoder = Pictures.of(job.data), from_pretrained(_model(job))
    unseen: Record = {"data": job.dataset, "seed": job.seed} | UNSEEN
    twin = random_twin(encoder, int(rng_for(job.seed, "study", "random").integers(2**31)))
    found = [{"arm": RANDOM} | unseen | record for record in _probed(job, twin, pictures)]
    return found + [{"arm": PLAIN} | unseen | record for record in _plain(job, encoder.config.patch, pictures)]


def _probed(job: Job, encoder: Any, pictures: Pictures) -> list[Record]:
    if not (job.study.tasks.get(job.dataset) or job.dataset in job.study.occupancy):
        return []
    return _records(job, pictures, encoder.config.patch, *frozen_layers(encoder, pictures))


def _plain(job: Job, patch: int, pictures: Pictures) -> list[Record]:
    return _records(job, pictures, patch, plain_features(pictures), plain_patches(pictures, patch))


def _records(job: Job, pictures: Pictures, patch: int, whole: list[Features], patches: list[Features]) -> list[Record]:
    study, found = job.study, []
    for name in study.tasks.get(job.dataset, ()):
        task = load_task(name).overridden(list(study.k), study.episodes)
        found += list(label_records(pictures, task, whole, job.seed))
    if job.dataset in study.occupancy:
        found += list(occupancy_records(pictures, patch, patches, study.k, study.episodes, job.seed))
    return found


def _model(job: Job) -> Path:
    return job.folder / "model"
