"""Shards: what is written is read, mapped or not, and what is broken is refused."""

import errno
import pickle
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from lwm.data.manifest import Manifest
from lwm.data.shard import Sample, ShardReader, ShardWriter, main_emission
from lwm.errors import DatasetError, OutputError
from lwm.output import file_sha256
from lwm.signal.capture import Emission
from lwm.signal.recipe import PRESETS

SMALL = PRESETS["small"]


@pytest.fixture
def shard(folder: Path) -> ShardReader:
    entry = Manifest.load(folder).shards[0]
    return ShardReader(folder / entry.name, entry)


def test_mapped_reads_equal_h5py_reads(shard: ShardReader) -> None:
    assert shard.layout["spectrogram"][0] is not None
    rows = [2, 0, 2]
    with h5py.File(shard.path) as file:
        for name in ("spectrogram", "clean"):
            np.testing.assert_array_equal(shard.read(rows, name), file[name][:][rows].astype(np.float32))
    assert shard.read(rows).dtype == np.float32


def test_chunked_shard_is_read_through_h5py(shard: ShardReader, tmp_path: Path) -> None:
    path = tmp_path / "chunked.h5"
    with h5py.File(shard.path) as source, h5py.File(path, "w") as target:
        for name in source:
            if name != "spectrogram":
                source.copy(name, target)
        target.create_dataset("spectrogram", data=source["spectrogram"][:], chunks=(1, 1, 64, 64), compression="gzip")
        target.attrs.update(source.attrs)
    chunked = ShardReader(path, replace(shard.entry, bytes=path.stat().st_size))
    assert chunked.layout["spectrogram"][0] is None
    np.testing.assert_array_equal(chunked.read([2, 1, 1]), shard.read([2, 1, 1]))


def test_reader_is_picklable_without_its_mapping(shard: ShardReader) -> None:
    before = shard.read([1])
    packed = pickle.dumps(shard)
    assert len(packed) < before.nbytes
    np.testing.assert_array_equal(pickle.loads(packed).read([1]), before)


def test_entry_says_what_is_in_the_file(shard: ShardReader) -> None:
    with h5py.File(shard.path) as file:
        cells = file["spectrogram"][:].astype(np.float64)[
            np.broadcast_to(file["valid"][:].astype(bool)[:, None, None, :], file["spectrogram"].shape)
        ]
    assert shard.entry.cells == cells.size
    assert (shard.entry.mean, shard.entry.std) == pytest.approx((cells.mean(), cells.std()), rel=1e-12)
    assert shard.entry.sha256 == file_sha256(shard.path)
    assert shard.entry.bytes == shard.path.stat().st_size


def test_statistics_of_the_other_axis_order_mask_the_other_axis(tmp_path: Path) -> None:
    recipe = replace(SMALL, axes="time-frequency", size=(4, 6))
    picture = np.zeros((1, 6, 4), np.float32)
    picture[:, 3:] = 30.0
    writer = ShardWriter(tmp_path / "t.h5", 1, recipe, "all", "x", None, "unknown")
    writer.add(Sample(picture, np.arange(6) < 3))
    entry = writer.save()
    assert (entry.cells, entry.mean, entry.std) == (12, 0.0, 0.0)


def test_same_samples_give_the_same_bytes(tmp_path: Path, spectrograms: np.ndarray) -> None:
    hashes = set()
    for name in ("a", "b"):
        writer = ShardWriter(tmp_path / name / "x.h5", 3, SMALL, "all", "x", 1, "MIT")
        for picture in spectrograms[:3]:
            writer.add(Sample(picture, np.ones(64, bool), {"kind": "one"}, {"value": 2.0}, {"text": "é"}))
        hashes.add(writer.save().sha256)
    assert len(hashes) == 1


@pytest.mark.parametrize(("keep", "said"), [(0.5, "is truncated at"), (2.0, "has")])
def test_wrong_size_is_refused(folder: Path, keep: float, said: str) -> None:
    entry = Manifest.load(folder).shards[0]
    path = folder / entry.name
    content = path.read_bytes()
    path.write_bytes((content * 2)[: int(len(content) * keep)])
    with pytest.raises(DatasetError, match=f"{entry.name} {said}.*expected {entry.bytes}.*lwm doctor"):
        ShardReader(path, entry)


def test_shard_cut_in_the_middle_is_refused_even_when_its_manifest_agrees(folder: Path) -> None:
    entry = Manifest.load(folder).shards[0]
    path = folder / entry.name
    path.write_bytes(path.read_bytes()[: entry.bytes // 2])
    with pytest.raises(DatasetError, match="cannot be read.*lwm doctor"):
        ShardReader(path, replace(entry, bytes=entry.bytes // 2))


def test_missing_shard_and_wrong_count_are_refused(folder: Path) -> None:
    entry = Manifest.load(folder).shards[0]
    with pytest.raises(DatasetError, match="holds 3 samples; expected 9"):
        ShardReader(folder / entry.name, replace(entry, count=9))
    (folder / entry.name).unlink()
    with pytest.raises(DatasetError, match="is missing"):
        ShardReader(folder / entry.name, entry)


def test_writer_wants_the_announced_count(tmp_path: Path, spectrograms: np.ndarray) -> None:
    writer = ShardWriter(tmp_path / "x.h5", 2, SMALL, "all", "x", None, "MIT")
    writer.add(Sample(spectrograms[0], np.ones(64, bool)))
    with pytest.raises(DatasetError, match="got 1 samples; expected 2"):
        writer.save()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_nothing(tmp_path: Path, spectrograms: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as handle:
            handle.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    writer = ShardWriter(tmp_path / "x.h5", 1, SMALL, "all", "x", None, "MIT")
    writer.add(Sample(spectrograms[0], np.ones(64, bool)))
    with pytest.raises(OutputError, match=r"no space left to write .*x\.h5"):
        writer.save()
    assert list(tmp_path.iterdir()) == []


def test_main_emission_is_the_largest_with_a_modulation() -> None:
    large = Emission("a", stop=1.0, high=9.0)
    named = Emission("b", modulation="QPSK", stop=1.0, high=2.0)
    smaller = Emission("c", modulation="BPSK", stop=1.0, high=1.0)
    assert main_emission([smaller, large, named]) is named
    assert main_emission([Emission("d", stop=0.5, high=1.0), large]) is large
