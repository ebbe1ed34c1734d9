"""Answers are held to a form token by token: whatever the model wants to say, what it says is valid."""

import json
import re
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor

from lwm.errors import ConfigError, ModelError
from lwm.language.constrain import GrammarProcessor, choice_processor, json_grammar, json_processor, validate
from lwm.language.pretrained_chat import PretrainedChat
from lwm.language.schemas import BUILTIN, builtin_schema, read_schema
from lwm.language.tokenizer import ChatTokenizer
from lwm.seeding import rng_for

TEXTS = ["Which technology is this?", "LTE downlink", "5G NR uplink", '{"technology": "LTE", "link": "downlink"}']
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "technology": {"enum": ["LTE", "5G NR", 'a "quoted" one']},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "bursty": {"type": "boolean"},
    },
    "required": ["technology", "count", "bursty"],
    "additionalProperties": False,
}


def own() -> ChatTokenizer:
    return ChatTokenizer.train(TEXTS, 400)


def pretrained() -> PretrainedChat:
    """A tokenizer of transformers with another template and another end of turn."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "[INST]", "[/INST]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=350, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]"
        "{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    return PretrainedChat(wrapped, template)


def spoken(process: Any, chat: Any, rows: int, seed: int = 0, width: int | None = None, most: int = 200) -> list[str]:
    """What models say that draw any permitted token at random; rows that ended are padded."""
    rng = rng_for(seed, "logits")
    ids = torch.zeros(rows, 0, dtype=torch.long)
    ended = torch.zeros(rows, dtype=torch.bool)
    for _ in range(most):
        scores = torch.from_numpy(rng.normal(size=(rows, width or chat.vocab_size))).float()
        allowed: Tensor = process(ids, scores)
        assert torch.equal(allowed[allowed > -torch.inf], scores[allowed > -torch.inf])
        chosen = allowed.argmax(-1).masked_fill(ended, chat.pad_id)
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        ended |= torch.isin(chosen, torch.tensor(sorted(chat.end_ids)))
        if bool(ended.all()):
            return [chat.decode(row) for row in ids.tolist()]
    raise AssertionError([chat.decode(row) for row in ids.tolist()])


@pytest.mark.parametrize("make", [own, pretrained])
def test_whatever_the_logits_the_answer_is_json_of_the_schema(make: Any) -> None:
    chat = make()
    process = json_processor(SCHEMA, chat)
    said = [text for seed in range(5) for text in spoken(process, chat, 4, seed, width=chat.vocab_size + 9)]
    for text in said:
        jsonschema.validate(json.loads(text), SCHEMA)
        assert not validate(text, SCHEMA).failed
        assert text == json.dumps(json.loads(text))
    assert len(set(said)) > 10


@pytest.mark.parametrize("make", [own, pretrained])
def test_the_end_is_permitted_only_where_the_answer_is_whole(make: Any) -> None:
    chat = make()
    process = choice_processor(["LTE", "LTE downlink"], chat)
    ids = chat.encode("LTE downlink")
    ends = sorted(chat.end_ids)
    scores = torch.zeros(1, chat.vocab_size)
    text = ""
    for length in range(len(ids) + 1):
        free = process(torch.tensor([ids[:length]]).view(1, -1).long(), scores)
        text = chat.decode(ids[:length])
        assert bool((free[0, ends] > -torch.inf).any()) == (text in ("LTE", "LTE downlink")), text
    assert text == "LTE downlink"
    assert set(torch.nonzero(free[0] > -torch.inf)[:, 0].tolist()) <= set(ends)


def test_choices_are_all_that_can_be_said_and_all_can_be_said() -> None:
    chat = own()
    labels = ["LTE", "5G NR", 'with "quotes" and \\', "\N{LATIN SMALL LETTER U WITH DIAERESIS}mlaut"]
    said = {text for seed in range(12) for text in spoken(choice_processor(labels, chat), chat, 4, seed)}
    assert said == set(labels)


def test_rows_have_their_own_grammars_and_a_processor_begins_anew() -> None:
    chat = own()
    process = GrammarProcessor([json_grammar(SCHEMA), None, json_grammar({"type": "boolean"})], chat)
    free = process(torch.zeros(3, 0, dtype=torch.long), torch.zeros(3, chat.vocab_size))
    permitted = (free > -torch.inf).sum(1)
    assert int(permitted[1]) == chat.vocab_size
    assert 0 < int(permitted[2]) < 20
    with pytest.raises(ConfigError, match="3 grammars for 2"):
        process(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, chat.vocab_size))
    yes = json_processor({"enum": ["yes"]}, chat)
    assert spoken(yes, chat, 2) == spoken(yes, chat, 2) == ['"yes"', '"yes"']


def test_a_token_against_the_grammar_is_an_error_not_a_silent_end() -> None:
    chat = own()
    process = choice_processor(["LTE"], chat)
    process(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, chat.vocab_size))
    with pytest.raises(ModelError, match="does not permit"):
        process(torch.tensor([[chat.encode("5")[0]]]), torch.zeros(1, chat.vocab_size))


def test_a_grammar_that_broke_down_does_not_pass_for_a_whole_answer() -> None:
    chat = own()
    process = choice_processor(["LTE"], chat)
    process(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, chat.vocab_size))
    matcher = process._matchers[0]
    assert matcher is not None
    # Behind the processor's back, so that only the matcher knows.
    assert not matcher.consume_token(chat.encode("5")[0])
    assert matcher.is_stopped()
    assert matcher.is_error()
    with pytest.raises(ModelError, match="no longer be held"):
        process._allowed(chat.vocab_size)


def test_transformers_takes_it_as_a_logits_processor() -> None:
    from transformers import LogitsProcessorList

    chat = own()
    listed = LogitsProcessorList([choice_processor(["LTE"], chat)])
    free = listed(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, chat.vocab_size))
    assert torch.isinf(free).any()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"technology": "LTE", "count": 3, "bursty": true}', ""),
        (' {"bursty":true,"count":3,"technology":"LTE"}\n', ""),
        ('{"technology": "LTE", "count": 3, "bursty": tr', "no JSON"),
        ('{"technology": "Wi-Fi", "count": 3, "bursty": true}', r"\['technology'\].*Wi-Fi"),
        ('{"technology": "LTE", "count": 3}', "bursty"),
        ('{"technology": "LTE", "count": NaN, "bursty": true}', "NaN"),
        ("[" * 100_000, "no JSON"),
        ("LTE", "no JSON"),
    ],
)
def test_validation_says_what_is_wrong(text: str, problem: str) -> None:
    read = validate(text, SCHEMA)
    assert read.failed == bool(problem)
    if problem:
        assert read.value is None
        assert re.search(problem, read.problem)
    else:
        assert read.value == {"technology": "LTE", "count": 3, "bursty": True}


def test_schemas_that_cannot_be_are_refused() -> None:
    chat = own()
    with pytest.raises(ConfigError, match="'nonsense' is not valid"):
        json_processor({"type": "nonsense"}, chat)
    with pytest.raises(ConfigError, match="refers to 'http"):
        validate("1", {"$ref": "http://localhost:9/schema.json"})
    with pytest.raises(ConfigError, match="bytes"):
        json_processor({"enum": ["x" * 70_000]}, chat)
    with pytest.raises(ConfigError, match="type list"):
        json_processor([], chat)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cannot be held to"):
        json_processor({"type": "integer", "minimum": 5, "maximum": 2}, chat)
    with pytest.raises(ConfigError, match="none empty"):
        choice_processor([], chat)


def test_the_builtin_schema_holds_technology_and_link_to_the_models_labels(tmp_path: Any) -> None:
    labels = {"technology": ["LTE", "5G NR"], "link": ["downlink", "uplink"]}
    schema = read_schema(BUILTIN, labels)
    assert schema == builtin_schema(labels)
    assert not validate('{"technology": "5G NR", "link": "uplink"}', schema).failed
    assert validate('{"technology": "Wi-Fi", "link": "uplink"}', schema).failed
    assert not validate('{"technology": "cannot tell", "link": "cannot tell"}', schema).failed
    chat = own()
    for text in spoken(json_processor(schema, chat), chat, 4):
        assert not validate(text, schema).failed
    (tmp_path / "a.json").write_text('{"type": "object"}')
    assert read_schema(tmp_path / "a.json", labels) == {"type": "object"}
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(ConfigError, match=r"b\.json is no JSON"):
        read_schema(tmp_path / "b.json", labels)
    with pytest.raises(ConfigError, match="builtin"):
        read_schema(tmp_path / "missing.json", labels)
