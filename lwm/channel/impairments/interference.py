"""Other signals on the air: an adjacent-channel interferer and bursts of noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from lwm.channel.impairments.arrays import Array, decibels, gaussian, like, power
from lwm.channel.impairments.base import REFERENCE_RATE_HZ, Impairment, Stage, between, geometric
from lwm.channel.limits import require_between

_FFT = 1024
_PREFIX = 72
_EDGE = 36
# LTE's normal cyclic prefix at FFT 1024; half of it is the raised-cosine edge in which two symbols overlap.


@dataclass(frozen=True)
class AdjacentChannelInterferer(Impairment):
    """Another OFDM transmission beside the wanted one or partly on it, for the whole capture.

    QPSK on every subcarrier of the band, FFT 1024 at the capture's rate, cyclic prefix, raised-cosine edges
    (weighted overlap-add). Both band edges fall on subcarriers, sample rate / 1024 apart; what lies outside the
    capture's band is cut off, as a receiver's filter does.

    Args:
        level_db: power of the whole interferer over the row's mean power, in dB.
        offset_hz: its centre in Hz.
        bandwidth_hz: its bandwidth in Hz.
    """

    name: ClassVar[str] = "adjacent_channel_interferer"
    stage: ClassVar[Stage] = "air"
    order: ClassVar[int] = 40

    level_db: float
    offset_hz: float
    bandwidth_hz: float

    def __post_init__(self) -> None:
        require_between("interferer level", self.level_db, -120.0, 80.0, "dB")
        require_between("interferer offset", self.offset_hz, -10e9, 10e9, "Hz")
        require_between("interferer bandwidth", self.bandwidth_hz, 1.0, 10e9, "Hz")

    @classmethod
    def at_level(cls, level: float, rng: np.random.Generator, sample_rate: float = REFERENCE_RATE_HZ) -> Self:
        """-50 dB to +10 dB, a neighbour that is nearer (ours); a fifth of the band wide, on the outer part of a side.

        The centre lies between 0.3 and 0.45 of the sample rate, so that some interferers are cut by the band's edge.
        """
        side = float(rng.choice([-1.0, 1.0]))
        return cls(between(level, -50.0, 10.0), side * float(rng.uniform(0.3, 0.45)) * sample_rate, sample_rate / 5)

    @classmethod
    def apply(
        cls, iq: Array, sample_rate: float, rows: Sequence[Self], rngs: Sequence[np.random.Generator]
    ) -> list[dict[str, Any]]:
        mean, facts = power(iq), []
        for index, (row, rng) in enumerate(zip(rows, rngs, strict=True)):
            width = sample_rate / _FFT
            low = round((row.offset_hz - row.bandwidth_hz / 2) / width)
            count = max(1, round(row.bandwidth_hz / width))
            bins = np.arange(max(low, -_FFT // 2), min(low + count, _FFT // 2))
            wanted = mean[index] * 10 ** (row.level_db / 10)
            fact: dict[str, Any] = {"level_in_band_db": None, "low_hz": None, "high_hz": None}
            if len(bins) and mean[index] > 0:
                signal = _ofdm(rng, iq.shape[1], bins, math.sqrt(wanted / count))
                received = float(np.vdot(signal, signal).real) / len(signal)
                iq[index] += like(signal, iq)
                edges = (bins[0] - 0.5) * width, (bins[-1] + 0.5) * width
                fact = {
                    "level_in_band_db": decibels(received / mean[index]),
                    "low_hz": float(edges[0]),
                    "high_hz": float(edges[1]),
                }
            facts.append(fact)
        return facts


def _ofdm(
    rng: np.random.Generator, samples: int, bins: npt.NDArray[np.int64], amplitude: float
) -> npt.NDArray[np.complex64]:
    """OFDM ``[samples]`` with QPSK of ``amplitude`` on the subcarriers ``bins`` (negative below the centre)."""
    from scipy import fft

    period = _FFT + _PREFIX
    symbols = -(-samples // period) + 2
    points = (np.exp(1j * math.pi / 4 * np.array([1, 3, 5, 7])) * amplitude * _FFT).astype(np.complex64)
    grid = np.zeros((symbols, _FFT), dtype=np.complex64)
    data = points.take(rng.integers(0, 4, (symbols, len(bins)), dtype=np.uint8))
    above = int(np.searchsorted(bins, 0))
    if above < len(bins):
        grid[:, bins[above] : bins[-1] + 1] = data[:, above:]
    if above:
        grid[:, _FFT + bins[0] : _FFT + bins[above - 1] + 1] = data[:, :above]
    body = fft.ifft(grid, axis=-1, overwrite_x=True)
    out = np.empty((symbols, period), dtype=np.complex64)
    out[:, :_PREFIX] = body[:, -_PREFIX:]
    out[:, _PREFIX:] = body
    # The first _EDGE samples of a symbol fade in while the cyclic continuation of the one before fades out; powers
    # of the two, which are independent, add to one.
    turn = (np.arange(_EDGE) + 0.5) / _EDGE * (math.pi / 2)
    out[:, :_EDGE] *= np.sin(turn).astype(np.float32)
    out[1:, :_EDGE] += body[:-1, :_EDGE] * np.cos(turn).astype(np.float32)
    start = period + int(rng.integers(period))
    return out.reshape(-1)[start - period // 2 : start - period // 2 + samples]


@dataclass(frozen=True)
class BurstNoise(Impairment):
    """Impulsive noise: bursts of white Gaussian noise that begin as a Poisson process and may overlap.

    The share of time with noise is ``1 - exp(-rate_hz duration_s)`` in the mean. However many bursts overlap, work
    and memory grow with the capture alone.

    Args:
        rate_hz: bursts that begin in a second, in the mean; 0 to 1e6.
        duration_s: length of each; 1e-9 to 1e3, at least one sample.
        level_db: power inside a burst, over the whole band, over the row's mean power in dB.
    """

    name: ClassVar[str] = "burst_noise"
    stage: ClassVar[Stage] = "air"
    order: ClassVar[int] = 50

    rate_hz: float
    duration_s: float
    level_db: float

    def __post_init__(self) -> None:
        require_between("burst rate", self.rate_hz, 0.0, 1e6, "Hz")
        require_between("burst duration", self.duration_s, 1e-9, 1e3, "s")
        require_between("burst level", self.level_db, -120.0, 80.0, "dB")

    @classmethod
    def at_level(cls, level: float, rng: np.random.Generator, sample_rate: float = REFERENCE_RATE_HZ) -> Self:
        """200 bursts a second of 20 us at -30 dB, to 2000 of 50 us, a tenth of the time, at +10 dB (ours)."""
        return cls(geometric(level, 200.0, 2000.0), geometric(level, 20e-6, 50e-6), between(level, -30.0, 10.0))

    @classmethod
    def apply(
        cls, iq: Array, sample_rate: float, rows: Sequence[Self], rngs: Sequence[np.random.Generator]
    ) -> list[dict[str, Any]]:
        mean, facts = power(iq), []
        for index, (row, rng) in enumerate(zip(rows, rngs, strict=True)):
            length = max(1, round(min(row.duration_s * sample_rate, 2.0**60)))
            spans = _bursts(rng, iq.shape[1], row.rate_hz / sample_rate, length)
            lengths = np.diff(spans)[:, 0]
            active = int(lengths.sum())
            noise = gaussian(rng, active)
            noise *= np.float32(math.sqrt(mean[index] * 10 ** (row.level_db / 10)))
            # The first sample of a span, less the noisy samples before it, stands still over the span.
            where = np.repeat(spans[:, 0] - np.cumsum(lengths) + lengths, lengths) + np.arange(active)
            iq[index, like(where, iq)] += like(noise, iq)
            inside = float(np.vdot(noise, noise).real) / max(1, active)
            facts.append(
                {
                    "bursts": len(spans),
                    "active_share": active / max(1, iq.shape[1]),
                    "level_measured_db": decibels(inside / mean[index]) if mean[index] else None,
                }
            )
        return facts


def _bursts(rng: np.random.Generator, samples: int, rate: float, length: int) -> npt.NDArray[np.int64]:
    """Disjoint spans of noise ``[spans, 2]``, first sample and end; overlapping bursts are merged.

    Of the bursts that begin at one sample, and of those that began before the capture, only one matters: the samples
    with a beginning are drawn, and the age of the last beginning, which is exponential.
    """
    count = rng.binomial(samples, -math.expm1(-rate))
    begins = np.sort(rng.choice(samples, count, replace=False, shuffle=False)) if count else np.empty(0, np.int64)
    age = math.floor(min(rng.exponential(1 / rate), 2.0**60)) + 1 if rate else length
    stops = begins + min(length, samples)
    if samples and age < length:
        begins, stops = np.append(0, begins), np.append(min(length - age, samples), stops)
    if not len(begins):
        return np.empty((0, 2), np.int64)
    reach = np.maximum.accumulate(stops)
    first = np.append(0, np.flatnonzero(begins[1:] > reach[:-1]) + 1)
    last = np.append(first[1:], len(begins)) - 1
    return np.stack([begins[first], np.minimum(reach[last], samples)], -1)
