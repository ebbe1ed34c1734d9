"""The example of docs/vision_tower.md runs, and is a LLaVA that looks at its spectrograms."""

import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lwm.hf import LWMModel
from lwm.models.encoder import EncoderConfig, SpectrogramEncoder
from lwm.signal.recipe import recipe_named


@pytest.fixture(scope="module")
def example(root: Path) -> dict[str, Any]:
    return runpy.run_path(str(root / "docs" / "llava_example.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = replace(recipe_named("small"), name="tiny", size=(32, 32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = SpectrogramEncoder(EncoderConfig(patch=8, width=32, depth=2, heads=2), recipe, -3.0, 6.0)
    target = tmp_path_factory.mktemp("tower") / "model"
    LWMModel.of(encoder).save_pretrained(target)
    return target


def test_it_learns_generates_and_keeps_the_tower_frozen(example: dict[str, Any], folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        found = example["run"](str(folder), steps=8)
    assert found["losses"][-1] < 0.8 * found["losses"][0]
    assert found["answer"].shape == (2, 4)
    model = found["model"]
    tower = model.model.vision_tower
    for weight, kept in zip(tower.parameters(), LWMModel.from_pretrained(folder).parameters(), strict=True):
        assert torch.equal(weight, kept)


@torch.no_grad()
def test_every_token_of_the_tower_stands_at_its_placeholder(example: dict[str, Any], folder: Path) -> None:
    """The logits are those of the language model fed by hand with words and projected tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = example["build"](str(folder)).eval()
        pictures = torch.randn(2, 1, 32, 32) * 8
    inputs = example["prompt"](model, [[5, 6], [7, 8]])
    tokens = model.model.vision_tower(pictures).last_hidden_state
    words = model.get_input_embeddings()(inputs["input_ids"])
    words[:, 1 : 1 + tokens.shape[1]] = model.model.multi_modal_projector(tokens)
    by_hand = model.lm_head(model.model.language_model(inputs_embeds=words).last_hidden_state)
    torch.testing.assert_close(model(**inputs, pixel_values=pictures).logits, by_hand)
    assert not torch.allclose(by_hand[0, -1], model(**inputs, pixel_values=pictures.flip(0)).logits[0, -1])


def test_a_saved_llava_brings_its_tower_along(example: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        model = example["build"](str(folder)).eval()
    model.save_pretrained(tmp_path / "llava")
    again = type(model).from_pretrained(tmp_path / "llava")
    inputs = example["prompt"](model, [[5, 6]])
    picture = torch.full((1, 1, 32, 32), -3.0)
    with torch.no_grad():
        assert torch.equal(model(**inputs, pixel_values=picture).logits, again(**inputs, pixel_values=picture).logits)
    model.activation_checkpointing_enable()
    assert model.model.vision_tower.encoder.grad_checkpointing


def test_the_page_shows_code_that_runs(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block, one after the other, in a folder where the model is called as on the page."""
    text = (root / "docs" / "vision_tower.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 2
    work = folder.parent
    (work / "runs").mkdir(exist_ok=True)
    if not (work / "runs" / "moe").exists():
        (work / "runs" / "moe").symlink_to(folder)
    monkeypatch.chdir(work)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/vision_tower.md", "exec"), names)
    assert names["tokens"].shape[1] == names["rows"] * names["columns"]
