"""PRACH configuration indices of FR1: TS 38.211 tables 6.3.3.2-2 (paired spectrum) and 6.3.3.2-3 (unpaired).

Kept here are indices of one format: 0 to 59, 147 to 166 and 177 to 255 of table -2 (formats 0 to 2, A3, B1, B4, C0,
C2), 0 to 210 of table -3 (all but those of two formats).
"""

from functools import lru_cache

from experts.nr.uplink.prach import Occasions
from experts.nr.uplink.prach_tables import LONG_SPACING
from lwm.errors import RejectedConfig

# Index of the first row and format, then rows: x, y, subframes, starting symbol, PRACH slots, occasions in a slot.
_LONG_PAIRED = "16 1 1/16 1 4/16 1 7/16 1 9/8 1 1/8 1 4/8 1 7/8 1 9/4 1 1/4 1 4/4 1 7/4 1 9/2 1 1/2 1 4/2 1 7/2 1 9/"
_PAIRED = (
    (0, "0", _LONG_PAIRED + "1 0 1/1 0 4/1 0 7/1 0 16/1 0 27/1 0 38/1 0 147/1 0 258/1 0 369/1 0 02468/1 0 13579/"
     "1 0 0123456789"),
    (28, "1", _LONG_PAIRED + "1 0 1/1 0 4/1 0 9/1 0 16/1 0 27/1 0 38/1 0 147/1 0 258/1 0 369"),
    (53, "2", "16 1 1/8 1 1/4 0 1/2 0 1/2 0 5/1 0 1/1 0 5"),
    (147, "A3",
     "16 1 49 0 1 2/16 1 4 0 2 2/8 1 49 0 1 2/8 1 4 0 2 2/4 0 49 0 1 2/4 0 4 0 2 2/2 1 269 0 2 2/2 0 1 0 2 2/"
     "2 0 4 0 2 2/2 0 7 0 2 2/1 0 4 0 1 2/1 0 16 0 1 2/1 0 49 0 1 2/1 0 1 0 2 2/1 0 7 0 2 2/1 0 27 0 2 2/"
     "1 0 147 0 2 2/1 0 02468 0 2 2/1 0 0123456789 0 2 2/1 0 13579 0 2 2"),
    (177, "B1",
     "16 0 49 0 1 7/16 1 4 0 2 7/8 0 49 0 1 7/8 1 4 0 2 7/4 0 49 0 1 7/4 1 49 0 1 7/4 0 4 0 2 7/2 0 49 0 1 7/"
     "2 0 1 0 2 7/2 0 4 0 2 7/2 0 7 0 2 7/1 0 4 0 1 7/1 0 16 0 1 7/1 0 49 0 1 7/1 0 1 0 2 7/1 0 7 0 2 7/"
     "1 0 27 0 2 7/1 0 147 0 2 7/1 0 02468 0 2 7/1 0 0123456789 0 2 7/1 0 13579 0 2 7"),
    (219, "C0",
     "8 1 4 0 2 7/4 1 49 0 1 7/4 0 4 0 2 7/2 0 49 0 1 7/2 0 1 0 2 7/2 0 4 0 2 7/2 0 7 0 2 7/1 0 4 0 1 7/"
     "1 0 16 0 1 7/1 0 49 0 1 7/1 0 1 0 2 7/1 0 7 0 2 7/1 0 27 0 2 7/1 0 147 0 2 7/1 0 02468 0 2 7/"
     "1 0 0123456789 0 2 7/1 0 13579 0 2 7"),
    (236, "C2",
     "16 1 49 0 1 2/16 1 4 0 2 2/8 1 49 0 1 2/8 1 4 0 2 2/4 0 49 0 1 2/4 0 4 0 2 2/2 1 269 0 2 2/2 0 1 0 2 2/"
     "2 0 4 0 2 2/2 0 7 0 2 2/1 0 4 0 1 2/1 0 16 0 1 2/1 0 49 0 1 2/1 0 1 0 2 2/1 0 7 0 2 2/1 0 27 0 2 2/"
     "1 0 147 0 2 2/1 0 02468 0 2 2/1 0 0123456789 0 2 2/1 0 13579 0 2 2"),
    (198, "B4",
     "16 0 49 0 2 1/16 1 4 0 2 1/8 0 49 0 2 1/8 1 4 0 2 1/4 0 49 0 2 1/4 0 4 0 2 1/4 1 49 0 2 1/2 0 49 0 2 1/"
     "2 0 1 0 2 1/2 0 4 0 2 1/2 0 7 0 2 1/1 0 1 0 2 1/1 0 4 0 2 1/1 0 7 0 2 1/1 0 16 0 2 1/1 0 27 0 2 1/"
     "1 0 49 0 2 1/1 0 147 0 2 1/1 0 02468 0 2 1/1 0 0123456789 0 2 1/1 0 13579 0 2 1"),
)  # fmt: skip
_LONG_UNPAIRED = (
    "16 1 9/8 1 9/4 1 9/2 0 9/2 1 9/2 0 4/2 1 4/1 0 9/1 0 8/1 0 7/1 0 6/1 0 5/1 0 4/1 0 3/1 0 2/1 0 16/1 0 16 7/1 0 49/"
    "1 0 38/1 0 27/1 0 89/1 0 489/1 0 349/1 0 789/1 0 3489/"
)
_UNPAIRED = (
    (0, "0", _LONG_UNPAIRED + "1 0 6789/1 0 1469/1 0 13579"),
    (28, "1", "16 1 7/8 1 7/4 1 7/2 0 7/2 1 7/1 0 7"),
    (34, "2", "16 1 6/8 1 6/4 1 6/2 0 6 7/2 1 6 7/1 0 6 7"),
    (40, "3", _LONG_UNPAIRED + "1 0 1469/1 0 13579"),
    (67, "A1",
     "16 1 9 0 2 6/8 1 9 0 2 6/4 1 9 0 1 6/2 1 9 0 1 6/2 1 49 7 1 3/2 1 79 7 1 3/2 1 79 0 1 6/2 1 89 0 2 6/"
     "2 1 49 0 2 6/2 1 234789 0 1 6/1 0 9 0 2 6/1 0 9 7 1 3/1 0 9 0 1 6/1 0 89 0 2 6/1 0 49 0 1 6/1 0 79 7 1 3/"
     "1 0 3489 0 1 6/1 0 3489 0 2 6/1 0 13579 0 1 6/1 0 0123456789 7 1 3"),
    (87, "A2",
     "16 1 9 0 2 3/8 1 9 0 2 3/4 1 9 0 1 3/2 1 79 0 1 3/2 1 89 0 2 3/2 1 79 9 1 1/2 1 49 9 1 1/2 1 49 0 2 3/"
     "16 1 234789 0 1 3/1 0 2 0 1 3/1 0 7 0 1 3/2 1 9 0 1 3/1 0 9 0 2 3/1 0 9 9 1 1/1 0 9 0 1 3/1 0 27 0 1 3/"
     "1 0 89 0 2 3/1 0 49 0 1 3/1 0 79 9 1 1/1 0 3489 0 1 3/1 0 3489 0 2 3/1 0 13579 0 1 3/1 0 0123456789 9 1 1"),
    (110, "A3",
     "16 1 9 0 2 2/8 1 9 0 2 2/4 1 9 0 1 2/2 1 49 7 1 1/2 1 79 7 1 1/2 1 79 0 1 2/2 1 49 0 2 2/2 1 89 0 2 2/"
     "2 1 234789 0 1 2/1 0 2 0 1 2/1 0 7 0 1 2/2 1 9 0 1 2/1 0 9 0 2 2/1 0 9 7 1 1/1 0 9 0 1 2/1 0 27 0 1 2/"
     "1 0 89 0 2 2/1 0 49 0 1 2/1 0 79 7 1 1/1 0 3489 0 1 2/1 0 3489 0 2 2/1 0 13579 0 1 2/1 0 0123456789 7 1 1"),
    (133, "B1",
     "4 1 9 2 1 6/2 1 9 2 1 6/2 1 79 2 1 6/2 1 49 8 1 3/2 1 49 2 2 6/1 0 9 2 2 6/1 0 9 8 1 3/1 0 9 2 1 6/"
     "1 0 89 2 2 6/1 0 49 2 1 6/1 0 79 8 1 3/1 0 13579 2 1 6"),
    (145, "B4",
     "16 1 9 0 2 1/8 1 9 0 2 1/4 1 9 2 1 1/2 1 9 0 1 1/2 1 9 2 1 1/2 1 79 2 1 1/2 1 49 2 1 1/2 1 49 0 2 1/"
     "2 1 89 0 2 1/2 1 234789 0 1 1/1 0 1 0 1 1/1 0 2 0 1 1/1 0 4 0 1 1/1 0 7 0 1 1/1 0 9 0 1 1/1 0 9 2 1 1/"
     "1 0 9 0 2 1/1 0 49 2 1 1/1 0 79 2 1 1/1 0 89 0 2 1/1 0 3489 2 1 1/1 0 13579 2 1 1/1 0 0123456789 0 2 1/"
     "1 0 0123456789 2 1 1"),
    (169, "C0",
     "16 1 9 2 2 6/8 1 9 2 2 6/4 1 9 2 1 6/2 1 9 2 1 6/2 1 89 2 2 6/2 1 79 2 1 6/2 1 79 8 1 3/2 1 49 8 1 3/"
     "2 1 49 2 2 6/2 1 234789 2 1 6/1 0 9 2 2 6/1 0 9 8 1 3/1 0 9 2 1 6/1 0 89 2 2 6/1 0 49 2 1 6/1 0 79 8 1 3/"
     "1 0 3489 2 1 6/1 0 3489 2 2 6/1 0 13579 2 1 6/1 0 0123456789 8 1 3"),
    (189, "C2",
     "16 1 9 2 2 2/8 1 9 2 2 2/4 1 9 2 1 2/2 1 9 2 1 2/2 1 89 2 2 2/2 1 79 2 1 2/2 1 79 8 1 1/2 1 49 8 1 1/"
     "2 1 49 2 2 2/2 1 234789 2 1 2/8 1 9 8 2 1/4 1 9 8 1 1/1 0 9 2 2 2/1 0 9 8 1 1/1 0 9 2 1 2/1 0 89 2 2 2/"
     "1 0 49 2 1 2/1 0 79 8 1 1/1 0 3489 2 1 2/1 0 3489 2 2 2/1 0 13579 2 1 2/1 0 0123456789 8 1 1"),
)  # fmt: skip


