"""The index: what it holds, when it is made again, and how fast a million samples open."""

import json
import os
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from lwm.data import index as index_module
from lwm.data.dataset import SpectrogramDataset
from lwm.data.index import FILE_NAME, index_key, load_index, write_index
from lwm.data.manifest import Manifest, ShardEntry
from lwm.data.reader import ShardReader
from lwm.signal.recipe import PRESETS


def test_index_holds_what_the_shards_hold(folder: Path) -> None:
    manifest = Manifest.load(folder)
    write_index(folder, manifest)
    index = load_index(folder, manifest)
    for number, entry in enumerate(manifest.shards):
        shard = ShardReader(folder / entry.name, entry)
        rows = np.arange(index.starts[number], index.starts[number + 1])
        assert len(rows) == shard.count
        np.testing.assert_array_equal(index.valid_columns(rows), shard.valid)
        np.testing.assert_array_equal(index.values["snr_db"][rows], shard.values["snr_db"])
        for label, (codes, names) in shard.labels.items():
            here = [manifest.labels[label][code] for code in index.labels[label][rows]]
            assert here == [names[code] for code in codes]
        for name, layout in shard.layout.items():
            assert index.places[name][number]["offset"] == layout.offset
            assert index.shapes[name] == layout.shape[1:]
        shards, inside = index.locate(rows)
        assert (shards == number).all()
        np.testing.assert_array_equal(inside, np.arange(shard.count))


def test_opening_with_an_index_opens_no_shard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SpectrogramDataset(folder)

    def refuse(*_: object) -> None:
        raise AssertionError("a shard was opened")

    monkeypatch.setattr(index_module, "ShardReader", refuse)
    assert len(SpectrogramDataset(folder, "train")) == 14


@pytest.mark.parametrize("damage", ["stale", "cut", "missing"])
def test_unusable_index_is_made_again(folder: Path, damage: str) -> None:
    whole = SpectrogramDataset(folder).labels["snr"].tolist()
    path = folder / FILE_NAME
    before = path.read_bytes()
    if damage == "stale":
        with h5py.File(path, "a") as file:
            file.attrs["key"] = "that of another manifest"
            file["labels/snr"][:] = 0
    elif damage == "cut":
        path.write_bytes(before[: len(before) // 2])
    else:
        path.unlink()
    assert SpectrogramDataset(folder).labels["snr"].tolist() == whole
    with h5py.File(path) as file:
        assert file.attrs["key"] == index_key(Manifest.load(folder))


def test_key_follows_shards_labels_and_recipe(folder: Path) -> None:
    manifest = Manifest.load(folder)
    keys = {index_key(manifest)}
    manifest.labels["snr"] = manifest.labels["snr"][::-1]
    keys.add(index_key(manifest))
    manifest.recipe["hop"] = 1
    keys.add(index_key(manifest))
    manifest.shards.pop()
    keys.add(index_key(manifest))
    assert len(keys) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_data_set_opens(folder: Path) -> None:
    folder.chmod(0o555)
    try:
        assert len(SpectrogramDataset(folder)) == 20
    finally:
        folder.chmod(0o755)


def test_a_million_samples_open_in_a_second_without_their_shards(tmp_path: Path) -> None:
    shards, each = 4000, 250
    manifest = Manifest(PRESETS["small"].to_dict(), {"kind": "made up"}, 0, "none")
    manifest.labels = {f"label{i}": [str(j) for j in range(10)] for i in range(10)}
    manifest.shards = [
        ShardEntry(f"a-{split}-{i:05d}.h5", split, "a", each, 1, "0" * 64, 1, 0, 1)
        for i, split in enumerate(["train", "test"] * (shards // 2))
    ]
    manifest.complete = True
    manifest.save(tmp_path)
    count = shards * each
    codes = np.arange(count)
    with h5py.File(tmp_path / FILE_NAME, "w") as file:
        file.attrs["key"] = index_key(manifest)
        for i, label in enumerate(manifest.labels):
            file[f"labels/{label}"] = (codes // (i + 1) % 10).astype(np.int16)
        for i in range(8):
            file[f"values/value{i}"] = codes.astype(np.float32)
        file["valid"] = np.full((count, 8), 255, np.uint8)
        file["valid"].attrs["columns"] = 64
        place = np.zeros(shards, index_module._PLACE)
        place["offset"], place["dtype"], place["scale"], place["chunk"] = 2048, b"<f2", 1, 1
        file["layout/spectrogram"] = place
        file["layout/spectrogram"].attrs["shape"] = (1, 64, 64)
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        dataset = SpectrogramDataset(tmp_path, "train", "label0 >= 3 and value1 < 900000")
        taken.append(time.perf_counter() - start)
    assert min(taken) < 1.0, json.dumps(taken)
    first, second = 0, 3 * each
    inside = np.concatenate([np.arange(s * each, (s + 1) * each) for s in range(0, shards, 2)])
    expected = inside[(inside % 10 >= 3) & (inside < 900_000)]
    assert len(dataset) == len(expected)
    np.testing.assert_array_equal(dataset.values["value0"][first:second], expected[first:second])
