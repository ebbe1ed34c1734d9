"""Facts, captions, questions and how answers are read."""

import json

import pytest

from lwm.errors import ConfigError
from lwm.language.captions import caption, facts_of, megahertz, title_of
from lwm.language.instructions import KINDS, all_pairs, draw_pair, make_pair, offered, parse_answer
from lwm.seeding import rng_for

RECORD = {
    "technology": "gamma",
    "link": "downlink",
    "modulation": "QPSK",
    "mobility": "vehicular",
    "snr_db": 13.4,
    "sample_rate": 15.36e6,
    "bandwidth": 10e6,
    "duration": 0.0041,
    "valid_columns": 17,
    "facts": {},
}
LABELS = {"technology": ["LTE", "5G NR"], "link": ["downlink", "both"], "mobility": ["static", "vehicular"]}


def test_facts_are_rounded_to_their_grids() -> None:
    assert facts_of(RECORD, 64) == {
        "technology": "gamma",
        "link": "downlink",
        "modulation": "QPSK",
        "mobility": "vehicular",
        "snr": "15",
        "sample_rate": "15.36",
        "bandwidth": "10",
        "duration": "4",
        "valid": "30",
        "padded": "yes",
    }


def test_an_installed_technology_gives_its_title() -> None:
    assert title_of("lte") == "LTE"
    assert title_of("adsb") == "adsb"


def test_a_caption_says_every_fact_and_that_a_short_capture_was_padded() -> None:
    text = caption(facts_of(RECORD, 64))
    for said in ("gamma downlink", "10 MHz", "QPSK", "15 dB", "vehicular", "4 ms", "padded; 30 %"):
        assert said in text
    whole = caption(facts_of(RECORD | {"valid_columns": 64}, 64))
    assert "fills the window" in whole
    assert "padded" not in whole
    assert (
        caption({"technology": "WLAN", "link": "both"}) == "The capture shows one WLAN signal of both link directions."
    )


def test_what_a_record_does_not_know_is_not_asked() -> None:
    assert offered(facts_of({"technology": "adsb"}, 64)) == ["technology"]
    with pytest.raises(ConfigError, match="nothing to ask"):
        draw_pair({"source": "x"}, 64, 0, 0, 0)
    with pytest.raises(ConfigError, match="snr"):
        make_pair({"technology": "adsb"}, "snr", rng_for(0))


def test_every_kind_has_one_pair_whose_facts_are_those_it_relies_on() -> None:
    facts = facts_of(RECORD, 64)
    pairs = {pair.kind: pair for pair in all_pairs(RECORD, 64, 0, 0)}
    assert set(pairs) == set(KINDS)
    for kind, pair in pairs.items():
        assert pair.question.endswith(KINDS[kind].questions)
        assert set(KINDS[kind].needs) <= set(pair.facts)
        assert all(facts[name] == value for name, value in pair.facts.items())
    assert pairs["snr"].answer == "15 dB"
    assert pairs["bandwidth"].answer == "10 MHz"
    assert pairs["bandwidth"].question.startswith("Sampled at 15.36 MHz. ")
    assert json.loads(pairs["json"].answer) == {"technology": "gamma", "link": "downlink"}


def test_a_draw_depends_on_seed_index_and_epoch_and_reaches_every_kind() -> None:
    assert draw_pair(RECORD, 64, 3, 5, 1) == draw_pair(RECORD, 64, 3, 5, 1)
    drawn = [draw_pair(RECORD, 64, 3, 5, epoch) for epoch in range(300)]
    assert {pair.kind for pair in drawn} == set(KINDS)
    asked = {pair.question.removeprefix("Sampled at 15.36 MHz. ") for pair in drawn if pair.kind == "technology"}
    assert asked == set(KINDS["technology"].questions)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "description"])
def test_a_made_answer_is_read_back(kind: str) -> None:
    labels = {"technology": ["gamma"], "link": ["downlink"], "mobility": ["vehicular"], "modulation": ["QPSK"]}
    pair = make_pair(facts_of(RECORD, 64), kind, rng_for(0))
    read = parse_answer(pair.answer, kind, labels)
    assert read is not None
    assert read in (pair.answer, pair.answer.split(" ")[0])


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
        ("Yes.", "padded", "yes"),
        ("perhaps", "padded", None),
        ('{"link": "BOTH", "technology": "lte"}', "json", '{"technology": "LTE", "link": "both"}'),
        ('{"technology": "LTE"}', "json", None),
        ('{"technology": "LTE", "link": "both", "snr": 3}', "json", None),
        ('{"technology": "LTE", "link": 3}', "json", None),
        ('{"technology": "LTE", "link": "both"', "json", None),
        ('["LTE", "both"]', "json", None),
    ],
)
def test_answers_are_read_strictly(text: str, kind: str, read: str | None) -> None:
    assert parse_answer(text, kind, LABELS) == read


def test_a_description_has_no_single_value() -> None:
    with pytest.raises(ConfigError, match="description"):
        parse_answer("One LTE signal.", "description", LABELS)


def test_megahertz_has_no_trailing_zeros() -> None:
    assert [megahertz(f) for f in (20e6, 15.36e6, 1.92e6, 2.4e6)] == ["20", "15.36", "1.92", "2.4"]
