"""Bit sequences shared by LTE and NR."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

_DISCARD = 1600


def _m_sequence(taps: tuple[int, ...], state: npt.NDArray[np.uint8], length: int) -> npt.NDArray[np.uint8]:
    """x(n+31) = sum of x(n+tap) mod 2, in runs that double.

    Squared k times (over GF(2) the square of a sum is the sum of the squares), the recurrence is
    x(n+31*2^k) = sum of x(n+tap*2^k), which gives (31 - max(taps)) * 2^k bits at a time once 31*2^k are there.
    """
    bits = np.empty(length + 31, dtype=np.uint8)
    bits[:31] = state
    known, scale = 31, 1
    while known < length + 31:
        while 31 * scale * 2 <= known:
            scale *= 2
        stop = min(known + (31 - max(taps)) * scale, length + 31)
        base = known - 31 * scale
        new = bits[base + taps[0] * scale : base + taps[0] * scale + stop - known].copy()
        for tap in taps[1:]:
            new ^= bits[base + tap * scale : base + tap * scale + stop - known]
        bits[known:stop] = new
        known = stop
    return bits[:length]


@lru_cache(maxsize=16)
def _first(length: int) -> npt.NDArray[np.uint8]:
    state = np.zeros(31, dtype=np.uint8)
    state[0] = 1
    return _m_sequence((0, 3), state, length)


@lru_cache(maxsize=16)
def _second_basis(length: int) -> npt.NDArray[np.uint8]:
    """Response ``[31, length]`` of the second register to each initial bit; the register is linear."""
    return np.stack([_m_sequence((0, 1, 2, 3), row, length) for row in np.eye(31, dtype=np.uint8)])


def gold(c_init: int, length: int) -> npt.NDArray[np.uint8]:
    """Pseudo-random sequence c(n) of TS 36.211 clause 7.2 and TS 38.211 clause 5.2.1.

    Args:
        c_init: 31-bit initialisation of the second m-sequence.
        length: bits wanted.

    Returns:
        uint8 ``[length]`` of 0 and 1.
    """
    # Rounded up so that the cache serves many lengths.
    total = -(-(length + _DISCARD) // 8192) * 8192
    chosen = [bit for bit in range(31) if c_init >> bit & 1]
    second = np.bitwise_xor.reduce(_second_basis(total)[chosen], axis=0, initial=0)
    return (_first(total) ^ second)[_DISCARD : _DISCARD + length]
