"""The spectrogram encoder: a ViT behind timm's contract, with its recipe and its statistics inside."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lwm.errors import ConfigError, ModelError
from lwm.models.pooling import Pooling, pool, pooled_features
from lwm.signal.recipe import Recipe


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of an encoder; the picture's size and channels are the recipe's.

    Args:
        name: what the encoder is an expert of, for example ``"lte"``; empty when of nothing in particular.
        patch: side of a square patch in cells; divides both sides of the recipe's picture.
        width: token width D; a multiple of 4 and of ``heads``.
        depth: number of Transformer blocks.
        heads: attention heads a block.
        mlp_ratio: hidden width of the feed-forward part in token widths.
        position: fixed 2-D sines, or a learned table that starts at standard deviation 0.02.
        pooling: what :meth:`SpectrogramEncoder.forward_head` gives.
    """

    name: str = ""
    patch: int = 4
    width: int = 128
    depth: int = 6
    heads: int = 8
    mlp_ratio: float = 4.0
    position: Literal["sinusoidal", "learned"] = "sinusoidal"
    pooling: Pooling = "mean_spread"

    def __post_init__(self) -> None:
        if min(self.patch, self.width, self.depth, self.heads) < 1 or self.width % 4 or self.width % self.heads:
            raise ConfigError(
                f"encoder with patch {self.patch}, width {self.width}, depth {self.depth}, heads {self.heads}",
                "positive sizes and a width that 4 and the number of heads divide",
            )

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """Config from ``asdict``; an unknown field is a ModelError that names it."""
        unknown = sorted(set(plain) - {f.name for f in fields(cls)})
        if unknown:
            raise ModelError(f"encoder config with unknown fields {unknown}", "a config of this version of LWM")
        return cls(**plain)


# `lwm` has the published LWM-Spectro expert's figures (128x128 picture), `small` half its depth; `tiny` is for tests.
ENCODER_SIZES: dict[str, EncoderConfig] = {
    "tiny": EncoderConfig(patch=16, width=32, depth=2, heads=4),
    "small": EncoderConfig(patch=4, width=128, depth=6, heads=8),
    "lwm": EncoderConfig(patch=4, width=128, depth=12, heads=8),
}


def encoder_size(name: str) -> EncoderConfig:
    """The size called ``name``; ConfigError lists those that exist."""
    try:
        return ENCODER_SIZES[name]
    except KeyError:
        raise ConfigError(f"no encoder size named {name!r}", f"one of {sorted(ENCODER_SIZES)}") from None


