"""Cyclic redundancy checks of TS 38.212, 5.1.

A check is linear over GF(2) and starts from an empty register. Blocks of 64 bytes are therefore reduced by table
look-ups, all at once, and the blocks' remainders are folded pairwise: log2(blocks) steps instead of one a bit.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from lwm.errors import RejectedConfig

GENERATORS: dict[str, tuple[int, ...]] = {
    "24A": (24, 23, 18, 17, 14, 11, 10, 7, 6, 5, 4, 3, 1, 0),
    "24B": (24, 23, 6, 5, 1, 0),
    "24C": (24, 23, 21, 20, 17, 15, 13, 12, 8, 4, 2, 1, 0),
    "16": (16, 12, 5, 0),
    "11": (11, 10, 9, 5, 0),
    "6": (6, 5, 0),
}
"""Exponents of the generator polynomials (38.212 5.1)."""

_BLOCK_BYTES = 64


def as_bits(bits: npt.ArrayLike, clause: str) -> npt.NDArray[np.uint8]:
    """A batch of bits, checked.

    Args:
        bits: ``[batch, length]`` of 0 and 1.
        clause: what an error names.

    Returns:
        uint8 ``[batch, length]``.

    Raises:
        RejectedConfig: another number of axes, or a value other than 0 and 1.
    """
    array = np.asarray(bits)
    if array.ndim != 2:
        raise RejectedConfig(f"bits of shape {array.shape}", f"[batch, length] ({clause})", "add the batch axis")
    if array.size and (array.min() < 0 or array.max() > 1):
        raise RejectedConfig("bits with values other than 0 and 1", f"0 and 1 ({clause})", "pass hard bits")
    return array.astype(np.uint8, copy=False)


def crc_length(kind: str) -> int:
    """Number of parity bits of the check ``kind``; `RejectedConfig` for an unknown one."""
    if kind not in GENERATORS:
        raise RejectedConfig(f"CRC {kind!r}", f"one of {', '.join(GENERATORS)} (TS 38.212 5.1)", "pick one of them")
    return GENERATORS[kind][0]


@cache
def _powers(kind: str, count: int) -> npt.NDArray[np.uint32]:
    """``x^i mod g(x)`` for i below ``count``, as registers."""
    length = crc_length(kind)
    generator = sum(1 << exponent for exponent in GENERATORS[kind])
    powers = np.empty(count, dtype=np.uint32)
    register = 1
    for index in range(count):
        powers[index] = register
        register <<= 1
        register ^= generator * (register >> length)
    return powers


def _expand(by_bit: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """``[places, 256]`` image of every byte value from the images ``[places, 8]`` of its bits, lowest bit first."""
    values = np.arange(256)
    table = np.zeros((len(by_bit), 256), dtype=np.uint32)
    for bit in range(8):
        table ^= np.where(values >> bit & 1, by_bit[:, bit, None], np.uint32(0))
    return table


@cache
def _byte_table(kind: str) -> npt.NDArray[np.uint32]:
    """``[64, 256]``: what each byte value at each place of a block adds to the remainder."""
    powers = _powers(kind, 8 * _BLOCK_BYTES + crc_length(kind))[crc_length(kind) :]
    return _expand(powers.reshape(_BLOCK_BYTES, 8)[::-1])  # the block's last byte holds the lowest powers


def _apply(table: npt.NDArray[np.uint32], registers: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """A linear map on every register, from the images of the register's bytes, lowest byte first."""
    return np.bitwise_xor.reduce([table[place, registers >> 8 * place & 255] for place in range(len(table))])


@cache
def _block_shift(kind: str, level: int) -> npt.NDArray[np.uint32]:
    """``[3, 256]``: multiplication by ``x^(512 * 2^level)`` modulo the generator, by bytes of the register."""
    length = crc_length(kind)
    units = np.zeros(24, dtype=np.uint32)
    if level == 0:
        units[:length] = _powers(kind, 8 * _BLOCK_BYTES + length)[-length:]
    else:
        half = _block_shift(kind, level - 1)
        units[:length] = _apply(half, _apply(half, np.uint32(1) << np.arange(length, dtype=np.uint32)))
    return _expand(units.reshape(3, 8))


def crc_bits(bits: npt.NDArray[np.uint8], kind: str) -> npt.NDArray[np.uint8]:
    """Parity bits alone.

    Args:
        bits: uint8 ``[batch, K]``.
        kind: ``"24A"``, ``"24B"``, ``"24C"``, ``"16"``, ``"11"`` or ``"6"``.

    Returns:
        uint8 ``[batch, L]``, p_0 first.
    """
    length = crc_length(kind)
    batch, size = bits.shape
    blocks = 1 << max(0, -(-size // (8 * _BLOCK_BYTES)) - 1).bit_length()
    # Zeros in front leave the empty register empty.
    padded = np.zeros((batch, blocks * 8 * _BLOCK_BYTES), dtype=np.uint8)
    padded[:, padded.shape[1] - size :] = bits
    data = np.packbits(padded, axis=1).reshape(batch, blocks, _BLOCK_BYTES)
    registers = np.bitwise_xor.reduce(_byte_table(kind)[np.arange(_BLOCK_BYTES), data], axis=2)
    level = 0
    while registers.shape[1] > 1:
        registers = _apply(_block_shift(kind, level), registers[:, ::2]) ^ registers[:, 1::2]
        level += 1
    return (registers >> np.arange(length - 1, -1, -1, dtype=np.uint32) & np.uint32(1)).astype(np.uint8)


def crc_append(bits: npt.ArrayLike, kind: str, rnti: int = 0, ones: bool = False) -> npt.NDArray[np.uint8]:
    """Bits with their check behind them (38.212 5.1; for DCI 7.3.2).

    Args:
        bits: ``[batch, K]`` of 0 and 1.
        kind: ``"24A"``, ``"24B"``, ``"24C"``, ``"16"``, ``"11"`` or ``"6"``.
        rnti: 16-bit identity that scrambles the last 16 parity bits, most significant bit first; 0 scrambles nothing.
        ones: whether the check is computed as if 24 ones stood in front, which are not sent (DCI).

    Returns:
        uint8 ``[batch, K + L]``.

    Raises:
        RejectedConfig: not bits, an unknown check, an RNTI beyond 16 bits or one for a shorter check.
    """
    message = as_bits(bits, "TS 38.212 5.1")
    length = crc_length(kind)
    if not 0 <= rnti <= 0xFFFF or (rnti and length < 16):
        raise RejectedConfig(
            f"RNTI {rnti} on CRC {kind}", "0 to 65535 on a check of 16 or 24 bits (TS 38.212 7.3.2)", "mend the RNTI"
        )
    covered = np.concatenate([np.ones((len(message), 24), np.uint8), message], axis=1) if ones else message
    parity = crc_bits(covered, kind)
    if rnti:
        parity[:, -16:] ^= (rnti >> np.arange(15, -1, -1) & 1).astype(np.uint8)
    return np.concatenate([message, parity], axis=1)
