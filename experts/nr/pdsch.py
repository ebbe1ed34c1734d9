"""PDSCH and PDCCH with their DM-RS (TS 38.211 clauses 7.3.1, 7.3.2, 7.4.1.1 and 7.4.1.3)."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from experts.nr.carrier import SUBCARRIERS, SYMBOLS
from experts.nr.ssb import qpsk_sequence
from lwm.phy.constellation import cellular

Complex = npt.NDArray[np.complex64]

FIRST_DMRS = 2
"""l_0: dmrs-TypeA-Position pos2."""
DMRS_GAIN = np.float32(np.sqrt(2))
"""Amplitude of PDSCH DM-RS when neither CDM group carries data, TS 38.214 table 4.1-1 (3 dB)."""
MINIMUM_SYMBOLS = 3
"""Shortest PDSCH of mapping type A, TS 38.214 table 5.1.2.1-1."""
# Additional positions by last symbol of the allocation, columns 1 to 3 additional symbols.
_ADDITIONAL: dict[int, tuple[tuple[int, ...], ...]] = {
    **dict.fromkeys((8, 9), ((7,), (7,), (7,))),
    **dict.fromkeys((10, 11), ((9,), (6, 9), (6, 9))),
    12: ((9,), (6, 9), (5, 8, 11)),
    **dict.fromkeys((13, 14), ((11,), (7, 11), (5, 8, 11))),
}


def dmrs_symbols(duration: int, additional: int) -> tuple[int, ...]:
    """Symbols of a slot with PDSCH DM-RS, mapping type A, single-symbol, TS 38.211 table 7.4.1.1.2-3.

    Args:
        duration: l_d, symbols from the start of the slot to the end of the allocation, 3 to 14.
        additional: dmrs-AdditionalPosition, 0 to 3.
    """
    if additional == 0 or duration not in _ADDITIONAL:
        return (FIRST_DMRS,)
    return (FIRST_DMRS, *_ADDITIONAL[duration][additional - 1])


def dmrs_init(pci: int, slot: int, symbol: int) -> int:
    """c_init of TS 38.211 clauses 7.4.1.1.1 and 7.4.1.3.1 with n_SCID 0 and N_ID the cell's.

    Args:
        pci: physical cell identity.
        slot: slot number within the frame.
        symbol: OFDM symbol within the slot.
    """
    return (((SYMBOLS * slot + symbol + 1) * (2 * pci + 1) << 17) + 2 * pci) % (1 << 31)


class Cell(NamedTuple):
    """What DM-RS sequences depend on: physical cell identity, numerology, resource blocks of the carrier."""

    pci: int
    mu: int
    n_rb: int


@lru_cache(maxsize=512)
def _sequence(c_init: int, length: int) -> Complex:
    """One slot's r(n) over the whole carrier, kept because every user of the slot takes its part of it."""
    sequence = qpsk_sequence(c_init, length)
    sequence.setflags(write=False)
    return sequence


def _sequences(cell: Cell, slots: npt.NDArray[np.int64], symbol: int, per_rb: int, prb: tuple[int, int]) -> Complex:
    """r(n) of resource blocks ``prb`` for absolute slot numbers, ``[slots, per_rb * resource blocks]``."""
    in_frame, inverse = np.unique(slots % (10 << cell.mu), return_inverse=True)
    part = slice(per_rb * prb[0], per_rb * prb[1])
    inits = [dmrs_init(cell.pci, slot, symbol) for slot in in_frame.tolist()]
    return np.stack([_sequence(c_init, per_rb * cell.n_rb)[part] for c_init in inits])[inverse]


def random_symbols(modulation: str, shape: tuple[int, ...], rng: np.random.Generator) -> Complex:
    """Random points of a constellation with unit mean power, complex64 ``shape``."""
    table = cellular(modulation)
    # Raw bytes masked to the constellation's size: every size is a power of two up to 256.
    index = np.frombuffer(rng.bytes(int(np.prod(shape))), dtype=np.uint8) & (len(table) - 1)
    return table.take(index).reshape(shape)


def pdsch(
    cell: Cell,
    slots: npt.NDArray[np.int64],
    prb: tuple[int, int],
    symbols: tuple[int, int],
    additional: int,
    modulation: str,
    rng: np.random.Generator,
) -> Complex:
    """PDSCH of one user with DM-RS type 1 on port 1000 and random payload, over the symbols of many slots.

    Args:
        cell: whose.
        slots: slot numbers ``[n]`` counted from the start of an even frame.
        prb: first and one past the last resource block.
        symbols: first and one past the last symbol of the allocation.
        additional: additional DM-RS positions.
        modulation: constellation name.
        rng: payload source.

    Returns:
        complex64 ``[n, symbols, subcarriers]``.
    """
    first, stop = symbols
    low, high = prb
    block = random_symbols(modulation, (len(slots), stop - first, SUBCARRIERS * (high - low)), rng)
    for symbol in dmrs_symbols(stop, additional):
        block[:, symbol - first] = 0
        # k = 4n + 2k' counted from common resource block 0, which is the carrier's first.
        block[:, symbol - first, 0::2] = DMRS_GAIN * _sequences(cell, slots, symbol, 6, prb)
    return block


def pdcch_blocks(groups: int, symbols: int) -> int:
    """Resource blocks of the PDCCH of one UE: aggregation level 4, 2 or 1, not interleaved (clause 7.3.2.2).

    Args:
        groups: resource blocks of its CORESET, a multiple of 6.
        symbols: CORESET symbols, 1 or 2.
    """
    elements = groups * symbols // 6
    level = max(level for level in (1, 2, 4) if level <= max(1, elements))
    return level * 6 // symbols


def pdcch(
    cell: Cell,
    slots: npt.NDArray[np.int64],
    prb: tuple[int, int],
    symbols: int,
    rng: np.random.Generator,
) -> Complex:
    """PDCCH with its DM-RS on every fourth subcarrier from 1, complex64 ``[n, symbols, subcarriers]``.

    Args:
        cell: whose.
        slots: slot numbers ``[n]``.
        prb: first and one past the last resource block.
        symbols: CORESET symbols.
        rng: payload source.
    """
    low, high = prb
    block = random_symbols("QPSK", (len(slots), symbols, SUBCARRIERS * (high - low)), rng)
    for symbol in range(symbols):
        block[:, symbol, 1::4] = _sequences(cell, slots, symbol, 3, prb)
    return block
