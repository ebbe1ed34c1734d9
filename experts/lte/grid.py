"""Resource grid of the LTE downlink: which element holds what, and its values."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from experts.lte import signals
from experts.lte.broadcast import pbch
from experts.lte.config import MODULATIONS, LTEConfig
from experts.lte.frame import SUBFRAMES, control_symbols, downlink_symbols, slot_symbols
from lwm.phy.constellation import cellular

Complex = npt.NDArray[np.complex64]
Codes = npt.NDArray[np.uint8]

EMPTY, DATA, CONTROL, BROADCAST = range(4)
"""What an element is for: nothing or a fixed signal, PDSCH, PHICH and PDCCH, PBCH."""

_QPSK_ROW = len(MODULATIONS) + 1


@dataclass(frozen=True)
class Grid:
    """Values and occupancy of the subframes that a capture touches.

    ``values`` complex64 ``[subframes * symbols, 12 * N_RB]``, lowest subcarrier first, without the carrier at 0 Hz.
    ``modulation`` uint8 ``[subframes, N_RB]``: 0 where no PDSCH, else 1 + index in MODULATIONS.
    ``data_elements`` int64 ``[subframes, symbols]``: elements that carry PDSCH.
    """

    values: Complex
    modulation: Codes
    data_elements: npt.NDArray[np.int64]


@lru_cache(maxsize=64)
def layout(n_rb: int, shift: int, pattern: tuple[int, int] | None, extended: bool, cfi: int) -> Codes:
    """What each element of a frame is for, uint8 ``[10, symbols, 12 * n_rb]`` of EMPTY, DATA, CONTROL, BROADCAST.

    EMPTY covers uplink and guard time, CRS, synchronisation signals with their reserved neighbours, and elements
    that the standard keeps free for the reference signals of other antenna ports.

    Args:
        n_rb: resource blocks.
        shift: physical cell identity modulo 6 (v_shift, TS 36.211 clause 6.10.1.2).
        pattern: uplink-downlink and special-subframe configuration, None for FDD.
        extended: extended cyclic prefix.
        cfi: control format indicator.
    """
    slot = slot_symbols(extended)
    down = downlink_symbols(pattern, extended)
    carriers = np.arange(12 * n_rb)
    kind = np.where(down[:, :, None], DATA, EMPTY).astype(np.uint8).repeat(12 * n_rb, axis=2)
    reference = signals.crs_symbols(extended)
    for index, symbol in enumerate(reference):
        kind[:, symbol, signals.crs_offset(shift, index) :: 6] = EMPTY
    # Elements of ports 0 to 3, or of ports 0 and 1 in the control region, stay free whatever is configured
    # (TS 36.211 clauses 6.2.4 and 6.6.4).
    reserved = carriers % 3 == shift % 3
    for subframe, count in enumerate(control_symbols(n_rb, cfi, pattern is not None)):
        region = kind[subframe, :count]
        region[down[subframe, :count]] = CONTROL
        for symbol in set(reference) & set(range(count)):
            region[symbol, reserved] = EMPTY
    centre = slice(6 * n_rb - 36, 6 * n_rb + 36)
    for subframe, symbol in sync_symbols(pattern is not None, extended):
        kind[subframe, symbol, centre] = EMPTY
    broadcast = kind[0, slot : slot + 4, centre]
    broadcast[:] = BROADCAST
    rows = (0, 1, 3) if extended else (0, 1)
    broadcast[np.ix_(rows, reserved[centre])] = EMPTY
    kind.setflags(write=False)
    return kind


def sync_symbols(tdd: bool, extended: bool) -> tuple[tuple[int, int], ...]:
    """(subframe, symbol) of PSS and SSS in the first and in the second half of a frame.

    TS 36.211 clauses 6.11.1.2 and 6.11.2.2. Order: PSS, PSS, SSS, SSS.
    """
    slot = slot_symbols(extended)
    if tdd:
        return ((1, 2), (6, 2), (0, 2 * slot - 1), (5, 2 * slot - 1))
    return ((0, slot - 1), (5, slot - 1), (0, slot - 2), (5, slot - 2))


@lru_cache
def _points(pdsch_power: float) -> Complex:
    """Constellation points by ``row * 256 + random byte``; row 0 empty, then PDSCH modulations, then plain QPSK."""
    amplitude = 10 ** (pdsch_power / 20)
    rows = [np.zeros(256, dtype=np.complex64)]
    rows += [np.resize(cellular(name), 256) * np.float32(amplitude) for name in MODULATIONS]
    rows.append(np.resize(cellular("QPSK"), 256))
    return np.concatenate(rows)


def _modulation_map(config: LTEConfig, subframes: npt.NDArray[np.int64]) -> Codes:
    chosen = np.zeros((len(subframes), config.resource_blocks), dtype=np.uint8)
    for item in config.allocations:
        row = item.subframe - int(subframes[0])
        if 0 <= row < len(subframes):
            chosen[row, item.first_rb : item.first_rb + item.n_rb] = 1 + MODULATIONS.index(item.modulation)
    return chosen


def _thin_control(row: Codes, kind: Codes, config: LTEConfig, rng: np.random.Generator) -> None:
    """Empty the resource-element groups of the control region that no PHICH or PDCCH uses (in place)."""
    widest = max(control_symbols(config.resource_blocks, config.cfi, config.tdd is not None))
    reference = signals.crs_symbols(config.extended_cp)
    for symbol in range(widest):
        # Six subcarriers with two reserved ones, or four (TS 36.211 clause 6.2.4).
        width = 6 if symbol in reference else 4
        used = rng.random((len(row), row.shape[2] // width), dtype=np.float32) < config.control_load
        idle = (kind[:, symbol] == CONTROL) & ~used.repeat(width, axis=1)
        row[:, symbol][idle] = 0


def fill(config: LTEConfig, rng: np.random.Generator) -> Grid:
    """Resource grid of the subframes that ``config`` touches, with random payload from ``rng``."""
    numbers = config.subframes()
    of_frame = numbers % SUBFRAMES
    n_rb = config.resource_blocks
    kind = layout(n_rb, config.pci % 6, config.pattern, config.extended_cp, config.cfi)[of_frame]
    modulation = _modulation_map(config, numbers)
    row = np.array([0, 0, _QPSK_ROW, 0], dtype=np.uint8)[kind]
    data = kind == DATA
    np.copyto(row, modulation.repeat(12, axis=1)[:, None], where=data)
    data_elements = np.count_nonzero(data & (row > 0), axis=2)
    _thin_control(row, kind, config, rng)
    index = row.astype(np.uint16) << 8
    index |= rng.integers(0, 256, size=row.shape, dtype=np.uint8)
    values = _points(config.pdsch_power).take(index)
    _put_signals(values, config, of_frame)
    for place in np.flatnonzero(of_frame == 0):
        sfn = (config.sfn + int(numbers[place]) // SUBFRAMES) % 1024
        blocks = pbch(config.pci, n_rb, sfn - sfn % 4, config.extended_cp)
        values[place][kind[place] == BROADCAST] = blocks[sfn % 4]
    return Grid(values.reshape(-1, 12 * n_rb), modulation, data_elements)


def _put_signals(values: Complex, config: LTEConfig, of_frame: npt.NDArray[np.int64]) -> None:
    """Write CRS, PCFICH, PSS and SSS into ``values`` ``[subframes, symbols, subcarriers]``."""
    pci, n_rb, extended, tdd = config.pci, config.resource_blocks, config.extended_cp, config.tdd is not None
    down = config.downlink()[of_frame]
    reference = signals.crs(pci, n_rb, extended)[of_frame]
    for index, symbol in enumerate(signals.crs_symbols(extended)):
        sent = reference[:, index] * down[:, symbol, None]
        values[:, symbol, signals.crs_offset(pci, index) :: 6] = sent
    carriers, indicator = signals.pcfich(pci, n_rb, config.cfi, tdd)
    values[:, 0, carriers] = indicator[of_frame] * down[:, 0, None]
    first = 6 * n_rb - 31
    primary = signals.pss(pci % 3)
    secondary = signals.sss(pci // 3, pci % 3)
    sequences = (primary, primary, secondary[0], secondary[1])
    for (subframe, symbol), sequence in zip(sync_symbols(tdd, extended), sequences, strict=True):
        values[of_frame == subframe, symbol, first : first + 62] = sequence
