"""DM-RS of PDSCH: positions, ports and values (TS 38.211 clause 7.4.1.1)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from experts.nr.downlink.sequences import SUBCARRIERS, Cell, Complex, Mask, Slots, reference
from lwm.errors import RejectedConfig

_SINGLE_A: dict[int, tuple[tuple[int, ...], ...]] = {
    **dict.fromkeys(range(3, 8), ((), (), (), ())),
    **dict.fromkeys((8, 9), ((), (7,), (7,), (7,))),
    **dict.fromkeys((10, 11), ((), (9,), (6, 9), (6, 9))),
    12: ((), (9,), (6, 9), (5, 8, 11)),
    **dict.fromkeys((13, 14), ((), (11,), (7, 11), (5, 8, 11))),
}
_SINGLE_B: dict[int, tuple[tuple[int, ...], ...]] = {
    **dict.fromkeys((2, 3, 4), ((), (), (), ())),
    **dict.fromkeys((5, 6, 7), ((), (4,), (4,), (4,))),
    8: ((), (6,), (3, 6), (3, 6)),
    **dict.fromkeys((9, 10), ((), (7,), (4, 7), (4, 7))),
    11: ((), (8,), (4, 8), (3, 6, 9)),
    **dict.fromkeys((12, 13), ((), (9,), (5, 9), (3, 6, 9))),
}
_DOUBLE_A: dict[int, tuple[tuple[int, ...], ...]] = {
    **dict.fromkeys(range(4, 10), ((), ())),
    **dict.fromkeys((10, 11, 12), ((), (8,))),
    **dict.fromkeys((13, 14), ((), (10,))),
}
_DOUBLE_B: dict[int, tuple[tuple[int, ...], ...]] = {
    **dict.fromkeys((5, 6, 7), ((), ())),
    **dict.fromkeys((8, 9), ((), (5,))),
    **dict.fromkeys((10, 11), ((), (7,))),
    **dict.fromkeys((12, 13), ((), (8,))),
}
# Additional positions by l_d and dmrs-AdditionalPosition: TS 38.211 tables 7.4.1.1.2-3 and 7.4.1.1.2-4.
_POSITIONS = {("A", 1): _SINGLE_A, ("B", 1): _SINGLE_B, ("A", 2): _DOUBLE_A, ("B", 2): _DOUBLE_B}
# Period of the pattern in subcarriers, and subcarriers of k' = 0 and 1 in it, by configuration type.
_COMB = {1: (4, (0, 2)), 2: (6, (0, 1))}
_STEP = {1: 1, 2: 2}
GROUPS = {1: 2, 2: 3}
"""CDM groups of a configuration type, TS 38.211 tables 7.4.1.1.2-1 and 7.4.1.1.2-2."""
PER_RB = {1: 6, 2: 4}
"""Elements of r(n) a resource block by configuration type."""
_PORT_LIMITS = "(TS 38.211 tables 7.4.1.1.2-1 and 7.4.1.1.2-2)"


@dataclass(frozen=True)
class DMRS:
    """PDSCH DM-RS.

    Args:
        type: configuration type, 1 or 2.
        length: 1 (single-symbol) or 2 (double-symbol).
        additional: dmrs-AdditionalPosition, 0 to 3; 0 or 1 when double-symbol.
        type_a_position: l_0 of mapping type A, 2 or 3.
        ports: antenna port less 1000 of each layer; 0 to 3 (type 1) or 5 (type 2), twice as many when double-symbol.
        groups_without_data: DM-RS CDM groups in whose elements no data are sent, from the first.
        n_id: scrambling identity, 0 to 65535; None is the cell's.
        n_scid: 0 or 1.
    """

    type: int = 1
    length: int = 1
    additional: int = 1
    type_a_position: int = 2
    ports: tuple[int, ...] = (0,)
    groups_without_data: int = 2
    n_id: int | None = None
    n_scid: int = 0

    def group(self, port: int) -> int:
        """CDM group of a port."""
        return port % (2 * GROUPS[self.type]) // 2

    def weight(self, port: int) -> complex:
        """Factor with which a layer reaches the one transmit antenna: j for each code bit of its port, modulus 1.

        Ports of one CDM group differ in their frequency and time codes. Summed with equal phases they would cancel on
        half of the elements; in quadrature every element of a full group has the same power.
        """
        return complex(1j ** (port % 2 + port // (2 * GROUPS[self.type])))

    def columns(self, group: int) -> tuple[int, npt.NDArray[np.intp]]:
        """Period in subcarriers and the two subcarriers (k' = 0, 1) of a CDM group in it."""
        period, inside = _COMB[self.type]
        return period, np.array(inside) + _STEP[self.type] * group


def validate_dmrs(dmrs: DMRS, mapping: str) -> None:
    """Raise RejectedConfig for DM-RS that TS 38.211 clause 7.4.1.1.2 does not have with mapping type "A" or "B"."""
    if dmrs.type not in GROUPS or dmrs.length not in (1, 2):
        raise RejectedConfig(
            f"DM-RS configuration type {dmrs.type} of {dmrs.length} symbols (TS 38.211 clause 7.4.1.1.2)",
            "type 1 or 2 of 1 or 2 symbols",
        )
    most = 3 if dmrs.length == 1 else 1
    if dmrs.additional not in range(most + 1):
        nearest = min(max(0, dmrs.additional), most)
        raise RejectedConfig(
            f"{dmrs.additional} additional DM-RS positions of {dmrs.length} symbols "
            "(TS 38.211 tables 7.4.1.1.2-3 and 7.4.1.1.2-4)",
            f"0 to {most}",
            f"nearest is {nearest}",
        )
    if dmrs.type_a_position not in (2, 3) or (mapping == "A" and dmrs.type_a_position == 3 and dmrs.additional == 3):
        raise RejectedConfig(
            f"dmrs-TypeA-Position {dmrs.type_a_position} with {dmrs.additional} additional positions "
            "(TS 38.211 clause 7.4.1.1.2)",
            "2, or 3 with at most 2 additional positions",
            "nearest is 2",
        )
    ports = 2 * GROUPS[dmrs.type] * dmrs.length
    if not dmrs.ports or len(set(dmrs.ports)) < len(dmrs.ports) or set(dmrs.ports) - set(range(ports)):
        raise RejectedConfig(
            f"DM-RS ports {dmrs.ports} of type {dmrs.type} {_PORT_LIMITS}", f"different ports from 0 to {ports - 1}"
        )
    least = max(map(dmrs.group, dmrs.ports)) + 1
    if not least <= dmrs.groups_without_data <= GROUPS[dmrs.type]:
        raise RejectedConfig(
            f"{dmrs.groups_without_data} CDM groups without data with ports {dmrs.ports} {_PORT_LIMITS}",
            f"{least} to {GROUPS[dmrs.type]}",
            f"nearest is {min(max(dmrs.groups_without_data, least), GROUPS[dmrs.type])}",
        )
    if dmrs.n_scid not in (0, 1) or not 0 <= (dmrs.n_id or 0) <= 65535:
        raise RejectedConfig(
            f"DM-RS identity {dmrs.n_id} with n_SCID {dmrs.n_scid} (TS 38.211 clause 7.4.1.1.1)",
            "0 to 65535 with 0 or 1",
        )


def dmrs_positions(dmrs: DMRS, mapping: str, symbols: tuple[int, int]) -> tuple[int, ...]:
    """First symbol in the slot of each DM-RS occasion, TS 38.211 tables 7.4.1.1.2-3 and 7.4.1.1.2-4.

    Args:
        dmrs: which.
        mapping: "A" (positions count from the slot's start) or "B" (from the allocation's).
        symbols: first symbol and number of symbols of the PDSCH.

    Raises:
        RejectedConfig: no position for so short or so long an allocation, or l_0 outside it.
    """
    first, count = symbols
    duration, base, lead = (first + count, 0, dmrs.type_a_position) if mapping == "A" else (count, first, 0)
    table = _POSITIONS[mapping, dmrs.length]
    if duration not in table or not first <= base + lead or base + lead + dmrs.length > first + count:
        raise RejectedConfig(
            f"PDSCH of {count} symbols from {first}, mapping type {mapping}, with {dmrs.length} DM-RS symbols "
            "(TS 38.211 tables 7.4.1.1.2-3 and 7.4.1.1.2-4)",
            f"l_d from {min(table)} to {max(table)} with symbol {base + lead} inside",
        )
    return (base + lead, *(base + extra for extra in table[duration][dmrs.additional]))


def dmrs_symbols(dmrs: DMRS, mapping: str, symbols: tuple[int, int]) -> tuple[int, ...]:
    """Every symbol of the slot with DM-RS: the positions, and their second symbols when double-symbol."""
    return tuple(
        position + second for position in dmrs_positions(dmrs, mapping, symbols) for second in range(dmrs.length)
    )


def dmrs_comb(dmrs: DMRS, prbs: int) -> Mask:
    """Elements without data ``[12 * prbs]`` of a DM-RS symbol."""
    comb = np.zeros(SUBCARRIERS * prbs, dtype=bool)
    for group in range(dmrs.groups_without_data):
        period, inside = dmrs.columns(group)
        comb.reshape(-1, period)[:, inside] = True
    return comb


def write_dmrs(
    block: Complex,
    first: int,
    cell: Cell,
    slots: Slots,
    dmrs: DMRS,
    positions: tuple[int, ...],
    prbs: npt.NDArray[np.int64],
) -> Mask:
    """Write DM-RS into ``block`` ``[slots, symbols, 12 * prbs]`` and return where, bool ``[symbols, 12 * prbs]``.

    beta^2 is the number of CDM groups without data (TS 38.214 table 4.1-1); with v layers each port has 1/v of the
    power and the phase of `DMRS.weight`, the same as its layer's data.

    Args:
        block: changed in place.
        first: symbol of the slot with which the block begins.
        cell: whose.
        slots: slot numbers ``[n]``.
        dmrs: which.
        positions: first symbol of each occasion, of `dmrs_positions`.
        prbs: resource blocks of the columns, ascending ``[prbs]``.
    """
    n_id = cell.pci if dmrs.n_id is None else dmrs.n_id
    beta = np.sqrt(dmrs.groups_without_data / len(dmrs.ports))
    used = np.zeros(block.shape[1:], dtype=bool)
    groups = sorted(set(map(dmrs.group, dmrs.ports)))
    for position in positions:
        for second in range(dmrs.length):
            symbol = position + second
            r = reference(cell, slots, symbol, PER_RB[dmrs.type], n_id, dmrs.n_scid)[:, prbs]
            for group in groups:
                code = np.zeros(2, dtype=np.complex64)
                for port in dmrs.ports:
                    if dmrs.group(port) == group:
                        time = 1 - 2 * (second * (port // (2 * GROUPS[dmrs.type])))
                        code += beta * dmrs.weight(port) * time * np.array([1, 1 - 2 * (port % 2)])
                period, inside = dmrs.columns(group)
                comb = block[:, symbol - first].reshape(len(slots), -1, period)
                comb[..., inside] = r.reshape(len(slots), -1, 2) * code
                used[symbol - first].reshape(-1, period)[:, inside] = True
    return used
