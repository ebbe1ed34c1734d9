"""``lwm predict``: tables and annotations that agree with the model, recordings untouched, nothing half-written."""

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from lwm.cli import main
from lwm.evaluation import predict as module
from lwm.evaluation.annotations import unique_names
from lwm.evaluation.readout import Finding, Place, Readout, RunMerger
from lwm.hub import save_pretrained
from lwm.models.boxes import Boxes
from lwm.models.encoder import SpectrogramEncoder
from lwm.models.head import TokenShape
from lwm.models.headed import HeadedModel
from lwm.registry import HEADS, load
from lwm.seeding import rng_for
from lwm.signal.capture import Capture, Emission
from lwm.signal.io import open_recording, read_capture, write_sigmf
from lwm.signal.recipe import recipe_named
from lwm.signal.recording import Recording

RATE = 250e3
NAMES = ("a", "b", "c")


def headed(encoder: SpectrogramEncoder, name: str) -> HeadedModel:
    """A head with random weights everywhere on the encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        head = load(HEADS, name)(TokenShape.of(encoder), NAMES)
        for weight in head.parameters():
            weight.data.add_(0.3 * torch.randn(weight.shape))
    return HeadedModel(encoder, head).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, encoder: SpectrogramEncoder) -> Callable[[str], Path]:
    """Model folder with a head of that name."""
    root = tmp_path_factory.mktemp("heads")

    def make(name: str) -> Path:
        return root / name if (root / name).is_dir() else save_pretrained(headed(encoder, name), root / name)

    return make


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """Complex noise whose level and band change with time, so that windows differ."""
    rng = rng_for(seed, "test", "predict")
    white = rng.normal(size=samples) + 1j * rng.normal(size=samples)
    tone = np.exp(2j * np.pi * np.cumsum(0.3 * np.sin(np.arange(samples) / 9000)))
    return (0.05 * white + 0.4 * tone * (np.arange(samples) // 7000 % 2)).astype(np.complex64)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_recordings_become_a_table_and_annotations(
    shared: Path, tmp_path: Path, folders: Callable[[str], Path], encoder: SpectrogramEncoder
) -> None:
    captures, out = shared / "captures", tmp_path / "out"
    names = ("lte_fdd_1860mhz_rtlsdr", "wlan_11n_mcs3_n210")
    given = [str(captures / f"{name}.sigmf-meta") for name in names]
    before = hashes(captures)
    assert main(["predict", *given, "--model", str(folders("linear")), "--out", str(out), "--batch_size", "5"]) == 0
    assert hashes(captures) == before
    rows = rows_of(out)
    assert [row["source"] for row in rows] == [given[0]] * 16 + [given[1]]
    # The same by hand: each window alone, from the capture to the head.
    model = headed(encoder, "linear")
    for row in rows:
        start, stop = float(row["start_s"]), float(row["stop_s"])
        capture = read_capture(row["source"], start=start, duration=stop - start)
        assert stop - start == pytest.approx(capture.duration)
        picture = encoder.recipe.of_capture(capture).db.half().float()
        wanted = model.predict(picture)[0].numpy()
        found = [float(row[f"p_{name}"]) for name in NAMES]
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        assert row["label"] == NAMES[int(wanted.argmax())]
    for name, source in zip(names, given, strict=True):
        meta = out / f"{name}.sigmf-meta"
        old, new = json.loads(Path(source).read_text()), json.loads(meta.read_text())
        added = [note for note in new["annotations"] if note.get("core:generator") == "lwm predict"]
        assert len(new["annotations"]) == len(old["annotations"]) + len(added)
        assert all(note in new["annotations"] for note in old["annotations"])
        # They cover the recording without a gap, and neighbours differ: runs of one label are one annotation.
        ends = [note["core:sample_start"] + note["core:sample_count"] for note in added]
        assert [note["core:sample_start"] for note in added] == [0, *ends[:-1]]
        recording = open_recording(meta)
        assert ends[-1] == recording.samples
        assert all(first["core:label"] != second["core:label"] for first, second in pairwise(added))
        same = [row["label"] for row in rows if row["source"] == source]
        assert len(added) == 1 + sum(first != second for first, second in pairwise(same))
        np.testing.assert_array_equal(recording.load(0, 999), open_recording(source).load(0, 999))
        assert all(
            note.technology in (*NAMES, *(e.technology for e in open_recording(source).emissions))
            for note in recording.emissions
        )
    from sigmf.sigmffile import fromfile

    fromfile(out / f"{names[0]}.sigmf-meta", skip_checksum=False).validate()
    summary = json.loads((out / "predictions.json").read_text())
    assert summary["windows"] == 17
    assert sorted(summary["files"]) == sorted(path.name for path in out.iterdir())


@pytest.mark.parametrize("name", ["multilabel", "segmentation", "regression", "detection"])
def test_every_kind_of_head(
    name: str, tmp_path: Path, folders: Callable[[str], Path], encoder: SpectrogramEncoder
) -> None:
    write_sigmf(Capture(noise(11_000), RATE, 1e9), tmp_path / "one")
    out = module.predict([str(tmp_path / "one.sigmf-meta")], str(folders(name)), str(tmp_path / "out"), threshold=0.4)
    rows = rows_of(out)
    notes = json.loads((out / "one.sigmf-meta").read_text())["annotations"]
    recording = open_recording(tmp_path / "one.sigmf-meta")
    model = headed(encoder, name)
    windows = [recording.read(start, 0.016) for start in (0.0, 0.016, 0.032)]
    spectra = [encoder.recipe.of_capture(window) for window in windows]
    said = [model.predict(spectrum.db.half().float()) for spectrum in spectra]
    if name == "detection":
        # A window of 16 ms and 250 kHz: centre and size are shares of it.
        wanted = []
        for number, (boxes, window) in enumerate(zip(said, windows, strict=True)):
            for (x, y, w, h), label, score in zip(boxes.places[0], boxes.labels[0], boxes.scores[0], strict=True):
                start, stop = (x - w / 2).item() * 0.016, min((x + w / 2).item() * 0.016, window.duration)
                if score >= 0.4 and stop > max(start, 0):
                    low, high = ((y - h / 2).item() - 0.5) * RATE, ((y + h / 2).item() - 0.5) * RATE
                    times = max(start, 0) + 0.016 * number, stop + 0.016 * number
                    wanted.append((*times, max(low, -RATE / 2), min(high, RATE / 2), NAMES[int(label)]))
        assert wanted
        keys = ("start_s", "stop_s", "low_hz", "high_hz")
        found = [[float(row[key]) for key in keys] for row in rows]
        assert len(found) == len(wanted)
        # To 0.2 ms and 0.1 Hz (float32 rounds shares of 250 kHz to a hundredth), one to one: boxes that all but start
        # together may be sorted either way, for windows are predicted in batches, which round otherwise.
        apart = np.abs(np.array(found)[:, None] - np.array([row[:4] for row in wanted])) / [2e-4, 2e-4, 0.1, 0.1]
        assert apart.max(-1)[linear_sum_assignment(apart.max(-1))].max() < 1
        assert sorted(row["label"] for row in rows) == sorted(row[4] for row in wanted)
        assert len(notes) == len(rows)
        edges = [note["core:freq_lower_edge"] - 1e9 for note in notes]
        np.testing.assert_allclose(sorted(edges), sorted(row[2] for row in found), atol=1.0)
        return
    assert len(rows) == 3
    for row, output, spectrum in zip(rows, said, spectra, strict=True):
        if name == "segmentation":
            best = output[0].argmax(0)[:, : int(spectrum.valid.sum())]
            shares = {each: float((best == code).float().mean()) for code, each in enumerate(NAMES)}
            assert {each: float(row[f"share_{each}"]) for each in NAMES} == pytest.approx(shares, abs=5e-3)
            assert row["label"] == max(shares, key=lambda each: shares[each])
        elif name == "multilabel":
            assert [float(row[f"p_{each}"]) for each in NAMES] == pytest.approx(output[0].tolist(), abs=1e-3)
            over = [each for each, p in zip(NAMES, output[0], strict=True) if p >= 0.4]
            assert row["label"] == "+".join(over)
        else:
            assert [float(row[each]) for each in NAMES] == pytest.approx(output[0].tolist(), abs=1e-3)
            assert row["label"] == row["probability"] == ""
    if name == "regression":
        assert len(notes) == 9
        assert notes[0]["core:label"] == f"a={float(rows[0]['a']):.4g}"
    else:
        assert {note["core:label"] for note in notes} == {one for row in rows for one in row["label"].split("+")} - {""}


def test_segments_keep_their_time_and_frequency(tmp_path: Path, folders: Callable[[str], Path]) -> None:
    meta = write_sigmf(Capture(noise(16_000), RATE, 1e9, [Emission("own", stop=0.01, high=1e3)]), tmp_path / "two")
    plain = json.loads(meta.read_text())
    plain["captures"].append({"core:sample_start": 8000, "core:frequency": 2e9})
    plain["global"]["core:offset"] = 0
    meta.write_text(json.dumps(plain))
    out = module.predict([str(meta)], str(folders("linear")), str(tmp_path / "out"))
    assert [float(row["start_s"]) for row in rows_of(out)] == pytest.approx([0, 0.016, 0.032, 0.048])
    notes = json.loads((out / "two.sigmf-meta").read_text())["annotations"]
    assert [note["core:sample_start"] for note in notes] == sorted(note["core:sample_start"] for note in notes)
    for note in notes:
        if note.get("core:generator"):
            begins, middle = (
                note["core:sample_start"],
                (note["core:freq_lower_edge"] + note["core:freq_upper_edge"]) / 2,
            )
            assert middle == (1e9 if begins < 8000 else 2e9)
            assert (begins < 8000) == (begins + note["core:sample_count"] <= 8000)
    assert sum("core:generator" not in note for note in notes) == 1


def test_raw_files_and_containers(tmp_path: Path, folders: Callable[[str], Path]) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    noise(8000).tofile(mine / "raw.cf32")
    np.save(mine / "array.npy", noise(8000))
    out, given = tmp_path / "out", ["--sample_rate", "250e3", "--center_frequency", "5e8"]
    command = ["predict", str(mine), "--model", str(folders("linear")), "--out", str(out), *given]
    assert main(command) == 0
    assert {path.name for path in mine.iterdir()} == {"raw.cf32", "array.npy"}
    raw, array = (json.loads((out / f"{name}.sigmf-meta").read_text()) for name in ("raw", "array"))
    assert (out / raw["global"]["core:dataset"]).resolve() == mine / "raw.cf32"
    np.testing.assert_array_equal(open_recording(out / "raw.sigmf-meta").load(0, 8000), noise(8000))
    assert array["global"]["core:metadata_only"] is True
    assert "core:dataset" not in array["global"]
    assert main(command) == 2
    assert main([*command, "--overwrite"]) == 0
    (out / "mine.txt").write_text("kept")
    assert main([*command, "--overwrite"]) == 2
    assert (out / "mine.txt").read_text() == "kept"


def test_reads_no_more_than_a_window_at_a_time(
    tmp_path: Path, folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    noise(120_000).tofile(tmp_path / "long.cf32")
    read, longest = Recording.read, []

    def spy(self: Recording, start: float = 0.0, duration: float | None = None) -> Capture:
        part = read(self, start, duration)
        longest.append(len(part.iq))
        return part

    monkeypatch.setattr(Recording, "read", spy)
    out = str(tmp_path / "out")
    module.predict([str(tmp_path / "long.cf32")], str(folders("linear")), out, sample_rate=RATE, hop=0.008)
    assert max(longest) == 4000
    assert len(longest) == len(rows_of(Path(out))) == 59


def test_an_interruption_leaves_nothing(
    tmp_path: Path, folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    noise(40_000).tofile(tmp_path / "long.cf32")
    calls, predict = [], HeadedModel.predict

    def interrupted(self: HeadedModel, x: torch.Tensor) -> Any:
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(self, x)

    monkeypatch.setattr(HeadedModel, "predict", interrupted)
    before = {path.name for path in tmp_path.iterdir()}
    command = ["predict", str(tmp_path / "long.cf32"), "--sample_rate", "250e3", "--batch_size", "2"]
    assert main([*command, "--model", str(folders("linear")), "--out", str(tmp_path / "out")]) == 130
    assert len(calls) == 3
    assert {path.name for path in tmp_path.iterdir()} == before


def test_errors_are_one_line(
    tmp_path: Path,
    folders: Callable[[str], Path],
    model: Path,
    encoder: SpectrogramEncoder,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, out = tmp_path / "good.cf32", tmp_path / "out"
    noise(8000).tofile(good)
    broken = noise(8000)
    broken[5000] = np.nan
    broken.tofile(tmp_path / "broken.cf32")
    (tmp_path / "empty").mkdir()
    twin = SpectrogramEncoder(
        replace(encoder.config), replace(encoder.recipe, short="error", sample_rate=1e6), 0.0, 6.0
    ).eval()
    strict = save_pretrained(headed(twin, "linear"), tmp_path / "strict")
    noise(1000).tofile(tmp_path / "short.cf32")
    linear = folders("linear")
    cases = [
        ([good], model, "without a head"),
        ([tmp_path / "empty"], linear, "holds no recording"),
        ([tmp_path / "broken.cf32"], linear, "broken.cf32: IQ sample 1000 is not finite"),
        ([tmp_path / "short.cf32"], strict, "at least 16000 samples"),
        ([tmp_path / "none.cf32"], linear, "none.cf32"),
        ([good], tmp_path / "nowhere", "nowhere"),
    ]
    for paths, folder, message in cases:
        given = [*map(str, paths), "--model", str(folder), "--out", str(out), "--sample_rate", "250e3"]
        assert main(["predict", *given]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("lwm: error: ")
        assert message in said
        assert not out.exists()
    assert main(["predict", str(good), "--model", str(linear), "--out", str(out), "--threshold", "2"]) == 2


def test_runs_are_joined_by_label_time_and_segment() -> None:
    def finding(start: float, label: str, sure: float, segment: int = 0) -> Finding:
        return Finding(start, start + 1, (-1, 1), label, sure, [], {label: sure}, segment)

    merger = RunMerger(True)
    given = [finding(0, "a", 0.5), finding(1, "a", 0.7), finding(2, "b", 1), finding(5, "b", 1), finding(6, "b", 1, 1)]
    runs = [run for one in given for run in merger.add(one)] + list(merger.end())
    assert [(run.start, run.stop, run.label) for run in runs] == [(0, 2, "a"), (2, 3, "b"), (5, 6, "b"), (6, 7, "b")]
    assert runs[0].names == {"a": pytest.approx(0.6)}


def test_boxes_are_cut_at_the_end_of_the_window_and_of_the_band() -> None:
    recipe = replace(recipe_named("small"), sample_rate=100.0, duration=2.0)
    head = load(HEADS, "detection")(TokenShape(16, (3, 4), (6, 8)), NAMES)
    places = torch.tensor([[[0.25, 0.5, 0.5, 1.0], [0.9, 0.5, 0.2, 0.1], [0.5, 0.5, 0.2, 0.2]]])
    boxes = Boxes(places, torch.tensor([[0, 1, 2]]), torch.tensor([[0.9, 0.9, 0.3]]))
    place = Place(10.0, 0.5, 50.0, None, 4)
    found = [finding for _, finding in Readout(head, recipe, 0.5).findings(boxes, [place])]
    # The second begins after the recording's end, the third is not sure enough; samples reach 25 Hz, the picture 50.
    assert [(one.start, one.stop, one.band, one.label) for one in found] == [(10.0, 10.5, (-25.0, 25.0), "a")]


def test_names_of_metadata_never_clash() -> None:
    paths = [Path("x/a.cf32"), Path("y/a.npy"), Path("x/B.wav"), Path("x/a.npy")]
    assert unique_names(paths) == ["x-a", "y-a", "B", "x-a-2"]
