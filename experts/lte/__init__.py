"""LTE downlink (3GPP TS 36.211), frame structure types 1 (FDD) and 2 (TDD), one antenna port."""

from experts.lte.config import PDSCH, LTEConfig, TDDPattern
from experts.lte.technology import LTE

__all__ = ["LTE", "PDSCH", "LTEConfig", "TDDPattern"]
