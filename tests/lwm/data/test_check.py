"""What doctor finds, one broken data set at a time; and what inspect says about a whole one."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lwm.data.check import check_dataset
from lwm.data.finish import finish_dataset
from lwm.data.generation import generate
from lwm.data.inspection import describe_dataset
from lwm.data.ledger import origins
from lwm.data.manifest import Manifest, ShardEntry
from lwm.data.shard import Sample, ShardReader, ShardWriter, write_dataset
from lwm.data.storage import Storage
from lwm.data.synthesis import content_hash
from lwm.errors import DatasetError
from lwm.output import file_sha256
from lwm.seeding import rng_for
from lwm.signal.recipe import PRESETS


def _change(folder: Path, change: Callable[[h5py.File], Any]) -> str:
    """Change the first shard's content and let the manifest agree; returns its name."""
    manifest = Manifest.load(folder)
    entry = manifest.shards[0]
    path = folder / entry.name
    with h5py.File(path, "r+") as file:
        change(file)
    manifest.shards[0] = replace(entry, bytes=path.stat().st_size, sha256=file_sha256(path))
    manifest.save(folder)
    return entry.name


def test_whole_data_set_has_no_problem(folder: Path) -> None:
    assert check_dataset(folder) == []


def test_flipped_byte_is_found(folder: Path) -> None:
    path = folder / Manifest.load(folder).shards[2].name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    (problem,) = check_dataset(folder)
    assert str(path) in problem
    assert "SHA-256 differs" in problem
    assert "make the data set again" in problem


def _set(name: str, value: float) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        array = file[name][:]
        array.flat[0] = value
        file[name][...] = array

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("spectrogram", np.nan), "spectrogram holds NaN or infinity in 1 samples"),
        (_set("clean", np.inf), "clean holds NaN or infinity in 1 samples"),
        (_set("spectrogram", 55.0), "to 55, expected -40 to 40"),
        (lambda file: file["spectrogram"].write_direct(file["spectrogram"][:] / 2), "mean and standard deviation"),
        (_set("labels/snr", 99), "label snr has 3 codes"),
        (lambda file: file["record"].__setitem__(0, "{"), "records cannot be read"),
        (_set("level_histogram", 7), "level histogram are not those of the pictures"),
        (lambda file: file["record"].__setitem__(0, "[]"), "record 0 is no JSON object"),
        (
            lambda file: file["spectrogram"].__setitem__(0, file["spectrogram"][1]),
            "[0], {name}[1] are the same picture",
        ),
    ],
)
def test_wrong_content_is_found(folder: Path, change: Callable[[h5py.File], None], message: str) -> None:
    name = _change(folder, change)
    problems = check_dataset(folder)
    assert any(message.format(name=name) in problem and name in problem for problem in problems), problems


def test_wrong_files_are_found(folder: Path) -> None:
    manifest = Manifest.load(folder)
    (folder / manifest.shards[0].name).unlink()
    cut = folder / manifest.shards[1].name
    cut.write_bytes(cut.read_bytes()[:1000])
    (folder / "stray.h5").write_bytes(b"")
    (folder / ".x.h5.7.partial").write_bytes(b"")
    (folder / ".gitattributes").write_text("*.h5 filter=lfs")
    problems = check_dataset(folder)
    assert len(problems) == 4
    text = "\n".join(problems)
    assert f"{manifest.shards[0].name} is missing" in text
    assert f"{cut} is truncated at 1000 bytes" in text
    assert "stray.h5 is not in the manifest; delete it or move it elsewhere" in text
    assert ".x.h5.7.partial was left by an interrupted run; delete it" in text


def test_index_that_is_not_of_the_data_set_is_found(folder: Path) -> None:
    path = folder / "index.hdf5"
    good = path.read_bytes()
    with h5py.File(path, "r+") as file:
        file["labels/snr"][0] = 3 - file["labels/snr"][0]
    (problem,) = check_dataset(folder)
    assert "index.hdf5 is not what shard" in problem
    assert path.read_bytes() != good, "doctor mends nothing"
    path.write_bytes(good[:500])
    assert "index.hdf5 cannot be read" in check_dataset(folder)[0]
    path.write_bytes(good)
    manifest = Manifest.load(folder)
    manifest.shards[:2] = manifest.shards[1::-1]
    manifest.save(folder)
    (problem,) = check_dataset(folder)
    assert "index.hdf5 is stale" in problem
    assert "delete it: opening the data set makes it again" in problem
    path.unlink()
    assert "index.hdf5 is missing" in check_dataset(folder)[0]


