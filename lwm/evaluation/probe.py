"""Linear probe: logistic regression on standardised features, its strength and its layer chosen on validation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lwm.evaluation.metrics import Codes, macro_f1

Features = NDArray[np.float32]

GRID = tuple(float(c) for c in np.logspace(-4, 2, 7))
"""Inverse L2 strengths C, from strong to weak regularisation: the same for every linear model of a comparison."""


@dataclass(frozen=True)
class Probe:
    """A fitted linear classifier of ``layer``'s features.

    Scores are ``((x - shift) / scale) @ weight.T + bias`` for features ``x [N, P]``.
    """

    layer: int
    strength: float
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def scores(self, features: Features) -> NDArray[np.float64]:
        """Class scores ``[N, classes]`` of features ``[N, P]`` of this probe's layer."""
        return ((features - self.shift) / self.scale) @ self.weight.T + self.bias

    def predict(self, features: Features) -> Codes:
        """Class codes ``[N]``."""
        return self.scores(features).argmax(1)


def fit_probe(layers: list[Features], codes: Codes, train: Codes, validation: Codes) -> Probe:
    """The best logistic regression over all layers and strengths.

    The one with the highest macro-F1 on the validation part wins; between equals the lower log loss does.

    Args:
        layers: features of every sample by layer, each ``[N, P]``.
        codes: class of every sample ``[N]``, 0 up to the number of classes.
        train: indices to fit on; every class is among them.
        validation: indices to choose on.
    """
    classes = int(codes.max()) + 1
    best: Probe | None = None
    best_rank = (-1.0, -np.inf)
    for layer, features in enumerate(layers):
        for probe in _path(layer, features[train], codes[train]):
            scores = probe.scores(features[validation])
            rank = (macro_f1(codes[validation], scores.argmax(1), classes), -_log_loss(scores, codes[validation]))
            if best is None or rank > best_rank:
                best, best_rank = probe, rank
    if best is None:
        raise ValueError("no features to fit a probe on")
    return best


def _path(layer: int, features: Features, codes: Codes) -> list[Probe]:
    """Fits for every strength of the grid, solved in the span of the training samples.

    An L2 penalty does not see a rotation, and the solution lies in that span: with fewer samples than features it
    is exact and several times faster.
    """
    from sklearn.linear_model import LogisticRegression

    shift = features.mean(0, dtype=np.float64)
    spread = features.std(0, dtype=np.float64)
    scale = np.where(spread > 1e-6 * np.maximum(np.abs(shift), 1.0), spread, 1.0)
    left, size, basis = np.linalg.svd((features - shift) / scale, full_matrices=False)
    found = []
    for strength in GRID:
        fit = LogisticRegression(C=strength, max_iter=500).fit(left * size, codes)
        weight, bias = fit.coef_ @ basis, fit.intercept_
        if len(weight) == 1:  # two classes: scikit-learn keeps the score of the second against the first
            weight, bias = np.stack([-weight[0], weight[0]]) / 2, np.array([-bias[0], bias[0]]) / 2
        found.append(Probe(layer, strength, shift, scale, weight, bias))
    return found


def _log_loss(scores: NDArray[np.float64], codes: Codes) -> float:
    top = scores.max(1, keepdims=True)
    log_sum = np.log(np.exp(scores - top).sum(1)) + top[:, 0]
    return float((log_sum - scores[np.arange(len(codes)), codes]).mean())
