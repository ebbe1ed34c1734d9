"""Storage: what is read back is what was written, to within the error that each way of storing states."""

import h5py
import numpy as np
import pytest

from lwm.data.manifest import Manifest, ShardEntry
from lwm.data.shard import Sample, ShardReader, ShardWriter, write_dataset
from lwm.data.storage import Storage
from lwm.errors import ConfigError, DatasetError
from lwm.signal.recipe import PRESETS

SMALL = PRESETS["small"]
VALID = np.ones(64, bool)
WAYS = [
    Storage(dtype, compression, chunk=3) for dtype in ("float16", "uint8") for compression in (None, "zstd", "blosc")
]


@pytest.mark.parametrize("storage", WAYS, ids=lambda s: f"{s.dtype}-{s.compression}")
def test_pictures_come_back_within_the_stated_error(storage: Storage, tmp_path, spectrograms: np.ndarray) -> None:
    exact = spectrograms + np.random.default_rng(1).uniform(-0.5, 0.5, spectrograms.shape).astype(np.float32)
    exact[0, 0, 0, :2] = SMALL.floor_db, SMALL.ceiling_db
    manifest = write_dataset(tmp_path, exact, SMALL, {}, clean=-exact, storage=storage)
    assert Manifest.load(tmp_path).storage == storage.to_dict()
    shard = ShardReader(tmp_path / manifest.shards[0].name, manifest.shards[0])
    assert (shard.layout["spectrogram"].offset is None) == (storage.compression is not None)
    stated = storage.largest_error(SMALL)
    assert stated == pytest.approx({"float16": 2**-6, "uint8": 80 / 510}[storage.dtype])
    rows = [7, 0, -1, 7, 12]
    for name, wanted in (("spectrogram", exact), ("clean", -exact)):
        found = shard.read(rows, name)
        assert found.dtype == np.float32
        error = np.abs(found - wanted[rows])
        assert error.max() <= stated * (1 + 1e-4)
        assert error.max() > stated / 2, "the stated error is not larger than it need be"
    np.testing.assert_allclose(shard.read([0])[0, 0, 0, :2], [SMALL.floor_db, SMALL.ceiling_db], atol=1e-5)


def test_uint8_clips_and_is_half_as_large(tmp_path, spectrograms: np.ndarray) -> None:
    loud = spectrograms.copy()
    loud[3] = 1000.0
    entries = {}
    for dtype in ("float16", "uint8"):
        entries[dtype] = write_dataset(
            tmp_path / dtype, loud.clip(-900, 900), SMALL, {}, storage=Storage(dtype)
        ).shards[0]
    shard = ShardReader(tmp_path / "uint8" / entries["uint8"].name, entries["uint8"])
    assert shard.read([3]).max() == shard.read([3]).min() == pytest.approx(SMALL.ceiling_db, abs=1e-5)
    assert entries["float16"].bytes - entries["uint8"].bytes == pytest.approx(loud.size, rel=0.05)


