"""Transport channel processing of DL-SCH and UL-SCH: TS 38.212, 6.2 and 7.2."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from experts.nr.coding.crc import as_bits, crc_append
from experts.nr.coding.ldpc import SYSTEMATIC_COLUMNS, ldpc_encode, lifting_size
from experts.nr.coding.rate_matching import block_output_sizes, rate_matching_gather
from lwm.errors import RejectedConfig

MAX_BLOCK_BITS = {1: 8448, 2: 3840}
"""K_cb (38.212 5.2.2)."""


@dataclass(frozen=True)
class Segmentation:
    """How a transport block becomes code blocks (38.212 5.2.2, 7.2.1 to 7.2.3).

    Attributes:
        base_graph: 1 or 2.
        crc: check of the transport block, ``"24A"`` or ``"16"``.
        blocks: C, number of code blocks.
        block_bits: K', bits of a code block with its check and without filler bits.
        lifting: Z_c.
    """

    base_graph: int
    crc: str
    blocks: int
    block_bits: int
    lifting: int

    @property
    def filled_bits(self) -> int:
        """K, bits of a code block with its filler bits."""
        return SYSTEMATIC_COLUMNS[self.base_graph] * self.lifting


def base_graph(size: int, code_rate: float) -> int:
    """Base graph of a transport block of ``size`` bits at the code rate of its MCS (38.212 6.2.2, 7.2.2)."""
    return 2 if size <= 292 or (size <= 3824 and code_rate <= 0.67) or code_rate <= 0.25 else 1


def segmentation(size: int, code_rate: float) -> Segmentation:
    """Code blocks of a transport block.

    Args:
        size: A, bits of the transport block.
        code_rate: code rate R of the MCS, above 0 and below 1.

    Raises:
        RejectedConfig: no bits, a code rate outside (0, 1), or a size that does not split into equal code blocks.
    """
    if size < 1 or not 0 < code_rate < 1:
        raise RejectedConfig(
            f"a transport block of {size} bits at rate {code_rate}", "at least 1 bit, 0 < R < 1 (TS 38.212 7.2)",
            "take both from mcs_entry and transport_block_size",
        )  # fmt: skip
    graph = base_graph(size, code_rate)
    crc = "24A" if size > 3824 else "16"
    total = size + (24 if crc == "24A" else 16)
    most = MAX_BLOCK_BITS[graph]
    blocks = 1 if total <= most else -(-total // (most - 24))
    if total % blocks:
        low = total // blocks * blocks - (total - size)
        raise RejectedConfig(
            f"a transport block of {size} bits in {blocks} code blocks",
            f"equal code blocks, such as {low} or {low + blocks} bits (TS 38.212 5.2.2, TS 38.214 5.1.3.2)",
            "take the size from transport_block_size",
        )
    block_bits = total // blocks + (24 if blocks > 1 else 0)
    columns = SYSTEMATIC_COLUMNS[graph]
    if graph == 2 and total <= 640:
        columns = 9 if total > 560 else 8 if total > 192 else 6
    return Segmentation(graph, crc, blocks, block_bits, lifting_size(graph, columns, block_bits))


def code_blocks(bits: npt.NDArray[np.uint8], plan: Segmentation) -> npt.NDArray[np.uint8]:
    """Code blocks with checks and with filler bits as zeros: uint8 ``[batch, A]`` to ``[batch, C, K]``."""
    batch = len(bits)
    message = crc_append(bits, plan.crc)
    if plan.blocks > 1:
        message = crc_append(message.reshape(batch * plan.blocks, -1), "24B")
    blocks = np.zeros((batch * plan.blocks, plan.filled_bits), dtype=np.uint8)
    blocks[:, : plan.block_bits] = message
    return blocks.reshape(batch, plan.blocks, -1)


def encode_transport_block(
    bits: npt.ArrayLike,
    E: int,
    code_rate: float,
    modulation_order: int,
    layers: int = 1,
    rv: int = 0,
    lbrm_bits: int | None = None,
) -> npt.NDArray[np.uint8]:
    """Coded bits of one transport block: check, segmentation, LDPC, rate matching, concatenation (38.212 6.2, 7.2).

    Args:
        bits: ``[batch, A]`` of 0 and 1.
        E: G of the standard, coded bits that the allocation carries; a multiple of Q_m times layers.
        code_rate: code rate of the MCS, which chooses the base graph.
        modulation_order: Q_m, bits per symbol: 1, 2, 4, 6, 8 or 10.
        layers: number of layers of the transport block.
        rv: redundancy version 0 to 3.
        lbrm_bits: TBS_LBRM, limits the circular buffer (5.4.2.1; `lbrm_transport_block_size`); None: no limit.

    Returns:
        uint8 ``[batch, E]``.

    Raises:
        RejectedConfig: a size, rate, order, number of layers or redundancy version outside the standard.
    """
    message = as_bits(bits, "TS 38.212 7.2")
    plan = segmentation(message.shape[1], code_rate)
    if modulation_order not in (1, 2, 4, 6, 8, 10) or not 1 <= layers <= 8 or rv not in (0, 1, 2, 3):
        raise RejectedConfig(
            f"modulation order {modulation_order}, {layers} layers, rv {rv}",
            "1, 2, 4, 6, 8 or 10 bits, 1 to 8 layers, rv 0 to 3 (TS 38.212 5.4.2.1)",
            "mend them",
        )
    symbol_bits = modulation_order * layers
    if plan.blocks * symbol_bits > E or E % symbol_bits:
        low = max(E // symbol_bits, plan.blocks) * symbol_bits
        raise RejectedConfig(
            f"E = {E} coded bits", f"a multiple of {symbol_bits}, such as {low} (TS 38.212 5.4.2.1)", "mend E"
        )
    buffer = None if lbrm_bits is None else 3 * lbrm_bits // (2 * plan.blocks)
    sizes = block_output_sizes(E, plan.blocks, symbol_bits)
    gathers = [
        rate_matching_gather(plan.base_graph, plan.lifting, plan.block_bits, size, modulation_order, rv, buffer)
        for size in np.unique(sizes).tolist()  # at most two, the smaller one first, as in the output
    ]
    columns = int(max(gather.max() for gather in gathers)) // plan.lifting + 1
    blocks = code_blocks(message, plan).reshape(-1, plan.filled_bits)
    words = ldpc_encode(blocks, plan.base_graph, plan.lifting, columns).reshape(len(message), plan.blocks, -1)
    parts = [words[:, sizes == len(gather)][:, :, gather].reshape(len(message), -1) for gather in gathers]
    return np.concatenate(parts, axis=1)
