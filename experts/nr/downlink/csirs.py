"""CSI-RS: the rows of table 7.4.1.5.3-1 (TS 38.211 clause 7.4.1.5)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from experts.nr.downlink.sequences import SUBCARRIERS, Cell, Complex, Mask, Slots, csi_sequence
from lwm.errors import RejectedConfig


class Row(NamedTuple):
    """A row of TS 38.211 table 7.4.1.5.3-1.

    Attributes:
        ports: antenna ports X.
        densities: legal densities.
        frequency: CDM groups along frequency, each at its own k_i.
        times: symbols of those groups: (0 or 1 for l_0 or l_1, symbols after it).
        cdm: subcarriers and symbols of a CDM group.
        spread: subcarriers from k_0 of each group when the bitmap sets only k_0; empty when it sets every k_i.
    """

    ports: int
    densities: tuple[float, ...]
    frequency: int
    times: tuple[tuple[int, int], ...]
    cdm: tuple[int, int]
    spread: tuple[int, ...] = ()


_ONE, _BOTH = (1.0,), (1.0, 0.5)
_FIRST, _PAIR = ((0, 0),), ((0, 0), (0, 1))
_TWO, _FOUR = ((0, 0), (1, 0)), ((0, 0), (0, 1), (1, 0), (1, 1))
ROWS = {
    1: Row(1, (3.0,), 3, _FIRST, (1, 1), (0, 4, 8)),
    2: Row(1, _BOTH, 1, _FIRST, (1, 1)),
    3: Row(2, _BOTH, 1, _FIRST, (2, 1)),
    4: Row(4, _ONE, 2, _FIRST, (2, 1), (0, 2)),
    5: Row(4, _ONE, 1, _PAIR, (2, 1)),
    6: Row(8, _ONE, 4, _FIRST, (2, 1)),
    7: Row(8, _ONE, 2, _PAIR, (2, 1)),
    8: Row(8, _ONE, 2, _FIRST, (2, 2)),
    9: Row(12, _ONE, 6, _FIRST, (2, 1)),
    10: Row(12, _ONE, 3, _FIRST, (2, 2)),
    11: Row(16, _BOTH, 4, _PAIR, (2, 1)),
    12: Row(16, _BOTH, 4, _FIRST, (2, 2)),
    13: Row(24, _BOTH, 3, _FOUR, (2, 1)),
    14: Row(24, _BOTH, 3, _TWO, (2, 2)),
    15: Row(24, _BOTH, 3, _FIRST, (2, 4)),
    16: Row(32, _BOTH, 4, _FOUR, (2, 1)),
    17: Row(32, _BOTH, 4, _TWO, (2, 2)),
    18: Row(32, _BOTH, 4, _FIRST, (2, 4)),
}
"""TS 38.211 table 7.4.1.5.3-1."""
PERIODS = (4, 5, 8, 10, 16, 20, 32, 40, 64, 80, 160, 320, 640)
"""Periodicities in slots, CSI-ResourcePeriodicityAndOffset of TS 38.331."""
LEAST_RB = 24
"""Narrowest CSI-RS in resource blocks, CSI-FrequencyOccupation of TS 38.331."""
_STEP_RB = 4
# Length of frequencyDomainAllocation and subcarriers a bit stands for, by row; every other row has (6, 2).
_BITMAPS = {1: (4, 1), 2: (12, 1), 4: (3, 4)}


@dataclass(frozen=True)
class CSIRS:
    """One periodic non-zero-power CSI-RS resource.

    Args:
        row: 1 to 18, TS 38.211 table 7.4.1.5.3-1.
        bitmap: frequencyDomainAllocation, highest bit first: 4, 12 or 3 long in rows 1, 2 and 4, else 6.
        symbol: l_0, 0 to 13.
        symbol2: l_1, 2 to 12, of rows 13, 14, 16 and 17; ignored in others.
        density: 3 (row 1), 1 or 0.5.
        parity: resource blocks that carry it with density 0.5: 0 even, 1 odd common resource blocks.
        first_rb: first resource block, a multiple of 4.
        n_rb: resource blocks, a multiple of 4 of at least 24; what reaches beyond the carrier is not sent.
        period: slots.
        offset: slots.
        n_id: scrambling identity, 0 to 1023.
    """

    row: int = 3
    bitmap: str = "000001"
    symbol: int = 4
    symbol2: int = 8
    density: float = 1.0
    parity: int = 0
    first_rb: int = 0
    n_rb: int = LEAST_RB
    period: int = 20
    offset: int = 0
    n_id: int = 0

    @property
    def ports(self) -> int:
        """Antenna ports."""
        return ROWS[self.row].ports

    @property
    def cdm(self) -> str:
        """cdm-Type as TS 38.331 names it."""
        width, length = ROWS[self.row].cdm
        return {1: "noCDM", 2: "fd-CDM2", 4: "cdm4-FD2-TD2", 8: "cdm8-FD2-TD4"}[width * length]

    def sent(self, slots: Slots) -> Mask:
        """In which of ``slots`` it is sent, TS 38.211 clause 7.4.1.5.3; slot 0 begins system frame 0."""
        return (slots - self.offset) % self.period == 0

    def validate(self, cell: Cell) -> None:
        """Raise RejectedConfig, naming the clause, for a resource the standard does not have in this cell."""
        clause = "(TS 38.211 table 7.4.1.5.3-1)"
        if self.row not in ROWS:
            raise RejectedConfig(
                f"CSI-RS row {self.row} {clause}", "1 to 18", f"nearest is {min(max(1, self.row), 18)}"
            )
        row = ROWS[self.row]
        if self.density not in row.densities:
            raise RejectedConfig(
                f"CSI-RS density {self.density:g} of row {self.row} {clause}", f"one of {list(row.densities)}"
            )
        length, _ = _BITMAPS.get(self.row, (6, 2))
        ones = 1 if row.spread else row.frequency
        if len(self.bitmap) != length or set(self.bitmap) - set("01") or self.bitmap.count("1") != ones:
            raise RejectedConfig(
                f"CSI-RS frequency allocation {self.bitmap!r} of row {self.row} (TS 38.211 clause 7.4.1.5.3)",
                f"{length} characters 0 or 1 with {ones} of them 1",
            )
        self._validate_time(cell)
        self._validate_band(cell)

    def _validate_time(self, cell: Cell) -> None:
        symbols, last = _symbols(self), cell.symbols - 1
        second = any(which for which, _ in ROWS[self.row].times)
        if min(symbols) < 0 or max(symbols) > last or (second and not 2 <= self.symbol2 <= 12):
            raise RejectedConfig(
                f"CSI-RS in symbols {symbols} (TS 38.211 clause 7.4.1.5.3)", f"0 to {last}, l_1 from 2 to 12"
            )
        if len(set(symbols)) < len(symbols):
            raise RejectedConfig(
                f"CSI-RS of row {self.row} twice in one of symbols {symbols} (TS 38.211 table 7.4.1.5.3-1)",
                "different symbols",
                "move l_1",
            )
        if self.period not in PERIODS or not 0 <= self.offset < self.period:
            nearest = min(PERIODS, key=lambda legal: abs(legal - self.period))
            raise RejectedConfig(
                f"CSI-RS every {self.period} slots from {self.offset} (TS 38.331 CSI-ResourcePeriodicityAndOffset)",
                f"one of {list(PERIODS)} with an offset below it",
                f"nearest period is {nearest}",
            )

    def _validate_band(self, cell: Cell) -> None:
        multiples = self.first_rb % _STEP_RB == 0 and self.n_rb % _STEP_RB == 0
        if not multiples or self.n_rb < min(LEAST_RB, cell.n_rb) or not 0 <= self.first_rb < cell.n_rb:
            raise RejectedConfig(
                f"CSI-RS in {self.n_rb} resource blocks from {self.first_rb} (TS 38.331 CSI-FrequencyOccupation)",
                f"multiples of 4, at least {LEAST_RB} (or the carrier), beginning below {cell.n_rb}",
                f"nearest is {max(LEAST_RB, round(self.n_rb / _STEP_RB) * _STEP_RB)}",
            )
        if self.parity not in (0, 1) or not 0 <= self.n_id <= 1023:
            raise RejectedConfig(
                f"CSI-RS resource block parity {self.parity} with identity {self.n_id} (TS 38.211 clause 7.4.1.5)",
                "0 or 1 with 0 to 1023",
            )


def _symbols(csirs: CSIRS) -> list[int]:
    """Symbols of the slot in ascending order of CDM group and l'."""
    row = ROWS[csirs.row]
    starts = [(csirs.symbol, csirs.symbol2)[which] + later for which, later in row.times]
    return [start + inside for start in starts for inside in range(row.cdm[1])]


