"""White Gaussian noise at a stated signal-to-noise ratio, whose definition has a name."""

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from lwm.channel.limits import require_between
from lwm.errors import CaptureError, ConfigError
from lwm.signal.capture import Emission

MIN_SNR_DB = -60.0
MAX_SNR_DB = 100.0
"""SNR taken, in dB (ours): wider than any receiver's; float32 resolves both ends."""

Reference = Literal["capture", "emission"]
"""Definitions of the SNR, see :func:`add_noise`."""

_BLOCK = 1024
"""Numbers whose squares are summed in float32, a relative error of 1e-7; the sums of blocks are added in float64."""

IQ = TypeVar("IQ", npt.NDArray[np.complex64], torch.Tensor)


class Extent:
    """Where the signal is, by the definition of the SNR: the time and the band over which its power is taken.

    Args:
        reference: ``"capture"`` is all the time and the whole band; ``"emission"`` the union of the emissions' boxes.
        samples: length of the capture.
        emissions: boxes, needed by ``"emission"``.
        sample_rate: Hz, needed by ``"emission"``.

    Attributes:
        runs: first sample and end of each stretch of time that counts.
        active_share: share of the time.
        occupied_share: share of the band.

    Raises:
        ConfigError: unknown reference.
        CaptureError: no emissions or no sample rate where the definition needs them.
    """

    def __init__(
        self, reference: Reference, samples: int, emissions: Sequence[Emission] = (), sample_rate: float | None = None
    ) -> None:
        if reference not in ("capture", "emission"):
            raise ConfigError(f"SNR reference {reference!r}", "'capture' or 'emission'")
        self.reference = reference
        self.runs = [(0, samples)]
        self.active_share = self.occupied_share = 1.0
        if reference == "emission":
            if not emissions or sample_rate is None:
                raise CaptureError("SNR of an emission without emissions or sample rate", "both")
            active = active_samples(emissions, samples, sample_rate)
            self.runs = _runs(active)
            self.active_share = float(active.mean()) if samples else 0.0
            self.occupied_share = occupied_band(emissions, sample_rate) / sample_rate

    def power(self, row: npt.NDArray[np.complex64] | torch.Tensor) -> float:
        """Mean power of one row ``[samples]`` over the time that counts."""
        samples = sum(stop - start for start, stop in self.runs)
        return sum(_energy(row[start:stop]) for start, stop in self.runs) / samples if samples else 0.0


def add_noise(
    iq: IQ,
    snr_db: float | Sequence[float],
    rng: np.random.Generator | Sequence[np.random.Generator],
    reference: Reference = "capture",
    emissions: Sequence[Emission] = (),
    sample_rate: float | None = None,
    signal: IQ | None = None,
) -> tuple[IQ, list[dict[str, Any]]]:
    """IQ with complex white Gaussian noise added.

    What the SNR is:

    - ``"capture"``: mean power of the capture over all its time, over the noise power in its whole band.
    - ``"emission"``: mean power over the time in which any emission is on the air, over the noise power inside the
      band that the emissions occupy. Both are unions of the emissions' boxes, cut to the capture.

    Args:
        iq: complex64 ``[S]`` or ``[B, S]``, noise-free, numpy or torch.
        snr_db: dB, in ``[MIN_SNR_DB, MAX_SNR_DB]``; one, or one a row.
        rng: source of the noise, one a row; numpy's for torch too, so that both get the same noise.
        reference: the definition.
        emissions: boxes, the same for all rows, needed by ``"emission"``.
        sample_rate: Hz, needed by ``"emission"``.
        signal: what the SNR is of, of the shape of ``iq``, where ``iq`` holds other things too; ``iq`` by default.

    Returns:
        noisy complex64 of the shape and kind of ``iq``, and the facts of each row: ``snr_db`` asked for,
        ``snr_achieved_db`` with the power of this noise over all the time and the whole band (inside a box of few
        samples it may be another by chance), ``snr_reference``, ``signal_power`` (of the definition), ``noise_power``
        (variance of the noise over the whole band, in units of ``iq`` squared), ``noise_power_measured`` (mean power
        of this realisation), ``active_share`` of the time and ``occupied_share`` of the band.

    Raises:
        ConfigError: SNR out of range or NaN, unknown reference, another number of SNRs or generators than rows.
        CaptureError: IQ that is not complex, no signal power, no emissions or no sample rate where the definition needs
            them.
    """
    iq = as_iq(iq)
    rows = iq if iq.ndim == 2 else iq[None]
    given = [float(each) for each in np.ravel(np.asarray(snr_db))]
    snrs = given * len(rows) if np.ndim(snr_db) == 0 else given
    rngs = [rng] if isinstance(rng, np.random.Generator) else list(rng)
    if len(snrs) != len(rows) or len(rngs) != len(rows):
        raise ConfigError(f"{len(snrs)} SNRs and {len(rngs)} generators for {len(rows)} rows", "one of each a row")
    extent = Extent(reference, rows.shape[1], emissions, sample_rate)
    measured = rows if signal is None else as_iq(signal).reshape(rows.shape)
    powers = [extent.power(row) for row in measured]
    out = torch.empty_like(rows) if isinstance(rows, torch.Tensor) else np.empty(rows.shape, np.complex64)
    facts = [_add(*parts, extent) for parts in zip(rows, out, powers, snrs, rngs, strict=True)]
    return out.reshape(iq.shape), facts


