"""PRACH preambles as samples (TS 38.211 clauses 6.3.3 and 5.3.2), unrestricted sets."""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import fft

from experts.nr.uplink.grid import SUBCARRIERS, Carrier, Complex, require_one_of
from experts.nr.uplink.prach_tables import CYCLIC_SHIFTS, DURATION, FORMATS, LONG_SPACING, RESOURCE_BLOCKS, ROOTS
from lwm.errors import RejectedConfig

PREAMBLES = 64
"""Preambles of a cell, TS 38.211 clause 6.3.3.1."""
TS = 30_720_000
"""Units of time a second: T_s = 1 / (15000 * 2048) s, which is kappa T_c."""
SUBFRAME = 30_720
"""A subframe in T_s."""
FRAME = 10 * SUBFRAME
"""A frame in T_s."""
_HALF = SUBFRAME // 2


@dataclass(frozen=True)
class Occasions:
    """When PRACH is sent: one row of TS 38.211 tables 6.3.3.2-2 to 6.3.3.2-4.

    Args:
        period: x in frames, and y: sent in frames with n_SFN mod x = y.
        slots: subframes of the frame (spacing up to 30 kHz), or its 60 kHz slots (60 and 120 kHz).
        symbol: starting symbol, in the PRACH numerology.
        slots_per: PRACH slots in each of them, 1 or 2 (2 with 30 and 120 kHz only).
        count: occasions in a PRACH slot, one after another.
    """

    period: tuple[int, int] = (1, 0)
    slots: tuple[int, ...] = (4,)
    symbol: int = 0
    slots_per: int = 1
    count: int = 1


