"""Intervals, paired tests and their power against scipy's own."""

import numpy as np
import pytest
from scipy import stats

from lwm.evaluation.regimes.statistics import compare, detectable, half_width, holm, paired_t, sign_flip
from lwm.evaluation.task import FewShotTask
from lwm.seeding import rng_for


def test_interval_and_t_test_are_scipys() -> None:
    values = rng_for(0, "test", "interval").normal(0.4, 1, 7)
    low, high = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    assert half_width(values) == pytest.approx((high - low) / 2)
    assert paired_t(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert half_width(values[:1]) is None
    assert paired_t(np.full(4, 0.25)) is None


def test_sign_flips_are_scipys_exact_permutation_test() -> None:
    values = rng_for(0, "test", "flips").normal(0.7, 1, 8)
    found = stats.permutation_test(
        (values,), lambda x: abs(x.mean()), permutation_type="samples", n_resamples=np.inf, alternative="greater"
    )
    assert sign_flip(values) == pytest.approx(found.pvalue)
    assert sign_flip(np.array([0.1, 0.2, 0.3])) == 2 / 2**3  # all on one side: the least it can be
    assert sign_flip(np.zeros(4)) == 1.0
    assert sign_flip(np.ones(30)) is None


def test_detectable_difference_is_found_four_times_out_of_five() -> None:
    differences = rng_for(0, "test", "power").normal(0, 1, 5)
    found = detectable(differences)
    assert found is not None
    shift = found / differences.std(ddof=1) * np.sqrt(5)
    critical = stats.t.ppf(0.975, 4)
    power = stats.nct.sf(critical, 4, shift) + stats.nct.cdf(-critical, 4, shift)
    assert power == pytest.approx(0.8, abs=2e-3)
    assert detectable(differences[:2]) is not None  # where scipy's noncentral t gives up


def test_holm_by_hand() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize(("target", "metric", "better"), [(None, "macro_f1", 0.1), ("snr_db", "mae", -0.1)])
def test_pretrained_models_are_compared_with_all_others(target: str | None, metric: str, better: float) -> None:
    task = FewShotTask("t", labels=("snr",), target=target, models=("trivial", "frozen", "knn"), k=(5,), episodes=3)
    score = {"trivial": 0.4, "frozen": 0.5, "knn": 0.5}
    # Later episodes first: pairs are found by their number.
    records = [
        {"model": m, "k": 5, "episode": e, metric: s + e * (0.01 if m == "trivial" else 0.02)}
        for m, s in score.items()
        for e in (2, 1, 0)
    ]
    rows = {(row["model"], row["other"]): row for row in compare(records, task)}
    assert set(rows) == {("frozen", "trivial"), ("knn", "trivial"), ("frozen", "knn")}
    assert rows["frozen", "trivial"]["difference"] == pytest.approx(better * 1.1)
    assert rows["frozen", "trivial"]["p_sign_flip"] == rows["frozen", "trivial"]["least_p"] == 0.25
    assert rows["frozen", "knn"]["p_sign_flip"] == 1.0
    assert rows["frozen", "knn"]["p_holm"] is None