@lru_cache
def _rows(paired: bool) -> dict[int, tuple[str, list[str]]]:
    found = {}
    for first, name, text in _PAIRED if paired else _UNPAIRED:
        for number, row in enumerate(text.split("/")):
            found[first + number] = (name, row.split())
    return found


def configuration_indices(paired: bool) -> dict[int, str]:
    """Format by prach-ConfigurationIndex, of the indices kept here; ``paired`` spectrum (FDD) or not (TDD)."""
    return {index: name for index, (name, _) in _rows(paired).items()}


def configuration(index: int, paired: bool, spacing: float) -> tuple[str, Occasions]:
    """Format and occasions of a prach-ConfigurationIndex in FR1, TS 38.211 tables 6.3.3.2-2 and 6.3.3.2-3.

    Args:
        index: prach-ConfigurationIndex.
        paired: paired spectrum (FDD), otherwise unpaired (TDD).
        spacing: subcarrier spacing of the short formats in kHz, 15 or 30; at 15 kHz a subframe is one PRACH slot.

    Raises:
        RejectedConfig: an index that is not kept here.
    """
    rows = _rows(paired)
    if index not in rows:
        nearest = min(rows, key=lambda legal: abs(legal - index))
        table = "6.3.3.2-2" if paired else "6.3.3.2-3"
        raise RejectedConfig(
            f"prach-ConfigurationIndex {index} (TS 38.211 table {table})",
            "an index of one format that is kept here",
            f"nearest is {nearest}",
        )
    name, row = rows[index]
    # A long format's row may name a starting symbol; slots and occasions are one.
    x, y, subframes, symbol, slots, count = (*row, *("0", "1", "1")[len(row) - 6 :]) if len(row) < 6 else row
    slots_per = int(slots) if name not in LONG_SPACING and spacing > 15 else 1
    return name, Occasions((int(x), int(y)), tuple(map(int, subframes)), int(symbol), slots_per, int(count))
