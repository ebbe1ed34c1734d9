"""Ingesting every format: boxes, tables, splits, segments, CSI; and long recordings in little memory."""

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import savemat, wavfile

from lwm.data import ingest as ingest_module
from lwm.data.check import check_dataset
from lwm.data.dataset import SpectrogramDataset
from lwm.data.ingest import choose_recipe, ingest
from lwm.data.manifest import Manifest
from lwm.data.shard import ShardReader
from lwm.errors import CaptureError, ConfigError, LWMError, ModelError
from lwm.signal.capture import Capture, Emission
from lwm.signal.csi_formats import open_csi
from lwm.signal.csi_recipe import CSI_PRESETS
from lwm.signal.io import write_sigmf
from lwm.signal.recipe import PRESETS

RATE = 1e6


def _noise(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((round(seconds * RATE), 2), dtype=np.float32) / 8).view(np.complex64)[:, 0]


def _records(out: Path) -> list[dict[str, Any]]:
    dataset = SpectrogramDataset(out)
    return [dataset.record(i) for i in range(len(dataset))]


def test_every_format_gives_the_same_pictures(tmp_path: Path) -> None:
    iq = _noise(32e-3)
    pairs = iq.view(np.float32).reshape(-1, 2)
    folder = tmp_path / "in"
    folder.mkdir()
    iq.tofile(folder / "a.cf32")
    np.save(folder / "b.npy", iq)
    savemat(folder / "c.mat", {"iq": iq, "fs": RATE})
    with h5py.File(folder / "d.h5", "w") as file:
        file["iq"] = pairs
    wavfile.write(folder / "e.wav", int(RATE), pairs)
    write_sigmf(Capture(iq, RATE), folder / "f")
    out = ingest([str(folder)], str(tmp_path / "out"), sample_rate=RATE)
    dataset = SpectrogramDataset(out)
    sources = [record["source"] for record in _records(out)]
    assert sources == [name for name in ("a.cf32", "b.npy", "c.mat", "d.h5", "e.wav", "f.sigmf-meta") for _ in (0, 1)]
    for i in range(2, len(dataset)):
        np.testing.assert_allclose(dataset[i]["spectrogram"], dataset[i % 2]["spectrogram"], atol=0.07)


def test_annotations_become_boxes_cut_to_the_window(tmp_path: Path, technologies: Path) -> None:
    bursts = [
        Emission("BURST", "uplink", "QPSK", 10e-3, 20e-3, -1e5, 2e5),
        Emission("wide", start=17e-3, stop=30e-3, low=-9e5, high=4e5),
        Emission("outside", start=0.0, stop=30e-3, low=6e5, high=7e5),
    ]
    write_sigmf(Capture(_noise(32e-3), RATE, 868e6, bursts), tmp_path / "x")
    out = ingest([str(tmp_path / "x")], str(tmp_path / "out"))
    (entry,) = Manifest.load(out).shards
    with h5py.File(out / entry.name) as file:
        assert file["box_offset"][:].tolist() == [0, 1, 3]
        expected = [[10e-3, 16e-3, -1e5, 2e5], [0, 4e-3, -1e5, 2e5], [1e-3, 14e-3, -5e5, 4e5]]
        np.testing.assert_allclose(file["boxes"][:], expected, rtol=1e-5, atol=1e-9)
        names = list(file["box_label"].attrs["names"])
        assert [names[code] for code in file["box_label"][:]] == ["BURST", "BURST", "wide"]
    assert check_dataset(out) == []


def test_segments_of_another_frequency_are_cut_apart(tmp_path: Path) -> None:
    meta = write_sigmf(Capture(_noise(40e-3), RATE, 868e6), tmp_path / "x")
    plain = json.loads(meta.read_text())
    plain["captures"].append({"core:sample_start": 24_000, "core:frequency": 915e6})
    meta.write_text(json.dumps(plain))
    found = _records(ingest([str(meta)], str(tmp_path / "out"), hop=8e-3))
    assert [(r["center_frequency"], r["start"]) for r in found] == [(868e6, 0.0), (868e6, 8e-3), (915e6, 0.0)]
    assert found[2]["facts"]["segment_start_s"] == pytest.approx(24e-3)


