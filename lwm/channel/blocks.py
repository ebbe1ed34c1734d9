"""Time-varying filters by FFT, block by block: how a signal is cut and how the blocks are filtered (overlap-add).

The signal is cut into blocks. Within one block every tap is the polynomial through its exact values at a few nodes,
the first and the last of them on the block's edges, so that taps are continuous from block to block. A block is
weighted with the Lagrange polynomial of each node, filtered with the impulse response of that node, and the sum goes
back to time with one inverse FFT. The weighted spectra depend on the waveform alone: many channels share them.

The same lines run on numpy and on torch, through the handful of calls of :class:`NumpyArrays` and
:class:`TorchArrays`; impulse responses come from numpy for both.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from scipy import fft

INTERPOLATION_ERROR = 1e-3
"""Largest error of an interpolated tap over its amplitude (ours): 60 dB below the signal."""

MAX_RESPONSE = 1 << 16
"""Longest impulse response in samples that the FFTs take."""

ROWS = 16
"""Rows whose impulse responses are in memory at once."""

_CHUNK_SAMPLES = 1 << 15
_MAX_DEGREE = 8
_FFT_SIZES = tuple(sorted(m << power for power in range(6, 15) for m in (4, 5, 6, 8)))
_STRIDE = 8
_LENGTH_STEP = 32
_TAPS_STEP = 8
_DOPPLER_STEPS = 2
# Kernel lengths, tap counts and Dopplers (steps an octave) are rounded up, so that similar channels are cut alike.

Complex = npt.NDArray[np.complex64]
Real = npt.NDArray[np.float64]
Array = Any
"""numpy array or torch tensor."""


class Instants(NamedTuple):
    """The first ``total`` of the sums ``coarse[:, None] + fine`` in samples, row by row.

    A phasor at all of them is a product of phasors at few.
    """

    coarse: Real
    fine: Real
    total: int


class Plan(NamedTuple):
    """How a signal is cut: nodes a block on ``[-1, 1]``, samples a block, FFT size, samples of impulse response."""

    nodes: tuple[float, ...]
    hop: int
    size: int
    length: int

    @property
    def degree(self) -> int:
        return len(self.nodes) - 1

    def instants(self, first: int, count: int) -> Instants:
        """Where ``count`` blocks from ``first`` have nodes, an edge between two blocks once.

        One, at 0, for a plan of degree 0.
        """
        if self.degree == 0:
            return Instants(np.zeros(1), np.zeros(1), 1)
        nodes = (np.array(self.nodes[:-1]) + 1) / 2
        wanted = count * self.degree + 1
        fine = (np.arange(_STRIDE)[:, None] + nodes).reshape(-1)
        coarse = first + _STRIDE * np.arange(-(-wanted // len(fine)), dtype=np.float64)
        return Instants(self.hop * coarse, self.hop * fine, wanted)


class Filter(NamedTuple):
    """One time-varying filter.

    Args:
        plan: how its signal is cut.
        lag: sample of the output, relative to the input, at which the impulse response begins.
        responses: impulse responses, complex64 ``[instants.total, plan.length]``, at given instants.
    """

    plan: Plan
    lag: int
    responses: Callable[[Instants], Complex]


class Arrays(Protocol):
    """What the filter needs of an array library."""

    rows_at_once: int

    def zeros(self, shape: tuple[int, ...]) -> Array: ...
    def table(self, values: npt.NDArray[Any]) -> Array: ...
    def fft(self, values: Array, size: int) -> Array: ...
    def ifft(self, values: Array) -> Array: ...


class NumpyArrays:
    """numpy on one core; one row at a time stays in its cache."""

    rows_at_once = 1

    def zeros(self, shape: tuple[int, ...]) -> Complex:
        return np.zeros(shape, dtype=np.complex64)

    def table(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values

    def fft(self, values: Complex, size: int) -> Complex:
        return fft.fft(values, n=size, axis=-1)

    def ifft(self, values: Complex) -> Complex:
        return fft.ifft(values, axis=-1, overwrite_x=True)


class TorchArrays:
    """torch on the device of a tensor, several rows at once."""

    rows_at_once = ROWS

    def __init__(self, device: Any) -> None:
        import torch

        self._torch = torch
        self._device = device

    def complex64(self, values: Array) -> Array:
        """``values`` in the one type that is filtered."""
        return values.to(self._torch.complex64)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        return self._torch.zeros(shape, dtype=self._torch.complex64, device=self._device)

    def table(self, values: npt.NDArray[Any]) -> Array:
        return self._torch.from_numpy(values).to(self._device)

    def fft(self, values: Array, size: int) -> Array:
        return self._torch.fft.fft(values, n=size)

    def ifft(self, values: Array) -> Array:
        return self._torch.fft.ifft(values)


def make_plan(doppler: float, taps: int, length: int, samples: int) -> Plan:
    """The cheapest cut of ``samples`` samples that keeps :data:`INTERPOLATION_ERROR`.

    Args:
        doppler: largest Doppler in cycles a sample, 0 for a filter that is constant.
        taps: number of taps.
        length: samples of the impulse response, up to :data:`MAX_RESPONSE`.
        samples: samples of the signal.
    """
    if doppler > 0:
        doppler = 2 ** (math.ceil(_DOPPLER_STEPS * math.log2(doppler) - 1e-9) / _DOPPLER_STEPS)
    return _plan(doppler, -(-taps // _TAPS_STEP) * _TAPS_STEP, -(-length // _LENGTH_STEP) * _LENGTH_STEP, samples)


@lru_cache(maxsize=256)
def _plan(doppler: float, taps: int, length: int, samples: int) -> Plan:
    """The cheapest of all cuts; see :func:`make_plan`."""
    cuts: list[tuple[float, Plan]] = []
    for degree in range(1, _MAX_DEGREE + 1) if doppler else (0,):
        longest = math.inf if doppler == 0 else _span(degree) / doppler
        for size in _FFT_SIZES:
            hop = int(min(size - length + 1, longest, samples))
            if hop < 1:
                continue
            blocks = -(-samples // hop)
            # Operations, weighted by their measured price. A block: an FFT and a product at each node, an inverse
            # FFT. An instant: the sinusoids of the taps, the sum of their kernels, an FFT.
            transform = 5 * size * math.log2(size)
            block = (degree + 2) * transform + (degree + 1) * 20 * size + 40 * size
            instant = transform + taps * (1200 + 2 * length)
            work = blocks * block + (blocks * degree + 1) * instant
            cuts.append((work, Plan(_nodes(degree), -(-samples // blocks), size, length)))
    return min(cuts)[1]


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


@lru_cache(maxsize=32)
def _lagrange(nodes: tuple[float, ...], hop: int) -> npt.NDArray[np.float32]:
    """Lagrange polynomials ``[nodes, 1, hop]`` of a block's nodes at its samples."""
    positions = np.array(nodes)
    sample = 2 * np.arange(hop) / hop - 1
    rows = []
    for index, node in enumerate(positions):
        others = np.delete(positions, index)
        rows.append(np.prod((sample[:, None] - others) / (node - others), axis=1))
    return np.array(rows, dtype=np.float32)[:, None]


