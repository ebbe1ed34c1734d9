"""A folder of recordings becomes a head: split by recording, honest figures, errors that say what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from scipy.stats import binomtest

from lwm.cli import main
from lwm.data.manifest import Manifest
from lwm.errors import CaptureError, ConfigError, DatasetError, LWMError, ModelError, OutputError
from lwm.evaluation.own_data import is_own_data, own_data
from lwm.evaluation.own_splits import WindowTable, draw_folds
from lwm.hub import check_model, from_pretrained, save_pretrained, weights_sha256
from lwm.models.encoder import EncoderConfig, SpectrogramEncoder
from lwm.models.headed import HeadedModel
from lwm.proportions import wilson
from lwm.seeding import rng_for
from lwm.signal.capture import Capture
from lwm.signal.io import write_sigmf
from lwm.signal.recipe import Recipe

RATE = 250e3
READING = {"sample_rate": RATE}


def signal(kind: str, number: int, samples: int = 24_000, seed: int = 0) -> np.ndarray:
    """Noise, alone or with a band of noise that fills a share of the spectrum; 6 windows of 16 ms."""
    rng = rng_for(seed, "test", "own", kind, number)
    white = rng.normal(size=(2, samples))
    noise = (white[0] + 1j * white[1]) * 0.03
    if kind == "noise":
        return noise.astype(np.complex64)
    spectrum = np.fft.fft(rng.normal(size=samples) + 1j * rng.normal(size=samples))
    spectrum[np.abs(np.fft.fftfreq(samples)) > (0.05 if kind == "narrow" else 0.3)] = 0
    return (0.2 * np.fft.ifft(spectrum) + noise).astype(np.complex64)


def record(folder: Path, number: int, iq: np.ndarray) -> None:
    """A recording in one of four formats by its number."""
    folder.mkdir(parents=True, exist_ok=True)
    if number % 4 == 0:
        write_sigmf(Capture(iq, RATE, 1e9), folder / f"r{number}")
    elif number % 4 == 1:
        np.save(folder / f"r{number}.npy", iq)
    elif number % 4 == 2:
        iq.tofile(folder / f"r{number}.cf32")
    else:
        wavfile.write(folder / f"r{number}.wav", int(RATE), iq.view(np.float32).reshape(-1, 2))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, small_recipe: Recipe) -> Path:
    """A tiny encoder with the same weights whatever runs before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        config = EncoderConfig(patch=8, width=32, depth=2, heads=2)
        encoder = SpectrogramEncoder(config, small_recipe, 0.0, 6.0).eval()
    return save_pretrained(encoder, tmp_path_factory.mktemp("own") / "model")


