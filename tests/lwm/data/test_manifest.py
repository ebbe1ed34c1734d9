"""The manifest: statistics that merge, and refusals that say what to do."""

import json
from pathlib import Path

import numpy as np
import pytest

from lwm.data.manifest import Manifest, ShardEntry, merge_statistics, ordered_labels
from lwm.errors import DatasetError


def test_merged_statistics_are_those_of_all_cells() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.normal(mean, 2, size) for mean, size in ((0, 10), (7, 300), (-4, 55))]
    entries = [
        ShardEntry("x", "train", "t", 1, 1, "", part.size, float(part.mean()), float(part.std())) for part in parts
    ]
    everything = np.concatenate(parts)
    assert merge_statistics(entries) == pytest.approx((everything.mean(), everything.std()), rel=1e-12)
    assert merge_statistics([]) is None


def test_training_statistics_are_the_train_splits_alone(folder: Path) -> None:
    manifest = Manifest.load(folder)
    train = [entry for entry in manifest.shards if entry.split == "train"]
    assert manifest.training_statistics() == merge_statistics(train) != merge_statistics(manifest.shards)
    assert set(manifest.statistics) == {"train", "test", "train/lte", "train/nr", "test/lte", "test/nr"}


def test_round_trip(folder: Path) -> None:
    manifest = Manifest.load(folder)
    manifest.save(folder)
    assert Manifest.load(folder) == manifest
    assert manifest.count == 20


def test_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no manifest.json.*lwm generate or lwm ingest"):
        Manifest.load(tmp_path)


def test_incomplete_data_set_says_how_to_go_on(folder: Path) -> None:
    manifest = Manifest.load(folder)
    manifest.complete = False
    manifest.save(folder)
    with pytest.raises(DatasetError, match="is not complete.*--resume"):
        Manifest.load(folder)
    assert Manifest.load(folder, incomplete=True).count == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain: plain.update(format_version=99), "has format version 99; expected 2"),
        (lambda plain: plain.pop("seed"), "misses or misspells a field .*seed"),
        (lambda plain: plain["shards"][0].pop("sha256"), "misses or misspells a field .*sha256"),
    ],
)
def test_damaged_manifest(folder: Path, change: object, message: str) -> None:
    path = folder / "manifest.json"
    plain = json.loads(path.read_text())
    change(plain)  # type: ignore[operator]
    path.write_text(json.dumps(plain))
    with pytest.raises(DatasetError, match=message):
        Manifest.load(folder)


def test_cut_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(DatasetError, match="is not readable"):
        Manifest.load(folder)


def test_labels_are_ordered_as_given_then_by_number_or_name() -> None:
    found = {"snr": {"10", "-5", "0"}, "kind": {"b", "a"}, "mobility": {"vehicular", "static", "other"}}
    order = {"mobility": ["static", "pedestrian", "vehicular"]}
    assert ordered_labels(found, order) == {
        "kind": ["a", "b"],
        "mobility": ["static", "vehicular", "other"],
        "snr": ["-5", "0", "10"],
    }
