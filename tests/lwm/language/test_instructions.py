"""Questions, their answers, and how answers are read."""

import json
from collections import Counter
from typing import Any

import pytest

from lwm.data.plan import NOISE
from lwm.errors import ConfigError
from lwm.language.captions import facts_of
from lwm.language.instructions import (
    CANNOT_TELL,
    KINDS,
    all_pairs,
    draw_pair,
    make_pair,
    offered,
    parse_answer,
)
from lwm.language.schemas import builtin_schema
from lwm.language.templates import placeholders
from lwm.seeding import rng_for

RECORD = {
    "technology": "lte",
    "link": "downlink",
    "modulation": "QPSK",
    "mobility": "vehicular",
    "snr_db": 13.4,
    "sample_rate": 15.36e6,
    "bandwidth": 10e6,
    "duration": 0.0041,
    "valid_columns": 17,
    "emissions": [{"technology": "LTE", "start": 0.0, "stop": 0.0041, "low": -4.5e6, "high": 4.5e6}],
    "facts": {},
}
FACTS = facts_of(RECORD, 64) | {"users": "3", "numerology": "312.5"}
SILENT = facts_of({"technology": NOISE, "emissions": [], "duration": 0.016, "sample_rate": 7.68e6}, 64)
LABELS = {
    "technology": ["LTE", "5G NR"],
    "link": ["downlink", "both"],
    "mobility": ["static", "vehicular"],
    "modulation": ["QPSK"],
}
READ = [kind for kind in KINDS if kind != "description"]


def test_the_library_has_the_kinds_that_are_asked_for() -> None:
    wanted = "technology link emissions users bandwidth snr temporal numerology place absence modulation mobility"
    assert list(KINDS) == [*wanted.split(), "duration", "padded", "description", "json"]


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_phrasings_are_others_in_words_that_tuning_knows(kind: str) -> None:
    template = KINDS[kind]
    assert len(template.questions) >= 4
    assert len(template.held_out) >= 2
    assert not set(template.held_out) & set(template.questions)
    words = {word.strip("?.,:") for text in template.questions for word in text.lower().split()}
    for text in template.held_out:
        assert {word.strip("?.,:") for word in text.lower().split()} <= words
    asked = {"asked"} if kind == "absence" else set()
    assert all(set(placeholders(text)) == asked for text in (*template.questions, *template.held_out))


def test_what_a_record_does_not_know_is_not_asked() -> None:
    assert offered(facts_of({"technology": "adsb"}, 64)) == ["technology", "absence"]
    with pytest.raises(ConfigError, match="nothing to ask"):
        draw_pair({"source": "x"}, 64, 0, 0, 0)
    with pytest.raises(ConfigError, match="snr"):
        make_pair({"technology": "adsb"}, "snr", rng_for(0))
    with pytest.raises(ConfigError, match="question kind 'valid'"):
        make_pair({"technology": "adsb"}, "valid", rng_for(0))


def test_every_kind_has_one_pair_whose_facts_are_those_it_relies_on() -> None:
    pairs = {pair.kind: pair for pair in all_pairs(RECORD, 64, 0, 0)}
    assert set(pairs) == set(KINDS) - {"users", "numerology"}
    facts = facts_of(RECORD, 64)
    for kind, pair in pairs.items():
        assert pair.question.endswith(
            tuple(text.replace("{asked}", pair.facts.get("asked", "")) for text in KINDS[kind].questions)
        )
        assert set(KINDS[kind].needs) <= set(pair.facts)
        assert all(facts[name] == value for name, value in pair.facts.items() if name not in ("asked", "present"))
    assert pairs["snr"].answer == "15 dB"
    assert pairs["bandwidth"].answer == "9 MHz"
    assert pairs["bandwidth"].question.startswith("Sampled at 15.36 MHz. ")
    assert pairs["emissions"].answer == "1"
    assert pairs["place"].answer == "middle third, throughout"
    assert json.loads(pairs["json"].answer) == {
        "technology": "LTE",
        "link": "downlink",
        "emissions": 1,
        "bandwidth_mhz": 9,
        "snr_db": 15,
        "temporal": "continuous",
    }


def test_noise_alone_is_answered_with_cannot_tell() -> None:
    for seed in range(20):
        answers = {kind: make_pair(SILENT, kind, rng_for(seed)).answer for kind in offered(SILENT)}
        own = {"emissions": "0", "absence": "no"}
        assert {kind: answers.pop(kind) for kind in own} == own
        assert json.loads(answers.pop("json")) == {
            "technology": CANNOT_TELL,
            "link": CANNOT_TELL,
            "emissions": 0,
            "bandwidth_mhz": CANNOT_TELL,
            "snr_db": CANNOT_TELL,
            "temporal": CANNOT_TELL,
        }
        assert answers.pop("description").startswith("Only noise is seen")
        assert set(answers.values()) == {CANNOT_TELL}
        assert len(answers) == 10


def test_a_draw_depends_on_seed_index_and_epoch_and_reaches_every_kind() -> None:
    assert draw_pair(RECORD, 64, 3, 5, 1) == draw_pair(RECORD, 64, 3, 5, 1)
    drawn = [draw_pair(RECORD, 64, 3, 5, epoch) for epoch in range(300)]
    assert {pair.kind for pair in drawn} == set(offered(facts_of(RECORD, 64)))
    asked = {pair.question.removeprefix("Sampled at 15.36 MHz. ") for pair in drawn if pair.kind == "technology"}
    assert asked == set(KINDS["technology"].questions)


