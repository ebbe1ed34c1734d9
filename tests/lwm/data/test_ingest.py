"""Recordings into a data set: windows, padding, labels, and recordings that cannot be used."""

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lwm.data.check import check_dataset
from lwm.data.dataset import SpectrogramDataset
from lwm.data.generation import generate
from lwm.data.ingest import ingest
from lwm.data.lock import folder_lock, name_lock
from lwm.data.manifest import Manifest
from lwm.data.windows import window_starts
from lwm.errors import CaptureError, ConfigError, LWMError, ModelError, OutputError
from lwm.signal.capture import Capture, Emission
from lwm.signal.io import Recording, write_sigmf
from lwm.signal.recipe import PRESETS

RATE = 1e6
SMALL = PRESETS["small"]


def _noise(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((round(seconds * RATE), 2), dtype=np.float32).view(np.complex64)[:, 0]


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two classes: one recording of two windows and a third, one of 6 ms; and a SigMF pair with a burst."""
    folder = tmp_path / "recordings"
    (folder / "drone").mkdir(parents=True)
    (folder / "phone").mkdir()
    _noise(37.4e-3).tofile(folder / "drone" / "long.cf32")
    np.save(folder / "phone" / "short.npy", _noise(6e-3, 1))
    (folder / "phone" / "readme.txt").write_text("not a recording")
    burst = Emission("BURST", "uplink", "QPSK", 20e-3, 30e-3, -1e5, 2e5)
    write_sigmf(Capture(_noise(32e-3, 2) / 8, RATE, 868e6, [burst]), folder / "one")
    return folder


def test_folders_are_classes_and_annotations_technologies(recordings: Path, tmp_path: Path, technologies: Path) -> None:
    out = ingest([str(recordings), str(recordings / "one.sigmf-data")], str(tmp_path / "out"), sample_rate=RATE)
    assert check_dataset(out) == [], "the pair that was named twice got in once"
    dataset = SpectrogramDataset(out)
    assert dataset.label_names["class"] == ["drone", "phone"]
    records = [dataset.record(i) for i in range(len(dataset))]
    columns = ("source", "start", "class", "technology", "valid_columns")
    found = [tuple((r | r["labels"]).get(name) for name in columns) for r in records]
    assert found == [
        ("one.sigmf-meta", 0.0, None, None, 64),
        ("one.sigmf-meta", 0.016, None, "BURST", 64),
        ("long.cf32", 0.0, "drone", None, 64),
        ("long.cf32", 0.016, "drone", None, 64),
        ("long.cf32", 0.032, "drone", None, 22),
        ("short.npy", 0.0, "phone", None, 24),
    ]
    (emission,) = records[1]["emissions"]
    assert (emission["start"], emission["stop"]) == pytest.approx((4e-3, 14e-3))
    assert records[1]["link"] == "uplink"
    assert records[1]["center_frequency"] == 868e6
    assert Manifest.load(out).training_statistics() == Manifest.load(out).statistics["all"]


def test_windows_are_the_recipes_pictures(recordings: Path, tmp_path: Path) -> None:
    out = ingest([str(recordings / "drone" / "long.cf32")], str(tmp_path / "out"), sample_rate=RATE, hop=8e-3)
    dataset = SpectrogramDataset(out)
    capture = Capture(_noise(37.4e-3), RATE)
    assert dataset.values["start"].tolist() == pytest.approx([0.0, 8e-3, 16e-3, 24e-3])
    for i, start in enumerate(dataset.values["start"]):
        expected = SMALL.of_capture(capture, round(float(start), 6))
        np.testing.assert_allclose(dataset[i]["spectrogram"], expected.db[0], atol=0.02)
        assert dataset[i]["valid"].tolist() == expected.valid[0].tolist()


@pytest.mark.parametrize(
    ("milliseconds", "hop", "starts", "rest"),
    [
        (1, None, [0], False),
        (16, None, [0], False),
        (19, None, [0], True),
        (20, None, [0, 16], False),
        (48, None, [0, 16, 32], False),
        (24, 8e-3, [0, 8], False),
        (26, 8e-3, [0, 8, 16], False),
        (35, 20e-3, [0, 20], False),
        (37, 20e-3, [0, 20], True),
        (46, 20e-3, [0, 20, 40], False),
        (22, 20e-3, [0], True),
        (18, 20e-3, [0], True),
    ],
)
def test_where_windows_begin(milliseconds: int, hop: float | None, starts: list[int], rest: bool) -> None:
    recording = Recording(Path("x"), round(milliseconds * 1e-3 * RATE), RATE, None, lambda first, count: _noise(1e-3))
    found, left_out = window_starts(recording, SMALL, hop)
    assert [round(start * 1e3) for start in found] == starts
    assert left_out == rest


def test_recipes_that_do_not_pad_take_whole_windows_only() -> None:
    recording = Recording(Path("x"), 30_000, RATE, None, lambda first, count: _noise(1e-3))
    assert window_starts(recording, replace(SMALL, short="error"), None) == ([0.0], True)


def test_recipe_of_a_model_folder(recordings: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    mine = replace(SMALL, name="mine", size=(32, 16), duration=8e-3)
    (model / "recipe.json").write_text(json.dumps(mine.to_dict()))
    out = ingest([str(recordings / "phone" / "short.npy")], str(tmp_path / "out"), model=str(model), sample_rate=RATE)
    dataset = SpectrogramDataset(out)
    assert dataset.recipe == mine
    assert tuple(dataset[0]["spectrogram"].shape) == (1, 32, 16)
    with pytest.raises(ModelError, match=r"recipe\.json cannot be read"):
        ingest([str(recordings)], str(tmp_path / "again"), model=str(recordings))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (_noise(20e-3).tobytes()[:-3], "truncated"),
        (np.r_[_noise(1e-3), np.complex64(np.nan), _noise(1e-3)].tobytes(), "is not finite"),
        (_noise(0.1e-3).tobytes(), "capture of 100 samples"),
    ],
)
def test_bad_recordings_are_named_and_nothing_is_left(
    recordings: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    bad = recordings / "drone" / "zz.cf32"
    bad.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CaptureError, match=message) as caught:
        ingest([str(recordings)], str(tmp_path / "out"), sample_rate=RATE)
    assert str(bad) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_errors_of_use(recordings: Path, tmp_path: Path) -> None:
    file, out = str(recordings / "drone" / "long.cf32"), str(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    cases: list[tuple[type[LWMError], str, dict]] = [
        (CaptureError, "no sample rate", {"paths": [file]}),
        (CaptureError, "no file", {"paths": ["absent.cf32"], "sample_rate": RATE}),
        (ConfigError, "holds no recording", {"paths": [str(tmp_path / "empty")]}),
        (ConfigError, "no recording named", {"paths": []}),
        (ConfigError, "hop -1", {"paths": [file], "hop": -1.0}),
        (ConfigError, "no recipe named 'big'", {"paths": [file], "recipe": "big"}),
        (OutputError, "not empty", {"paths": [file], "out": str(recordings)}),
        (OutputError, "delete it yourself", {"paths": [file], "out": str(recordings), "overwrite": True}),
    ]
    for kind, message, options in cases:
        with pytest.raises(kind, match=message):
            ingest(**({"out": out} | options))


def test_overwrite_keeps_the_old_data_set_until_the_new_one_is_whole(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ingest([str(recordings)], str(out), sample_rate=RATE)
    before = Manifest.load(out)
    (recordings / "bad.cf32").write_bytes(b"")
    with pytest.raises(CaptureError, match="is empty"):
        ingest([str(recordings)], str(out), sample_rate=RATE, overwrite=True)
    assert Manifest.load(out) == before
    ingest([str(recordings / "phone")], str(out), sample_rate=RATE, overwrite=True)
    assert Manifest.load(out).count == 1
    assert check_dataset(out) == []


def test_real_recordings_get_in(shared: Path, tmp_path: Path) -> None:
    out = ingest([str(shared / "captures")], str(tmp_path / "out"))
    dataset = SpectrogramDataset(out)
    assert len({dataset.record(i)["source"] for i in range(len(dataset))}) == 9
    assert "lte" in dataset.label_names["technology"]
    assert check_dataset(out) == []


def test_one_ingest_at_a_time_under_a_name(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = {"sample_rate": RATE}
    with name_lock(out), pytest.raises(OutputError, match="another run is writing to .*out"):
        ingest([str(recordings)], str(out), **options)
    assert not out.exists()
    ingest([str(recordings)], str(out), **options)
    with folder_lock(out), pytest.raises(OutputError, match="another run is writing to .*out"):
        ingest([str(recordings)], str(out), **options, overwrite=True)
    with name_lock(out), pytest.raises(OutputError, match="another run is writing to .*out"):
        generate("generate/tiny", str(out), overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "recordings"]


def test_what_a_killed_ingest_left_goes(recordings: Path, tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(
        target=_killed_while_writing, args=(str(recordings), str(tmp_path / "out"))
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    (left,) = tmp_path.glob(".out.*.partial")
    (tmp_path / ".out.two.h-1-ab.partial").mkdir()
    ingest([str(recordings)], str(tmp_path / "out"), sample_rate=RATE)
    assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.two.h-1-ab.partial", "out", "recordings"]


def _killed_while_writing(recordings: str, out: str) -> None:
    def die(*args: object, **more: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lwm.data.ingest.finish_dataset", die)
        ingest([recordings], out, sample_rate=RATE)


def test_overwrite_keeps_what_is_no_part_of_the_data_set(recordings: Path, tmp_path: Path) -> None:
    out = ingest([str(recordings)], str(tmp_path / "out"), sample_rate=RATE)
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match=r"holds thesis\.txt beside its data set"):
        ingest([str(recordings)], str(out), sample_rate=RATE, overwrite=True)
    assert (out / "thesis.txt").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "recordings"]