def test_missing_manifest_and_incomplete_set_are_found(folder: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(folder)
    manifest.complete = False
    manifest.save(folder)
    (problem,) = check_dataset(folder)
    assert "not complete (20 samples so far)" in problem
    (tmp_path / "nothing").mkdir()
    (problem,) = check_dataset(tmp_path / "nothing")
    assert "holds no manifest.json" in problem


def _leaks(root: Path, pictures: np.ndarray, records: list[dict[str, Any]]) -> set[str]:
    splits = ["train", "train", "test", "test"]
    write_dataset(root, pictures[:4], PRESETS["small"], {}, split=splits, records=records)
    problems = check_dataset(root)
    assert all("is in the splits ['test', 'train']; make the data set again" in problem for problem in problems)
    return {problem.split(" is in")[0] for problem in problems}


def test_channels_and_waveforms_in_two_splits_are_found(tmp_path: Path, spectrograms: np.ndarray) -> None:
    def record(waveform: str, index: int, split: str, doppler_hz: float) -> dict[str, Any]:
        draw = {"model": "tdl", "profile": "TDL-A", "delay_spread_s": 1e-7, "seed": 1, "index": index}
        return {"waveform": waveform, "channel": {"name": f"{split}/0", "draw": draw}, "doppler_hz": doppler_hz}

    records = [record("w0", 5, "train", 1), record("w1", 6, "train", 2)]
    records += [record("w1", 7, "test", 3), record("w2", 5, "test", 4)]
    channel = '{"delay_spread_s": 1e-07, "index": 5, "model": "tdl", "profile": "TDL-A", "seed": 1}'
    assert _leaks(tmp_path, spectrograms, records) == {"waveform w1", f"channel {channel}"}


def test_receivers_and_recordings_in_two_splits_are_found(tmp_path: Path, spectrograms: np.ndarray) -> None:
    def record(receiver: int, index: int, source: str) -> dict[str, Any]:
        draw = {"model": "site", "site": "munich", "receiver": receiver, "seed": 0, "index": index}
        return {"channel": {"name": "0", "draw": draw}, "source": source}

    records = [record(3, 0, "a.sigmf"), record(4, 1, "b.sigmf"), record(3, 2, "c.sigmf"), record(5, 3, "b.sigmf")]
    site = '{"model": "site", "receiver": 3, "site": "munich"}'
    assert _leaks(tmp_path, spectrograms, records) == {"recording b.sigmf", f"channel {site}"}


def test_records_of_any_shape_are_looked_at(tmp_path: Path, spectrograms: np.ndarray) -> None:
    odd: list[dict[str, Any]] = [{"channel": "AWGN", "waveform": 3}, {"channel": {"draw": 1}, "source": ["x"]}]
    assert _leaks(tmp_path / "odd", spectrograms, odd + odd) == set()
    labels = {"channel": ["AWGN"] * 4, "waveform": ["w"] * 4, "source": ["roof"] * 4, "technology": ["lte"] * 4}
    splits = ["train", "train", "test", "test"]
    write_dataset(tmp_path / "set", spectrograms[:4], PRESETS["small"], labels, split=splits)
    assert check_dataset(tmp_path / "set") == []


def test_a_broken_key_of_the_split_is_found(
    write_plan: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the split left out of the key of waveforms, test would hold train's under other names."""

    def without_split(seed: int, split: str, *path: str | int) -> np.random.Generator:
        return rng_for(seed, *path)

    monkeypatch.setattr("lwm.data.synthesis.rng_for", without_split)
    root = generate(write_plan(), str(tmp_path / "out"), workers=0)
    problems = check_dataset(root)
    assert len(problems) == 4, problems
    assert any("waveform train/bursts/1 = test/bursts/1 is in the splits ['test', 'train']" in p for p in problems)


def test_the_hash_of_a_waveform_is_of_its_samples() -> None:
    iq = np.random.default_rng(0).normal(size=(300_000, 2)).astype(np.float32).view(np.complex64)[:, 0]
    assert content_hash(iq) == content_hash(iq.copy())
    assert len({content_hash(iq), content_hash(iq[:-1]), content_hash(-iq), content_hash(iq[:10])}) == 4
    assert content_hash(iq[:0]) != content_hash(iq[:1])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", "8"),
        ("bytes", None),
        ("sha256", 3),
        ("split", []),
        ("mean", "low"),
        ("count", -1),
        ("name", "../x.h5"),
    ],
)
def test_entries_of_another_type_are_found(folder: Path, field: str, value: Any) -> None:
    plain = json.loads((folder / "manifest.json").read_text())
    plain["shards"][2][field] = value
    (folder / "manifest.json").write_text(json.dumps(plain))
    (problem,) = check_dataset(folder)
    assert field in problem
    assert repr(value) in problem