@dataclass(frozen=True)
class PRACH:
    """A random-access preamble.

    Args:
        format: "0" to "3" (839 long), "A1" to "A3", "B1" to "B4", "C0" or "C2" (139 long).
        spacing: subcarrier spacing in kHz of the short formats: 15, 30, 60 or 120; long formats have their own.
        root: logical root sequence index, prach-RootSequenceIndex.
        zone: zeroCorrelationZoneConfig, 0 to 15.
        preamble: preamble index, 0 to 63.
        prb: first resource block of frequency index 0 (msg1-FrequencyStart).
        frequency: n_RA, index of the occasion in frequency, 0 to 7.
        occasions: when.
    """

    format: str = "B4"
    spacing: float = 30.0
    root: int = 0
    zone: int = 0
    preamble: int = 0
    prb: int = 0
    frequency: int = 0
    occasions: Occasions = field(default_factory=Occasions)

    @property
    def scs(self) -> float:
        """Subcarrier spacing in kHz."""
        return LONG_SPACING.get(self.format, float(self.spacing))

    @property
    def mu(self) -> int:
        """Numerology of its symbol clock: that of its spacing, 0 for long formats."""
        return max(0, int(self.scs // 15).bit_length() - 1)

    @property
    def length(self) -> int:
        """Length of the Zadoff-Chu sequence, L_RA."""
        return FORMATS[self.format].length

    @property
    def cyclic_shift(self) -> int:
        """N_CS."""
        return CYCLIC_SHIFTS[min(self.scs, 15.0)][self.zone]

    def resource_blocks(self, carrier: Carrier) -> tuple[int, int]:
        """First and one past the last resource block of the carrier that it takes, TS 38.211 table 6.3.3.2-1."""
        count = RESOURCE_BLOCKS[self.scs, 15 << carrier.mu][0]
        first = self.prb + self.frequency * count
        return first, first + count

    def validate(self, carrier: Carrier) -> None:
        """Raise RejectedConfig, naming the clause and the nearest legal value, unless the carrier can have this."""
        require_one_of(self.format, tuple(FORMATS), "PRACH format", "TS 38.211 tables 6.3.3.1-1 and -2")
        if self.format not in LONG_SPACING:
            require_one_of(self.spacing, (15, 30, 60, 120), "PRACH spacing in kHz", "TS 38.211 table 6.3.3.1-2")
        pusch = 15 << carrier.mu
        pairs = [scs for scs, other in RESOURCE_BLOCKS if other == pusch and (scs >= 15) == (self.scs >= 15)]
        require_one_of(self.scs, pairs, f"PRACH spacing in kHz beside {pusch} kHz", "TS 38.211 table 6.3.3.2-1")
        roots = range(self.length - 1)
        require_one_of(self.root, roots, "PRACH root index", "TS 38.211 tables 6.3.3.1-3 and -4")
        require_one_of(self.zone, range(16), "zeroCorrelationZoneConfig", "TS 38.211 tables 6.3.3.1-5 to -7")
        require_one_of(self.preamble, range(PREAMBLES), "PRACH preamble", "TS 38.211 clause 6.3.3.1")
        require_one_of(self.frequency, range(8), "PRACH frequency index", "TS 38.331 msg1-FDM")
        first, stop = self.resource_blocks(carrier)
        if self.prb < 0 or stop > carrier.n_rb:
            nearest = max(0, carrier.n_rb - (stop - self.prb))
            raise RejectedConfig(
                f"PRACH in resource blocks {first} to {stop - 1} (TS 38.211 clause 5.3.2)",
                f"blocks of the carrier's {carrier.n_rb}",
                f"nearest first block is {min(max(self.prb, 0), nearest)}",
            )
        self._validate_occasions()

    def _validate_occasions(self) -> None:
        when, clause = self.occasions, "TS 38.211 tables 6.3.3.2-2 to -4"
        require_one_of(when.period[0], (1, 2, 4, 8, 16), "PRACH period x in frames", clause)
        require_one_of(when.period[1], range(when.period[0]), "PRACH frame y", clause)
        slots = range(10 if self.scs < 60 else 40)
        for slot in when.slots:
            require_one_of(slot, slots, "PRACH subframe" if self.scs < 60 else "PRACH slot of 60 kHz", clause)
        require_one_of(when.slots_per, (1, 2) if self.scs in (30, 120) else (1,), "PRACH slots in one", clause)
        if self.format in LONG_SPACING:
            require_one_of(when.symbol, (0, 7), "PRACH starting symbol", clause)
            require_one_of(when.count, (1,), "PRACH occasions in a slot", clause)
            return
        duration = DURATION[self.format]
        require_one_of(when.symbol, range(14 - duration + 1), "PRACH starting symbol", clause)
        most = (14 - when.symbol) // duration
        require_one_of(when.count, range(1, most + 1), f"PRACH occasions from symbol {when.symbol}", clause)


@lru_cache(maxsize=256)
def preamble(length: int, root: int, n_cs: int, index: int) -> Complex:
    """y_{u,v}(n) of TS 38.211 clause 6.3.3.1 at unit amplitude, complex64 ``[length]``, read-only.

    Args:
        length: L_RA, 839 or 139.
        root: logical index of the cell's first root sequence.
        n_cs: N_CS, cyclic shift step; 0: one preamble a root.
        index: preamble, 0 to 63: shifts of a root in turn, then those of the next logical index.
    """
    per_root = length // n_cs if n_cs else 1
    u = int(ROOTS[length][(root + index // per_root) % (length - 1)])
    m = np.arange(length)
    # Whole turns are taken out in integers: the phase grows as the square of the length.
    x = np.exp(-1j * np.pi * (u * m * (m + 1) % (2 * length)) / length)
    y = fft.fft(np.roll(x, -(index % per_root) * n_cs)) / np.sqrt(length)
    sequence = np.asarray(y, dtype=np.complex64)
    sequence.setflags(write=False)
    return sequence


def _symbol_start(mu: int, symbol: int) -> int:
    """Start of an OFDM symbol of a subframe in T_s, normal prefix, TS 38.211 clause 5.3.1."""
    long = -(-symbol // (7 << mu))
    return (symbol * (2048 + 144) >> mu) + 16 * long


def occasions(config: PRACH, first_frame: int, frames: int) -> npt.NDArray[np.int64]:
    """Starts of all occasions in time, TS 38.211 clause 5.3.2.

    Args:
        config: which.
        first_frame: system frame number of the first frame.
        frames: how many frames.

    Returns:
        int64 ``[n]`` in T_s from the start of the first frame.
    """
    when, mu = config.occasions, config.mu
    step = DURATION.get(config.format, 0)
    # Clause 5.3.2: with one PRACH slot at 30 or 120 kHz it is the second of the two.
    own = (0,) if config.scs not in (30, 120) else (0, 1) if when.slots_per == 2 else (1,)
    found = []
    for frame in range(frames):
        if (first_frame + frame) % when.period[0] != when.period[1]:
            continue
        for slot in sorted(when.slots):
            subframe, part = (slot, 0) if config.scs < 60 else divmod(slot, 4)
            base = part << max(0, mu - 2)
            for second in own:
                for number in range(when.count):
                    symbol = 14 * (base + second) + when.symbol + step * number
                    found.append(frame * FRAME + subframe * SUBFRAME + _symbol_start(mu, symbol))
    return np.array(found, dtype=np.int64)


class PRACHSignal(NamedTuple):
    """Samples of one preamble: number of the first from the origin of time, complex64 samples, band edges in Hz."""

    first: int
    samples: Complex
    band: tuple[float, float]


def durations(config: PRACH, start: int) -> tuple[int, int]:
    """Cyclic prefix N_CP,l and useful part N_u in T_s of the preamble that begins at ``start`` T_s (clause 5.3.2)."""
    form = FORMATS[config.format]
    if config.format in LONG_SPACING:
        return form.prefix, int(TS / (1e3 * config.scs)) * form.repetitions
    prefix, useful = form.prefix >> config.mu, 2048 * form.repetitions >> config.mu
    begin = start % SUBFRAME
    # n: whether the preamble lies over 0 and over 0.5 ms of the subframe, where OFDM symbols are 16 T_s longer.
    over = (begin == 0) + (begin <= _HALF < begin + useful + prefix)
    return prefix + 16 * over, useful


def prach(carrier: Carrier, config: PRACH, sample_rate: float, start: int) -> PRACHSignal:
    """One preamble.

    Args:
        carrier: whose centre is 0 Hz.
        config: which; validated by the caller.
        sample_rate: Hz, a multiple of the preamble's subcarrier spacing.
        start: its start in T_s from the origin of time, one of :func:`occasions`; the origin is a subframe's start.

    Returns:
        samples from the first that is not before ``start``. Each subcarrier has the power a Hz that a resource element
        of unit power has after an orthonormal inverse DFT at the same sample rate.

    Raises:
        RejectedConfig: a sample rate that is not a multiple of the spacing, or too low for the preamble's band.
    """
    spacing = 1e3 * config.scs
    size = round(sample_rate / spacing)
    if size * spacing != sample_rate:
        raise RejectedConfig(
            f"sample rate {sample_rate:g} Hz with a PRACH of {spacing:g} Hz (TS 38.211 clause 5.3.2)",
            "a multiple of the spacing",
            f"nearest is {max(1, size) * spacing:g} Hz",
        )
    prefix, useful = durations(config, start)
    rate = Fraction(int(sample_rate), TS)
    # A time in T_s times the rate is a number of samples; the preamble's own phase is 0 at the end of its prefix.
    first, stop = math.ceil(start * rate), math.ceil((start + prefix + useful) * rate)
    whole, part = divmod((start + prefix) * rate, 1)
    # Subcarriers counted from 0 Hz: k + K k_1 + k-bar of clause 5.3.2.
    _, k_bar = RESOURCE_BLOCKS[config.scs, 15 << carrier.mu]
    k_1 = SUBCARRIERS * config.resource_blocks(carrier)[0] - SUBCARRIERS * carrier.n_rb // 2
    lowest = int(k_1 * ((15 << carrier.mu) / config.scs)) + k_bar
    k = lowest + np.arange(config.length)
    if k[0] < -size / 2 or k[-1] >= size / 2:
        need = 2 * spacing * max(-k[0], k[-1] + 1)
        raise RejectedConfig(
            f"sample rate {sample_rate:g} Hz for PRACH at {k[0] * spacing:g} to {k[-1] * spacing:g} Hz",
            f"at least {need:g} Hz",
            "take the carrier's own sample rate",
        )
    turned = preamble(config.length, config.root, config.cyclic_shift, config.preamble) * np.exp(
        -2j * np.pi * k * float(part) / size
    )
    bins = np.zeros(size, dtype=np.complex64)
    bins[k % size] = turned
    period = fft.ifft(bins, norm="ortho")
    samples = period[np.arange(first - whole, stop - whole) % size]
    return PRACHSignal(first, samples, ((k[0] - 0.5) * spacing, (k[-1] + 0.5) * spacing))
