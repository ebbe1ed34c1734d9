"""Which samples of a data set a task draws from, and of which class each is."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lwm.data.expression import select
from lwm.errors import DatasetError
from lwm.evaluation.episodes import join_labels
from lwm.evaluation.metrics import Codes
from lwm.evaluation.task import FewShotTask

if TYPE_CHECKING:
    from lwm.data.dataset import SpectrogramDataset

FIFTHS = 5
"""Strata that a target's values are shared out to where a task has no labels."""


def strata(dataset: "SpectrogramDataset", task: FewShotTask) -> tuple[Codes, list[str], Codes, list[NDArray[np.str_]]]:
    """Samples of a task: indices, class names, class of each, and the texts a class is made of.

    Returns:
        Indices int64 ``[N]`` into the data set, names, codes int64 ``[N]``, and columns of text ``[N]``.

    Raises:
        DatasetError: a label or value of the task, or ``channel``, is not in the data set; no sample has all of them;
            or two classes' expressions are true of one sample.
    """
    needed = [*task.labels, "channel"]
    lacks = [label for label in needed if label not in dataset.labels]
    if lacks:
        raise DatasetError(f"{dataset.root} has no label {lacks}", f"labels among {sorted(dataset.labels)}")
    inside = np.all([dataset.labels[label] >= 0 for label in needed], axis=0)
    if task.target is not None:
        if task.target not in dataset.values:
            raise DatasetError(f"{dataset.root} has no value {task.target!r}", f"one of {sorted(dataset.values)}")
        inside &= np.isfinite(dataset.values[task.target])
    truths = _expressions(dataset, task)
    if task.label:
        inside &= truths.any(0)
    chosen = np.flatnonzero(inside)
    if not len(chosen):
        raise DatasetError(f"no sample of {dataset.root} has all of {[*needed, *task.seen_as]}", "labelled samples")
    if task.labels:
        columns = [label_texts(dataset, label, chosen) for label in task.labels]
    elif task.label:
        columns = [np.array(list(task.label), dtype=str)[truths[:, chosen].argmax(0)]]
    else:
        columns = [_fifths(dataset.values[str(task.target)][chosen])]
    names, codes = join_labels(columns)
    return chosen, names, codes, columns


def label_texts(dataset: "SpectrogramDataset", label: str, indices: Codes) -> NDArray[np.str_]:
    """Names of a label at ``indices``, text ``[len(indices)]``; empty where a sample lacks it."""
    names = np.array([*dataset.label_names[label], ""], dtype=str)
    return names[dataset.labels[label][indices]]


def _expressions(dataset: "SpectrogramDataset", task: FewShotTask) -> NDArray[np.bool_]:
    """Truth of each class's expression ``[classes, len(dataset)]``."""
    columns = (dataset.labels, dataset.label_names, dataset.values, len(dataset))
    found = [select(expression, *columns) for expression in task.label.values()]
    truths = np.array(found, dtype=bool).reshape(len(found), len(dataset))
    twice = int((truths.sum(0) > 1).sum())
    if twice:
        raise DatasetError(
            f"task {task.name!r}: {twice} samples belong to two of {list(task.label)}",
            "expressions that exclude others",
        )
    return truths


def _fifths(values: NDArray[np.float32]) -> NDArray[np.str_]:
    edges = np.quantile(values, np.linspace(0, 1, FIFTHS + 1)[1:-1])
    number = np.searchsorted(edges, values, side="right")
    return np.array([f"fifth {place}" for place in range(1, FIFTHS + 1)], dtype=str)[number]
