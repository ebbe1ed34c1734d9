"""Recordings shared out to training, validation and test: whole recordings, every one tested once.

The recordings of a class are shared out to K blocks; in fold f the f-th block is tested, the one after it chooses
settings, the others are learnt from. Windows of one recording are alike (one receiver, one place, one channel), so
that no recording is on two sides of a fold.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lwm.errors import DatasetError
from lwm.evaluation.metrics import Codes
from lwm.seeding import rng_for

PARTS = ("train", "validation", "test")
NEEDED = len(PARTS)
"""Recordings of a class without which not every part has one."""

MOST_FOLDS = 5


@dataclass(frozen=True)
class WindowTable:
    """Where the windows of recordings come from.

    Args:
        classes: class names.
        codes: class of each window ``[N]``.
        recordings: names of the recordings.
        of: recording of each window ``[N]``, index into ``recordings``.
        starts: s from the begin of its recording ``[N]``.
        duration: of a window, s.
    """

    classes: list[str]
    codes: Codes
    recordings: list[str]
    of: Codes
    starts: NDArray[np.float64]
    duration: float

    def of_class(self, code: int) -> list[int]:
        """Recordings of a class, in the order of their names."""
        found = np.unique(self.of[self.codes == code]).tolist()
        return sorted(found, key=lambda number: self.recordings[number])


class Folds(NamedTuple):
    """``parts``: one dict of PARTS to windows int64 ``[n]`` a fold. ``cut``: classes whose recordings are cut in time,
    so that their test is optimistic."""

    parts: list[dict[str, Codes]]
    cut: list[str]


def draw_folds(table: WindowTable, seed: int, within: bool = False) -> Folds:
    """Folds of all windows; the order of recordings within a class is drawn.

    Args:
        table: the windows.
        seed: of the draw.
        within: cut the recordings of a class that has fewer than NEEDED in time, with a gap of a window at each cut.

    Raises:
        DatasetError: fewer than two classes; a class with too few recordings (the message says how many are needed)
            and ``within`` is False; or a recording too short to be cut.
    """
    counts = {name: len(table.of_class(code)) for code, name in enumerate(table.classes)}
    few = require_enough(counts, within)
    whole = [count for count in counts.values() if count >= NEEDED]
    folds = min([MOST_FOLDS, *whole]) if whole else NEEDED
    block = np.full(len(table.codes), -1, np.int64)
    for code, name in enumerate(table.classes):
        recordings = table.of_class(code)
        order = rng_for(seed, "own data", name).permutation(len(recordings))
        for place, number in enumerate(order):
            windows = np.flatnonzero(table.of == recordings[number])
            block[windows] = _cut(table, windows, folds) if name in few else place % folds
    return Folds([_fold(block, number, folds) for number in range(folds)], few)


def require_enough(counts: dict[str, int], within: bool = False) -> list[str]:
    """Classes with fewer than NEEDED recordings; ``counts``: recordings of each class.

    Raises:
        DatasetError: see :func:`draw_folds`.
    """
    if len(counts) < 2:
        raise DatasetError(f"classes {list(counts)}", "two or more", "add a folder for each class")
    few = [name for name, count in counts.items() if count < NEEDED]
    if few and not within:
        said = ", ".join(f"{name!r} has {counts[name]}" for name in few)
        raise DatasetError(
            f"too few recordings: class {said}",
            f"{NEEDED} a class (one each for {', '.join(PARTS)})",
            "record more, or add --split-within-recordings to cut them in time, which flatters the result",
        )
    return few


def _fold(block: Codes, number: int, folds: int) -> dict[str, Codes]:
    role = (block - number) % folds
    used = block >= 0
    return {
        "train": np.flatnonzero(used & (role > 1)),
        "validation": np.flatnonzero(used & (role == 1)),
        "test": np.flatnonzero(used & (role == 0)),
    }


def _cut(table: WindowTable, windows: Codes, folds: int) -> Codes:
    """Block of each window of a recording cut in ``folds`` of equal time; -1 for those within half a window's length
    of a cut, so that two blocks are a window apart."""
    starts = table.starts[windows]
    begin, end = starts.min(), starts.max() + table.duration
    edges = np.linspace(begin, end, folds + 1)
    half = table.duration / 2
    middle = starts + half
    block = np.clip(np.searchsorted(edges, middle, side="right") - 1, 0, folds - 1)
    inner = edges[1:-1]
    clear = np.abs(middle[:, None] - inner).min(1) >= 2 * half * (1 - 1e-6)
    block = np.where(clear, block, -1)
    missing = sorted(set(range(folds)) - set(block.tolist()))
    if missing:
        name = table.recordings[int(table.of[windows[0]])]
        raise DatasetError(
            f"recording {name} of {end - begin:.4g} s is too short to be cut in {folds} with gaps of a window",
            f"{3 * folds * table.duration:.4g} s or more",
            "record longer, or more recordings of its class",
        )
    return block
