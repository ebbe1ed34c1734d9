"""The 5G NR uplink: PUSCH, PUCCH, SRS and PRACH (TS 38.211 clause 6).

The first three give :class:`Block` s of resource elements on the carrier's grid; PRACH, which has its own subcarrier
spacing, gives samples. Nothing here knows of frames, captures or files.
"""

from experts.nr.uplink.grid import Block, Carrier
from experts.nr.uplink.prach import PRACH, PRACHSignal, prach
from experts.nr.uplink.pucch import PUCCH, pucch, pucch_capacity
from experts.nr.uplink.pusch import PUSCH, pusch, pusch_capacity
from experts.nr.uplink.srs import SRS, srs

__all__ = [
    "PRACH",
    "PUCCH",
    "PUSCH",
    "SRS",
    "Block",
    "Carrier",
    "PRACHSignal",
    "prach",
    "pucch",
    "pucch_capacity",
    "pusch",
    "pusch_capacity",
    "srs",
]
