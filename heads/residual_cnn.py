"""The residual 1-D CNN of LWM-Spectro (arXiv 2601.08780, section III-F)."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import gelu

from heads.pooled import PooledClassifier
from lwm.errors import ConfigError
from lwm.models.head import TokenShape
from lwm.models.pooling import Pooling


class ResidualBlock(nn.Module):
    """Two convolutions of three taps with norms and a way around them: x + f(x), then GELU.

    Each norm is over one sample's channels and positions together: a few-shot batch is too small for a batch's
    statistics, and a norm of each channel alone would take its mean away, which is all that the last pooling reads.

    Args:
        inputs: channels in.
        channels: channels out; the way around is a convolution of one tap where they differ.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(inputs, channels, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(1, channels)
        self.second = nn.Conv1d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(1, channels)
        self.around = nn.Identity() if inputs == channels else nn.Conv1d(inputs, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, D]`` to ``[B, channels, D]``."""
        inner = self.second(gelu(self.norm1(self.first(x))))
        return gelu(self.around(x) + self.norm2(inner))


class ResidualCNNHead(PooledClassifier):
    """Pooled tokens as a sequence of length D, residual convolutions along it, mean over it, one linear layer.

    As in the paper the mean over the tokens is the sequence, with one channel. ``"mean_spread"`` gives it three: mean,
    spread over time and spread over frequency of each feature, since the mean loses mobility. The paper gives neither
    widths nor numbers of blocks. Convolutions and a mean along the features cannot tell one feature from another: what
    a single one says is diluted among D, where a linear layer has a weight for it.

    Args:
        shape: tokens that it is built for.
        targets: classes.
        pooling: ``"mean"`` (the paper) or ``"mean_spread"``.
        channels: of each residual block.
        smoothing: label smoothing of the cross-entropy.
    """

    head_type: ClassVar[str] = "residual_cnn"

    def __init__(
        self,
        shape: TokenShape,
        targets: Sequence[str],
        pooling: Pooling = "mean_spread",
        channels: Sequence[int] = (32, 64),
        smoothing: float = 0.0,
    ) -> None:
        super().__init__(shape, targets, smoothing, pooling)
        if not channels or min(channels) < 1:
            raise ConfigError(
                f"residual blocks of {list(channels)} channels", "one block or more, of one channel or more"
            )
        self.channels = list(channels)
        inputs = [self.features // shape.width, *self.channels[:-1]]
        self.blocks = nn.Sequential(*(ResidualBlock(a, b) for a, b in zip(inputs, self.channels, strict=True)))
        self.linear = nn.Linear(self.channels[-1], len(targets))

    def forward_pooled(self, features: Tensor) -> Tensor:
        """Scores ``[B, classes]`` of pooled features ``[B, P]``."""
        sequence = self.standardise(features).unflatten(1, (-1, self.shape.width))
        return self.linear(self.blocks(sequence).mean(-1))
