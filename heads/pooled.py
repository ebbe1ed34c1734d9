"""What heads on one vector a picture share: pooling, stored standardisation, and scores of classes."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lwm.errors import ConfigError
from lwm.models.head import Head, Reads, TaskKind, TokenShape
from lwm.models.pooling import Pooling, pool, pooled_features

PoolingKind = Literal["mean", "mean_spread", "attention"]

UNKNOWN = -1
"""Class of a sample without a label; it counts neither in the loss nor in a metric."""

# Of features that do not vary over the training data: they are left as they are rather than blown up.
_LEAST_SCALE = 1e-6


class AttentionPool(nn.Module):
    """Multi-head attention of one learned query over normalised tokens, then a residual MLP (timm's latent pool).

    Args:
        width: token width D.
        heads: attention heads, which divide it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        require_heads(width, heads)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.attend = AttentionPoolLatent(width, num_heads=heads, mlp_ratio=2.0)

    def forward(self, tokens: Tensor) -> Tensor:
        """One vector ``[B, D]`` of tokens ``[B, L, D]``, whatever L is."""
        return self.attend(self.norm(tokens))


class PooledHead(Head):
    """A head that reads one vector a picture.

    Fixed pooling is taken in float32 and standardised with statistics of the training data (:meth:`fit_features`),
    which are part of the weights; learned pooling normalises its tokens itself.

    Args:
        shape: see :class:`~lwm.models.head.Head`.
        targets: likewise.
        pooling: see :func:`lwm.models.pooling.pool`, or ``"attention"``: learned.
        attention_heads: of the learned pooling; they divide the width.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        shape: TokenShape,
        targets: Sequence[str],
        pooling: PoolingKind = "mean_spread",
        attention_heads: int = 4,
    ) -> None:
        super().__init__(shape, targets)
        if pooling not in get_args(PoolingKind):
            raise ConfigError(f"pooling {pooling!r}", f"one of {list(get_args(PoolingKind))}")
        self.pooling: PoolingKind = pooling
        self.attention_heads = attention_heads
        self.attention = AttentionPool(shape.width, attention_heads) if pooling == "attention" else None
        # Mixed layers have weights to learn before they are pooled: no feature can be computed once for all.
        self.reads: Reads = "pooled" if self.attention is None and self.mix is None else "tokens"
        self.features = shape.width if pooling == "attention" else pooled_features(shape.width, pooling)
        self.register_buffer("shift", torch.zeros(self.features))
        self.register_buffer("scale", torch.ones(self.features))

    def fit_features(self, features: Tensor) -> None:
        """Standardise with the mean and standard deviation of the training data's pooled features ``[N, P]``."""
        if self.attention is not None:
            raise ConfigError("statistics of features for learned pooling", "a fixed pooling")
        scale = features.float().std(0, correction=0)
        self.shift.copy_(features.float().mean(0))
        self.scale.copy_(torch.where(scale > _LEAST_SCALE, scale, 1.0))

    def pool(self, tokens: Tensor | Sequence[Tensor], grid_size: tuple[int, int] | None = None) -> Tensor:
        """Features ``[B, P]`` of tokens, as :meth:`forward_pooled` takes them."""
        patches = self.patch_tokens(tokens, grid_size)
        if self.attention is not None:
            return self.attention(patches)
        return pool(patches.float(), self.grid_of(grid_size), cast(Pooling, self.pooling))

    def forward(self, tokens: Tensor | Sequence[Tensor], grid_size: tuple[int, int] | None = None) -> Tensor:
        """Output of tokens; see :meth:`lwm.models.head.Head.forward`."""
        return self.forward_pooled(self.pool(tokens, grid_size))

    def standardise(self, features: Tensor) -> Tensor:
        """Features ``[B, P]`` in units of the training data, in the weights' type."""
        return ((features - self.shift) / self.scale).to(next(self.parameters()).dtype)

    @abstractmethod
    def forward_pooled(self, features: Tensor) -> Tensor:
        """Output of features ``[B, P]`` of :meth:`pool`, which may have been computed once for all."""


class PooledClassifier(PooledHead):
    """A pooled head whose outputs are the scores ``[B, K]`` of K classes, one of which is right.

    Cross-entropy, optionally with label smoothing: the right class gets 1 - s + s / K, every other s / K.

    Args:
        shape: see :class:`~lwm.models.head.Head`.
        targets: classes, two or more.
        smoothing: s, from 0 to below 1.
        pooling: see :class:`PooledHead`.
        attention_heads: likewise.
    """

    kind: ClassVar[TaskKind] = "classification"

    def __init__(
        self,
        shape: TokenShape,
        targets: Sequence[str],
        smoothing: float = 0.0,
        pooling: PoolingKind = "mean_spread",
        attention_heads: int = 4,
    ) -> None:
        super().__init__(shape, targets, pooling, attention_heads)
        require_classes(targets, smoothing)
        self.smoothing = smoothing

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of scores ``[B, K]`` against classes int64 ``[B]``; :data:`UNKNOWN` ones do not count."""
        return nn.functional.cross_entropy(output.float(), target, ignore_index=UNKNOWN, label_smoothing=self.smoothing)

    def predict(self, output: Tensor) -> Tensor:
        """Probabilities float32 ``[B, K]``."""
        return output.float().softmax(1)

    def metrics(self) -> MetricCollection:
        """Share of right answers, its mean over classes, and macro-F1."""
        count: dict[str, Any] = {"num_classes": len(self.targets), "ignore_index": UNKNOWN}
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(average="micro", **count),
                "class_accuracy": MulticlassAccuracy(average="macro", **count),
                "macro_f1": MulticlassF1Score(average="macro", **count),
            }
        )


def zero_linear(features: int, outputs: int) -> nn.Linear:
    """A linear layer that starts at zero: undecided."""
    linear = nn.Linear(features, outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def require_classes(targets: Sequence[str], smoothing: float) -> None:
    """Raise ConfigError unless there are classes to choose between and a smoothing that leaves one the likeliest."""
    if len(targets) < 2 or not 0 <= smoothing < 1:
        raise ConfigError(
            f"{len(targets)} class(es) with label smoothing {smoothing}", "two classes or more and 0 <= smoothing < 1"
        )


def require_heads(width: int, heads: int) -> None:
    """Raise ConfigError unless ``heads`` attention heads divide the width."""
    if heads < 1 or width % heads:
        raise ConfigError(f"{heads} attention heads on a width of {width}", "a number that divides the width")
