"""Quantities of a capture: SNR in dB, speed, bandwidth."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import gaussian_nll_loss, huber_loss
from torchmetrics import MeanAbsoluteError, Metric, MetricCollection

from heads.pooled import PooledHead, PoolingKind, zero_linear
from lwm.errors import ConfigError
from lwm.models.head import TaskKind, TokenShape

LossKind = Literal["huber", "gaussian"]

_LEAST_DEVIATION = 1e-6
_LOG_VARIANCE = (-10.0, 10.0)
"""Bounds in standardised units: e^-10 is a deviation of 0.7 % of the target's own."""


class RegressionHead(PooledHead):
    """Standardised targets from pooled features by one linear layer.

    ``"huber"`` bounds what an outlier pulls; ``"gaussian"`` predicts a variance too and says how sure it is. A target
    that is NaN is not known: it counts neither in the loss nor in a metric.

    Args:
        shape: tokens that it is built for.
        targets: quantities with their units in their names, for example ``("snr_db", "speed_mps")``.
        pooling: how tokens become one vector.
        loss_kind: Huber loss (threshold one standard deviation) or Gaussian negative log-likelihood.
        attention_heads: of learned pooling.
    """

    kind: ClassVar[TaskKind] = "regression"
    head_type: ClassVar[str] = "regression"
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        shape: TokenShape,
        targets: Sequence[str],
        pooling: PoolingKind = "mean_spread",
        loss_kind: LossKind = "huber",
        attention_heads: int = 4,
    ) -> None:
        super().__init__(shape, targets, pooling, attention_heads)
        if loss_kind not in get_args(LossKind):
            raise ConfigError(f"regression loss {loss_kind!r}", f"one of {list(get_args(LossKind))}")
        self.loss_kind = loss_kind
        self.linear = zero_linear(self.features, len(targets) * (2 if loss_kind == "gaussian" else 1))
        self.register_buffer("target_mean", torch.zeros(len(targets)))
        self.register_buffer("target_std", torch.ones(len(targets)))

    def fit_targets(self, target: Tensor) -> None:
        """Standardise with mean and standard deviation of the known training targets ``[N, Q]``.

        Raises:
            ConfigError: a quantity that is known of no sample.
        """
        known = target.isfinite()
        if not known.any(0).all():
            lacking = [
                name for name, any_known in zip(self.targets, known.any(0).tolist(), strict=True) if not any_known
            ]
            raise ConfigError(f"no sample with {lacking}", "some values to learn from")
        count = known.sum(0)
        values = target.double().where(known, 0.0)
        mean = values.sum(0) / count
        spread = (((values - mean) * known).square().sum(0) / count).sqrt()
        self.target_mean.copy_(mean)
        self.target_std.copy_(torch.where(spread > _LEAST_DEVIATION, spread, 1.0))

    def forward_pooled(self, features: Tensor) -> Tensor:
        """Standardised values ``[B, Q, 1]``, with ``"gaussian"`` values and log variances ``[B, Q, 2]``."""
        return self.linear(self.standardise(features)).unflatten(1, (len(self.targets), -1))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over the known among the targets ``[B, Q]``, given in units; 0 when none is."""
        known = target.isfinite()
        wanted = ((target.float() - self.target_mean) / self.target_std).where(known, 0.0)
        value = output[..., 0].float()
        if self.loss_kind == "huber":
            each = huber_loss(value, wanted, reduction="none")
        else:
            each = gaussian_nll_loss(value, wanted, self._log_variance(output).exp(), reduction="none")
        return each.where(known, 0.0).sum() / known.sum().clamp(min=1)

    def predict(self, output: Tensor) -> Tensor:
        """Values float32 ``[B, Q]`` in units."""
        return output[..., 0].float() * self.target_std.float() + self.target_mean.float()

    def deviation(self, output: Tensor) -> Tensor:
        """Standard deviations float32 ``[B, Q]`` in units that the head gives its predictions.

        Raises:
            ConfigError: a head that was not built to predict them.
        """
        if self.loss_kind != "gaussian":
            raise ConfigError(f"deviations of a head with the {self.loss_kind} loss", "loss_kind gaussian")
        return (self._log_variance(output) / 2).exp() * self.target_std.float()

    def metrics(self) -> MetricCollection:
        """Mean absolute error in units and R2 of every quantity: ``mae_NAME``, ``r2_NAME``."""
        found: dict[str, Metric | MetricCollection] = {}
        for column, name in enumerate(self.targets):
            found |= {f"mae_{name}": KnownAbsoluteError(column), f"r2_{name}": KnownDetermination(column)}
        # No groups: two quantities may look alike in the first batch, and would be one metric ever after.
        return MetricCollection(found, compute_groups=False)

    def _log_variance(self, output: Tensor) -> Tensor:
        return output[..., 1].float().clamp(*_LOG_VARIANCE)


class KnownAbsoluteError(MeanAbsoluteError):
    """Mean absolute error of one column of ``[B, Q]``, over the targets that are known.

    Args:
        column: which quantity.
    """

    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Take in a batch of values and targets ``[B, Q]`` in units."""
        super().update(*known_column(preds, target, self.column))

    def compute(self) -> Tensor:
        """The error; NaN before any target is known."""
        return super().compute() if self.total else self.sum_abs_error * math.nan


class KnownDetermination(Metric):
    """R2 = 1 - sum (y - f)^2 / sum (y - mean y)^2 of one column, over the targets that are known.

    torchmetrics' own refuses fewer than two samples and sums squares in float32.

    Args:
        column: which quantity.
    """

    higher_is_better = True
    full_state_update = False
    count: Tensor
    total: Tensor
    squares: Tensor
    residual: Tensor

    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column
        for name in ("count", "total", "squares", "residual"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Take in a batch of values and targets ``[B, Q]`` in units."""
        value, wanted = (part.double() for part in known_column(preds, target, self.column))
        self.count += len(wanted)
        self.total += wanted.sum()
        self.squares += wanted.square().sum()
        self.residual += (wanted - value).square().sum()

    def compute(self) -> Tensor:
        """R2 float32; NaN while the targets do not vary."""
        spread = self.squares - self.total.square() / self.count
        varies = spread > 1e-12 * self.squares
        return torch.where(varies, 1 - self.residual / spread, math.nan).float()


def known_column(preds: Tensor, target: Tensor, column: int) -> tuple[Tensor, Tensor]:
    """Values and targets ``[n]`` of one quantity where the target is known."""
    known = target[:, column].isfinite()
    return preds[known, column], target[known, column]
