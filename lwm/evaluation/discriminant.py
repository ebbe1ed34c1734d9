"""Linear discriminants with a shrunk covariance (Friedman 1989): classifiers that know which features go together.

An encoder's pooled features repeat each other. A discriminant divides by the covariance inside the classes, and so
listens to what is left when that is taken away, which a penalty on all weights alike does not.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from lwm.evaluation.metrics import Codes

SHRINKAGE = (0.01, 0.03, 0.1, 0.3, 0.6, 0.9)
"""Shares of a multiple of the identity in the covariance: the same for every linear model of a comparison."""

Matrix = NDArray[np.float64]


def discriminants(rotated: Matrix, codes: Codes, dimensions: int) -> Iterator[tuple[float, Matrix, Matrix]]:
    """Discriminants for every shrinkage of :data:`SHRINKAGE`, classes being equally likely.

    The covariance is ``(1 - s) S + s mean(diag S) I`` with the pooled covariance S inside the classes. None is given
    where nothing can be known of it: one sample a class, none of some class, or features that do not vary inside any.

    Args:
        rotated: standardised features in an orthogonal basis of their span ``[N, R]``.
        codes: class of each ``[N]``, 0 to the highest.
        dimensions: number of features P that the basis stands for; S has no part outside the span.

    Yields:
        Shrinkage, weights ``[classes, R]`` and biases ``[classes]`` of the scores ``x @ weights.T + biases``.
    """
    if np.bincount(codes).min() == 0:
        return
    means = np.stack([rotated[codes == code].mean(0) for code in range(int(codes.max()) + 1)])
    freedom = len(rotated) - len(means)
    inside = rotated - means[codes]
    spread, axes = np.linalg.eigh(inside.T @ inside / max(1, freedom))
    level = spread.sum() / dimensions
    if freedom < 1 or level < 1e-9:  # of standardised features, whose variance is 1
        return
    along = means @ axes
    for shrinkage in SHRINKAGE:
        weight = along / ((1 - shrinkage) * spread.clip(min=0) + shrinkage * level) @ axes.T
        yield shrinkage, weight, -0.5 * (weight * means).sum(1)


def sureness(scores: Matrix, codes: Codes) -> tuple[float, float]:
    """Factor up to 1 on scores ``[N, classes]`` that makes their softmax as sure as these samples allow, and its loss.

    A covariance of few samples makes a discriminant far too sure (Guo et al. 2017 scale a network's scores likewise).
    N right answers in a row speak for a chance of (N + 1) / (N + 2), not of 1: that is the target of the right class
    (after Platt 1999), so that the factor is finite where all are right, and a head that starts from it can learn.

    Returns:
        The factor, and the mean cross-entropy against those targets.
    """
    count, classes = scores.shape
    target = np.full(scores.shape, 1 / (count + 2) / max(1, classes - 1))
    target[np.arange(count), codes] = (count + 1) / (count + 2)
    centred = scores - scores.max(1, keepdims=True)

    def loss(power: float) -> float:
        scaled = np.exp(power) * centred
        return float((np.log(np.exp(scaled).sum(1)) - (target * scaled).sum(1)).mean())

    least = -np.log(max(1.0, float(-centred.min()))) - 3.0  # all scores within a twentieth: next to undecided
    found = minimize_scalar(loss, bounds=(least, 0.0), method="bounded")
    return float(np.exp(found.x)), float(found.fun)
