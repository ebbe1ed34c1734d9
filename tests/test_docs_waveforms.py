"""docs/waveforms.md: its code runs, its pictures can be drawn, its boxes hold the energy, few draws are rejected."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lwm.signal.capture import Capture
from lwm.technology import technology, technology_names


@pytest.fixture(scope="module")
def drawing(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_waveforms", root / "docs" / "draw_waveforms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "waveforms.md").read_text()


def test_the_code_of_the_page_runs(page: str) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "docs/waveforms.md", "exec"), {"print": lambda *_: None})


def test_every_technology_has_its_picture(root: Path, page: str) -> None:
    pictures = re.findall(r"\(img/(\S+)\)", page)
    assert sorted(pictures) == [f"waveforms-{name}.png" for name in ("lte", "nr", "wlan")]
    assert all((root / "docs" / "img" / name).is_file() for name in pictures)


@pytest.mark.parametrize("name", technology_names())
def test_draws_are_rejected_no_oftener_than_the_page_says(drawing: ModuleType, page: str, name: str) -> None:
    maker = technology(name)
    found = re.search(rf"^\| {re.escape(maker.title)} \| (\d+) of (\d+) \|$", page, re.MULTILINE)
    assert found is not None
    assert int(found[2]) == drawing.COUNTED
    # The first of the very draws that the page counts.
    assert drawing.rejected(maker, 12) <= int(found[1])


@pytest.mark.parametrize("name", technology_names())
def test_the_union_of_the_boxes_holds_the_picture(drawing: ModuleType, name: str) -> None:
    """99 % of the power of the spectrogram in cells that a box touches."""
    shares = []
    for number in range(2):
        capture: Capture = drawing.drawn(technology(name), number, 1e-3)
        power = 10 ** (drawing.spectrogram(capture) / 10)
        rows, columns = power.shape
        frequency = (np.arange(rows) - rows // 2) * capture.sample_rate / rows
        time = np.arange(columns) / max(1, columns - 1) * capture.duration
        inside = np.zeros(power.shape, dtype=bool)
        cell, step = capture.sample_rate / rows, capture.duration / max(1, columns - 1)
        for box in capture.emissions:
            held = (frequency > box.low - cell) & (frequency < box.high + cell)
            inside |= held[:, None] & (time > box.start - step) & (time < box.stop + step)
        shares.append(power[inside].sum() / power.sum())
        assert len(capture.emissions)
    assert min(shares) > 0.99


def test_a_gallery_has_an_axis_and_boxes_for_each_draw(drawing: ModuleType) -> None:
    figure = drawing.gallery(technology("wlan"), 2)
    assert len(figure.axes) == 2
    assert all(len(axis.patches) and "MHz" in axis.get_title() for axis in figure.axes)
