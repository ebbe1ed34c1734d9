"""From tokens to one vector: the mean, or the mean beside the spread over time and frequency."""

from typing import Literal, get_args

import torch
from torch import Tensor

from lwm.errors import ConfigError

Pooling = Literal["mean", "mean_spread"]

# Keeps the root's gradient finite where a row of tokens does not vary.
_VARIANCE_FLOOR = 1e-8


def pooled_features(num_features: int, kind: Pooling = "mean_spread") -> int:
    """Width of what :func:`pool` gives for tokens of width ``num_features``."""
    return num_features * (3 if kind == "mean_spread" else 1)


def pool(tokens: Tensor, grid_size: tuple[int, int], kind: Pooling = "mean_spread") -> Tensor:
    """One vector a sample.

    ``"mean_spread"`` joins the mean over all tokens, the standard deviation along time (taken in every frequency
    row, then averaged over rows) and the standard deviation along frequency (in every column, averaged over
    columns). The mean alone loses how fast a channel fades: mobility lives in the spread over time.

    Args:
        tokens: ``[B, L, D]`` without prefix tokens, row by row.
        grid_size: rows (frequency) and columns (time) with rows * columns = L.
        kind: ``"mean"`` or ``"mean_spread"``.

    Returns:
        ``[B, D]`` or ``[B, 3 D]``.
    """
    if kind not in get_args(Pooling):
        raise ConfigError(f"pooling {kind!r}", f"one of {list(get_args(Pooling))}")
    mean = tokens.mean(1)
    if kind == "mean":
        return mean
    grid = tokens.unflatten(1, grid_size)
    over_time = _spread(grid, 2).mean(1)
    over_frequency = _spread(grid, 1).mean(1)
    return torch.cat([mean, over_time, over_frequency], dim=-1)


def _spread(grid: Tensor, axis: int) -> Tensor:
    return (grid.var(axis, correction=0) + _VARIANCE_FLOOR).sqrt()