def test_a_chunk_is_decompressed_once(tmp_path, spectrograms: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = write_dataset(tmp_path, spectrograms, SMALL, {}, storage=Storage(compression="zstd", chunk=4)).shards[0]
    shard = ShardReader(tmp_path / entry.name, entry)
    read, asked = h5py.Dataset.__getitem__, []

    def listening(self: h5py.Dataset, args: object, **more: object) -> object:
        asked.append(args)
        return read(self, args, **more)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", listening)
    np.testing.assert_array_equal(shard.read([5, 4, 19, 7]), spectrograms[[5, 4, 19, 7]])
    assert asked == [slice(4, 8), slice(16, 20)]


def _write(tmp_path, samples: list[Sample], storage: Storage | None = None) -> ShardReader:
    writer = ShardWriter(tmp_path / "x.h5", len(samples), SMALL, "all", "x", None, "MIT", storage)
    for sample in samples:
        writer.add(sample)
    entry: ShardEntry = writer.save()
    return ShardReader(tmp_path / "x.h5", entry)


@pytest.mark.parametrize("compression", [None, "blosc"])
def test_masks_boxes_and_iq_come_back(compression: str | None, tmp_path, spectrograms: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    masks = rng.integers(0, 4, (3, 64, 64)).astype(np.uint8)
    boxes = [np.array([[0, 1e-3, -1e5, 1e5], [1e-3, 2e-3, 0, 5e5]]), np.zeros((0, 4)), np.array([[0, 4e-3, -1, 1]])]
    names = [["nr", "lte"], [], ["nr"]]
    streams = [(rng.normal(size=n) + 1j * rng.normal(size=n)).astype(np.complex64) for n in (50, 70, 60)]
    samples = [
        Sample(spectrograms[i], VALID, mask=masks[i], boxes=boxes[i], box_labels=names[i], iq=streams[i])
        for i in range(3)
    ]
    shard = _write(tmp_path, samples, Storage(compression=compression, iq=True, iq_dtype="float32", chunk=2))
    np.testing.assert_array_equal(shard.read_stored([2, 0], "mask"), masks[[2, 0]])
    for row in range(3):
        np.testing.assert_array_equal(shard.read_iq(row), streams[row])
    found = shard.read_boxes()
    assert found.offset.tolist() == [0, 2, 2, 3]
    np.testing.assert_array_equal(found.places, np.concatenate(boxes).astype(np.float32))
    assert [found.names[code] for code in found.codes] == ["nr", "lte", "nr"]


def test_half_precision_iq_keeps_eleven_bits_and_refuses_more(tmp_path, spectrograms: np.ndarray) -> None:
    iq = (np.random.default_rng(5).normal(size=200) + 1j).astype(np.complex64)
    shard = _write(tmp_path, [Sample(spectrograms[0], VALID, iq=iq)], Storage(iq=True))
    np.testing.assert_allclose(shard.read_iq(0).real, iq.real, rtol=2**-11, atol=2**-25)
    with pytest.raises(DatasetError, match="IQ beyond float16.*float32"):
        _write(tmp_path, [Sample(spectrograms[0], VALID, iq=iq * 1e5)], Storage(iq=True))
    with pytest.raises(DatasetError, match="has no IQ"):
        _write(tmp_path, [Sample(spectrograms[0], VALID)], Storage(iq=True))
    with pytest.raises(DatasetError, match="holds no IQ.*iq: true"):
        _write(tmp_path, [Sample(spectrograms[0], VALID, iq=iq)]).read_iq(0)


def test_no_box_at_all_and_boxes_of_one_kind(tmp_path, spectrograms: np.ndarray) -> None:
    shard = _write(tmp_path, [Sample(spectrograms[0], VALID, boxes=np.zeros((0, 4)))])
    assert shard.read_boxes().places.shape == (0, 4)
    shard = _write(tmp_path, [Sample(spectrograms[0], VALID, boxes=np.ones((2, 4)))])
    assert shard.read_boxes().names == ["signal"]
    shard = _write(tmp_path, [Sample(spectrograms[0], VALID)])
    assert not shard.has_boxes
    with pytest.raises(DatasetError, match="holds no boxes"):
        shard.read_boxes()


def test_samples_that_do_not_go_together_are_refused(tmp_path, spectrograms: np.ndarray) -> None:
    picture = spectrograms[0]
    plain, clean = Sample(picture, VALID), Sample(picture, VALID, clean=picture)
    for pair in ([plain, clean], [clean, plain]):
        with pytest.raises(DatasetError, match=r"sample 1 of x.h5 has \["):
            _write(tmp_path, pair)
    for broken in (np.nan, np.inf):
        spoilt = picture.copy()
        spoilt[0, 5, 5] = broken
        with pytest.raises(DatasetError, match="sample 0 of x.h5 holds NaN or infinity in its spectrogram"):
            _write(tmp_path, [Sample(spoilt, VALID)])
    with pytest.raises(DatasetError, match="has 1 box labels"):
        _write(tmp_path, [Sample(picture, VALID, boxes=np.ones((2, 4)), box_labels=["nr"])])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"dtype": "float64"}, {"compression": "gzip"}, {"chunk": 0}, {"iq_dtype": "int8"}])
def test_unknown_storage_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="expected dtype float16 or uint8"):
        Storage(**wrong)
