"""The card says what is in the data set, and its snippet runs."""

import contextlib
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lwm.data.card import card, write_card
from lwm.data.check import check_dataset
from lwm.data.finish import finish_dataset
from lwm.data.manifest import Manifest
from lwm.data.shard import write_dataset
from lwm.signal.csi_recipe import CSI_PRESETS
from lwm.signal.recipe import PRESETS


@pytest.fixture
def finished(folder: Path) -> Path:
    """The data set of the 20 pictures with its card."""
    finish_dataset(folder, Manifest.load(folder))
    return folder


def test_card_counts_everything_and_is_part_of_the_data_set(finished: Path) -> None:
    text = (finished / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    found = yaml.safe_load(front)
    assert found["license"] == "unknown"
    assert found["size_categories"] == ["n<1K"]
    assert {"radio", "lte", "nr"} <= set(found["tags"])
    assert "20 samples of lte, nr in 6 shards" in body
    assert "| lte | 7 | 3 |" in body, "train before test"
    assert re.search(r"20 dB █+ 5\n", body)
    assert "No label has enough samples" in body
    assert "| floor_db | -40.0 |" in body
    assert check_dataset(finished) == []


def test_snippet_runs(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.parent)
    (code,) = re.findall(r"```python\n(.*?)```", (finished / "README.md").read_text(), re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue().startswith("14 ")


def test_sheet_shows_ten_different_samples(finished: Path) -> None:
    with Image.open(finished / "samples.png") as image:
        assert image.size == (1200, 480)
        pixels = np.asarray(image.convert("RGB"), np.int64)
    tiles = [pixels[top : top + 160, left : left + 190] for top in (60, 300) for left in range(30, 1200, 238)]
    assert len(tiles) == 10
    assert len({tile.tobytes() for tile in tiles}) == 10
    assert min(tile.std() for tile in tiles) > 20, "none is blank"


def test_same_data_give_the_same_card(finished: Path) -> None:
    before = [(finished / name).read_bytes() for name in ("README.md", "samples.png", "manifest.json")]
    finish_dataset(finished, Manifest.load(finished))
    assert [(finished / name).read_bytes() for name in ("README.md", "samples.png", "manifest.json")] == before


def test_marked_labels_stand_in_the_table(finished: Path) -> None:
    manifest = Manifest.load(finished)
    verdict = {"classes": 4, "train": 50, "scored": 40, "accuracy": 0.9, "majority": 0.3, "balanced": 0.88}
    manifest.audit = {"snr": verdict | {"chance": 0.25, "best": "guard band", "marked": True}}
    text = card("set", manifest)
    assert "| snr | 4 | 0.900 | 0.300 | 0.880 | 0.250 | 0.625 | **marked** (guard band) |" in text
    assert "50 to learn from, 40 scored" in text


def test_sites_are_attributed(finished: Path) -> None:
    manifest = Manifest.load(finished)
    for cities in (["munich"], ["florence"], ["etoile"], ["san_francisco"], ["munich", "florence"]):
        manifest.plan = {"channel": {"sites": {"train": cities, "test": ["munich"]}}}
        text = card("set", manifest)
        assert text.count("OpenStreetMap contributors") == 1
        assert text.count("openstreetmap.org/copyright") == 1
    manifest.plan = {"channel": {"draws": {"train": 3}}}
    assert "OpenStreetMap" not in card("set", manifest)


def test_licences_and_long_plans(finished: Path) -> None:
    manifest = Manifest.load(finished)
    manifest.licence, manifest.plan = "CC0-1.0", {"kind": "IQ recordings", "files": [f"{i}.bin" for i in range(1000)]}
    text = card("set", manifest)
    assert "license: cc0-1.0\n" in text
    assert "... 988 more" in text
    assert "Made by `lwm ingest` from recordings" in text
    manifest.licence = "ODbL-1.0"
    assert "license: odbl\n" in card("set", manifest)
    manifest.licence = "MIT; my own terms"
    assert 'license: other\nlicense_name: "MIT; my own terms"\n' in card("set", manifest)


def test_axes_are_named_with_their_units(finished: Path) -> None:
    manifest = Manifest.load(finished)
    text = card("set", manifest)
    assert "left to right, 16 ms; frequency runs upwards from -fs/2 to fs/2 about the centre frequency" in text
    assert "fs is the sample rate in Hz (`sample_rate` of each sample)" in text
    manifest.recipe = replace(PRESETS["small"], sample_rate=20e6, duration=5e-3).to_dict()
    text = card("set", manifest)
    assert "left to right, 5 ms" in text
    assert "fs is 20 MHz" in text
    manifest.recipe = CSI_PRESETS["csi"].to_dict()
    assert "subcarriers run upwards" in card("set", manifest)


def test_colours_and_turned_axes_are_drawn(tmp_path: Path) -> None:
    recipe = replace(PRESETS["small"], channels="viridis", axes="time-frequency", size=(8, 6))
    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, 6, 8)).astype(np.float32)
    write_dataset(tmp_path, pictures, recipe, {})
    assert write_card(tmp_path, Manifest.load(tmp_path)).is_file()
