"""Local oscillator and mixer products: frequency offset, phase noise, spurs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from lwm.channel.impairments.arrays import (
    Array,
    as_complex,
    blocks,
    like,
    modulate,
    namespace,
    phasors,
    power,
    real_pairs,
    rotate,
    turns,
)
from lwm.channel.impairments.base import REFERENCE_RATE_HZ, Impairment, Stage, between, require_whole
from lwm.channel.limits import require_between

MAX_OFFSET_HZ = 100e9
"""Largest frequency offset taken (ours); one beyond half the sample rate wraps, as it does in a sampled system."""

GRID_PER_CORNER = 40.0
"""Phase noise is drawn at this many times its corner frequency, or at the sample rate, and joined by lines (ours)."""

_STRETCH = 16
_LONGEST_HOP = 64


@dataclass(frozen=True)
class CarrierFrequencyOffset(Impairment):
    """Transmitter's and receiver's oscillators apart: multiplication by ``exp(2j pi offset_hz t)``.

    Args:
        offset_hz: Hz by which the signal appears above its nominal frequency.
    """

    name: ClassVar[str] = "carrier_frequency_offset"
    stage: ClassVar[Stage] = "receiver"
    order: ClassVar[int] = 60

    offset_hz: float

    def __post_init__(self) -> None:
        require_between("carrier frequency offset", self.offset_hz, -MAX_OFFSET_HZ, MAX_OFFSET_HZ, "Hz")

    @classmethod
    def at_level(cls, level: float, rng: np.random.Generator, sample_rate: float = REFERENCE_RATE_HZ) -> Self:
        """To 5 kHz (ours); the sign is drawn."""
        return cls(between(level, 0.0, 5e3) * float(rng.choice([-1.0, 1.0])))

    @classmethod
    def apply(
        cls, iq: Array, sample_rate: float, rows: Sequence[Self], rngs: Sequence[np.random.Generator]
    ) -> list[dict[str, Any]]:
        cycles = np.array([row.offset_hz for row in rows]) / sample_rate
        rotate(iq, cycles)
        return [{"cycles": float(value * iq.shape[1])} for value in cycles]


@dataclass(frozen=True)
class PhaseNoise(Impairment):
    """Phase noise of a locked oscillator: flat inside the loop's bandwidth, 20 dB a decade outside it.

    The phase is an Ornstein-Uhlenbeck process: ``L(f) = L0 / (1 + (f / corner)^2)``, variance ``pi L0 corner``. A
    free-running (Wiener) oscillator would wander without bound, which no receiver that tracks its carrier shows. The
    process is drawn on a grid of :data:`GRID_PER_CORNER` times the corner (at least a 64th of the sample rate) with
    uniform innovations; offsets beyond half that grid, 26 dB below the plateau, fall off faster; power beyond
    half the sample rate folds back.

    Args:
        plateau_dbc_hz: ``L0``, single-sideband level near the carrier in dBc/Hz.
        corner_hz: bandwidth of the loop.
    """

    name: ClassVar[str] = "phase_noise"
    stage: ClassVar[Stage] = "receiver"
    order: ClassVar[int] = 70

    plateau_dbc_hz: float
    corner_hz: float

    def __post_init__(self) -> None:
        require_between("phase noise plateau", self.plateau_dbc_hz, -200.0, -40.0, "dBc/Hz")
        require_between("phase noise corner", self.corner_hz, 1.0, 10e6, "Hz")

    @property
    def rms_rad(self) -> float:
        """Standard deviation of the phase in radians."""
        return math.sqrt(math.pi * 10 ** (self.plateau_dbc_hz / 10) * self.corner_hz)

    @classmethod
    def at_level(cls, level: float, rng: np.random.Generator, sample_rate: float = REFERENCE_RATE_HZ) -> Self:
        """-115 dBc/Hz, a good synthesizer (0.06 degrees), to -75 dBc/Hz, a poor one (5.7 degrees), 100 kHz (ours)."""
        return cls(between(level, -115.0, -75.0), 100e3)

    @classmethod
    def apply(
        cls, iq: Array, sample_rate: float, rows: Sequence[Self], rngs: Sequence[np.random.Generator]
    ) -> list[dict[str, Any]]:
        facts: list[dict[str, Any]] = []
        for index, (row, rng) in enumerate(zip(rows, rngs, strict=True)):
            hop = _hop(sample_rate / (GRID_PER_CORNER * row.corner_hz))
            count = -(-iq.shape[1] // hop) + 1
            phase = _ornstein_uhlenbeck(rng, count, math.exp(-2 * math.pi * row.corner_hz * hop / sample_rate))
            phase *= np.float32(row.rms_rad)
            nodes = phasors(phase)[None]
            if hop > 1:
                modulate(iq[index : index + 1], nodes, hop)
            else:
                iq[index] *= like(nodes[0, :-1], iq)
            measured = math.sqrt(float(np.vdot(phase, phase)) / count)
            facts.append({"rms_model_deg": math.degrees(row.rms_rad), "rms_measured_deg": math.degrees(measured)})
        return facts


def _hop(longest: float) -> int:
    """Largest power of two up to ``longest`` and to the longest hop, at least 1."""
    return 1 << min(int(math.log2(_LONGEST_HOP)), max(0, math.floor(math.log2(longest))))


def _ornstein_uhlenbeck(rng: np.random.Generator, count: int, memory: float) -> npt.NDArray[np.float32]:
    """Stationary first-order process of unit variance with correlation ``memory`` from value to value, ``[count]``.

    The innovations are one random byte each: white and of exactly the right variance, so the spectrum is exact; sums
    of them over the process's memory are nearly Gaussian.
    """
    from scipy.signal import lfilter

    stretches = -(-count // _STRETCH)
    raw = np.frombuffer(rng.bytes(stretches * _STRETCH), dtype=np.int8).astype(np.float32)
    raw += np.float32(0.5)
    raw *= np.float32(math.sqrt((1 - memory * memory) * 12 / (256**2 - 1)))
    # y[n] = memory y[n-1] + e[n]: within a stretch by one triangular product, from stretch to stretch by recursion.
    lag = np.arange(_STRETCH)[None] - np.arange(_STRETCH)[:, None]
    inside = np.where(lag >= 0, memory ** np.maximum(lag, 0), 0.0).astype(np.float32)
    values = raw.reshape(stretches, _STRETCH) @ inside
    carry = memory**_STRETCH
    start = rng.standard_normal()
    ends, _ = lfilter([1.0], [1.0, -carry], values[:, -1].astype(np.float64), zi=[carry * start])
    before = np.concatenate([[start], ends[:-1]])
    values += before.astype(np.float32)[:, None] * (memory ** np.arange(1, _STRETCH + 1)).astype(np.float32)
    return values.reshape(-1)[:count]


@dataclass(frozen=True)
class Spurs(Impairment):
    """Tones that a receiver makes itself, at frequencies uniform over its band and with uniform phases.

    Args:
        count: number of tones.
        level_dbc: power of each over the mean power of the row, in dB.
    """

    name: ClassVar[str] = "spurs"
    stage: ClassVar[Stage] = "receiver"
    order: ClassVar[int] = 80

    count: int
    level_dbc: float

    def __post_init__(self) -> None:
        require_whole("number of spurs", self.count, 1, 64, "tones")
        require_between("spur level", self.level_dbc, -200.0, 40.0, "dBc")

    @classmethod
    def at_level(cls, level: float, rng: np.random.Generator, sample_rate: float = REFERENCE_RATE_HZ) -> Self:
        """Four tones from -80 dBc, a laboratory receiver, to -20 dBc, a cheap dongle (ours)."""
        return cls(4, between(level, -80.0, -20.0))

    @classmethod
    def apply(
        cls, iq: Array, sample_rate: float, rows: Sequence[Self], rngs: Sequence[np.random.Generator]
    ) -> list[dict[str, Any]]:
        mean, facts = power(iq), []
        for index, (row, rng) in enumerate(zip(rows, rngs, strict=True)):
            frequency, phase = rng.uniform(-0.5, 0.5, row.count), rng.random(row.count)
            amplitude = math.sqrt(mean[index]) * 10 ** (row.level_dbc / 20)
            _add_tones(iq[index : index + 1], frequency, phase, amplitude)
            facts.append({"frequencies_hz": (frequency * sample_rate).tolist(), "amplitude": amplitude})
        return facts


_TILE = 256


def _add_tones(iq: Array, frequency: npt.NDArray[np.float64], phase: npt.NDArray[np.float64], amplitude: float) -> None:
    """Add tones of ``frequency`` cycles a sample to ``[1, S]``: one real matrix product of phases and tiles."""
    xp = namespace(iq)
    tile = turns(frequency[:, None] * np.arange(_TILE)) * np.float32(amplitude)
    starts = turns(np.arange(0, iq.shape[1], _TILE)[:, None] * frequency + phase)
    pairs, phases = like(real_pairs(tile).reshape(-1, 2 * _TILE), iq), like(starts.view(np.float32), iq)
    for rows, span in blocks(iq):
        part = iq[rows, span]
        tones = as_complex(xp.matmul(phases[span.start // _TILE : -(-span.stop // _TILE)], pairs))
        part += tones.reshape(1, -1)[:, : part.shape[1]]
