"""Transport blocks of the shared channels (TS 38.212 clauses 6.2 and 7.2, sizes of TS 38.214 clause 5.1.3.2)."""

import numpy as np
import numpy.typing as npt

from experts.nr.coding import data_resource_elements, encode_transport_block, transport_block_size
from experts.nr.coding.transport import segmentation
from experts.nr.downlink import PDSCH
from experts.nr.downlink.dmrs import dmrs_symbols
from experts.nr.uplink import PUSCH, Carrier
from experts.nr.uplink.pusch import hops
from lwm.errors import RejectedConfig
from lwm.phy.constellation import BITS

SUBCARRIERS_OF_GROUP = {1: 6, 2: 4}
"""Elements of a resource block that one DM-RS CDM group takes, by configuration type."""
MOST_EFFECTIVE_RATE = 0.95
"""Bits with checks over coded bits, above which a receiver skips the block, TS 38.214 clauses 5.1.3 and 6.1.4."""


def _block_size(capacity: int, prbs: int, symbols: int, pilots: int, rate: float, order: int, layers: int) -> int:
    """Transport block bits: N_RE of TS 38.214 clause 5.1.3.2, but no more than the ``capacity`` really has.

    The clause leaves CSI-RS and SSB to a configured overhead; a scheduler that knows what it sends counts exactly.
    """
    elements = min(data_resource_elements(prbs, symbols, pilots), capacity // (order * layers))
    return transport_block_size(elements, rate, order, layers)


def require_decodable(size: int, capacity: int, code_rate: float) -> None:
    """Raise RejectedConfig for a transport block of ``size`` bits that ``capacity`` coded bits cannot carry."""
    plan = segmentation(size, code_rate)
    effective = plan.blocks * plan.block_bits / capacity
    if effective > MOST_EFFECTIVE_RATE:
        raise RejectedConfig(
            f"effective code rate {effective:.3f} of a transport block of {size} bits in {capacity} coded bits "
            "(TS 38.214 clauses 5.1.3 and 6.1.4)",
            f"at most {MOST_EFFECTIVE_RATE}",
            "lower the code rate or allocate more resource elements",
        )


def pdsch_block_size(allocation: PDSCH, capacity: int, code_rate: float) -> int:
    """Bits of the transport block of a PDSCH whose codeword has ``capacity`` bits, at rate ``code_rate``."""
    count = len(dmrs_symbols(allocation.dmrs, allocation.mapping, allocation.symbols))
    pilots = count * allocation.dmrs.groups_without_data * SUBCARRIERS_OF_GROUP[allocation.dmrs.type]
    order = BITS[allocation.modulation]
    return _block_size(
        capacity, allocation.prb_count, allocation.symbols[1], pilots, code_rate, order, allocation.layers
    )


def pusch_block_size(carrier: Carrier, allocation: PUSCH, capacity: int, code_rate: float) -> int:
    """Bits of the transport block of a PUSCH whose codeword has ``capacity`` bits, at rate ``code_rate``."""
    count = sum(len(hop.dmrs) for hop in hops(carrier, allocation, odd_slot=False))
    pilots = count * allocation.dmrs.groups_without_data * SUBCARRIERS_OF_GROUP[allocation.dmrs.type]
    prbs, symbols = allocation.prb[1] - allocation.prb[0], allocation.symbols[1] - allocation.symbols[0]
    order = BITS[allocation.modulation.removeprefix("pi/2-")]
    return _block_size(capacity, prbs, symbols, pilots, code_rate, order, 1)


def codewords(
    size: int, capacity: int, code_rate: float, order: int, layers: int, slots: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Random transport blocks of ``size`` bits encoded to ``[slots, capacity]``, redundancy version 0."""
    blocks = rng.integers(0, 2, (slots, size), dtype=np.uint8)
    return encode_transport_block(blocks, capacity, code_rate, order, layers)
