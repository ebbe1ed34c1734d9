"""Downlink channels and signals of NR: pure functions from a channel's description to resource elements."""

from experts.nr.downlink.csirs import CSIRS, csi_rs, csi_rs_elements, csi_rs_mask
from experts.nr.downlink.dmrs import DMRS
from experts.nr.downlink.pbch import MIB
from experts.nr.downlink.pdcch import PDCCH, Coreset, coreset_rbs, pdcch, validate_pdcch
from experts.nr.downlink.pdsch import PDSCH, pdsch, pdsch_capacity, pdsch_prbs, validate_pdsch
from experts.nr.downlink.ptrs import PTRS
from experts.nr.downlink.sequences import Cell

__all__ = [
    "CSIRS",
    "DMRS",
    "MIB",
    "PDCCH",
    "PDSCH",
    "PTRS",
    "Cell",
    "Coreset",
    "coreset_rbs",
    "csi_rs",
    "csi_rs_elements",
    "csi_rs_mask",
    "pdcch",
    "pdsch",
    "pdsch_capacity",
    "pdsch_prbs",
    "validate_pdcch",
    "validate_pdsch",
]
