"""Decoders of masked modelling; thrown away after pretraining."""

import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lwm.models.encoder import SpectrogramEncoder, init_linear, transformer_block
from lwm.models.positions import sinusoidal_positions
from lwm.models.sizes import DecoderConfig


class _Decoder(nn.Module):
    """What both decoders have: a way in, a mask token, positions, a norm and a way out."""

    positions: Tensor

    def __init__(self, encoder: SpectrogramEncoder, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.grid_size = encoder.grid_size
        self.num_prefix_tokens = encoder.num_prefix_tokens
        self.embed = nn.Linear(encoder.num_features, config.width)
        self.mask_token = nn.Parameter(torch.empty(config.width))
        table = sinusoidal_positions(encoder.grid_size, config.width).clone()
        self.register_buffer("positions", table, persistent=False)
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, encoder.in_chans * encoder.config.patch**2)

    def reset_parameters(self) -> None:
        """Xavier-uniform matrices, zero biases, a mask token of standard deviation 0.02."""
        self.apply(init_linear)
        nn.init.normal_(self.mask_token, std=0.02)

    def positions_on(self, grid_size: tuple[int, int] | None) -> Tensor:
        """Position table ``[L, width]`` of a grid (the encoder's own by default), in the weights' type."""
        table = self.positions
        if grid_size not in (None, self.grid_size):
            table = sinusoidal_positions(grid_size, self.config.width).to(table.device)
        return table.to(self.embed.weight.dtype)


class PatchDecoder(_Decoder):
    """Predicts every patch's cells from the tokens of the visible ones (masked autoencoder, He et al. 2022).

    Args:
        encoder: the encoder whose tokens it reads; only its shape is used.
        config: shape of the decoder.
    """

    def __init__(self, encoder: SpectrogramEncoder, config: DecoderConfig | None = None) -> None:
        super().__init__(encoder, config or DecoderConfig())
        shape = self.config
        self.blocks = nn.ModuleList(
            transformer_block(shape.width, shape.heads, shape.mlp_ratio) for _ in range(shape.depth)
        )
        self.reset_parameters()

    def forward(
        self, tokens: Tensor, keep_index: Tensor | None = None, grid_size: tuple[int, int] | None = None
    ) -> Tensor:
        """Predicted patches ``[B, L, C*patch*patch]`` in the encoder's normalised units.

        Args:
            tokens: ``[B, P + K, D]`` of the visible patches, or ``[B, P + L, D]`` of all, P prefix tokens first.
            keep_index: int64 ``[B, K]``, which patches they are; None when they are all.
            grid_size: rows and columns of all patches when they are not the encoder's own.
        """
        prefix, x = self.embed(tokens).tensor_split([self.num_prefix_tokens], dim=1)
        positions = self.positions_on(grid_size)
        if keep_index is not None:
            full = self.mask_token.to(x.dtype).expand(x.shape[0], positions.shape[0], -1)
            x = full.scatter(1, keep_index[..., None].expand(-1, -1, x.shape[-1]), x)
        x = x + positions
        if self.num_prefix_tokens:
            x = torch.cat([prefix, x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, self.num_prefix_tokens :]))


class CrossBlock(nn.Module):
    """Pre-norm block whose tokens attend to a context and not to each other.

    Args:
        width: token width, of the context too.
        heads: attention heads.
        mlp_ratio: hidden width of the feed-forward part in token widths.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Tokens ``[B, M, width]`` after looking at ``context [B, K, width]``."""
        query = self.query(self.norm1(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        seen = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.proj(seen)
        return x + self.mlp(self.norm2(x))


class CrossDecoder(_Decoder):
    """Predicts hidden patches only: each attends to the visible tokens, none to another hidden one (Fu et al. 2024).

    With a share r of L patches hidden an attention costs r (1 - r) L^2 instead of L^2.

    Args:
        encoder: the encoder whose tokens it reads; only its shape is used.
        config: shape of the decoder.
    """

    def __init__(self, encoder: SpectrogramEncoder, config: DecoderConfig) -> None:
        super().__init__(encoder, config)
        self.blocks = nn.ModuleList(
            CrossBlock(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.context_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.reset_parameters()

    def forward(self, tokens: Tensor, hidden: Tensor, grid_size: tuple[int, int] | None = None) -> Tensor:
        """Predicted hidden patches ``[B, M, C*patch*patch]`` in the encoder's normalised units.

        Args:
            tokens: ``[B, P + K, D]`` of prefix and visible patches; they bring their positions from the encoder.
            hidden: int64 ``[B, M]``, which patches to predict.
            grid_size: rows and columns of all patches when they are not the encoder's own.
        """
        context = self.context_norm(self.embed(tokens))
        x = self.mask_token.to(context.dtype) + self.positions_on(grid_size)[hidden]
        for block in self.blocks:
            x = block(x, context)
        return self.head(self.norm(x))


def build_decoder(encoder: SpectrogramEncoder, config: DecoderConfig) -> PatchDecoder | CrossDecoder:
    """The decoder that ``config.attention`` asks for."""
    return CrossDecoder(encoder, config) if config.attention == "cross" else PatchDecoder(encoder, config)
