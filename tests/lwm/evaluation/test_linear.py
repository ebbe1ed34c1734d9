"""Metrics, the linear probe and the trivial yardstick."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from lwm.data.dataset import SpectrogramDataset
from lwm.data.shard import write_dataset
from lwm.data.trivial import BINS, LEVELS, local_features, trivial_features
from lwm.errors import DatasetError
from lwm.evaluation import discriminant as discriminant_module
from lwm.evaluation import probe as probe_module
from lwm.evaluation.discriminant import SHRINKAGE, discriminants, sureness
from lwm.evaluation.metrics import macro_f1, scores
from lwm.evaluation.probe import GRID, fit_probe
from lwm.evaluation.trivial import trivial_accuracy
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe


def test_scores_agree_with_scikit_learn() -> None:
    rng = rng_for(0, "test", "metrics")
    truth, predicted = rng.integers(4, size=200), rng.integers(4, size=200)
    assert macro_f1(truth, predicted, 4) == pytest.approx(f1_score(truth, predicted, average="macro"))
    levels = [str(5 * (i % 3) - 5) for i in range(200)]
    found = scores(truth, predicted, list("abcd"), levels)
    assert found["accuracy"] == pytest.approx((truth == predicted).mean())
    assert list(found["per_snr"]) == ["-5", "0", "5"]
    assert np.dot(list(found["per_snr"].values()), [67, 67, 66]) / 200 == pytest.approx(found["accuracy"])
    assert np.sum(found["confusion"]) == 200
    assert found["per_class"]["b"] == pytest.approx(f1_score(truth, predicted, average=None)[1])


@pytest.mark.parametrize("classes", [2, 4])
def test_probe_is_scikit_learns_solution(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = rng_for(0, "test", "probe")
    codes = np.arange(60) % classes
    latent = rng.normal(size=(60, 5)) + rng.normal(size=(classes, 5))[codes]
    features = (latent @ rng.normal(size=(5, 90)) + 0.05 * rng.normal(size=(60, 90))).astype(np.float32)
    monkeypatch.setattr(probe_module, "GRID", (0.03,))
    monkeypatch.setattr(discriminant_module, "SHRINKAGE", ())
    found = fit_probe([features], codes, np.arange(60), np.arange(60))
    scaled = (features - found.shift) / found.scale
    if classes == 2:  # scikit-learn fits one weight vector: the difference, under half the penalty
        reference = LogisticRegression(C=0.06, tol=1e-8, max_iter=5000).fit(scaled, codes)
        assert np.allclose(found.weight[1] - found.weight[0], reference.coef_[0], atol=2e-3)
    else:
        reference = LogisticRegression(C=0.03, tol=1e-8, max_iter=5000).fit(scaled, codes)
        assert np.allclose(found.weight, reference.coef_, atol=1e-3)
    assert np.array_equal(found.predict(features), reference.predict(scaled))


def test_probe_chooses_the_layer_that_knows() -> None:
    rng = rng_for(0, "test", "layers")
    codes = np.arange(90) % 3
    noise = rng.normal(size=(90, 8)).astype(np.float32)
    telling = (noise + 3 * np.eye(3, 8)[codes]).astype(np.float32)
    constant = np.ones((90, 8), np.float32)
    found = fit_probe([noise, telling, constant], codes, np.arange(45), np.arange(45, 90))
    assert found.layer == 1
    assert found.strength in (GRID if found.solver == "logistic" else SHRINKAGE)
    assert (found.predict(telling) == codes).mean() > 0.9


def correlated(rng: np.random.Generator, count: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Features ``[count, 12]`` whose loudest directions say nothing of the class, and the classes."""
    codes = np.arange(count) % classes
    loud = rng.normal(size=(count, 4)) @ rng.normal(size=(4, 12)) * 5
    return (loud + np.eye(classes, 12)[codes] + 0.3 * rng.normal(size=(count, 12))).astype(np.float32), codes


