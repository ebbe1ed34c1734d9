"""Physical broadcast channel: the master information block, coded, rate-matched and scrambled as the standard says."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lwm.phy.constellation import cellular, map_bits
from lwm.phy.sequences import gold

Bits = npt.NDArray[np.uint8]

BANDWIDTH_CODES = (6, 15, 25, 50, 75, 100)
"""N_RB by the three bits dl-Bandwidth (TS 36.331 clause 6.2.2, MasterInformationBlock)."""

_GENERATORS = (0o133, 0o171, 0o165)
_COLUMNS = (1, 17, 9, 25, 5, 21, 13, 29, 3, 19, 11, 27, 7, 23, 15, 31)
_NULL = 2


def master_information_block(n_rb: int, sfn: int) -> Bits:
    """The 24 bits: bandwidth, normal PHICH duration, PHICH resource "one", eight high bits of the frame number."""
    value = BANDWIDTH_CODES.index(n_rb) << 21 | 0b010 << 18 | (sfn >> 2 & 0xFF) << 10
    return np.array([value >> bit & 1 for bit in range(23, -1, -1)], dtype=np.uint8)


def crc16(bits: Bits) -> Bits:
    """Parity bits of TS 36.212 clause 5.1.1, x^16 + x^12 + x^5 + 1; not masked, as for one antenna port."""
    register = 0
    for bit in bits.tolist():
        register = register << 1 ^ (0x1021 if (register >> 15 ^ bit) & 1 else 0)
        register &= 0xFFFF
    return np.array([register >> bit & 1 for bit in range(15, -1, -1)], dtype=np.uint8)


def convolve(bits: Bits) -> Bits:
    """Tail-biting convolutional code of rate 1/3, three streams ``[3, bits]`` (TS 36.212 clause 5.1.3.1)."""
    delayed = np.stack([np.roll(bits, delay) for delay in range(7)])
    taps = np.array([[generator >> (6 - delay) & 1 for delay in range(7)] for generator in _GENERATORS])
    return (taps @ delayed % 2).astype(np.uint8)


def rate_match(streams: Bits, length: int) -> Bits:
    """Interleave each stream in 32 columns and read the circular buffer ``length`` bits far (clause 5.1.4.2)."""
    size = streams.shape[1]
    rows = -(-size // 32)
    order = np.array([*_COLUMNS, *(column - 1 for column in _COLUMNS)])
    buffer = []
    for stream in streams:
        padded = np.concatenate([np.full(32 * rows - size, _NULL, dtype=np.uint8), stream])
        buffer.append(padded.reshape(rows, 32)[:, order].T.ravel())
    kept = np.concatenate(buffer)
    return np.resize(kept[kept != _NULL], length)


@lru_cache(maxsize=64)
def pbch(pci: int, n_rb: int, sfn: int, extended: bool) -> npt.NDArray[np.complex64]:
    """QPSK symbols ``[4 frames, 240]`` (216 with the extended prefix) of the 40 ms that hold frame ``sfn``.

    TS 36.211 clause 6.6 and TS 36.212 clause 5.3.1. The first row is of the frame whose number is a multiple of four.
    """
    block = master_information_block(n_rb, sfn)
    length = 1728 if extended else 1920
    bits = rate_match(convolve(np.concatenate([block, crc16(block)])), length) ^ gold(pci, length)
    return map_bits(bits.reshape(4, -1), cellular("QPSK"))
