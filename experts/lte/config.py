"""Parameter space of the LTE downlink and the rules of TS 36.211 that a configuration must keep."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from experts.lte import frame
from lwm.errors import RejectedConfig

MODULATIONS = ("QPSK", "16QAM", "64QAM", "256QAM")
"""PDSCH modulations (TS 36.211 table 6.3.2-1)."""

PDSCH_POWERS = (-6.0, -4.77, -3.0, -1.77, 0.0, 1.0, 2.0, 3.0)
"""Values of P_A in dB (TS 36.213 clause 5.2)."""


@dataclass(frozen=True)
class TDDPattern:
    """Frame structure type 2: ``configuration`` 0..6 (uplink-downlink) and ``special_subframe`` configuration."""

    configuration: int
    special_subframe: int = 7


@dataclass(frozen=True)
class PDSCH:
    """One user's allocation of contiguous resource blocks in one subframe.

    ``subframe`` counts from the beginning of the frame in which the capture starts, so that 10 is subframe 0 of the
    following frame.
    """

    subframe: int
    first_rb: int
    n_rb: int
    modulation: str


@dataclass(frozen=True)
class LTEConfig:
    """One LTE downlink capture.

    Args:
        bandwidth: channel bandwidth in Hz, 1.4, 3, 5, 10, 15 or 20 MHz.
        pci: physical cell identity, 0..503.
        tdd: pattern of frame structure type 2, None for FDD.
        extended_cp: extended cyclic prefix (six symbols a slot).
        cfi: control format indicator 1..3, see :func:`experts.lte.frame.control_symbols`.
        control_load: share [0, 1] of the control region's resource-element groups (beside PCFICH) in use.
        pdsch_power: P_A, ratio of PDSCH to CRS energy per resource element in dB.
        sfn: system frame number 0..1023 of the frame in which the capture starts.
        allocations: PDSCH of the capture; what lies after its end is not heard.
        start: seconds from the beginning of a frame to the capture's first sample, in [0, 0.01).
        duration: seconds.
    """

    bandwidth: float = 10e6
    pci: int = 0
    tdd: TDDPattern | None = None
    extended_cp: bool = False
    cfi: int = 2
    control_load: float = 0.5
    pdsch_power: float = 0.0
    sfn: int = 0
    allocations: tuple[PDSCH, ...] = ()
    start: float = 0.0
    duration: float = 0.016

    @property
    def duplex(self) -> str:
        """``"FDD"`` or ``"TDD"``."""
        return "FDD" if self.tdd is None else "TDD"

    @property
    def resource_blocks(self) -> int:
        """N_RB of the downlink."""
        return frame.RESOURCE_BLOCKS[self.bandwidth]

    @property
    def n_fft(self) -> int:
        """FFT size."""
        return frame.FFT_SIZES[self.resource_blocks]

    @property
    def sample_rate(self) -> float:
        """Native sample rate in Hz."""
        return self.n_fft * frame.SUBCARRIER_SPACING

    @property
    def samples(self) -> int:
        """Length of the capture in samples."""
        return round(self.duration * self.sample_rate)

    @property
    def first_sample(self) -> int:
        """Sample of the frame at which the capture starts."""
        return round(self.start * self.sample_rate)

    @property
    def pattern(self) -> tuple[int, int] | None:
        """The TDD pattern as plain numbers, None for FDD."""
        return None if self.tdd is None else (self.tdd.configuration, self.tdd.special_subframe)

    def subframes(self) -> npt.NDArray[np.int64]:
        """Subframes that the capture touches, counted from the beginning of its first frame."""
        length = round(self.sample_rate / 1000)
        return np.arange(self.first_sample // length, -(-(self.first_sample + self.samples) // length))

    def downlink(self) -> npt.NDArray[np.bool_]:
        """Transmitted symbols, bool ``[10 subframes, symbols]``."""
        return frame.downlink_symbols(self.pattern, self.extended_cp)

    def data_symbols(self) -> npt.NDArray[np.bool_]:
        """Symbols that may hold PDSCH, bool ``[10 subframes, symbols]``; none in a DwPTS of three symbols."""
        down = self.downlink()
        control = frame.control_symbols(self.resource_blocks, self.cfi, self.tdd is not None)
        able = down & (np.arange(down.shape[1]) >= np.array(control)[:, None])
        return able & (down.sum(axis=1) > 3)[:, None]


def nearest(value: Any, legal: Sequence[float]) -> float:
    """The legal value closest to ``value``; the first one when ``value`` is no number."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return legal[0]
    return min(legal, key=lambda item: abs(item - value))


def _require(name: str, value: Any, legal: Sequence[float], clause: str, integer: bool = True) -> None:
    if isinstance(value, bool) or (integer and not isinstance(value, int | np.integer)) or value not in legal:
        span = f"{legal[0]}..{legal[-1]}" if integer and len(legal) > 8 else ", ".join(f"{item:g}" for item in legal)
        raise RejectedConfig(f"LTE {name} {value} ({clause})", f"one of {span}", f"nearest: {nearest(value, legal):g}")


def _require_between(name: str, value: float, low: float, high: float, clause: str) -> None:
    if not low <= value <= high:
        closest = high if value > high else low
        raise RejectedConfig(f"LTE {name} {value} ({clause})", f"{low:g}..{high:g}", f"nearest: {closest:g}")


