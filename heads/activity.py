"""Human activity from Wi-Fi CSI with an encoder of spectrograms (arXiv 2411.09996, section III-C)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from heads.pooled import PooledClassifier, PoolingKind, zero_linear
from lwm.errors import ConfigError, ModelError
from lwm.models.encoder import SpectrogramEncoder
from lwm.models.head import TokenShape
from lwm.models.positions import resample_positions
from lwm.models.stem import share_channels


class ActivityHead(PooledClassifier):
    """One linear layer on pooled tokens with label smoothing, and an encoder adapted to CSI pictures.

    Build it for the adapted encoder's tokens::

        encoder = adapt_encoder(pretrained, csi_recipe, (mean, std))
        head = ActivityHead(TokenShape.of(encoder), classes)

    Args:
        shape: tokens that it is built for.
        targets: activities.
        pooling: how tokens become one vector; motion lies in the spread over time.
        smoothing: label smoothing of the cross-entropy.
        attention_heads: of learned pooling.
    """

    head_type: ClassVar[str] = "activity"

    def __init__(
        self,
        shape: TokenShape,
        targets: Sequence[str],
        pooling: PoolingKind = "mean_spread",
        smoothing: float = 0.1,
        attention_heads: int = 4,
    ) -> None:
        super().__init__(shape, targets, smoothing, pooling, attention_heads)
        self.linear = zero_linear(self.features, len(targets))

    def forward_pooled(self, features: Tensor) -> Tensor:
        """Scores ``[B, classes]`` of pooled features ``[B, P]``."""
        return self.linear(self.standardise(features))

    @classmethod
    def prepare_encoder(cls, encoder: Any, recipe: Any, statistics: tuple[float, float]) -> nn.Module:
        """A copy of the encoder that takes CSI pictures; see :func:`adapt_encoder`."""
        return adapt_encoder(encoder, recipe, statistics)


def adapt_encoder(encoder: nn.Module, recipe: Any, statistics: tuple[float, float]) -> SpectrogramEncoder:
    """A copy of an encoder for pictures of another recipe: other channels, another size, another level.

    Blocks, norm and prefix tokens are the same. The patch embedding's weights are summed over the old channels and
    divided among the new, so that the same picture in every channel embeds as it did; learned positions are resampled
    to the new grid, sines computed for it; the patch stays. The original is not changed, the copy is in evaluation
    mode.

    Args:
        encoder: a spectrogram encoder.
        recipe: of the new pictures.
        statistics: mean and standard deviation (> 0) of the new training pictures in dB.

    Raises:
        ModelError: an encoder of another kind, or pictures that its patch does not divide.
        ConfigError: statistics that are not finite, or no deviation.
    """
    if not isinstance(encoder, SpectrogramEncoder):
        raise ModelError(f"a {type(encoder).__name__} for pictures of recipe {recipe.name!r}", "a spectrogram encoder")
    mean, std = statistics
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ConfigError(f"statistics {statistics}", "a finite mean and a deviation above 0, in dB")
    twin = SpectrogramEncoder(replace(encoder.config), recipe, mean, std)
    weights = {name: value.detach().clone() for name, value in encoder.state_dict().items()}
    weights |= {name: twin.state_dict()[name] for name in ("mean", "std")}
    if encoder.in_chans != twin.in_chans:
        share_channels(weights, encoder.in_chans, twin.in_chans)
    if isinstance(encoder.positions, nn.Parameter):
        weights["positions"] = resample_positions(weights["positions"], encoder.grid_size, twin.grid_size)
    twin.load_state_dict(weights, strict=True)
    first = next(encoder.parameters())
    return twin.to(device=first.device, dtype=first.dtype).eval()