def _subcarriers(csirs: CSIRS) -> list[int]:
    """k of each CDM group along frequency: k_{i-1} stands for the i-th bit set, from the lowest."""
    row = ROWS[csirs.row]
    _, unit = _BITMAPS.get(csirs.row, (6, 2))
    k = [unit * place for place, bit in enumerate(reversed(csirs.bitmap)) if bit == "1"]
    return [k[0] + step for step in row.spread] or k


def _blocks(cell: Cell, csirs: CSIRS) -> npt.NDArray[np.int64]:
    """Common resource blocks that carry the resource."""
    blocks = np.arange(csirs.first_rb, min(csirs.first_rb + csirs.n_rb, cell.n_rb))
    return blocks if csirs.density != 0.5 else blocks[blocks % 2 == csirs.parity]


def _in_frequency(cell: Cell, csirs: CSIRS) -> tuple[npt.NDArray[np.int64], ...]:
    """Subcarrier, m' of the sequence and k' of each element of a symbol, ``[elements]`` each."""
    row = ROWS[csirs.row]
    n = _blocks(cell, csirs)[:, None, None]
    k_bar = np.array(_subcarriers(csirs))[:, None]
    k_prime = np.arange(row.cdm[0])
    alpha = csirs.density if row.ports == 1 else 2 * csirs.density
    place = np.floor(n * alpha).astype(np.int64) + k_prime + np.floor(k_bar * csirs.density / 12).astype(np.int64)
    subcarrier = n * SUBCARRIERS + k_bar + k_prime
    return subcarrier.reshape(-1), place.reshape(-1), np.broadcast_to(k_prime, place.shape).reshape(-1)


