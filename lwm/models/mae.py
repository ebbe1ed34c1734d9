"""Masked spectrogram modelling as one module: encoder, decoder, masks, targets, loss."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from lwm.errors import ConfigError, ModelError
from lwm.models.decoder import CrossDecoder, build_decoder
from lwm.models.encoder import SpectrogramEncoder, gather_tokens, unpatchify
from lwm.models.masking import (
    MaskKind,
    cell_weight,
    draw_mask,
    hidden_index,
    masked_count,
    patch_statistics,
    visible_index,
    weighted_mse,
)
from lwm.models.sizes import DecoderConfig


@dataclass(frozen=True)
class MaskedConfig:
    """What is hidden, how, and what counts.

    Args:
        mode: ``drop`` sends only visible patches through the encoder (MAE, arXiv 2411.09996); ``replace`` puts a
            learned embedding in place of hidden ones (LWM-Spectro, arXiv 2601.08780): several times the work.
        mask: shape of what is hidden: scattered patches, rectangles, time strips or frequency strips.
        mask_ratio: share of the patches hidden.
        loss_on: ``masked`` patches only, or ``all`` (of use when the target is not the input).
        normalize_target: standardise every target patch by its own mean and deviation.
    """

    mode: Literal["drop", "replace"] = "drop"
    mask: MaskKind = "random"
    mask_ratio: float = 0.75
    loss_on: Literal["masked", "all"] = "masked"
    normalize_target: bool = False

    def __post_init__(self) -> None:
        for what, value, allowed in (
            ("mode", self.mode, ("drop", "replace")),
            ("mask", self.mask, get_args(MaskKind)),
            ("loss_on", self.loss_on, ("masked", "all")),
        ):
            if value not in allowed:
                raise ConfigError(f"{what} {value!r}", f"one of {list(allowed)}")


class MaskedOutput(NamedTuple):
    """Result of :class:`MaskedAutoencoder`.

    ``loss``: scalar float32. ``prediction`` and ``target``: float32 ``[B, N, C*patch*patch]`` in the encoder's
    normalised units (the target standardised if asked), N the patches of ``patch_index`` int64 ``[B, N]``: all, or
    the hidden ones where the decoder gives no others.
    """

    loss: Tensor
    prediction: Tensor
    target: Tensor
    patch_index: Tensor


class MaskedAutoencoder(nn.Module):
    """Encoder and decoder of masked modelling.

    Args:
        encoder: what is to be pretrained.
        decoder: shape of the decoder; the light default when None.
        config: what is hidden and what counts.

    Raises:
        ConfigError: the ratio leaves no patch hidden or none visible, or a cross-attention decoder, which sees and
            predicts nothing but hidden patches, meets ``replace`` or a loss on all patches.
    """

    def __init__(
        self, encoder: SpectrogramEncoder, decoder: DecoderConfig | None = None, config: MaskedConfig | None = None
    ) -> None:
        super().__init__()
        self.config = config or MaskedConfig()
        masked_count(encoder.grid_size[0] * encoder.grid_size[1], self.config.mask_ratio)
        shape = decoder or DecoderConfig()
        if shape.attention == "cross" and (self.config.mode, self.config.loss_on) != ("drop", "masked"):
            raise ConfigError(
                f"a cross-attention decoder with mode {self.config.mode!r} and loss_on {self.config.loss_on!r}",
                "mode 'drop' and loss_on 'masked'",
            )
        self.encoder = encoder
        self.decoder = build_decoder(encoder, shape)
        if self.config.mode == "replace":
            self.mask_token = nn.Parameter(torch.randn(encoder.num_features) * 0.02)

    def draw(self, batch: int, generator: torch.Generator, grid_size: tuple[int, int] | None = None) -> Tensor:
        """Masks bool ``[B, L]`` on the CPU, True where hidden, exactly as many in each row as the ratio says."""
        grid = grid_size or self.encoder.grid_size
        return draw_mask(self.config.mask, grid, self.config.mask_ratio, batch, generator)

    def encode(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens ``[B, P + N, D]`` of what may be seen, P prefix tokens first.

        Args:
            x: dB pictures ``[B, C, F, T]``.
            mask: bool ``[B, L]``, True where hidden; those cells are not looked at.

        Returns:
            The tokens, and int64 ``[B, N]`` of the visible patches they are of, or None when of all.

        Raises:
            ModelError: the mask is not of the picture's grid, or its rows hide different numbers of patches.
        """
        grid = self.encoder.grid_of(x)
        if mask.shape != (x.shape[0], grid[0] * grid[1]):
            raise ModelError(f"a mask of shape {tuple(mask.shape)}", f"{(x.shape[0], grid[0] * grid[1])}")
        if self.config.mode == "replace":
            return self.encoder.encode_masked(x, mask, self.mask_token), None
        visible = visible_index(mask)
        return self.encoder.encode_visible(x, visible), visible

    def decode(
        self, tokens: Tensor, visible: Tensor | None, mask: Tensor, grid_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None]:
        """Predicted patches float32 ``[B, N, C*patch*patch]`` and which they are.

        Args:
            tokens: of :meth:`encode`.
            visible: which patches they are of, as :meth:`encode` says.
            mask: bool ``[B, L]``, True where hidden.
            grid_size: rows and columns of all patches.

        Returns:
            The prediction, and int64 ``[B, N]`` of the hidden patches it is for, or None when for all.
        """
        if isinstance(self.decoder, CrossDecoder):
            hidden = hidden_index(mask)
            return self.decoder(tokens, hidden, grid_size).float(), hidden
        return self.decoder(tokens, visible, grid_size).float(), None

    def predict(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """:meth:`decode` of :meth:`encode`: predicted patches of dB pictures, and which they are (None: all)."""
        tokens, visible = self.encode(x, mask)
        return self.decode(tokens, visible, mask, self.encoder.grid_of(x))

    def target_of(self, picture: Tensor) -> Tensor:
        """Patches float32 ``[B, L, C*patch*patch]`` to be predicted of dB pictures ``[B, C, F, T]``."""
        patches = self.encoder.patches(picture)
        if self.config.normalize_target:
            mean, deviation = patch_statistics(patches)
            patches = (patches - mean) / deviation
        return patches

    def weight_of(self, mask: Tensor, valid: Tensor, grid_size: tuple[int, int]) -> Tensor:
        """What counts in the loss, float32 ``[B, L, C*patch*patch]``: 1 or 0.

        Args:
            mask: bool ``[B, L]``, True where hidden.
            valid: bool ``[B, T]``, False in padded columns.
            grid_size: rows and columns of the patches.
        """
        counted = torch.ones_like(mask) if self.config.loss_on == "all" else mask
        return cell_weight(counted, valid, self.encoder.config.patch, self.encoder.in_chans, grid_size)

    def forward(
        self, x: Tensor, mask: Tensor, target: Tensor | None = None, valid: Tensor | None = None
    ) -> MaskedOutput:
        """Loss of one batch.

        Args:
            x: dB pictures ``[B, C, F, T]``.
            mask: bool ``[B, L]``, True where hidden.
            target: dB pictures to predict, for example without noise; ``x`` itself by default.
            valid: bool ``[B, T]``, False in padded columns, which count nothing; all real by default.
        """
        prediction, index = self.predict(x, mask)
        wanted = self.target_of(x if target is None else target)
        if valid is None:
            valid = mask.new_ones(x.shape[0], x.shape[-1])
        weight = self.weight_of(mask, valid, self.encoder.grid_of(x))
        wanted, weight = at_places(index, wanted, weight)
        if index is None:
            index = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape[0], -1)
        return MaskedOutput(weighted_mse(prediction, wanted, weight), prediction, wanted, index)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, mask: Tensor, target: Tensor | None = None) -> Tensor:
        """Pictures in dB ``[B, C, F, T]``: the prediction, and the input wherever nothing is predicted.

        Args:
            x: dB pictures ``[B, C, F, T]``.
            mask: bool ``[B, L]``, True where hidden.
            target: dB pictures whose patch statistics undo a standardised target; ``x`` by default.
        """
        encoder = self.encoder
        prediction, index = self.predict(x, mask)
        patches = encoder.patches(x)
        if index is not None:
            places = index[..., None].expand_as(prediction)
            prediction = patches.scatter(1, places, prediction)
        if self.config.normalize_target:
            mean, deviation = patch_statistics(encoder.patches(x if target is None else target))
            prediction = prediction * deviation + mean
        if self.config.loss_on == "masked":
            prediction = torch.where(mask[..., None], prediction, patches)
        return unpatchify(prediction, encoder.config.patch, encoder.grid_of(x)) * encoder.std + encoder.mean


def at_places(index: Tensor | None, wanted: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Target and weight (both ``[B, L, K]``) of the patches ``index`` int64 ``[B, N]``; as they are when None."""
    if index is None:
        return wanted, weight
    return gather_tokens(wanted, index), gather_tokens(weight, index)
