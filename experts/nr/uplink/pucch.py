"""PUCCH formats 0 to 4 with DM-RS (TS 38.211 clauses 6.3.2 and 6.4.1.3; parameters TS 38.213 clause 9.2)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import fft

from experts.nr.coding import encode_uci
from experts.nr.uplink.grid import (
    MODULATION_BITS,
    SUBCARRIERS,
    Bits,
    Block,
    Carrier,
    Complex,
    Slots,
    modulate_bits,
    require_one_of,
    require_prbs,
    scramble,
    transform_sizes,
)
from experts.nr.uplink.sequences import HOPPINGS, Hopping, base_sequence, chosen_pucch, dmrs_init, qpsk, shifts
from lwm.phy.sequences import gold

WIDEST = 16
"""Most resource blocks of formats 2 and 3, TS 38.213 clause 9.2.1."""
# m_cs by HARQ-ACK bits, TS 38.213 tables 9.2.3-3 and 9.2.3-4.
_SHIFT_OF_BITS = {1: np.array([0, 6]), 2: np.array([0, 3, 9, 6])}
# TS 38.211 table 6.4.1.3.3.2-1: without and with additional DM-RS; with 4 symbols see _long_dmrs.
_LONG_DMRS = {
    5: ((0, 3), (0, 3)),
    6: ((1, 4), (1, 4)),
    7: ((1, 4), (1, 4)),
    8: ((1, 5), (1, 5)),
    9: ((1, 6), (1, 6)),
    10: ((2, 7), (1, 3, 6, 8)),
    11: ((2, 7), (1, 3, 6, 9)),
    12: ((2, 8), (1, 4, 7, 10)),
    13: ((2, 9), (1, 4, 7, 11)),
    14: ((3, 10), (1, 5, 8, 12)),
}
# TS 38.211 table 6.4.1.3.3.1-1: m_0 of the DM-RS of format 4 by N_SF and sequence.
_FORMAT4_SHIFT = {2: (0, 6), 4: (0, 6, 3, 9)}
_WALSH = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=np.complex64)


@dataclass(frozen=True)
class PUCCH:
    """One resource of the physical uplink control channel.

    Args:
        format: 0 to 4.
        prb: first and one past the last resource block (of the first hop).
        symbols: first and one past the last OFDM symbol of the slot.
        second_prb: first resource block of the second hop, None where it does not hop within the slot.
        cyclic_shift: initial cyclic shift m_0, 0 to 11 (formats 0 and 1).
        code: orthogonal sequence (formats 1 and 4) and its length N_SF, 2 or 4 (format 4).
        modulation: "QPSK" or "pi/2-BPSK" (formats 3 and 4).
        additional_dmrs: four symbols with DM-RS from length 10 (formats 3 and 4).
        hopping: group or sequence hopping, or neither (pucch-GroupHopping).
        rnti: n_RNTI (formats 2 to 4).
        n_id: hoppingId and scrambling identity, None for the cell's.
    """

    format: int = 0
    prb: tuple[int, int] = (0, 1)
    symbols: tuple[int, int] = (12, 14)
    second_prb: int | None = None
    cyclic_shift: int = 0
    code: tuple[int, int] = (0, 2)
    modulation: Literal["QPSK", "pi/2-BPSK"] = "QPSK"
    additional_dmrs: bool = False
    hopping: Hopping = "neither"
    rnti: int = 1
    n_id: int | None = None

    def validate(self, carrier: Carrier) -> None:
        """Raise RejectedConfig, naming the clause and the nearest legal value, unless the carrier can have this."""
        clause = "TS 38.213 clause 9.2.1"
        require_one_of(self.format, range(5), "PUCCH format", "TS 38.211 table 6.3.2.1-1")
        widths = {2: range(1, WIDEST + 1), 3: transform_sizes(WIDEST)}
        width = self.prb[1] - self.prb[0]
        require_one_of(width, widths.get(self.format, (1,)), f"PUCCH format {self.format} resource blocks", clause)
        require_prbs(carrier, self.prb[0], width, "PUCCH", clause)
        counts = (1, 2) if self.format in (0, 2) else range(4, carrier.symbols + 1)
        count = self.symbols[1] - self.symbols[0]
        require_one_of(count, counts, f"PUCCH format {self.format} symbols", "TS 38.211 table 6.3.2.1-1")
        require_one_of(self.symbols[0], range(carrier.symbols - count + 1), "first PUCCH symbol", clause)
        if self.second_prb is not None:
            require_one_of(count, range(2, carrier.symbols + 1), "symbols of a PUCCH that hops", clause)
            require_prbs(carrier, self.second_prb, width, "second hop: PUCCH", clause)
        require_one_of(self.cyclic_shift, range(12), "PUCCH initial cyclic shift", clause)
        if self.format == 1:
            shortest = min(hop.length // 2 for hop in hops(self))
            require_one_of(self.code[0], range(shortest), "PUCCH format 1 code", "TS 38.211 table 6.3.2.4.1-2")
        if self.format == 4:
            require_one_of(self.code[1], (2, 4), "PUCCH format 4 spreading factor", "TS 38.211 clause 6.3.2.6.3")
            require_one_of(self.code[0], range(self.code[1]), "PUCCH format 4 code", "TS 38.211 clause 6.3.2.6.3")
        require_one_of(self.modulation, ("QPSK", "pi/2-BPSK"), "PUCCH modulation", "TS 38.211 clause 6.3.2.6.2")
        require_one_of(self.hopping, HOPPINGS, "PUCCH hopping", "TS 38.211 clause 6.3.2.2.1")
        require_one_of(self.rnti, range(65536), "n_RNTI", "TS 38.211 clause 6.3.2.5.1")
        if self.n_id is not None:
            require_one_of(self.n_id, range(1024), "PUCCH identity", "TS 38.211 clause 6.3.2.2.1")


class Hop(NamedTuple):
    """First symbol counted from the start of the PUCCH, symbols, first resource block."""

    first: int
    length: int
    prb: int


def hops(resource: PUCCH) -> list[Hop]:
    """One hop, or the two of TS 38.213 clause 9.2.1: floor(N / 2) symbols and the rest."""
    count = resource.symbols[1] - resource.symbols[0]
    if resource.second_prb is None:
        return [Hop(0, count, resource.prb[0])]
    half = count // 2
    return [Hop(0, half, resource.prb[0]), Hop(half, count - half, resource.second_prb)]


def dmrs_symbols(resource: PUCCH) -> tuple[int, ...]:
    """Symbols wholly given to DM-RS, counted from the start of the PUCCH; () for formats 0 and 2.

    TS 38.211 clause 6.4.1.3.1.2 (format 1: every even one) and table 6.4.1.3.3.2-1 (formats 3 and 4).
    """
    count = resource.symbols[1] - resource.symbols[0]
    if resource.format == 1:
        return tuple(range(0, count, 2))
    if resource.format in (0, 2):
        return ()
    if count == 4:
        return (1,) if resource.second_prb is None else (0, 2)
    return _LONG_DMRS[count][resource.additional_dmrs]


def pucch_capacity(resource: PUCCH) -> int:
    """Bits of one slot: HARQ-ACK bits (formats 0 and 1, up to 2) or coded bits E (TS 38.212 clause 6.3.1.4)."""
    if resource.format in (0, 1):
        return 2
    count = resource.symbols[1] - resource.symbols[0]
    width = resource.prb[1] - resource.prb[0]
    if resource.format == 2:
        return 16 * count * width
    elements = SUBCARRIERS * width * (count - len(dmrs_symbols(resource)))
    if resource.format == 4:
        elements //= resource.code[1]
    return elements * MODULATION_BITS[resource.modulation]


def pucch(
    carrier: Carrier,
    slots: Slots,
    resource: PUCCH,
    rng: np.random.Generator,
    uci: Bits | None = None,
) -> tuple[Block, ...]:
    """PUCCH of one UE in many slots.

    Args:
        carrier: where.
        slots: slot numbers ``[n]``, counted from the start of an even frame.
        resource: what; validated by the caller.
        rng: source of the bits.
        uci: control information ``[n, K]``: 1 or 2 HARQ-ACK bits (formats 0 and 1), or from 3 bits, coded here
            (formats 2 to 4). None for 2 random bits, or random coded bits.

    Returns:
        one block a hop, unit mean power.

    Raises:
        RejectedConfig: UCI of a size that the format or the coding does not take.
    """
    if resource.format in (0, 1):
        bits = rng.integers(0, 2, (len(slots), 2), dtype=np.uint8) if uci is None else uci
        require_one_of(bits.shape[1], (1, 2), f"UCI bits of PUCCH format {resource.format}", "TS 38.213 clause 9.2.2")
        make = _format_0 if resource.format == 0 else _format_1
        return tuple(make(carrier, slots, resource, hop, bits) for hop in hops(resource))
    size = pucch_capacity(resource)
    if uci is not None:
        require_one_of(uci.shape[1], range(3, 1707), "UCI bits of PUCCH formats 2 to 4", "TS 38.213 clause 9.2.5")
    coded = rng.integers(0, 2, (len(slots), size), dtype=np.uint8) if uci is None else encode_uci(uci, size)
    scrambled = scramble(coded, resource.rnti, _identity(carrier, resource))
    symbols = modulate_bits(scrambled, "QPSK" if resource.format == 2 else resource.modulation)
    make_coded = _format_2 if resource.format == 2 else _format_3_4
    blocks, done = [], 0
    for hop in hops(resource):
        share = _hop_symbols(resource, hop)
        blocks.append(make_coded(carrier, slots, resource, hop, symbols[:, done : done + share]))
        done += share
    return tuple(blocks)


def _identity(carrier: Carrier, resource: PUCCH) -> int:
    return carrier.pci if resource.n_id is None else resource.n_id


def _hop_symbols(resource: PUCCH, hop: Hop) -> int:
    """Modulation symbols that one hop of formats 2 to 4 carries."""
    width = resource.prb[1] - resource.prb[0]
    if resource.format == 2:
        return 8 * hop.length * width
    data = hop.length - sum(hop.first <= symbol < hop.first + hop.length for symbol in dmrs_symbols(resource))
    return data * SUBCARRIERS * width // (resource.code[1] if resource.format == 4 else 1)


@lru_cache(maxsize=64)
def _cell_shifts(n_id: int, symbols: int) -> npt.NDArray[np.int64]:
    """n_cs of TS 38.211 clause 6.3.2.2.2 by symbol number counted over the slots of a frame, ``[symbols]``."""
    return gold(n_id, 8 * symbols).reshape(-1, 8).astype(np.int64) @ (1 << np.arange(8))


def _sequences(
    carrier: Carrier, slots: Slots, resource: PUCCH, hop: Hop, length: int, offset: npt.NDArray[np.int64]
) -> Complex:
    """r_{u,v}^{alpha} of a hop's symbols, complex64 ``[n, symbols, length]``.

    Args:
        carrier: where.
        slots: absolute slot numbers.
        resource: which.
        hop: which of its hops.
        length: of the sequence.
        offset: m_0 + m_cs, ``[n, 1]`` or ``[1, 1]``.
    """
    n_id, in_frame = _identity(carrier, resource), slots % carrier.frame_slots
    second = int(hop.first > 0)
    chosen = [chosen_pucch(resource.hopping, n_id, slot, second, carrier.frame_slots) for slot in in_frame.tolist()]
    base = np.stack([base_sequence(u, v, length) for u, v in chosen])
    number = in_frame[:, None] * carrier.symbols + resource.symbols[0] + hop.first + np.arange(hop.length)
    n_cs = _cell_shifts(n_id, carrier.symbols * carrier.frame_slots)[number]
    return base[:, None] * shifts(length, (offset + n_cs) % 12 / 12)


def _block(resource: PUCCH, hop: Hop, values: Complex) -> Block:
    used = np.ones(values.shape[1:], dtype=bool)
    rows = np.arange(len(values))
    return Block(rows, resource.symbols[0] + hop.first, SUBCARRIERS * hop.prb, values, used)


def _format_0(carrier: Carrier, slots: Slots, resource: PUCCH, hop: Hop, bits: Bits) -> Block:
    """A cyclic shift that says which bits, TS 38.211 clause 6.3.2.3."""
    index = bits @ (1 << np.arange(bits.shape[1] - 1, -1, -1))
    offset = resource.cyclic_shift + _SHIFT_OF_BITS[bits.shape[1]][index]
    return _block(resource, hop, _sequences(carrier, slots, resource, hop, SUBCARRIERS, offset[:, None]))


def format_1_code(length: int, index: int) -> Complex:
    """w_i(m) of TS 38.211 table 6.3.2.4.1-2, complex64 ``[length]``."""
    if length == 4:
        return _WALSH[index]
    return np.exp(2j * np.pi * (index * np.arange(length) % length) / length).astype(np.complex64)


def _format_1(carrier: Carrier, slots: Slots, resource: PUCCH, hop: Hop, bits: Bits) -> Block:
    """DM-RS on even symbols, one spread symbol on odd ones, TS 38.211 clauses 6.3.2.4 and 6.4.1.3.1."""
    symbol = modulate_bits(bits, "BPSK" if bits.shape[1] == 1 else "QPSK")
    values = _sequences(carrier, slots, resource, hop, SUBCARRIERS, np.array([[resource.cyclic_shift]]))
    reference = (hop.first + np.arange(hop.length)) % 2 == 0
    cover = np.empty(hop.length, dtype=np.complex64)
    for which in (reference, ~reference):
        cover[which] = format_1_code(int(which.sum()), resource.code[0])
    values *= cover[:, None]
    values[:, ~reference] *= symbol[:, :, None]
    return _block(resource, hop, values)


def _format_2(carrier: Carrier, slots: Slots, resource: PUCCH, hop: Hop, symbols: Complex) -> Block:
    """QPSK with DM-RS on subcarriers 1, 4, 7, 10 of each resource block, TS 38.211 clauses 6.3.2.5 and 6.4.1.3.2."""
    width = resource.prb[1] - resource.prb[0]
    values = np.empty((len(slots), hop.length, SUBCARRIERS * width), dtype=np.complex64)
    reference = np.arange(SUBCARRIERS * width) % 3 == 1
    values[:, :, ~reference] = symbols.reshape(len(slots), hop.length, -1)
    n_id, part = _identity(carrier, resource), slice(4 * hop.prb, 4 * (hop.prb + width))
    for row, slot in zip(values, (slots % carrier.frame_slots).tolist(), strict=True):
        for symbol in range(hop.length):
            number = resource.symbols[0] + hop.first + symbol
            row[symbol, reference] = qpsk(dmrs_init(n_id, 0, slot, number, carrier.symbols), 4 * carrier.n_rb)[part]
    return _block(resource, hop, values)


def format_4_code(length: int, index: int) -> Complex:
    """w_n(k) of TS 38.211 tables 6.3.2.6.3-1 and -2, complex64 ``[12]``."""
    # Table -2 lists the four sequences as steps of 0, -90, 180 and 90 degrees from one quarter to the next.
    return np.exp(-2j * np.pi * (index * (np.arange(12) * length // 12) % length) / length).astype(np.complex64)


def _format_3_4(carrier: Carrier, slots: Slots, resource: PUCCH, hop: Hop, symbols: Complex) -> Block:
    """DFT-s-OFDM with symbols of DM-RS; format 4 spreads ahead of the DFT (TS 38.211 clauses 6.3.2.6, 6.4.1.3.3)."""
    length = SUBCARRIERS * (resource.prb[1] - resource.prb[0])
    offset = _FORMAT4_SHIFT[resource.code[1]][resource.code[0]] if resource.format == 4 else 0
    values = _sequences(carrier, slots, resource, hop, length, np.array([[offset]]))
    data = ~np.isin(hop.first + np.arange(hop.length), dmrs_symbols(resource))
    samples = symbols.reshape(len(slots), int(data.sum()), -1)
    if resource.format == 4:
        samples = np.tile(samples, (1, 1, resource.code[1])) * format_4_code(resource.code[1], resource.code[0])
    values[:, data] = fft.fft(samples, axis=2, norm="ortho")
    return _block(resource, hop, values)
