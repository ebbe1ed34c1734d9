"""The shortcut audit: a planted shortcut is marked, a clean label is not."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lwm.data.audit import audit, bar
from lwm.data.manifest import Manifest
from lwm.data.shard import write_dataset
from lwm.data.trivial import FAMILIES, trivial_features
from lwm.signal.recipe import PRESETS

SMALL = PRESETS["small"]


def planted(root: Path, count: int, splits: bool, records: list[dict] | None = None) -> Manifest:
    """``snr`` is the level of the band's edges, ``mark`` a pattern of constant level, ``clean`` nothing at all."""
    rng = np.random.default_rng(11)
    snr, mark, clean = (rng.integers(0, classes, count) for classes in (4, 2, 3))
    pictures = rng.normal(0, 3, (count, 1, 64, 64)).astype(np.float32)
    pictures[:, :, :8] -= 5.0 * snr[:, None, None, None]
    pictures[:, :, -8:] -= 5.0 * snr[:, None, None, None]
    rows = 20 + 10 * mark
    pictures[np.arange(count), 0, rows] += 12.0
    labels = {
        "snr": [str(5 * n) for n in snr],
        "mark": [str(n) for n in mark],
        "plain": [str(n) for n in clean],
        "number": [str(n) for n in range(count)],
        "same": ["x"] * count,
    }
    split = ["train" if i % 4 else "test" for i in range(count)] if splits else "all"
    write_dataset(root, pictures.clip(-40, 40), SMALL, labels, split=split, records=records)
    return Manifest.load(root)


@pytest.mark.parametrize("splits", [True, False])
def test_planted_shortcut_is_marked_and_nothing_else(tmp_path: Path, splits: bool) -> None:
    found = audit(tmp_path, planted(tmp_path, 480, splits))
    assert set(found) == {"snr", "mark", "plain"}
    assert found["snr"]["marked"]
    assert found["snr"]["best"] in set(FAMILIES) - {"level"}, "the mean level is that of the middle"
    assert found["snr"]["balanced"] > 0.95
    for label, classes in (("mark", 2), ("plain", 3)):
        assert not found[label]["marked"]
        assert found[label]["chance"] == pytest.approx(1 / classes)
        # Four standard deviations of the share that guessing gets right.
        spread = 4 * np.sqrt((1 - 1 / classes) / classes / found[label]["scored"])
        assert abs(found[label]["balanced"] - 1 / classes) < spread
    assert found["plain"]["scored"] == (120 if splits else 480)
    assert found["plain"]["majority"] < 0.5


def test_a_recording_is_not_learnt_by_heart(tmp_path: Path) -> None:
    """Each of 24 recordings has its own level and one class: inside a recording the class would seem to be known."""
    rng = np.random.default_rng(5)
    levels, classes = rng.normal(0, 6, 24), rng.integers(0, 2, 24)
    of = np.repeat(np.arange(24), 20)
    pictures = (levels[of][:, None, None, None] + rng.normal(0, 1, (480, 1, 64, 64))).clip(-40, 40).astype(np.float32)
    labels = {"kind": [str(n) for n in classes[of]]}
    write_dataset(tmp_path / "a", pictures, SMALL, labels, split="all", records=[{"source": f"{n}.bin"} for n in of])
    apart = audit(tmp_path / "a", Manifest.load(tmp_path / "a"))["kind"]
    assert not apart["marked"]
    write_dataset(tmp_path / "b", pictures, SMALL, labels, split="all", records=[{} for _ in of])
    mixed = audit(tmp_path / "b", Manifest.load(tmp_path / "b"))["kind"]
    assert mixed["balanced"] > apart["balanced"] + 0.1


def test_too_little_is_not_judged(tmp_path: Path) -> None:
    assert audit(tmp_path, planted(tmp_path, 100, True)) == {}, "25 samples to score"
    one = [{"source": "one.bin"}] * 100
    assert audit(tmp_path / "one", planted(tmp_path / "one", 100, False, one)) == {}, "one recording"
    assert audit(tmp_path, Manifest(SMALL.to_dict(), {}, None, "MIT")) == {}


def test_four_thousand_samples_take_seconds(tmp_path: Path) -> None:
    manifest = planted(tmp_path, 4000, False)
    started = time.process_time()
    found = audit(tmp_path, manifest)
    assert time.process_time() - started < 15, "under 5 s on an idle core"
    assert found["snr"]["train"] == 4000


def test_bar_is_halfway_from_chance_to_one() -> None:
    assert bar(2) == 0.75
    assert bar(5) == pytest.approx(0.6)


def test_features_by_hand() -> None:
    picture = torch.full((2, 1, 64, 64), -40.0)
    picture[0, 0, :4] = 0.0
    picture[1, 0, 30:34, :32] = 20.0
    picture[1, 0, :, 32:] = 7.0  # padding
    valid = torch.ones(2, 64, dtype=torch.bool)
    valid[1, 32:] = False
    found = trivial_features(picture, valid, SMALL)
    assert found[:, FAMILIES["guard band"]].ravel().tolist() == [-20.0, -40.0]
    assert found[:, FAMILIES["occupied bandwidth"]].ravel() == pytest.approx([4 / 64, 4 / 64])
    level = 10 * np.log10((100 * 4 + 1e-4 * 60) / 64)
    assert found[1, FAMILIES["level"]][0] == pytest.approx(level, abs=1e-3)
    assert found[0, FAMILIES["histogram"]].tolist() == [60 / 64, 0, 0, 0, 0, 4 / 64, 0, 0, 0, 0]
