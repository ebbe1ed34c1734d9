"""Ridge regression on standardised features: the linear probe of a quantity."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwm.evaluation.metrics import Codes
from lwm.evaluation.probe import GRID, Features, standardisation
from lwm.evaluation.regimes.objective import Truth


@dataclass(frozen=True)
class Ridge:
    """Values ``((x - shift) / scale) @ weight + bias`` for features ``x [N, P]`` of ``layer``."""

    layer: int
    strength: float
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: float

    @property
    def chosen(self) -> dict[str, Any]:
        """What the validation part chose, for a record."""
        return {"layer": self.layer, "strength": self.strength}

    def predict(self, features: Features) -> Truth:
        """Values ``[N]``."""
        return ((features - self.shift) / self.scale) @ self.weight + self.bias


def fit_ridge(layers: list[Features], values: Truth, train: Codes, validation: Codes) -> Ridge:
    """The ridge regression with the least mean absolute error on the validation part, over layers and strengths.

    It minimises ``strength * sum of squared errors + |weight|^2``; strengths are those of logistic regression.

    Args:
        layers: features of every sample by layer, each ``[N, P]``.
        values: of every sample ``[N]``.
        train: indices to fit on.
        validation: indices to choose on.
    """
    best: tuple[float, Ridge] | None = None
    for layer, features in enumerate(layers):
        known = features[train]
        shift, scale = standardisation(known)
        bias = float(values[train].mean())
        left, size, basis = np.linalg.svd((known - shift) / scale, full_matrices=False)
        projected = left.T @ (values[train] - bias)
        for strength in GRID:
            weight = basis.T @ (size / (size**2 + 1 / strength) * projected)
            found = Ridge(layer, strength, shift, scale, weight, bias)
            error = float(np.abs(found.predict(features[validation]) - values[validation]).mean())
            if best is None or error < best[0]:
                best = error, found
    if best is None:
        raise ValueError("no features to fit a regression on")
    return best[1]
