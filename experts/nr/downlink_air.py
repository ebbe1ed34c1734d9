"""Downlink transmissions of a configuration: PDSCH, PDCCH and CSI-RS in the slots of a window."""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from experts.nr.carrier import SUBCARRIERS
from experts.nr.config import User
from experts.nr.downlink import (
    CSIRS,
    PDCCH,
    PDSCH,
    Cell,
    Coreset,
    coreset_rbs,
    csi_rs,
    csi_rs_elements,
    csi_rs_mask,
    pdcch,
    pdsch,
    pdsch_capacity,
    pdsch_prbs,
)
from experts.nr.payload import codewords, pdsch_block_size
from experts.nr.transmission import Bools, Complex, Ints, Placement, Transmission, pieces
from experts.nr.window import Window
from lwm.phy.constellation import BITS

GROUP = 6
"""A CORESET is made of groups of six resource blocks, TS 38.213 clause 10.1."""
MOST_LEVEL = 4
"""Highest aggregation level that a UE gets."""


def cell_of(window: Window) -> Cell:
    """The cell as the downlink channels know it."""
    carrier = window.config.carrier
    return Cell(carrier.pci, carrier.mu, carrier.n_rb, carrier.symbols)


class Area(NamedTuple):
    """Elements of a CSI-RS resource in a slot.

    Attributes:
        symbol: of each element ``[elements]``.
        subcarrier: of each element ``[elements]``.
        mask: of all elements of a slot ``[symbols, subcarriers]``.
        symbols: those with an element, ascending.
        blocks: first and one past the last resource block.
    """

    symbol: Ints
    subcarrier: Ints
    mask: Bools
    symbols: tuple[int, ...]
    blocks: tuple[int, int]


@dataclass(frozen=True)
class SharedDownlink:
    """PDSCH of one UE in slots with the same symbols and the same elements taken away.

    Args:
        cell: whose.
        owner: number of the UE.
        slots: of the window ``[n]``.
        pdsch: as long as the slots have downlink symbols.
        reserved: elements without PDSCH ``[symbols, 12 * prbs]``, None: all are free.
        code_rate: of transport blocks, None: random symbols.
    """

    cell: Cell
    owner: int
    slots: Ints
    pdsch: PDSCH
    reserved: Bools | None
    code_rate: float | None

    @cached_property
    def prbs(self) -> Ints:
        """Physical resource blocks, ascending."""
        return pdsch_prbs(self.pdsch, self.cell.n_rb)

    @property
    def placements(self) -> list[Placement]:
        """One for each run of neighbouring resource blocks, between the outermost in which something is sent."""
        first, count = self.pdsch.symbols
        sent = np.ones(self.prbs.size, dtype=bool)
        if self.reserved is not None:
            sent[:] = ~self.reserved.reshape(count, -1, SUBCARRIERS).all(axis=(0, 2))
        parts = []
        for low, high in pieces(self.prbs):
            inside = self.prbs[sent & (self.prbs >= low) & (self.prbs < high)]
            if inside.size:
                blocks = (int(inside[0]), int(inside[-1]) + 1)
                parts.append(Placement("PDSCH", self.owner, self.slots, (first, first + count), blocks))
        return parts

    @cached_property
    def capacity(self) -> int:
        """Codeword bits of a slot."""
        return pdsch_capacity(self.cell, self.pdsch, self.reserved)

    @property
    def block_size(self) -> int | None:
        """Bits of a slot's transport block, None: random symbols."""
        return None if self.code_rate is None else pdsch_block_size(self.pdsch, self.capacity, self.code_rate)

    def write(self, grid: Complex, first_slot: int, rng: np.random.Generator) -> None:
        """Write PDSCH, DM-RS and PT-RS."""
        bits, size = None, self.block_size
        if self.code_rate is not None and size is not None:
            order, layers = BITS[self.pdsch.modulation], self.pdsch.layers
            bits = codewords(size, self.capacity, self.code_rate, order, layers, self.slots.size, rng)
        block, _ = pdsch(self.cell, self.slots + first_slot, self.pdsch, rng, self.reserved, bits)
        first, count = self.pdsch.symbols
        done = 0
        for low, high in pieces(self.prbs):
            columns = slice(SUBCARRIERS * done, SUBCARRIERS * (done + high - low))
            grid[self.slots, first : first + count, SUBCARRIERS * low : SUBCARRIERS * high] = block[:, :, columns]
            done += high - low


