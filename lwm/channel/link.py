"""From one clean waveform to many received ones: transmitter, channel, noise and receiver, batched."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lwm.channel.draw import ChannelDraw
from lwm.channel.fading import apply_channel, delay, doppler_hz
from lwm.channel.impairments import Impairment, Stage, impair
from lwm.channel.limits import require_between
from lwm.channel.noise import MAX_SNR_DB, MIN_SNR_DB, Reference, add_noise, as_iq
from lwm.errors import CaptureError, ConfigError
from lwm.signal.capture import Emission


@dataclass(frozen=True)
class Conditions:
    """What one waveform meets on the way to one receiver.

    Args:
        channel: fading; None for a cable.
        speed_kmh: of the terminal.
        carrier_hz: with the speed it gives the Doppler.
        snr_db: None adds no noise.
        impairments: in any order; they act in the physical one.
        timing_offset_s: by which everything arrives later (earlier where negative) than the channel's delays say.

    Raises:
        ConfigError: speed, carrier or SNR out of range or NaN.
    """

    channel: ChannelDraw | None
    speed_kmh: float = 0.0
    carrier_hz: float = 3.5e9
    snr_db: float | None = None
    impairments: tuple[Impairment, ...] = ()
    timing_offset_s: float = 0.0

    def __post_init__(self) -> None:
        doppler_hz(self.speed_kmh, self.carrier_hz)
        if self.snr_db is not None:
            require_between("SNR", self.snr_db, MIN_SNR_DB, MAX_SNR_DB, "dB")

    @property
    def doppler_hz(self) -> float:
        """Largest Doppler shift in Hz."""
        return doppler_hz(self.speed_kmh, self.carrier_hz)


@dataclass(frozen=True)
class Received:
    """What came out.

    Args:
        iq: complex64 ``[B, S]`` at the receivers' outputs.
        faded: complex64 ``[B, S]`` behind transmitter and channel: what is received without noise, interference and
            the receiver's own faults.
        facts: of each row: ``channel`` (the draw's ``to_dict``), ``doppler_hz``, ``timing_offset_s``, ``noise`` (see
            :func:`lwm.channel.noise.add_noise`), ``impairments``.
    """

    iq: Any
    faded: Any
    facts: list[dict[str, Any]] = field(default_factory=list)


def receive(
    iq: npt.NDArray[np.complex64] | torch.Tensor,
    sample_rate: float,
    conditions: Sequence[Conditions],
    rngs: Sequence[np.random.Generator],
    reference: Reference = "capture",
    emissions: Sequence[Emission] = (),
) -> Received:
    """One clean waveform as many receivers get it, in one call.

    The order is the physical one: impairments of the transmitter, the channel and its timing, impairments of the air
    (interference, bursts), white noise, impairments of the receiver. The SNR is that behind transmitter and channel,
    over white noise alone.

    Args:
        iq: complex64 ``[S]``; numpy, or torch on any device, where everything is then computed.
        sample_rate: Hz.
        conditions: of each of B receivers.
        rngs: B generators, one a receiver, for noise and random impairments.
        reference: definition of the SNR.
        emissions: boxes of the waveform, for ``"emission"``.

    Raises:
        ConfigError: a parameter out of its range, or another number of generators than conditions.
        CaptureError: not one complex waveform, a sample rate that is not positive, no signal power, or a channel longer
            than the capture.
    """
    if len(rngs) != len(conditions) or not conditions:
        raise ConfigError(f"{len(rngs)} generators for {len(conditions)} conditions", "one each, at least one")
    iq = as_iq(iq)
    if iq.ndim != 1 or not (math.isfinite(sample_rate) and sample_rate > 0):
        raise CaptureError(f"IQ of shape {tuple(iq.shape)} at {sample_rate} Hz", "one waveform [S] at a positive rate")
    sent, before = _impaired(iq, sample_rate, conditions, rngs, "transmitter")
    through, within = _impaired(_faded(sent, sample_rate, conditions), sample_rate, conditions, rngs, "channel")
    faded = _timed(through, sample_rate, conditions)
    heard, between = _impaired(faded, sample_rate, conditions, rngs, "air")
    noisy, noise = _noisy(heard, faded, conditions, rngs, reference, emissions, sample_rate)
    out, after = _impaired(noisy, sample_rate, conditions, rngs, "receiver")
    facts = [
        {
            "channel": None if here.channel is None else here.channel.to_dict(),
            "doppler_hz": here.doppler_hz,
            "timing_offset_s": here.timing_offset_s,
            "noise": noise[row],
            "impairments": [*before[row], *within[row], *between[row], *after[row]],
        }
        for row, here in enumerate(conditions)
    ]
    return Received(out, faded, facts)


def _impaired(
    iq: Any, sample_rate: float, conditions: Sequence[Conditions], rngs: Sequence[np.random.Generator], stage: Stage
) -> tuple[Any, list[list[dict[str, Any]]]]:
    """IQ behind the impairments of one stage; untouched (and still one row) where there are none."""
    chosen = [here.impairments for here in conditions]
    if not any(each.stage == stage for row in chosen for each in row):
        return iq, [[] for _ in conditions]
    return impair(_rows(iq, len(conditions)), sample_rate, chosen, rngs, (stage,))


def _faded(sent: Any, sample_rate: float, conditions: Sequence[Conditions]) -> Any:
    """``[B, S]`` behind the channels."""
    through = [row for row, here in enumerate(conditions) if here.channel is not None]
    draws = [here.channel for here in conditions if here.channel is not None]
    dopplers = [conditions[row].doppler_hz for row in through]
    if len(through) == len(conditions):
        return apply_channel(sent, sample_rate, draws, dopplers)
    out = _copy(_rows(sent, len(conditions)))
    if through:
        out[through] = apply_channel(sent if sent.ndim == 1 else sent[through], sample_rate, draws, dopplers)
    return out


def _timed(faded: Any, sample_rate: float, conditions: Sequence[Conditions]) -> Any:
    """``[B, S]`` with each row's timing offset."""
    late = [row for row, here in enumerate(conditions) if here.timing_offset_s]
    if not late:
        return faded
    out = _copy(faded)
    out[late] = delay(faded[late], [conditions[row].timing_offset_s for row in late], sample_rate)
    return out


