"""Channel coding of 5G NR: TS 38.212, and the MCS and transport block sizes of TS 38.214.

Bits are uint8 ``[batch, length]``; everything that depends on sizes alone is cached.
"""

from experts.nr.coding.crc import crc_append
from experts.nr.coding.polar import polar_encode
from experts.nr.coding.small_block import PLACEHOLDER_X, PLACEHOLDER_Y, small_block_encode
from experts.nr.coding.tables import (
    MCS_TABLES,
    data_resource_elements,
    lbrm_transport_block_size,
    mcs_entry,
    transport_block_size,
)
from experts.nr.coding.transport import encode_transport_block
from experts.nr.coding.uci import encode_uci

__all__ = [
    "MCS_TABLES",
    "PLACEHOLDER_X",
    "PLACEHOLDER_Y",
    "crc_append",
    "data_resource_elements",
    "encode_transport_block",
    "encode_uci",
    "lbrm_transport_block_size",
    "mcs_entry",
    "polar_encode",
    "small_block_encode",
    "transport_block_size",
]
