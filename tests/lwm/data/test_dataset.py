"""The data set: samples, selections, batches, workers."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lwm.data.dataset import SpectrogramDataset
from lwm.data.manifest import Manifest
from lwm.data.reader import ShardReader
from lwm.data.shard import write_dataset
from lwm.data.storage import Storage
from lwm.errors import DatasetError, RecipeMismatch
from lwm.signal.recipe import PRESETS


def _numbers(dataset: SpectrogramDataset) -> list[int]:
    """Which of the 20 pictures a data set's samples are."""
    return [dataset.record(i)["number"] for i in range(len(dataset))]


def test_samples_are_what_was_written(folder: Path, spectrograms: np.ndarray, labels: dict[str, list[str]]) -> None:
    dataset = SpectrogramDataset(folder)
    assert dataset.has_clean
    assert sorted(_numbers(dataset)) == list(range(20))
    for i, number in enumerate(_numbers(dataset)):
        sample = dataset[i]
        assert sample["spectrogram"].dtype == torch.float32
        assert sample["valid"].dtype == torch.bool
        np.testing.assert_array_equal(sample["spectrogram"].numpy(), spectrograms[number])
        np.testing.assert_array_equal(sample["clean"].numpy(), -spectrograms[number])
        assert int(sample["valid"].sum()) == (48 if number % 3 == 0 else 64)
        assert sample["index"] == i
        assert dataset.values["snr_db"][i] == float(labels["snr"][number])
        for label, names in labels.items():
            assert dataset.label_names[label][sample[label]] == names[number]
            assert dataset.labels[label][i] == sample[label]


def test_split_and_where_select(folder: Path, labels: dict[str, list[str]]) -> None:
    chosen = SpectrogramDataset(folder, "train", 'technology == "nr" and snr == 5')
    expected = [i for i in range(14) if labels["technology"][i] == "nr" and labels["snr"][i] == "5"]
    assert sorted(_numbers(chosen)) == expected
    assert chosen.label_names == SpectrogramDataset(folder).label_names
    assert chosen.statistics == Manifest.load(folder).training_statistics()
    assert chosen[0]["technology"] == 1


def test_batches_equal_single_samples_in_any_order(folder: Path) -> None:
    dataset = SpectrogramDataset(folder)
    order = [17, 3, 3, 0, 19]
    batch = dataset.batch(order)
    for place, index in enumerate(order):
        for key, value in dataset[index].items():
            assert torch.equal(batch[key][place], torch.as_tensor(value)), key
    assert torch.equal(dataset[-1]["spectrogram"], dataset[19]["spectrogram"])
    with pytest.raises(IndexError):
        dataset[20]


def test_loader_with_workers_reads_the_same(folder: Path) -> None:
    dataset = SpectrogramDataset(folder)
    dataset[0]
    here = torch.cat([batch["spectrogram"] for batch in DataLoader(dataset, batch_size=7)])
    there = torch.cat([batch["spectrogram"] for batch in DataLoader(dataset, batch_size=7, num_workers=2)])
    assert torch.equal(here, there)


def test_picklable_after_use(folder: Path) -> None:
    dataset = SpectrogramDataset(folder)
    dataset.batch(range(20))
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[5]["spectrogram"], dataset[5]["spectrogram"])
    assert copy.record(5) == dataset.record(5)


