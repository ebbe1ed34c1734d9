"""The novelty detector against second implementations, naive counts and its own promise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import mahalanobis
from scipy.special import logsumexp
from sklearn.covariance import ledoit_wolf

from lwm.data.dataset import SpectrogramDataset
from lwm.data.shard import write_dataset
from lwm.errors import ConfigError, DatasetError, ModelError
from lwm.hub import check_model, from_pretrained, save_pretrained
from lwm.models.encoder import build_encoder
from lwm.models.moe import MoEEncoder
from lwm.models.novelty import (
    SILENCE_SHARE,
    NoveltyConfig,
    NoveltyDetector,
    NoveltyScore,
    class_statistics,
    fit_detector,
    fit_novelty,
    shrunk_covariance,
)
from lwm.models.router import Router, RouterConfig
from lwm.models.router_view import RouterView
from lwm.seeding import rng_for
from lwm.signal.recipe import recipe_named

RECIPE = recipe_named("small")
NAMES = ("lte", "nr")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes along time of two widths, which experts know, and stripes along frequency, which none does."""
    rng, count = rng_for(0, "test", "novelty"), 80
    axis = np.arange(64) * np.pi
    patterns = {"lte": np.sin(axis / 4)[:, None], "nr": np.sin(axis / 8)[:, None], "wlan": np.sin(axis / 4)[None]}
    technology = [name for name in patterns for _ in range(count)]
    stripes = np.array([np.broadcast_to(8 * patterns[name] - 10, (64, 64)) for name in technology])
    pictures = (stripes + rng.normal(0, 3, stripes.shape)).astype(np.float32)[:, None]
    split = [("train", "train", "validation", "test")[i % 4] for i in range(len(technology))]
    root = tmp_path_factory.mktemp("planted") / "data"
    write_dataset(root, pictures, RECIPE, {"technology": technology}, split=split)
    return root


@pytest.fixture
def mixture() -> MoEEncoder:
    torch.manual_seed(0)
    experts = {name: build_encoder("tiny", RECIPE, -10, 8, name=name, seed=i) for i, name in enumerate(NAMES)}
    return MoEEncoder(experts, Router(RouterConfig(NAMES, width=16), RECIPE, -10, 8)).eval()


def of_known(root: Path, split: str) -> SpectrogramDataset:
    return SpectrogramDataset(root, split, f"technology in {list(NAMES)}")


@pytest.mark.parametrize(("count", "width"), [(20, 30), (400, 8)])
def test_covariance_is_ledoit_and_wolfs(count: int, width: int) -> None:
    rng = rng_for(0, "test", "covariance", count)
    samples = rng.normal(size=(count, width)) @ rng.normal(size=(width, width))
    samples -= samples.mean(0)
    expected, _ = ledoit_wolf(samples, assume_centered=True)
    np.testing.assert_allclose(shrunk_covariance(samples), expected, rtol=1e-4, atol=1e-5 * np.trace(expected) / width)


def test_covariance_of_what_never_varies_can_be_inverted() -> None:
    assert np.linalg.cond(shrunk_covariance(np.zeros((5, 3)))) == pytest.approx(1)


def test_mahalanobis_is_scipys_to_the_nearest_class() -> None:
    rng = rng_for(0, "test", "mahalanobis")
    codes = rng.integers(0, 3, 200)
    features = rng.normal(size=(200, 6)) * np.linspace(0.1, 3, 6) + 2.0 * codes[:, None]
    means, whitening = class_statistics(features, codes, ["a", "b", "c"])
    centred = features - np.array([features[codes == code].mean(0) for code in range(3)])[codes]
    precision = np.linalg.inv(shrunk_covariance(centred))
    strange = rng.normal(size=(10, 6)) * 4
    expected = [min(mahalanobis(one, mean, precision) ** 2 for mean in means) for one in strange]
    detector = NoveltyDetector(NoveltyConfig("mahalanobis", 6, 3, 1))
    detector.means.copy_(torch.from_numpy(means))
    detector.whitening.copy_(torch.from_numpy(whitening))
    found = detector.score(torch.from_numpy(strange).float(), torch.zeros(10, 3))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)
    with pytest.raises(DatasetError, match="0 captures of 'd'"):
        class_statistics(features, codes, ["a", "b", "c", "d"])


def test_energy_is_minus_logsumexp() -> None:
    logits = rng_for(0, "test", "energy").normal(size=(7, 4)) * 10
    found = NoveltyDetector(NoveltyConfig("energy", 6, 4, 1)).score(torch.zeros(7, 6), torch.from_numpy(logits))
    np.testing.assert_allclose(found.numpy(), -logsumexp(logits, axis=1), rtol=1e-5)


MIDDLES = np.array([[5.0, 0.0], [-5.0, 0.0]])
"""Of two planted protocols, whose features spread by one around them."""

QUIET = np.array([0.0, -8.0])
"""Where the features of white noise lie."""


