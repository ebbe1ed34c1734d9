"""What can be told from a picture without looking at it closely: the shortcuts that a label must not have.

Used twice: by the audit of every data set (:mod:`lwm.data.audit`), and as the yardstick that a model has to beat.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lwm.data.storage import level_range
from lwm.signal.recipe import Recipe

BINS = 10
"""Bins of the level histogram, spread over the recipe's floor to ceiling."""
OCCUPIED = 0.99
"""Share of the power inside the occupied bandwidth (ITU-R SM.328: half a percent is left out on either side)."""
GUARD = 1 / 16
"""Share of the rows on either side of the picture that is called its guard band."""

FAMILIES = {"level": slice(0, 1), "occupied bandwidth": slice(1, 2), "guard band": slice(2, 3)} | {
    "histogram": slice(3, 3 + BINS)
}
"""Columns of :func:`trivial_features` by what they measure."""


LEVELS = 16
"""Quantiles of each kind of difference between neighbours."""


def trivial_features(pictures: Tensor, valid: Tensor, recipe: Recipe) -> NDArray[np.float32]:
    """Level, occupied bandwidth, guard band and histogram of each picture, over its valid columns.

    Args:
        pictures: dB ``[B, C, F, T]``; the channels of a colour map are averaged and only the histogram means anything.
        valid: bool ``[B, T]``.
        recipe: what made the pictures.

    Returns:
        float32 ``[B, 3 + BINS]``: level (mean power in dB), occupied bandwidth (share of the sampled band), level of
        the outermost rows (mean of their dB; the :data:`GUARD` at either edge of the band), share of cells in each
        histogram bin.
    """
    low, high = level_range(recipe)
    grey = pictures.float().mean(1)
    if recipe.axes == "time-frequency":
        grey = grey.transpose(1, 2)
    if not recipe.fftshift:
        grey = grey.roll(grey.shape[1] // 2, 1)
    inside = valid[:, None, :].expand_as(grey)
    cells = inside.sum((1, 2)).clamp(min=1)
    power = torch.pow(10.0, grey / 10) * inside
    level = 10 * torch.log10(power.sum((1, 2)) / cells + 1e-12)
    row = power.sum(2) / power.sum((1, 2), keepdim=True)[:, 0].clamp(min=1e-30)
    below = row.cumsum(1)
    edge = (1 - OCCUPIED) / 2
    occupied = ((below > edge) & (below - row < 1 - edge)).float().mean(1)
    rows = max(1, round(GUARD * grey.shape[1]))
    outer = torch.cat([grey[:, :rows], grey[:, -rows:]], 1)
    guard = (outer * inside[:, : 2 * rows]).sum((1, 2)) / (2 * rows * valid.sum(1)).clamp(min=1)
    place = ((grey - low) / (high - low) * BINS).long().clamp(0, BINS - 1)
    counts = torch.zeros(len(grey), BINS).scatter_add_(1, place.flatten(1), inside.flatten(1).float())
    return torch.cat([torch.stack([level, occupied, guard], 1), counts / cells[:, None]], dim=1).numpy()


def local_features(pictures: Tensor, valid: Tensor, recipe: Recipe) -> NDArray[np.float32]:
    """:func:`trivial_features` and how much neighbouring cells differ: a stronger yardstick that still learns nothing.

    Args:
        pictures: dB ``[B, C, F, T]``; the channels of a colour map are averaged.
        valid: bool ``[B, T]``.
        recipe: what made the pictures.

    Returns:
        float32 ``[B, 3 + BINS + 4 * LEVELS]``: the trivial features, then quantiles over the picture of mean and
        standard deviation of each square of 2 x 2 cells and of the steps from cell to cell along either axis, in dB.
    """
    grey = pictures.float().mean(1)
    real = valid[:, None, :] if recipe.axes == "frequency-time" else valid[:, :, None]
    real = real.expand_as(grey)
    rows, columns = (side // 2 * 2 for side in grey.shape[1:])
    squares, whole = (x[:, :rows, :columns].unfold(1, 2, 2).unfold(2, 2, 2).flatten(3) for x in (grey, real))
    maps = [(squares.mean(-1), whole.all(-1)), (squares.std(-1), whole.all(-1))]
    for axis in (1, 2):
        count = grey.shape[axis]
        step = grey.narrow(axis, 1, count - 1) - grey.narrow(axis, 0, count - 1)
        maps.append((step.abs(), real.narrow(axis, 1, count - 1) & real.narrow(axis, 0, count - 1)))
    found = [_quantiles(values.flatten(1), counted.flatten(1)) for values, counted in maps]
    return np.concatenate([trivial_features(pictures, valid, recipe), *(q.numpy() for q in found)], axis=1)


def _quantiles(values: Tensor, counted: Tensor) -> Tensor:
    """Quantiles ``[B, LEVELS]`` of what counts in each row of ``values [B, N]``; zeros where nothing does."""
    count = counted.sum(1, keepdim=True)
    ordered = values.masked_fill(~counted, torch.inf).sort(1).values
    place = (torch.arange(LEVELS) + 0.5) / LEVELS * (count - 1).clamp(min=0)
    return ordered.gather(1, place.round().long()).masked_fill(count == 0, 0.0)
