"""Tensors as colour pictures for TensorBoard and reports."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

_GAP = 2
_HIDDEN = 40


def picture_grid(columns: Mapping[str, Tensor], low: float, high: float, scale: int = 3) -> npt.NDArray[np.uint8]:
    """Pictures side by side, one sample a row, one named column each; NaN is drawn dark grey.

    Args:
        columns: ``[B, F, T]`` each, rows from low to high frequency (drawn upwards).
        low: value drawn darkest.
        high: value drawn brightest.
        scale: screen pixels a cell.

    Returns:
        uint8 ``[height, width, 3]``.
    """
    rows = [
        np.concatenate([_coloured(values[i], low, high, scale) for values in columns.values()], axis=1)
        for i in range(len(next(iter(columns.values()))))
    ]
    return np.concatenate(rows, axis=0)


def save_picture(path: Any, picture: npt.NDArray[np.uint8]) -> None:
    """Write a picture ``[height, width, 3]`` as PNG."""
    from matplotlib.image import imsave

    imsave(path, picture, format="png")


def _coloured(values: Tensor, low: float, high: float, scale: int) -> npt.NDArray[np.uint8]:
    from matplotlib import colormaps

    cells = values.detach().float().cpu().numpy()[::-1]
    hidden = np.isnan(cells)
    level = (np.where(hidden, low, cells) - low) / (high - low)
    colours = (colormaps["viridis"](np.clip(level, 0, 1))[..., :3] * 255).astype(np.uint8)
    colours[hidden] = _HIDDEN
    drawn = colours.repeat(scale, 0).repeat(scale, 1)
    return np.pad(drawn, ((_GAP, _GAP), (_GAP, _GAP), (0, 0)), constant_values=255)