@pytest.fixture
def recordings(tmp_path: Path) -> Callable[..., Path]:
    """A folder with so many recordings a class."""

    def make(**counts: int) -> Path:
        for kind, count in counts.items():
            for number in range(count):
                record(tmp_path / "mine" / kind, number, signal(kind, number))
        return tmp_path / "mine"

    return make


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets without audit and card, which take longer than all the rest and have tests of their own."""
    monkeypatch.setattr("lwm.data.audit.audit", lambda *_: {})
    monkeypatch.setattr("lwm.data.card.write_card", lambda *_: None)


def test_one_command_gives_a_head_that_predicts(
    recordings: Callable[..., Path], tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, out = recordings(noise=4, narrow=4, wide=4), tmp_path / "out"
    weights = weights_sha256(from_pretrained(model))
    results = own_data(str(model), str(mine), str(out), reading=READING)
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results))
    encoder, random, statistics = results["contestants"]
    assert [one["key"] for one in results["contestants"]] == ["encoder", "random", "statistics"]
    assert results["recordings"] == {"narrow": 4, "noise": 4, "wide": 4}
    assert results["windows"] == 72
    # Every recording is tested once: the rows of the confusion matrix are the recordings of the classes.
    assert np.sum(encoder["confusion"], axis=1).tolist() == [4, 4, 4]
    right = np.trace(encoder["confusion"])
    assert encoder["recording_accuracy"] == right / 12
    assert right >= 11  # the bands differ plainly
    assert encoder["recording_interval"] == pytest.approx(list(binomtest(right, 12).proportion_ci(method="wilson")))
    assert statistics["recording_accuracy"] == 1
    assert any("adds nothing" in text for text in results["warnings"])
    report = (out / "report.md").read_text()
    assert "encoder, random weights" in report
    assert f"{100 * random['window_accuracy']:.1f} %" in report
    # The head is sound, its encoder is the given one, and the command it names runs on recordings it never saw.
    assert check_model(out / "head") == []
    headed = from_pretrained(out / "head")
    assert isinstance(headed, HeadedModel)
    assert headed.head.targets == ("narrow", "noise", "wide")
    assert weights_sha256(headed.encoder) == weights
    for kind in ("noise", "narrow", "wide"):
        record(tmp_path / "new", {"noise": 2, "narrow": 6, "wide": 10}[kind], signal(kind, 99))
    given = [str(tmp_path / "new"), "--model", str(out / "head"), "--out", str(tmp_path / "said")]
    assert main(["predict", *given, "--sample_rate", "1e6"]) == 0
    assert "no sample rate that the head learnt from (250000 Hz)" in capsys.readouterr().out
    assert main(["predict", *given, "--sample_rate", "250e3", "--overwrite"]) == 0
    assert "no sample rate" not in capsys.readouterr().out
    found = json.loads((tmp_path / "said" / "predictions.json").read_text())["recordings"]
    best = {Path(one["recording"]).stem: max(one["labels"], key=one["labels"].get) for one in found}
    assert sum(best[name] == kind for name, kind in (("r2", "noise"), ("r6", "narrow"), ("r10", "wide"))) >= 2


@pytest.mark.usefixtures("no_card")
def test_labels_without_meaning_are_learnt_at_chance(tmp_path: Path, model: Path) -> None:
    for name in ("one", "other"):
        for number in range(10):
            iq = signal("narrow", number + 100 * (name == "other"), 8000)
            (tmp_path / "mine" / name).mkdir(parents=True, exist_ok=True)
            iq.tofile(tmp_path / "mine" / name / f"r{number}.cf32")
    results = own_data(str(model), str(tmp_path / "mine"), str(tmp_path / "out"), reading=READING)
    # 20 fair coins: fewer than 3 or more than 17 right have a probability of 4e-4 (two-sided), for each contestant.
    for one in results["contestants"]:
        assert 3 <= one["recording_accuracy"] * 20 <= 17
    assert results["folds"] == 5


@pytest.mark.usefixtures("no_card")
def test_too_few_recordings_are_refused_or_cut_in_time_and_said(
    recordings: Callable[..., Path], tmp_path: Path, model: Path
) -> None:
    mine = recordings(noise=3, wide=1)
    with pytest.raises(DatasetError, match="'wide' has 1.*3 a class.*--split-within-recordings"):
        own_data(str(model), str(mine), str(tmp_path / "out"), reading=READING)
    assert not (tmp_path / "out").exists()
    signal("wide", 0, 60_000).tofile(mine / "wide" / "r0.cf32")
    for old in (mine / "wide").glob("r0.sigmf-*"):
        old.unlink()
    own = own_data(str(model), str(mine), str(tmp_path / "out"), split_within_recordings=True, reading=READING)
    assert own["cut_in_time"] == ["wide"]
    assert own["warnings"][0].startswith("OPTIMISTIC: wide")
    assert "> **OPTIMISTIC: wide" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.usefixtures("no_card")
def test_a_head_trained_by_gradient_leaves_the_encoder_alone(
    recordings: Callable[..., Path], tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwm.evaluation.own_contest._STEPS", 100)
    mine, out = recordings(noise=3, wide=3), tmp_path / "out"
    results = own_data(str(model), str(mine), str(out), head="attention", reading=READING)
    headed = from_pretrained(out / "head")
    assert headed.head.head_type == "attention"
    assert weights_sha256(headed.encoder) == weights_sha256(from_pretrained(model))
    assert results["contestants"][0]["window_accuracy"] > 0.7
    assert {tuple(one) for one in results["contestants"][0]["chosen"]} == {("epoch",)}
    with pytest.raises(ConfigError, match="'regression' is for regression.*linear"):
        own_data(str(model), str(mine), str(tmp_path / "x"), head="regression", reading=READING)


@pytest.mark.usefixtures("no_card")
def test_an_interrupted_run_goes_on_with_its_data_set(
    recordings: Callable[..., Path], tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, out = recordings(noise=3, wide=3), tmp_path / "out"

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("lwm.evaluation.own_data._contest", stop)
        with pytest.raises(KeyboardInterrupt):
            own_data(str(model), str(mine), str(out), reading=READING)
    assert sorted(path.name for path in out.iterdir()) == ["data"]
    with pytest.raises(OutputError, match="not empty"):
        own_data(str(model), str(mine), str(out), reading=READING)
    with pytest.raises(ConfigError, match="hop"):
        own_data(str(model), str(mine), str(out), resume=True, reading=READING | {"hop": 0.008})
    made = (out / "data" / "manifest.json").stat().st_mtime_ns
    first = own_data(str(model), str(mine), str(out), resume=True, reading=READING)
    assert (out / "data" / "manifest.json").stat().st_mtime_ns == made
    again = own_data(str(model), str(mine), str(out), overwrite=True, reading=READING)
    assert again["contestants"] == first["contestants"]


@pytest.mark.usefixtures("no_card")
def test_receiver_settings_that_give_the_class_away_are_said(tmp_path: Path, model: Path) -> None:
    for name, center in (("one", 1e9), ("other", 2e9)):
        for number in range(3):
            capture = Capture(signal("wide", number + 10 * (name == "one"), 8000), RATE, center)
            (tmp_path / "mine" / name).mkdir(parents=True, exist_ok=True)
            write_sigmf(capture, tmp_path / "mine" / name / f"r{number}")
    results = own_data(str(model), str(tmp_path / "mine"), str(tmp_path / "out"))
    assert any(
        "center frequency alone tells classes apart (one 1e+09; other 2e+09 Hz)" in w for w in results["warnings"]
    )


@pytest.mark.usefixtures("no_card")
@pytest.mark.parametrize("case", ["empty", "one", "none", "bare", "case", "copy", "nan", "inside", "head", "csi"])
def test_errors_say_what_to_do(case: str, recordings: Callable[..., Path], tmp_path: Path, model: Path) -> None:
    mine, out, used, kind, message = recordings(noise=3, wide=3), tmp_path / "out", model, ConfigError, ""
    if case == "empty":
        shutil.rmtree(mine)
        mine.mkdir()
        message = "holds no folder"
    elif case == "one":
        shutil.rmtree(mine / "wide")
        message = "one class folder"
    elif case == "none":
        (mine / "notes").mkdir()
        (mine / "notes" / "read.txt").write_text("nothing")
        message = "notes holds no readable recording"
    elif case == "bare":
        signal("noise", 50).tofile(mine / "lost.cf32")
        message = "lost.cf32 lies in no class folder"
    elif case == "case":
        record(mine / "Noise", 2, signal("noise", 60))
        message = "names that differ"
    elif case == "copy":
        shutil.copy(mine / "noise" / "r2.cf32", mine / "wide" / "r7.cf32")
        message = "is a copy of"
    elif case == "nan":
        iq = signal("noise", 70)
        iq[9000] = np.nan
        iq.tofile(mine / "noise" / "r6.cf32")
        kind, message = CaptureError, "r6.cf32: IQ sample 1000 is not finite"
    elif case == "inside":
        out, kind, message = mine / "out", OutputError, "outside of the recordings'"
    elif case == "head":
        own_data(str(model), str(mine), str(out), reading=READING)
        used, out, kind, message = out / "head", tmp_path / "more", ModelError, "an encoder"
    else:
        for number in range(3):
            for name in ("noise", "wide"):
                next((mine / name).glob(f"r{number}.*")).unlink()
                np.savez(mine / name / f"c{number}.npz", csi=np.full((50, 30), 10 * len(name) + number, np.complex64))
        for left in mine.rglob("*.sigmf-data"):
            left.unlink()
        for left in mine.rglob("*.sigmf-meta"):
            left.unlink()
        kind, message = ModelError, "one for CSI"
    with pytest.raises(kind, match=message) as raised:
        own_data(str(used), str(mine), str(out), reading=READING)
    assert isinstance(raised.value, LWMError)
    assert "\n" not in str(raised.value)
    assert not out.exists() or case == "inside"


@pytest.mark.usefixtures("no_card")
def test_copies_and_formats_of_a_recording_stay_together(
    recordings: Callable[..., Path], tmp_path: Path, model: Path
) -> None:
    mine = recordings(noise=3, wide=3)
    shutil.copy(mine / "noise" / "r2.cf32", mine / "noise" / "z.cf32")
    signal("noise", 2)[:12_000].tofile(mine / "noise" / "r1.cf32")
    results = own_data(str(model), str(mine), str(tmp_path / "out"), reading=READING)
    assert results["recordings"] == {"noise": 3, "wide": 3}
    assert Manifest.load(tmp_path / "out" / "data").count == results["windows"] == 36 + 6 + 3


def table(counts: list[int], windows: int = 6, duration: float = 0.016) -> WindowTable:
    """Recordings of classes, all of so many windows that follow each other."""
    names = [f"c{code}" for code in range(len(counts))]
    owner = np.repeat(np.arange(sum(counts)), windows)
    codes = np.repeat(np.repeat(np.arange(len(counts)), counts), windows)
    starts = np.tile(np.arange(windows) * duration, sum(counts))
    return WindowTable(names, codes, [f"r{number}" for number in range(sum(counts))], owner, starts, duration)


def test_no_recording_is_on_two_sides_and_each_is_tested_once() -> None:
    whole = table([3, 5, 11])
    folds = draw_folds(whole, seed=3)
    assert (len(folds.parts), folds.cut) == (3, [])
    tested = np.concatenate([parts["test"] for parts in folds.parts])
    assert sorted(tested.tolist()) == list(range(len(whole.codes)))
    for parts in folds.parts:
        sides = [set(whole.of[windows].tolist()) for windows in parts.values()]
        assert sum(map(len, sides)) == len(set().union(*sides)) == 19
        assert all(set(whole.codes[windows].tolist()) == {0, 1, 2} for windows in parts.values())
    again, other = draw_folds(whole, seed=3), draw_folds(whole, seed=4)
    assert all(np.array_equal(a["test"], b["test"]) for a, b in zip(folds.parts, again.parts, strict=True))
    assert any(not np.array_equal(a["test"], b["test"]) for a, b in zip(folds.parts, other.parts, strict=True))


def test_parts_of_one_recording_are_a_window_apart() -> None:
    whole = table([1, 4], windows=40)
    folds = draw_folds(whole, seed=0, within=True)
    assert folds.cut == ["c0"]
    for parts in folds.parts:
        times = {part: whole.starts[windows[whole.codes[windows] == 0]] for part, windows in parts.items()}
        assert all(len(found) for found in times.values())
        for one in times:
            for other in set(times) - {one}:
                gap = np.abs(times[one][:, None] - times[other]).min() - whole.duration
                assert gap >= whole.duration * (1 - 1e-6)
    with pytest.raises(DatasetError, match=r"r0 of 0.096 s is too short.*0\.192 s or more"):
        draw_folds(table([1, 4]), seed=0, within=True)
    enough = table([1, 4], windows=12)
    assert all(len(parts["train"]) for parts in draw_folds(enough, seed=0, within=True).parts)


def test_wilson_is_scipys() -> None:
    for right, count in ((0, 3), (2, 3), (7, 12), (40, 40)):
        expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
        assert wilson(right, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_only_a_folder_without_manifest_is_own_data(data: Path, tmp_path: Path) -> None:
    assert is_own_data(str(tmp_path))
    assert not is_own_data(str(data))
    assert not is_own_data(str(tmp_path / "nowhere"))
