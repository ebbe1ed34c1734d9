"""k nearest neighbours on frozen features: what the features say before anything is trained."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lwm.evaluation.metrics import Codes, macro_f1
from lwm.evaluation.probe import Features, standardisation
from lwm.evaluation.regimes.objective import Truth

NEIGHBOURS = (1, 3, 5, 11, 21)
"""Numbers of neighbours tried: the same for every model of a comparison; fewer where there are fewer samples."""

TEMPERATURE = 0.07
"""Votes weigh ``exp(cosine / TEMPERATURE)``, as in the kNN of Wu et al. 2018 and DINO."""


@dataclass(frozen=True)
class Neighbours:
    """The training samples of one layer, standardised and scaled to unit length.

    Args:
        layer: which layer's features.
        count: how many neighbours vote.
        shift: ``[P]``.
        scale: ``[P]``.
        bank: unit vectors ``[N, P]``.
        truth: class codes or values ``[N]``.
        classes: number of classes; 0 for values.
    """

    layer: int
    count: int
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    bank: NDArray[np.float64]
    truth: Truth
    classes: int

    def predict(self, features: Features) -> Truth:
        """Codes (the most votes) or values (weighted mean) ``[M]`` of features ``[M, P]`` of this layer."""
        return _vote(*self.nearest(features), self.truth, self.count, self.classes)

    def nearest(self, features: Features) -> tuple[NDArray[np.float64], Codes]:
        """Cosines with all training samples, falling, and which sample each belongs to: both ``[M, N]``."""
        cosine = _unit((features - self.shift) / self.scale) @ self.bank.T
        order = np.argsort(-cosine, axis=1, kind="stable")
        return np.take_along_axis(cosine, order, 1), order


def fit_neighbours(layers: list[Features], truth: Truth, train: Codes, validation: Codes) -> Neighbours:
    """The layer and number of neighbours that are best on the validation part; between equals the earlier layer.

    Args:
        layers: features of every sample by layer, each ``[N, P]``.
        truth: class codes (int64) or values of every sample ``[N]``.
        train: indices that vote.
        validation: indices to choose on.
    """
    classes = int(truth.max()) + 1 if truth.dtype.kind == "i" else 0
    wanted = truth[validation]
    best: tuple[float, Neighbours] | None = None
    for layer, features in enumerate(layers):
        known = features[train]
        shift, scale = standardisation(known)
        bank = _unit((known - shift) / scale)
        nearest = Neighbours(layer, 1, shift, scale, bank, truth[train], classes).nearest(features[validation])
        for count in [n for n in NEIGHBOURS if n <= len(train)]:
            found = _vote(*nearest, truth[train], count, classes)
            score = macro_f1(wanted, found, classes) if classes else -float(np.abs(found - wanted).mean())
            if best is None or score > best[0]:
                best = score, Neighbours(layer, count, shift, scale, bank, truth[train], classes)
    if best is None:
        raise ValueError("no features to look for neighbours in")
    return best[1]


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _vote(cosine: NDArray[np.float64], order: Codes, truth: Truth, count: int, classes: int) -> Truth:
    weight = np.exp((cosine[:, :count] - cosine[:, :1]) / TEMPERATURE)
    found = truth[order[:, :count]]
    if not classes:
        return (weight * found).sum(1) / weight.sum(1)
    rows = np.arange(len(found))[:, None] * classes
    votes = np.bincount((rows + found).ravel(), weight.ravel(), len(found) * classes)
    return votes.reshape(len(found), classes).argmax(1)