def test_a_held_out_wording_is_never_drawn_for_tuning() -> None:
    for kind in KINDS:
        held = {make_pair(FACTS, kind, rng_for(i), context=False, wording="held_out").question for i in range(30)}
        assert all(any(text.split("{")[0] in question for text in KINDS[kind].held_out) for question in held)
        known = {make_pair(FACTS, kind, rng_for(i), context=False).question for i in range(60)}
        assert not held & known


def test_absence_asks_about_what_is_there_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests install technologies of their own.
    monkeypatch.setattr("lwm.language.balance.technology_names", lambda: ["lte", "nr", "wlan"])
    pairs = [make_pair(FACTS, "absence", rng_for(i, "absence"), context=False) for i in range(600)]
    asked = Counter((pair.facts["asked"], pair.answer) for pair in pairs)
    assert set(asked) == {("LTE", "yes"), ("5G NR", "no"), ("WLAN", "no")}
    # Three standard deviations of 600 fair coins are 37.
    assert abs(asked["LTE", "yes"] - 300) < 37
    assert all(pair.facts["asked"] in pair.question for pair in pairs)


@pytest.mark.parametrize("kind", READ)
def test_a_made_answer_is_read_back(kind: str) -> None:
    answer = make_pair(FACTS, kind, rng_for(0)).answer
    read = parse_answer(answer, kind, LABELS)
    assert read == (answer.split(" ")[0] if KINDS[kind].unit else answer)
    silent = make_pair(SILENT, kind, rng_for(0)).answer if kind in offered(SILENT) else CANNOT_TELL
    assert parse_answer(silent, kind, LABELS) == silent
    assert parse_answer("Cannot tell.", kind, LABELS) == CANNOT_TELL


@pytest.mark.parametrize(
    ("text", "kind", "read"),
    [
        (" lte. ", "technology", "LTE"),
        ("It is LTE", "technology", None),
        ("LTE LTE", "technology", None),
        ("", "technology", None),
        ("-5 dB", "snr", "-5"),
        ("-5", "snr", None),
        ("5 dB or so", "snr", None),
        ("15.0 dB", "snr", "15"),
        ("20 dB", "bandwidth", None),
        ("312.5 kHz", "numerology", "312.5"),
        ("78.125 khz", "numerology", "78.125"),
        ("3", "emissions", "3"),
        ("More than 8", "emissions", "more than 8"),
        ("more than 3", "emissions", None),
        ("three", "users", None),
        ("-1", "users", None),
        ("Whole window.", "place", "whole window"),
        ("lower third", "place", None),
        ("periodic", "temporal", "periodic"),
        ("NO", "absence", "no"),
        ("Yes.", "padded", "yes"),
        ("perhaps", "padded", None),
        ("cannot say", "padded", None),
        ('{"link": "BOTH", "technology": "lte"}', "json", '{"technology": "LTE", "link": "both"}'),
        (
            '{"technology": "LTE", "link": "both", "snr_db": -5}',
            "json",
            '{"technology": "LTE", "link": "both", "snr_db": -5}',
        ),
        ('{"technology": "LTE"}', "json", None),
        ('{"technology": "LTE", "link": "both", "snr": 3}', "json", None),
        ('{"technology": "LTE", "link": "both", "snr_db": "5 dB"}', "json", None),
        ('{"technology": "LTE", "link": "both", "emissions": "3"}', "json", None),
        ('{"technology": "LTE", "link": "both", "emissions": true}', "json", None),
        ('{"technology": "LTE", "link": "both", "emissions": "cannot tell"}', "json", None),
        ('{"technology": "LTE", "link": "both", "temporal": 3}', "json", None),
        ('{"technology": "LTE", "link": 3}', "json", None),
        ('{"technology": "LTE", "link": "both"', "json", None),
        ('["LTE", "both"]', "json", None),
        ("[" * 100_000, "json", None),
    ],
)
def test_answers_are_read_strictly(text: str, kind: str, read: str | None) -> None:
    assert parse_answer(text, kind, LABELS) == read


def test_a_description_has_no_single_value() -> None:
    with pytest.raises(ConfigError, match="description"):
        parse_answer("One LTE signal.", "description", LABELS)


def test_every_json_answer_follows_the_published_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = builtin_schema(LABELS)
    jsonschema.Draft202012Validator.check_schema(schema)
    bare = {"technology": "LTE", "link": "both"}
    many = FACTS | {"emissions": "more than 8", "snr": "-5"}
    for facts in (FACTS, SILENT, many, bare):
        jsonschema.validate(json.loads(make_pair(facts, "json", rng_for(0)).answer), schema)
    wrong: list[dict[str, Any]] = [
        {"technology": "WLAN", "link": "both"},
        {"technology": "LTE"},
        bare | {"colour": "red"},
        bare | {"snr_db": 3},
        bare | {"emissions": "cannot tell"},
    ]
    for plain in wrong:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(plain, schema)