def csi_rs_elements(cell: Cell, csirs: CSIRS) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Symbol and subcarrier of every element ``[elements]`` each; subcarrier 0 is the carrier's lowest."""
    symbols = np.array(_symbols(csirs))
    subcarrier, _, _ = _in_frequency(cell, csirs)
    return np.repeat(symbols, subcarrier.size), np.tile(subcarrier, symbols.size)


def csi_rs_mask(cell: Cell, csirs: CSIRS) -> Mask:
    """Elements of a slot that the resource takes, bool ``[symbols, 12 * n_rb]``; PDSCH is rate-matched around them."""
    mask = np.zeros((cell.symbols, SUBCARRIERS * cell.n_rb), dtype=bool)
    mask[csi_rs_elements(cell, csirs)] = True
    return mask


def csi_rs(cell: Cell, slots: Slots, csirs: CSIRS) -> Complex:
    """CSI-RS of many slots, complex64 ``[slots, elements]`` in the order of `csi_rs_elements`.

    All antenna ports leave by the one transmit antenna, each multiplied by j for every code bit of its index in the
    CDM group (TS 38.211 tables 7.4.1.5.3-2 to -5) over the square root of the group's size: with equal phases the
    codes would cancel on all elements of a group but one, in quadrature every element has unit power.

    Args:
        cell: whose.
        slots: slot numbers ``[n]`` in which it is sent, of `CSIRS.sent`.
        csirs: resource, legal by its ``validate``.
    """
    width, length = ROWS[csirs.row].cdm
    _, place, k_prime = _in_frequency(cell, csirs)
    # Sum over a code bit of j^bit (-1)^(bit * sign): 1 + j or 1 - j, whose moduli are the square root of two.
    frequency = np.where(k_prime, 1 - 1j, 1 + 1j) if width == 2 else np.ones(k_prime.size)
    # The time codes are the Walsh functions of the bits of l'.
    bits = length.bit_length() - 1
    parts = []
    for number, symbol in enumerate(_symbols(csirs)):
        time = np.prod([1 - 1j if number % length >> bit & 1 else 1 + 1j for bit in range(bits)])
        gain = (frequency * time / np.sqrt(width * length)).astype(np.complex64)
        parts.append(csi_sequence(cell, slots, symbol, int(place.max()) + 1, csirs.n_id)[:, place] * gain)
    return np.concatenate(parts, axis=1)