def _noisy(
    heard: Any,
    faded: Any,
    conditions: Sequence[Conditions],
    rngs: Sequence[np.random.Generator],
    reference: Reference,
    emissions: Sequence[Emission],
    sample_rate: float,
) -> tuple[Any, list[dict[str, Any] | None]]:
    """``[B, S]`` with noise where it is asked for, and its facts."""
    wanted = [row for row, here in enumerate(conditions) if here.snr_db is not None]
    facts: list[dict[str, Any] | None] = [None] * len(conditions)
    if not wanted:
        return heard, facts
    snrs = [here.snr_db for here in conditions if here.snr_db is not None]
    chosen = [rngs[row] for row in wanted]
    # Indexing with a list copies, so it is left out where every row gets noise.
    every = len(wanted) == len(conditions)
    parts = (heard, faded) if every else (heard[wanted], faded[wanted])
    noisy, said = add_noise(parts[0], snrs, chosen, reference, emissions, sample_rate, signal=parts[1])
    for row, fact in zip(wanted, said, strict=True):
        facts[row] = fact
    if every:
        return noisy, facts
    out = _copy(heard)
    out[wanted] = noisy
    return out, facts


def _rows(iq: Any, count: int) -> Any:
    """``[S]`` or ``[B, S]`` as ``[B, S]``, without a copy."""
    if iq.ndim == 2:
        return iq
    return iq.expand(count, -1) if isinstance(iq, torch.Tensor) else np.broadcast_to(iq, (count, len(iq)))


def _copy(iq: Any) -> Any:
    return iq.clone() if isinstance(iq, torch.Tensor) else iq.copy()
