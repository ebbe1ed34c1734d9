"""Statistics of the levels in a data set, gathered while it is written: no second pass over the pictures.

Stored numbers have at most 65,536 different values (float16), so that counting each of them is exact and faster than
arithmetic. Mean and standard deviation come from these counts; a shard keeps a histogram of :data:`BINS` bins from
which the percentiles of any union of shards follow, to within one bin: (ceiling - floor) / :data:`BINS`, 0.08 dB
for an 80 dB range.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lwm.data.storage import Layout, Storage, level_range
from lwm.signal.recipe import Recipe

BINS = 1024
"""Bins of a shard's histogram, equal, from floor to ceiling; what is outside counts in the first or last."""

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
"""Percentiles that a manifest states."""

_BLOCK = 64
"""Pictures counted at a time, so that little memory is needed."""

Histogram = npt.NDArray[np.int64]


class Levels(NamedTuple):
    """Number of valid cells, mean and standard deviation in dB, histogram of :data:`BINS` bins."""

    cells: int
    mean: float
    std: float
    histogram: Histogram


class LevelCounter:
    """Counts the stored values of the valid cells of a shard.

    Args:
        recipe: of the pictures.
        storage: how they are stored (its dtype).
    """

    def __init__(self, recipe: Recipe, storage: Storage) -> None:
        self.recipe = recipe
        self._dtype = storage.stored
        bits = 8 * self._dtype.itemsize
        scale, shift = storage.scale(recipe)
        codes = np.arange(1 << bits).astype(f"u{self._dtype.itemsize}")
        with np.errstate(invalid="ignore"):  # among the codes of float16 are NaNs
            self.values: npt.NDArray[np.float64] = codes.view(self._dtype).astype(np.float64) * scale + shift
        self.counts: Histogram = np.zeros(1 << bits, np.int64)

    @classmethod
    def of_layout(cls, recipe: Recipe, layout: Layout) -> "LevelCounter":
        """The counter of pictures that lie as ``layout`` says."""
        return cls(recipe, Storage("uint8" if layout.dtype.endswith("u1") else "float16"))

    def add(self, stored: npt.NDArray[Any], valid: npt.NDArray[Any]) -> None:
        """Count pictures ``[B, C, F, T]`` in their stored type; ``valid`` ``[B, T]``."""
        unsigned = f"u{self._dtype.itemsize}"
        for first in range(0, len(stored), _BLOCK):
            cells = valid_cells(stored[first : first + _BLOCK], valid[first : first + _BLOCK], self.recipe)
            self.counts += np.bincount(cells.view(unsigned), minlength=len(self.counts))

    def result(self) -> Levels:
        """Statistics of what was counted; those of no cell are 0."""
        present = np.flatnonzero(self.counts)
        counts, values = self.counts[present], self.values[present]
        cells = int(counts.sum())
        if not cells:
            return Levels(0, 0.0, 0.0, np.zeros(BINS, np.int64))
        mean = float(counts @ values / cells)
        std = float(np.sqrt(counts @ (values - mean) ** 2 / cells))
        low, high = level_range(self.recipe)
        place = ((values - low) / (high - low) * BINS).astype(np.int64).clip(0, BINS - 1)
        histogram = np.bincount(place, weights=counts, minlength=BINS).astype(np.int64)
        return Levels(cells, mean, std, histogram)


def valid_cells(pictures: npt.NDArray[Any], valid: npt.NDArray[Any], recipe: Recipe) -> npt.NDArray[Any]:
    """Cells of the valid columns of ``[N, C, F, T]`` (or ``[N, C, T, F]``, as the recipe says), flat, in their type."""
    if valid.all():
        return np.ascontiguousarray(pictures).reshape(-1)
    in_columns = pictures if recipe.axes == "frequency-time" else pictures.swapaxes(-1, -2)
    return np.moveaxis(in_columns, -1, 1)[valid.astype(bool)].ravel()


def percentiles(histogram: Histogram, low: float, high: float) -> dict[str, float]:
    """:data:`PERCENTILES` of a histogram over ``low`` to ``high``, linear inside a bin.

    Args:
        histogram: counts ``[BINS]``.
        low: lower edge of the first bin.
        high: upper edge of the last bin.

    Returns:
        percentile (``"50"``) to level; empty for a histogram of nothing.
    """
    total = int(histogram.sum())
    if not total:
        return {}
    edges = np.linspace(low, high, len(histogram) + 1)
    below = np.concatenate([[0], np.cumsum(histogram)])
    found = {}
    for percent in PERCENTILES:
        wanted = percent / 100 * total
        place = min(int(np.searchsorted(below, wanted, side="left")), len(histogram))
        place = max(place, 1)
        inside = (wanted - below[place - 1]) / max(int(histogram[place - 1]), 1)
        found[str(percent)] = float(edges[place - 1] + inside * (edges[place] - edges[place - 1]))
    return found
