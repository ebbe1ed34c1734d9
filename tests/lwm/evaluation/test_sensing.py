"""Sensing: no recording on both sides, intervals over recordings, and a declared stand-in for the paper's set.

The stand-in is synthetic: six activities that move one reflector at different speeds, on three antennas. It says that
the path from a folder of arrays to a result works, nothing about how well activities are told.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lwm.cli import main
from lwm.data.dataset import SpectrogramDataset
from lwm.errors import ConfigError, DatasetError
from lwm.evaluation.dense import Training
from lwm.evaluation.sensing import (
    RESULTS,
    SensingTask,
    Windows,
    interval,
    load_sensing_task,
    load_windows,
    make_folds,
    sensing_report,
)
from lwm.seeding import rng_for

ACTIVITIES = ("clean", "fall", "run", "sit", "stand", "walk")
QUICK = Training(steps=3, batch_size=4)


def stand_in(activity: int, recording: int, packets: int) -> np.ndarray:
    """Linear amplitude ``[3, 114, packets]``: a static path and one whose phase turns at the activity's own rate."""
    rng = rng_for(0, "stand-in", activity, recording)
    time, subcarrier = np.arange(packets) / 500, np.arange(114)[:, None]
    turn = 2 * np.pi * (0.7 * (activity + 1) * time + subcarrier * rng.uniform(0.01, 0.03))
    antennas = [1 + 0.5 * np.cos(turn + rng.uniform(0, 6.3)) for _ in range(3)]
    return (np.array(antennas) + rng.uniform(0, 0.02, (3, 114, packets))).astype(np.float32)


