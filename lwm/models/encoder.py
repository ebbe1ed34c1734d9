"""The spectrogram encoder: a ViT behind timm's contract, with its recipe and its statistics inside."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar, Self

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lwm.errors import ModelError
from lwm.models.attention import SelfAttention
from lwm.models.pooling import pool, pooled_features
from lwm.models.positions import resample_positions, sinusoidal_positions
from lwm.models.sizes import EncoderConfig, encoder_size
from lwm.models.stem import PatchPyramid
from lwm.signal.recipe import Recipe


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


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows ``index [B, K]`` of ``tokens [B, L, D]``, as ``[B, K, D]``."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


class SpectrogramEncoder(nn.Module):
    """ViT over spectrograms in dB.

    Normalisation with the model's own mean and standard deviation happens inside, so that nobody can feed it the
    wrong scale; both are buffers and travel with the weights. Pictures of another size than the recipe's go through
    the same weights: sines are computed for their grid, a learned table is resampled to it.

    Args:
        config: shape of the encoder.
        recipe: what its pictures are made with.
        mean: mean of the training data in dB.
        std: standard deviation of the training data in dB, > 0.

    Raises:
        ModelError: the recipe's picture cannot be cut into the config's patches.
    """

    model_type: ClassVar[str] = "encoder"
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
        self.num_prefix_tokens = config.num_prefix_tokens
        self.grid_size = (recipe.size[0] // config.patch, recipe.size[1] // config.patch)
        self.grad_checkpointing = False
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))
        self.patch_embed: nn.Module = (
            PatchPyramid(self.in_chans, config.patch, config.width)
            if config.stem == "pyramid"
            else nn.Linear(self.in_chans * config.patch**2, config.width)
        )
        length = self.grid_size[0] * self.grid_size[1]
        if config.position == "learned":
            self.positions = nn.Parameter(torch.empty(length, config.width))
        else:
            table = sinusoidal_positions(self.grid_size, config.width).clone()
            self.register_buffer("positions", table, persistent=False)
        if self.num_prefix_tokens:
            self.prefix = nn.Parameter(torch.empty(self.num_prefix_tokens, config.width))
        self.blocks = nn.ModuleList(
            transformer_block(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform matrices and zero biases; learned positions and prefix tokens start small (0.02)."""
        self.apply(init_linear)
        if isinstance(self.positions, nn.Parameter):
            nn.init.trunc_normal_(self.positions, std=0.02)
        if self.num_prefix_tokens:
            nn.init.normal_(self.prefix, std=0.02)

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
        """Tokens ``[B, P + L, D]`` of dB pictures ``[B, C, F, T]`` after the last norm, P prefix tokens first."""
        return self.norm(self._run(self._with_prefix(self.embed(x))))

    def forward_head(
        self, tokens: Tensor, pre_logits: bool = False, grid_size: tuple[int, int] | None = None
    ) -> Tensor:
        """Pooled features ``[B, head_features]`` of the patches' tokens.

        Args:
            tokens: ``[B, P + L, D]`` of :meth:`forward_features`.
            pre_logits: changes nothing, for there is no classifier.
            grid_size: rows and columns of the tokens when the picture had another size than the recipe's.
        """
        return pool(tokens[:, self.num_prefix_tokens :], grid_size or self.grid_size, self.config.pooling)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features ``[B, head_features]`` of dB pictures ``[B, C, F, T]``."""
        return self.forward_head(self.forward_features(x), grid_size=self.grid_of(x))

    def forward_intermediates(
        self, x: Tensor, indices: int | Sequence[int] | None = None, norm: bool = False
    ) -> list[Tensor]:
        """Tokens ``[B, P + L, D]`` after chosen blocks, in rising order.

        Args:
            x: dB pictures ``[B, C, F, T]``.
            indices: block numbers (negative from the end), a number of last blocks, or all.
            norm: apply the final norm to each.
        """
        wanted = block_indices(indices, self.depth)
        tokens, found = self._with_prefix(self.embed(x)), []
        for number, block in enumerate(self.blocks[: wanted[-1] + 1]):
            tokens = block(tokens)
            if number in wanted:
                found.append(self.norm(tokens) if norm else tokens)
        return found

    def encode_visible(self, x: Tensor, keep_index: Tensor) -> Tensor:
        """Tokens ``[B, P + K, D]`` of only the patches ``keep_index`` int64 ``[B, K]``; the rest is never looked at."""
        return self.norm(self._run(self._with_prefix(self.embed(x, keep_index))))

    def encode_masked(self, x: Tensor, masked: Tensor, mask_token: Tensor) -> Tensor:
        """Tokens ``[B, P + L, D]`` where the patches ``masked`` bool ``[B, L]`` enter as ``mask_token [D]``."""
        embedded = self.patch_embed(self._cast(self.patches(x)))
        tokens = torch.where(masked[..., None], mask_token.to(embedded.dtype), embedded)
        return self.norm(self._run(self._with_prefix(tokens + self.positions_on(self.grid_of(x)))))

    def grid_of(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of patches in pictures ``[B, C, F, T]``.

        Raises:
            ModelError: the picture has other channels than the encoder, or a side that the patch does not divide.
        """
        patch = self.config.patch
        if x.ndim != 4 or x.shape[1] != self.in_chans or x.shape[2] % patch or x.shape[3] % patch:
            raise ModelError(
                f"a picture of shape {tuple(x.shape[1:])}",
                f"{self.in_chans} channels and sides that the patch ({patch}) divides, as {tuple(self.recipe.size)} of"
                f" recipe {self.recipe.name!r} (channels, frequency, time)",
            )
        return x.shape[2] // patch, x.shape[3] // patch

    def patches(self, x: Tensor) -> Tensor:
        """Normalised patches ``[B, L, C*patch*patch]`` of dB pictures; ModelError as :meth:`grid_of`."""
        self.grid_of(x)
        return patchify(self.normalize(x), self.config.patch)

    def positions_on(self, grid_size: tuple[int, int]) -> Tensor:
        """Position table ``[L, D]`` of a grid, in the weights' type."""
        table = self.positions
        if grid_size != self.grid_size:
            if isinstance(table, nn.Parameter):
                table = resample_positions(table, self.grid_size, grid_size)
            else:
                table = sinusoidal_positions(grid_size, self.num_features).to(table.device)
        return self._cast(table)

    def embed(self, x: Tensor, keep_index: Tensor | None = None) -> Tensor:
        """Embedded patches with their positions: ``[B, L, D]``, or ``[B, K, D]`` of ``keep_index``."""
        patches, positions = self._cast(self.patches(x)), self.positions_on(self.grid_of(x))
        if keep_index is None:
            return self.patch_embed(patches) + positions
        # Gathered before they are embedded: a hidden patch costs nothing and cannot leak.
        return self.patch_embed(gather_tokens(patches, keep_index)) + positions[keep_index]

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(self.norm.weight.dtype)

    def _with_prefix(self, tokens: Tensor) -> Tensor:
        if not self.num_prefix_tokens:
            return tokens
        return torch.cat([self.prefix.to(tokens.dtype).expand(tokens.shape[0], -1, -1), tokens], dim=1)

    def _run(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return tokens

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's parameter groups for layer-wise learning rates."""
        return {"stem": r"^positions|^prefix|^patch_embed", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}

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


def transformer_block(width: int, heads: int, mlp_ratio: float) -> Block:
    """timm's pre-norm block with our choice of attention kernel."""
    return Block(width, heads, mlp_ratio=mlp_ratio, qkv_bias=True, attn_layer=SelfAttention)


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
