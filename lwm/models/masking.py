"""Which patches are hidden in masked modelling: exact counts, drawn from a seeded generator."""

from typing import Literal, get_args

import torch
from torch import Tensor

from lwm.errors import ConfigError, ModelError
from lwm.seeding import rng_for

MaskKind = Literal["random", "block", "time", "frequency"]


def masked_count(length: int, ratio: float) -> int:
    """Patches hidden out of ``length``: the nearest whole number to ``ratio * length``.

    Raises:
        ConfigError: ``ratio`` is not strictly between 0 and 1, or leaves no patch visible or none hidden.
    """
    if not 0 < ratio < 1:
        raise ConfigError(f"mask ratio {ratio}", "a share between 0 and 1, both excluded")
    hidden = round(length * ratio)
    if not 0 < hidden < length:
        raise ConfigError(
            f"mask ratio {ratio} hides {hidden} of {length} patches",
            "at least one hidden and one visible",
            "change the ratio or use a smaller patch",
        )
    return hidden


def draw_mask(
    kind: MaskKind, grid_size: tuple[int, int], ratio: float, batch: int, generator: torch.Generator
) -> Tensor:
    """Masks bool ``[B, L]``, True where a patch is hidden, with the same exact number hidden in each.

    ``"random"`` hides patches independently; ``"block"`` hides rectangles; ``"time"`` hides whole columns and
    ``"frequency"`` whole rows (one of them in part, where the count asks for it).

    Args:
        kind: shape of what is hidden.
        grid_size: rows (frequency) and columns (time) of the token grid.
        ratio: share of the patches to hide.
        batch: number of masks.
        generator: seeded generator on the CPU.
    """
    if kind not in get_args(MaskKind):
        raise ConfigError(f"mask {kind!r}", f"one of {list(get_args(MaskKind))}")
    rows, columns = grid_size
    hidden = masked_count(rows * columns, ratio)
    order = _priority(kind, rows, columns, batch, generator).flatten(1).argsort(1)
    mask = torch.zeros(batch, rows * columns, dtype=torch.bool)
    return mask.scatter_(1, order[:, :hidden], True)


def visible_index(mask: Tensor) -> Tensor:
    """Indices int64 ``[B, K]`` of the patches that ``mask [B, L]`` leaves visible, rising.

    Raises:
        ModelError: two rows hide different numbers of patches.
    """
    _require_even(mask)
    return (~mask).nonzero()[:, 1].reshape(mask.shape[0], -1)


def hidden_index(mask: Tensor) -> Tensor:
    """Indices int64 ``[B, M]`` of the patches that ``mask [B, L]`` hides, rising; ModelError as above."""
    _require_even(mask)
    return mask.nonzero()[:, 1].reshape(mask.shape[0], -1)


def _require_even(mask: Tensor) -> None:
    counts = mask.sum(1)
    least, most = int(counts.min()), int(counts.max())
    if least != most:
        raise ModelError(f"masks that hide {least} and {most} patches", "one number in a batch")


def cell_weight(mask: Tensor, valid: Tensor, patch: int, channels: int, grid_size: tuple[int, int]) -> Tensor:
    """Weights float32 ``[B, L, C*patch*patch]``: 1 on cells of chosen patches in real columns, else 0.

    Args:
        mask: bool ``[B, L]``, the patches that count.
        valid: bool ``[B, T]``, False where a short capture was padded.
        patch: patch side in cells.
        channels: channels of the picture.
        grid_size: rows and columns of the token grid.
    """
    rows, columns = grid_size
    real = valid.reshape(-1, 1, columns, 1, 1, patch).expand(-1, rows, -1, channels, patch, -1)
    return real.reshape(valid.shape[0], rows * columns, -1).float() * mask[..., None]


def _priority(kind: MaskKind, rows: int, columns: int, batch: int, generator: torch.Generator) -> Tensor:
    """Numbers ``[B, rows, columns]``; the smallest are hidden first."""
    jitter = torch.rand(batch, rows, columns, generator=generator)
    if kind == "random":
        return jitter
    if kind == "time":
        return jitter + columns * torch.rand(batch, 1, columns, generator=generator).argsort(-1)
    if kind == "frequency":
        return jitter + rows * torch.rand(batch, rows, 1, generator=generator).argsort(1)
    return _blocks(rows, columns, batch, generator) + jitter


def _blocks(rows: int, columns: int, batch: int, generator: torch.Generator) -> Tensor:
    """Number ``[B, rows, columns]`` of the first of many random rectangles that covers a patch.

    Hiding in that order hides rectangle after rectangle. Their sides are 1/8 to 1/2 of the grid's; 64 of them leave
    next to nothing uncovered, and what is left comes last.
    """
    count = 64
    covered = torch.ones(batch, count, rows, columns, dtype=torch.bool)
    for axis, size in ((2, rows), (3, columns)):
        low, high = max(1, size // 8), max(1, size // 2)
        side = torch.randint(low, high + 1, (batch, count), generator=generator)
        start = (torch.rand(batch, count, generator=generator) * (size - side + 1)).long()
        place = torch.arange(size)
        inside = (place >= start[..., None]) & (place < (start + side)[..., None])
        covered &= inside[:, :, :, None] if axis == 2 else inside[:, :, None, :]
    first = covered.int().argmax(1)
    return torch.where(covered.any(1), first, count).float()


def weighted_mse(prediction: Tensor, target: Tensor, weight: Tensor, total: Tensor | None = None) -> Tensor:
    """Squared error averaged over cells by ``weight`` (all ``[B, L, N]``); 0 when nothing counts.

    ``total`` is divided by instead of the sum of ``weight``, for example the mean of that sum over processes.
    """
    total = weight.sum() if total is None else total
    return ((prediction - target).square() * weight).sum() / total.clamp(min=1)


def generator_for(seed: int, *path: int | str) -> torch.Generator:
    """A CPU generator for one named draw: :func:`lwm.seeding.rng_for` for torch."""
    return torch.Generator().manual_seed(int(rng_for(seed, *path).integers(2**63)))


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation ``[B, L, 1]`` of every patch; the deviation is kept from zero as in MAE."""
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()
