"""Channel coding of at most 11 bits: TS 38.212, 5.3.3 and 5.4.3."""

import numpy as np
import numpy.typing as npt

from experts.nr.coding.crc import as_bits
from lwm.errors import RejectedConfig

PLACEHOLDER_Y = 2
"""Stands for *y*, repeat the bit before (38.211 6.3.1.1, 38.212 5.3.3.1)."""
PLACEHOLDER_X = 3
"""Stands for *x*, always 1 after scrambling (38.211 6.3.1.1)."""

_BASIS_ROWS = """
11000000001 11100000011 10010010111 10110000101 11110001001 11001011101 10101010111 10011001101
11011001011 10111010011 10100111011 11100110101 10010101111 11010101011 10001101001 11001111011
11101110010 10011100100 11011111000 10000110000 10100010001 11010000011 10001001101 11101000111
11111011110 11000111001 10110100110 11110101110 10101110100 10111111100 11111111111 10000000000
"""

BASIS = np.array([[int(digit) for digit in row] for row in _BASIS_ROWS.split()], dtype=np.uint8)
"""``[32, 11]`` M_i,k, the basis sequences of the (32, K) code (table 5.3.3.3-1)."""


def _short_code(bits: npt.NDArray[np.uint8], modulation_order: int) -> npt.NDArray[np.uint8]:
    """Codes of one and two bits (tables 5.3.3.1-1 and 5.3.3.2-1)."""
    batch, size = bits.shape
    tail = max(0, modulation_order - 2)
    filler = np.full((batch, tail), PLACEHOLDER_X, dtype=np.uint8)
    if size == 1:
        mark = np.full((batch, int(modulation_order > 1)), PLACEHOLDER_Y, dtype=np.uint8)
        return np.concatenate([bits, mark, filler], axis=1)
    triple = np.concatenate([bits, bits[:, :1] ^ bits[:, 1:]], axis=1)
    if modulation_order == 1:
        return triple
    pairs = triple[:, [0, 1, 2, 0, 1, 2]].reshape(batch, 3, 2)
    return np.concatenate([pairs, np.repeat(filler[:, None], 3, axis=1)], axis=2).reshape(batch, -1)


def small_block_encode(bits: npt.ArrayLike, E: int, modulation_order: int = 1) -> npt.NDArray[np.uint8]:
    """Coded bits of a small block, repeated to E bits (38.212 5.3.3, 5.4.3).

    Args:
        bits: ``[batch, K]`` of 0 and 1, K from 1 to 11.
        E: number of bits after rate matching.
        modulation_order: bits per symbol of the channel. One or two bits are spread over it with placeholders
            (`PLACEHOLDER_X`, `PLACEHOLDER_Y`) when it is above 1; with 1 none arise.

    Returns:
        uint8 ``[batch, E]``.

    Raises:
        RejectedConfig: no bits or more than 11, no output, or an unknown modulation order.
    """
    message = as_bits(bits, "TS 38.212 5.3.3")
    size = message.shape[1]
    if not 1 <= size <= 11:
        raise RejectedConfig(f"a small block of {size} bits", "1 to 11 (TS 38.212 5.3.3)", "use polar_encode above 11")
    if E < 1 or modulation_order not in (1, 2, 4, 6, 8):
        raise RejectedConfig(
            f"E = {E}, modulation order {modulation_order}", "E >= 1 and 1, 2, 4, 6 or 8 (TS 38.212 5.3.3)", "mend them"
        )
    code = (message @ BASIS[:, :size].T) % np.uint8(2) if size > 2 else _short_code(message, modulation_order)
    return code[:, np.arange(E) % code.shape[1]]
