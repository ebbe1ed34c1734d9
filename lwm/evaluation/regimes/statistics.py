"""What differences between contestants are worth: intervals, paired tests over episodes, and their power.

Episodes differ in the samples that are learnt from; the test part is the same in all. So intervals and tests speak of
other draws of labelled samples at this place, not of another place.
"""

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

from lwm.evaluation.task import FewShotTask

LEVEL = 0.05
"""Two-sided error of tests and intervals."""
POWER = 0.8

_MOST_EXACT = 16
"""Episodes up to which all signs are tried (65,536); above that the test is the t test alone."""

_POINTS = 2000
"""Quantiles of the spread that stand for its distribution."""

Vector = NDArray[np.float64]


def half_width(values: Vector) -> float | None:
    """Half of the 95 % Student interval of a mean; None of fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    return float(stats.t.ppf(1 - LEVEL / 2, count - 1) * values.std(ddof=1) / np.sqrt(count))


def sign_flip(differences: Vector) -> float | None:
    """Exact two-sided p-value of the mean of paired differences when every sign is as likely as the other.

    The share of all 2^n choices of signs whose mean is at least as far from 0; never below 2 / 2^n. None for more
    differences than are tried exactly.
    """
    count = len(differences)
    if count > _MOST_EXACT:
        return None
    signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    means = np.abs(signs @ differences)
    return float((means >= np.abs(differences.sum()) - 1e-12).mean())


def paired_t(differences: Vector) -> float | None:
    """Two-sided p-value of the paired t test; None where the differences do not vary."""
    if len(differences) < 2 or differences.std(ddof=1) < 1e-12:
        return None
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def detectable(differences: Vector) -> float | None:
    """Mean difference that the paired t test would find four times out of five, at this spread and number."""
    count = len(differences)
    if count < 2:
        return None
    critical = stats.t.ppf(1 - LEVEL / 2, count - 1)
    # The noncentral t as a mixture of normals over the estimated spread; scipy's own is NaN far from 0.
    bars = critical * np.sqrt(stats.chi2.ppf((np.arange(_POINTS) + 0.5) / _POINTS, count - 1) / (count - 1))

    def lack(shift: float) -> float:
        return float((stats.norm.sf(bars - shift) + stats.norm.cdf(-bars - shift)).mean() - POWER)

    return float(brentq(lack, 0.0, 20 * critical) * differences.std(ddof=1) / np.sqrt(count))


def holm(p_values: list[float | None]) -> list[float | None]:
    """p-values adjusted for their number (Holm 1979); None stays None."""
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    found: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        found[place] = highest
    return found


def scored(records: list[dict[str, Any]], task: FewShotTask, model: str, k: int) -> Vector:
    """The task's metric in each episode of a model, in the order of the episodes."""
    mine = sorted((r for r in records if (r["model"], r["k"]) == (model, k)), key=lambda r: r["episode"])
    return np.array([record[str(task.metric)] for record in mine], np.float64)


def compare(records: list[dict[str, Any]], task: FewShotTask) -> list[dict[str, Any]]:
    """Every pretrained model (the first model, where there is none) against every other model, at every k.

    Returns:
        JSON-able rows: ``model``, ``other``, ``k``, mean ``difference`` (positive: the model is better) with
        ``half_width`` of its 95 % interval, ``p_sign_flip`` (exact), ``least_p`` it can reach, ``p_t``, ``p_holm``
        (``p_t`` adjusted within this k) and ``detectable``.
    """
    sign = -1.0 if task.metric == "mae" else 1.0
    ours = [c.name for c in task.contestants if c.pretrained] or list(task.models[:1])
    pairs = [pair for pair in combinations(task.models, 2) if set(pair) & set(ours)]
    pairs = [(a, b) if a in ours else (b, a) for a, b in pairs]
    rows = []
    for k in task.k:
        found: list[dict[str, Any]] = []
        for model, other in pairs:
            difference = sign * (scored(records, task, model, k) - scored(records, task, other, k))
            found.append(
                {
                    "model": model,
                    "other": other,
                    "k": k,
                    "difference": float(difference.mean()),
                    "half_width": half_width(difference),
                    "p_sign_flip": sign_flip(difference),
                    "least_p": min(1.0, 2.0 ** (1 - len(difference))),
                    "p_t": paired_t(difference),
                    "detectable": detectable(difference),
                }
            )
        adjusted = holm([row["p_t"] for row in found])
        rows += [row | {"p_holm": p} for row, p in zip(found, adjusted, strict=True)]
    return rows
