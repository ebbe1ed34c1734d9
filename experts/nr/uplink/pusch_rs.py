"""Where PUSCH has its reference signals, and their values (TS 38.211 clauses 6.4.1.1 and 6.4.1.2)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from experts.nr.uplink.grid import SUBCARRIERS, Carrier, Complex, require_one_of
from experts.nr.uplink.sequences import HOPPINGS, Hopping, base_sequence, chosen_by_symbol, dmrs_init, qpsk
from lwm.errors import RejectedConfig

# Columns of tables 6.4.1.1.3-3 (single-symbol) and -4 (double) without l_0: additional positions 0 to 3, by l_d.
_NONE: tuple[tuple[int, ...], ...] = ((), (), (), ())
_SINGLE_A: dict[int, tuple[tuple[int, ...], ...]] = {
    **dict.fromkeys((8, 9), ((), (7,), (7,), (7,))),
    **dict.fromkeys((10, 11), ((), (9,), (6, 9), (6, 9))),
    12: ((), (9,), (6, 9), (5, 8, 11)),
    **dict.fromkeys((13, 14), ((), (11,), (7, 11), (5, 8, 11))),
}
_SINGLE_B: dict[int, tuple[tuple[int, ...], ...]] = {
    **dict.fromkeys((5, 6, 7), ((), (4,), (4,), (4,))),
    **dict.fromkeys((8, 9), ((), (6,), (3, 6), (3, 6))),
    **dict.fromkeys((10, 11), ((), (8,), (4, 8), (3, 6, 9))),
    **dict.fromkeys((12, 13, 14), ((), (10,), (5, 10), (3, 6, 9))),
}
_DOUBLE_A: dict[int, tuple[tuple[int, ...], ...]] = {
    **dict.fromkeys((10, 11, 12), ((), (8,))),
    **dict.fromkeys((13, 14), ((), (10,))),
}
_DOUBLE_B: dict[int, tuple[tuple[int, ...], ...]] = {
    **dict.fromkeys((8, 9), ((), (5,))),
    **dict.fromkeys((10, 11), ((), (7,))),
    **dict.fromkeys((12, 13, 14), ((), (9,))),
}


@dataclass(frozen=True)
class DMRS:
    """Demodulation reference signal of PUSCH.

    Args:
        type: 1 (comb of two) or 2 (pairs, comb of three).
        length: 1 single-symbol, 2 double-symbol.
        additional: dmrs-AdditionalPosition, 0 to 3.
        first: l_0 of mapping type A, 2 or 3 (dmrs-TypeA-Position).
        port: 0 to 3 (type 1) or 0 to 5 (type 2); twice as many with double symbols.
        groups_without_data: CDM groups that data keeps clear of, 1 to 2 (type 1) or 3 (type 2).
        n_id: N_ID of the sequence, None for the cell's identity.
        n_scid: 0 or 1.
        hopping: group or sequence hopping of DFT-s-OFDM, or neither.
    """

    type: int = 1
    length: int = 1
    additional: int = 0
    first: int = 2
    port: int = 0
    groups_without_data: int = 2
    n_id: int | None = None
    n_scid: int = 0
    hopping: Hopping = "neither"

    def validate(self) -> None:
        """Raise RejectedConfig for what no PUSCH can have."""
        clause = "TS 38.211 clause 6.4.1.1"
        require_one_of(self.type, (1, 2), "DM-RS type", clause)
        require_one_of(self.length, (1, 2), "DM-RS symbols", "TS 38.211 table 6.4.1.1.3-5")
        legal = range(4 if self.length == 1 else 2)
        require_one_of(self.additional, legal, "additional DM-RS positions", "TS 38.211 tables 6.4.1.1.3-3 and -4")
        require_one_of(self.first, (2, 3), "dmrs-TypeA-Position", "TS 38.211 clause 6.4.1.1.3")
        ports = range(2 * self.groups * self.length)
        require_one_of(self.port, ports, "DM-RS port", "TS 38.211 tables 6.4.1.1.3-1 and -2")
        groups = range(self.group + 1, self.groups + 1)
        require_one_of(self.groups_without_data, groups, "DM-RS CDM groups without data", "TS 38.212 clause 7.3.1.1.2")
        require_one_of(self.n_scid, (0, 1), "n_SCID", "TS 38.211 clause 6.4.1.1.1.1")
        require_one_of(self.hopping, HOPPINGS, "DM-RS hopping", "TS 38.211 clause 6.4.1.1.1.2")
        if self.n_id is not None:
            require_one_of(self.n_id, range(65536), "DM-RS N_ID", "TS 38.211 clause 6.4.1.1.1.1")

    @property
    def groups(self) -> int:
        """CDM groups of the type."""
        return 2 if self.type == 1 else 3

    @property
    def group(self) -> int:
        """CDM group of the port, TS 38.211 tables 6.4.1.1.3-1 and -2."""
        return self.port // 2 % self.groups

    def subcarriers(self, width: int) -> npt.NDArray[np.intp]:
        """Subcarriers of an allocation ``width`` wide that carry the port, in order of r(n)."""
        return _subcarriers(self, width)

    def data(self, width: int) -> npt.NDArray[np.bool_]:
        """Subcarriers of a symbol with DM-RS that carry data, bool ``[width]``."""
        k = np.arange(width)
        return (k % 2 if self.type == 1 else k % 6 // 2) >= self.groups_without_data

    def cover(self, width: int, second: bool) -> npt.NDArray[np.float32]:
        """w_f(k') w_t(l') beta over the port's subcarriers, float32; ``second`` symbol of a double one or not."""
        return _cover(self, width, second)


