"""What a router sees in data sets, and which expert their samples belong to: one way for training, fitting, scoring."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lwm.console import progress
from lwm.errors import DatasetError

Codes = NDArray[np.int64]


class RouterView(NamedTuple):
    """What the router sees in pictures: ``features`` float32 ``[N, W]``, ``logits`` float32 ``[N, E]``, on the CPU."""

    features: Tensor
    logits: Tensor


@torch.no_grad()
def router_view(router: Any, pictures: Tensor) -> RouterView:
    """Pooled features and logits of dB pictures ``[B, C, F, T]``, as in use: the router is left in the mode it was."""
    training = router.training
    router.eval()
    try:
        features = router.features(pictures.float().to(router.head.weight.device))
        return RouterView(features.float().cpu(), router.head(features).float().cpu())
    finally:
        router.train(training)


def joined(views: Sequence[RouterView]) -> RouterView:
    """Several views, one after the other."""
    features, logits = (torch.cat(part) for part in zip(*views, strict=True))
    return RouterView(features, logits)


def view_dataset(router: Any, dataset: Any, rows: Codes | None = None, batch_size: int = 128) -> RouterView:
    """Features and logits of samples of a data set in order, with progress.

    Args:
        router: the router, on any device.
        dataset: a :class:`~lwm.data.dataset.SpectrogramDataset` or a :class:`~lwm.data.mixing.MixedDataset`.
        rows: which samples; None for all.
        batch_size: pictures at a time.

    Raises:
        RecipeMismatch: the data have another recipe than the router.
    """
    for member in getattr(dataset, "members", [dataset]):
        router.trunk.recipe.require_same(member.recipe, "the router", f"data set {member.root}")
    chosen = np.arange(len(dataset)) if rows is None else rows
    views = []
    with progress("route", len(chosen), "captures") as bar:
        for start in range(0, len(chosen), batch_size):
            part = chosen[start : start + batch_size]
            views.append(router_view(router, dataset.batch(part)["spectrogram"]))
            bar.update(len(part))
    return joined(views)


def experts_by_code(label_names: Mapping[str, Sequence[str]], names: Sequence[str], label: str) -> Codes:
    """Index of the expert that each code of a label stands for, int64 ``[codes + 1]``, -1 where there is none.

    One more place at the end answers for the code -1, of samples without the label. A name without an expert may stand
    among a label's names as long as no selected sample has it.

    Args:
        label_names: names of the codes of each label.
        names: of the experts.
        label: label whose names are the experts'.

    Raises:
        DatasetError: no such label.
    """
    if label not in label_names:
        raise DatasetError(f"no label {label!r} in the data", f"one of {sorted(label_names)}")
    place = {name: number for number, name in enumerate(names)}
    return np.array([*(place.get(name, -1) for name in label_names[label]), -1], np.int64)


def experts_of(dataset: Any, names: Sequence[str], label: str = "technology") -> Codes:
    """Index of the expert of each sample, int64 ``[N]``, -1 where there is none; DatasetError without the label."""
    found: Codes = experts_by_code(dataset.label_names, names, label)[dataset.labels[label]]
    return found
