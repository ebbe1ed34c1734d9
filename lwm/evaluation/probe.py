"""Linear probe on standardised features: logistic regression or a discriminant; validation chooses, layer included."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lwm.evaluation.discriminant import SHRINKAGE, discriminants, sureness
from lwm.evaluation.metrics import Codes, macro_f1

Features = NDArray[np.float32]

GRID = tuple(float(c) for c in np.logspace(-4, 2, 7))
"""Inverse L2 strengths C of logistic regression, from strong to weak regularisation: the same for every linear model
of a comparison."""


LINEAR_MODELS = {"logistic": list(GRID), "discriminant": list(SHRINKAGE)}
"""What a probe is chosen from, for results to say and not to be mixed with those of another choice; JSON-able."""

_SOLVER = {"maxiter": 100, "gtol": 1e-4, "ftol": 1e-9}


@dataclass(frozen=True)
class Probe:
    """A fitted linear classifier of ``layer``'s features.

    Scores are ``((x - shift) / scale) @ weight.T + bias`` for features ``x [N, P]``. ``strength`` is C of ``solver``
    logistic, the shrinkage of ``solver`` discriminant.
    """

    layer: int
    solver: Literal["logistic", "discriminant"]
    strength: float
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    @property
    def chosen(self) -> dict[str, Any]:
        """What the validation part chose, for a record."""
        return {"layer": self.layer, "solver": self.solver, "strength": self.strength}

    def scores(self, features: Features) -> NDArray[np.float64]:
        """Class scores ``[N, classes]`` of features ``[N, P]`` of this probe's layer."""
        return ((features - self.shift) / self.scale) @ self.weight.T + self.bias

    def predict(self, features: Features) -> Codes:
        """Class codes ``[N]``."""
        return self.scores(features).argmax(1)


def fit_probe(layers: list[Features], codes: Codes, train: Codes, validation: Codes) -> Probe:
    """The best linear classifier over all layers, solvers and strengths.

    The one with the highest macro-F1 on the validation part wins; between equals the lower log loss does, each made as
    sure as suits it best (:func:`lwm.evaluation.discriminant.sureness`).

    Args:
        layers: features of every sample by layer, each ``[N, P]``.
        codes: class of every sample ``[N]``, 0 up to the number of classes.
        train: indices to fit on; every class is among them.
        validation: indices to choose on.
    """
    if not layers:
        raise ValueError("no features to fit a probe on")
    return max(fit_layers(layers, codes, train, validation), key=lambda fitted: fitted[0])[1]


def fit_layers(
    layers: list[Features], codes: Codes, train: Codes, validation: Codes
) -> list[tuple[tuple[float, float], Probe]]:
    """The best linear classifier of each layer over solvers and strengths, with what it is ranked by.

    That is its macro-F1 and its negative log loss on the validation part, as in :func:`fit_probe`, whose arguments
    these are.
    """
    from threadpoolctl import threadpool_limits

    truth, classes = codes[validation], int(codes.max()) + 1
    best: list[tuple[tuple[float, float], Probe]] = []
    # The matrices are too small to share among threads: on a busy machine waiting for each other costs far more.
    with threadpool_limits(limits=1):
        for layer, features in enumerate(layers):
            held = features[validation]
            fitted = (_ranked(probe, held, truth, classes) for probe in _path(layer, features[train], codes[train]))
            best.append(max(fitted, key=lambda ranked: ranked[0]))
    return best


def standardisation(features: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation ``[P]`` of features ``[N, P]``; 1 instead of it where one does not vary."""
    shift, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    return shift, np.where(spread > 1e-6 * np.maximum(np.abs(shift), 1.0), spread, 1.0)


def _ranked(probe: Probe, features: Features, truth: Codes, classes: int) -> tuple[tuple[float, float], Probe]:
    """A probe as sure as held-out features ``[N, P]`` allow, and what it is ranked by there."""
    scores = probe.scores(features)
    factor, loss = sureness(scores, truth)
    if probe.solver == "discriminant":  # a penalty has made the other as sure as it may be
        probe = replace(probe, weight=factor * probe.weight, bias=factor * probe.bias)
    return (macro_f1(truth, scores.argmax(1), classes), -loss), probe


def _path(layer: int, features: Features, codes: Codes) -> Iterator[Probe]:
    """Fits for every shrinkage and every strength of the grids, the latter each starting from the one before.

    They are solved in the span of the training samples: an L2 penalty does not see a rotation and the solution lies
    in that span, so that with fewer samples than features it is exact and cheaper.
    """
    shift, scale = standardisation(features)
    left, size, basis = np.linalg.svd((features - shift) / scale, full_matrices=False)
    rotated = left * size
    for shrinkage, weight, bias in discriminants(rotated, codes, features.shape[1]):
        yield Probe(layer, "discriminant", shrinkage, shift, scale, weight @ basis, bias)
    start = np.zeros((int(codes.max()) + 1, len(size) + 1))
    for strength in GRID:
        start = _logistic(rotated, size, codes, strength, start)
        yield Probe(layer, "logistic", strength, shift, scale, start[:, :-1] @ basis, start[:, -1])


def _logistic(
    rotated: NDArray[np.float64], size: NDArray[np.float64], codes: Codes, strength: float, start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Multinomial logistic regression: weights and bias ``[classes, R + 1]``.

    Minimises ``strength * sum of cross-entropies + |weights|^2 / 2`` (scikit-learn's objective) with L-BFGS in
    variables scaled by the root of the Hessian's diagonal. In the rotated basis that is nearly the whole Hessian, and
    features that almost repeat each other, as an encoder's do, cost tens of iterations instead of thousands.

    Args:
        rotated: orthogonal columns ``[N, R]``.
        size: their norms ``[R]``.
        codes: class of each row ``[N]``.
        strength: inverse L2 strength C.
        start: where to start, ``[classes, R + 1]``.
    """
    from scipy.optimize import minimize

    classes, count = len(start), len(codes)
    inputs = np.column_stack([rotated, np.ones(count)])
    penalty = np.append(np.ones(len(size)), 0.0)
    root = np.sqrt(strength / classes * np.append(size, np.sqrt(count)) ** 2 + penalty)
    inputs = inputs / root
    penalty = penalty / root**2
    truth = np.arange(classes) == codes[:, None]

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weight = flat.reshape(classes, -1)
        scores = inputs @ weight.T
        scores -= scores.max(1, keepdims=True)
        exponential = np.exp(scores)
        total = exponential.sum(1, keepdims=True)
        loss = strength * (np.log(total).sum() - scores[truth].sum()) + 0.5 * (penalty * weight**2).sum()
        slope = strength * (exponential / total - truth).T @ inputs + penalty * weight
        return float(loss), slope.ravel()

    solved = minimize(objective, (start * root).ravel(), jac=True, method="L-BFGS-B", options=_SOLVER)
    return solved.x.reshape(classes, -1) / root
