"""The last step of a router's training: a detector of what it was not trained on."""

from typing import Any

import numpy as np

from lwm.models.novelty import NoveltyDetector, NoveltyScore, fit_detector, silence_view
from lwm.models.router_view import Codes, RouterView, experts_of, view_dataset

MOST = 4096
"""Captures of a split that are looked at, evenly spread: enough for a covariance of a few hundred features."""


def fit_known(router: Any, data: Any, label: str, score: NoveltyScore) -> NoveltyDetector | None:
    """A detector for a trained router, from the train split (means, covariance) and the validation split (p-values).

    Samples without an expert, or without the label, are left out.

    Args:
        router: the router; left in the mode it was in.
        data: the data module of its training.
        label: label whose names are the experts'.
        score: which one.

    Returns:
        The detector on the CPU; None where the data module has no two such splits.
    """
    datasets = getattr(data, "datasets", {})
    if not {"train", "validation"} <= set(datasets):
        return None
    seen, codes = _view(router, datasets["train"], label)
    held, _ = _view(router, datasets["validation"], label)
    silence = silence_view(router, datasets["validation"])
    return fit_detector(score, router.names, seen, codes, held, silence)


def _view(router: Any, dataset: Any, label: str) -> tuple[RouterView, Codes]:
    """What the router sees in some captures of a split, and their experts."""
    of_sample = experts_of(dataset, router.names, label)
    known = np.flatnonzero(of_sample >= 0)
    chosen = known[np.unique(np.linspace(0, len(known) - 1, min(MOST, len(known))).astype(np.int64))]
    return view_dataset(router, dataset, chosen), of_sample[chosen]
