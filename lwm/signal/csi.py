"""Wi-Fi channel state information: what a receiver estimated of the channel from each packet, on each subcarrier."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm.errors import CaptureError

USED: dict[int, int] = {64: 28, 128: 58, 256: 122}
"""Highest used subcarrier of an FFT of 64 (HT20), 128 (HT40) or 256 (VHT80) points; -N to -L and L to N are sent.

IEEE Std 802.11-2020, Tables 19-6 (HT) and 21-5 (VHT): N_SR of 28, 58 and 122.
"""

_LOWEST: dict[int, int] = {64: 1, 128: 2, 256: 2}
"""Lowest used subcarrier: DC and, beyond 20 MHz, its neighbours are not sent."""

LONGEST_HOLD = 4.0
"""Median packet intervals for which a packet stands for the channel when none follows (ours)."""


@dataclass(frozen=True)
class CsiRecording:
    """CSI of a whole recording, in memory: an hour at 100 packets a second and 64 subcarriers is 90 MB.

    Args:
        path: the file it came from.
        amplitude: float32 ``[P, C, S]``: packets, antennas (or spatial streams), subcarriers from low to high
            frequency, guard and null subcarriers left out; linear, >= 0.
        times: float64 ``[P]``, s from the first packet, not decreasing.
        labels: what the file says that it shows.
        facts: what else is known: chip, gain lock, RSSI, subcarriers.
    """

    path: Path
    amplitude: npt.NDArray[np.float32]
    times: npt.NDArray[np.float64]
    labels: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def interval(self) -> float:
        """Median time between packets, s."""
        return float(np.median(np.diff(self.times)))

    @property
    def duration(self) -> float:
        """Seconds from the first packet to the end of the last, which holds for the median interval."""
        return float(self.times[-1]) + self.interval


def recording_of(
    path: Path,
    csi: npt.NDArray[Any],
    times: npt.NDArray[np.float64],
    labels: dict[str, str] | None = None,
    facts: dict[str, Any] | None = None,
) -> CsiRecording:
    """Check CSI ``[P, C, S]``, complex or linear amplitude, and bring its subcarriers into order.

    Raises:
        CaptureError: fewer than two packets, not finite, a negative amplitude, or times that go back.
    """
    if csi.shape[0] < 2 or not csi.size:
        raise CaptureError(f"{path} holds {csi.shape[0]} packet(s) of CSI", "at least two", "record longer")
    if not np.isfinite(csi).all():
        packet = int(np.argmin(np.isfinite(csi).all(axis=(1, 2))))
        raise CaptureError(f"{path}: CSI of packet {packet} is not finite", "finite values", "cut it out or re-record")
    if csi.dtype.kind != "c" and csi.min() < 0:
        raise CaptureError(
            f"{path}: real CSI with negative values", "complex CSI, or linear amplitude", "convert it from dB first"
        )
    if np.diff(times).min() < 0 or times[-1] <= times[0]:
        raise CaptureError(f"{path}: packet times that do not increase", "the order of reception", "sort the packets")
    said: dict[str, Any] = {}
    if np.median(np.diff(times)) == 0:
        # Whole seconds, say: coarser than the packets. Evenly spread is the best that can be known.
        times, said = np.linspace(times[0], times[-1], len(times)), {"times": "spread evenly: given too coarsely"}
    amplitude, order = used_subcarriers(np.abs(csi).astype(np.float32))
    if not amplitude.any():
        raise CaptureError(f"{path}: CSI that is 0 everywhere", "a channel", "record it again")
    said |= {"subcarriers": csi.shape[2], "used_subcarriers": amplitude.shape[2], "subcarrier_order": order}
    return CsiRecording(path, amplitude, times - times[0], labels or {}, said | {"source": path.name} | (facts or {}))


def used_subcarriers(amplitude: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], str]:
    """Used subcarriers ``[P, C, U]`` from low to high frequency, and the order that they were found in.

    A full FFT (64, 128 or 256 points) comes in FFT order (0 first: ESP32, S3, C3, Nexmon) or centred (ESP32-C5 and
    -C6, many exports). The guard band, whose level is far from the rest's (nothing, or arbitrary numbers), tells
    which: it lies in the middle or at both ends. Any other count has been cut to the used ones before and stays.
    """
    points = amplitude.shape[2]
    if points not in USED:
        return amplitude, "as given"
    level = np.log(amplitude.mean(axis=(0, 1), dtype=np.float64) + 1e-3)
    odd = np.abs(level - np.median(level))
    half, guard = points // 2, points // 2 - USED[points] - 1
    near = np.r_[1 : guard + 1, -guard:0]
    # The same offsets about position 0 and the middle: guard band of one order, well-sent subcarriers of the other.
    centred = odd[near].mean() > odd[half + near].mean()
    ordered = amplitude if centred else np.fft.fftshift(amplitude, axes=2)
    low, high = _LOWEST[points], USED[points]
    kept = np.r_[half - high : half - low + 1, half + low : half + high + 1]
    return ordered[:, :, kept], "centred" if centred else "FFT"


def area_weights(edges: npt.NDArray[np.float64], ends: npt.NDArray[np.float64], cells: int, span: float) -> Any:
    """``[cells, n]``: what the intervals ``[edges, ends)`` cover of each of ``cells`` equal parts of ``[0, span)``."""
    borders = np.linspace(0, span, cells + 1)
    return np.clip(np.minimum(borders[1:, None], ends) - np.maximum(borders[:-1, None], edges), 0, None)
