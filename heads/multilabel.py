"""Which of several labels hold at once: technologies in one scene."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics import ClasswiseWrapper, MetricCollection
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelF1Score

from heads.pooled import PooledHead, PoolingKind, zero_linear
from lwm.models.head import TaskKind, TokenShape


class MultiLabelHead(PooledHead):
    """One yes-or-no answer a label, each with its own binary cross-entropy.

    It starts at the labels' shares in the training data (:meth:`fit_targets`), so that a rare one need not first be
    unlearnt. Learned pooling is the default: a label may hang on one small emission.

    Args:
        shape: tokens that it is built for.
        targets: labels.
        pooling: how tokens become one vector.
        attention_heads: of learned pooling.
    """

    kind: ClassVar[TaskKind] = "multilabel"
    head_type: ClassVar[str] = "multilabel"

    def __init__(
        self,
        shape: TokenShape,
        targets: Sequence[str],
        pooling: PoolingKind = "attention",
        attention_heads: int = 4,
    ) -> None:
        super().__init__(shape, targets, pooling, attention_heads)
        self.linear = zero_linear(self.features, len(targets))

    @torch.no_grad()
    def fit_targets(self, target: Tensor) -> None:
        """Start from the log-odds of the labels' shares in ``[N, K]``, one half added to both counts."""
        held = target.double().sum(0)
        self.linear.bias.copy_(((held + 0.5) / (len(target) - held + 0.5)).log())

    def forward_pooled(self, features: Tensor) -> Tensor:
        """Log-odds ``[B, K]`` of pooled features ``[B, P]``."""
        return self.linear(self.standardise(features))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy, mean over samples and labels, against 0 or 1 ``[B, K]``."""
        return binary_cross_entropy_with_logits(output.float(), target.float())

    def predict(self, output: Tensor) -> Tensor:
        """Probabilities float32 ``[B, K]``."""
        return output.float().sigmoid()

    def metrics(self) -> MetricCollection:
        """Mean average precision, average precision of each label (``ap_NAME``) and macro-F1 at one half."""
        count: dict[str, Any] = {"num_labels": len(self.targets)}
        by_label = MultilabelAveragePrecision(average=None, **count)
        return MetricCollection(
            {
                "mean_average_precision": MultilabelAveragePrecision(average="macro", **count),
                "per_label": ClasswiseWrapper(by_label, labels=list(self.targets), prefix="ap_"),
                "macro_f1": MultilabelF1Score(average="macro", **count),
            }
        )