@lru_cache(maxsize=256)
def _subcarriers(dmrs: DMRS, width: int) -> npt.NDArray[np.intp]:
    k = np.arange(width)
    return np.flatnonzero((k % 2 if dmrs.type == 1 else k % 6 // 2) == dmrs.group)


@lru_cache(maxsize=256)
def _cover(dmrs: DMRS, width: int, second: bool) -> npt.NDArray[np.float32]:
    # TS 38.214 table 6.2.2-1: 0, 3 and 4.77 dB.
    code = np.full(len(_subcarriers(dmrs, width)), np.sqrt(dmrs.groups_without_data), dtype=np.float32)
    if dmrs.port % 2:
        code[1::2] *= -1
    if second and dmrs.port >= 2 * dmrs.groups:
        code *= -1
    return code


@dataclass(frozen=True)
class PTRS:
    """Phase-tracking reference signal of PUSCH.

    Args:
        time: L_PT-RS, a symbol in 1, 2 or 4 (DFT-s-OFDM: 1 or 2).
        frequency: K_PT-RS, a resource block in 2 or 4 (CP-OFDM only).
        groups: groups and samples a group (DFT-s-OFDM only): (2, 2), (2, 4), (4, 2), (4, 4) or (8, 4).
    """

    time: int = 1
    frequency: int = 2
    groups: tuple[int, int] = (2, 2)

    def validate(self, transform_precoding: bool, prbs: int) -> None:
        """Raise RejectedConfig for a density that the waveform or its width does not have."""
        clause = "TS 38.214 clause 6.2.3"
        require_one_of(self.time, (1, 2) if transform_precoding else (1, 2, 4), "PT-RS time density", clause)
        if not transform_precoding:
            require_one_of(self.frequency, (2, 4), "PT-RS frequency density", clause)
            return
        legal = ((2, 2), (2, 4), (4, 2), (4, 4), (8, 4))
        require_one_of(self.groups, legal, "PT-RS groups", "TS 38.211 table 6.4.1.2.2.2-1")
        if self.groups[0] * self.groups[1] > SUBCARRIERS * prbs // 2:
            raise RejectedConfig(
                f"PT-RS groups {self.groups} in {prbs} resource blocks ({clause}.2)",
                "at most half of the samples of a symbol",
                "nearest is (2, 2)",
            )


def dmrs_positions(dmrs: DMRS, mapping: str, duration: int, hop: int | None = None) -> tuple[int, ...]:
    """Symbols with DM-RS, TS 38.211 tables 6.4.1.1.3-3, -4 and -6.

    Args:
        dmrs: what is asked for.
        mapping: "A", symbols counted from the start of the slot, or "B", from the start of the allocation.
        duration: l_d, symbols from there to the end of the allocation, of the hop where it hops within the slot.
        hop: 0 or 1 within a slot that hops, counted from the start of the hop; None in one that does not.

    Returns:
        symbols in order, both of each pair of a double-symbol DM-RS; () where the tables have no entry.
    """
    first = dmrs.first if mapping == "A" and hop != 1 else 0
    if hop is not None:
        later: dict[int, tuple[int, ...]]
        if mapping == "A":
            later = {5: (0, 4), 6: (0, 4), 7: (0, 4)} if hop else {7: (first, first + 4)}
        else:
            later = {5: (0, 4), 6: (0, 4), 7: (0, 4)}
        chosen = later.get(duration, (first,)) if dmrs.additional else (first,)
        return chosen if first < duration else ()
    if dmrs.length == 1:
        table = _SINGLE_A if mapping == "A" else _SINGLE_B
    else:
        table = _DOUBLE_A if mapping == "A" else _DOUBLE_B
    starts = (first, *table.get(duration, _NONE)[dmrs.additional])
    symbols = tuple(start + later for start in starts for later in range(dmrs.length))
    return symbols if symbols[-1] < duration else ()


def dmrs_values(
    carrier: Carrier, dmrs: DMRS, slot: int, symbol: int, second: bool, prb: tuple[int, int], transform: bool
) -> Complex:
    """Values of one symbol of DM-RS on its subcarriers, complex64.

    Args:
        carrier: where.
        dmrs: which.
        slot: slot number in the frame.
        symbol: OFDM symbol of the slot.
        second: second of a double symbol.
        prb: first and one past the last resource block.
        transform: DFT-s-OFDM.
    """
    n_id = carrier.pci if dmrs.n_id is None else dmrs.n_id
    width = SUBCARRIERS * (prb[1] - prb[0])
    if transform:
        length = width // 2
        c_init = n_id // 30 if dmrs.hopping == "group" else n_id
        index = carrier.symbols * slot + symbol - second
        count = carrier.symbols * carrier.frame_slots
        u, v = chosen_by_symbol(dmrs.hopping, n_id, c_init, index, count, length)
        return base_sequence(u, v, length) * dmrs.cover(width, second)
    per_rb = 6 if dmrs.type == 1 else 4
    sequence = qpsk(dmrs_init(n_id, dmrs.n_scid, slot, symbol, carrier.symbols), per_rb * carrier.n_rb)
    return sequence[per_rb * prb[0] : per_rb * prb[1]] * dmrs.cover(width, second)


def ptrs_symbols(count: int, dmrs: tuple[int, ...], density: int) -> tuple[int, ...]:
    """Symbols with PT-RS, from the start of an allocation or hop, TS 38.211 clause 6.4.1.2.2.1.

    Args:
        count: symbols of the allocation or hop.
        dmrs: its symbols with DM-RS, from the same start.
        density: L_PT-RS.
    """
    found: list[int] = []
    i = reference = 0
    while reference + i * density < count:
        window = range(max(reference + (i - 1) * density + 1, reference), reference + i * density + 1)
        shared = [symbol for symbol in window if symbol in dmrs]
        if shared:
            i, reference = 1, shared[-1]
            continue
        found.append(reference + i * density)
        i += 1
    return tuple(found)


def ptrs_subcarriers(dmrs: DMRS, prbs: int, density: int, rnti: int) -> npt.NDArray[np.intp]:
    """Subcarriers of an allocation with PT-RS of CP-OFDM, TS 38.211 clause 6.4.1.2.2.1 with resource offset 00.

    Args:
        dmrs: the port that PT-RS goes with.
        prbs: resource blocks of the allocation.
        density: K_PT-RS.
        rnti: n_RNTI.
    """
    # Column offset00 of table 6.4.1.2.2.1-1, which has the ports of single-symbol DM-RS.
    reference = (0, 2, 1, 3)[dmrs.port % 4] if dmrs.type == 1 else dmrs.port % 6
    remainder = prbs % density
    first = rnti % (remainder or density)
    return np.arange(first, prbs, density) * SUBCARRIERS + reference


def ptrs_samples(width: int, groups: tuple[int, int]) -> npt.NDArray[np.intp]:
    """Samples ahead of the DFT that are PT-RS, in order, TS 38.211 table 6.4.1.2.2.2-1.

    Args:
        width: samples of a symbol.
        groups: number of groups and samples of each.
    """
    count, size = groups
    if size == 2:
        # The table's floor(s M / 4) and floor(s M / 8), s odd: the middle of each of 2 or 4 equal parts.
        middles = np.arange(1, 2 * count, 2) * width // (2 * count)
        return (middles[:, None] + np.array([-1, 0])).reshape(-1)
    if count == 2:
        starts = np.array([0, width - 4])
    elif count == 4:
        starts = np.array([0, width // 4 + width // 8 - 2, width // 2 + width // 8 - 2, width - 4])
    else:
        starts = np.r_[0, np.arange(1, 7) * width // 8 + width // 16 - 2, width - 4]
    return (starts[:, None] + np.arange(4)).reshape(-1)
