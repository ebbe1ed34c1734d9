"""Coding of uplink control information: TS 38.212, 6.3.1 (PUCCH) and 6.3.2 (PUSCH)."""

import numpy as np
import numpy.typing as npt

from experts.nr.coding.crc import as_bits, crc_append
from experts.nr.coding.polar import polar_encode
from experts.nr.coding.small_block import small_block_encode
from lwm.errors import RejectedConfig

MAX_UCI_BITS = 1706


def uci_segments(size: int, output: int) -> int:
    """Number of code blocks of ``size`` UCI bits sent in ``output`` bits (38.212 6.3.1.2.1)."""
    return 2 if size >= 1013 or (size >= 360 and output >= 1088) else 1


def encode_uci(bits: npt.ArrayLike, E: int, modulation_order: int = 1) -> npt.NDArray[np.uint8]:
    """UCI bits coded: check, segmentation, polar or small-block code, rate matching, concatenation.

    Args:
        bits: ``[batch, A]`` of 0 and 1, A from 1 to 1706.
        E: E_UCI, coded bits of the channel.
        modulation_order: bits per symbol, used for one or two bits only (`small_block_encode`).

    Returns:
        uint8 ``[batch, E]``.

    Raises:
        RejectedConfig: sizes outside the standard.
    """
    message = as_bits(bits, "TS 38.212 6.3.1.2")
    batch, size = message.shape
    if size <= 11:
        return small_block_encode(message, E, modulation_order)
    if size > MAX_UCI_BITS:
        raise RejectedConfig(f"{size} UCI bits", f"at most {MAX_UCI_BITS} (TS 38.212 5.2.1)", "send fewer")
    segments = uci_segments(size, E)
    # An odd size gets a leading zero (5.2.1); one segment is never padded.
    padded = np.concatenate([np.zeros((batch, -size % segments), np.uint8), message], axis=1)
    blocks = crc_append(padded.reshape(batch * segments, -1), "6" if size <= 19 else "11")
    code = polar_encode(blocks, E // segments, "uci").reshape(batch, -1)
    # What the division leaves over is filled with zeros (6.3.1.5).
    return np.concatenate([code, np.zeros((batch, E - code.shape[1]), np.uint8)], axis=1)