@pytest.fixture(scope="module")
def paper_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of 3 x 114 x 2000 an activity, in a folder each, as a user supplies them; ingested."""
    root = tmp_path_factory.mktemp("sensing")
    for number, name in enumerate(ACTIVITIES):
        (root / "csi" / name).mkdir(parents=True)
        for recording in range(2):
            np.save(root / "csi" / name / f"{name}{recording}.npy", stand_in(number, recording, 2000))
    words = ["ingest", str(root / "csi"), "--kind", "csi", "--recipe", "csi-fm", "--sample_rate", "500"]
    assert main([*words, "--out", str(root / "data")]) == 0
    return root / "data"


def windows(recordings: list[tuple[int, int]], each: int = 3) -> Windows:
    """``each`` windows of recordings given as (class, domain)."""
    rows = [(code, domain, number) for number, (code, domain) in enumerate(recordings) for _ in range(each)]
    codes, domains, numbers = np.array(rows, np.int64).T
    names = [f"chip {number}" for number in range(int(domains.max()) + 1)]
    pictures, plain = torch.zeros(len(rows), 1, 4, 4), np.zeros((len(rows), 2), np.float32)
    return Windows(pictures, codes, domains, numbers, plain, ["still", "moving"], names)


def test_no_recording_and_no_left_out_domain_is_on_both_sides() -> None:
    given = windows([(code, chip) for chip in range(3) for code in (0, 1) for _ in range(2)])
    folds = make_folds(given)
    assert [fold.protocol for fold in folds] == ["recording"] * 2 + ["domain"] * 3
    for fold in folds:
        assert not set(given.recordings[fold.train]) & set(given.recordings[fold.test])
        assert set(given.codes[fold.train]) == set(given.codes[fold.test]) == {0, 1}
        assert len(fold.train) + len(fold.test) == len(given.codes)
        if fold.protocol == "domain":
            assert set(given.domains[fold.test]) == {given.domain_names.index(fold.left_out)}
            assert given.domain_names.index(fold.left_out) not in given.domains[fold.train]
        else:
            assert set(given.domains[fold.train]) == set(given.domains[fold.test])
    for protocol in ("recording", "domain"):
        tested = np.concatenate([fold.test for fold in folds if fold.protocol == protocol])
        assert sorted(tested) == list(range(len(given.codes)))


def test_one_recording_a_class_cannot_be_split() -> None:
    with pytest.raises(DatasetError, match="one recording of each class"):
        make_folds(windows([(0, 0), (1, 0)]))


def test_interval_treats_a_recording_as_one_draw() -> None:
    """Two recordings of 100 windows, one all right: the share is 0, 1/2 or 1 with weights 1/4, 1/2, 1/4."""
    recordings, right = np.repeat([0, 1], 100), np.repeat([True, False], 100)
    assert interval(recordings, right, rng_for(0, "test")) == (0.0, 1.0)
    alone = interval(np.arange(200), right, rng_for(0, "test"))
    # Normal approximation for 200 independent windows: 1.96 * sqrt(1/4 / 200) = 0.069; quantiles of 2,000 draws +-0.01.
    assert alone == pytest.approx((0.5 - 0.069, 0.5 + 0.069), abs=0.012)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    """200 sets of 20 recordings, each told with its own chance about 0.7; 95 % nominal, of 20 a little less."""
    covered = 0
    for draw in range(200):
        rng = rng_for(1, "coverage", draw)
        chance = np.clip(rng.normal(0.7, 0.15, 20), 0, 1)
        right = rng.random((20, 10)) < chance[:, None]
        low, high = interval(np.repeat(np.arange(20), 10), right.ravel(), rng)
        covered += low <= 0.698 <= high  # mean of the clipped normal
    assert 0.88 <= covered / 200 <= 0.99


def test_stand_in_of_the_papers_set_goes_from_folder_to_result(paper_like: Path, model: Path, tmp_path: Path) -> None:
    data = SpectrogramDataset(paper_like)
    assert data[0]["spectrogram"].shape == (3, 224, 224)
    assert data.label_names["class"] == list(ACTIVITIES)
    task = SensingTask("six", label="class", regimes=("frozen", "random"), training=QUICK)
    results = sensing_report(task, str(paper_like), str(tmp_path / "out"), str(model))
    assert json.loads((tmp_path / "out" / RESULTS).read_text(encoding="utf-8")) == results
    assert [row["regime"] for row in results["summary"]] == ["frozen", "random", "trivial"]
    assert {row["protocol"] for row in results["summary"]} == {"recording"}  # no chips: nothing to leave out
    assert all(row["windows"] == row["recordings"] == 12 for row in results["summary"])
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in results["summary"])
    assert {r["left_out"] for r in results["records"]} == {"fold 0", "fold 1"}


def test_the_activities_of_the_stand_in_can_be_told_at_all(paper_like: Path) -> None:
    """Rate of the ripple along time from the pictures themselves: the picture keeps what the activity did."""
    data = SpectrogramDataset(paper_like)
    batch = data.batch(np.arange(len(data)))
    ripple = batch["spectrogram"].numpy()[:, 0, 112]
    cycles = np.abs(np.fft.rfft(ripple - ripple.mean(1, keepdims=True), axis=1)).argmax(1)  # in four seconds
    expected = 4 * 0.7 * (data.labels["class"][:] + 1)
    assert np.abs(cycles - expected).max() <= 0.6


def test_recordings_are_split_by_recording_and_by_chip(shared: Path, tmp_path: Path) -> None:
    files = sorted((shared / "csi").glob("*_c3_*.npz")) + sorted((shared / "csi").glob("*_s3_*.npz"))
    words = ["ingest", *map(str, files), "--out", str(tmp_path / "data")]
    assert main(words) == 0
    found = load_windows(SpectrogramDataset(tmp_path / "data"), "activity", "chip")
    assert found.classes == ["baseline", "movement"]
    assert found.domain_names == ["c3", "s3"]
    assert len(np.unique(found.recordings)) == 8
    task = SensingTask("csi", regimes=("scratch",), training=QUICK, size="tiny")
    results = sensing_report(task, str(tmp_path / "data"), str(tmp_path / "out"))
    told = {(row["protocol"], row["regime"]): row["recordings"] for row in results["summary"]}
    assert told == {(p, r): 8 for p in ("recording", "domain") for r in ("scratch", "trivial")}


def test_settings_that_cannot_serve_are_refused(paper_like: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no label 'activity'"):
        sensing_report(SensingTask("x"), str(paper_like), str(tmp_path / "x"))
    with pytest.raises(ConfigError, match="one rate"):
        SensingTask("x", training=Training(rates=(1e-3, 1e-2)))
    with pytest.raises(ConfigError, match="--model"):
        task = SensingTask("x", label="class", regimes=("frozen",))
        sensing_report(task, str(paper_like), str(tmp_path / "x"))


def test_shipped_task_is_read() -> None:
    assert load_sensing_task("tasks/activity").name == "activity"