def test_discriminant_is_scikit_learns_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    features, codes = correlated(rng_for(0, "test", "discriminant"), 300)
    monkeypatch.setattr(discriminant_module, "SHRINKAGE", (1e-9,))
    monkeypatch.setattr(probe_module, "GRID", ())
    found = fit_probe([features], codes, np.arange(201), np.arange(201, 300))
    assert found.solver == "discriminant"
    reference = LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / 3] * 3).fit(features[:201], codes[:201])
    assert np.array_equal(found.predict(features), reference.predict(features))
    # Scikit-learn divides by the samples, an unbiased covariance by those less the classes.
    ours = found.scores(features) - found.scores(features)[:, :1]
    theirs = reference.decision_function(features)
    theirs = (theirs - theirs[:, :1]) * (201 - 3) / 201
    ratio = (ours[:, 1:] / theirs[:, 1:]).ravel()
    assert np.allclose(ratio, ratio[0], rtol=1e-3)
    assert ratio[0] <= 1  # no surer than the model says


def test_discriminant_of_few_samples_is_the_dense_solution() -> None:
    features, codes = correlated(rng_for(1, "test", "discriminant"), 9)
    shifted = (features - features.mean(0)) / features.std(0)
    left, size, basis = np.linalg.svd(shifted.astype(np.float64), full_matrices=False)
    means = np.stack([shifted[codes == code].mean(0) for code in range(3)])
    inside = shifted - means[codes]
    covariance = inside.T @ inside / (9 - 3)
    shares = []
    for share, weight, bias in discriminants(left * size, codes, 12):
        shrunk = (1 - share) * covariance + share * np.trace(covariance) / 12 * np.eye(12)
        dense = np.linalg.solve(shrunk, means.T).T
        assert np.allclose(weight @ basis, dense, atol=1e-3)
        assert np.allclose(bias, -0.5 * (dense * means).sum(1), atol=1e-3)
        shares.append(share)
    assert tuple(shares) == SHRINKAGE


def test_discriminant_needs_two_samples_of_a_class_that_differ() -> None:
    assert list(discriminants(np.eye(3), np.arange(3), 3)) == []
    assert list(discriminants(np.eye(3), np.array([0, 0, 2]), 3)) == []
    assert list(discriminants(np.repeat(np.eye(3), 2, 0), np.repeat(np.arange(3), 2), 3)) == []
    found = fit_probe([np.eye(3, dtype=np.float32)], np.arange(3), np.arange(3), np.arange(3))
    assert found.solver == "logistic"


