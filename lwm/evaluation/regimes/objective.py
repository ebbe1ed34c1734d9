"""What is learnt, and how it is judged: classes by cross-entropy and macro-F1, a quantity by its squared error and MAE.

Networks give outputs ``[N, outputs]``; an objective turns them into answers, ranks them on the validation part (more is
better) and scores answers on the test part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from lwm.evaluation.metrics import macro_f1, natural, scores

Truth = NDArray[Any]
"""Class codes int64 ``[N]``, or values float64 ``[N]``."""


class Objective(Protocol):
    """See the module."""

    @property
    def kind(self) -> str:
        """Kind of heads that fit."""

    @property
    def names(self) -> list[str]:
        """What a head is built for: classes or the quantity."""

    @property
    def outputs(self) -> int:
        """Outputs of a network."""

    def loss(self, output: Tensor, truth: Tensor) -> Tensor:
        """Mean loss of outputs ``[B, outputs]``."""

    def answers(self, output: Tensor) -> Truth:
        """Codes or values ``[N]`` of outputs."""

    def rank(self, output: Tensor, truth: Tensor) -> tuple[float, float]:
        """The metric that the table shows, or its negative where less is better, then minus the loss."""

    def scores(self, truth: Truth, answers: Truth, strata: NDArray[np.int64], snr: list[str] | None) -> dict[str, Any]:
        """A record's figures; ``strata`` are the classes that samples were drawn by."""


@dataclass(frozen=True)
class Classification:
    """Which of some classes.

    Args:
        names: the classes.
    """

    names: list[str]
    kind = "classification"

    @property
    def outputs(self) -> int:
        """One score a class."""
        return len(self.names)

    def loss(self, output: Tensor, truth: Tensor) -> Tensor:
        """Cross-entropy."""
        return cross_entropy(output.float(), truth)

    def answers(self, output: Tensor) -> Truth:
        """The class with the highest score."""
        return output.argmax(1).cpu().numpy()

    def rank(self, output: Tensor, truth: Tensor) -> tuple[float, float]:
        """Macro-F1 and minus the cross-entropy."""
        return macro_f1(truth.cpu().numpy(), self.answers(output), self.outputs), -float(self.loss(output, truth))

    def scores(self, truth: Truth, answers: Truth, strata: NDArray[np.int64], snr: list[str] | None) -> dict[str, Any]:
        """See :func:`lwm.evaluation.metrics.scores`."""
        return scores(truth, answers, self.names, snr)


@dataclass(frozen=True)
class Regression:
    """How much of a quantity. Networks learn it in deviations from the training part's mean.

    Args:
        names: the quantity, alone.
        strata: names of the classes that samples were drawn by.
        mean: of the training part, in units.
        std: likewise, > 0.
    """

    names: list[str]
    strata: Sequence[str]
    mean: float = 0.0
    std: float = 1.0
    kind = "regression"
    outputs = 1

    def fitted(self, truth: Truth) -> "Regression":
        """The same with the statistics of training values ``[N]``."""
        spread = float(np.std(truth))
        return Regression(self.names, self.strata, float(np.mean(truth)), spread if spread > 0 else 1.0)

    def loss(self, output: Tensor, truth: Tensor) -> Tensor:
        """Mean squared error in variances of the training part."""
        return mse_loss(output[:, 0].float(), (truth.float() - self.mean) / self.std)

    def answers(self, output: Tensor) -> Truth:
        """Values in units."""
        return output[:, 0].double().cpu().numpy() * self.std + self.mean

    def rank(self, output: Tensor, truth: Tensor) -> tuple[float, float]:
        """Minus the mean absolute error and minus the loss."""
        error = np.abs(self.answers(output) - truth.cpu().numpy()).mean()
        return -float(error), -float(self.loss(output, truth))

    def scores(self, truth: Truth, answers: Truth, strata: NDArray[np.int64], snr: list[str] | None) -> dict[str, Any]:
        """``mae`` in units, ``r2`` against the test part's own mean, ``per_class`` and ``per_snr`` as MAE."""
        error = np.abs(answers - truth)
        spread = float(((truth - truth.mean()) ** 2).sum())
        levels = np.asarray(snr if snr is not None else [], dtype=str)
        return {
            "mae": float(error.mean()),
            "r2": 1 - float((error**2).sum()) / spread if spread > 0 else None,
            "per_class": {
                name: float(error[strata == code].mean())
                for code, name in enumerate(self.strata)
                if (strata == code).any()
            },
            "per_snr": {
                level: float(error[levels == level].mean()) for level in sorted(set(levels.tolist()), key=natural)
            },
        }


def as_target(truth: Truth) -> Tensor:
    """Codes as int64, values as float32, for a network."""
    target = torch.from_numpy(np.ascontiguousarray(truth))
    return target if target.dtype == torch.int64 else target.float()