def test_table_labels_windows_by_what_covers_them(tmp_path: Path) -> None:
    _noise(64e-3).tofile(tmp_path / "a.cf32")
    (tmp_path / "t.csv").write_text(
        "file,start,stop,animal,room\na.cf32,0,0.04,cat,\na.cf32,0.04,0.06,dog,\na.cf32,,,,one\n"
    )
    out = ingest([str(tmp_path / "t.csv")], str(tmp_path / "out"), sample_rate=RATE)
    assert [(r["labels"].get("animal"), r["labels"]["room"]) for r in _records(out)] == [
        ("cat", "one"),
        ("cat", "one"),
        ("cat", "one"),
        ("dog", "one"),
    ]
    (tmp_path / "t.csv").write_text("file,start,stop,animal\na.cf32,0,0.04,cat\na.cf32,0.04,0.08,dog\n")
    with pytest.raises(ConfigError, match=r"t\.csv, line 3: 0\.08 s in a\.cf32; expected times up to 0\.064 s"):
        ingest([str(tmp_path / "t.csv")], str(tmp_path / "again"), sample_rate=RATE)
    assert not (tmp_path / "again").exists()


def test_a_recording_is_in_one_split_whole(tmp_path: Path) -> None:
    for i in range(10):
        _noise(48e-3, i).tofile(tmp_path / f"{i}.cf32")
    out = ingest([str(tmp_path)], str(tmp_path / "out"), sample_rate=RATE, split=[0.6, 0.2, 0.2])
    seen: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        dataset = SpectrogramDataset(out, split)
        seen[split] = {dataset.record(i)["source"] for i in range(len(dataset))}
    assert [len(names) for names in seen.values()] == [6, 2, 2]
    assert len(set.union(*seen.values())) == 10
    assert check_dataset(out) == []


def test_names_with_dots_are_shared_out_and_labels_keep_to_themselves(tmp_path: Path) -> None:
    """Labels that are called like keys of a record neither break doctor nor make leaks of what is none."""
    rows = ["file,channel,waveform,source,duration"]
    for i in range(10):
        _noise(48e-3, i).tofile(tmp_path / f"2.4GHz_{i}.cf32")
        rows.append(f"2.4GHz_{i}.cf32,{i % 2},w,roof,long")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    out = ingest([str(tmp_path / "t.csv")], str(tmp_path / "out"), sample_rate=RATE, split=[0.6, 0.2, 0.2])
    sources = [{record["source"] for record in _part(out, split)} for split in ("train", "validation", "test")]
    assert [len(names) for names in sources] == [6, 2, 2]
    record = _records(out)[0]
    assert record["labels"].pop("channel") in ("0", "1")
    assert record["labels"] == {"waveform": "w", "source": "roof", "duration": "long"}
    assert record["duration"] == pytest.approx(16e-3)
    assert record["source"].startswith("2.4GHz_")
    assert check_dataset(out) == []


def test_resampling_to_the_rate_of_the_recipe(tmp_path: Path, technologies: Path) -> None:
    """A tone at 100 kHz stays at 100 kHz when 1 Msamples/s become 500 k; boxes end at the new band's edge."""
    tone = np.exp(2j * np.pi * 0.1 * np.arange(32_000)).astype(np.complex64) / 2 + _noise(32e-3) / 100
    write_sigmf(Capture(tone, RATE, None, [Emission("tone", start=0, stop=32e-3, low=9e4, high=4e5)]), tmp_path / "x")
    half = replace(PRESETS["small"], name="half", sample_rate=5e5)
    (tmp_path / "recipe.json").write_text(json.dumps(half.to_dict()))
    out = ingest([str(tmp_path / "x")], str(tmp_path / "out"), model=str(tmp_path))
    picture = SpectrogramDataset(out)[0]["spectrogram"][0].numpy()
    # Row r of 64 covers -250 kHz + r * 7.8125 kHz and up.
    assert int(picture.mean(axis=1).argmax()) == int((100e3 + 250e3) / 7812.5)
    with h5py.File(out / Manifest.load(out).shards[0].name) as file:
        np.testing.assert_allclose(file["boxes"][0], [0, 16e-3, 9e4, 2.5e5])