@pytest.mark.parametrize("seed", [0, 1])
def test_discriminant_is_chosen_where_it_does_better(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features as an encoder's: directions from loud to quiet, and what tells the classes in all of them alike."""
    rng = rng_for(seed, "test", "discriminant")
    codes = np.arange(600) % 6
    told = rng.normal(size=(600, 40)) + 0.9 * rng.normal(size=(6, 40))[codes]
    mix = np.linalg.qr(rng.normal(size=(40, 40)))[0] / np.arange(1, 41)
    features = (told @ mix.T).astype(np.float32)
    parts, test = (np.arange(120), np.arange(120, 180)), np.arange(180, 600)
    found = fit_probe([features], codes, *parts)
    monkeypatch.setattr(discriminant_module, "SHRINKAGE", ())
    alone = fit_probe([features], codes, *parts)
    assert (found.solver, alone.solver) == ("discriminant", "logistic")
    right = [(probe.predict(features[test]) == codes[test]).mean() for probe in (found, alone)]
    assert right[0] > right[1] + 0.02


def test_a_perfect_validation_part_leaves_a_head_something_to_learn() -> None:
    rng = rng_for(0, "test", "perfect")
    codes = np.arange(40) % 2
    features = (rng.normal(size=(40, 30)) + 4 * np.eye(2, 30)[codes]).astype(np.float32)
    found = fit_probe([features], codes, np.arange(30), np.arange(30, 40))
    assert (found.predict(features) == codes).all()
    scores = torch.from_numpy(found.scores(features[:30]))
    assert torch.nn.functional.cross_entropy(scores, torch.from_numpy(codes[:30])) > 0.01


def test_sureness_makes_scores_as_sure_as_they_are_right() -> None:
    rng = rng_for(0, "test", "sureness")
    scores = rng.normal(size=(4000, 3))
    chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    codes = (chances.cumsum(1) < rng.random((4000, 1))).sum(1)
    assert sureness(8 * scores, codes)[0] == pytest.approx(1 / 8, rel=0.1)
    assert sureness(1e6 * scores, codes)[0] == pytest.approx(1e-6, rel=0.1)
    assert sureness(0.1 * scores, codes)[0] == pytest.approx(1, abs=0.01)  # never surer than it was
    # Nine right answers in a row, whatever the margin: a chance of 10 in 11.
    for margin in (10.0, 1e5):
        factor, loss = sureness(np.tile([margin, 0.0], (9, 1)), np.zeros(9, dtype=np.int64))
        assert factor * margin == pytest.approx(np.log(10), rel=1e-3)
        assert loss == pytest.approx(-10 / 11 * np.log(10 / 11) - 1 / 11 * np.log(1 / 11), rel=1e-3)


def test_trivial_features_by_hand(small_recipe: Recipe) -> None:
    picture = torch.full((1, 1, 32, 32), -40.0)
    picture[0, 0, 8:16] = 20.0
    valid = torch.ones(1, 32, dtype=torch.bool)
    valid[0, 16:] = False
    picture[0, 0, :, 16:] = 35.0  # padding must not count
    level, occupied, guard, *histogram = trivial_features(picture, valid, small_recipe)[0]
    assert level == pytest.approx(10 * np.log10(100 * 8 / 32 + 1e-4 * 24 / 32), abs=1e-3)
    assert occupied == pytest.approx(8 / 32)
    assert guard == pytest.approx(-40.0)
    assert len(histogram) == BINS
    assert histogram[0] == pytest.approx(24 / 32)
    assert histogram[7] == pytest.approx(8 / 32)


def test_local_features_by_hand(small_recipe: Recipe) -> None:
    picture = torch.full((2, 1, 32, 32), -40.0)
    picture[0, 0, 1::2, ::2] = -10.0  # one cell of four in each square
    valid = torch.ones(2, 32, dtype=torch.bool)
    valid[:, 17:] = False
    picture[:, :, :, 17:] = 35.0  # padding must not count, nor the square that it is half of
    found = local_features(picture, valid, small_recipe)
    assert np.array_equal(found[:, : 3 + BINS], trivial_features(picture, valid, small_recipe))
    mean, spread, by_frequency, by_time = found[0, 3 + BINS :].reshape(4, LEVELS)
    assert np.allclose(mean, -32.5)
    assert np.allclose(spread, 15.0)  # standard deviation of one of four 30 dB above the rest
    # Steps of 30 dB in the even columns, nine of seventeen, and none in the others.
    assert np.array_equal(np.unique(by_frequency), [0.0, 30.0])
    assert (by_frequency > 0).mean() == pytest.approx(9 / 17, abs=1 / LEVELS)
    assert np.allclose(by_time, [0.0] * 8 + [30.0] * 8)
    assert np.allclose(found[1, 3 + BINS + LEVELS :], 0.0)
    rows_and_columns = replace(small_recipe, axes="time-frequency")
    turned = local_features(picture.transpose(2, 3), valid, rows_and_columns)[:, 3 + BINS :].reshape(2, 4, LEVELS)
    assert np.allclose(turned[:, [0, 1, 3, 2]], found[:, 3 + BINS :].reshape(2, 4, LEVELS))


def planted(root: Path, recipe: Recipe, level: tuple[float, float], seed: int) -> SpectrogramDataset:
    """Two technologies that differ by the level of their band only."""
    rng = rng_for(seed, "test", "shortcut")
    names = ["lte", "nr"] * 40
    pictures = rng.normal(-20, 2, (80, 1, 32, 32))
    for i in range(80):
        pictures[i, 0, 8:24] += level[i % 2]
    write_dataset(root, pictures.astype(np.float32), recipe, {"technology": names, "channel": names})
    return SpectrogramDataset(root)


def test_planted_shortcut_is_found_and_none_is_chance(tmp_path: Path, small_recipe: Recipe) -> None:
    shortcut = [planted(tmp_path / f"s{i}", small_recipe, (20, 24), i) for i in (0, 1)]
    assert trivial_accuracy(*shortcut, "technology") == 1.0
    alike = [planted(tmp_path / f"n{i}", small_recipe, (20, 20), i) for i in (0, 1)]
    assert trivial_accuracy(*alike, "technology") == pytest.approx(0.5, abs=0.2)
    with pytest.raises(DatasetError, match="no label 'colour'"):
        trivial_accuracy(*alike, "colour")
