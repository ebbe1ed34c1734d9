"""Whether a classifier's probabilities mean what they say: reliability, calibration error, proper scores."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwm.errors import ConfigError
from lwm.evaluation.metrics import Codes
from lwm.proportions import BINS, confidence_bins, confidence_error


def reliability(probabilities: NDArray[Any], truth: Codes, bins: int = BINS) -> dict[str, list[float]]:
    """Accuracy against confidence in bins of equal width.

    Args:
        probabilities: ``[N, E]``, rows that add up to 1.
        truth: right class ``[N]``.
        bins: number of bins; bin m holds confidences in ((m - 1) / bins, m / bins].

    Returns:
        ``count``, mean ``confidence`` and ``accuracy`` of each bin; the latter two are 0 where the bin is empty.

    Raises:
        ConfigError: no samples, or no bin.
    """
    confidence, right = _answers(probabilities, truth, bins)
    place = confidence_bins(confidence, bins)
    count = np.bincount(place, minlength=bins)
    least_one = np.maximum(count, 1)
    return {
        "count": count.tolist(),
        "confidence": (np.bincount(place, confidence, bins) / least_one).tolist(),
        "accuracy": (np.bincount(place, right, bins) / least_one).tolist(),
    }


def expected_calibration_error(probabilities: NDArray[Any], truth: Codes, bins: int = BINS) -> float:
    """Mean distance between accuracy and confidence over bins, weighted by their samples (Naeini et al. 2015).

    Takes and raises what :func:`reliability` does; 0 is calibrated, 1 the worst.
    """
    return confidence_error(*_answers(probabilities, truth, bins), bins)


def log_loss(probabilities: NDArray[Any], truth: Codes) -> float:
    """Mean negative log probability (nats) of the right class ``[N]`` under ``probabilities [N, E]``."""
    right = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return float(-np.log(np.maximum(right, np.finfo(np.float64).tiny)).mean())


def brier_score(probabilities: NDArray[Any], truth: Codes) -> float:
    """Mean squared distance, 0 to 2, between ``probabilities [N, E]`` and the right class ``[N]`` as one-hot."""
    wanted = np.eye(probabilities.shape[1])[truth]
    return float(((probabilities - wanted) ** 2).sum(1).mean())


def calibration(probabilities: NDArray[Any], truth: Codes) -> dict[str, Any]:
    """JSON-able ``ece``, ``log_loss``, ``brier`` and the ``reliability`` table of ``probabilities [N, E]``."""
    return {
        "ece": expected_calibration_error(probabilities, truth),
        "log_loss": log_loss(probabilities, truth),
        "brier": brier_score(probabilities, truth),
        "reliability": reliability(probabilities, truth),
    }


def _answers(probabilities: NDArray[Any], truth: Codes, bins: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Confidence in the likeliest class and whether that is right, both ``[N]``."""
    if not len(truth) or bins < 1:
        raise ConfigError(f"reliability of {len(truth)} samples in {bins} bins", "one or more of each")
    return probabilities.max(1).astype(np.float64), probabilities.argmax(1) == truth
