"""Fewer RF tokens out of an encoder's token grid."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lwm.errors import ConfigError

Merge = Literal["mean", "mean_spread", "pixel_shuffle", "none"]


class RFMerge(nn.Module):
    """Merges an encoder's token grid over equal cells of a coarser grid.

    Args:
        source: rows (frequency) and columns (time) of the encoder's grid.
        target: rows and columns of the merged grid; each divides its source. ``"none"`` has the source's own.
        kind: ``"mean"`` of a cell; ``"mean_spread"`` with the standard deviation over time in each cell beside it;
            ``"pixel_shuffle"`` with all of a cell's tokens beside each other, row by row, so that nothing is lost;
            ``"none"`` leaves every token as it is.

    Raises:
        ConfigError: the grid cannot be cut so.
    """

    def __init__(self, source: Sequence[int], target: Sequence[int], kind: Merge = "mean") -> None:
        super().__init__()
        if kind not in get_args(Merge):
            raise ConfigError(f"merge {kind!r}", f"one of {list(get_args(Merge))}")
        wanted = source if kind == "none" else target
        self.source, self.target, self.kind = tuple(source), tuple(wanted), kind
        if len(self.target) != 2 or min(self.target) < 1 or any(s % t for s, t in zip(source, wanted, strict=True)):
            raise ConfigError(f"RF tokens {list(wanted)}", f"two divisors of the tower's token grid {list(source)}")

    @property
    def count(self) -> int:
        """Merged tokens."""
        return self.target[0] * self.target[1]

    @property
    def cell(self) -> tuple[int, int]:
        """Rows and columns of the encoder's grid that one merged token stands for."""
        return self.source[0] // self.target[0], self.source[1] // self.target[1]

    @property
    def factor(self) -> int:
        """Width of a merged token in widths of the encoder's."""
        rows, columns = self.cell
        return {"mean_spread": 2, "pixel_shuffle": rows * columns}.get(self.kind, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, L, D]`` without prefix tokens to ``[B, count, factor * D]``."""
        if self.kind == "none":
            return tokens
        rows, columns = self.cell
        cells = tokens.unflatten(1, (self.target[0], rows, self.target[1], columns))
        if self.kind == "pixel_shuffle":
            return cells.transpose(2, 3).flatten(3).flatten(1, 2)
        mean = cells.mean((2, 4))
        if self.kind == "mean_spread":
            spread = (cells.var(4, correction=0) + 1e-8).sqrt().mean(2)
            mean = torch.cat([mean, spread], dim=-1)
        return mean.flatten(1, 2)
