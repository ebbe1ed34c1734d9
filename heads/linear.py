"""One linear layer on pooled tokens: the head of every few-shot comparison."""

import torch
from torch import Tensor, nn

from lwm.models.pooling import Pooling, pool, pooled_features


class LinearHead(nn.Module):
    """Tokens to class scores: pooling, standardisation with stored statistics, one linear layer.

    It starts at zero, so that every class is equally likely, or from a logistic regression (:meth:`start_from`).

    Args:
        num_features: token width D of the encoder.
        grid_size: rows (frequency) and columns (time) of the encoder's token grid.
        num_classes: number of classes.
        pooling: how tokens become one vector, see :func:`lwm.models.pooling.pool`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self, num_features: int, grid_size: tuple[int, int], num_classes: int, pooling: Pooling = "mean_spread"
    ) -> None:
        super().__init__()
        width = pooled_features(num_features, pooling)
        self.grid_size = grid_size
        self.pooling: Pooling = pooling
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.linear = nn.Linear(width, num_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

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

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores ``[B, classes]`` of tokens ``[B, L, D]`` without prefix tokens."""
        return self.linear((pool(tokens, self.grid_size, self.pooling) - self.shift) / self.scale)
