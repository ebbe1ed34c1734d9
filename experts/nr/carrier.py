"""The carrier: frequency range, resource blocks, numerology, cyclic prefix, TDD pattern and symbol clock."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from experts.nr.tdd import TDDPattern
from lwm.errors import RejectedConfig
from lwm.phy.ofdm import cp_lengths

SYMBOLS = 14
"""OFDM symbols of a slot with normal cyclic prefix, TS 38.211 table 4.3.2-1."""
EXTENDED_SYMBOLS = 12
"""OFDM symbols of a slot with extended cyclic prefix, TS 38.211 table 4.3.2-2."""
EXTENDED_MU = 2
"""The one numerology with an extended cyclic prefix, TS 38.211 table 4.2-1."""
SUBCARRIERS = 12
"""Subcarriers of a resource block, TS 38.211 clause 4.4.4.1."""
FRAME_PAIR_MS = 20
"""Longest SSB period synthesised here, and what every TDD pattern divides; slots count from a pair's start."""
FRAMES = 1024
"""Frames after which the system frame number restarts, TS 38.211 clause 4.3.1."""
LARGEST_FFT = 4096
"""Largest FFT: that of 100 MHz of 30 kHz and of 400 MHz of 120 kHz subcarriers."""

_MHZ = (3, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 90, 100)
_FR2_MHZ = (50, 100, 200, 400)
RESOURCE_BLOCKS: dict[str, dict[int, dict[int, int]]] = {
    "FR1": {
        0: dict(zip(_MHZ[:11], (15, 25, 52, 79, 106, 133, 160, 188, 216, 242, 270), strict=True)),
        1: dict(zip(_MHZ[1:], (11, 24, 38, 51, 65, 78, 92, 106, 119, 133, 162, 189, 217, 245, 273), strict=True)),
        2: dict(zip(_MHZ[2:], (11, 18, 24, 31, 38, 44, 51, 58, 65, 79, 93, 107, 121, 135), strict=True)),
    },
    "FR2": {
        2: dict(zip(_FR2_MHZ[:3], (66, 132, 264), strict=True)),
        3: dict(zip(_FR2_MHZ, (32, 66, 132, 264), strict=True)),
    },
}
"""N_RB by frequency range, numerology and channel bandwidth in MHz: TS 38.101-1 and 38.101-2, tables 5.3.2-1."""
TABLES = {"FR1": "TS 38.101-1 table 5.3.2-1", "FR2": "TS 38.101-2 table 5.3.2-1"}

BANDWIDTHS = tuple(1e6 * mhz for mhz in sorted({*_MHZ, *_FR2_MHZ}))
"""Channel bandwidths of both frequency ranges in Hz."""


def bandwidths_of(frequency_range: str) -> list[float]:
    """Channel bandwidths in Hz of ``"FR1"`` or ``"FR2"``, ascending."""
    return [1e6 * mhz for mhz in sorted({mhz for row in RESOURCE_BLOCKS[frequency_range].values() for mhz in row})]


def resource_blocks(bandwidth: float, mu: int, frequency_range: str = "FR1") -> int:
    """N_RB of a channel, TS 38.101-1 or 38.101-2 table 5.3.2-1.

    Args:
        bandwidth: channel bandwidth in Hz.
        mu: numerology; subcarrier spacing is 15 kHz * 2**mu.
        frequency_range: "FR1" or "FR2".

    Raises:
        RejectedConfig: no such frequency range, no such numerology in it, or no such bandwidth in its row.
    """
    if frequency_range not in RESOURCE_BLOCKS:
        raise RejectedConfig(
            f"frequency range {frequency_range!r} (TS 38.104 clause 5.1)", f"one of {list(RESOURCE_BLOCKS)}"
        )
    rows = RESOURCE_BLOCKS[frequency_range]
    if mu not in rows:
        nearest = min(rows, key=lambda legal: abs(legal - mu))
        raise RejectedConfig(
            f"numerology mu {mu} (TS 38.211 clause 4.2, {frequency_range})",
            f"one of {list(rows)}",
            f"nearest is {nearest}",
        )
    row = rows[mu]
    for mhz, count in row.items():
        if bandwidth == 1e6 * mhz:
            return count
    nearest = min(row, key=lambda mhz: abs(mhz * 1e6 - bandwidth))
    raise RejectedConfig(
        f"channel bandwidth {bandwidth / 1e6:g} MHz with {15 << mu} kHz subcarriers ({TABLES[frequency_range]})",
        f"one of {list(row)} MHz",
        f"nearest is {nearest} MHz",
    )


