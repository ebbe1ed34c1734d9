"""What doctor finds, one broken data set at a time; and what inspect says about a whole one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lwm.data.check import check_dataset
from lwm.data.inspection import describe_dataset
from lwm.data.manifest import Manifest
from lwm.data.shard import write_dataset
from lwm.output import file_sha256
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
        (lambda file: file["spectrogram"].__setitem__(0, file["spectrogram"][1]), "sample 1 is the same picture as"),
    ],
)
def test_wrong_content_is_found(folder: Path, change: Callable[[h5py.File], None], message: str) -> None:
    name = _change(folder, change)
    problems = check_dataset(folder)
    assert any(message in problem and name in problem for problem in problems), problems


def test_wrong_files_are_found(folder: Path) -> None:
    manifest = Manifest.load(folder)
    (folder / manifest.shards[0].name).unlink()
    cut = folder / manifest.shards[1].name
    cut.write_bytes(cut.read_bytes()[:1000])
    (folder / "stray.h5").write_bytes(b"")
    problems = "\n".join(check_dataset(folder))
    assert f"{manifest.shards[0].name} is missing" in problems
    assert f"{cut} is truncated at 1000 bytes" in problems
    assert "stray.h5 is not in the manifest" in problems


def test_missing_manifest_and_incomplete_set_are_found(folder: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(folder)
    manifest.complete = False
    manifest.save(folder)
    (problem,) = check_dataset(folder)
    assert "not complete (20 samples so far)" in problem
    (tmp_path / "nothing").mkdir()
    (problem,) = check_dataset(tmp_path / "nothing")
    assert "holds no manifest.json" in problem


def test_channels_and_waveforms_in_two_splits_are_found(tmp_path: Path, spectrograms: np.ndarray) -> None:
    records = [
        {"waveform": f"w{number}", "channel": {"profile": "TDL-A", "seed": 1, "index": index}}
        for number, index in ((0, 5), (1, 6), (1, 7), (2, 5))
    ]
    splits = ["train", "train", "test", "test"]
    write_dataset(tmp_path, spectrograms[:4], PRESETS["small"], {}, split=splits, records=records)
    problems = check_dataset(tmp_path)
    assert {problem.split(" is in")[0] for problem in problems} == {"waveform w1", "channel TDL-A/1/5"}
    assert all("the splits ['test', 'train']; make the data set again" in problem for problem in problems)


def test_description_counts_everything(folder: Path) -> None:
    text = describe_dataset(folder)
    assert "20 samples in 6 shards" in text
    assert "label technology: lte 10, nr 10" in text
    assert "label snr: -5 5, 5 5, 10 5, 20 5" in text
    assert "value snr_db: -5 to 20, median 7.5" in text
    mean, std = Manifest.load(folder).training_statistics()
    assert f"mean {mean:.3f}, standard deviation {std:.3f}" in text
    assert json.loads((folder / "manifest.json").read_text())["statistics"]["train"]["mean"] == mean
