"""Answers token by token, beside transformers' own generation and recomputation without a cache."""

import math
from collections.abc import Iterator

import pytest
import torch

from lwm.errors import ConfigError
from lwm.language.chat import Turn
from lwm.language.decoding import Decoding
from lwm.language.llm import LLM_SIZES, build_llm
from lwm.language.rfgpt import RFGPT
from lwm.language.tokenizer import ChatTokenizer
from lwm.models.encoder import build_encoder
from lwm.signal.recipe import recipe_named

QUESTIONS = ["Which technology is this?", "Why?", "Is the link that we see here downlink or uplink, and since when?"]
SHAPES = {
    "qwen2": "test",
    "llama": {key: value for key, value in LLM_SIZES["test"].items() if key != "model_type"}
    | {"model_type": "llama", "num_key_value_heads": 2, "max_position_embeddings": 1024},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.2},
}


@pytest.fixture(scope="module", params=[*SHAPES])
def model(request: pytest.FixtureRequest) -> Iterator[RFGPT]:
    """A model of fresh weights, which has no habit that could hide a mistake."""
    chat = ChatTokenizer.train(QUESTIONS, 320)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        llm = build_llm(SHAPES[request.param], chat.vocab_size)
        yield RFGPT(build_encoder("tiny", recipe_named("small"), seed=1), llm, chat, {}, (2, 2)).eval()