@pytest.mark.parametrize(
    ("split", "where", "message"),
    [
        ("validation", None, r"no split 'validation'; expected one of \['test', 'train'\]"),
        (None, 'link == "x"', r"names 'link', which is no label or value; expected labels \['snr', 'technology'\]"),
        (None, 'technology == "wifi"', r"for \['wifi'\].*expected some of \['lte', 'nr'\]"),
        ("train", 'technology == "nr" and snr < 0', "nothing in .* fulfils"),
    ],
)
def test_impossible_selections_are_refused(folder: Path, split: str, where: str | None, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        SpectrogramDataset(folder, split, where)


@pytest.mark.parametrize(
    "storage", [Storage("uint8"), Storage("float16", "zstd", chunk=8), Storage("uint8", "blosc", chunk=8)]
)
def test_every_storage_reads_what_its_shards_hold(tmp_path: Path, spectrograms: np.ndarray, storage: Storage) -> None:
    small = PRESETS["small"]
    manifest = write_dataset(tmp_path, spectrograms, small, {"technology": ["a"] * 20}, storage=storage)
    shard = ShardReader(tmp_path / manifest.shards[0].name, manifest.shards[0])
    order = np.array([19, 3, 4, 5, 0, 19, 7])
    dataset = SpectrogramDataset(tmp_path)
    found = dataset.batch(order)["spectrogram"].numpy()
    np.testing.assert_allclose(found, shard.read(order), atol=1e-5)
    assert np.abs(found - spectrograms[order]).max() <= storage.largest_error(small) + 1e-5
    half = dataset.batch(order, torch.float16)["spectrogram"]
    assert half.dtype == torch.float16
    np.testing.assert_allclose(half.numpy(), found, atol=0.016)  # half a step of half precision below 40 dB


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_held_batch_is_never_written_over(folder: Path, dtype: torch.dtype) -> None:
    """Whatever holds it: a picture of it, a numpy view, a flattened view."""
    dataset = SpectrogramDataset(folder)
    holds = (lambda x: x[1], lambda x: x.numpy()[1], lambda x: x.flatten(1)[1], lambda x: x.detach().unbind()[1])
    held = [holds[i % 4](dataset.batch([i, i + 1], dtype)["spectrogram"]) for i in range(19)]
    for i, picture in enumerate(held):
        expected = dataset[i + 1]["spectrogram"]
        assert torch.equal(torch.as_tensor(picture).float().flatten(), expected.flatten())


def test_memory_of_a_batch_that_nobody_holds_is_used_again(folder: Path) -> None:
    dataset = SpectrogramDataset(folder)
    places = {dataset.batch([0, 1, 2], torch.float16)["spectrogram"].data_ptr() for _ in range(20)}
    assert len(places) <= 6


def test_a_shard_is_checked_when_it_is_first_touched(folder: Path) -> None:
    SpectrogramDataset(folder)  # the index is there
    shard = folder / Manifest.load(folder).shards[0].name
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    dataset = SpectrogramDataset(folder)
    with pytest.raises(DatasetError, match=f"{shard.name} is truncated at"):
        dataset.batch(range(20))
    shard.unlink()
    with pytest.raises(DatasetError, match=f"{shard.name} is missing"):
        SpectrogramDataset(folder).batch(range(20))


def test_missing_labels_and_values_are_marked(tmp_path: Path, spectrograms: np.ndarray) -> None:
    small = PRESETS["small"]
    first = write_dataset(tmp_path, spectrograms[:2], small, {"technology": ["a", "a"], "class": ["x", "y"]})
    second = write_dataset(tmp_path, spectrograms[2:4], small, {"technology": ["b", "b"]}, values={"level": [1.0, 2.0]})
    second.shards = first.shards + second.shards
    second.labels = {"class": ["x", "y"], "technology": ["a", "b"]}
    second.save(tmp_path)
    dataset = SpectrogramDataset(tmp_path)
    assert dataset.labels["class"].tolist() == [0, 1, -1, -1]
    np.testing.assert_array_equal(dataset.values["level"], np.float32([np.nan, np.nan, 1.0, 2.0]))


def test_shard_of_another_recipe_is_refused(folder: Path) -> None:
    manifest = Manifest.load(folder)
    manifest.recipe["hop"] = 128
    manifest.save(folder)
    with pytest.raises(RecipeMismatch, match="hop 128 against 256"):
        SpectrogramDataset(folder)


@pytest.mark.parametrize("name", ["spectrogram", "clean", "valid", "index"])
def test_labels_do_not_take_the_place_of_pictures(tmp_path: Path, spectrograms: np.ndarray, name: str) -> None:
    with pytest.raises(DatasetError, match=rf"sample 0 of .*has labels called \['{name}'\]; expected none of"):
        write_dataset(tmp_path / "set", spectrograms, PRESETS["small"], {name: ["a", "b"] * 10})
    write_dataset(tmp_path / "set", spectrograms, PRESETS["small"], {"kind": ["a", "b"] * 10})
    manifest = Manifest.load(tmp_path / "set")
    manifest.labels[name] = manifest.labels.pop("kind")
    manifest.save(tmp_path / "set")
    with pytest.raises(DatasetError, match="has labels called"):
        SpectrogramDataset(tmp_path / "set")
