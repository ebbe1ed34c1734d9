"""The FR1 carrier: resource blocks, numerology, TDD pattern and symbol clock."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lwm.errors import RejectedConfig
from lwm.phy.ofdm import cp_lengths

SYMBOLS = 14
"""OFDM symbols of a slot with normal cyclic prefix, TS 38.211 table 4.3.2-1."""
SUBCARRIERS = 12
"""Subcarriers of a resource block, TS 38.211 clause 4.4.4.1."""
FRAME_PAIR_MS = 20
"""Longest SSB period synthesised here; slots and symbols are counted from the start of such a pair of frames."""

_MHZ = (5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 90, 100)
RESOURCE_BLOCKS: dict[int, dict[int, int]] = {
    0: dict(zip(_MHZ[:10], (25, 52, 79, 106, 133, 160, 188, 216, 242, 270), strict=True)),
    1: dict(zip(_MHZ, (11, 24, 38, 51, 65, 78, 92, 106, 119, 133, 162, 189, 217, 245, 273), strict=True)),
    2: dict(zip(_MHZ[1:], (11, 18, 24, 31, 38, 44, 51, 58, 65, 79, 93, 107, 121, 135), strict=True)),
}
"""N_RB by numerology and channel bandwidth in MHz, TS 38.101-1 table 5.3.2-1 (5 MHz and wider: an SSB needs 20 RB)."""

BANDWIDTHS = tuple(1e6 * mhz for mhz in _MHZ)
"""Channel bandwidths of FR1 in Hz."""

PERIODICITIES_MS: dict[int, tuple[float, ...]] = {
    0: (1, 2, 5, 10),
    1: (0.5, 1, 2, 2.5, 5, 10),
    2: (0.5, 1, 1.25, 2, 2.5, 5, 10),
}
"""Periods of a TDD pattern by numerology, TS 38.213 clause 11.1."""


def resource_blocks(bandwidth: float, mu: int) -> int:
    """N_RB of a channel, TS 38.101-1 table 5.3.2-1.

    Args:
        bandwidth: channel bandwidth in Hz.
        mu: numerology; subcarrier spacing is 15 kHz * 2**mu.

    Raises:
        RejectedConfig: no such numerology in FR1, or no such bandwidth in its row.
    """
    if mu not in RESOURCE_BLOCKS:
        nearest = min(RESOURCE_BLOCKS, key=lambda legal: abs(legal - mu))
        raise RejectedConfig(
            f"numerology mu {mu} (TS 38.211 clause 4.2, FR1)",
            f"one of {list(RESOURCE_BLOCKS)}",
            f"nearest is {nearest}",
        )
    row = RESOURCE_BLOCKS[mu]
    for mhz, count in row.items():
        if bandwidth == 1e6 * mhz:
            return count
    nearest = min(row, key=lambda mhz: abs(mhz * 1e6 - bandwidth))
    raise RejectedConfig(
        f"channel bandwidth {bandwidth / 1e6:g} MHz with {15 << mu} kHz subcarriers (TS 38.101-1 table 5.3.2-1)",
        f"one of {list(row)} MHz",
        f"nearest is {nearest} MHz",
    )


def fft_size(n_rb: int) -> int:
    """Smallest power of two that holds the carrier (at least 128, below which prefixes are not whole samples)."""
    return max(128, 1 << (SUBCARRIERS * n_rb - 1).bit_length())


@dataclass(frozen=True)
class TDDPattern:
    """Downlink-uplink pattern of TS 38.213 clause 11.1.

    Args:
        slots: one letter a slot, D downlink, S special, U uplink; repeated for ever.
        special: downlink, guard and uplink symbols of an S slot.
    """

    slots: str
    special: tuple[int, int, int] = (10, 2, 2)

    def validate(self, mu: int) -> None:
        """Raise RejectedConfig unless the pattern is one that numerology ``mu`` can have."""
        clause = "(TS 38.213 clause 11.1)"
        if not self.slots or set(self.slots) - set("DSU") or "D" not in self.slots:
            raise RejectedConfig(
                f"TDD pattern {self.slots!r} {clause}", "letters D, S and U with at least one D", "for example DDDSU"
            )
        if len(self.special) != 3 or min(self.special) < 0 or sum(self.special) != SYMBOLS:
            raise RejectedConfig(
                f"special slot {self.special} {clause}", f"three counts that sum to {SYMBOLS}", "for example (10, 2, 2)"
            )
        period = len(self.slots) / (1 << mu)
        legal = PERIODICITIES_MS[mu]
        # A dual pattern (clause 11.1, pattern1 and pattern2) is one whose halves are legal and whose sum divides 20 ms.
        dual = len(self.slots) % 2 == 0 and period / 2 in legal and FRAME_PAIR_MS % period == 0
        if period not in legal and not dual:
            nearest = min(legal, key=lambda ms: abs(ms - period))
            raise RejectedConfig(
                f"TDD period {period:g} ms of {self.slots!r} {clause}",
                f"one of {list(legal)} ms with {15 << mu} kHz subcarriers",
                f"nearest is {nearest:g} ms, {round(nearest * (1 << mu))} slots",
            )

    @property
    def downlink_share(self) -> float:
        """Share of the symbols that are downlink."""
        return self.slots.count("D") / len(self.slots) + self.slots.count("S") * self.special[0] / (
            SYMBOLS * len(self.slots)
        )


def downlink_symbols(tdd: TDDPattern | None, first: int, count: int) -> npt.NDArray[np.int64]:
    """Downlink symbols ``[count]`` at the head of each slot from slot ``first``; 14 in every slot of FDD."""
    if tdd is None:
        return np.full(count, SYMBOLS)
    length = {"D": SYMBOLS, "S": tdd.special[0], "U": 0}
    period = np.array([length[letter] for letter in tdd.slots])
    return period[np.arange(first, first + count) % len(period)]


@lru_cache(maxsize=64)
def symbol_edges(n_fft: int, mu: int, milliseconds: int) -> npt.NDArray[np.int64]:
    """First sample of every symbol of whole milliseconds, and the end: ``[14 * 2**mu * milliseconds + 1]``."""
    half = np.array(cp_lengths(n_fft, mu)) + n_fft
    edges = np.concatenate([[0], np.cumsum(np.tile(half, 2 * milliseconds))])
    edges.setflags(write=False)
    return edges
