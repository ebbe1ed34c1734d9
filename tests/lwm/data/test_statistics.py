"""Statistics gathered while writing are those that numpy finds in the whole data set."""

from pathlib import Path

import numpy as np
import pytest

from lwm.data.dataset import SpectrogramDataset
from lwm.data.manifest import Manifest
from lwm.data.shard import write_dataset
from lwm.data.statistics import BINS, PERCENTILES, percentiles
from lwm.data.storage import Storage
from lwm.signal.recipe import PRESETS, Recipe

SMALL: Recipe = PRESETS["small"]


@pytest.mark.parametrize("storage", [Storage(), Storage("uint8"), Storage(compression="zstd")])
def test_of_the_whole_data_set(tmp_path: Path, storage: Storage) -> None:
    rng = np.random.default_rng(4)
    level = rng.normal(-30, 3, (90, 1, 1, 1)) + np.where(rng.random((90, 1, 64, 64)) < 0.3, 25, 0)
    pictures = (level + rng.normal(0, 4, (90, 1, 64, 64))).clip(-40, 40).astype(np.float32)
    valid = np.ones((90, 64), bool)
    valid[::4, 40:] = False
    labels = {"technology": ["lte", "nr", "nr"] * 30, "channel": [str(i) for i in range(90)] * 1}
    split = ["train" if i % 5 else "test" for i in range(90)]
    write_dataset(tmp_path, pictures, SMALL, labels, split=split, valid=valid, samples_per_shard=7, storage=storage)
    manifest = Manifest.load(tmp_path)
    step = (SMALL.ceiling_db - SMALL.floor_db) / BINS + storage.largest_error(SMALL)
    for name in ("train", "test"):
        chosen = np.array([part == name for part in split])
        cells = np.moveaxis(pictures[chosen].astype(np.float64), -1, 1)[valid[chosen]].ravel()
        read = SpectrogramDataset(tmp_path, name).batch(np.arange(chosen.sum()))
        stored = np.moveaxis(read["spectrogram"].numpy().astype(np.float64), -1, 1)[read["valid"].numpy()].ravel()
        # Exact for what is stored; what is stored differs by the storage's error.
        assert manifest.statistics[name] == pytest.approx((stored.mean(), stored.std()), rel=1e-6)
        assert manifest.statistics[name].mean == pytest.approx(cells.mean(), abs=storage.largest_error(SMALL))
        wanted = np.percentile(cells, PERCENTILES)
        assert list(manifest.percentiles[name]) == [str(percent) for percent in PERCENTILES]
        np.testing.assert_allclose(list(manifest.percentiles[name].values()), wanted, atol=step)
        lte = sum(
            part == name and technology == "lte" for part, technology in zip(split, labels["technology"], strict=True)
        )
        assert manifest.counts[name]["technology"] == {"lte": lte, "nr": int(chosen.sum()) - lte}


def test_labels_that_name_single_things_are_not_counted(tmp_path: Path) -> None:
    recipe = Recipe(**{**SMALL.to_dict(), "size": (2, 2)})
    labels = {"channel": [str(i) for i in range(101)], "hundred": [str(i % 100) for i in range(101)]}
    write_dataset(tmp_path, np.zeros((101, 1, 2, 2), np.float32), recipe, labels)
    assert list(Manifest.load(tmp_path).counts["train"]) == ["hundred"]


def test_percentiles_of_a_histogram_by_hand() -> None:
    histogram = np.zeros(BINS, np.int64)
    histogram[0], histogram[-1] = 50, 50
    found = percentiles(histogram, 0.0, float(BINS))
    assert found["25"] == pytest.approx(0.5)
    assert found["50"] == pytest.approx(1.0)
    assert found["75"] == pytest.approx(BINS - 0.5)
    assert percentiles(np.zeros(BINS, np.int64), 0.0, 1.0) == {}


def test_ten_thousand_shards_stay_readable(tmp_path: Path) -> None:
    write_dataset(tmp_path, np.zeros((30, 1, 64, 64), np.float32), SMALL, {"kind": ["a"] * 30}, samples_per_shard=1)
    lines = (tmp_path / "manifest.json").read_text().splitlines()
    rows = [line for line in lines if '"sha256"' in line]
    assert len(rows) == 30, "a line for each shard"
    assert lines.index(rows[0]) + 30 + 2 == len(lines), "and nothing behind them"
    assert max(map(len, rows)) < 400
