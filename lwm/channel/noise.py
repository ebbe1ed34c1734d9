"""White Gaussian noise at a stated signal-to-noise ratio, whose definition has a name."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lwm.channel.limits import require_between
from lwm.errors import CaptureError, ConfigError
from lwm.signal.capture import Emission

MIN_SNR_DB = -60.0
MAX_SNR_DB = 100.0
"""SNR taken, in dB (ours): below the first nothing is left in float32, above the second no noise is."""


def add_noise(
    iq: npt.NDArray[np.complex64],
    snr_db: float,
    rng: np.random.Generator,
    reference: Literal["capture", "emission"] = "capture",
    emissions: Sequence[Emission] = (),
    sample_rate: float | None = None,
) -> tuple[npt.NDArray[np.complex64], dict[str, Any]]:
    """IQ with complex white Gaussian noise added.

    What the SNR is:

    - ``"capture"``: mean power of the capture over all its time, over the noise power in its whole band.
    - ``"emission"``: mean power over the time in which any emission is on the air, over the noise power inside the
      band that the emissions occupy. Both are unions of the emissions' boxes, cut to the capture.

    Args:
        iq: complex64 ``[S]``, noise-free.
        snr_db: dB, in ``[MIN_SNR_DB, MAX_SNR_DB]``.
        rng: source of the noise.
        reference: the definition.
        emissions: boxes, needed by ``"emission"``.
        sample_rate: Hz, needed by ``"emission"``.

    Returns:
        noisy complex64 ``[S]``, and the facts: ``snr_db``, ``snr_reference``, ``signal_power`` (of the definition),
        ``noise_power`` (variance of the noise over the whole band, in units of ``iq`` squared),
        ``noise_power_measured`` (mean power of this realisation), ``active_share`` of the time and
        ``occupied_share`` of the band.

    Raises:
        ConfigError: SNR out of range or NaN, unknown reference.
        CaptureError: no signal power, no emissions or no sample rate where the definition needs them.
    """
    require_between("SNR", snr_db, MIN_SNR_DB, MAX_SNR_DB, "dB")
    if reference == "capture":
        active, active_share, occupied = iq, 1.0, 1.0
    elif reference == "emission":
        if not emissions or sample_rate is None:
            raise CaptureError("SNR of an emission without emissions or sample rate", "both")
        inside = active_samples(emissions, len(iq), sample_rate)
        active, active_share = iq[inside], float(inside.mean()) if len(iq) else 0.0
        occupied = occupied_band(emissions, sample_rate) / sample_rate
    else:
        raise ConfigError(f"SNR reference {reference!r}", "'capture' or 'emission'")
    signal_power = _mean_power(active)
    if not (signal_power > 0 and occupied > 0 and math.isfinite(signal_power)):
        raise CaptureError(f"signal of power {signal_power:g} in {occupied:.3g} of the band", "a signal above zero")
    noise_power = signal_power / 10 ** (snr_db / 10) / occupied
    noise = rng.standard_normal((len(iq), 2), dtype=np.float32).view(np.complex64)[:, 0]
    noise *= np.float32(math.sqrt(noise_power / 2))
    facts = {
        "snr_db": float(snr_db),
        "snr_reference": reference,
        "signal_power": signal_power,
        "noise_power": noise_power,
        "noise_power_measured": _mean_power(noise),
        "active_share": active_share,
        "occupied_share": occupied,
    }
    return iq + noise, facts


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


def _mean_power(iq: npt.NDArray[np.complex64]) -> float:
    """Mean of ``|iq|^2`` in float64, 0 for nothing."""
    if not len(iq):
        return 0.0
    return float(np.mean(np.square(iq.view(np.float32), dtype=np.float64)) * 2)
