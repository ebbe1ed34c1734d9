"""Shares of right answers: how sure they are, and how sure whoever answered should have been."""

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
"""Of every interval."""
BINS = 15
"""Bins of confidence (Guo et al. 2017)."""
_Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)


def wilson(right: float, count: int) -> tuple[float, float]:
    """Wilson's score interval (1927) at LEVEL of a share ``right / count``.

    ``right`` may be a sum of shares: of values between 0 and 1 with mean p the variance is at most p (1 - p), so that
    the interval is then no narrower than it should be.
    """
    share, z2 = right / count, _Z**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def confidence_bins(confidence: npt.ArrayLike, bins: int = BINS) -> npt.NDArray[np.int64]:
    """Bin int64 ``[N]`` of each confidence ``[N]``; bin m, from 0, holds those in (m / bins, (m + 1) / bins]."""
    return np.clip(np.ceil(np.asarray(confidence, np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)


def confidence_error(confidence: npt.ArrayLike, right: npt.ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error (Naeini et al. 2015) of answers' own probabilities, 0 (calibrated) to 1.

    Args:
        confidence: ``[N]``, 0 to 1.
        right: bool ``[N]``.
        bins: of equal width.
    """
    sure, hit = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    # A bin's share times the distance of its means is the distance of its sums.
    return float(np.abs(np.bincount(confidence_bins(sure, bins), hit - sure, bins)).sum() / len(sure))
