"""Constellations of the standards, unit mean power, as tables indexed by the bits of a symbol (first bit highest)."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

BITS = {"BPSK": 1, "QPSK": 2, "16QAM": 4, "64QAM": 6, "256QAM": 8, "1024QAM": 10}
"""Bits a symbol carries."""


def _bits_of(order: int) -> npt.NDArray[np.int64]:
    return np.arange(1 << order)[:, None] >> np.arange(order - 1, -1, -1) & 1


@lru_cache
def cellular(name: str) -> npt.NDArray[np.complex64]:
    """3GPP mapping, TS 36.211 clause 7.1 and TS 38.211 clause 5.1: even bits I, odd bits Q, complex64 ``[2^m]``."""
    order = BITS[name]
    sign = 1 - 2 * _bits_of(order)
    if name == "BPSK":
        return ((1 + 1j) / np.sqrt(2) * sign[:, 0]).astype(np.complex64)

    def axis(signs: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        value = np.ones(len(signs))
        for column in range(signs.shape[1] - 1, 0, -1):
            value = 2.0 ** (signs.shape[1] - column) - signs[:, column] * value
        return signs[:, 0] * value

    points = axis(sign[:, 0::2]) + 1j * axis(sign[:, 1::2])
    return (points / np.sqrt(np.mean(np.abs(points) ** 2))).astype(np.complex64)


@lru_cache
def wlan(name: str) -> npt.NDArray[np.complex64]:
    """IEEE 802.11 mapping (802.11-2020 clause 17.3.5.8): Gray-coded, first half of the bits I, second Q."""
    order = BITS[name]
    bits = _bits_of(order)
    if name == "BPSK":
        return (2 * bits[:, 0] - 1).astype(np.complex64)
    half = order // 2

    def axis(gray: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        binary = np.bitwise_xor.accumulate(gray, axis=1)
        index = binary @ (1 << np.arange(half - 1, -1, -1))
        return 2.0 * index - (2**half - 1)

    points = axis(bits[:, :half]) + 1j * axis(bits[:, half:])
    return (points / np.sqrt(np.mean(np.abs(points) ** 2))).astype(np.complex64)


def map_bits(bits: npt.NDArray[np.uint8], table: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
    """Symbols of a bit array whose last axis is a multiple of the table's bits a symbol."""
    order = len(table).bit_length() - 1
    groups = bits.reshape(*bits.shape[:-1], -1, order)
    index = groups @ (1 << np.arange(order - 1, -1, -1))
    return table[index]
