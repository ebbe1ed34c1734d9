"""Pseudo-random QPSK sequences of the downlink reference signals, and random payload symbols."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lwm.phy.constellation import cellular
from lwm.phy.sequences import gold

Complex = npt.NDArray[np.complex64]
Slots = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

SUBCARRIERS = 12
"""Subcarriers of a resource block, TS 38.211 clause 4.4.4.1."""


class Cell(NamedTuple):
    """What sequences depend on.

    Attributes:
        pci: physical cell identity, 0 to 1007.
        mu: numerology.
        n_rb: resource blocks of the carrier; its first is common resource block 0.
        symbols: OFDM symbols of a slot: 14, or 12 with extended cyclic prefix (TS 38.211 clause 4.3.2).
    """

    pci: int
    mu: int
    n_rb: int
    symbols: int = 14


def qpsk_sequence(c_init: int, length: int) -> Complex:
    """r(n) ``[length]`` of TS 38.211 clauses 7.4.1.1.1, 7.4.1.3.1, 7.4.1.4.1 and 7.4.1.5.2."""
    bits = gold(c_init, 2 * length).reshape(-1, 2)
    return cellular("QPSK")[2 * bits[:, 0] + bits[:, 1]]


@lru_cache(maxsize=1024)
def _sequence(c_init: int, length: int) -> Complex:
    """One symbol's r(n) over the whole carrier, kept because every channel of the slot takes its part of it."""
    sequence = qpsk_sequence(c_init, length)
    sequence.setflags(write=False)
    return sequence


def in_frame(cell: Cell, slots: Slots) -> tuple[list[int], npt.NDArray[np.intp]]:
    """Distinct slot numbers within the frame, and for each of ``slots`` which of them it is."""
    numbers, inverse = np.unique(slots % (10 << cell.mu), return_inverse=True)
    return numbers.tolist(), inverse


def reference(cell: Cell, slots: Slots, symbol: int, per_rb: int, n_id: int, n_scid: int = 0) -> Complex:
    """r(n) of PDSCH and PDCCH DM-RS over the whole carrier, complex64 ``[slots, n_rb, per_rb]``.

    TS 38.211 clauses 7.4.1.1.1 and 7.4.1.3.1, counted from common resource block 0.

    Args:
        cell: whose.
        slots: slot numbers ``[n]``, of which the number within the frame counts.
        symbol: OFDM symbol within the slot.
        per_rb: elements of r a resource block: 6 or 4 for PDSCH (configuration type 1 or 2), 3 for PDCCH.
        n_id: N_ID, 0 to 65535.
        n_scid: 0 or 1.
    """
    numbers, inverse = in_frame(cell, slots)
    inits = [
        (((cell.symbols * slot + symbol + 1) * (2 * n_id + 1) << 17) + 2 * n_id + n_scid) % (1 << 31)
        for slot in numbers
    ]
    rows = np.stack([_sequence(c_init, per_rb * cell.n_rb) for c_init in inits])
    return rows.reshape(len(inits), cell.n_rb, per_rb)[inverse]


def csi_sequence(cell: Cell, slots: Slots, symbol: int, length: int, n_id: int) -> Complex:
    """r(m) of CSI-RS, complex64 ``[slots, length]``, TS 38.211 clause 7.4.1.5.2; ``n_id`` is 0 to 1023."""
    numbers, inverse = in_frame(cell, slots)
    inits = [(((cell.symbols * slot + symbol + 1) * (2 * n_id + 1) << 10) + n_id) % (1 << 31) for slot in numbers]
    return np.stack([_sequence(c_init, length) for c_init in inits])[inverse]


def random_symbols(modulation: str, shape: tuple[int, ...], rng: np.random.Generator) -> Complex:
    """Random points of a constellation with unit mean power, complex64 ``shape``.

    Scrambled bits are uniform and independent, so these have the distribution of a scrambled codeword's symbols.
    """
    table = cellular(modulation)
    # Raw words of one or two bytes masked to the constellation's size, a power of two.
    word = np.dtype(np.uint8 if len(table) <= 256 else np.uint16)
    raw: npt.NDArray[np.unsignedinteger] = np.frombuffer(rng.bytes(int(np.prod(shape)) * word.itemsize), dtype=word)
    return table.take(np.bitwise_and(raw, word.type(len(table) - 1))).reshape(shape)
