"""The light decoder of masked modelling; thrown away after pretraining."""

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from lwm.models.encoder import SpectrogramEncoder, choose_attention, init_linear, sinusoidal_positions


class PatchDecoder(nn.Module):
    """Predicts every patch's cells from the tokens of the visible ones (masked autoencoder, He et al. 2021).

    As light as it can be: it sees four times as many tokens as the encoder does at a mask ratio of 0.75, and what it
    learns is lost.

    Args:
        encoder: the encoder whose tokens it reads; only its shape is used.
        width: token width of the decoder, a multiple of 32 (the width of one head).
        depth: number of blocks.
    """

    positions: Tensor

    def __init__(self, encoder: SpectrogramEncoder, width: int = 64, depth: int = 1) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder.num_features, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.register_buffer("positions", sinusoidal_positions(encoder.grid_size, width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, width // 32, mlp_ratio=2.0, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, encoder.in_chans * encoder.config.patch**2)
        self.apply(init_linear)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, keep_index: Tensor | None = None) -> Tensor:
        """Predicted patches ``[B, L, C*patch*patch]`` in the encoder's normalised units.

        Args:
            tokens: ``[B, K, D]`` of the visible patches, or ``[B, L, D]`` of all.
            keep_index: int64 ``[B, K]``, which patches they are; None when they are all.
        """
        x = self.embed(tokens)
        if keep_index is not None:
            full = self.mask_token.to(x.dtype).expand(x.shape[0], self.positions.shape[0], -1)
            x = full.scatter(1, keep_index[..., None].expand(-1, -1, x.shape[-1]), x)
        x = x + self.positions
        choose_attention(self.blocks, x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