@dataclass(frozen=True)
class ControlDownlink:
    """PDCCH of one UE, from the first resource block of a CORESET that is not interleaved."""

    cell: Cell
    owner: int
    slots: Ints
    coreset: Coreset
    pdcch: PDCCH

    @property
    def placements(self) -> list[Placement]:
        """One: the CCEs lie one after another from the lowest."""
        first = GROUP * self.coreset.groups[0]
        count = GROUP * self.pdcch.level // self.coreset.symbols
        return [Placement("PDCCH", self.owner, self.slots, (0, self.coreset.symbols), (first, first + count))]

    def write(self, grid: Complex, first_slot: int, rng: np.random.Generator) -> None:
        """Write PDCCH with a random DCI and its DM-RS."""
        dci = rng.integers(0, 2, (self.slots.size, self.pdcch.dci_bits), dtype=np.uint8)
        block, _ = pdcch(self.cell, self.slots + first_slot, self.coreset, self.pdcch, dci)
        rbs = coreset_rbs(self.coreset)
        (low, high) = self.placements[0].blocks
        columns = slice(0, SUBCARRIERS * (high - low))
        begin = SUBCARRIERS * int(rbs[0])
        grid[self.slots, : self.coreset.symbols, begin : begin + columns.stop] = block[:, :, columns]


@dataclass(frozen=True)
class ChannelState:
    """One CSI-RS resource in its slots."""

    cell: Cell
    owner: int
    slots: Ints
    csi_rs: CSIRS

    @property
    def placements(self) -> list[Placement]:
        """One for each run of neighbouring symbols."""
        area = csi_rs_area(self.cell, self.csi_rs)
        parts = pieces(np.array(area.symbols))
        return [Placement("CSI-RS", self.owner, self.slots, part, area.blocks) for part in parts]

    def write(self, grid: Complex, first_slot: int, rng: np.random.Generator) -> None:
        """Write the sequence."""
        area = csi_rs_area(self.cell, self.csi_rs)
        values = csi_rs(self.cell, self.slots + first_slot, self.csi_rs)
        grid[self.slots[:, None], area.symbol, area.subcarrier] = values


