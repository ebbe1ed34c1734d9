"""The router: a Transformer a few per cent of an expert's size that says which expert a spectrogram belongs to."""

from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from lwm.errors import ModelError
from lwm.models.encoder import EncoderConfig, SpectrogramEncoder
from lwm.models.pooling import pool
from lwm.signal.recipe import Recipe


@dataclass(frozen=True)
class RouterConfig:
    """Shape of a router.

    Args:
        names: the experts, in the order of the outputs.
        grid: patches along each side of the picture. Coarse on purpose: 8 x 8 tokens instead of the experts' 16 x 16
            or 32 x 32 keep the router's cost at a few per cent of an expert's.
        width: token width.
        depth: number of blocks; two in LWM-Spectro.
        heads: attention heads a block.
    """

    names: tuple[str, ...]
    grid: int = 8
    width: int = 64
    depth: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if len(self.names) < 2 or len(set(self.names)) != len(self.names) or not all(self.names):
            raise ModelError(f"a router between experts named {list(self.names)}", "two or more different names")


class Router(nn.Module):
    """Two Transformer blocks on coarse patches, mean pooling, one logit an expert.

    Args:
        config: shape and expert names.
        recipe: what the pictures are made with.
        mean: mean of the training data in dB.
        std: standard deviation of the training data in dB.
    """

    def __init__(self, config: RouterConfig, recipe: Recipe, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        if recipe.size[0] != recipe.size[1] or recipe.size[0] % config.grid:
            raise ModelError(
                f"recipe {recipe.name!r} with pictures of {recipe.size}", f"a square that {config.grid} divides"
            )
        self.config = config
        shape = EncoderConfig(
            patch=recipe.size[0] // config.grid, width=config.width, depth=config.depth, heads=config.heads
        )
        self.trunk = SpectrogramEncoder(shape, recipe, mean, std)
        self.head = nn.Linear(config.width, len(config.names))

    @property
    def names(self) -> tuple[str, ...]:
        """Experts in the order of the outputs."""
        return self.config.names

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, E]`` of dB pictures ``[B, C, F, T]``."""
        return self.head(pool(self.trunk.forward_features(x), self.trunk.grid_size, "mean"))

    def probabilities(self, x: Tensor) -> Tensor:
        """Softmax of the logits, float32 ``[B, E]``."""
        return torch.softmax(self(x).float(), dim=-1)

    def get_config(self) -> dict[str, Any]:
        """JSON-able dict for :meth:`from_config`."""
        return asdict(self.config) | {"names": list(self.names)}

    @classmethod
    def from_config(cls, config: dict[str, Any], recipe: Recipe) -> Self:
        """A router of that shape with fresh weights."""
        return cls(RouterConfig(**config), recipe)