def test_dc_notch_and_duration(tmp_path: Path) -> None:
    (_noise(32e-3) + np.complex64(1)).tofile(tmp_path / "a.cf32")
    arguments = {"paths": [str(tmp_path / "a.cf32")], "sample_rate": RATE}
    plain = SpectrogramDataset(ingest(**arguments, out=str(tmp_path / "plain")))
    notched = SpectrogramDataset(ingest(**arguments, out=str(tmp_path / "notched"), dc_notch=2e3, duration=8e-3))
    assert (len(plain), len(notched)) == (2, 4)
    assert notched.recipe.duration == 8e-3
    middle = [float(dataset[1]["spectrogram"][0, 31:33].mean()) for dataset in (plain, notched)]
    edges = [float(dataset[1]["spectrogram"][0, 5:25].mean()) for dataset in (plain, notched)]
    assert middle[0] - edges[0] > 15
    assert middle[1] - edges[1] < 3
    assert notched.record(0)["facts"]["dc_notch_hz"] == 2e3


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """200 MB of cu8 that take no disk: 5 s at 20 Msamples/s."""
    path = tmp_path / "long.cu8"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    return path


def _peak(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("notch", [None, 1e4])
def test_long_recordings_are_never_held(sparse: Path, tmp_path: Path, notch: float | None) -> None:
    def run() -> None:
        ingest([str(sparse)], str(tmp_path / "out"), sample_rate=20e6, hop=0.1, dc_notch=notch)

    ingest([str(sparse)], str(tmp_path / "warm"), sample_rate=20e6, hop=2.5)
    peak = _peak(run)
    assert Manifest.load(tmp_path / "out").count == 50
    # A window is 320,000 samples: 2.6 MB as complex64; with decoding, filter and STFT some times that.
    assert peak < 40e6


def test_only_the_windows_are_read(tmp_path: Path, sparse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = ingest_module.open_segments

    def counting(*args: Any, **more: Any) -> Any:
        (recording,) = original(*args, **more)
        load = recording.load
        object.__setattr__(recording, "load", lambda first, count: asked.append(count) or load(first, count))
        return [recording]

    monkeypatch.setattr(ingest_module, "open_segments", counting)
    ingest([str(sparse)], str(tmp_path / "out"), sample_rate=20e6, hop=1.0)
    assert asked == [320_000] * 5


def test_long_recordings_fill_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "SHARD_BYTES", 3 * 2 * 64 * 64)
    _noise(16e-3 * 7).tofile(tmp_path / "a.cf32")
    out = ingest([str(tmp_path / "a.cf32")], str(tmp_path / "out"), sample_rate=RATE)
    manifest = Manifest.load(out)
    assert [entry.count for entry in manifest.shards] == [3, 3, 1]
    assert [record["start"] for record in _records(out)] == pytest.approx([16e-3 * i for i in range(7)])
    assert ShardReader(out / manifest.shards[2].name, manifest.shards[2]).count == 1


def test_recorded_csi_becomes_a_data_set(tmp_path: Path, shared: Path) -> None:
    out = ingest([str(shared / "csi")], str(tmp_path / "out"), split=[0.7, 0.15, 0.15])
    dataset = SpectrogramDataset(out)
    assert dataset.recipe == CSI_PRESETS["csi"]
    assert dataset.label_names == {"activity": ["baseline", "movement"], "chip": ["c3", "c5", "c6", "esp32", "s3"]}
    records = _records(out)
    assert len({record["source"] for record in records}) == 21
    assert {record["facts"]["gain_locked"] for record in records} == {True, False}
    number = next(i for i, record in enumerate(records) if record["start"] == 3.0)
    picture, _ = CSI_PRESETS["csi"].picture(open_csi(shared / "csi" / records[number]["source"]), 3.0)
    np.testing.assert_allclose(dataset[number]["spectrogram"], picture, atol=0.02)
    parts = [{record["source"] for record in _part(out, split)} for split in ("train", "validation", "test")]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 21
    # Three recordings of five boards cannot show every board.
    assert [problem for problem in check_dataset(out) if "label chip has no" not in problem] == []


def _part(out: Path, split: str) -> list[dict[str, Any]]:
    dataset = SpectrogramDataset(out, split)
    return [dataset.record(i) for i in range(len(dataset))]


def test_movement_moves_more_than_quiet_in_what_was_ingested(tmp_path: Path, shared: Path) -> None:
    """The pictures keep what sensing needs: over gain-locked boards, movement varies more in time, board by board."""
    out = ingest([str(shared / "csi")], str(tmp_path / "out"))
    dataset = SpectrogramDataset(out)
    spread: dict[tuple[str, str], list[float]] = {}
    for i, record in enumerate(_records(out)):
        labels = record["labels"]
        if "activity" in labels and record["facts"]["gain_locked"]:
            picture = dataset[i]["spectrogram"][0].numpy()
            spread.setdefault((labels["chip"], labels["activity"]), []).append(float(picture.std(axis=1).mean()))
    chips = {chip for chip, _ in spread}
    assert len(chips) == 4
    for chip in chips:
        assert np.median(spread[chip, "movement"]) > 1.2 * np.median(spread[chip, "baseline"])


def test_csi_with_a_gap_and_a_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    times = np.r_[np.arange(0, 2, 0.01), np.arange(5, 8, 0.01)]
    lines = ["time," + ",".join(f"sc{i}" for i in range(52))]
    lines += [f"{t:.3f}," + ",".join(f"{v:.3f}" for v in rng.uniform(1, 2, 52)) for t in times]
    (tmp_path / "walk.csv").write_text("\n".join(lines))
    (tmp_path / "t.csv").write_text("file,start,stop,activity\nwalk.csv,0,5,walk\nwalk.csv,5,,rest\n")
    out = ingest([str(tmp_path / "t.csv")], str(tmp_path / "out"))
    found = [(record["start"], record["labels"]["activity"]) for record in _records(out)]
    assert found == [(0.0, "walk"), (1.0, "walk"), (5.0, "rest"), (6.0, "rest"), (7.0, "rest")]


def test_recipes_by_kind(tmp_path: Path) -> None:
    assert choose_recipe("iq") == PRESETS["small"]
    assert choose_recipe("csi", "csi-fm") == CSI_PRESETS["csi-fm"]
    (tmp_path / "recipe.json").write_text(json.dumps(CSI_PRESETS["csi"].to_dict()))
    assert choose_recipe("csi", model=str(tmp_path)) == CSI_PRESETS["csi"]
    cases: list[tuple[type[LWMError], str, Callable[[], object]]] = [
        (ConfigError, "no recipe named 'csi' for IQ", lambda: choose_recipe("iq", "csi")),
        (ConfigError, "no recipe named 'small' for CSI", lambda: choose_recipe("csi", "small")),
        (ConfigError, "one of them", lambda: choose_recipe("csi", model=str(tmp_path), duration=1.0)),
        (ModelError, "recipe 'csi'; expected one for IQ", lambda: choose_recipe("iq", model=str(tmp_path))),
    ]
    for kind, said, call in cases:
        with pytest.raises(kind, match=said):
            call()


def test_csi_array_without_saying_so_is_told_how(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 114, 2000), np.float32))
    with pytest.raises(CaptureError, match="add --kind csi"):
        ingest([str(tmp_path / "x.npy")], str(tmp_path / "out"), sample_rate=500.0)
    with pytest.raises(ConfigError, match="with CSI"):
        ingest([str(tmp_path / "x.npy")], str(tmp_path / "out"), sample_rate=500.0, kind="csi", dc_notch=1.0)
    out = ingest([str(tmp_path / "x.npy")], str(tmp_path / "out"), "csi-fm", sample_rate=500.0, kind="csi")
    assert SpectrogramDataset(out)[0]["spectrogram"].shape == (3, 224, 224)
