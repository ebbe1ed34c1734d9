"""Confidence is calibrated: checked on answers whose probability of being right is known."""

import json
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from lwm.errors import ConfigError, ModelError
from lwm.language.confidence import ENOUGH, Confidence, Curve, before_and_after
from lwm.seeding import rng_for

Drawn = tuple[np.ndarray, np.ndarray, list[str]]


def overconfident(count: int, seed: int) -> Drawn:
    """Answers of a model whose own probability is too high: right with probability sigmoid(x + 1) of "snr", with 0.95
    whatever it says of "link"."""
    rng = rng_for(seed, "answers")
    x = -rng.exponential(1.0, count)
    kinds = np.where(np.arange(count) % 2, "snr", "link")
    truth = np.where(kinds == "snr", expit(2 * x + 0.5), 0.95)
    return x, rng.random(count) < truth, kinds.tolist()


@pytest.mark.parametrize("method", ["auto", "isotonic", "platt"])
def test_other_answers_are_better_calibrated_than_before(method: Any) -> None:
    fitted = Confidence.fit(*overconfident(2000, 1), method=method)
    found = before_and_after(fitted, *overconfident(4000, 2))
    # A calibrated forecaster of 4,000 answers in 15 bins has an error of about sqrt(15 * 0.2 / 4000) = 0.027 or less.
    assert found["ece_after"] < 0.05 < 0.15 < found["ece_before"]
    assert found["answers"] == 4000


def test_platts_curve_is_the_one_that_the_answers_were_drawn_from() -> None:
    curve = Confidence.fit(*overconfident(20_000, 3), method="platt").curves["snr"]
    # Standard error of the slope over 10,000 answers: about 0.05.
    assert curve.slope == pytest.approx(2.0, abs=0.2)
    assert curve.offset == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("method", ["isotonic", "platt"])
@pytest.mark.parametrize("seed", range(3))
def test_confidence_never_falls_as_probability_rises(method: Any, seed: int) -> None:
    rng = rng_for(seed, "noise")
    x = -rng.exponential(2.0, 300)
    fitted = Confidence.fit(x, rng.random(300) < 0.4, ["snr"] * 300, method=method)
    made = [fitted.of(float(each), "snr") for each in np.linspace(-30, 0, 200)]
    assert (np.diff(made) >= 0).all()
    assert 0 < made[0] <= made[-1] < 1


def test_a_few_answers_make_nobody_certain() -> None:
    always = Confidence.fit([-0.1 * n for n in range(12)], [True] * 12, ["link"] * 12)
    assert always.of(-0.5, "link") == pytest.approx(13 / 14)
    # More probable answers that are more often wrong say nothing: the share of right ones is left.
    x = [-0.1 * n for n in range(20)]
    turned = Confidence.fit(x, [n >= 10 for n in range(20)], ["link"] * 20)
    assert turned.of(0.0, "link") == turned.of(-5.0, "link") == pytest.approx(0.5)
    assert Confidence.fit(*overconfident(ENOUGH, 0)).curves["snr"].slope is not None
    assert Confidence.fit(*overconfident(2 * ENOUGH, 0)).curves["snr"].slope is None


def test_without_curves_it_is_the_models_own_probability() -> None:
    plain = Confidence()
    assert not plain.calibrated
    assert plain.of(-0.5) == pytest.approx(np.exp(-0.5))
    assert plain.of(-1e4, "snr") == 0.0
    for wrong in (0.5, float("nan")):
        with pytest.raises(ConfigError, match="at most 0"):
            plain.of(wrong)


def test_a_kind_without_a_curve_takes_the_pooled_one() -> None:
    fitted = Confidence.fit(*overconfident(400, 5))
    assert set(fitted.curves) == {"", "snr", "link"}
    assert fitted.of(-1.0, "users") == fitted.of(-1.0) != fitted.of(-1.0, "snr")


def test_curves_are_plain_numbers_and_come_back() -> None:
    for method in ("isotonic", "platt"):
        fitted = Confidence.fit(*overconfident(500, 6), method=method)  # type: ignore[arg-type]
        again = Confidence.from_dict(json.loads(json.dumps(fitted.to_dict(), allow_nan=False)))
        assert again == fitted
        assert again.of(-0.7, "snr") == fitted.of(-0.7, "snr")


@pytest.mark.parametrize(
    "numbers",
    [
        {"x": [0, -1], "y": [0.1, 0.2], "slope": None, "offset": 0},
        {"x": [-1, 0], "y": [0.2, 0.1], "slope": None, "offset": 0},
        {"x": [-1, 0], "y": [0.2, 1.1], "slope": None, "offset": 0},
        {"x": [], "y": [], "slope": -1.0, "offset": 0},
        {"x": [], "y": [], "slope": None, "offset": 0},
        {"x": [], "y": [], "slope": float("nan"), "offset": 0},
        {"x": ["a"], "y": [0.5], "slope": None, "offset": 0},
        {"x": 3, "y": [0.5], "slope": None, "offset": 0},
        {"x": [0]},
        "nonsense",
    ],
)
def test_numbers_that_are_no_curve_are_refused(numbers: Any) -> None:
    with pytest.raises(ModelError, match="curve"):
        Confidence.from_dict({"snr": numbers})


def test_bad_answers_are_refused() -> None:
    with pytest.raises(ConfigError, match="as many of each"):
        Confidence.fit([-1.0], [True, False], ["a"])
    with pytest.raises(ConfigError, match="as many of each"):
        Confidence.fit([-1.0] * 9, [True] * 9, ["a"] * 9)
    with pytest.raises(ConfigError, match="all finite"):
        Confidence.fit([-np.inf] * 10, [True] * 10, ["a"] * 10)
    with pytest.raises(ConfigError, match="temperature"):
        Confidence.fit([-1.0] * 10, [True] * 10, ["a"] * 10, method="temperature")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no answers"):
        before_and_after(Confidence(), [], [], [])
    with pytest.raises(ModelError, match="type list"):
        Confidence.from_dict([])
    assert Curve(slope=1.0)(np.zeros(2)).tolist() == [0.5, 0.5]


def test_a_first_step_of_one_answer_does_not_lift_the_curve() -> None:
    """One answer in twenty is right; the least probable one alone is a step of its own, 1/3 by Laplace's rule."""
    x = np.linspace(-10, -1, 400)
    right = np.arange(400) % 20 == 1
    fitted = Confidence.fit(x, right, ["snr"] * 400, method="isotonic")
    made = [fitted.of(float(each), "snr") or 0.0 for each in x]
    # Laplace's rule adds one right answer to each step of about 20 or more.
    assert max(made[:380]) < 0.12
    assert np.mean(made) == pytest.approx(0.05, abs=0.03)


def test_prose_json_and_answers_held_to_a_form_have_none() -> None:
    fitted = Confidence.fit(*overconfident(400, 5))
    assert fitted.of(-1.0, "description") is None
    assert fitted.of(-1.0, "json") is None
    assert fitted.of(-1.0, "snr", free=False) is None
    assert fitted.of(-1.0, "snr") is not None
