"""PUSCH with DM-RS and PT-RS: CP-OFDM and DFT-s-OFDM (TS 38.211 clause 6.3.1; hopping TS 38.214 clause 6.3)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import fft

from experts.nr.uplink.grid import (
    MODULATION_BITS,
    SUBCARRIERS,
    Bits,
    Block,
    Carrier,
    Complex,
    Slots,
    modulate_bits,
    random_symbols,
    require_one_of,
    require_prbs,
    scramble,
    transform_sizes,
)
from experts.nr.uplink.pusch_rs import (
    DMRS,
    PTRS,
    dmrs_positions,
    dmrs_values,
    ptrs_samples,
    ptrs_subcarriers,
    ptrs_symbols,
)
from experts.nr.uplink.sequences import dmrs_init, qpsk
from lwm.errors import RejectedConfig
from lwm.phy.sequences import gold

MODULATIONS = ("QPSK", "16QAM", "64QAM", "256QAM")
"""Modulations of CP-OFDM PUSCH, TS 38.211 table 6.3.1.2-1; DFT-s-OFDM has pi/2-BPSK too."""
# TS 38.214 table 6.2.3.2-1: outermost point over that of pi/2-BPSK.
_PTRS_GAIN = {"pi/2-BPSK": 1.0, "QPSK": 1.0, "16QAM": 3 / 5**0.5, "64QAM": 7 / 21**0.5, "256QAM": 15 / 85**0.5}
_PTRS_COVER = {2: ((1, 1), (1, -1)), 4: ((1, 1, 1, 1), (1, -1, 1, -1), (1, 1, -1, -1), (1, -1, -1, 1))}


@dataclass(frozen=True)
class PUSCH:
    """One allocation of the physical uplink shared channel, one layer.

    Args:
        prb: first and one past the last resource block (of the first hop).
        symbols: first and one past the last OFDM symbol of the slot.
        modulation: QPSK to 256QAM, or pi/2-BPSK with transform precoding.
        transform_precoding: DFT-s-OFDM instead of CP-OFDM.
        mapping: PUSCH mapping type "A" (from the start of the slot) or "B".
        hopping: "none", "intra-slot" or "inter-slot" frequency hopping.
        hop_offset: RB_offset of the second hop in resource blocks, modulo the carrier.
        dmrs: demodulation reference signal.
        ptrs: phase-tracking reference signal, or None.
        rnti: n_RNTI, 0 to 65535.
        n_id: scrambling identity, None for the cell's.
    """

    prb: tuple[int, int] = (0, 10)
    symbols: tuple[int, int] = (0, 14)
    modulation: str = "QPSK"
    transform_precoding: bool = False
    mapping: Literal["A", "B"] = "A"
    hopping: Literal["none", "intra-slot", "inter-slot"] = "none"
    hop_offset: int = 0
    dmrs: DMRS = field(default_factory=DMRS)
    ptrs: PTRS | None = None
    rnti: int = 1
    n_id: int | None = None

    def validate(self, carrier: Carrier) -> None:
        """Raise RejectedConfig, naming the clause and the nearest legal value, unless the carrier can have this."""
        legal = ("pi/2-BPSK", *MODULATIONS) if self.transform_precoding else MODULATIONS
        require_one_of(self.modulation, legal, "PUSCH modulation", "TS 38.211 table 6.3.1.2-1")
        count = self.prb[1] - self.prb[0]
        require_prbs(carrier, self.prb[0], count, "PUSCH", "TS 38.214 clause 6.1.2.2")
        if self.transform_precoding:
            sizes = transform_sizes(carrier.n_rb)
            require_one_of(count, sizes, "DFT-s-OFDM resource blocks", "TS 38.211 clause 6.3.1.4")
        self._validate_symbols(carrier)
        self.dmrs.validate()
        self._validate_hopping(carrier)
        if self.transform_precoding:
            require_one_of(self.dmrs.type, (1,), "DM-RS type with transform precoding", "TS 38.214 clause 6.2.2")
            require_one_of(
                self.dmrs.groups_without_data, (2,), "CDM groups without data", "TS 38.214 clause 6.2.2, DFT-s-OFDM"
            )
        if self.ptrs is not None:
            self.ptrs.validate(self.transform_precoding, count)
            ports = range(2 * self.dmrs.groups)
            require_one_of(self.dmrs.port, ports, "DM-RS port with PT-RS", "TS 38.211 table 6.4.1.2.2.1-1")
        require_one_of(self.rnti, range(65536), "n_RNTI", "TS 38.211 clause 6.3.1.1")
        if self.n_id is not None:
            require_one_of(self.n_id, range(1024), "scrambling identity", "TS 38.211 clause 6.3.1.1")
        if pusch_capacity(carrier, self) == 0:
            raise RejectedConfig(
                f"PUSCH of {self.symbols[1] - self.symbols[0]} symbols, all of them DM-RS (TS 38.211 clause 6.3.1.6)",
                "a resource element for data",
                "take one more symbol",
            )

    def _validate_symbols(self, carrier: Carrier) -> None:
        table = "TS 38.214 table 6.1.2.1-1"
        require_one_of(self.mapping, ("A", "B"), "PUSCH mapping type", table)
        starts = (0,) if self.mapping == "A" else range(carrier.symbols)
        require_one_of(self.symbols[0], starts, f"first PUSCH symbol of mapping type {self.mapping}", table)
        counts = range(4 if self.mapping == "A" else 1, carrier.symbols - self.symbols[0] + 1)
        require_one_of(self.symbols[1] - self.symbols[0], counts, "PUSCH symbols", table)

    def _validate_hopping(self, carrier: Carrier) -> None:
        require_one_of(self.hopping, ("none", "intra-slot", "inter-slot"), "PUSCH hopping", "TS 38.214 clause 6.3")
        if self.hopping == "intra-slot":
            require_one_of(
                self.dmrs.length, (1,), "DM-RS symbols with intra-slot hopping", "TS 38.211 table 6.4.1.1.3-6"
            )
            what = "additional DM-RS positions with intra-slot hopping"
            require_one_of(self.dmrs.additional, (0, 1), what, "TS 38.211 table 6.4.1.1.3-6")
        if self.hopping != "none":
            require_one_of(self.hop_offset, range(carrier.n_rb), "RB_offset", "TS 38.214 clause 6.3")
            count = self.prb[1] - self.prb[0]
            second = (self.prb[0] + self.hop_offset) % carrier.n_rb
            require_prbs(carrier, second, count, "second hop: PUSCH", "TS 38.214 clause 6.3")
        for part in hops(carrier, self, odd_slot=False):
            if not part.dmrs:
                raise RejectedConfig(
                    f"PUSCH hop of {part.length} symbols, DM-RS of {self.dmrs.length} symbols, mapping type "
                    f"{self.mapping} (TS 38.211 tables 6.4.1.1.3-3 to -6)",
                    "an allocation in which the tables place a DM-RS",
                    "take more symbols or no additional position",
                )


class Part(NamedTuple):
    """One hop: first symbol, symbols, first resource block, symbols of the hop (from its start) with DM-RS."""

    symbol: int
    length: int
    prb: int
    dmrs: tuple[int, ...]


def hops(carrier: Carrier, allocation: PUSCH, odd_slot: bool) -> list[Part]:
    """Hops of a slot, TS 38.214 clause 6.3: one, or two when it hops within the slot.

    Args:
        carrier: where.
        allocation: which.
        odd_slot: whether the slot's number is odd (inter-slot hopping).
    """
    start, stop = allocation.symbols
    count, dmrs, mapping = stop - start, allocation.dmrs, allocation.mapping
    second = (allocation.prb[0] + allocation.hop_offset) % carrier.n_rb
    if allocation.hopping == "intra-slot":
        half = count // 2
        return [
            Part(start, half, allocation.prb[0], dmrs_positions(dmrs, mapping, half, 0)),
            Part(start + half, count - half, second, dmrs_positions(dmrs, mapping, count - half, 1)),
        ]
    prb = second if allocation.hopping == "inter-slot" and odd_slot else allocation.prb[0]
    return [Part(start, count, prb, dmrs_positions(dmrs, mapping, count))]


def data_elements(allocation: PUSCH, part: Part) -> npt.NDArray[np.bool_]:
    """Elements of a hop that carry data (ahead of the DFT of DFT-s-OFDM), bool ``[symbols, subcarriers]``."""
    prbs = allocation.prb[1] - allocation.prb[0]
    data = np.ones((part.length, SUBCARRIERS * prbs), dtype=bool)
    if allocation.ptrs is not None:
        symbols = ptrs_symbols(part.length, part.dmrs, allocation.ptrs.time)
        data[np.ix_(np.array(symbols, dtype=np.intp), _ptrs_elements(allocation))] = False
    data[list(part.dmrs)] = allocation.dmrs.data(data.shape[1])
    return data


def _ptrs_elements(allocation: PUSCH) -> npt.NDArray[np.intp]:
    prbs = allocation.prb[1] - allocation.prb[0]
    assert allocation.ptrs is not None
    if allocation.transform_precoding:
        return ptrs_samples(SUBCARRIERS * prbs, allocation.ptrs.groups)
    return ptrs_subcarriers(allocation.dmrs, prbs, allocation.ptrs.frequency, allocation.rnti)


def pusch_capacity(carrier: Carrier, allocation: PUSCH) -> int:
    """Coded bits G that one slot of the allocation carries, TS 38.212 clause 6.2.7."""
    parts = hops(carrier, allocation, odd_slot=False)
    elements = sum(int(data_elements(allocation, part).sum()) for part in parts)
    return elements * MODULATION_BITS[allocation.modulation]


def pusch(
    carrier: Carrier,
    slots: Slots,
    allocation: PUSCH,
    rng: np.random.Generator,
    bits: Bits | None = None,
) -> tuple[Block, ...]:
    """PUSCH of one UE in many slots.

    Args:
        carrier: where.
        slots: slot numbers ``[n]``, counted from the start of an even frame.
        allocation: what; validated by the caller.
        rng: payload source.
        bits: coded bits ``[n, pusch_capacity(...)]``, scrambled here; None for random symbols of the constellation,
            which is what scrambled bits look like.

    Returns:
        one block a hop; data elements have unit mean power, DM-RS its boost of TS 38.214 table 6.2.2-1.
    """
    payload = None
    if bits is not None:
        n_id = carrier.pci if allocation.n_id is None else allocation.n_id
        payload = modulate_bits(scramble(bits, allocation.rnti, n_id), allocation.modulation)
    blocks = []
    for rows, odd in _rows(slots, allocation):
        done = 0
        parts = hops(carrier, allocation, odd)
        for part in parts:
            data = data_elements(allocation, part)
            given = None if payload is None else payload[rows, done : done + int(data.sum())]
            done += int(data.sum())
            values = _data(allocation, data, len(rows), rng, given)
            used = data.copy()
            if allocation.ptrs is not None:
                _write_ptrs(carrier, slots[rows], allocation, parts, part, values)
                used[list(ptrs_symbols(part.length, part.dmrs, allocation.ptrs.time))] = True
            if allocation.transform_precoding:
                values = fft.fft(values, axis=2, norm="ortho", overwrite_x=True)
            _write_dmrs(carrier, slots[rows], allocation, part, values, used)
            blocks.append(Block(rows, part.symbol, SUBCARRIERS * part.prb, values, used))
    return tuple(blocks)


def _rows(slots: Slots, allocation: PUSCH) -> Iterator[tuple[Slots, bool]]:
    """Rows of ``slots`` that share their resource blocks, and whether they are odd."""
    if allocation.hopping != "inter-slot":
        yield np.arange(len(slots)), False
        return
    for odd in (False, True):
        rows = np.flatnonzero(slots % 2 == odd)
        if rows.size:
            yield rows, odd


def _data(
    allocation: PUSCH, data: npt.NDArray[np.bool_], rows: int, rng: np.random.Generator, given: Complex | None
) -> Complex:
    """Data symbols in their elements, complex64 ``[rows, symbols, subcarriers]``, 0 elsewhere."""
    if given is None:
        values = random_symbols(allocation.modulation, (rows, *data.shape), rng)
        # Few symbols have an element without data; a mask over all of them would take longer than the payload.
        for symbol in np.flatnonzero(~data.all(axis=1)).tolist():
            values[:, symbol, ~data[symbol]] = 0
        return values
    values = np.zeros((rows, *data.shape), dtype=np.complex64)
    values[:, data] = given
    return values


def _write_dmrs(
    carrier: Carrier,
    slots: Slots,
    allocation: PUSCH,
    part: Part,
    values: Complex,
    used: npt.NDArray[np.bool_],
) -> None:
    dmrs = allocation.dmrs
    at = dmrs.subcarriers(values.shape[2])
    prb = (part.prb, part.prb + allocation.prb[1] - allocation.prb[0])
    in_frame, inverse = np.unique(slots % carrier.frame_slots, return_inverse=True)
    for position, symbol in enumerate(part.dmrs):
        second = dmrs.length == 2 and position % 2 == 1
        rows = [
            dmrs_values(carrier, dmrs, slot, part.symbol + symbol, second, prb, allocation.transform_precoding)
            for slot in in_frame.tolist()
        ]
        values[:, symbol, at] = np.stack(rows)[inverse]
        used[symbol, at] = True


def _write_ptrs(
    carrier: Carrier, slots: Slots, allocation: PUSCH, parts: list[Part], part: Part, values: Complex
) -> None:
    """PT-RS into ``values``: on subcarriers, or with transform precoding among the samples ahead of the DFT."""
    assert allocation.ptrs is not None
    dmrs, at, density = allocation.dmrs, _ptrs_elements(allocation), allocation.ptrs.time
    n_id = carrier.pci if dmrs.n_id is None else dmrs.n_id
    symbols = np.array(ptrs_symbols(part.length, part.dmrs, density), dtype=np.intp)
    # Clause 6.4.1.2.1.2: one sequence a slot, of the allocation's lowest symbol with PT-RS.
    lowest = min((p.symbol + s for p in parts for s in ptrs_symbols(p.length, p.dmrs, density)), default=0)
    for row, slot in zip(values, (slots % carrier.frame_slots).tolist(), strict=True):
        if allocation.transform_precoding:
            size = allocation.ptrs.groups[1]
            cover = np.tile(_PTRS_COVER[size][allocation.rnti % size], allocation.ptrs.groups[0])
            turn = np.where(at % 2, 1j, 1) * (1 + 1j) / np.sqrt(2) * _PTRS_GAIN[allocation.modulation]
            c_init = dmrs_init(n_id, 0, slot, lowest, carrier.symbols)
            row[np.ix_(symbols, at)] = turn * cover * (1 - 2.0 * gold(c_init, len(at)))
            continue
        # Clause 6.4.1.2.1.1: the DM-RS sequence of the hop's first symbol with DM-RS, at the same subcarrier.
        per_rb = 6 if dmrs.type == 1 else 4
        c_init = dmrs_init(n_id, dmrs.n_scid, slot, part.symbol + part.dmrs[0], carrier.symbols)
        own = per_rb * part.prb + np.searchsorted(dmrs.subcarriers(values.shape[2]), at)
        row[np.ix_(symbols, at)] = qpsk(c_init, per_rb * carrier.n_rb)[own]
