"""One linear layer on pooled tokens: the head of every few-shot comparison."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from heads.pooled import PooledClassifier, zero_linear
from lwm.models.head import TokenShape
from lwm.models.pooling import Pooling


class LinearHead(PooledClassifier):
    """Tokens to class scores: pooling, standardisation with stored statistics, one linear layer.

    It starts at zero, so that every class is equally likely, or from a fitted linear classifier (:meth:`start_from`).

    Args:
        shape: tokens that it is built for.
        targets: classes.
        pooling: how tokens become one vector, see :func:`lwm.models.pooling.pool`.
        smoothing: label smoothing of the cross-entropy.
    """

    head_type: ClassVar[str] = "linear"

    def __init__(
        self, shape: TokenShape, targets: Sequence[str], pooling: Pooling = "mean_spread", smoothing: float = 0.0
    ) -> None:
        super().__init__(shape, targets, pooling=pooling, smoothing=smoothing)
        self.linear = zero_linear(self.features, len(targets))

    @torch.no_grad()
    def start_from(self, shift: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> None:
        """Take over a linear classifier of the pooled features.

        Args:
            shift: ``[P]`` subtracted from the pooled features.
            scale: ``[P]`` they are then divided by, > 0.
            weight: ``[classes, P]``.
            bias: ``[classes]``.
        """
        self.shift.copy_(shift)
        self.scale.copy_(scale)
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(bias)

    def forward_pooled(self, features: Tensor) -> Tensor:
        """Scores ``[B, classes]`` of pooled features ``[B, P]``."""
        return self.linear(self.standardise(features))