@pytest.fixture(scope="module")
def rf(model: RFGPT) -> torch.Tensor:
    """RF tokens of three captures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12)
        return model.encode(20 * torch.randn(3, 1, 64, 64) - 20)


def recomputed(model: RFGPT, rf: torch.Tensor, question: str, count: int) -> tuple[list[int], float]:
    """Greedy tokens and their log-probability, the whole conversation computed anew for each; one at a time."""
    ids, made, total = model.chat.prompt(question, model.rf_tokens), [], 0.0
    with torch.no_grad():
        while len(made) < count and (not made or made[-1] not in model.chat.end_ids):
            given = torch.tensor([ids + made])
            likely = model(rf, given, torch.ones_like(given))[0, -1].log_softmax(0)
            made.append(int(likely.argmax()))
            total += float(likely[made[-1]])
    return made, total


def test_answers_are_those_of_recomputation_without_a_cache(model: RFGPT, rf: torch.Tensor) -> None:
    together = model.generate(rf, QUESTIONS, 12)
    for row, question in enumerate(QUESTIONS):
        made, total = recomputed(model, rf[row : row + 1], question, 12)
        assert together.texts[row] == model.chat.decode(made)
        assert together.tokens[row] == len(made)
        assert together.log_probabilities[row] == pytest.approx(total, abs=1e-3)
        assert together.complete[row] == (made[-1] in model.chat.end_ids)
        single = model.generate(rf[row : row + 1], [question], 12)
        assert single.texts == [together.texts[row]]
        assert single.log_probabilities[0] == pytest.approx(together.log_probabilities[row], abs=1e-3)


def test_answers_are_those_of_transformers(model: RFGPT, rf: torch.Tensor) -> None:
    prompts = [model.chat.prompt(question, model.rf_tokens) for question in QUESTIONS]
    longest = max(map(len, prompts))
    ids = torch.tensor([[model.chat.pad_id] * (longest - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    with torch.no_grad():
        theirs = model.llm.generate(
            inputs_embeds=model.embed(rf, ids),
            attention_mask=mask,
            max_new_tokens=10,
            do_sample=False,
            eos_token_id=sorted(model.chat.end_ids),
            pad_token_id=model.chat.pad_id,
        ).tolist()
    assert model.generate(rf, QUESTIONS, 10).texts == [model.chat.decode(row) for row in theirs]


def test_many_answers_to_one_capture_encode_it_once(model: RFGPT, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plain = model.tower.forward_features

    def counted(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return plain(x)

    monkeypatch.setattr(model.tower, "forward_features", counted)
    one = model.encode(torch.zeros(1, 1, 64, 64))
    asked = [QUESTIONS[number % 3] for number in range(10)]
    together = model.generate(one, asked, 5, captures=[[0]] * 10)
    assert seen == [1]
    assert together.texts == model.generate(one.expand(10, -1, -1), asked, 5).texts


def test_a_processor_sees_what_was_made_and_decides_what_comes(model: RFGPT, rf: torch.Tensor) -> None:
    wanted = [*model.chat.encode("Why?"), *model.chat.end_ids]
    given: list[torch.Tensor] = []

    def force(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        given.append(input_ids.clone())
        only = torch.full_like(scores, -math.inf)
        only[:, wanted[input_ids.shape[1]]] = 0
        return only

    answers = model.generate(rf, QUESTIONS, 20, logits_processors=[force])
    assert answers.texts == ["Why?"] * 3
    assert answers.complete == [True] * 3
    assert [ids.tolist() for ids in given] == [[wanted[:step]] * 3 for step in range(len(wanted))]
    # What the model itself gave these tokens, not what the processor made of it.
    ids = model.chat.prompt(QUESTIONS[0], model.rf_tokens)
    with torch.no_grad():
        whole = torch.tensor([ids + wanted])
        likely = model(rf[:1], whole, torch.ones_like(whole))[0, len(ids) - 1 : -1].log_softmax(-1)
    total = float(likely.gather(1, torch.tensor(wanted)[:, None]).sum())
    assert answers.log_probabilities[0] == pytest.approx(total, abs=1e-3)


class Kept:
    """Keeps what is streamed."""

    def __init__(self) -> None:
        self.tokens: list[list[int]] = []
        self.ends = 0

    def put(self, value: torch.Tensor) -> None:
        self.tokens.append(value.tolist())

    def end(self) -> None:
        self.ends += 1


def test_every_token_is_streamed_as_it_is_made(model: RFGPT, rf: torch.Tensor) -> None:
    kept = Kept()
    answers = model.generate(rf, QUESTIONS, 7, streamer=kept)
    rows = list(zip(*kept.tokens, strict=True))
    assert [model.chat.decode(row) for row in rows] == answers.texts
    assert kept.ends == 1


def test_stop_ends_all_answers_where_they_are(model: RFGPT, rf: torch.Tensor) -> None:
    kept = Kept()
    answers = model.generate(rf, QUESTIONS, 9, streamer=kept, stop=lambda: len(kept.tokens) >= 3)
    assert len(kept.tokens) == 3
    assert answers.complete == [False] * 3
    assert kept.ends == 1
    assert answers.texts == model.generate(rf, QUESTIONS, 3).texts


def test_temperature_draws_from_the_model_with_the_generator_given(model: RFGPT, rf: torch.Tensor) -> None:
    def drawn(seed: int, temperature: float, count: int = 3) -> list[str]:
        draws = torch.Generator().manual_seed(seed)
        return model.generate(
            rf, QUESTIONS[:count], 8, temperature=temperature, generator=draws, captures=[[0]] * count
        ).texts

    assert drawn(1, 1.5) == drawn(1, 1.5) != drawn(2, 1.5)
    assert drawn(1, 1e-4) == model.generate(rf, QUESTIONS, 8, captures=[[0]] * 3).texts
    # The first token's frequencies are the softmax's: 4000 draws, five standard deviations, for the likeliest token.
    ids = torch.tensor([model.chat.prompt(QUESTIONS[1], model.rf_tokens)])
    with torch.no_grad():
        share = model(rf[:1], ids, torch.ones_like(ids))[0, -1].div(2.0).softmax(0)
    kept, token = Kept(), int(share.argmax())
    draws = torch.Generator().manual_seed(0)
    for _ in range(4):
        model.generate(
            rf, [QUESTIONS[1]] * 1000, 1, temperature=2.0, generator=draws, captures=[[0]] * 1000, streamer=kept
        )
    found = sum(row.count(token) for row in kept.tokens) / 4000
    p = float(share[token])
    assert abs(found - p) < 5 * math.sqrt(p * (1 - p) / 4000)


def test_what_does_not_fit_the_context_is_refused(model: RFGPT, rf: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="context"):
        model.generate(rf[:1], ["Why? " * 600], 8)
    with pytest.raises(ConfigError, match="context"):
        model.generate(rf[:1], ["Why?"], 4000)
    assert model.generate(rf, [], 8).texts == []


@pytest.mark.parametrize(("most", "temperature"), [(0, 0.0), (3, -1.0), (3, math.inf), (3, math.nan)])
def test_absurd_options_are_refused(most: int, temperature: float) -> None:
    with pytest.raises(ConfigError, match="max_new_tokens"):
        Decoding(most, frozenset({1}), 0, temperature=temperature)


def test_low_precision_generates(model: RFGPT, rf: torch.Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answers = model.generate(rf, [[Turn("user", "Why?", 1)]] * 3, 4)
    assert all(math.isfinite(value) for value in answers.log_probabilities)
