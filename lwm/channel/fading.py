"""Time-varying tapped delay line on IQ, exact in delay, fast and in bounded memory.

The signal is cut into blocks. Within one block each tap is the polynomial through its exact values at a few nodes, the
first and the last of them on the block's edges, so that taps are continuous from block to block. At each node the taps
and their fractional-delay kernels make one frequency response; the block is filtered with each by FFT (overlap-save)
and the results are weighted with the Lagrange polynomials. Degree, block and FFT length are chosen for the least work
at which the interpolation error stays below :data:`INTERPOLATION_ERROR` for a tap of unit amplitude at full Doppler.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import fft

from lwm.channel.limits import require_between
from lwm.channel.mobility import MAX_SPEED_KMH
from lwm.channel.profiles import PROFILES
from lwm.channel.tdl import SINUSOIDS, ChannelDraw
from lwm.errors import CaptureError

SPEED_OF_LIGHT = 299_792_458.0
"""m/s."""

LOS_DOPPLER = 0.7
"""Doppler of the line of sight over the largest Doppler, TR 38.901 clause 7.7.2."""

INTERPOLATION_ERROR = 1e-3
"""Largest error of an interpolated tap over its amplitude (ours): 60 dB below the signal."""

MAX_CARRIER_HZ = 100e9
"""Highest carrier taken, the end of TR 38.901's range."""

_HALF = 32
_BETA = 5.65
# Kernel of 2 * 32 samples, Kaiser window for 60 dB: flat over the inner 94 % of the band.
_BATCH_SAMPLES = 1 << 15
_FFT_SIZES = tuple(1 << power for power in range(8, 16))

Complex = npt.NDArray[np.complex64]
Real = npt.NDArray[np.float64]


class _Plan(NamedTuple):
    """How a signal is cut: nodes a block on ``[-1, 1]``, samples a block, FFT size."""

    nodes: tuple[float, ...]
    hop: int
    size: int


def doppler_hz(speed_kmh: float, carrier_hz: float) -> float:
    """Largest Doppler shift in Hz of a terminal at ``speed_kmh`` on a carrier at ``carrier_hz``.

    Raises:
        ConfigError: speed out of ``[0, 500]`` km/h or carrier out of ``(0, 100]`` GHz, or either NaN.
    """
    speed = require_between("speed", speed_kmh, 0.0, MAX_SPEED_KMH, "km/h")
    carrier = require_between("carrier frequency", carrier_hz, 1.0, MAX_CARRIER_HZ, "Hz")
    return speed / 3.6 * carrier / SPEED_OF_LIGHT


def tap_gains(draw: ChannelDraw, doppler: float, times: Real) -> Complex:
    """Complex gain of each tap at given times.

    Rayleigh taps are sums of sinusoids with the Jakes spectrum: mean autocorrelation ``p_l J0(2 pi f_D tau)``, TR
    38.901 clause 7.7.2. The line of sight of TDL-D and TDL-E is added to the first tap, at 0.7 of the Doppler.

    Args:
        draw: angles and phases.
        doppler: largest Doppler shift in Hz, 0 for a terminal that does not move.
        times: s, any shape.

    Returns:
        complex64 ``[taps, *times.shape]``; mean power over draws, summed over the taps, is 1.
    """
    cosines, amplitude, los = draw.sinusoids
    flat = np.asarray(times, dtype=np.float64).reshape(-1)
    cycles = doppler * cosines[..., None] * flat
    cycles -= np.round(cycles)
    # Reduced to one turn in double precision, the sine and cosine are exact enough, and ten times faster, in single.
    angle = (2 * np.pi * cycles).astype(np.float32)
    turn = np.empty(angle.shape, dtype=np.complex64)
    np.cos(angle, out=turn.real)
    np.sin(angle, out=turn.imag)
    gains = (amplitude.astype(np.complex64)[:, None, :] @ turn)[:, 0]
    gains[0] += (los * np.exp(2j * np.pi * LOS_DOPPLER * doppler * flat)).astype(np.complex64)
    return gains.reshape(len(cosines), *np.shape(times))