def as_iq(iq: Any) -> Any:
    """Complex ``[S]`` or ``[B, S]`` of any precision as complex64, numpy or torch.

    Raises:
        CaptureError: real numbers, or another number of dimensions.
    """
    array: Any = iq if isinstance(iq, torch.Tensor) else np.asarray(iq)
    on_torch = isinstance(array, torch.Tensor)
    if not (array.is_complex() if on_torch else np.iscomplexobj(array)) or array.ndim not in (1, 2):
        raise CaptureError(f"IQ of type {array.dtype} and shape {tuple(array.shape)}", "complex [S] or [B, S]")
    return array.to(torch.complex64) if on_torch else array.astype(np.complex64, copy=False)


def _add(row: Any, out: Any, signal: float, snr_db: float, rng: np.random.Generator, extent: Extent) -> dict[str, Any]:
    """Write one noisy row to ``out``; ``signal`` is the power that the SNR is of."""
    require_between("SNR", snr_db, MIN_SNR_DB, MAX_SNR_DB, "dB")
    occupied = extent.occupied_share
    if not (signal > 0 and occupied > 0 and math.isfinite(signal)):
        raise CaptureError(f"signal of power {signal:g} in {occupied:.3g} of the band", "a signal above zero")
    variance = signal / 10 ** (snr_db / 10) / occupied
    # Drawn where the sum will stand, so that a row passes through the processor's cache once.
    noise = np.empty(len(row), np.complex64) if isinstance(row, torch.Tensor) else out
    flat = noise.view(np.float32)
    rng.standard_normal(out=flat, dtype=np.float32)
    flat *= np.float32(math.sqrt(variance / 2))
    measured = mean_power(noise)
    if isinstance(row, torch.Tensor):
        torch.add(row, torch.from_numpy(noise).to(row.device), out=out)
    else:
        out += row
    return {
        "snr_db": float(snr_db),
        "snr_achieved_db": 10 * math.log10(signal / (measured * occupied)),
        "snr_reference": extent.reference,
        "signal_power": signal,
        "noise_power": variance,
        "noise_power_measured": measured,
        "active_share": extent.active_share,
        "occupied_share": occupied,
    }


def active_samples(emissions: Sequence[Emission], samples: int, sample_rate: float) -> npt.NDArray[np.bool_]:
    """Samples ``[samples]`` that lie in the time of at least one emission."""
    edges = np.zeros(samples + 1, dtype=np.int32)
    for emission in emissions:
        start, stop = (min(max(round(t * sample_rate), 0), samples) for t in (emission.start, emission.stop))
        edges[start] += 1
        edges[stop] -= 1
    return np.cumsum(edges[:-1]) > 0


def occupied_band(emissions: Sequence[Emission], sample_rate: float) -> float:
    """Hz inside the capture's band that at least one emission occupies."""
    half = sample_rate / 2
    bands = sorted((max(e.low, -half), min(e.high, half)) for e in emissions)
    total, reached = 0.0, -half
    for low, high in bands:
        total += max(0.0, high - max(low, reached))
        reached = max(reached, high)
    return total


def mean_power(iq: npt.NDArray[np.complex64] | torch.Tensor) -> float:
    """Mean of ``|iq|^2`` of ``[S]``, blocks summed in float64; 0 for nothing."""
    return _energy(iq) / len(iq) if len(iq) else 0.0


def _energy(iq: npt.NDArray[np.complex64] | torch.Tensor) -> float:
    """Sum of ``|iq|^2`` of ``[S]``."""
    if isinstance(iq, torch.Tensor):
        return float(torch.view_as_real(iq).double().square().sum())
    flat = np.ascontiguousarray(iq).view(np.float32)
    whole = len(flat) // _BLOCK * _BLOCK
    blocks, rest = flat[:whole].reshape(-1, _BLOCK), flat[whole:]
    return float(np.vecdot(blocks, blocks).sum(dtype=np.float64)) + float(np.vecdot(rest, rest))


def _runs(active: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First index and end of each stretch of True."""
    edges = np.flatnonzero(np.diff(active, prepend=False, append=False))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
