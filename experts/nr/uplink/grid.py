"""What the uplink channels share: the carrier they stand on, the blocks they give, random payload, refusals."""

from collections.abc import Container, Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lwm.errors import RejectedConfig
from lwm.phy.constellation import cellular, map_bits
from lwm.phy.sequences import gold

Complex = npt.NDArray[np.complex64]
Bits = npt.NDArray[np.uint8]
Slots = npt.NDArray[np.int64]

SUBCARRIERS = 12
"""Subcarriers of a resource block, TS 38.211 clause 4.4.4.1."""
MODULATION_BITS = {"pi/2-BPSK": 1, "BPSK": 1, "QPSK": 2, "16QAM": 4, "64QAM": 6, "256QAM": 8}
"""Bits a symbol carries."""


class Carrier(NamedTuple):
    """Uplink carrier: physical cell identity, numerology, resource blocks, extended cyclic prefix or not.

    The carrier's first resource block is common resource block 0 and the bandwidth part is the whole carrier.
    """

    pci: int
    mu: int
    n_rb: int
    extended_cp: bool = False

    @property
    def symbols(self) -> int:
        """OFDM symbols of a slot, TS 38.211 tables 4.3.2-1 and 4.3.2-2."""
        return 12 if self.extended_cp else 14

    @property
    def frame_slots(self) -> int:
        """Slots of a frame."""
        return 10 << self.mu


class Block(NamedTuple):
    """A rectangle of resource elements in some of the slots asked for.

    Attributes:
        rows: positions ``[m]`` in the ``slots`` argument.
        symbol: first OFDM symbol of the slot.
        subcarrier: first subcarrier of the carrier.
        values: complex64 ``[m, symbols, subcarriers]``, unit mean power over data elements, 0 where nothing is sent.
        used: bool ``[symbols, subcarriers]``, elements that carry something.
    """

    rows: Slots
    symbol: int
    subcarrier: int
    values: Complex
    used: npt.NDArray[np.bool_]


def resource_grid(carrier: Carrier, slots: int, blocks: Iterable[Block]) -> Complex:
    """Sum of blocks on the carrier, complex64 ``[slots, symbols, subcarriers]``."""
    grid = np.zeros((slots, carrier.symbols, SUBCARRIERS * carrier.n_rb), dtype=np.complex64)
    for block in blocks:
        symbols, subcarriers = block.used.shape
        rows = slice(block.symbol, block.symbol + symbols)
        grid[block.rows, rows, block.subcarrier : block.subcarrier + subcarriers] += block.values
    return grid


def require_one_of(value: object, legal: Iterable[object], what: str, clause: str) -> None:
    """Raise RejectedConfig unless ``value`` is one of ``legal``; numbers are told the nearest.

    Args:
        value: what was given.
        legal: what may be.
        what: name with unit, as the message begins.
        clause: where the standard says so.
    """
    # Most values are legal, and some ranges are long: listed only for the message.
    if isinstance(legal, Container) and value in legal:
        return
    choices = list(legal)
    if value in choices:
        return
    numbers = [choice for choice in choices if isinstance(choice, int | float)]
    remedy = ""
    if numbers and isinstance(value, int | float) and np.isfinite(value):
        remedy = f"nearest is {min(numbers, key=lambda choice: abs(choice - value)):g}"
    shown = f"{numbers[0]} to {numbers[-1]}" if _is_range(choices) else f"one of {choices}"
    raise RejectedConfig(f"{what} {value!r} ({clause})", shown, remedy)


def _is_range(choices: list[object]) -> bool:
    numbers = [choice for choice in choices if isinstance(choice, int)]
    return len(numbers) == len(choices) > 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def require_prbs(carrier: Carrier, start: int, count: int, what: str, clause: str) -> None:
    """Raise RejectedConfig unless resource blocks ``start`` to ``start + count`` lie in the carrier."""
    require_one_of(count, range(1, carrier.n_rb + 1), f"{what} resource blocks", clause)
    require_one_of(start, range(carrier.n_rb - count + 1), f"{what} first resource block", clause)


@lru_cache
def transform_sizes(most: int) -> tuple[int, ...]:
    """Numbers of resource blocks 2^a 3^b 5^c from 1 to ``most``, TS 38.211 clause 6.3.1.4."""
    powers = {2**a * 3**b * 5**c for a in range(10) for b in range(6) for c in range(4)}
    return tuple(sorted(size for size in powers if size <= most))


def modulate_bits(bits: Bits, modulation: str) -> Complex:
    """Symbols of a bit array ``[..., n]``, TS 38.211 clause 5.1; pi/2-BPSK turns every odd symbol by 90 degrees."""
    if modulation != "pi/2-BPSK":
        return map_bits(bits, cellular(modulation))
    symbols = cellular("BPSK").take(bits)
    symbols[..., 1::2] *= np.complex64(1j)
    return symbols


def random_symbols(modulation: str, shape: tuple[int, ...], rng: np.random.Generator) -> Complex:
    """Random points of a constellation with unit mean power, complex64 ``shape``; pi/2-BPSK along the last axis."""
    order = MODULATION_BITS[modulation]
    index = np.frombuffer(rng.bytes(int(np.prod(shape))), dtype=np.uint8) & np.uint8((1 << order) - 1)
    if modulation == "pi/2-BPSK":
        return modulate_bits(index.reshape(shape), modulation)
    return cellular(modulation).take(index).reshape(shape)


def scramble(bits: Bits, rnti: int, n_id: int) -> Bits:
    """Bits ``[..., n]`` scrambled with c_init = n_RNTI 2^15 + n_ID, TS 38.211 clauses 6.3.1.1 and 6.3.2.5.1."""
    return bits ^ gold((rnti << 15) + n_id, bits.shape[-1])
