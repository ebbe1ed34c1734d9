"""Gain control and converter: automatic gain control, sampling clock offset, quantisation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from lwm.channel.impairments.arrays import Array, blocks, column, modulate, namespace, on_host, power
from lwm.channel.impairments.base import REFERENCE_RATE_HZ, Impairment, Stage, between, geometric, require_whole
from lwm.channel.limits import require_between

AGC_RANGE_DB = 60.0
"""Largest gain over that of the mean level (ours): what an AGC reaches in a pause between bursts."""

_BLOCKS_PER_ATTACK = 8
_BLOCK_EXPONENTS = (4, 8)
# Blocks of 16 to 256 samples.


@dataclass(frozen=True)
class AutomaticGainControl(Impairment):
    """Gain that follows the level: detector with an attack time, gain that rises no faster than a decay time lets it.

    The power of short blocks passes a one-pole filter (``attack_s``); the held level is the largest of it so far,
    falling by 1/e in power every ``decay_s``; the gain brings the held level to the target. It starts settled on the
    row's mean power. Between blocks the gain is a straight line.

    Args:
        target_db: mean power that is aimed at, in dB over the row's mean power; 0 keeps it.
        attack_s: time constant of the detector in s.
        decay_s: time constant at which the held power falls in s.
    """

    name: ClassVar[str] = "automatic_gain_control"
    stage: ClassVar[Stage] = "receiver"
    order: ClassVar[int] = 100

    target_db: float
    attack_s: float
    decay_s: float

    def __post_init__(self) -> None:
        require_between("AGC target", self.target_db, -120.0, 120.0, "dB")
        require_between("AGC attack", self.attack_s, 1e-7, 1e3, "s")
        require_between("AGC decay", self.decay_s, 1e-7, 1e4, "s")

    @classmethod
    def at_level(cls, level: float, rng: np.random.Generator, sample_rate: float = REFERENCE_RATE_HZ) -> Self:
        """Attack from 1 s, settled for good, to 20 us, inside an OFDM symbol; decay ten times as long (ours)."""
        attack = geometric(level, 1.0, 20e-6)
        return cls(0.0, attack, 10 * attack)

    @classmethod
    def apply(
        cls, iq: Array, sample_rate: float, rows: Sequence[Self], rngs: Sequence[np.random.Generator]
    ) -> list[dict[str, Any]]:
        facts = []
        for index, row in enumerate(rows):
            part = iq[index : index + 1]
            low, high = _BLOCK_EXPONENTS
            wanted = math.log2(max(1.0, row.attack_s * sample_rate / _BLOCKS_PER_ATTACK))
            hop = 1 << min(high, max(low, int(wanted)))
            gain = row._gain(_block_power(part, hop), hop / sample_rate)
            modulate(part, gain.astype(np.complex64)[None], hop)
            level = 20 * np.log10(gain)
            facts.append(
                {
                    "gain_min_db": float(level.min()),
                    "gain_mean_db": float(level.mean()),
                    "gain_max_db": float(level.max()),
                }
            )
        return facts

    def _gain(self, level: npt.NDArray[np.float64], step: float) -> npt.NDArray[np.float64]:
        """Amplitude gain ``[K + 1]`` at the edges of blocks of ``step`` s and mean power ``level`` ``[K]``."""
        from scipy.signal import lfilter

        mean = level.mean() if len(level) else 0.0
        if mean <= 0:
            return np.ones(len(level) + 1)
        keep = math.exp(-step / self.attack_s)
        smooth, _ = lfilter([1 - keep], [1.0, -keep], level / mean, zi=[keep])
        floor = -AGC_RANGE_DB * math.log(10) / 10
        fall = np.arange(len(level) + 1) * (step / self.decay_s)
        log = np.concatenate([[0.0], np.maximum(np.log(np.maximum(smooth, 1e-30)), floor)])
        held = np.maximum.accumulate(log + fall) - fall
        return np.exp((self.target_db * math.log(10) / 10 - held) / 2)


def _block_power(iq: Array, hop: int) -> npt.NDArray[np.float64]:
    """Mean power of each block of ``hop`` samples of ``[1, S]``, the last one shorter: ``[K]``."""
    xp = namespace(iq)
    whole = iq.shape[1] // hop
    parts = [iq[0, : whole * hop].reshape(whole, hop)]
    if whole * hop < iq.shape[1]:
        parts.append(iq[0, whole * hop :][None])
    return np.concatenate([on_host(xp.linalg.vecdot(p, p).real).astype(np.float64) / p.shape[1] for p in parts])


@dataclass(frozen=True)
class Quantisation(Impairment):
    """Analogue-to-digital conversion of both rails: ``2^bits`` levels of a mid-rise quantiser, saturating.

    The levels are ``(k + 1/2) step`` on both sides of zero alike, so that no number of bits gives a bias; none is
    zero itself, and a pause without any noise comes out as half a step. Full scale, the outer edge of the outermost
    steps, is ``backoff_db`` over the root-mean-square of one rail. A sine just inside full scale keeps
    ``6.02 bits + 1.76`` dB. Two backends may differ by one step where a value falls on the edge between two. A row
    of zeros stays one.

    Args:
        bits: resolution.
        backoff_db: full scale over the rail's root-mean-square in dB.
    """

    name: ClassVar[str] = "quantisation"
    stage: ClassVar[Stage] = "receiver"
    order: ClassVar[int] = 120

    bits: int
    backoff_db: float

    def __post_init__(self) -> None:
        require_whole("quantisation", self.bits, 1, 20, "bits")
        require_between("ADC back-off", self.backoff_db, -20.0, 60.0, "dB")

    @classmethod
    def at_level(cls, level: float, rng: np.random.Generator, sample_rate: float = REFERENCE_RATE_HZ) -> Self:
        """14 bits, an instrument, to 3 bits, below any receiver in use; back-off 14 to 6 dB (ours)."""
        return cls(round(between(level, 14.0, 3.0)), between(level, 14.0, 6.0))

    @classmethod
    def apply(
        cls, iq: Array, sample_rate: float, rows: Sequence[Self], rngs: Sequence[np.random.Generator]
    ) -> list[dict[str, Any]]:
        xp = namespace(iq)
        full = np.sqrt(power(iq) / 2) * [10 ** (row.backoff_db / 20) for row in rows]
        half = np.array([2.0 ** (row.bits - 1) for row in rows])
        step = np.maximum(full / half, np.finfo(np.float32).tiny)
        per_step, steps = column(1 / step, iq), column(np.where(full > 0, step, 0.0), iq)
        low, high = column(-half, iq), column(half - 1, iq)
        clipped = np.zeros(len(rows))
        rails = iq.view(np.float32) if xp is np else xp.view_as_real(iq).flatten(-2)
        for group, span in blocks(iq):
            part = rails[group, 2 * span.start : 2 * span.stop]
            part *= per_step[group]
            xp.floor(part, out=part)
            over = (part > high[group]) | (part < low[group])
            clipped[group] += on_host(xp.count_nonzero(over, 1) if xp is np else xp.count_nonzero(over, dim=1))
            xp.clip(part, low[group], high[group], out=part)
            part += 0.5
            part *= steps[group]
        share = clipped / max(1, 2 * iq.shape[1])
        return [
            {"step": float(size), "full_scale": float(edge), "clipped_share": float(value)}
            for size, edge, value in zip(step, full, share, strict=True)
        ]