def run_filters(signals: Array, filters: Sequence[Filter], xp: Arrays) -> Array:
    """Signals behind filters, in memory bounded by a chunk beside input and output.

    Args:
        signals: complex64 ``[B, S]``, or ``[1, S]``: one waveform that goes through every filter.
        filters: ``B`` of them, or one that every signal goes through.
        xp: library of ``signals``.

    Returns:
        complex64 ``[B, S]``; a row has the same value whatever the other rows.
    """
    alike: dict[tuple[Plan, int], list[int]] = {}
    for index, each in enumerate(filters):
        alike.setdefault((each.plan, each.lag), []).append(index)
    out = xp.zeros((max(len(signals), len(filters)), signals.shape[-1]))
    for members in alike.values():
        rows = list(range(len(out))) if len(filters) == 1 else members
        for first in range(0, len(rows), ROWS):
            _run_rows(signals, filters, rows[first : first + ROWS], out, xp)
    return out


def _run_rows(signals: Array, filters: Sequence[Filter], rows: list[int], out: Array, xp: Arrays) -> None:
    """Write some rows of ``out`` whose filters share a plan and a lag, chunk by chunk."""
    plan, lag = filters[rows[0] if len(filters) > 1 else 0][:2]
    samples = signals.shape[-1]
    blocks = -(-samples // plan.hop)
    chunk = max(1, _CHUNK_SAMPLES // plan.size)
    for first in range(0, blocks, chunk):
        count = min(chunk, blocks - first)
        instants = plan.instants(first, count)
        spectra = _spectra(signals, plan, first, count, xp) if len(signals) == 1 else None
        response = _responses(filters, plan, instants, xp) if len(filters) == 1 else None
        for begin in range(0, len(rows), xp.rows_at_once):
            here = rows[begin : begin + xp.rows_at_once]
            which = slice(here[0], here[0] + 1) if len(here) == 1 else here
            left = _spectra(signals[which], plan, first, count, xp) if spectra is None else spectra
            right = _responses([filters[i] for i in here], plan, instants, xp) if response is None else response
            filtered = _overlap_add(xp.ifft(_product(left, right, plan.degree)), plan.hop, xp)
            start = first * plan.hop + lag
            low, high = max(start, 0), min(start + filtered.shape[-1], samples)
            if low < high:
                out[which, low:high] += filtered[:, low - start : high - start]


def _spectra(signals: Array, plan: Plan, first: int, count: int, xp: Arrays) -> Array:
    """Spectra ``[rows, nodes, count, size]`` of blocks weighted with each node's polynomial."""
    part = signals[:, first * plan.hop : (first + count) * plan.hop]
    missing = count * plan.hop - part.shape[-1]
    if missing:
        padded = xp.zeros((len(part), count * plan.hop))
        padded[:, : part.shape[-1]] = part
        part = padded
    weighted = part.reshape(len(part), 1, count, plan.hop)
    if plan.degree:
        weighted = weighted * xp.table(_lagrange(plan.nodes, plan.hop))
    return xp.fft(weighted, plan.size)


def _responses(filters: Sequence[Filter], plan: Plan, instants: Instants, xp: Arrays) -> Array:
    """Frequency responses ``[filters, instants, size]``."""
    impulses = np.stack([each.responses(instants) for each in filters])
    return xp.fft(xp.table(impulses), plan.size)


def _product(spectra: Array, responses: Array, degree: int) -> Array:
    """Spectra ``[rows, count, size]`` of the filtered blocks: the sum over their nodes."""
    count = spectra.shape[2]
    if degree == 0:
        return spectra[:, 0] * responses
    total = spectra[:, 0] * responses[:, 0 : count * degree : degree]
    for node in range(1, degree + 1):
        total += spectra[:, node] * responses[:, node : node + (count - 1) * degree + 1 : degree]
    return total


def _overlap_add(segments: Array, hop: int, xp: Arrays) -> Array:
    """Signals ``[rows, samples]`` of segments ``[rows, count, size]`` that begin ``hop`` apart."""
    rows, count, size = segments.shape
    pieces = -(-size // hop)
    total = xp.zeros((rows, count + pieces - 1, hop))
    for piece in range(pieces):
        part = segments[:, :, piece * hop : (piece + 1) * hop]
        total[:, piece : piece + count, : part.shape[-1]] += part
    return total.reshape(rows, -1)
