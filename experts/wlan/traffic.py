"""When frames are on the air: data, SIFS, Ack, then DIFS and backoff or the next frame of the same TXOP."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from experts.wlan.config import Timing, WLANConfig, clocking, rate_at
from experts.wlan.mac import ACK_OCTETS
from experts.wlan.phy import RATES, Rate, data_symbols, ppdu_samples

Int = npt.NDArray[np.int64]

BASIC_RATES = (6, 12, 24)
"""Mandatory rates (clause 17.2.3.3) at 20 MHz, in which Ack frames are sent."""

TOLERANCE = 0.02
"""Share of the capture by which its duty cycle may miss ``activity`` so that its edges may fall anywhere."""

_TRIALS = 512


@dataclass(frozen=True)
class Frame:
    """One PPDU of the capture, times in samples from the capture's first; it may begin before and end after it.

    ``exchange`` numbers the exchanges of the timeline, ``nav`` is the Duration field in us.
    """

    kind: str
    start: int
    samples: int
    rate: Rate
    octets: int
    downlink: bool
    exchange: int
    nav: int


def ack_rate(data: Rate) -> Rate:
    """Highest basic rate not above that of the frame answered (clause 10.6.6.5.2)."""
    return RATES[max(mbps for mbps in BASIC_RATES if mbps <= data.mbps)]


def idle_gaps(rng: np.random.Generator, on: Int, activity: float, timing: Timing) -> Int:
    """Samples of silence after each exchange so that the whole timeline is on the air for a share ``activity``.

    As many gaps as the idle time affords are DIFS with a backoff of 0..CWmin slots (clause 10.3.4.3) and an
    exponential wait for traffic; the others, all where time is scarce, are a SIFS within one TXOP (clause 10.23.2.8).

    Args:
        rng: random state.
        on: ``[exchanges]``, samples on the air in each.
        activity: (0..1].
        timing: inter-frame spaces.

    Returns:
        int64 ``[exchanges]``, each at least one SIFS.
    """
    count = len(on)
    gaps = np.full(count, timing.sifs)
    spare = round(on.sum() * (1 / activity - 1)) - 2 * count * timing.sifs
    contention = timing.difs - timing.sifs + timing.cw_min * timing.slot // 2
    if spare < timing.difs - timing.sifs:
        return gaps
    contended = min(count, max(spare // contention, 1))
    chosen = rng.permutation(count)[:contended]
    spare -= contended * (timing.difs - timing.sifs)
    slots = rng.integers(0, timing.cw_min + 1, contended)
    backoff = slots * timing.slot
    if backoff.sum() > spare:
        backoff = slots * spare // max(backoff.sum(), 1) * timing.slot
    wait = rng.exponential(size=contended)
    wait *= (spare - backoff.sum()) / wait.sum()
    gaps[chosen] = timing.difs + backoff + np.round(wait).astype(np.int64)
    return gaps


def choose_start(rng: np.random.Generator, edges: Int, period: int, duration: int, activity: float) -> int:
    """Where on the periodic timeline the capture begins, in samples.

    A window's duty cycle averages to the timeline's over one period, and changes linearly between the points where
    an edge enters or leaves it: so windows of just that duty cycle exist however short they are. (A timeline whose
    spaces could not be fitted to ``activity`` may be busier than it; then the nearest window is taken.)

    Args:
        rng: random state.
        edges: ``[2 n]`` start, stop, start, stop, ... of one period, ascending from 0.
        period: samples.
        duration: samples of the window, at most one period.
        activity: duty cycle wanted; that of the timeline where it is out of reach.

    Returns:
        A start in ``[0, period)`` whose window is within TOLERANCE of the wanted duty cycle, or as near as can be.
    """
    on = np.concatenate([[0], np.cumsum(np.diff(edges) * (np.arange(len(edges) - 1) % 2 == 0))])
    ticks = np.concatenate([edges, [period], edges[1:] + period, [2 * period]])
    busy = np.concatenate([on, [on[-1]], on[1:] + on[-1], [2 * on[-1]]])

    def duty(start: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return (np.interp(start + duration, ticks, busy) - np.interp(start, ticks, busy)) / duration

    wanted = min(activity, float(on[-1]) / period)
    trials = rng.uniform(0, period, _TRIALS)
    good = trials[np.abs(duty(trials) - wanted) <= TOLERANCE]
    if good.size:
        return int(good[0]) % period
    corners = np.unique(np.concatenate([edges, (edges - duration) % period, [0, period]])).astype(np.float64)
    value = duty(corners) - wanted
    crossing = np.flatnonzero((value[:-1] <= 0) != (value[1:] <= 0))
    if not crossing.size:
        return int(corners[np.argmin(np.abs(value))]) % period
    before = int(rng.choice(crossing))
    part = value[before] / (value[before] - value[before + 1])
    return round(corners[before] + part * (corners[before + 1] - corners[before])) % period


def draw_frames(rng: np.random.Generator, config: WLANConfig, timing: Timing) -> list[Frame]:
    """PPDUs of which at least a sample falls into the capture, in time order.

    A periodic timeline of at least twice the capture is drawn and the capture cut from it.
    """
    duration = round(config.duration * config.bandwidth)
    rates = [rate_at(mbps, config.bandwidth) for mbps in config.rates]
    shortest = min(ppdu_samples(int(data_symbols(rate, config.min_octets))) for rate in rates)
    count = 2 + int(2 * duration * config.activity / shortest)
    chosen = rng.integers(len(rates), size=count)
    octets = rng.integers(config.min_octets, config.max_octets, size=count, endpoint=True)
    downlink = rng.random(count) < config.downlink_share
    data = np.empty(count, dtype=np.int64)
    ack = np.empty(count, dtype=np.int64)
    for index, rate in enumerate(rates):
        mine = chosen == index
        data[mine] = ppdu_samples(0) + 80 * data_symbols(rate, octets[mine])
        ack[mine] = ppdu_samples(int(data_symbols(ack_rate(rate), ACK_OCTETS)))
    gaps = idle_gaps(rng, data + ack, config.activity, timing)
    after = np.cumsum(data + timing.sifs + ack + gaps)
    begin = after - (data + timing.sifs + ack + gaps)
    reply = begin + data + timing.sifs
    edges = np.stack([begin, begin + data, reply, reply + ack], axis=1).ravel()
    period = int(after[-1])
    start = choose_start(rng, edges, period, duration, config.activity)
    microsecond = 20 * clocking(config.bandwidth)
    frames = []
    for turn in (0, period):
        shown = (begin + turn < start + duration) & (reply + ack + turn > start)
        for k in np.flatnonzero(shown):
            rate = rates[chosen[k]]
            nav = int(np.ceil((timing.sifs + ack[k]) / microsecond))
            at, answer = int(begin[k]) + turn - start, int(reply[k]) + turn - start
            exchange = int(k) + (count if turn else 0)
            way = bool(downlink[k])
            frames += [
                Frame("data", at, int(data[k]), rate, int(octets[k]), way, exchange, nav),
                Frame("ack", answer, int(ack[k]), ack_rate(rate), ACK_OCTETS, not way, exchange, 0),
            ]
    return [frame for frame in frames if frame.start < duration and frame.start + frame.samples > 0]
