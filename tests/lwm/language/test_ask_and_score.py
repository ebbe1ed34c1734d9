"""Questions about recordings and scores on held-out captures."""

from pathlib import Path

import numpy as np
import pytest

from lwm.cli import main
from lwm.data.dataset import SpectrogramDataset
from lwm.data.shard import write_dataset
from lwm.errors import CaptureError, ConfigError, DatasetError, ModelError, RecipeMismatch
from lwm.language.ask import MOST_WINDOWS, ask, windows
from lwm.language.instructions import Pair, parse_answer
from lwm.language.score import Scored, score, summary
from lwm.seeding import rng_for
from lwm.signal.io import open_recording
from lwm.signal.recipe import recipe_named

RATE = 1e6
QUESTION = "Which technology is this?"


def recording(path: Path, third: int, seconds: float) -> Path:
    """Noise in one third of the band: what the world calls alpha, beta or gamma."""
    count = round(seconds * RATE)
    spectrum = np.fft.fft(rng_for(third, "recording").normal(size=(count, 2)) @ [1, 1j])
    row = (np.fft.fftshift(np.fft.fftfreq(count)) + 0.5) * 64
    lit = np.fft.ifftshift((row >= 21 * third) & (row < 21 * third + 21))
    np.save(path, np.fft.ifft(spectrum * np.where(lit, 1.0, 0.03)).astype(np.complex64))
    return path


@pytest.mark.parametrize(("third", "said"), [(0, "alpha"), (1, "beta"), (2, "gamma")])
def test_a_recording_is_told_by_the_part_of_the_band_it_lights(world, tmp_path: Path, third: int, said: str) -> None:
    path = recording(tmp_path / "a.npy", third, 0.016)
    assert ask(str(world.model), str(path), QUESTION, sample_rate=RATE) == said


def test_a_long_recording_is_asked_in_windows_and_says_how_many_agree(
    world, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recording(tmp_path / "a.npy", 1, 0.0485)
    assert main(["ask", "--model", str(world.model), str(path), QUESTION, "--sample_rate", str(RATE)]) == 0
    assert capsys.readouterr().out.splitlines() == ["beta", "(3 of 3 windows say so)"]


def test_windows_of_a_very_long_recording_are_spread_over_it(world, tmp_path: Path) -> None:
    samples = np.ones(round(0.016 * RATE) * 40, np.complex64)
    np.save(tmp_path / "long.npy", samples)
    model = world.task.model
    assert windows(model, open_recording(tmp_path / "long.npy", RATE)).shape == (MOST_WINDOWS, 1, 64, 64)


def test_bad_input_is_named(world, tmp_path: Path) -> None:
    path = str(recording(tmp_path / "a.npy", 0, 0.016))
    model = str(world.model)
    with pytest.raises(CaptureError, match=r"missing\.npy"):
        ask(model, str(tmp_path / "missing.npy"), QUESTION, sample_rate=RATE)
    with pytest.raises(CaptureError, match="sample rate"):
        ask(model, path, QUESTION)
    with pytest.raises(ConfigError, match="empty question"):
        ask(model, path, "  ", sample_rate=RATE)
    with pytest.raises(ConfigError, match="<rf>"):
        ask(model, path, "Is this <rf>?", sample_rate=RATE)
    with pytest.raises(ModelError, match="'encoder'"):
        ask(str(world.tower), path, QUESTION, sample_rate=RATE)
    short = str(recording(tmp_path / "short.npy", 0, 1e-4))
    with pytest.raises(CaptureError, match=r"short\.npy.*at least"):
        ask(model, short, QUESTION, sample_rate=RATE)


def test_held_out_captures_are_told_right(world) -> None:
    found = score(str(world.model), str(world.data), seed=1)
    count = len(SpectrogramDataset(world.data, "test"))
    assert found["technology_accuracy"] >= 0.95
    assert found["link_accuracy"] >= 0.95
    assert found["technology_majority"] < 0.5 < found["link_majority"] < 0.8
    assert (found["questions"], found["samples"], found["parse_failures"]) == (2 * count, count, 0)
    assert sum(sum(row.values()) for row in found["confusion"].values()) == count
    again = score(str(world.model), str(world.data), seed=1)
    assert again == found


def test_the_limit_counts_questions(world) -> None:
    found = score(str(world.model), str(world.data), limit=11, kinds=("technology", "link", "json"))
    assert (found["questions"], found["samples"]) == (9, 3)
    with pytest.raises(ConfigError, match="limit 1"):
        score(str(world.model), str(world.data), limit=1)
    with pytest.raises(ConfigError, match="description"):
        score(str(world.model), str(world.data), kinds=("description",))


def test_what_cannot_be_read_is_counted_and_wrong() -> None:
    labels = {"technology": ["A", "B"]}

    def one(truth: str, said: str) -> Scored:
        return Scored(0, Pair("?", truth, "technology", {}), said, parse_answer(said, "technology", labels), truth)

    found = summary([one("A", "A"), one("A", "A!"), one("B", "A"), one("A", "")], ("technology",))
    assert found["parse_failures"] == 2
    assert found["technology_accuracy"] == 0.25
    assert found["technology_majority"] == 0.75
    assert found["confusion"] == {"A": {"A": 1, "unreadable": 2}, "B": {"A": 1}}
    with pytest.raises(DatasetError, match="link"):
        summary([one("A", "A")], ("link",))


def test_a_class_that_the_model_was_never_taught_is_lost_not_left_out(world, tmp_path: Path) -> None:
    picture = np.zeros((2, 1, 64, 64), np.float32)
    write_dataset(tmp_path, picture, recipe_named("small"), {"technology": ["delta"] * 2}, split="test")
    found = score(str(world.model), str(tmp_path), kinds=("technology",))
    assert (found["technology_accuracy"], found["questions"]) == (0.0, 2)


def test_data_of_another_recipe_are_refused(world, tmp_path: Path) -> None:
    picture = np.zeros((2, 1, 128, 128), np.float32)
    write_dataset(tmp_path, picture, recipe_named("lwm"), {"technology": ["alpha"] * 2}, split="test")
    with pytest.raises(RecipeMismatch, match="'lwm'"):
        score(str(world.model), str(tmp_path))
