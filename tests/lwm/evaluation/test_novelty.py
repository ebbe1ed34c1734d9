"""The novelty report on planted protocols; the area under the curve against its definition."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lwm.data.dataset import SpectrogramDataset
from lwm.data.shard import write_dataset
from lwm.errors import DatasetError, ModelError
from lwm.evaluation.novelty import auroc, novelty_report, novelty_table, ranked
from lwm.models.encoder import build_encoder
from lwm.models.moe import MoEEncoder
from lwm.models.novelty import NoveltyDetector, fit_novelty
from lwm.models.router import Router, RouterConfig
from lwm.models.router_view import view_dataset
from lwm.seeding import rng_for
from lwm.signal.recipe import recipe_named
from lwm.signal.silence import noise_pictures

RECIPE = recipe_named("small")
NAMES = ("lte", "nr")
RATE = 1.92e6


@pytest.mark.parametrize(("n", "m", "levels"), [(1, 1, 5), (40, 70, 6), (50, 30, 10**6)])
def test_area_is_the_share_of_won_pairs(n: int, m: int, levels: int) -> None:
    rng = rng_for(0, "test", "auroc", n)
    known, unknown = rng.integers(0, levels, n), rng.integers(0, levels, m) + levels // 5
    won = sum((u > k) + 0.5 * (u == k) for u in unknown for k in known)
    assert auroc(known, unknown).value == pytest.approx(won / (n * m))
    assert auroc(unknown, known).value == pytest.approx(1 - won / (n * m))


def test_standard_error_is_the_spread_of_areas() -> None:
    """Exact for exponential scores; 600 areas tell their own spread to 3 %."""
    rng, repeats = rng_for(0, "test", "error"), 600
    areas = [auroc(rng.exponential(1, 30), rng.exponential(3, 40)) for _ in range(repeats)]
    spread = np.std([area.value for area in areas])
    # Rate 1 against 1/3: the chance is 3/4.
    assert np.mean([area.value for area in areas]) == pytest.approx(0.75, abs=4 * spread / np.sqrt(repeats))
    assert np.mean([area.error for area in areas]) == pytest.approx(spread, rel=0.12)
    assert auroc(np.zeros(3), np.ones(3)) == (1.0, 0.0)
    with pytest.raises(DatasetError, match="0 unknown"):
        auroc(np.zeros(3), np.zeros(0))


def test_rank_is_lexicographic() -> None:
    first, second = np.array([0.5, 0.1, 0.5, 0.5]), np.array([1.0, 9.0, 3.0, 1.0])
    assert ranked(first, second).tolist() == [1, 0, 2, 1]


def test_noise_is_flat_at_its_own_power() -> None:
    made = noise_pictures(RECIPE, 20, [RATE, 2 * RATE], rng_for(0, "test", "noise"))
    assert made.shape == (20, 1, 64, 64)
    power = 10 ** (made / 10)
    # The recipe divides by the mean power, so that the mean over all cells is one but for what no frame covers.
    torch.testing.assert_close(power.mean((1, 2, 3)), torch.ones(20), atol=0.02, rtol=0)
    # 20 x 64 cells of at least 7 bins each, exponential: four standard errors.
    torch.testing.assert_close(power.mean((0, 1, 3)), torch.ones(64), atol=4 / np.sqrt(20 * 64 * 7), rtol=0)
    again = noise_pictures(RECIPE, 20, [RATE, 2 * RATE], rng_for(0, "test", "noise"))
    assert torch.equal(made, again)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes along time of two widths, clear or hardly above noise, and stripes along frequency that none knows."""
    rng, count = rng_for(0, "test", "report"), 80
    axis = np.arange(64) * np.pi
    patterns = {"lte": np.sin(axis / 4)[:, None], "nr": np.sin(axis / 8)[:, None], "wlan": np.sin(axis / 4)[None]}
    technology = [name for name in patterns for _ in range(count)]
    snr = [("20", "-5")[i // 4 % 2] for i in range(len(technology))]
    heights = [8.0 if level == "20" else 2.0 for level in snr]
    pairs = zip(technology, heights, strict=True)
    stripes = np.array([np.broadcast_to(patterns[name] * height, (64, 64)) for name, height in pairs])
    pictures = (stripes + rng.normal(0, 2, stripes.shape)).astype(np.float32)[:, None]
    split = [("train", "train", "validation", "test")[i % 4] for i in range(len(technology))]
    root = tmp_path_factory.mktemp("report") / "data"
    values = {"sample_rate": [RATE] * len(technology)}
    write_dataset(root, pictures, RECIPE, {"technology": technology, "snr": snr}, split=split, values=values)
    return root


@pytest.fixture(scope="module")
def mixture() -> MoEEncoder:
    torch.manual_seed(0)
    experts = {name: build_encoder("tiny", RECIPE, 0, 4, name=name, seed=i) for i, name in enumerate(NAMES)}
    return MoEEncoder(experts, Router(RouterConfig(NAMES, width=16), RECIPE, 0, 4)).eval()


@pytest.fixture(scope="module")
def detectors(planted: Path, mixture: MoEEncoder) -> list[NoveltyDetector]:
    train, held = (
        SpectrogramDataset(planted, split, f"technology in {list(NAMES)}") for split in ("train", "validation")
    )
    return [fit_novelty(mixture, train, held, score) for score in ("mahalanobis", "energy")]


def test_report_of_both_scores(planted: Path, mixture: MoEEncoder, detectors: list[NoveltyDetector]) -> None:
    known = SpectrogramDataset(planted, "test", f"technology in {list(NAMES)}")
    unknown = {"wlan": SpectrogramDataset(planted, "test", 'technology == "wlan" and snr == 20')}
    records = novelty_report(mixture, known, unknown, noise=8, detectors=detectors)
    assert [(r["score"], r["source"], r["kind"]) for r in records] == [
        (score, name, kind)
        for score in ("mahalanobis", "energy")
        for name, kind in (
            ("all known", "known"),
            ("lte", "known"),
            ("nr", "known"),
            ("wlan", "unknown"),
            ("white noise", "noise"),
        )
    ]
    assert [r["captures"] for r in records[:5]] == [40, 20, 20, 10, 8]
    alarms, lte, nr, wlan, _ = records[:5]
    assert alarms["auroc"] is None
    assert alarms["flagged"] == pytest.approx((lte["flagged"] + nr["flagged"]) / 2)
    assert list(alarms["flagged_by_snr"]) == ["-5", "20"]
    assert alarms["flagged"] == pytest.approx(np.mean(list(alarms["flagged_by_snr"].values())))
    assert detectors[0].config.silence
    assert wlan["auroc"] > 0.9
    assert wlan["flagged_by_snr"] == {"20": wlan["flagged"]}
    # By the mixture's own words.
    mixture.set_detector(detectors[0])
    batch = unknown["wlan"].batch(range(10))["spectrogram"]
    assert wlan["flagged"] == pytest.approx(1 - mixture.known(batch).float().mean().item())
    # The area by counting pairs: by p-value first, by the raw score where that is the same.
    views = [view_dataset(mixture.router, data) for data in (known, unknown["wlan"])]
    pairs = [list(zip(detectors[0].novelty(*v).tolist(), detectors[0].score(*v).tolist(), strict=True)) for v in views]
    won = sum((u > k) + 0.5 * (u == k) for u in pairs[1] for k in pairs[0]) / 400
    assert wlan["auroc"] == pytest.approx(won)
    table = novelty_table(records)
    assert len(table.splitlines()) == 2 + len(records)
    assert f"| mahalanobis | wlan | unknown | 10 | {wlan['auroc']:.3f} ± {wlan['auroc_error']:.3f} |" in table
    assert [r["source"] for r in novelty_report(mixture, known, {}, noise=0)] == ["all known", "lte", "nr"]


def test_what_cannot_be_reported_is_refused(
    planted: Path, mixture: MoEEncoder, detectors: list[NoveltyDetector]
) -> None:
    known = SpectrogramDataset(planted, "test", 'technology == "lte"')
    with pytest.raises(ModelError, match="without a novelty detector"):
        novelty_report(mixture, known, {}, detectors=[])
    with pytest.raises(DatasetError, match=r"'other' with technology \['nr'\]"):
        novelty_report(
            mixture,
            known,
            {"other": SpectrogramDataset(planted, "test", "snr == 20 and technology != 'lte'")},
            detectors=detectors,
        )
    with pytest.raises(ModelError, match="false alarm rate"):
        novelty_report(mixture, known, {}, noise=0, false_alarm=0.001, detectors=detectors)