@lru_cache(maxsize=64)
def csi_rs_area(cell: Cell, resource: CSIRS) -> Area:
    """Where a CSI-RS resource lies in its slots."""
    symbol, subcarrier = csi_rs_elements(cell, resource)
    mask = csi_rs_mask(cell, resource)
    for each in (symbol, subcarrier, mask):
        each.setflags(write=False)
    blocks = (int(subcarrier.min()) // SUBCARRIERS, int(subcarrier.max()) // SUBCARRIERS + 1)
    return Area(symbol, subcarrier, mask, tuple(np.unique(symbol).tolist()), blocks)


def csi_rs_slots(window: Window, resource: CSIRS) -> Ints:
    """Slots of the window in which a CSI-RS resource is sent: all its symbols downlink, no SSB in its blocks."""
    area = csi_rs_area(cell_of(window), resource)
    blocked = window.blocked[:, slice(*area.blocks)].any(axis=1)
    due = resource.sent(np.arange(window.slots) + window.first_slot)
    return np.flatnonzero(due & (window.stop > area.symbols[-1]) & ~blocked)


def user_control(n_rb: int, user: User, symbols: int) -> tuple[Coreset, PDCCH] | None:
    """CORESET of the six-RB groups inside a UE's allocation, and its PDCCH; None where none fits."""
    assert isinstance(user.shared, PDSCH)
    for low, high in sorted(pieces(pdsch_prbs(user.shared, n_rb)), key=lambda part: part[0] - part[1]):
        first, last = -(-low // GROUP), high // GROUP
        elements = (last - first) * symbols
        if elements >= 1:
            level = max(level for level in (1, 2, MOST_LEVEL) if level <= elements)
            rnti = user.shared.rnti
            return Coreset(tuple(range(first, last)), symbols), PDCCH(0, level, rnti, dci_bits=40)
    return None


def clipped(shared: PDSCH, stop: int) -> PDSCH:
    """The PDSCH cut to the downlink symbols before ``stop``."""
    first, count = shared.symbols
    return replace(shared, symbols=(first, min(count, stop - first)))


def _shared(window: Window, cell: Cell, number: int, user: User, taken: list[tuple[Ints, Bools]]) -> list[Transmission]:
    """PDSCH of one UE, split by the length of the slots and by what is reserved in them."""
    assert isinstance(user.shared, PDSCH)
    prbs = pdsch_prbs(user.shared, cell.n_rb)
    columns = (SUBCARRIERS * prbs[:, None] + np.arange(SUBCARRIERS)).reshape(-1)
    slots = window.scheduled(user)
    slots = slots[~window.blocked[np.ix_(slots, prbs)].all(axis=1)]
    # What distinguishes slots: downlink symbols, blocks of the SSB, CSI-RS resources.
    keys = [window.stop[slots], window.blocked[np.ix_(slots, prbs)].any(axis=1)]
    keys += [np.isin(slots, occasions) for occasions, _ in taken]
    kinds, inverse = np.unique(np.stack(keys, axis=1).astype(np.int64), axis=0, return_inverse=True)
    rate = user.code_rate / 1024 if window.config.payload == "coded" else None
    parts: list[Transmission] = []
    for kind, (stop, ssb, *resources) in enumerate(kinds.tolist()):
        here = slots[inverse.reshape(-1) == kind]
        shared = clipped(user.shared, stop)
        rows = slice(shared.symbols[0], stop)
        reserved = np.zeros((shared.symbols[1], columns.size), dtype=bool)
        for (_, mask), present in zip(taken, resources, strict=True):
            if present:
                reserved |= mask[rows.start : rows.start + shared.symbols[1], columns]
        if ssb:
            reserved |= np.repeat(window.blocked[here[0], prbs], SUBCARRIERS)
        parts.append(SharedDownlink(cell, number, here, shared, reserved if reserved.any() else None, rate))
    return parts


def downlink_transmissions(window: Window) -> list[Transmission]:
    """PDSCH and PDCCH of all UEs and the CSI-RS, in the order in which they are written."""
    config, cell = window.config, cell_of(window)
    state = [ChannelState(cell, number, csi_rs_slots(window, each), each) for number, each in enumerate(config.csi_rs)]
    taken = [(each.slots, csi_rs_area(cell, each.csi_rs).mask) for each in state if each.slots.size]
    sent: list[Transmission] = []
    for number, user in enumerate(config.users):
        shared = _shared(window, cell, number, user, taken)
        sent += shared
        control = user_control(cell.n_rb, user, config.head) if config.head else None
        if control and shared:
            part = ControlDownlink(cell, number, np.zeros(0, dtype=np.int64), *control)
            slots = np.unique(np.concatenate([place.slots for each in shared for place in each.placements]))
            # TS 38.213 clause 10.1: a candidate that meets an SS/PBCH block is not monitored.
            free = slots[~window.blocked[slots, slice(*part.placements[0].blocks)].any(axis=1)]
            if free.size:
                sent.append(replace(part, slots=free))
    return sent + [each for each in state if each.slots.size]
