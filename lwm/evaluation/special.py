"""Tasks that are no k-shot classification: which report a task's YAML asks for, by its head."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lwm.errors import ConfigError
from lwm.evaluation.segmentation import SegmentationTask, load_segmentation_task, segmentation_report
from lwm.evaluation.sensing import load_sensing_task, sensing_report
from lwm.settings import load_plain

SPECIAL_HEADS = ("segmentation", "activity")
"""Heads whose tasks are scored by a report of their own."""


def is_special(config: str) -> bool:
    """Whether the task in a YAML file, or of a shipped name, is for :func:`special_report`.

    Raises:
        ConfigError: no such file or name, or not YAML.
    """
    plain = load_plain(config, SegmentationTask)
    return isinstance(plain, dict) and plain.get("head") in SPECIAL_HEADS


def special_report(
    config: str,
    model: str | None,
    data: str,
    out: str,
    k: Sequence[int] | None = None,
    episodes: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """The report of a task that :func:`is_special`; what its results.json holds.

    Args:
        config: YAML file of the task, or the name of one that ships.
        model: model folder of an encoder; None for a fresh one, from scratch.
        data: folder of the data set.
        out: folder of the report.
        k: training scenes, instead of the task's; segmentation only.
        episodes: draws of them, likewise.
        seed: of draws, random weights and the order of batches.
        overwrite: replace the report that ``out`` holds.

    Raises:
        ConfigError: a key that does not exist, or ``k`` or ``episodes`` for sensing, whose folds are its recordings.
    """
    if load_plain(config, SegmentationTask).get("head") == "segmentation":
        task = load_segmentation_task(config)
        task = replace(task, k=tuple(k or task.k), episodes=task.episodes if episodes is None else episodes)
        return segmentation_report(task, data, out, model, seed, overwrite)
    if k or episodes is not None:
        raise ConfigError(f"k {k} and episodes {episodes} for sensing", "neither", "leave out --k and --episodes")
    return sensing_report(load_sensing_task(config), data, out, model, seed, overwrite)
