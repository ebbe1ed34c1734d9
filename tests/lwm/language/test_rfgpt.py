"""The model: merging, places of RF tokens, generation, its folder."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lwm.data.dataset import SpectrogramDataset
from lwm.errors import ConfigError, ModelError
from lwm.hub import check_model, from_pretrained, save_pretrained
from lwm.language.llm import build_llm, llm_config
from lwm.language.merge import RFMerge
from lwm.language.rfgpt import RFGPT
from lwm.language.tokenizer import ChatTokenizer

QUESTIONS = ["Which technology is this?", "Sampled at 7.68 MHz. Is this downlink or uplink?", "What is the SNR?"]


@pytest.fixture(scope="module")
def model(world) -> RFGPT:
    """The trained model, from its folder."""
    return from_pretrained(world.model)


@pytest.fixture(scope="module")
def pictures(world) -> torch.Tensor:
    """Held-out pictures in dB."""
    return SpectrogramDataset(world.data, "test").batch(range(12))["spectrogram"]


def test_merging_averages_the_cells_of_the_grid() -> None:
    tokens = torch.randn(2, 8 * 4, 5)
    grid = tokens.reshape(2, 8, 4, 5)
    merged = RFMerge((8, 4), (2, 2))(tokens)
    assert merged.shape == (2, 4, 5)
    torch.testing.assert_close(merged[:, 1], grid[:, :4, 2:].mean((1, 2)))
    spread = RFMerge((8, 4), (2, 2), "mean_spread")(tokens)
    assert spread.shape == (2, 4, 10)
    torch.testing.assert_close(spread[..., :5], merged)
    torch.testing.assert_close(spread[:, 2, 5:], grid[:, 4:, :2].std(2, correction=0).mean(1), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("target", [(3, 2), (16, 16), (0, 1)])
def test_a_grid_that_cannot_be_cut_is_refused(target: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="token grid"):
        RFMerge((8, 8), target)


def test_rf_tokens_take_their_places_and_no_other(model: RFGPT, pictures: torch.Tensor) -> None:
    rf = model.encode(pictures[:2])
    ids = torch.tensor([model.chat.prompt(QUESTIONS[0], model.rf_tokens)] * 2)
    places = ids[0] == model.chat.rf_id
    embedded = model.embed(rf, ids)
    torch.testing.assert_close(embedded[:, places], model.adapter(rf))
    torch.testing.assert_close(embedded[:, ~places], model.llm.get_input_embeddings()(ids)[:, ~places])
    with pytest.raises(ModelError, match="places"):
        model.embed(rf[:, 1:], ids)


def test_a_padded_batch_gives_the_answers_of_single_questions(model: RFGPT, pictures: torch.Tensor) -> None:
    asked = [QUESTIONS[i % 3] for i in range(len(pictures))]
    together = model.answer(pictures, asked).texts
    single = [model.answer(pictures[i : i + 1], [asked[i]]).texts[0] for i in range(len(pictures))]
    assert together == single
    assert len(set(together)) >= 2


def test_padding_is_hidden_from_a_model_that_has_not_learned_to_overlook_it(
    model: RFGPT, pictures: torch.Tensor
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        fresh = RFGPT.build(model.tower, model.get_config()).eval()
    together = fresh.answer(pictures[:3], QUESTIONS, max_new_tokens=16).texts
    assert together == [fresh.answer(pictures[i : i + 1], [QUESTIONS[i]], 16).texts[0] for i in range(3)]


def test_left_padding_changes_no_logit(model: RFGPT, pictures: torch.Tensor) -> None:
    prompt = model.chat.prompt(QUESTIONS[0], model.rf_tokens)
    rf = model.encode(pictures[:1])
    plain = torch.tensor([prompt])
    padded = torch.tensor([[model.chat.pad_id] * 7 + prompt])
    mask = torch.tensor([[0] * 7 + [1] * len(prompt)])
    with torch.no_grad():
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        shifted = model.llm(inputs_embeds=model.embed(rf, padded), attention_mask=mask, position_ids=positions).logits
        whole = model(rf, plain, torch.ones_like(plain))
    torch.testing.assert_close(shifted[:, -1], whole[:, -1], atol=1e-4, rtol=1e-4)


def test_an_answer_that_was_cut_off_says_so(model: RFGPT, pictures: torch.Tensor) -> None:
    answers = model.answer(pictures[:2], ["Describe the capture.", QUESTIONS[0]], max_new_tokens=1)
    assert answers.complete == [False, False]
    assert model.answer(pictures[:1], [QUESTIONS[0]]).complete == [True]


def test_the_tower_is_frozen(world, model: RFGPT) -> None:
    tower = from_pretrained(world.tower).state_dict()
    for name, value in world.task.model.tower.state_dict().items():
        torch.testing.assert_close(value, tower[name], rtol=0, atol=0)
    assert not any(p.requires_grad for p in model.tower.parameters())
    assert not model.train().tower.training
    assert not model.eval().llm.training


def test_the_folder_gives_the_same_answers_in_a_fresh_process(
    world, model: RFGPT, pictures: torch.Tensor, tmp_path: Path
) -> None:
    again = save_pretrained(model, tmp_path / "again")
    assert check_model(again) == []
    assert not [path for path in again.iterdir() if path.suffix in (".pkl", ".pt", ".bin", ".pickle")]
    np.save(tmp_path / "x.npy", pictures[:3].numpy())
    code = (
        "import json, numpy, torch, lwm\n"
        f"model = lwm.from_pretrained({str(again)!r})\n"
        f"x = torch.from_numpy(numpy.load({str(tmp_path / 'x.npy')!r}))\n"
        f"print(json.dumps(model.answer(x, {QUESTIONS!r}).texts))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == world.task.model.eval().answer(pictures[:3], QUESTIONS).texts


def test_the_folder_gives_the_same_logits(world, model: RFGPT, pictures: torch.Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(model.golden(pictures), world.task.model.eval().golden(pictures))


def test_a_middle_layer_of_the_tower_is_what_encode_merges(model: RFGPT, pictures: torch.Tensor) -> None:
    shallow = RFGPT.build(model.tower, model.get_config() | {"layer": 0})
    tokens = model.tower.forward_intermediates(pictures, [0])[0]
    torch.testing.assert_close(shallow.encode(pictures), model.merge(tokens))


def test_configs_that_do_not_fit_are_refused(model: RFGPT) -> None:
    config = model.get_config()
    with pytest.raises(ModelError, match="labels"):
        RFGPT.from_config({k: v for k, v in config.items() if k != "labels"}, model.recipe)
    small = ChatTokenizer.train(["x"], 260)
    with pytest.raises(ModelError, match="vocabulary"):
        RFGPT(model.tower, build_llm("test", small.vocab_size - 1), small, {})


def test_any_causal_model_of_transformers_can_be_the_language_model() -> None:
    shape = {"n_embd": 32, "n_layer": 1, "n_head": 2, "model_type": "gpt2"}
    llm = build_llm(shape, 300)
    again = build_llm(json.loads(json.dumps(llm_config(llm))), 300)
    assert type(again) is type(llm)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in llm.state_dict().items()}
    for wrong in ("huge", {"model_type": "nothing"}, {"hidden_size": 3}, {"model_type": "vit"}):
        with pytest.raises(ConfigError, match="language model"):
            build_llm(wrong, 300)
