"""``lwm doctor`` on model folders: the exit code, and a line for each thing that is wrong."""

from pathlib import Path

import pytest

from lwm.cli import main
from lwm.hub import CHECKED_FILES, save_pretrained
from lwm.models.encoder import build_encoder
from lwm.signal.recipe import recipe_named


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_pretrained(build_encoder("tiny", recipe_named("small"), -10, 8, "lte", 1), tmp_path / "lte")


def test_sound_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(folder)]) == 0
    assert capsys.readouterr().out.strip().endswith(": sound")


@pytest.mark.parametrize("name", CHECKED_FILES)
@pytest.mark.parametrize("place", [0.3, 0.6, 0.99])
def test_changed_byte(folder: Path, capsys: pytest.CaptureFixture[str], name: str, place: float) -> None:
    content = bytearray((folder / name).read_bytes())
    content[int(place * len(content))] ^= 0x10
    (folder / name).write_bytes(content)
    assert main(["doctor", str(folder)]) == 1
    said = capsys.readouterr().out
    assert f"{folder / name} was changed since it was written" in said
    assert "Traceback" not in said


def test_card_may_be_edited(folder: Path) -> None:
    with (folder / "README.md").open("a") as card:
        card.write("More about it.")
    assert main(["doctor", str(folder)]) == 0


def test_no_provenance(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "provenance.json").unlink()
    assert main(["doctor", str(folder)]) == 1
    assert "provenance.json is missing" in capsys.readouterr().out