def require_bandwidth(bandwidth: float) -> None:
    """Raise RejectedConfig when ``bandwidth`` (Hz) is no LTE channel bandwidth."""
    _require("bandwidth", bandwidth, tuple(frame.RESOURCE_BLOCKS), "TS 36.101 table 5.6-1", integer=False)


def require_pattern(pattern: TDDPattern, extended: bool) -> None:
    """Raise RejectedConfig when ``pattern`` is not in tables 4.2-1 and 4.2-2 of TS 36.211."""
    patterns = range(len(frame.UPLINK_DOWNLINK))
    _require("uplink-downlink configuration", pattern.configuration, patterns, "TS 36.211 table 4.2-2")
    special = range(len(frame.dwpts_symbols(extended)))
    _require("special-subframe configuration", pattern.special_subframe, special, "TS 36.211 table 4.2-1")


def require_modulation(modulation: str) -> None:
    """Raise RejectedConfig when ``modulation`` is none of the PDSCH's."""
    if modulation not in MODULATIONS:
        raise RejectedConfig(
            f"LTE PDSCH modulation {modulation!r} (TS 36.211 table 6.3.2-1)", f"one of {', '.join(MODULATIONS)}"
        )


def require_time(start: float, duration: float) -> None:
    """Raise RejectedConfig when the capture does not start inside a frame or lasts no time."""
    if not 0 <= start < frame.FRAME:
        raise RejectedConfig(
            f"LTE start {start} s (TS 36.211 clause 4.1: a frame lasts 10 ms)",
            "0 <= start < 0.01",
            f"nearest: {0 if start < 0 else start % frame.FRAME:g}",
        )
    if not (math.isfinite(duration) and duration > 0):
        raise RejectedConfig(f"LTE duration {duration} s", "a positive number of seconds", "a frame lasts 0.01")


def validate(config: LTEConfig) -> None:
    """Raise RejectedConfig naming the clause that ``config`` breaks and the nearest legal value."""
    require_bandwidth(config.bandwidth)
    _require("physical cell identity", config.pci, range(504), "TS 36.211 clause 6.11")
    if config.tdd is not None:
        require_pattern(config.tdd, config.extended_cp)
    _require("CFI", config.cfi, (1, 2, 3), "TS 36.211 table 6.7-1")
    _require_between("control load", config.control_load, 0.0, 1.0, "share of the control region")
    _require("system frame number", config.sfn, range(1024), "TS 36.331 clause 6.2.2")
    _require("P_A", config.pdsch_power, PDSCH_POWERS, "TS 36.213 clause 5.2", integer=False)
    require_time(config.start, config.duration)
    _validate_allocations(config)
    numbers = config.subframes()
    if not on_air(config, numbers).any():
        raise RejectedConfig(
            f"LTE capture from {config.start:g} s for {config.duration:g} s holds no downlink symbol "
            "(TS 36.211 table 4.2-2)",
            "some downlink time",
            f"nearest: start 0 (uplink-downlink configuration {config.pattern and config.pattern[0]})",
        )


def on_air(config: LTEConfig, subframes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Transmitted samples of the capture in each of ``subframes``, int64 ``[subframes, symbols]``."""
    edges = frame.symbol_edges(config.n_fft, config.extended_cp)
    begin = subframes[:, None] * edges[-1] + edges[:-1] - config.first_sample
    end = begin + np.diff(edges)
    heard = np.clip(end, 0, config.samples) - np.clip(begin, 0, config.samples)
    return heard * config.downlink()[subframes % frame.SUBFRAMES]


def _validate_allocations(config: LTEConfig) -> None:
    legal = np.flatnonzero(config.data_symbols().any(axis=1)).tolist()
    n_rb = config.resource_blocks
    taken: set[tuple[int, int]] = set()
    for item in config.allocations:
        require_modulation(item.modulation)
        base = max(item.subframe, 0) // frame.SUBFRAMES * frame.SUBFRAMES
        if item.subframe - base not in legal:
            raise RejectedConfig(
                f"LTE PDSCH in subframe {item.subframe} (TS 36.211 table 4.2-2, TS 36.213 clause 7.1)",
                f"a downlink subframe, of each frame {legal}",
                f"nearest: {base + nearest(item.subframe - base, legal):g}",
            )
        if item.first_rb < 0 or item.n_rb < 1 or item.first_rb + item.n_rb > n_rb:
            raise RejectedConfig(
                f"LTE PDSCH on resource blocks {item.first_rb}..{item.first_rb + item.n_rb - 1} "
                "(TS 36.213 clause 7.1.6)",
                f"blocks inside 0..{n_rb - 1}",
                f"nearest: {min(max(item.first_rb, 0), n_rb - 1)}..{min(item.first_rb + item.n_rb, n_rb) - 1}",
            )
        blocks = {(item.subframe, block) for block in range(item.first_rb, item.first_rb + item.n_rb)}
        if blocks & taken:
            raise RejectedConfig(
                f"LTE PDSCH of subframe {item.subframe} on resource blocks that another user has "
                "(one antenna port, TS 36.213 clause 7.1.6)",
                "disjoint allocations",
                f"nearest: {n_rb - len({b for s, b in taken if s == item.subframe})} blocks are free there",
            )
        taken |= blocks
