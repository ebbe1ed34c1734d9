"""5G NR of FR1 and FR2: carriers, frames and their channels and signals."""

from experts.nr.carrier import Carrier
from experts.nr.config import Control, NRConfig, Report, Uplink, User
from experts.nr.downlink import CSIRS, DMRS, MIB, PDSCH, PTRS
from experts.nr.ssb import SSB
from experts.nr.tdd import TDDPattern
from experts.nr.technology import NR
from experts.nr.uplink import PRACH, PUCCH, PUSCH, SRS

__all__ = [
    "CSIRS",
    "DMRS",
    "MIB",
    "NR",
    "PDSCH",
    "PRACH",
    "PTRS",
    "PUCCH",
    "PUSCH",
    "SRS",
    "SSB",
    "Carrier",
    "Control",
    "NRConfig",
    "Report",
    "TDDPattern",
    "Uplink",
    "User",
]
