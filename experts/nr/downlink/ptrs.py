"""PT-RS of PDSCH (TS 38.211 clause 7.4.1.2)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from experts.nr.downlink.dmrs import DMRS, PER_RB
from experts.nr.downlink.sequences import SUBCARRIERS, Cell, Complex, Slots, reference
from lwm.errors import RejectedConfig

# k_ref^RE by DM-RS port (rows) and resourceElementOffset (columns), TS 38.211 table 7.4.1.2.2-1.
_OFFSETS = {
    1: ((0, 2, 6, 8), (2, 4, 8, 10), (1, 3, 7, 9), (3, 5, 9, 11)),
    2: ((0, 1, 6, 7), (1, 6, 7, 0), (2, 3, 8, 9), (3, 8, 9, 2), (4, 5, 10, 11), (5, 10, 11, 4)),
}


@dataclass(frozen=True)
class PTRS:
    """PDSCH PT-RS, one port, on the lowest DM-RS port of the codeword.

    Args:
        time: L_PT-RS: every 1st, 2nd or 4th symbol.
        frequency: K_PT-RS: one subcarrier in 2 or 4 resource blocks.
        offset: resourceElementOffset, 0 to 3 for offset00 to offset11.
    """

    time: int = 1
    frequency: int = 2
    offset: int = 0


def validate_ptrs(ptrs: PTRS, dmrs: DMRS) -> None:
    """Raise RejectedConfig for densities or a DM-RS port that TS 38.211 clause 7.4.1.2.2 does not have."""
    if ptrs.time not in (1, 2, 4) or ptrs.frequency not in (2, 4) or ptrs.offset not in range(4):
        raise RejectedConfig(
            f"PT-RS time density {ptrs.time}, frequency density {ptrs.frequency}, offset {ptrs.offset} "
            "(TS 38.211 clause 7.4.1.2.2)",
            "1, 2 or 4; 2 or 4; 0 to 3",
        )
    if min(dmrs.ports) >= len(_OFFSETS[dmrs.type]):
        raise RejectedConfig(
            f"PT-RS with DM-RS ports {dmrs.ports} (TS 38.211 table 7.4.1.2.2-1)",
            f"one port from 0 to {len(_OFFSETS[dmrs.type]) - 1}",
        )


def ptrs_symbols(time: int, occupied: tuple[int, ...], symbols: tuple[int, int]) -> tuple[int, ...]:
    """Symbols of the slot with PT-RS, TS 38.211 clause 7.4.1.2.2: counted afresh from every DM-RS symbol.

    Args:
        time: L_PT-RS.
        occupied: symbols of the slot with DM-RS.
        symbols: first symbol and number of symbols of the PDSCH.
    """
    first, count = symbols
    busy = {symbol - first for symbol in occupied}
    found = []
    anchor, step = 0, 0
    while anchor + step * time < count:
        window = range(max(anchor + (step - 1) * time + 1, anchor), anchor + step * time + 1)
        hit = busy.intersection(window)
        if hit:
            anchor, step = max(hit), 1
            while anchor + 1 in busy:
                anchor += 1
            continue
        found.append(anchor + step * time + first)
        step += 1
    return tuple(found)


def ptrs_columns(ptrs: PTRS, dmrs: DMRS, rnti: int, prbs: int) -> npt.NDArray[np.int64]:
    """Columns of the allocation with PT-RS, TS 38.211 clause 7.4.1.2.2; empty when it is too narrow.

    Args:
        ptrs: densities.
        dmrs: DM-RS of the same PDSCH.
        rnti: of the DCI that schedules it.
        prbs: resource blocks of the allocation.
    """
    step = ptrs.frequency
    rest = prbs % step
    first = rnti % (rest or step)
    return np.arange(first, prbs, step) * SUBCARRIERS + _OFFSETS[dmrs.type][min(dmrs.ports)][ptrs.offset]


def ptrs_values(
    columns: npt.NDArray[np.int64],
    cell: Cell,
    slots: Slots,
    dmrs: DMRS,
    front: int,
    prbs: npt.NDArray[np.int64],
) -> Complex:
    """PT-RS of one symbol, complex64 ``[slots, columns]``: r of the first DM-RS symbol at the same subcarrier.

    Its power is that of all layers' data together (TS 38.214 table 4.1-2, epre-RatioPort1 0).

    Args:
        columns: of `ptrs_columns`.
        cell: whose.
        slots: slot numbers ``[n]``.
        dmrs: DM-RS of the same PDSCH.
        front: first DM-RS symbol of the slot.
        prbs: resource blocks of the columns, ascending ``[prbs]``.
    """
    port = min(dmrs.ports)
    n_id = cell.pci if dmrs.n_id is None else dmrs.n_id
    r = reference(cell, slots, front, PER_RB[dmrs.type], n_id, dmrs.n_scid)
    period, inside = dmrs.columns(dmrs.group(port))
    block, subcarrier = np.divmod(columns, SUBCARRIERS)
    n, residue = np.divmod(subcarrier, period)
    second = residue == inside[1]
    return np.complex64(dmrs.weight(port)) * r[:, prbs[block], 2 * n + second]
