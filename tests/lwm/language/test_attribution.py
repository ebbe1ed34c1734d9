"""The map of an answer peaks where the answer comes from, adds up, and agrees with hiding patches one by one."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lwm.errors import CaptureError, ConfigError
from lwm.language.attribution import attribute, attribution_figure, draw_attribution
from lwm.language.chat import Turn
from lwm.language.llm import build_llm
from lwm.language.rfgpt import RFGPT
from lwm.language.tokenizer import ChatTokenizer
from lwm.models.encoder import EncoderConfig, SpectrogramEncoder, patchify
from lwm.signal.recipe import Recipe, recipe_named

RECIPE = replace(recipe_named("small"), name="tiny", size=(32, 32))
QUESTION = "Which technology is this?"
PLACE = (1, 6)


class OnePatch(nn.Module):
    """A tower that is blind but for one patch of 4 x 4 cells."""

    model_type: ClassVar[str] = "blind"
    grid_size = (8, 8)
    num_features = 16
    num_prefix_tokens = 0

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.weights = nn.Linear(16, 16)

    def forward_features(self, x: Tensor) -> Tensor:
        sees = torch.zeros(8, 8)
        sees[PLACE] = 1.0
        return torch.tanh(self.weights(patchify(x, 4) / 10)) * sees.flatten()[:, None]


def model_of(tower: Any) -> RFGPT:
    """Fresh weights around a tower."""
    chat = ChatTokenizer.train([QUESTION, "LTE", "5G NR"], 300)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return RFGPT(tower, build_llm("test", chat.vocab_size), chat, {"technology": ["LTE", "5G NR"]}, (4, 4)).eval()


@pytest.fixture(scope="module")
def model() -> RFGPT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_of(SpectrogramEncoder(EncoderConfig(patch=8, width=32, depth=2, heads=2), RECIPE, -3.0, 6.0))


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 5


@pytest.mark.parametrize("steps", [1, 8])
def test_an_answer_of_one_patch_leans_on_that_patch_alone(pictures: Tensor, steps: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blind = model_of(OnePatch(RECIPE))
    found = attribute(blind, pictures[:1], QUESTION, "LTE", steps=steps)
    assert found.cells.shape == (8, 8)
    elsewhere = found.cells.copy()
    elsewhere[PLACE] = 0
    assert not elsewhere.any()
    assert abs(found.cells[PLACE]) > 1e-6


def test_cells_add_up_to_what_the_picture_did_for_the_answer(model: RFGPT, pictures: Tensor) -> None:
    """Completeness of integrated gradients: a closed form for their sum."""
    found = attribute(model, pictures[:1], QUESTION, "5G NR", steps=64)
    gained = found.log_probability - found.without
    assert abs(gained) > 0.01
    assert float(found.cells.sum()) == pytest.approx(gained, rel=0.02)


def test_the_log_probability_is_that_of_the_answer(model: RFGPT, pictures: Tensor) -> None:
    made = model.answer(pictures[:1], [QUESTION], 8)
    found = attribute(model, pictures[:1], QUESTION, max_new_tokens=8)
    assert found.answer == made.texts[0]
    told = model.chat.pair(QUESTION, "LTE", model.rf_tokens)[0]
    ids = torch.tensor([told])
    with torch.no_grad():
        logits = model(model.encode(pictures[:1]), ids, torch.ones_like(ids)).log_softmax(-1)[0]
    asked = len(model.chat.prompt(QUESTION, model.rf_tokens))
    wanted = sum(float(logits[place - 1, told[place]]) for place in range(asked, len(told)))
    assert attribute(model, pictures[:1], QUESTION, "LTE", steps=1).log_probability == pytest.approx(wanted, abs=1e-4)


def test_it_agrees_with_hiding_one_patch_after_the_other(model: RFGPT, pictures: Tensor) -> None:
    """Occlusion, a second way: the answer's log probability falls by about what a patch contributed."""
    picture = pictures[:1].clone()
    found = attribute(model, picture, QUESTION, "LTE", steps=32)
    fallen = np.zeros_like(found.cells)
    for row in range(4):
        for column in range(4):
            hidden = picture.clone()
            hidden[..., 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = picture.median()
            other = attribute(model, hidden, QUESTION, "LTE", steps=1).log_probability
            fallen[row, column] = found.log_probability - other
    assert np.corrcoef(fallen.ravel(), found.cells.ravel())[0, 1] > 0.6


def test_the_second_of_two_captures_is_explained_and_nothing_is_left_behind(model: RFGPT, pictures: Tensor) -> None:
    turns = [Turn("user", QUESTION, 2)]
    first = attribute(model, pictures, turns, "LTE", capture=0, steps=2)
    second = attribute(model, pictures, turns, "LTE", capture=1, steps=2)
    assert first.log_probability == pytest.approx(second.log_probability, abs=1e-5)
    assert not np.allclose(first.cells, second.cells)
    assert not model.tower_trains
    assert all(weight.grad is None for weight in model.parameters())


def test_the_drawing_is_red_for_the_answer_and_blue_against_it(model: RFGPT, pictures: Tensor, tmp_path: Path) -> None:
    found = attribute(model, pictures[:1], QUESTION, "LTE", steps=1)
    cells = np.zeros_like(found.cells)
    cells[3, 0], cells[0, 1] = 0.5, -1.0
    path = draw_attribution(tmp_path / "a.png", pictures[0], found._replace(cells=cells, answer="a $b$ \x0b"), RECIPE)
    assert Image.open(path).size[0] > 300
    figure = attribution_figure(pictures[0], found._replace(cells=cells), RECIPE, 1e6)
    heat = np.asarray(figure.axes[0].images[-1].get_array())
    # Row 3 is the highest quarter of the band, drawn upwards from the lower edge.
    assert heat.shape == (32, 32)
    assert (heat[24:, :8] == 0.5).all()
    assert (heat[:8, 8:16] == -1).all()
    assert np.count_nonzero(heat) == 128
    drawn = figure.axes[0].images[-1].to_rgba(heat)
    assert drawn[30, 0, 0] > drawn[30, 0, 2]
    assert drawn[0, 8, 2] > drawn[0, 8, 0]
    assert found._replace(cells=cells).peak == (3, 0)


def test_bad_input_is_refused(model: RFGPT, pictures: Tensor) -> None:
    with pytest.raises(ConfigError, match="capture 1 of 1"):
        attribute(model, pictures[:1], QUESTION, "LTE", capture=1)
    with pytest.raises(ConfigError, match="0 steps"):
        attribute(model, pictures[:1], QUESTION, "LTE", steps=0)
    with pytest.raises(ConfigError, match="empty"):
        attribute(model, pictures[:1], QUESTION, " ")
    with pytest.raises(CaptureError, match="not finite"):
        attribute(model, pictures[:1] * np.nan, QUESTION, "LTE")
