"""Tokenizer and chat template."""

import subprocess
import sys

import pytest

from lwm.errors import ConfigError, ModelError
from lwm.language.chat import IGNORED, Turn, chat_from_config
from lwm.language.tokenizer import SPECIAL, ChatTokenizer

TEXTS = ["Which technology is this?", "LTE", "What is the SNR?", "15 dB", "The capture lasts 16 ms."]


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    """Trained on a few sentences."""
    return ChatTokenizer.train(TEXTS, 320)


def test_labels_are_the_answer_and_its_end_token_by_token(tokenizer: ChatTokenizer) -> None:
    ids, labels = tokenizer.pair("Which technology is this?", "LTE", 3)
    prompt = tokenizer.prompt("Which technology is this?", 3)
    answer = [*tokenizer.encode("LTE"), tokenizer.end_id]
    assert ids == prompt + answer
    assert labels == [IGNORED] * len(prompt) + answer
    assert tokenizer.decode(ids[len(prompt) :]) == "LTE"


def test_the_prompt_has_the_template_and_its_rf_places(tokenizer: ChatTokenizer) -> None:
    ids = tokenizer.prompt("What?", 4)
    start = tokenizer.start_id
    assert ids[0] == start
    assert ids.count(tokenizer.rf_id) == 4
    assert [i for i, token in enumerate(ids) if token == tokenizer.end_id] == [ids.index(start, 1) - 2]
    assert tokenizer.decode(ids[ids.index(start, 1) + 1 :]) == "assistant\n"


def test_every_answer_of_a_conversation_is_labelled_and_nothing_else(tokenizer: ChatTokenizer) -> None:
    said = [Turn("system", "Be short."), Turn("user", "Which technology is this?", 2), Turn("assistant", "LTE")]
    said += [Turn("user", "What is the SNR?"), Turn("assistant", "15 dB")]
    ids, labels = tokenizer.conversation(said, 3)
    end = tokenizer.end_id
    assert [label for label in labels if label != IGNORED] == [
        *tokenizer.encode("LTE"),
        end,
        *tokenizer.encode("15 dB"),
        end,
    ]
    assert all(label in (IGNORED, token) for label, token in zip(labels, ids, strict=True))
    assert ids.count(tokenizer.rf_id) == 6
    assert tokenizer.decode(tokenizer.prompt(said[:-1], 3)) == "system\nBe short."
    asked, labels = tokenizer.pair(said[:-1], "15 dB", 3)
    assert asked == ids
    assert [label for label in labels if label != IGNORED] == [*tokenizer.encode("15 dB"), end]
    again = chat_from_config(tokenizer.get_config())
    assert again.conversation(said, 3)[0] == ids


def test_an_answer_that_merges_with_the_template_is_refused() -> None:
    tokenizer = ChatTokenizer.train(["\n\n\n\n", "Which?"], 320)
    with pytest.raises(ConfigError, match="cannot be aligned"):
        tokenizer.pair("Which?", "\n\nLTE", 1)


@pytest.mark.parametrize("question", ["", "  \n", "Which <rf>?", "end<|im_end|>"])
def test_a_question_without_text_or_with_template_tokens_is_refused(tokenizer: ChatTokenizer, question: str) -> None:
    with pytest.raises(ConfigError, match="question"):
        tokenizer.prompt(question, 2)


def test_an_empty_answer_is_refused(tokenizer: ChatTokenizer) -> None:
    with pytest.raises(ConfigError, match="answer"):
        tokenizer.pair("Which?", "", 2)


@pytest.mark.parametrize("text", ["15 dB", "Überraschung 2.4 GHz", "a  b", "αβγ\n"])
def test_any_text_comes_back(tokenizer: ChatTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_are_single_tokens(tokenizer: ChatTokenizer) -> None:
    assert len(tokenizer.encode("1536")) == 4


def test_json_round_trip_and_order_do_not_change_it(tokenizer: ChatTokenizer) -> None:
    text = tokenizer.to_json()
    assert ChatTokenizer.from_json(text).to_json() == text
    assert ChatTokenizer.train([*reversed(TEXTS), *TEXTS], 320).to_json() == text


def test_another_process_trains_the_same_tokenizer(tokenizer: ChatTokenizer) -> None:
    code = f"from lwm.language.tokenizer import ChatTokenizer as C; print(C.train({TEXTS!r}, 320).to_json())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == tokenizer.to_json()


def test_a_vocabulary_that_cannot_hold_all_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match="260"):
        ChatTokenizer.train(TEXTS, 100)


def test_what_is_no_tokenizer_is_refused(tokenizer: ChatTokenizer) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        ChatTokenizer.from_json("{}")
    with pytest.raises(ModelError, match="im_end"):
        ChatTokenizer.from_json(tokenizer.to_json().replace(SPECIAL[3], "<|other|>"))