@pytest.mark.parametrize(
    ("field", "value"),
    [("labels", {"snr": "0"}), ("labels", {"valid": ["0"]}), ("counts", []), ("seed", "0"), ("storage", "uint8")],
)
def test_fields_of_another_type_are_found(folder: Path, field: str, value: Any) -> None:
    plain = json.loads((folder / "manifest.json").read_text())
    plain[field] = value
    (folder / "manifest.json").write_text(json.dumps(plain))
    (problem,) = check_dataset(folder)
    assert "make the data set again" in problem


def test_a_shard_that_is_listed_twice_is_found(folder: Path) -> None:
    manifest = Manifest.load(folder)
    manifest.shards.append(manifest.shards[1])
    manifest.save(folder)
    (problem,) = check_dataset(folder)
    assert f"lists shard {manifest.shards[1].name} 2 times" in problem


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("versions", json.dumps({"numpy": "1.0"}), r"other versions than the manifest says \(.*numpy 1.0, not "),
        ("seed", 4, "has seed 4, the manifest None"),
        ("licence", "MIT", "has licence 'MIT', the manifest 'unknown'"),
        ("storage", json.dumps(Storage(chunk=3).to_dict()), "has storage .*, the manifest "),
    ],
)
def test_shards_that_were_made_otherwise_are_found(folder: Path, name: str, value: Any, said: str) -> None:
    shard = _change(folder, lambda file: file.attrs.__setitem__(name, value))
    problems = check_dataset(folder)
    (problem,) = [problem for problem in problems if "index" not in problem]
    assert shard in problem
    assert re.search(said, problem)


