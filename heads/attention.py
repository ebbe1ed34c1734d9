"""Attention pooling: a learned query decides which tokens count."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from heads.pooled import PooledClassifier, zero_linear
from lwm.models.head import TokenShape


class AttentionHead(PooledClassifier):
    """Class scores of what one learned query finds among the tokens, by multi-head attention.

    Where a short or narrow emission decides, the mean over all tokens drowns it; a query can look at it alone.

    Args:
        shape: tokens that it is built for.
        targets: classes.
        attention_heads: they divide the width.
        smoothing: label smoothing of the cross-entropy.
    """

    head_type: ClassVar[str] = "attention"

    def __init__(
        self, shape: TokenShape, targets: Sequence[str], attention_heads: int = 4, smoothing: float = 0.0
    ) -> None:
        super().__init__(shape, targets, smoothing, "attention", attention_heads)
        self.linear = zero_linear(self.features, len(targets))

    def forward_pooled(self, features: Tensor) -> Tensor:
        """Scores ``[B, classes]`` of pooled features ``[B, D]``."""
        return self.linear(features)
