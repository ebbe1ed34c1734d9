"""A plain timm ViT behind the encoder's contract, interchangeable with an expert."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lwm.errors import ConfigError, ModelError
from lwm.models.encoder import block_indices
from lwm.models.pooling import Pooling, pool, pooled_features
from lwm.signal.recipe import Recipe


@dataclass(frozen=True)
class TimmConfig:
    """Which timm ViT.

    Args:
        architecture: timm's name of a plain ViT, for example ``"vit_tiny_patch16_224"``.
        name: what the encoder is an expert of; empty when of nothing in particular.
        pooling: what :meth:`TimmEncoder.forward_head` gives.
        patch: side of a square patch in cells; the architecture's own when None.
    """

    architecture: str
    name: str = ""
    pooling: Pooling = "mean_spread"
    patch: int | None = None


class TimmEncoder(nn.Module):
    """timm's ``VisionTransformer`` with a recipe and statistics of its own; kept in model folders like the encoder.

    Args:
        config: which architecture.
        recipe: what its pictures are made with.
        mean: mean of the training data in dB.
        std: standard deviation of the training data in dB, > 0.

    Raises:
        ConfigError: timm has no such architecture.
        ModelError: it is no plain ViT, or its patch does not divide the recipe's picture.
    """

    model_type: ClassVar[str] = "timm"
    mean: Tensor
    std: Tensor

    def __init__(self, config: TimmConfig, recipe: Recipe, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        if not timm.is_model(config.architecture):
            raise ConfigError(f"no timm architecture {config.architecture!r}", "one that timm.list_models() lists")
        options: dict[str, Any] = {"img_size": tuple(recipe.size), "in_chans": recipe.in_chans, "num_classes": 0}
        if config.patch is not None:
            options["patch_size"] = config.patch
        _require_patch(config, recipe)
        try:
            vit = timm.create_model(config.architecture, pretrained=False, **options)
        except TypeError as error:
            raise ModelError(f"timm's {config.architecture} ({error})", "a plain ViT") from error
        if not isinstance(vit, VisionTransformer):
            raise ModelError(f"timm's {config.architecture} is a {type(vit).__name__}", "a VisionTransformer")
        self.config = config
        self.recipe = recipe
        self.vit = vit
        self.in_chans = recipe.in_chans
        self.num_features = int(vit.num_features)
        self.num_prefix_tokens = int(vit.num_prefix_tokens)
        rows, columns = vit.patch_embed.grid_size
        self.grid_size = (int(rows), int(columns))
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))

    @property
    def name(self) -> str:
        """What the encoder is an expert of."""
        return self.config.name

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.vit.blocks)

    @property
    def head_features(self) -> int:
        """Width of what :meth:`forward_head` gives."""
        return pooled_features(self.num_features, self.config.pooling)

    def normalize(self, x: Tensor) -> Tensor:
        """dB to zero mean and unit variance over the training data, then in the weights' type.

        Raises:
            ModelError: the shape is not the recipe's.
        """
        expected = (self.in_chans, *self.recipe.size)
        if tuple(x.shape[1:]) != expected:
            raise ModelError(
                f"a picture of shape {tuple(x.shape[1:])}",
                f"{expected} (channels, frequency, time) of recipe {self.recipe.name!r}",
            )
        return ((x - self.mean) / self.std).to(self.vit.patch_embed.proj.weight.dtype)

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens ``[B, P + L, D]`` of dB pictures ``[B, C, F, T]``, after the last norm, P prefix tokens first."""
        return self.vit.forward_features(self.normalize(x))

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooled features ``[B, head_features]`` of the patches' tokens; there is no classifier."""
        return pool(tokens[:, self.num_prefix_tokens :], self.grid_size, self.config.pooling)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features ``[B, head_features]`` of dB pictures ``[B, C, F, T]``."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self, x: Tensor, indices: int | Sequence[int] | None = None, norm: bool = False
    ) -> list[Tensor]:
        """Tokens ``[B, P + L, D]`` after chosen blocks, in rising order; see the encoder's."""
        found: Any = self.vit.forward_intermediates(
            self.normalize(x),
            indices=block_indices(indices, self.depth),
            return_prefix_tokens=self.num_prefix_tokens > 0,
            norm=norm,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return [torch.cat(part[::-1], dim=1) if isinstance(part, tuple) else part for part in found]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's parameter groups for layer-wise learning rates."""
        stem = r"^vit\.(?:cls_token|reg_token|pos_embed|patch_embed|norm_pre)"
        return {"stem": stem, "blocks": [(r"^vit\.blocks\.(\d+)", None), (r"^vit\.(?:fc_)?norm\.", (99999,))]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        self.vit.set_grad_checkpointing(enable)

    def get_config(self) -> dict[str, Any]:
        """JSON-able dict for :meth:`from_config`."""
        return asdict(self.config)

    @classmethod
    def from_config(cls, config: dict[str, Any], recipe: Recipe) -> Self:
        """An encoder of that architecture with fresh weights (statistics come with the weights)."""
        try:
            return cls(TimmConfig(**config), recipe)
        except TypeError as error:
            raise ModelError(f"timm encoder config {config} ({error})", "a config of this version of LWM") from error

    def golden(self, x: Tensor) -> Tensor:
        """What a model folder keeps to be checked later: pooled features of ``x``."""
        return self(x)


def _require_patch(config: TimmConfig, recipe: Recipe) -> None:
    """The patch's side divides the picture; read off a ViT without memory."""
    side = config.patch
    if side is None:
        with torch.device("meta"):
            model = timm.create_model(config.architecture, pretrained=False)
        if not isinstance(model, VisionTransformer):
            raise ModelError(f"timm's {config.architecture} is a {type(model).__name__}", "a VisionTransformer")
        side = int(model.patch_embed.patch_size[0])
    if any(length % side for length in recipe.size):
        raise ModelError(
            f"recipe {recipe.name!r} with pictures of {tuple(recipe.size)}", f"sides that the patch ({side}) divides"
        )