def test_many_equal_pictures_are_counted_and_few_files_opened(
    tmp_path: Path, spectrograms: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 shards of two samples, each pair of pictures in two of them, one picture in all."""
    pictures = np.concatenate([spectrograms[:20], spectrograms[:20]])
    pictures[1::2] = spectrograms[1]
    write_dataset(tmp_path, pictures, PRESETS["small"], {}, samples_per_shard=2)
    opened = []

    class Counting(ShardReader):
        def __init__(self, path: Path, entry: ShardEntry) -> None:
            opened.append(path)
            super().__init__(path, entry)

    monkeypatch.setattr("lwm.data.check.ShardReader", Counting)
    problems = check_dataset(tmp_path)
    assert len(problems) == 6
    assert sum("and 15 more are the same picture" in problem for problem in problems) == 1
    assert problems[-1].startswith("6 more pictures are there twice")
    assert len(opened) == 20 + 4 * 2 + 5


def test_what_is_generated_names_its_channels(write_plan: Callable[..., str], tmp_path: Path) -> None:
    root = generate(write_plan(), str(tmp_path / "out"), workers=0)
    assert check_dataset(root) == []
    named: dict[str, set[str]] = {}
    for entry in Manifest.load(root).shards:
        for text in ShardReader(root / entry.name, entry).records():
            record = json.loads(text)
            named.setdefault(record["channel"]["name"], set()).add(origins(record)["channel"])
    assert len(named) > 2
    assert all(len(draws) == 1 for draws in named.values()), "one channel at two speeds is one channel"
    assert len(set.union(*named.values())) == len(named)


def test_many_leaks_are_counted_not_listed(tmp_path: Path, spectrograms: np.ndarray) -> None:
    records = [{"waveform": f"w{i % 10}"} for i in range(20)]
    splits = ["train"] * 10 + ["test"] * 10
    write_dataset(tmp_path, spectrograms, PRESETS["small"], {}, split=splits, records=records)
    problems = check_dataset(tmp_path)
    assert len(problems) == 6
    assert problems[-1] == "5 more waveforms are in two splits; make the data set again"


def test_classes_that_a_split_lacks_or_hardly_has_are_found(tmp_path: Path) -> None:
    pictures = np.random.default_rng(3).uniform(-30, 30, (260, 1, 8, 8)).astype(np.float32)
    recipe = replace(PRESETS["small"], size=(8, 8))
    kind = ["a"] * 97 + ["b"] * 3 + ["a", "b"] * 80
    colour = ["red", "green"] * 50 + ["red"] * 160
    only = ["x"] * 100 + ["y"] * 160
    labels = {"kind": kind, "colour": colour, "site": only}
    write_dataset(tmp_path, pictures, recipe, labels, split=["train"] * 100 + ["test"] * 160)
    problems = check_dataset(tmp_path)
    assert len(problems) == 2
    assert "label colour has no 'green' in test, where 31 are expected; add samples" in problems[0]
    assert "label kind has 'b' in 3.00% of train only, under 5.00%; add samples" in problems[1]


def test_a_class_that_few_waveforms_lack_is_an_accident(tmp_path: Path) -> None:
    pictures = np.random.default_rng(3).uniform(-30, 30, (80, 1, 8, 8)).astype(np.float32)
    recipe = replace(PRESETS["small"], size=(8, 8))
    labels = {"kind": ["a", "b"] * 20 + ["a"] * 40}
    records = [{"waveform": f"w{i // 10}"} for i in range(80)]
    write_dataset(tmp_path, pictures, recipe, labels, split=["train"] * 40 + ["test"] * 40, records=records)
    assert check_dataset(tmp_path) == []
    write_dataset(tmp_path, pictures, recipe, labels, split=["train"] * 40 + ["test"] * 40)
    assert "has no 'b' in test, where 10 are expected" in check_dataset(tmp_path)[0]


def test_wrong_counts_in_the_manifest_are_found(folder: Path) -> None:
    manifest = Manifest.load(folder)
    manifest.counts["train"]["technology"]["lte"] += 1
    manifest.save(folder)
    (problem,) = check_dataset(folder)
    assert "label technology is counted {'lte': 8, 'nr': 7} in train, found {'lte': 7, 'nr': 7}" in problem


@pytest.mark.parametrize("storage", [Storage("uint8"), Storage(compression="zstd"), Storage("uint8", "blosc", chunk=3)])
def test_every_storage_is_checked(storage: Storage, tmp_path: Path, spectrograms: np.ndarray) -> None:
    write_dataset(tmp_path, spectrograms, PRESETS["small"], {"kind": ["a", "b"] * 10}, storage=storage)
    assert check_dataset(tmp_path) == []
    name = _change(tmp_path, lambda file: file["spectrogram"].__setitem__(4, file["spectrogram"][9]))
    assert any(f"{name}[4], {name}[9] are the same picture" in problem for problem in check_dataset(tmp_path))


def test_boxes_and_iq_are_checked(tmp_path: Path, spectrograms: np.ndarray) -> None:
    path = tmp_path / "x-all-00000.h5"
    writer = ShardWriter(path, 2, PRESETS["small"], "all", "x", None, "MIT", Storage(iq=True))
    for picture in spectrograms[:2]:
        boxes = np.array([[0.0, 1e-3, -1e5, 1e5]])
        writer.add(Sample(picture, np.ones(64, bool), boxes=boxes, iq=np.ones(9, np.complex64)))
    manifest = Manifest(PRESETS["small"].to_dict(), {}, None, "MIT", shards=[writer.save()])
    finish_dataset(tmp_path, manifest, card=False)
    assert check_dataset(tmp_path) == []

    def spoil(file: h5py.File) -> None:
        file["boxes"][1] = [0.0, -1.0, 0.0, 1.0]
        file["iq"][1, 0, 0] = np.nan
        file["box_offset"][2] = 3

    _change(tmp_path, spoil)
    text = "\n".join(check_dataset(tmp_path))
    assert "1 boxes are not finite or end before they begin" in text
    assert "box_offset does not share 2 boxes among 2 samples" in text
    assert "iq holds NaN or infinity in 1 samples" in text


def test_description_counts_everything(folder: Path) -> None:
    text = describe_dataset(folder)
    assert "20 samples in 6 shards" in text
    assert "label technology: lte 10, nr 10" in text
    assert "label snr: -5 5, 5 5, 10 5, 20 5" in text
    assert "value snr_db: -5 to 20, median 7.5" in text
    assert "storage: float16, mapped" in text
    levels = Manifest.load(folder).percentiles["test"]
    assert f"percentiles of test: 1 % {levels['1']:.1f}, 5 % " in text
    mean, std = Manifest.load(folder).training_statistics()
    assert f"mean {mean:.3f}, standard deviation {std:.3f}" in text
    assert json.loads((folder / "manifest.json").read_text())["statistics"]["train"]["mean"] == mean


def test_description_names_shortcuts_and_storage(folder: Path) -> None:
    manifest = Manifest.load(folder)
    manifest.storage = Storage("uint8", "zstd", iq=True).to_dict()
    verdict = {"marked": True, "best": "guard band", "balanced": 0.875, "chance": 0.25}
    manifest.audit = {"snr": verdict, "technology": verdict | {"marked": False}}
    manifest.save(folder)
    text = describe_dataset(folder)
    assert "storage: uint8, zstd in chunks of 16, IQ as float16" in text
    said = "shortcut: snr is told by trivial features, above all guard band (balanced accuracy 0.88, chance 0.25)"
    assert [line for line in text.splitlines() if line.startswith("shortcut")] == [said]


def test_description_wants_whole_shards(folder: Path) -> None:
    path = folder / Manifest.load(folder).shards[-1].name
    path.unlink()
    with pytest.raises(DatasetError, match=f"{path.name} is missing"):
        describe_dataset(folder)
