"""Uplink transmissions of a configuration: PUSCH, PUCCH and SRS in the slots of a window."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from experts.nr.carrier import SUBCARRIERS
from experts.nr.payload import codewords, pusch_block_size
from experts.nr.transmission import Complex, Ints, Placement, Transmission
from experts.nr.uplink import PUCCH, PUSCH, SRS, Block, pucch, pusch, pusch_capacity, srs
from experts.nr.uplink import Carrier as UplinkCarrier
from experts.nr.uplink.grid import MODULATION_BITS
from experts.nr.uplink.pusch import hops
from experts.nr.window import Window


def uplink_carrier(window: Window) -> UplinkCarrier:
    """The carrier as the uplink channels know it."""
    carrier = window.config.carrier
    return UplinkCarrier(carrier.pci, carrier.mu, carrier.n_rb, carrier.extended_cp)


def add_blocks(grid: Complex, slots: Ints, blocks: Iterable[Block]) -> None:
    """Add the blocks of a generator, asked for ``slots``, to ``grid`` ``[slots, symbols, subcarriers]``."""
    for block in blocks:
        symbols, subcarriers = block.used.shape
        rows = slice(block.symbol, block.symbol + symbols)
        grid[slots[block.rows], rows, block.subcarrier : block.subcarrier + subcarriers] += block.values


def block_placements(channel: str, owner: int, slots: Ints, blocks: Iterable[Block]) -> list[Placement]:
    """Where the blocks of a generator, asked for ``slots``, lie."""
    return [
        Placement(
            channel,
            owner,
            slots[block.rows],
            (block.symbol, block.symbol + block.used.shape[0]),
            (block.subcarrier // SUBCARRIERS, (block.subcarrier + block.used.shape[1]) // SUBCARRIERS),
        )
        for block in blocks
    ]


@dataclass(frozen=True)
class SharedUplink:
    """PUSCH of one UE in its slots, with transport blocks of ``code_rate`` or, where it is None, random symbols."""

    carrier: UplinkCarrier
    owner: int
    slots: Ints
    first_slot: int
    pusch: PUSCH
    code_rate: float | None

    @property
    def placements(self) -> list[Placement]:
        """One a hop."""
        count = self.pusch.prb[1] - self.pusch.prb[0]
        odd = (self.slots + self.first_slot) % 2 == 1
        inter = self.pusch.hopping == "inter-slot"
        parts = []
        for which in (False, True) if inter else (False,):
            slots = self.slots[odd == which] if inter else self.slots
            for hop in hops(self.carrier, self.pusch, which) if slots.size else ():
                symbols = (hop.symbol, hop.symbol + hop.length)
                parts.append(Placement("PUSCH", self.owner, slots, symbols, (hop.prb, hop.prb + count)))
        return parts

    @cached_property
    def capacity(self) -> int:
        """Codeword bits of a slot."""
        return pusch_capacity(self.carrier, self.pusch)

    @property
    def block_size(self) -> int | None:
        """Bits of a slot's transport block, None: random symbols."""
        if self.code_rate is None:
            return None
        return pusch_block_size(self.carrier, self.pusch, self.capacity, self.code_rate)

    def write(self, grid: Complex, first_slot: int, rng: np.random.Generator) -> None:
        """Write PUSCH, DM-RS and PT-RS."""
        bits, size = None, self.block_size
        if self.code_rate is not None and size is not None:
            order = MODULATION_BITS[self.pusch.modulation]
            bits = codewords(size, self.capacity, self.code_rate, order, 1, self.slots.size, rng)
        add_blocks(grid, self.slots, pusch(self.carrier, self.slots + first_slot, self.pusch, rng, bits))


@dataclass(frozen=True)
class ControlUplink:
    """One PUCCH report in its slots."""

    carrier: UplinkCarrier
    owner: int
    slots: Ints
    pucch: PUCCH

    @cached_property
    def placements(self) -> list[Placement]:
        """One a hop; the generator is asked about one slot, since it knows its hops."""
        blocks = pucch(self.carrier, self.slots[:1], self.pucch, np.random.default_rng(0))
        return [
            Placement("PUCCH", self.owner, self.slots, place.symbols, place.blocks)
            for place in block_placements("PUCCH", self.owner, self.slots[:1], blocks)
        ]

    def write(self, grid: Complex, first_slot: int, rng: np.random.Generator) -> None:
        """Write random control information and its DM-RS."""
        add_blocks(grid, self.slots, pucch(self.carrier, self.slots + first_slot, self.pucch, rng))


@dataclass(frozen=True)
class Sounding:
    """One SRS resource in its slots."""

    carrier: UplinkCarrier
    owner: int
    slots: Ints
    first_slot: int
    srs: SRS

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Of the generator; nothing in them is random."""
        return srs(self.carrier, self.slots + self.first_slot, self.srs)

    @property
    def placements(self) -> list[Placement]:
        """One for each symbol and frequency."""
        return block_placements("SRS", self.owner, self.slots, self.blocks)

    def write(self, grid: Complex, first_slot: int, rng: np.random.Generator) -> None:
        """Write the sequence."""
        add_blocks(grid, self.slots, self.blocks)


def fitting_slots(window: Window, symbols: tuple[int, int]) -> Ints:
    """Slots of the window whose uplink symbols hold ``symbols``."""
    return np.flatnonzero((window.first <= symbols[0]) & (window.stop >= symbols[1]))


def uplink_transmissions(window: Window) -> list[Transmission]:
    """PUSCH of all UEs, PUCCH reports and SRS, in the order in which they are written."""
    config, carrier = window.config, uplink_carrier(window)
    sent: list[Transmission] = []
    for number, user in enumerate(config.users):
        rate = user.code_rate / 1024 if config.payload == "coded" else None
        slots = window.scheduled(user)
        if slots.size:
            assert isinstance(user.shared, PUSCH)
            sent.append(SharedUplink(carrier, number, slots, window.first_slot, user.shared, rate))
    assert config.uplink is not None
    for number, report in enumerate(config.uplink.reports):
        slots = fitting_slots(window, report.pucch.symbols)
        slots = slots[(slots + window.first_slot - report.period[1]) % report.period[0] == 0]
        if slots.size:
            sent.append(ControlUplink(carrier, number, slots, report.pucch))
    for number, resource in enumerate(config.uplink.srs):
        first = window.symbols - 1 - resource.offset
        slots = fitting_slots(window, (first, first + resource.symbols))
        slots = slots[resource.sent(slots + window.first_slot)]
        if slots.size:
            sent.append(Sounding(carrier, number, slots, window.first_slot, resource))
    return sent
