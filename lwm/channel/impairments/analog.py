"""Modulator, amplifier and mixer: IQ imbalance, power amplifier, DC offset."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from lwm.channel.impairments.arrays import Array, blocks, column, decibels, namespace, on_host, power
from lwm.channel.impairments.base import REFERENCE_RATE_HZ, Impairment, Stage, between
from lwm.channel.limits import require_between


@dataclass(frozen=True)
class IQImbalance(Impairment):
    """Unequal branches of the transmitter's quadrature modulator, the same over the band.

    ``y = alpha x + beta conj(x)``. The error is split evenly over both branches and the mean power of a circular
    signal is kept. With ``g = 10^(gain_db / 20)``, the image rejection ratio is
    ``|alpha|^2 / |beta|^2 = (1 + 2 g cos(phase) + g^2) / (1 - 2 g cos(phase) + g^2)``.

    Args:
        gain_db: gain of the I branch over the Q branch in dB.
        phase_deg: departure from quadrature in degrees.
    """

    name: ClassVar[str] = "iq_imbalance"
    stage: ClassVar[Stage] = "transmitter"
    order: ClassVar[int] = 10

    gain_db: float
    phase_deg: float

    def __post_init__(self) -> None:
        require_between("IQ gain imbalance", self.gain_db, -20.0, 20.0, "dB")
        require_between("IQ phase imbalance", self.phase_deg, -90.0, 90.0, "degrees")

    @property
    def coefficients(self) -> tuple[complex, complex]:
        """``alpha`` and ``beta``, ``|alpha|^2 + |beta|^2 = 1``."""
        gain = 10 ** (self.gain_db / 20)
        half = math.radians(self.phase_deg) / 2
        first = gain * complex(math.cos(half), -math.sin(half))
        second = complex(math.cos(half), math.sin(half))
        scale = math.sqrt(2 * (gain * gain + 1))
        return (first + second) / scale, (first - second) / scale

    @classmethod
    def at_level(cls, level: float, rng: np.random.Generator, sample_rate: float = REFERENCE_RATE_HZ) -> Self:
        """Gain to 3 dB and phase to 15 degrees (ours); each sign is drawn."""
        signs = rng.choice([-1.0, 1.0], 2)
        return cls(between(level, 0.0, 3.0) * float(signs[0]), between(level, 0.0, 15.0) * float(signs[1]))

    @classmethod
    def apply(
        cls, iq: Array, sample_rate: float, rows: Sequence[Self], rngs: Sequence[np.random.Generator]
    ) -> list[dict[str, Any]]:
        xp = namespace(iq)
        pairs = [row.coefficients for row in rows]
        alpha, beta = (column(np.array(pairs)[:, index], iq) for index in (0, 1))
        for group, span in blocks(iq):
            part = iq[group, span]
            image = xp.conj(part)
            image = image * beta[group]
            part *= alpha[group]
            part += image
        return [{"image_rejection_db": decibels(abs(a / b) ** 2) if b else None} for a, b in pairs]


@dataclass(frozen=True)
class PowerAmplifier(Impairment):
    """Rapp's solid-state amplifier (C. Rapp, 1991): AM/AM only, small-signal gain 1.

    ``y = x / (1 + (|x| / A)^(2 p))^(1 / (2 p))`` with the saturation amplitude ``A`` at ``backoff_db`` over the
    root-mean-square of the row.

    Args:
        rapp_p: smoothness of the knee; infinity would be a hard limiter.
        backoff_db: input back-off: saturation power over the row's mean power, in dB.
    """

    name: ClassVar[str] = "power_amplifier"
    stage: ClassVar[Stage] = "transmitter"
    order: ClassVar[int] = 20

    rapp_p: float
    backoff_db: float

    def __post_init__(self) -> None:
        require_between("Rapp smoothness p", self.rapp_p, 0.5, 10.0, "(no unit)")
        require_between("PA input back-off", self.backoff_db, -10.0, 60.0, "dB")

    @classmethod
    def at_level(cls, level: float, rng: np.random.Generator, sample_rate: float = REFERENCE_RATE_HZ) -> Self:
        """p from 3 to 1 with the back-off from 12 to 2 dB (ours)."""
        return cls(between(level, 3.0, 1.0), between(level, 12.0, 2.0))

    @classmethod
    def apply(
        cls, iq: Array, sample_rate: float, rows: Sequence[Self], rngs: Sequence[np.random.Generator]
    ) -> list[dict[str, Any]]:
        mean = power(iq)
        saturation = np.sqrt(mean) * [10 ** (row.backoff_db / 20) for row in rows]
        inverse = column(1 / np.maximum(saturation, np.finfo(np.float32).tiny), iq)
        exponent = column([2 * row.rapp_p for row in rows], iq)
        sums = np.zeros((2, len(rows)))
        for group, span in blocks(iq):
            part = iq[group, span]
            sums[:, group] += on_host(_compress(part, inverse[group], exponent[group]))
        shift, square = sums / (max(1, iq.shape[1]) * np.where(mean > 0, mean, 1.0))
        # y = (1 + d) x: shift is the mean of d weighted with |x|^2, square that of d^2.
        gain = 1 + shift
        error = np.sqrt(np.maximum(square - shift * shift, 0)) / np.abs(gain)
        return [
            {"saturation_amplitude": float(a), "gain_db": 20 * math.log10(g), "evm_percent": 100 * float(e)}
            for a, g, e in zip(saturation, gain, error, strict=True)
        ]


def _compress(part: Array, inverse: Array, exponent: Array) -> Array:
    """Rapp in place; sums ``[2, B]`` of ``|x|^2 d`` and ``|x|^2 d^2`` where ``1 + d`` is the gain of a sample."""
    xp = namespace(part)
    amplitude = xp.abs(part)
    # log(1 + r^(2p)) without overflow: with u = 2p log r it is max(u, 0) + log(1 + exp(-|u|)).
    drive = amplitude * inverse
    xp.clip(drive, np.finfo(np.float32).tiny, None, out=drive)
    xp.log(drive, out=drive)
    drive *= exponent
    gain = xp.abs(drive)
    xp.negative(gain, out=gain)
    xp.exp(gain, out=gain)
    xp.log1p(gain, out=gain)
    xp.clip(drive, 0, None, out=drive)
    gain += drive
    gain *= -1 / exponent
    xp.exp(gain, out=gain)
    part *= gain
    gain -= 1
    gain *= amplitude
    return xp.stack([xp.linalg.vecdot(amplitude, gain), xp.linalg.vecdot(gain, gain)])


@dataclass(frozen=True)
class DCOffset(Impairment):
    """A carrier that leaks through a zero-IF receiver's mixer: a constant at ``level_dbc`` over the row's mean power.

    Args:
        level_dbc: power of the constant over the mean power of the row, in dB.
        phase_deg: its phase.
    """

    name: ClassVar[str] = "dc_offset"
    stage: ClassVar[Stage] = "receiver"
    order: ClassVar[int] = 90

    level_dbc: float
    phase_deg: float

    def __post_init__(self) -> None:
        require_between("DC offset", self.level_dbc, -200.0, 40.0, "dBc")
        require_between("DC phase", self.phase_deg, -360.0, 360.0, "degrees")

    @classmethod
    def at_level(cls, level: float, rng: np.random.Generator, sample_rate: float = REFERENCE_RATE_HZ) -> Self:
        """-60 dBc, a calibrated receiver, to -10 dBc, a cheap one without calibration (ours); any phase."""
        return cls(between(level, -60.0, -10.0), float(rng.uniform(-180.0, 180.0)))

    @classmethod
    def apply(
        cls, iq: Array, sample_rate: float, rows: Sequence[Self], rngs: Sequence[np.random.Generator]
    ) -> list[dict[str, Any]]:
        amplitude = np.sqrt(power(iq)) * [10 ** (row.level_dbc / 20) for row in rows]
        offset = column(amplitude * np.exp(1j * np.radians([row.phase_deg for row in rows])), iq)
        for group, span in blocks(iq):
            part = iq[group, span]
            part += offset[group]
        return [{"offset_amplitude": float(value)} for value in amplitude]
