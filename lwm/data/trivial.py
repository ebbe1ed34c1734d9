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