def fft_size(n_rb: int) -> int:
    """Smallest power of two that holds the carrier (at least 128, below which prefixes are not whole samples)."""
    return max(128, 1 << (SUBCARRIERS * n_rb - 1).bit_length())


@dataclass(frozen=True)
class Carrier:
    """One carrier of one cell.

    Args:
        bandwidth: channel bandwidth in Hz, TS 38.101-1 and 38.101-2 tables 5.3.2-1.
        mu: numerology 0 to 3: subcarriers of 15, 30, 60 or 120 kHz.
        pci: physical cell identity, 0 to 1007.
        tdd: downlink-uplink pattern; None is FDD.
        frequency_range: "FR1" or "FR2"; 60 kHz carriers of 50 and 100 MHz exist in both, with other N_RB.
        extended_cp: extended cyclic prefix, 60 kHz only.
    """

    bandwidth: float = 20e6
    mu: int = 1
    pci: int = 0
    tdd: TDDPattern | None = None
    frequency_range: str = "FR1"
    extended_cp: bool = False

    def validate(self) -> None:
        """Raise RejectedConfig for what the standard does not have."""
        resource_blocks(self.bandwidth, self.mu, self.frequency_range)
        if not (isinstance(self.pci, int) and 0 <= self.pci <= 1007):
            nearest = min(max(0, round(self.pci)), 1007)
            raise RejectedConfig(f"PCI {self.pci} (TS 38.211 clause 7.4.2.1)", "0 to 1007", f"nearest is {nearest}")
        if self.extended_cp and self.mu != EXTENDED_MU:
            raise RejectedConfig(
                f"extended cyclic prefix with {15 << self.mu} kHz subcarriers (TS 38.211 table 4.2-1)",
                f"60 kHz (mu {EXTENDED_MU})",
                "use the normal prefix",
            )
        if self.tdd is None and self.frequency_range == "FR2":
            raise RejectedConfig("FDD in FR2 (TS 38.101-2 table 5.2-1)", "a TDD pattern", "nearest is DDDSU")
        if self.tdd is not None:
            self.tdd.validate(self.mu, self.symbols)

    @property
    def scs(self) -> float:
        """Subcarrier spacing in Hz."""
        return 15e3 * (1 << self.mu)

    @property
    def n_rb(self) -> int:
        """Resource blocks."""
        return resource_blocks(self.bandwidth, self.mu, self.frequency_range)

    @property
    def n_fft(self) -> int:
        """FFT size."""
        return fft_size(self.n_rb)

    @property
    def symbols(self) -> int:
        """OFDM symbols of a slot."""
        return EXTENDED_SYMBOLS if self.extended_cp else SYMBOLS

    @property
    def sample_rate(self) -> float:
        """Native sample rate in Hz: smallest power-of-two FFT times the subcarrier spacing."""
        return self.n_fft * self.scs

    @property
    def low_edge(self) -> float:
        """Hz from the carrier's centre of the lower edge of its first resource block.

        Subcarrier k is centred on its frequency, so a block begins half a subcarrier below its first one.
        """
        return -(self.n_rb * SUBCARRIERS + 1) / 2 * self.scs


@lru_cache(maxsize=64)
def symbol_edges(n_fft: int, mu: int, milliseconds: int, extended: bool = False) -> npt.NDArray[np.int64]:
    """First sample of every symbol of whole milliseconds, and the end: ``[symbols a ms * milliseconds + 1]``."""
    half = np.array(cp_lengths(n_fft, mu, extended)) + n_fft
    edges = np.concatenate([[0], np.cumsum(np.tile(half, 2 * milliseconds))])
    edges.setflags(write=False)
    return edges