def around(centres: NDArray[np.float64], rng: np.random.Generator) -> RouterView:
    """Features that spread by one; logits that tell nothing."""
    features = torch.from_numpy(centres + rng.normal(0, 1, centres.shape)).float()
    return RouterView(features, torch.zeros(len(features), 2))


def silence_knowing(score: NoveltyScore, held: int) -> NoveltyDetector:
    """Of the planted protocols, calibrated on ``held`` captures."""
    rng = rng_for(0, "test", "silence", score, held)
    codes = np.arange(400) % 2
    views = [around(centres, rng) for centres in (MIDDLES[codes], MIDDLES[codes[:held]], np.tile(QUIET, (200, 1)))]
    return fit_detector(score, ["a", "b"], views[0], codes, views[1], views[2])


@pytest.mark.parametrize(("held", "flagged"), [(98, False), (99, True)])
def test_noise_is_flagged_once_captures_are_enough(held: int, flagged: bool) -> None:
    """Logits that tell nothing leave it to emptiness alone, which needs 1 / (0.2 * 0.05) - 1 captures."""
    detector = silence_knowing("energy", held)
    fresh = around(np.tile(QUIET, (50, 1)), rng_for(0, "test", "fresh"))
    assert bool((detector.novelty(*fresh) >= detector.threshold(0.05)).all()) is flagged
    assert not (detector.novelty(*around(np.tile(-QUIET, (50, 1)), rng_for(0, "test", "loud"))) > 0).any()
    again = NoveltyDetector.from_config(detector.get_config())
    again.load_state_dict(detector.state_dict())
    assert torch.equal(again.novelty(*fresh), detector.novelty(*fresh))


@pytest.mark.parametrize("held", [24, 38, 200])
def test_what_is_strange_but_not_silent_is_flagged(held: int) -> None:
    """At the fewest captures that a rate of 5 % can be promised from, p = 1 / 25 / 0.8 is the limit itself."""
    detector = silence_knowing("mahalanobis", held)
    strange = around(np.tile([0.0, 30.0], (50, 1)), rng_for(0, "test", "strange"))
    assert (detector.emptiness(strange.features) < detector.calibration_emptiness[0]).all()
    assert (detector.novelty(*strange) >= detector.threshold(0.05)).all()


def naive_p(held: torch.Tensor, values: torch.Tensor) -> NDArray[np.float64]:
    """Conformal p-values by counting."""
    return np.array([(1 + int((held >= value).sum())) / (1 + len(held)) for value in values])


def test_novelty_is_one_minus_the_p_value() -> None:
    detector = NoveltyDetector(NoveltyConfig("energy", 1, 1, 4))
    detector.calibration.copy_(torch.tensor([0.0, 1.0, 1.0, 2.0]))
    scores = torch.tensor([-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 9.0])
    found = detector.novelty(torch.zeros(7, 1), -scores[:, None])
    np.testing.assert_allclose(1 - found.numpy(), naive_p(detector.calibration, scores), atol=1e-6)


def test_both_tests_are_joined_by_a_weighted_bound() -> None:
    detector = silence_knowing("mahalanobis", 150)
    rng = rng_for(0, "test", "mixed")
    mixed = around(MIDDLES[np.arange(300) % 2] + rng.normal(0, 1.2, (300, 2)), rng)
    strange = naive_p(detector.calibration, detector.score(*mixed))
    empty = naive_p(detector.calibration_emptiness, detector.emptiness(mixed.features))
    parts = np.stack([np.ones(300), strange / 0.8, empty / 0.2])
    assert set(parts.argmin(0)) == {0, 1, 2}, "else one of the three is not tested"
    np.testing.assert_allclose(1 - detector.novelty(*mixed).numpy(), parts.min(0), atol=1e-6)


def test_false_alarms_keep_the_promise() -> None:
    """P(p <= a) = floor(a (n + 1)) / (n + 1) for exchangeable scores without ties; here over calibrations too."""
    rng, n, repeats = rng_for(0, "test", "promise"), 59, 4000
    detector = NoveltyDetector(NoveltyConfig("energy", 1, 1, n))
    alarms = 0
    for _ in range(repeats):
        scores = torch.from_numpy(rng.exponential(size=n + 1).astype(np.float32))
        detector.calibration.copy_(scores[1:].sort().values)
        alarms += int(detector.novelty(torch.zeros(1, 1), -scores[:1, None]) >= detector.threshold(0.05))
    expected = 3 / 60
    # Four standard errors of a share of 4000.
    assert abs(alarms / repeats - expected) < 4 * np.sqrt(expected * (1 - expected) / repeats)


