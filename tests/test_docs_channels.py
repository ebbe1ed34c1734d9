"""docs/channels.md: its table is that of the shipped sites, its code runs, its pictures can be drawn."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lwm.channel.impairments import FAMILIES
from lwm.channel.sites import SITES, site_table
from lwm.signal.recipe import recipe_named


@pytest.fixture(scope="module")
def drawing(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_channels", root / "docs" / "draw_channels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "channels.md").read_text()


def test_the_table_is_that_of_the_shipped_sites(drawing: ModuleType, page: str) -> None:
    for name in SITES:
        assert drawing.site_row(site_table(name)) in page


def test_every_family_and_every_picture_is_there(root: Path, page: str) -> None:
    assert all(f"`{name}`" in page for name in FAMILIES)
    pictures = re.findall(r"\(img/(\S+)\)", page)
    assert len(pictures) == len(SITES) + 1
    assert all((root / "docs" / "img" / name).is_file() for name in pictures)


def test_the_example_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    exec(compile(code[1], "docs/channels.md", "exec"), {})
    shape, achieved = re.match(r"\((\d+, \d+)\) (\S+)", capsys.readouterr().out).groups()
    assert shape.startswith("3, ")
    assert float(achieved) == pytest.approx(10, abs=0.2)


def test_pictures_can_be_drawn_and_levels_differ(drawing: ModuleType) -> None:
    assert len(drawing.site_figure(site_table(SITES[0])).axes) == 3
    capture = drawing.example()
    figure = drawing.impairments_figure(capture, ["dc_offset", "spurs"], (0.0, 1.0))
    assert len(figure.axes) == 4
    pictures = drawing.spectrograms(capture, "quantisation", (0.0, 1.0), recipe_named("small"))
    assert np.abs(pictures[1] - pictures[0]).mean() > 1