def patchify(x: Tensor, patch: int) -> Tensor:
    """Cut pictures ``[B, C, F, T]`` into ``[B, L, C*patch*patch]``, row (frequency) by row, time running fastest."""
    batch, channels, rows, columns = x.shape
    x = x.reshape(batch, channels, rows // patch, patch, columns // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch * patch)


def unpatchify(patches: Tensor, patch: int, grid_size: tuple[int, int]) -> Tensor:
    """Inverse of :func:`patchify`: ``[B, L, C*patch*patch]`` to ``[B, C, F, T]``."""
    rows, columns = grid_size
    x = patches.reshape(patches.shape[0], rows, columns, -1, patch, patch)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(patches.shape[0], -1, rows * patch, columns * patch)


def sinusoidal_positions(grid_size: tuple[int, int], width: int) -> Tensor:
    """2-D sine-cosine table ``[L, width]``: half the width for the row, half for the column (as in MAE)."""
    quarter = width // 4
    rate = np.exp(-math.log(10_000.0) * np.arange(quarter) / quarter)
    row, column = np.meshgrid(*(np.arange(n) for n in grid_size), indexing="ij")
    angles = [axis.reshape(-1, 1) * rate for axis in (row, column)]
    table = np.concatenate([part for angle in angles for part in (np.sin(angle), np.cos(angle))], axis=1)
    return torch.from_numpy(table.astype(np.float32))


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows ``index [B, K]`` of ``tokens [B, L, D]``, as ``[B, K, D]``."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


class SpectrogramEncoder(nn.Module):
    """ViT over spectrograms in dB, without a class token.

    Normalisation with the model's own mean and standard deviation happens inside, so that nobody can feed it the
    wrong scale; both are buffers and travel with the weights.

    Args:
        config: shape of the encoder.
        recipe: what its pictures are made with.
        mean: mean of the training data in dB.
        std: standard deviation of the training data in dB, > 0.

    Raises:
        ModelError: the recipe's picture cannot be cut into the config's patches.
    """

    model_type: ClassVar[str] = "encoder"
    num_prefix_tokens: ClassVar[int] = 0
    mean: Tensor
    std: Tensor
    positions: Tensor

    def __init__(self, config: EncoderConfig, recipe: Recipe, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        _require_patches(config, recipe)
        self.config = config
        self.recipe = recipe
        self.in_chans = recipe.in_chans
        self.num_features = config.width
        self.grid_size = (recipe.size[0] // config.patch, recipe.size[1] // config.patch)
        self.grad_checkpointing = False
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))
        self.patch_embed = nn.Linear(self.in_chans * config.patch**2, config.width)
        length = self.grid_size[0] * self.grid_size[1]
        if config.position == "learned":
            self.positions = nn.Parameter(torch.empty(length, config.width))
        else:
            self.register_buffer("positions", sinusoidal_positions(self.grid_size, config.width), persistent=False)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, mlp_ratio=config.mlp_ratio, qkv_bias=True) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform matrices and zero biases; a learned position table starts small (0.02)."""
        self.apply(init_linear)
        if isinstance(self.positions, nn.Parameter):
            nn.init.trunc_normal_(self.positions, std=0.02)

    @property
    def name(self) -> str:
        """What the encoder is an expert of."""
        return self.config.name

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.config.depth

    @property
    def head_features(self) -> int:
        """Width of what :meth:`forward_head` gives."""
        return pooled_features(self.num_features, self.config.pooling)

    def normalize(self, x: Tensor) -> Tensor:
        """dB to zero mean and unit variance over the training data."""
        return (x - self.mean) / self.std

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens ``[B, L, D]`` of dB pictures ``[B, C, F, T]``, after the last norm."""
        return self.norm(self._run(self.embed(x)))

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooled features ``[B, head_features]``; there is no classifier, so ``pre_logits`` changes nothing."""
        return pool(tokens, self.grid_size, self.config.pooling)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features ``[B, head_features]`` of dB pictures ``[B, C, F, T]``."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self, x: Tensor, indices: int | Sequence[int] | None = None, norm: bool = False
    ) -> list[Tensor]:
        """Tokens ``[B, L, D]`` after chosen blocks, in rising order.

        Args:
            x: dB pictures ``[B, C, F, T]``.
            indices: block numbers (negative from the end), a number of last blocks, or all.
            norm: apply the final norm to each.
        """
        wanted = block_indices(indices, self.depth)
        tokens, found = self.embed(x), []
        choose_attention(self.blocks, tokens)
        for number, block in enumerate(self.blocks[: wanted[-1] + 1]):
            tokens = block(tokens)
            if number in wanted:
                found.append(self.norm(tokens) if norm else tokens)
        return found

    def encode_visible(self, x: Tensor, keep_index: Tensor) -> Tensor:
        """Tokens ``[B, K, D]`` of only the patches ``keep_index`` int64 ``[B, K]``; the rest is never looked at."""
        return self.norm(self._run(self.embed(x, keep_index)))

    def encode_masked(self, x: Tensor, masked: Tensor, mask_token: Tensor) -> Tensor:
        """Tokens ``[B, L, D]`` where the patches ``masked`` bool ``[B, L]`` enter as ``mask_token [D]``."""
        tokens = torch.where(masked[..., None], mask_token.to(x.dtype), self.patch_embed(self.patches(x)))
        return self.norm(self._run(tokens + self.positions))

    def patches(self, x: Tensor) -> Tensor:
        """Normalised patches ``[B, L, C*patch*patch]`` of dB pictures; ModelError when the picture's shape is wrong."""
        expected = (self.in_chans, *self.recipe.size)
        if tuple(x.shape[1:]) != expected:
            raise ModelError(
                f"a picture of shape {tuple(x.shape[1:])}",
                f"{expected} (channels, frequency, time) of recipe {self.recipe.name!r}",
            )
        return patchify(self.normalize(x), self.config.patch)

    def embed(self, x: Tensor, keep_index: Tensor | None = None) -> Tensor:
        """Embedded patches with their positions: ``[B, L, D]``, or ``[B, K, D]`` of ``keep_index``."""
        patches = self.patches(x)
        if keep_index is None:
            return self.patch_embed(patches) + self.positions
        return self.patch_embed(gather_tokens(patches, keep_index)) + self.positions[keep_index]

    def _run(self, tokens: Tensor) -> Tensor:
        choose_attention(self.blocks, tokens)
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return tokens

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's parameter groups for layer-wise learning rates."""
        return {"stem": r"^positions|^patch_embed", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        self.grad_checkpointing = enable

    def get_config(self) -> dict[str, Any]:
        """JSON-able dict for :meth:`from_config`."""
        return asdict(self.config)

    @classmethod
    def from_config(cls, config: dict[str, Any], recipe: Recipe) -> Self:
        """An encoder of that shape with fresh weights (statistics come with the weights)."""
        return cls(EncoderConfig.from_dict(config), recipe)

    def golden(self, x: Tensor) -> Tensor:
        """What a model folder keeps to be checked later: pooled features of ``x``."""
        return self(x)


def build_encoder(
    size: str, recipe: Recipe, mean: float = 0.0, std: float = 1.0, name: str = "", seed: int | None = None
) -> SpectrogramEncoder:
    """A fresh encoder of a named size; with ``seed`` the weights depend on nothing else."""
    config = replace(encoder_size(size), name=name)
    if seed is None:
        return SpectrogramEncoder(config, recipe, mean, std)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SpectrogramEncoder(config, recipe, mean, std)


def block_indices(indices: int | Sequence[int] | None, depth: int) -> list[int]:
    """Sorted block numbers from timm's ``indices``; ModelError when one does not exist."""
    if indices is None:
        return list(range(depth))
    chosen = range(-indices, 0) if isinstance(indices, int) else indices
    if not len(chosen) or any(not -depth <= number < depth for number in chosen):
        raise ModelError(f"block indices {indices}", f"block numbers between {-depth} and {depth - 1}")
    return sorted({number % depth for number in chosen})


def choose_attention(blocks: Iterable[nn.Module], tokens: Tensor) -> None:
    """Set timm's fused attention on or off in ``blocks``, whichever is faster for what comes.

    Fused everywhere but in bfloat16 training on a CPU: there the backward pass of torch's fused kernel takes ten times
    as long as plain matrix products (measured at 64 tokens, 8 heads of 16) and more than all the rest of the step.
    """
    slow = tokens.device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
    for block in blocks:
        block.attn.fused_attn = not slow  # type: ignore[union-attr]


def init_linear(module: nn.Module) -> None:
    """Xavier-uniform weight and zero bias for a linear layer; leaves everything else alone."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _require_patches(config: EncoderConfig, recipe: Recipe) -> None:
    if any(side % config.patch for side in recipe.size):
        raise ModelError(
            f"recipe {recipe.name!r} with pictures of {recipe.size}", f"sides that the patch ({config.patch}) divides"
        )
    if recipe.axes != "frequency-time":
        raise ModelError(f"recipe {recipe.name!r} with axes {recipe.axes}", "frequency-time")
