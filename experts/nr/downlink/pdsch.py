"""PDSCH with its DM-RS and PT-RS (TS 38.211 clauses 7.3.1, 7.4.1.1 and 7.4.1.2)."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from experts.nr.downlink.dmrs import DMRS, dmrs_comb, dmrs_positions, dmrs_symbols, validate_dmrs, write_dmrs
from experts.nr.downlink.ptrs import PTRS, ptrs_columns, ptrs_symbols, ptrs_values, validate_ptrs
from experts.nr.downlink.sequences import SUBCARRIERS, Cell, Complex, Mask, Slots, random_symbols
from lwm.errors import RejectedConfig
from lwm.phy.constellation import BITS, cellular, map_bits
from lwm.phy.sequences import gold

MODULATIONS = ("QPSK", "16QAM", "64QAM", "256QAM", "1024QAM")
"""Of PDSCH, TS 38.214 clause 5.1.3.1."""
MOST_LAYERS = 4
"""Layers of one codeword, TS 38.211 table 7.3.1.3-1."""
BUNDLES = (2, 4)
"""Resource blocks of a VRB bundle of the interleaved mapping, TS 38.211 clause 7.3.1.6."""


@dataclass(frozen=True)
class PDSCH:
    """One UE's PDSCH in a slot: one codeword of one to four layers on one transmit antenna.

    Args:
        prb_start: first virtual resource block.
        prb_count: contiguous virtual resource blocks (resource allocation type 1, TS 38.214 clause 5.1.2.2.2).
        modulation: one of `MODULATIONS`.
        symbols: first symbol and number of symbols.
        mapping: "A" or "B", TS 38.214 table 5.1.2.1-1.
        dmrs: reference signal; it says the layers by its ports.
        ptrs: None without PT-RS.
        interleaver: 0 (resource blocks as they are), 2 or 4 (bundle of the interleaved VRB-to-PRB mapping).
        rnti: n_RNTI of scrambling, 1 to 65535.
        n_id: scrambling identity, 0 to 1023; None is the cell's.
    """

    prb_start: int
    prb_count: int
    modulation: str = "QPSK"
    symbols: tuple[int, int] = (1, 13)
    mapping: str = "A"
    dmrs: DMRS = field(default_factory=DMRS)
    ptrs: PTRS | None = None
    interleaver: int = 0
    rnti: int = 1
    n_id: int | None = None

    @property
    def layers(self) -> int:
        """Layers."""
        return len(self.dmrs.ports)


class Layout(NamedTuple):
    """Elements of one slot of an allocation, bool ``[symbols, 12 * prb_count]`` each.

    Attributes:
        data: PDSCH symbols.
        reference: DM-RS.
        tracking: PT-RS.
    """

    data: Mask
    reference: Mask
    tracking: Mask


def _virtual_to_physical(pdsch: PDSCH, n_rb: int) -> npt.NDArray[np.int64]:
    """Physical resource block of each virtual one in order ``[prb_count]``; the bandwidth part is the carrier."""
    virtual = np.arange(pdsch.prb_start, pdsch.prb_start + pdsch.prb_count)
    if not pdsch.interleaver:
        return virtual
    bundles = -(-n_rb // pdsch.interleaver)
    columns = bundles // 2
    order = np.arange(bundles)
    # j = cR + r goes to rC + c with R = 2; the last bundle stays.
    j = np.arange(bundles - 1)
    moved = j % 2 * columns + j // 2
    order[: bundles - 1] = moved
    bundle, inside = np.divmod(virtual, pdsch.interleaver)
    return order[bundle] * pdsch.interleaver + inside


def pdsch_prbs(pdsch: PDSCH, n_rb: int) -> npt.NDArray[np.int64]:
    """Physical resource blocks, ascending ``[prb_count]``: the columns of blocks and masks are 12 of each."""
    return np.sort(_virtual_to_physical(pdsch, n_rb))


def _layout(cell: Cell, pdsch: PDSCH, reserved: Mask | None) -> Layout:
    first, count = pdsch.symbols
    shape = (count, SUBCARRIERS * pdsch.prb_count)
    free = np.ones(shape, dtype=bool) if reserved is None else ~reserved
    reference, tracking = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    occupied = dmrs_symbols(pdsch.dmrs, pdsch.mapping, pdsch.symbols)
    comb = dmrs_comb(pdsch.dmrs, pdsch.prb_count)
    data = free.copy()
    data[np.array(occupied) - first] &= ~comb
    for group in set(map(pdsch.dmrs.group, pdsch.dmrs.ports)):
        period, inside = pdsch.dmrs.columns(group)
        for symbol in occupied:
            reference[symbol - first].reshape(-1, period)[:, inside] = True
    reference &= free
    if pdsch.ptrs is not None:
        columns = ptrs_columns(pdsch.ptrs, pdsch.dmrs, pdsch.rnti, pdsch.prb_count)
        for symbol in ptrs_symbols(pdsch.ptrs.time, occupied, pdsch.symbols):
            tracking[symbol - first, columns] = free[symbol - first, columns]
    return Layout(data & ~tracking, reference, tracking)


def pdsch_capacity(cell: Cell, pdsch: PDSCH, reserved: Mask | None = None) -> int:
    """Codeword bits of a slot, G of TS 38.212 clause 7.2.5: data elements times layers times bits a symbol.

    Args:
        cell: whose.
        pdsch: allocation.
        reserved: elements kept free ``[symbols, 12 * prb_count]``; columns as of `pdsch_prbs`.
    """
    return int(_layout(cell, pdsch, reserved).data.sum()) * pdsch.layers * BITS[pdsch.modulation]


def _data_order(data: Mask, pdsch: PDSCH, n_rb: int) -> npt.NDArray[np.intp]:
    """Flat indices of the data elements as they are filled: subcarriers of the virtual blocks first, then symbols."""
    physical = _virtual_to_physical(pdsch, n_rb)
    rank = np.argsort(np.argsort(physical))
    columns = (rank[:, None] * SUBCARRIERS + np.arange(SUBCARRIERS)).reshape(-1)
    flat = np.arange(data.size).reshape(data.shape)[:, columns]
    return flat[data[:, columns]]


def _codeword_symbols(cell: Cell, pdsch: PDSCH, bits: npt.NDArray[np.uint8]) -> Complex:
    """Scrambled and mapped codewords ``[slots, symbols of all layers]``, TS 38.211 clauses 7.3.1.1 and 7.3.1.2."""
    c_init = (pdsch.rnti << 15) + (cell.pci if pdsch.n_id is None else pdsch.n_id)
    return map_bits(bits ^ gold(c_init, bits.shape[1]), cellular(pdsch.modulation))


def _weights(pdsch: PDSCH) -> npt.NDArray[np.complex64]:
    """Factor of each layer on the transmit antenna ``[layers]``; total power one."""
    weights = np.array([pdsch.dmrs.weight(port) for port in pdsch.dmrs.ports])
    return (weights / np.sqrt(pdsch.layers)).astype(np.complex64)


def _fill(block: Complex, data: Mask, cell: Cell, pdsch: PDSCH, bits: npt.NDArray[np.uint8]) -> None:
    """Write codewords into the data elements of ``block``: x^(i)(n) = d(v n + i), TS 38.211 table 7.3.1.3-1."""
    order = _data_order(data, pdsch, cell.n_rb)
    wanted = (len(block), order.size * pdsch.layers * BITS[pdsch.modulation])
    if bits.shape != wanted:
        raise RejectedConfig(f"codeword bits {bits.shape} (TS 38.212 clause 7.2.5)", f"{wanted}: slots, capacity")
    layered = _codeword_symbols(cell, pdsch, bits).reshape(len(block), -1, pdsch.layers)
    block.reshape(len(block), -1)[:, order] = layered @ _weights(pdsch)


def _fill_random(block: Complex, data: Mask, pdsch: PDSCH, rng: np.random.Generator) -> None:
    """Fill the data elements of ``block`` with random points, every layer its own."""
    weights = _weights(pdsch)
    np.multiply(random_symbols(pdsch.modulation, block.shape, rng), weights[0], out=block)
    for weight in weights[1:]:
        block += weight * random_symbols(pdsch.modulation, block.shape, rng)
    # Few elements are without data, so clearing them is quicker than writing only the others.
    block.reshape(len(block), -1)[:, np.flatnonzero(~data)] = 0


def pdsch(
    cell: Cell,
    slots: Slots,
    allocation: PDSCH,
    rng: np.random.Generator | None = None,
    reserved: Mask | None = None,
    bits: npt.NDArray[np.uint8] | None = None,
) -> tuple[Complex, Mask]:
    """PDSCH with DM-RS and PT-RS in many slots.

    All layers leave by one antenna: layer i is multiplied by `DMRS.weight` of its port over the square root of their
    number, and its DM-RS port by the same factor, so that data elements have unit mean power whatever the layers and
    a receiver that estimates each port separately finds its layer. Nothing is sent on reserved elements.

    Args:
        cell: whose.
        slots: slot numbers ``[n]``; the number within the frame counts.
        allocation: its description, legal by `validate_pdsch`.
        rng: source of the payload symbols, needed when ``bits`` is None.
        reserved: elements of SS/PBCH blocks, CORESETs and CSI-RS ``[symbols, 12 * prb_count]`` around which the
            codeword is rate-matched (TS 38.214 clause 5.1.4), the same in all slots.
        bits: codewords, uint8 0 and 1 ``[n, pdsch_capacity(...)]``, unscrambled; None sends random symbols.

    Returns:
        complex64 ``[n, symbols, 12 * prb_count]``, columns as of `pdsch_prbs`, and where something is sent, bool
        ``[symbols, 12 * prb_count]``.

    Raises:
        RejectedConfig: wrong number of bits, neither bits nor rng, or symbols that have no DM-RS position.
    """
    layout = _layout(cell, allocation, reserved)
    first = allocation.symbols[0]
    block = np.zeros((len(slots), *layout.data.shape), dtype=np.complex64)
    if bits is not None:
        _fill(block, layout.data, cell, allocation, bits)
    elif rng is not None:
        _fill_random(block, layout.data, allocation, rng)
    else:
        raise RejectedConfig("PDSCH without payload", "codeword bits, or a generator of random symbols")
    prbs = pdsch_prbs(allocation, cell.n_rb)
    positions = dmrs_positions(allocation.dmrs, allocation.mapping, allocation.symbols)
    write_dmrs(block, first, cell, slots, allocation.dmrs, positions, prbs)
    if layout.tracking.any() and allocation.ptrs is not None:
        columns = ptrs_columns(allocation.ptrs, allocation.dmrs, allocation.rnti, allocation.prb_count)
        values = ptrs_values(columns, cell, slots, allocation.dmrs, positions[0], prbs)
        for symbol in np.flatnonzero(layout.tracking.any(axis=1)):
            block[:, symbol, columns] = values
    if reserved is not None:
        block[:, reserved] = 0
    return block, layout.data | layout.reference | layout.tracking


def validate_pdsch(pdsch: PDSCH, cell: Cell) -> None:
    """Raise RejectedConfig, naming the clause, for a PDSCH that the standard does not have in this cell."""
    stop = pdsch.prb_start + pdsch.prb_count
    if pdsch.prb_start < 0 or pdsch.prb_count < 1 or stop > cell.n_rb:
        start = min(max(0, pdsch.prb_start), cell.n_rb - 1)
        raise RejectedConfig(
            f"PRB {pdsch.prb_start} to {stop - 1} (TS 38.214 clause 5.1.2.2.2)",
            f"at least one of the carrier's {cell.n_rb} resource blocks",
            f"nearest is {start} to {min(max(start + 1, stop), cell.n_rb) - 1}",
        )
    if pdsch.modulation not in MODULATIONS:
        raise RejectedConfig(
            f"PDSCH modulation {pdsch.modulation!r} (TS 38.214 clause 5.1.3.1)", f"one of {list(MODULATIONS)}"
        )
    if pdsch.interleaver and pdsch.interleaver not in BUNDLES:
        raise RejectedConfig(
            f"VRB bundle of {pdsch.interleaver} resource blocks (TS 38.211 clause 7.3.1.6)", "2 or 4, or 0 for none"
        )
    if not 1 <= pdsch.rnti <= 65535 or not 0 <= (pdsch.n_id or 0) <= 1023:
        raise RejectedConfig(
            f"RNTI {pdsch.rnti} with scrambling identity {pdsch.n_id} (TS 38.211 clause 7.3.1.1)",
            "1 to 65535 with 0 to 1023",
        )
    _validate_symbols(pdsch, cell)
    validate_dmrs(pdsch.dmrs, pdsch.mapping)
    if pdsch.layers > MOST_LAYERS:
        raise RejectedConfig(
            f"{pdsch.layers} layers (TS 38.211 table 7.3.1.3-1)", "1 to 4: one codeword", "nearest is 4"
        )
    dmrs_positions(pdsch.dmrs, pdsch.mapping, pdsch.symbols)
    if pdsch.ptrs is not None:
        validate_ptrs(pdsch.ptrs, pdsch.dmrs)


def _validate_symbols(pdsch: PDSCH, cell: Cell) -> None:
    first, count = pdsch.symbols
    latest, shortest = {"A": (pdsch.dmrs.type_a_position, 3), "B": (12, 2)}.get(pdsch.mapping, (-1, 0))
    longest = cell.symbols if pdsch.mapping == "A" else 13
    if not 0 <= first <= latest or not shortest <= count <= longest or first + count > cell.symbols:
        raise RejectedConfig(
            f"PDSCH of {count} symbols from {first}, mapping type {pdsch.mapping!r} (TS 38.214 table 5.1.2.1-1)",
            f"type A from symbol 0 to {pdsch.dmrs.type_a_position} with 3 to {cell.symbols} symbols, "
            f"type B from 0 to 12 with 2 to 13, inside {cell.symbols} symbols",
        )
