"""What numpy and torch share: the namespace, transfers, cache-sized blocks, power and rotation of a batch."""

import math
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm.errors import CaptureError

Array = Any
"""numpy array or torch tensor."""

_CACHED = 1 << 14
# Complex samples of a block that stays in a core's second-level cache with its temporaries (measured best).
_ON_DEVICE = 1 << 22
# The same on an accelerator, where it only bounds memory.
_TABLE = 1 << 10
# Samples after which the recurrence of a rotation is restarted; divides _CACHED.


def namespace(iq: Array) -> ModuleType:
    """``numpy`` or ``torch``, whichever made ``iq``."""
    if isinstance(iq, np.ndarray):
        return np
    import torch

    return torch


def as_batch(iq: Array) -> Array:
    """A copy of ``iq`` as complex64 ``[B, S]`` on its own device.

    Raises:
        CaptureError: not two axes, or not complex.
    """
    xp = namespace(iq)
    if iq.ndim != 2 or not (iq.is_complex() if xp is not np else np.iscomplexobj(iq)):
        raise CaptureError(f"IQ of shape {tuple(iq.shape)} and type {iq.dtype}", "complex [B, S]")
    if xp is np:
        return np.array(iq, dtype=np.complex64, order="C")
    return iq.detach().to(xp.complex64).clone(memory_format=xp.contiguous_format)


def like(host: npt.NDArray[Any], iq: Array) -> Array:
    """A host array in the namespace and on the device of ``iq``."""
    xp = namespace(iq)
    return host if xp is np else xp.as_tensor(np.ascontiguousarray(host)).to(iq.device)


def on_host(values: Array) -> npt.NDArray[Any]:
    """Any array as a numpy one."""
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


def column(values: Sequence[float] | npt.NDArray[Any], iq: Array) -> Array:
    """One parameter a row ``[B, 1]``, complex64 when complex, else float32."""
    host = np.asarray(values)
    kind = np.complex64 if np.iscomplexobj(host) else np.float32
    return like(host.astype(kind)[:, None], iq)


def blocks(iq: Array) -> Iterator[tuple[slice, slice]]:
    """Rows and samples of blocks that fit the cache; where the samples are cut does not depend on the other rows."""
    count, samples = iq.shape
    size = _CACHED if namespace(iq) is np or iq.device.type == "cpu" else _ON_DEVICE
    rows = max(1, size // max(1, samples))
    for row in range(0, count, rows):
        for start in range(0, samples, size):
            yield slice(row, min(row + rows, count)), slice(start, min(start + size, samples))


def power(iq: Array) -> npt.NDArray[np.float64]:
    """Mean of ``|iq|^2`` of each row ``[B]``, on the host."""
    xp = namespace(iq)
    total = np.zeros(len(iq))
    for rows, span in blocks(iq):
        part = iq[rows, span]
        total[rows] += on_host(xp.linalg.vecdot(part, part).real)
    return total / max(1, iq.shape[1])


def decibels(ratio: float) -> float | None:
    """``10 log10``, or None for nothing, which JSON can hold and minus infinity it cannot."""
    return 10 * math.log10(ratio) if ratio > 0 else None


def turns(cycles: npt.NDArray[np.float64]) -> npt.NDArray[np.complex64]:
    """``exp(2j pi cycles)``; reduced to one turn in double, then exact enough and fast in single precision."""
    return phasors((2 * math.pi * (cycles - np.rint(cycles))).astype(np.float32))


def phasors(angle: npt.NDArray[np.float32]) -> npt.NDArray[np.complex64]:
    """``exp(j angle)`` of angles in radians."""
    out = np.empty(angle.shape, dtype=np.complex64)
    np.cos(angle, out=out.real)
    np.sin(angle, out=out.imag)
    return out


def gaussian(rng: np.random.Generator, count: int) -> npt.NDArray[np.complex64]:
    """Circular complex Gaussian noise ``[count]`` of unit power by Box and Muller's formula.

    Vectorised, it takes a third of the time of the ziggurat; the largest amplitude is 4.1 times the root-mean-square.
    """
    uniform = rng.random((2, count), dtype=np.float32)
    amplitude, angle = uniform
    np.subtract(1, amplitude, out=amplitude)
    np.log(amplitude, out=amplitude)
    np.negative(amplitude, out=amplitude)
    np.sqrt(amplitude, out=amplitude)
    angle *= np.float32(2 * math.pi)
    out = phasors(angle)
    out *= amplitude
    return out


def rotate(iq: Array, cycles: npt.NDArray[np.float64]) -> None:
    """Multiply row ``b`` in place by ``exp(2j pi cycles[b] n)``.

    A table of one stretch times the phases at which the stretches begin, as one matrix product in real numbers:
    no sine and cosine for each sample.
    """
    xp = namespace(iq)
    table = turns(cycles[:, None] * np.arange(_TABLE))
    pairs = like(real_pairs(table), iq)
    starts = turns(cycles[:, None] * np.arange(0, iq.shape[1], _TABLE))
    starts = like(starts.view(np.float32).reshape(*starts.shape, 2), iq)
    for rows, span in blocks(iq):
        stretches = slice(span.start // _TABLE, -(-span.stop // _TABLE))
        gains = as_complex(xp.matmul(starts[rows, stretches], pairs[rows]))
        part = iq[rows, span]
        part *= gains.reshape(len(part), -1)[:, : part.shape[1]]


def modulate(iq: Array, nodes: npt.NDArray[np.complex64], hop: int) -> None:
    """Multiply in place by the straight lines between ``nodes`` ``[B, K + 1]`` that are ``hop`` samples apart.

    ``K`` hops cover all samples; ``hop`` is a power of two up to 1024.
    """
    xp = namespace(iq)
    ends = like(np.stack([nodes[:, :-1], nodes[:, 1:]], -1).view(np.float32), iq)
    ramp = np.arange(hop) / hop
    # Real and imaginary parts of both ends, times the weights of both ends: one small matrix product.
    weights = like(np.kron(np.stack([1 - ramp, ramp]), np.eye(2)).astype(np.float32), iq)
    for rows, span in blocks(iq):
        gains = as_complex(xp.matmul(ends[rows, span.start // hop : -(-span.stop // hop)], weights))
        part = iq[rows, span]
        part *= gains.reshape(len(part), -1)[:, : part.shape[1]]


def real_pairs(table: npt.NDArray[np.complex64]) -> npt.NDArray[np.float32]:
    """Float32 ``[R, 2, 2 L]`` by which ``[re, im]`` of a number gives that number times ``table`` ``[R, L]``.

    A product with two real rows is a third of the work of OpenBLAS's complex one.
    """
    return np.stack([table, np.complex64(1j) * table], 1).view(np.float32)


def as_complex(real: Array) -> Array:
    """View ``[..., 2 N]`` of interleaved real and imaginary parts as complex64 ``[..., N]``."""
    xp = namespace(real)
    return real.view(np.complex64) if xp is np else xp.view_as_complex(real.unflatten(-1, (-1, 2)))
