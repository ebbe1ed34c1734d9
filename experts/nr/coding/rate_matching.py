"""Rate matching of LDPC codes: TS 38.212, 5.4.2."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from experts.nr.coding.ldpc import COLUMNS, SYSTEMATIC_COLUMNS

_STARTS = {1: (0, 17, 33, 56), 2: (0, 13, 25, 43)}
"""Numerators of k_0 for the redundancy versions 0 to 3 (table 5.4.2.1-2)."""


def block_output_sizes(total: int, blocks: int, symbol_bits: int) -> npt.NDArray[np.intp]:
    """``[C]`` E_r, the bits of every code block after rate matching (38.212 5.4.2.1).

    Args:
        total: G, all bits of the transport block; a multiple of ``symbol_bits``.
        blocks: C.
        symbol_bits: modulation order times layers.
    """
    symbols = total // symbol_bits
    low = np.arange(blocks) <= blocks - symbols % blocks - 1
    return np.where(low, symbols // blocks, -(-symbols // blocks)) * symbol_bits


@lru_cache(maxsize=256)
def rate_matching_gather(
    base_graph: int, lifting: int, block_bits: int, output: int, modulation_order: int, rv: int, buffer: int | None
) -> npt.NDArray[np.int32]:
    """Places in the codeword of every rate-matched bit: bit selection and bit interleaving (38.212 5.4.2.1, 5.4.2.2).

    Args:
        base_graph: 1 or 2.
        lifting: Z.
        block_bits: K', information bits of the block without filler bits.
        output: E, a multiple of the modulation order.
        modulation_order: Q_m.
        rv: redundancy version 0 to 3.
        buffer: N_ref, limit of the circular buffer; None for the whole codeword.

    Returns:
        int32 ``[E]``, indices into the codeword of `ldpc_encode`.
    """
    size = (COLUMNS[base_graph] - 2) * lifting
    length = size if buffer is None else min(size, buffer)
    start = _STARTS[base_graph][rv] * length // size * lifting
    place = (start + np.arange(length, dtype=np.int32)) % length + 2 * lifting
    kept = place[(place < block_bits) | (place >= SYSTEMATIC_COLUMNS[base_graph] * lifting)]
    selected = np.resize(kept, output)
    return selected.reshape(modulation_order, -1).T.ravel()