def apply_channel(
    iq: Complex,
    sample_rate: float,
    draw: ChannelDraw,
    speed_kmh: float,
    carrier_hz: float,
    start: float = 0.0,
) -> Complex:
    """IQ behind one time-varying channel: ``y(t) = sum over l of g_l(t) x(t - tau_l)``.

    Delays are fractions of a sample, exact to 60 dB over the inner 94 % of the band (the outermost 3 % on each side is
    attenuated). The signal before the first and after the last sample is taken as zero.

    Args:
        iq: complex64 ``[S]`` or ``[B, S]``; all rows pass the same channel at the same times.
        sample_rate: Hz.
        draw: the channel.
        speed_kmh: 0 gives constant taps.
        carrier_hz: Hz of the carrier, with the speed it gives the Doppler.
        start: s at which the first sample meets the channel, so that a long signal can pass in parts.

    Returns:
        complex64 of the shape of ``iq``; mean power over draws is that of ``iq``.

    Raises:
        ConfigError: speed or carrier out of range.
        CaptureError: sample rate not positive, or a delay longer than half the longest FFT.
    """
    doppler = doppler_hz(speed_kmh, carrier_hz)
    if not (math.isfinite(sample_rate) and sample_rate > 0):
        raise CaptureError(f"sample rate {sample_rate}", "a positive number of Hz", "state it (--sample_rate)")
    signal = np.asarray(iq, dtype=np.complex64)
    rows = signal.reshape(-1, signal.shape[-1])
    out = np.empty_like(rows)
    if rows.size == 0:
        return out.reshape(signal.shape)
    spread = round(draw.delay_spread_s * sample_rate, 9)
    length = _kernel_length(draw.profile, spread)
    plan = _plan(round(doppler / sample_rate, 15), (len(draw.delays_s), length), rows.shape[1])
    steering = _steering(draw.profile, spread, plan.size)
    blocks = -(-rows.shape[1] // plan.hop)
    batch = max(1, _BATCH_SAMPLES // plan.size)
    for first in range(0, blocks, batch):
        count = min(batch, blocks - first)
        gains = tap_gains(draw, doppler, start + _instants(plan, first, count) / sample_rate)
        responses = _by_block(gains.T @ steering, len(plan.nodes))
        for row, target in zip(rows, out, strict=True):
            _filter(row, target, range(first, first + count), plan, responses, length)
    return out.reshape(signal.shape)


def _instants(plan: _Plan, first: int, count: int) -> Real:
    """Samples at which ``count`` blocks from ``first`` have nodes, an edge between two blocks once; one when static."""
    degree = len(plan.nodes) - 1
    if degree == 0:
        return np.zeros(1)
    inside = (np.array(plan.nodes[:-1]) + 1) / 2
    edges = first + np.arange(count + 1)
    return plan.hop * (edges[:, None] + inside).reshape(-1)[: count * degree + 1]


def _by_block(responses: Complex, nodes: int) -> Complex:
    """View ``[blocks, nodes, size]`` of responses ``[instants, size]`` in the order of :func:`_instants`."""
    if nodes == 1:
        return responses[:, None]
    windows = np.lib.stride_tricks.sliding_window_view(responses, nodes, axis=0)[:: nodes - 1]
    return windows.swapaxes(1, 2)


def _filter(signal: Complex, out: Complex, blocks: range, plan: _Plan, responses: Complex, taps: int) -> None:
    """Write ``blocks`` of one row, filtered by ``responses`` ``[blocks, nodes, size]`` of kernels ``taps`` long."""
    # Output n needs inputs n + _HALF - taps to n + _HALF - 1: kernels begin _HALF - 1 samples before their input.
    begin = blocks.start * plan.hop + _HALF - taps
    end = begin + (len(blocks) - 1) * plan.hop + plan.size
    part = signal[max(0, begin) : end]
    part = np.pad(part, (max(0, -begin), end - max(0, begin) - len(part)))
    segments = np.lib.stride_tricks.sliding_window_view(part, plan.size)[:: plan.hop]
    product = fft.fft(segments, axis=-1)[:, None] * responses
    filtered = fft.ifft(product, axis=-1, overwrite_x=True)
    useful = filtered[..., taps - 1 : taps - 1 + plan.hop]
    mixed = (useful * _lagrange(plan)).sum(axis=1)
    start = blocks.start * plan.hop
    stop = min(blocks.stop * plan.hop, len(out))
    out[start:stop] = mixed.reshape(-1)[: stop - start]


def _kernel_length(profile: str, spread: float) -> int:
    """Samples of the kernels of a profile whose delay spread is ``spread`` samples."""
    return 2 * _HALF + math.ceil(max(PROFILES[profile].delays) * spread)


def _kernels(profile: str, spread: float) -> Complex:
    """Windowed-sinc kernels ``[taps, length]``; column ``k`` is the response ``k - (_HALF - 1)`` samples later."""
    delays = np.array(PROFILES[profile].delays) * spread
    distance = np.arange(_kernel_length(profile, spread)) - (_HALF - 1) - delays[:, None]
    inside = np.clip(1 - (distance / _HALF) ** 2, 0, None)
    return (np.sinc(distance) * np.i0(_BETA * np.sqrt(inside)) / np.i0(_BETA) * (inside > 0)).astype(np.complex64)


@lru_cache(maxsize=8)
def _steering(profile: str, spread: float, size: int) -> Complex:
    """Frequency responses ``[taps, size]`` of the kernels."""
    return fft.fft(_kernels(profile, spread), n=size, axis=-1)


@lru_cache
def _span(degree: int) -> float:
    """Longest block, times the Doppler, that keeps :data:`INTERPOLATION_ERROR` with ``degree + 1`` nodes.

    The error of a sinusoid of angular frequency w over a block T is at most ``(w T / 2)^(d + 1) / (d + 1)!`` times the
    largest product of distances to the nodes on ``[-1, 1]``.
    """
    grid = np.linspace(-1, 1, 1001)
    product = np.abs(np.prod(grid[:, None] - np.array(_nodes(degree)), axis=1)).max()
    return (INTERPOLATION_ERROR * math.factorial(degree + 1) / product) ** (1 / (degree + 1)) / math.pi


def _nodes(degree: int) -> tuple[float, ...]:
    """Chebyshev-Lobatto nodes on ``[-1, 1]``, edges among them; the centre alone for degree 0."""
    return tuple(-np.cos(np.pi * np.arange(degree + 1) / degree).round(15)) if degree else (0.0,)


@lru_cache(maxsize=128)
def _plan(doppler: float, kernels: tuple[int, int], samples: int) -> _Plan:
    """The cheapest cut for ``doppler`` (cycles a sample) and ``kernels`` ``[taps, length]``."""
    taps, length = kernels
    best, least = None, math.inf
    for degree in range(1, 5) if doppler else (0,):
        longest = math.inf if doppler == 0 else _span(degree) / doppler
        for size in _FFT_SIZES:
            hop = int(min(size - length + 1, longest, samples))
            if hop < 1:
                continue
            # Operations, weighted by their measured price: an FFT there, one back a node; at each node the product
            # of taps and steering, which is a matrix product, and the sinusoids of the taps.
            transforms = (degree + 2) * 5 * size * math.log2(size)
            responses = degree * taps * (2 * size + 60 * SINUSOIDS)
            work = (transforms + responses) / hop
            if work < least:
                best, least = _Plan(_nodes(degree), hop, size), work
    if best is None:
        raise CaptureError(
            f"channel delays of {length - 2 * _HALF} samples", f"fewer than {_FFT_SIZES[-1]}", "a lower sample rate"
        )
    return best


@lru_cache(maxsize=32)
def _lagrange(plan: _Plan) -> npt.NDArray[np.float32]:
    """Lagrange polynomials ``[nodes, hop]`` of a block's nodes at its samples."""
    nodes = np.array(plan.nodes)
    position = 2 * np.arange(plan.hop) / plan.hop - 1
    rows = []
    for index, node in enumerate(nodes):
        others = np.delete(nodes, index)
        rows.append(np.prod((position[:, None] - others) / (node - others), axis=1))
    return np.array(rows, dtype=np.float32)
