"""Scores of a classification, all from its confusion matrix."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]


def confusion_matrix(truth: Codes, predicted: Codes, classes: int) -> NDArray[np.int64]:
    """Counts ``[classes, classes]``: row is the truth, column what was predicted."""
    flat = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes)


def class_f1(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 of each class ``[classes]``; 0 for a class that is neither present nor predicted."""
    hit = np.diag(confusion).astype(np.float64)
    total = confusion.sum(0) + confusion.sum(1)
    return 2 * hit / np.maximum(total, 1)


def macro_f1(truth: Codes, predicted: Codes, classes: int) -> float:
    """Mean of the classes' F1."""
    return float(class_f1(confusion_matrix(truth, predicted, classes)).mean())


def scores(truth: Codes, predicted: Codes, names: list[str], snr: list[str] | None) -> dict[str, Any]:
    """What a results record holds about one episode: JSON-able.

    Args:
        truth: class codes ``[N]``.
        predicted: class codes ``[N]``.
        names: the classes' names.
        snr: SNR in dB of every sample as text, or None where the data set does not say.

    Returns:
        ``accuracy``, ``macro_f1``, ``per_class`` (F1 by class name), ``per_snr`` (accuracy by SNR in dB, rising) and
        ``confusion`` (rows are the truth).
    """
    confusion = confusion_matrix(truth, predicted, len(names))
    f1 = class_f1(confusion)
    right = truth == predicted
    levels = np.asarray(snr if snr is not None else [], dtype=str)
    return {
        "accuracy": float(right.mean()),
        "macro_f1": float(f1.mean()),
        "per_class": dict(zip(names, f1.tolist(), strict=True)),
        "per_snr": {level: float(right[levels == level].mean()) for level in sorted(set(levels.tolist()), key=natural)},
        "confusion": confusion.tolist(),
    }


def natural(text: str) -> tuple[int, float, str]:
    """Sorting key: numbers by value, before other text in alphabetical order."""
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)
