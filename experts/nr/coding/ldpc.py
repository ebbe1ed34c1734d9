"""LDPC encoding of TS 38.212, 5.3.2.

The parity-check matrix is a base graph of circulants. Encoding works on whole blocks of Z bits: the product of a
circulant of shift s with a block is the block rotated, here a slice of the block written twice. Of the four core parity
blocks the first follows from the sum of the four core rows, in which the double diagonal cancels; each of the others,
and every parity block of the extension, follows from one row.
"""

from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from experts.nr.coding.base_graphs import LIFTING_SIZES, base_graph_entries
from lwm.errors import RejectedConfig

SYSTEMATIC_COLUMNS = {1: 22, 2: 10}
"""Columns of a base graph that hold information bits."""
COLUMNS = {1: 68, 2: 52}
"""Columns of a base graph, the two punctured ones included."""

Rows = tuple[tuple[tuple[int, int], ...], ...]


def lifting_size(base_graph: int, information_columns: int, block_bits: int) -> int:
    """Smallest lifting size Z with ``K_b Z >= K'`` (38.212 5.2.2).

    Raises:
        RejectedConfig: more bits than the largest code block holds.
    """
    sizes = sorted(size for row in LIFTING_SIZES for size in row)
    for size in sizes:
        if information_columns * size >= block_bits:
            return size
    raise RejectedConfig(
        f"a code block of {block_bits} bits on base graph {base_graph}",
        f"at most {information_columns * sizes[-1]} (TS 38.212 5.2.2)",
        "segment the transport block",
    )


@cache
def base_graph_rows(base_graph: int, lifting: int) -> Rows:
    """Per row of the base graph its ``(column, shift)`` pairs, shifts modulo Z (38.212 5.3.2).

    Raises:
        RejectedConfig: a base graph other than 1 and 2, a lifting size that table 5.3.2-1 does not hold.
    """
    if base_graph not in COLUMNS:
        raise RejectedConfig(f"base graph {base_graph}", "1 or 2 (TS 38.212 5.3.2)", "pick one of them")
    index = [number for number, sizes in enumerate(LIFTING_SIZES) if lifting in sizes]
    if not index:
        raise RejectedConfig(
            f"lifting size {lifting}", "one of table 5.3.2-1 of TS 38.212", "take it from lifting_size"
        )
    entries = base_graph_entries(base_graph)
    shifts = entries[:, 2 + index[0]] % lifting
    return tuple(
        tuple(zip(entries[mine, 1].tolist(), shifts[mine].tolist(), strict=True))
        for mine in (entries[:, 0] == row for row in range(entries[-1, 0] + 1))
    )


@lru_cache(maxsize=32)
def _first_shift(base_graph: int, lifting: int) -> int:
    """Shift of the first parity block in the sum of the core rows: of three circulants two cancel."""
    column = SYSTEMATIC_COLUMNS[base_graph]
    shifts = [shift for row in base_graph_rows(base_graph, lifting)[:4] for place, shift in row if place == column]
    return next(shift for shift in shifts if shifts.count(shift) % 2)


def ldpc_encode(
    bits: npt.NDArray[np.uint8], base_graph: int, lifting: int, columns: int | None = None
) -> npt.NDArray[np.uint8]:
    """The codeword, the first ``2 Z`` bits that are never sent included.

    Args:
        bits: uint8 ``[batch, K]``, K = 22 Z (base graph 1) or 10 Z (2), filler bits as zeros.
        base_graph: 1 or 2.
        lifting: Z.
        columns: how many columns of the base graph are wanted; None: all, 68 or 52. At high code rates most of the
            parity is never sent.

    Returns:
        uint8 ``[batch, columns Z]``; ``H c = 0``.

    Raises:
        RejectedConfig: an unknown base graph or lifting size, or another number of bits.
    """
    rows = base_graph_rows(base_graph, lifting)
    batch, size = bits.shape
    first = SYSTEMATIC_COLUMNS[base_graph]
    if size != first * lifting:
        raise RejectedConfig(f"{size} information bits", f"{first * lifting} (TS 38.212 5.3.2)", "add the filler bits")
    # The core is always solved: the extension hangs on it.
    count = COLUMNS[base_graph] if columns is None else max(columns, first + 4)
    # Every block twice in a row, so that a rotation is a slice.
    double = np.empty((count, batch, 2 * lifting), dtype=np.uint8)
    blocks = bits.reshape(batch, first, lifting).transpose(1, 0, 2)
    double[:first, :, :lifting] = blocks
    double[:first, :, lifting:] = blocks

    def add_row(row: int, below: int) -> npt.NDArray[np.uint8]:
        """Sum of a row's products over the columns left of ``below``."""
        total = np.zeros((batch, lifting), dtype=np.uint8)
        for column, shift in rows[row]:
            if column < below:
                total ^= double[column, :, shift : shift + lifting]
        return total

    def put(column: int, block: npt.NDArray[np.uint8]) -> None:
        double[column, :, :lifting] = block
        double[column, :, lifting:] = block

    core = np.bitwise_xor.reduce([add_row(row, first) for row in range(4)])
    put(first, np.roll(core, _first_shift(base_graph, lifting), axis=1))
    for row in range(3):
        put(first + row + 1, add_row(row, first + row + 1))
    for row in range(4, count - first):
        put(first + row, add_row(row, first + 4))
    return double[:columns, :, :lifting].transpose(1, 0, 2).reshape(batch, -1)
