"""Recordings that cannot be used are shown with the reason; they never stop the demo."""

import json
from pathlib import Path

import numpy as np

from lwm.demo.recordings import find_recordings, readable
from lwm.signal.capture import Capture
from lwm.signal.io import write_sigmf
from lwm.signal.recipe import recipe_named


def noise(samples: int) -> Capture:
    """A capture of white noise at 2 Msamples/s."""
    rng = np.random.default_rng(0)
    return Capture(rng.standard_normal(samples) + 1j * rng.standard_normal(samples), 2e6)


def test_each_bad_recording_has_a_row_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "captures"
    folder.mkdir()
    good = write_sigmf(noise(40_000), folder / "good")
    write_sigmf(noise(100), folder / "short")
    rateless = write_sigmf(noise(40_000), folder / "rateless")
    content = json.loads(rateless.read_text())
    del content["global"]["core:sample_rate"]
    rateless.write_text(json.dumps(content))
    files, rows = readable(find_recordings(tmp_path), recipe_named("small"))
    assert files == [good]
    reasons = {row["file"]: row["answer"] for row in rows}
    assert "at least 256 samples" in reasons["short.sigmf-meta"]
    assert "no sample rate" in reasons["rateless.sigmf-meta"]


def test_no_folder_no_recordings(tmp_path: Path) -> None:
    assert find_recordings(tmp_path / "nothing") == []
