"""Sounding reference signal (TS 38.211 clause 6.4.1.4), one antenna port."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from experts.nr.uplink.grid import SUBCARRIERS, Block, Carrier, Slots, require_one_of
from experts.nr.uplink.sequences import HOPPINGS, Chosen, Hopping, base_sequence, chosen_by_symbol, shifts
from lwm.errors import RejectedConfig

PERIODS = (1, 2, 4, 5, 8, 10, 16, 20, 32, 40, 64, 80, 160, 320, 640, 1280, 2560)
"""Periodicities in slots, TS 38.331 SRS-PeriodicityAndOffset."""
CYCLIC_SHIFTS = {2: 8, 4: 12, 8: 6}
"""n_SRS^cs,max by K_TC, TS 38.211 table 6.4.1.4.2-1."""
LAST_OFFSET = 13
"""Largest l_offset, counted from the end of the slot, TS 38.211 clause 6.4.1.4.1."""
# TS 38.211 table 6.4.1.4.3-1: m_SRS,0 and then N_1, N_2, N_3 of C_SRS 0 to 63; m_SRS,b is m_SRS,b-1 / N_b.
_TREE = (
    "4 1 1 1/8 2 1 1/12 3 1 1/16 4 1 1/16 2 2 1/20 5 1 1/24 6 1 1/24 2 3 1/28 7 1 1/32 2 2 2/36 3 3 1/40 2 5 1/"
    "48 3 2 2/48 2 2 3/52 13 1 1/56 2 7 1/60 3 5 1/64 2 2 4/72 3 2 3/72 2 3 3/76 19 1 1/80 2 2 5/88 2 11 1/96 3 2 4/"
    "96 2 2 6/104 2 13 1/112 2 2 7/120 2 3 5/120 3 5 2/120 5 2 3/128 2 2 8/128 2 4 4/128 8 2 2/132 3 11 1/136 2 17 1/"
    "144 2 2 9/144 3 2 2/144 3 3 4/144 9 2 2/152 2 19 1/160 2 2 10/160 2 4 5/160 5 2 4/168 2 3 7/176 2 2 11/"
    "184 2 23 1/192 2 2 12/192 2 4 6/192 3 4 4/192 8 3 2/208 2 2 13/216 2 3 9/224 2 2 14/240 2 2 15/240 3 4 5/"
    "240 5 3 2/240 10 2 3/256 2 2 16/256 2 4 8/256 16 2 2/264 2 3 11/272 2 2 17/272 4 17 1/272 17 2 2"
)
_ROWS = np.array([[int(word) for word in row.split()] for row in _TREE.split("/")])
DIVISIONS: npt.NDArray[np.int64] = np.c_[np.ones(len(_ROWS), dtype=np.int64), _ROWS[:, 1:]]
"""N_b of TS 38.211 table 6.4.1.4.3-1, ``[64, 4]``."""
BANDWIDTHS: npt.NDArray[np.int64] = _ROWS[:, :1] // np.cumprod(DIVISIONS, axis=1)
"""m_SRS,b of TS 38.211 table 6.4.1.4.3-1 in resource blocks, ``[64, 4]``."""


@dataclass(frozen=True)
class SRS:
    """One periodic SRS resource.

    Args:
        comb: K_TC, 2, 4 or 8, and comb offset k_TC, 0 to K_TC - 1.
        cyclic_shift: n_SRS^cs, 0 to 7 (comb 2), 11 (comb 4) or 5 (comb 8).
        bandwidth: C_SRS (0 to 63), B_SRS (0 to 3) and b_hop (0 to 3; it hops where b_hop is below B_SRS).
        shift: n_shift, resource blocks from the carrier's first to the first that the resource may sound.
        position: n_RRC, 0 to 67.
        symbols: 1, 2 or 4 symbols.
        offset: l_offset, first symbol counted back from the slot's last, symbols - 1 to 13.
        repetition: R, 1, 2 or 4, a divisor of ``symbols``: symbols at one frequency before it hops.
        period: slots from one transmission to the next, and the offset of the first.
        hopping: group or sequence hopping, or neither.
        n_id: sequence identity, 0 to 1023.
    """

    comb: tuple[int, int] = (2, 0)
    cyclic_shift: int = 0
    bandwidth: tuple[int, int, int] = (9, 0, 0)
    shift: int = 0
    position: int = 0
    symbols: int = 1
    offset: int = 0
    repetition: int = 1
    period: tuple[int, int] = (20, 0)
    hopping: Hopping = "neither"
    n_id: int = 0

    def validate(self, carrier: Carrier) -> None:
        """Raise RejectedConfig, naming the clause and the nearest legal value, unless the carrier can have this."""
        clause = "TS 38.211 clause 6.4.1.4"
        require_one_of(self.comb[0], tuple(CYCLIC_SHIFTS), "SRS comb", f"{clause}.2")
        require_one_of(self.comb[1], range(self.comb[0]), "SRS comb offset", f"{clause}.3")
        shifts_legal = range(CYCLIC_SHIFTS[self.comb[0]])
        require_one_of(self.cyclic_shift, shifts_legal, "SRS cyclic shift", "TS 38.211 table 6.4.1.4.2-1")
        require_one_of(self.bandwidth[0], range(64), "C_SRS", "TS 38.211 table 6.4.1.4.3-1")
        require_one_of(self.bandwidth[1], range(4), "B_SRS", "TS 38.211 table 6.4.1.4.3-1")
        require_one_of(self.bandwidth[2], range(4), "b_hop", f"{clause}.3")
        widest = int(BANDWIDTHS[self.bandwidth[0], 0])
        if widest > carrier.n_rb:
            fits = int(np.flatnonzero(BANDWIDTHS[:, 0] <= carrier.n_rb).max(initial=0))
            raise RejectedConfig(
                f"C_SRS {self.bandwidth[0]}, {widest} resource blocks (TS 38.211 table 6.4.1.4.3-1)",
                f"at most the carrier's {carrier.n_rb}",
                f"nearest is {fits}",
            )
        require_one_of(self.shift, range(carrier.n_rb - widest + 1), "SRS n_shift", f"{clause}.3")
        require_one_of(self.position, range(68), "n_RRC", f"{clause}.3")
        require_one_of(self.symbols, (1, 2, 4), "SRS symbols", f"{clause}.1")
        offsets = range(self.symbols - 1, min(LAST_OFFSET, carrier.symbols - 1) + 1)
        require_one_of(self.offset, offsets, "SRS l_offset", f"{clause}.1")
        factors = [factor for factor in (1, 2, 4) if self.symbols % factor == 0]
        require_one_of(self.repetition, factors, "SRS repetition factor", f"{clause}.3")
        require_one_of(self.period[0], PERIODS, "SRS period in slots", f"{clause}.4")
        require_one_of(self.period[1], range(self.period[0]), "SRS slot offset", f"{clause}.4")
        require_one_of(self.hopping, HOPPINGS, "SRS hopping", f"{clause}.2")
        require_one_of(self.n_id, range(1024), "SRS sequence identity", f"{clause}.2")

    @property
    def resource_blocks(self) -> int:
        """Resource blocks sounded in one symbol, m_SRS,B."""
        return int(BANDWIDTHS[self.bandwidth[0], self.bandwidth[1]])

    @property
    def sequence_length(self) -> int:
        """M_sc of the sounded bandwidth."""
        return self.resource_blocks * SUBCARRIERS // self.comb[0]

    def sent(self, slots: Slots) -> npt.NDArray[np.bool_]:
        """Which of ``slots`` carry the resource, TS 38.211 clause 6.4.1.4.4."""
        return (slots - self.period[1]) % self.period[0] == 0


def _hop_index(resource: SRS, level: int, count: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """F_b(n_SRS) of TS 38.211 clause 6.4.1.4.3."""
    hop = resource.bandwidth[2]
    divisions = DIVISIONS[resource.bandwidth[0]]
    # The clause sets N at b_hop to 1 whatever the table says.
    before = int(np.prod(divisions[hop + 1 : level]))
    here = int(divisions[level])
    if here % 2:
        return here // 2 * (count // before)
    turn = count % (before * here)
    return here // 2 * (turn // before) + turn // (2 * before)


def first_resource_block(resource: SRS, count: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """First resource block of the carrier that is sounded at each SRS counter n_SRS, TS 38.211 clause 6.4.1.4.3.

    Args:
        resource: which.
        count: n_SRS, any shape.
    """
    c_srs, b_srs, b_hop = resource.bandwidth
    first = np.full(np.shape(count), resource.shift, dtype=np.int64)
    for level in range(b_srs + 1):
        width, divisions = int(BANDWIDTHS[c_srs, level]), int(DIVISIONS[c_srs, level])
        index = np.full_like(first, 4 * resource.position // width)
        if b_hop < b_srs and level > b_hop:
            index += _hop_index(resource, level, count)
        first += width * (index % divisions)
    return first


def _chosen(carrier: Carrier, resource: SRS, slot: int, symbol: int) -> Chosen:
    count = carrier.symbols * carrier.frame_slots
    index = carrier.symbols * slot + symbol
    return chosen_by_symbol(resource.hopping, resource.n_id, resource.n_id, index, count, resource.sequence_length)


def srs(carrier: Carrier, slots: Slots, resource: SRS) -> tuple[Block, ...]:
    """SRS of one resource in those of many slots that carry it.

    Args:
        carrier: where.
        slots: slot numbers ``[n]``, counted from the start of an even frame.
        resource: what; validated by the caller.

    Returns:
        one block for each symbol and frequency at which it is sent, unit amplitude on the comb.
    """
    rows = np.flatnonzero(resource.sent(slots))
    comb, comb_offset = resource.comb
    length = resource.sequence_length
    shift = shifts(length, np.array(resource.cyclic_shift / CYCLIC_SHIFTS[comb]))
    start = carrier.symbols - 1 - resource.offset
    used = np.zeros((1, SUBCARRIERS * resource.resource_blocks), dtype=bool)
    used[0, comb_offset::comb] = True
    blocks = []
    for symbol in range(resource.symbols):
        transmission = (slots[rows] - resource.period[1]) // resource.period[0]
        count = transmission * (resource.symbols // resource.repetition) + symbol // resource.repetition
        first = first_resource_block(resource, count)
        in_frame, inverse = np.unique(slots[rows] % carrier.frame_slots, return_inverse=True)
        numbers = [_chosen(carrier, resource, slot, start + symbol) for slot in in_frame.tolist()]
        for block in np.unique(first).tolist():
            here = np.flatnonzero(first == block)
            values = np.zeros((len(here), *used.shape), dtype=np.complex64)
            sequences = np.stack([base_sequence(u, v, length) for u, v in numbers])
            values[:, 0, comb_offset::comb] = (sequences * shift)[inverse[here]]
            blocks.append(Block(rows[here], start + symbol, SUBCARRIERS * block, values, used))
    return tuple(blocks)
