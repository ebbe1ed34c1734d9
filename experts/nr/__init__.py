"""5G NR downlink of FR1 with SS/PBCH blocks, PDSCH, PDCCH and their reference signals."""

from experts.nr.carrier import TDDPattern
from experts.nr.config import NRConfig, User
from experts.nr.ssb import SSB
from experts.nr.technology import NR

__all__ = ["NR", "SSB", "NRConfig", "TDDPattern", "User"]
