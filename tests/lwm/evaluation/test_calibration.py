"""Calibration beside torchmetrics, scikit-learn and cases worked out by hand."""

import numpy as np
import pytest
import torch

from lwm.errors import ConfigError
from lwm.evaluation.calibration import (
    BINS,
    brier_score,
    calibration,
    expected_calibration_error,
    log_loss,
    reliability,
)
from lwm.seeding import rng_for


def drawn(count: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels that follow them, then the probabilities sharpened."""
    rng = rng_for(0, "calibration", count)
    given = rng.dirichlet(np.ones(4), count)
    truth = (rng.random((count, 1)) > given.cumsum(1)).sum(1)
    sharp = given**sharpness
    return sharp / sharp.sum(1, keepdims=True), truth


def test_like_torchmetrics_and_sklearn() -> None:
    from sklearn.metrics import log_loss as peer_log_loss
    from torchmetrics.functional.classification import multiclass_calibration_error

    for sharpness in (0.5, 1.0, 3.0):
        p, truth = drawn(3000, sharpness)
        peer = multiclass_calibration_error(torch.from_numpy(p), torch.from_numpy(truth), 4, n_bins=BINS, norm="l1")
        assert expected_calibration_error(p, truth) == pytest.approx(float(peer), abs=1e-6)
        assert log_loss(p, truth) == pytest.approx(peer_log_loss(truth, p), rel=1e-9)


def test_calibrated_draws_have_little_error_and_sharpened_ones_much() -> None:
    # 20,000 draws in 15 bins: sampling alone gives about sqrt(15 * 0.25 / 20,000) = 0.014 at most.
    assert expected_calibration_error(*drawn(20_000, 1.0)) < 0.02
    assert expected_calibration_error(*drawn(20_000, 4.0)) > 0.15


def test_by_hand() -> None:
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [1.0, 0.0]])
    truth = np.array([0, 1, 1, 0])
    table = reliability(p, truth, bins=10)
    assert table["count"] == [0, 0, 0, 0, 0, 1, 0, 0, 2, 1]
    assert table["accuracy"][8] == 0.5
    assert table["confidence"][8] == pytest.approx(0.9)
    assert expected_calibration_error(p, truth, bins=10) == pytest.approx((2 * 0.4 + 0.4) / 4)
    assert brier_score(p, truth) == pytest.approx((0.02 + 1.62 + 0.32 + 0) / 4)
    assert log_loss(p, truth) == pytest.approx(-np.log([0.9, 0.1, 0.6, 1.0]).mean())
    found = calibration(p, truth)
    assert found["ece"] == expected_calibration_error(p, truth)
    assert len(found["reliability"]["count"]) == BINS
    with pytest.raises(ConfigError, match="0 samples"):
        reliability(p[:0], truth[:0])
