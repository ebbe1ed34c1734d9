"""Positions of patches on a grid: fixed sines, or a learned table brought to another grid."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate


@lru_cache(maxsize=32)
def sinusoidal_positions(grid_size: tuple[int, int], width: int) -> Tensor:
    """2-D sine-cosine table float32 ``[L, width]``: half the width for the row, half for the column (as in MAE).

    The table of a grid and width is made once and shared: do not write into it.
    """
    quarter = width // 4
    rate = np.exp(-math.log(10_000.0) * np.arange(quarter) / quarter)
    row, column = np.meshgrid(*(np.arange(n) for n in grid_size), indexing="ij")
    angles = [axis.reshape(-1, 1) * rate for axis in (row, column)]
    table = np.concatenate([part for angle in angles for part in (np.sin(angle), np.cos(angle))], axis=1)
    return torch.from_numpy(table.astype(np.float32))


def resample_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """A table ``[L_old, D]`` on grid ``old`` brought to grid ``new`` by bicubic interpolation: ``[L_new, D]``."""
    if old == new:
        return table
    picture = table.reshape(1, *old, -1).permute(0, 3, 1, 2).float()
    resampled = interpolate(picture, size=new, mode="bicubic", antialias=True, align_corners=False)
    return resampled.permute(0, 2, 3, 1).reshape(new[0] * new[1], -1).to(table.dtype)
