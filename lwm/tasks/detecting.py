"""The last step of a router's training: a detector of what it was not trained on."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lwm.models.novelty import NoveltyDetector, NoveltyScore, RouterView, fit_detector, router_view

MOST = 4096
"""Captures of a split that are looked at, evenly spread: enough for a covariance of a few hundred features."""

_BATCH = 128


def fit_known(router: Any, data: Any, experts: Tensor, label: str, score: NoveltyScore) -> NoveltyDetector | None:
    """A detector for a trained router, from the train split (means, covariance) and the validation split (percentiles).

    Args:
        router: the router; left in the mode it was in.
        data: the data module of its training.
        experts: index of the expert of each code of the label, -1 where there is none.
        label: label whose names are the experts'.
        score: which one.

    Returns:
        The detector on the CPU; None where the data module has no two such splits.
    """
    datasets = getattr(data, "datasets", {})
    if not {"train", "validation"} <= set(datasets):
        return None
    training = router.training
    router.eval()
    try:
        seen, codes = _view(router, datasets["train"], experts, label)
        held, _ = _view(router, datasets["validation"], experts, label)
    finally:
        router.train(training)
    return fit_detector(score, router.names, seen, codes, held)


def _view(router: Any, dataset: Any, experts: Tensor, label: str) -> tuple[RouterView, Any]:
    """What the router sees in some captures of a split, and their experts."""
    of_sample = np.asarray(experts.cpu())[dataset.labels[label]]
    known = np.flatnonzero(of_sample >= 0)
    chosen = known[np.unique(np.linspace(0, len(known) - 1, min(MOST, len(known))).astype(np.int64))]
    views = [
        router_view(router, dataset.batch(chosen[start : start + _BATCH])["spectrogram"].float())
        for start in range(0, len(chosen), _BATCH)
    ]
    features, logits = (torch.cat(part) for part in zip(*views, strict=True))
    return RouterView(features, logits), of_sample[chosen]