def test_false_alarms_keep_the_promise_with_silence() -> None:
    """At most a by the union bound, and no less than the score spends alone, 4 / 100; over 2000 calibrations."""
    rng, n = rng_for(0, "test", "promise", "silence"), 99
    detector = NoveltyDetector(NoveltyConfig("mahalanobis", 2, 1, n, silence=True))
    detector.silence.copy_(torch.tensor([[4.0, 0.0]]))
    shares = []
    for _ in range(2000):
        features = torch.from_numpy(rng.normal(size=(n + 50, 2)).astype(np.float32))
        detector.calibrate(RouterView(features[:n], torch.zeros(n, 1)))
        novelty = detector.novelty(features[n:], torch.zeros(50, 1))
        shares.append(float((novelty >= detector.threshold(0.05)).float().mean()))
    error = np.std(shares) / np.sqrt(len(shares))
    assert 4 * error < 0.005
    assert 0.04 - 4 * error <= np.mean(shares) <= 0.05 + 4 * error


def test_thresholds_that_cannot_be_promised_are_refused() -> None:
    detector = NoveltyDetector(NoveltyConfig("energy", 1, 1, 18))
    with pytest.raises(ModelError, match=r"at least 0\.053"):
        detector.threshold(0.05)
    assert SILENCE_SHARE == 0.2  # what the docstring of threshold counts with
    assert NoveltyDetector(NoveltyConfig("energy", 1, 1, 24, silence=True)).threshold(0.05) == 0.95
    with pytest.raises(ModelError, match=r"at least 0\.052"):
        NoveltyDetector(NoveltyConfig("energy", 1, 1, 23, silence=True)).threshold(0.05)
    with pytest.raises(ConfigError, match="false alarm rate"):
        detector.threshold(1.5)
    wrong: NoveltyScore = "typicality"  # type: ignore[assignment]
    with pytest.raises(ModelError, match="typicality"):
        NoveltyConfig(wrong, 1, 1, 1)


@pytest.mark.parametrize("score", ["mahalanobis", "energy"])
def test_fitted_detector_knows_its_protocols(planted: Path, mixture: MoEEncoder, score: NoveltyScore) -> None:
    mixture.set_detector(fit_novelty(mixture, of_known(planted, "train"), of_known(planted, "validation"), score))
    known = of_known(planted, "test")
    pictures = known.batch(range(len(known)))["spectrogram"]
    novelty = mixture.novelty(pictures)
    assert novelty.dtype == torch.float32
    assert 0 <= novelty.min() <= novelty.max() <= 1
    assert torch.equal(mixture.known(pictures, 0.1), novelty < 0.9)
    # 40 known pictures, 40 for calibration: the share of alarms is beta-binomial with mean 0.1 and spread 0.07.
    assert 1 - mixture.known(pictures, 0.1).float().mean() < 0.1 + 4 * 0.07
    held = of_known(planted, "validation")
    own = mixture.novelty_score(held.batch(range(len(held)))["spectrogram"]).sort().values
    assert mixture.detector is not None
    torch.testing.assert_close(mixture.detector.calibration, own, atol=1e-4, rtol=1e-4)


def test_planted_shift_is_found(planted: Path, mixture: MoEEncoder) -> None:
    mixture.set_detector(fit_novelty(mixture, of_known(planted, "train"), of_known(planted, "validation")))
    strange = SpectrogramDataset(planted, "test", 'technology == "wlan"')
    assert not mixture.known(strange.batch(range(len(strange)))["spectrogram"]).any()


def test_detector_travels_with_the_folder(planted: Path, mixture: MoEEncoder, tmp_path: Path) -> None:
    plain = set(mixture.state_dict())
    mixture.set_detector(fit_novelty(mixture, of_known(planted, "train"), of_known(planted, "validation")))
    assert set(mixture.state_dict()) - plain == {f"detector.{name}" for name in ("means", "whitening", "calibration")}
    folder = save_pretrained(mixture, tmp_path / "moe")
    assert check_model(folder) == []
    x = SpectrogramDataset(planted).batch(range(0, 240, 10))["spectrogram"]
    again = from_pretrained(folder)
    torch.testing.assert_close(again.novelty(x), mixture.novelty(x), atol=1e-6, rtol=0)
    assert again.get_config() == mixture.get_config()
    exact = again.detector.calibration.clone()
    assert torch.equal(again.to(torch.bfloat16).detector.calibration, exact)


def test_what_does_not_fit_is_refused(planted: Path, mixture: MoEEncoder) -> None:
    x = torch.zeros(1, 1, 64, 64)
    for ask in (mixture.novelty, mixture.known, mixture.novelty_score):
        with pytest.raises(ModelError, match="without a novelty detector"):
            ask(x)
    with pytest.raises(ModelError, match="3 protocols and features of width 16; expected 2 and 16"):
        mixture.set_detector(NoveltyDetector(NoveltyConfig("energy", 16, 3, 1)))
    everything = SpectrogramDataset(planted, "train")
    with pytest.raises(DatasetError, match="technology that no expert has"):
        fit_novelty(mixture, everything, of_known(planted, "validation"))
    with pytest.raises(DatasetError, match="no label 'mode'"):
        fit_novelty(mixture, everything, everything, label="mode")
    with pytest.raises(ModelError, match="novelty config"):
        NoveltyDetector.from_config({"score": "energy"})
