"""The scorer: what it asks, what it counts, and that it knows nothing of who answers."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lwm.data.dataset import SpectrogramDataset
from lwm.data.plan import NOISE
from lwm.data.shard import write_dataset
from lwm.errors import ConfigError, DatasetError, RecipeMismatch
from lwm.language.answerers import MajorityAnswerer, RandomAnswerer, Replies, RFGPTAnswerer
from lwm.language.datamodule import label_values
from lwm.language.facts import CANNOT_TELL
from lwm.language.instructions import Pair
from lwm.language.metrics import Scored, share, summary
from lwm.language.questions import Asked, Question, balanced, questions_about, snr_bucket
from lwm.language.score import ask_questions, ask_samples, draw_questions, merged_labels, score
from lwm.proportions import confidence_error
from lwm.seeding import rng_for
from lwm.signal.recipe import recipe_named

LABELS = {"technology": ["alpha", "beta"], "link": ["downlink", "uplink"]}


def one(kind: str, truth: str, parsed: str | None, confidence: float | None = None, snr: float | None = None) -> Scored:
    """One answer."""
    return Scored(0, Pair("?", truth, kind, {}), parsed or "?", parsed, truth, confidence, snr)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SpectrogramDataset:
    """Sixty captures: 42 of alpha, 12 of beta, 6 of noise; the level of a picture is the number of its technology."""
    folder = tmp_path_factory.mktemp("score") / "data"
    names = ["alpha"] * 42 + ["beta"] * 12 + [NOISE] * 6
    order = rng_for(0, "order").permutation(len(names))
    names = [names[i] for i in order]
    level = np.array([["alpha", "beta", NOISE].index(name) for name in names], np.float32)
    picture = np.broadcast_to(-10 * level[:, None, None, None], (60, 1, 64, 64))
    records = [
        {"technology": name, "sample_rate": 1e6, "duration": 0.016, "valid_columns": 64, "facts": {}}
        | ({} if name == NOISE else {"link": "downlink", "snr_db": float(5 * (i % 4))})
        for i, name in enumerate(names)
    ]
    labels = {"technology": names}
    write_dataset(folder, picture, recipe_named("small"), labels, split="test", records=records)
    return SpectrogramDataset(folder, "test")


class Seeing:
    """Tells the technology by the level of the picture, and counts what it is given."""

    def __init__(self) -> None:
        self.captures, self.calls = 0, 0

    def __call__(self, captures: Tensor, questions: Sequence[Question]) -> Replies:
        self.captures, self.calls = self.captures + len(captures), self.calls + 1
        level = (captures.mean((1, 2, 3)) / -10).round().int().tolist()
        said = [["alpha", "beta", CANNOT_TELL][level[asked.capture]] for asked in questions]
        return Replies(said, [0.5] * len(said))


def test_an_interval_is_wilsons() -> None:
    table = share([True] * 17 + [False] * 3)
    p, n, z = 17 / 20, 20, 1.959963984540054
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert table["interval"] == pytest.approx([middle - half, middle + half], abs=1e-9)
    assert (table["accuracy"], table["count"]) == (0.85, 20)
    with pytest.raises(DatasetError, match="no answers"):
        share([])


def test_confidence_error_of_known_answers() -> None:
    # Two bins: ten answers at 0.95 of which five are right, ten at 0.05 of which none is.
    confidence = [0.95] * 10 + [0.05] * 10
    right = [True, False] * 5 + [False] * 10
    assert confidence_error(confidence, right) == pytest.approx((10 * 0.45 + 10 * 0.05) / 20)
    rng = rng_for(0, "calibrated")
    sure = rng.random(40_000)
    # Of a calibrated contestant only the noise of 15 bins is left: below 0.005 each at this size.
    assert confidence_error(sure, rng.random(40_000) < sure) < 0.01


def test_kinds_are_told_apart_and_baselines_are_those_of_the_questions_asked() -> None:
    answers = [one("technology", "alpha", said) for said in ("alpha", "alpha", "beta", None)]
    answers += [one("technology", "beta", "beta"), one("link", "uplink", "downlink")]
    found = summary(answers, ("technology", "link"))
    table = found["kinds"]["technology"]
    assert (found["technology_accuracy"], found["link_accuracy"]) == (0.6, 0.0)
    assert (table["majority"], table["random"], table["parse_failures"]) == (0.8, 0.5, 1)
    assert found["parse_failure_share"] == pytest.approx(1 / 6)
    assert found["confusion"] == {"alpha": {"alpha": 2, "beta": 1, "unreadable": 1}, "beta": {"beta": 1}}
    json.dumps(found, allow_nan=False)


def test_quantities_are_scored_in_buckets_and_over_snr() -> None:
    said = [("10", "10", 8.0), ("12", "10", 11.0), ("15", "10", 9.0), ("25", "10", 21.0), (None, "0", -1.0)]
    answers = [one("snr", truth, parsed, snr=snr) for parsed, truth, snr in said]
    table = summary(answers, ("snr",))["kinds"]["snr"]
    assert (table["accuracy"], table["bucket"]["accuracy"], table["within_one"]["accuracy"]) == (0.2, 0.4, 0.6)
    assert {at: row["count"] for at, row in table["by_snr"].items()} == {"0": 1, "10": 3, "20": 1}
    assert table["by_snr"]["10"]["accuracy"] == pytest.approx(1 / 3)
    assert [snr_bucket(x) for x in (-2.5, -2.6, 2.4, 2.5, 27.4)] == [0, -5, 0, 5, 25]


def test_cannot_tell_is_counted_where_it_is_true_and_where_it_is_not() -> None:
    answers = [one("technology", CANNOT_TELL, said) for said in (CANNOT_TELL, CANNOT_TELL, "alpha")]
    answers += [one("technology", "alpha", said) for said in ("alpha", "alpha", "alpha", CANNOT_TELL)]
    found = summary(answers, ("technology",))
    assert found["cannot_tell"]["said_on_noise"]["share"] == pytest.approx(2 / 3)
    assert found["cannot_tell"]["said_falsely"]["share"] == 0.25
    assert found["kinds"]["technology"]["with_signal"]["accuracy"] == 0.75
    ten = [one("technology", CANNOT_TELL, said) for said in [CANNOT_TELL] * 20 + ["alpha"] * 10]
    ten = [replace(each, sample=number // 10) for number, each in enumerate(ten)]
    table = summary(ten, ("technology",))["cannot_tell"]["said_on_noise"]
    # Ten answers about each of three captures are three draws: Wilson's interval of 2 of 3 is 0.21 to 0.94.
    assert (table["count"], table["captures"]["count"]) == (30, 3)
    assert table["captures"]["interval"] == pytest.approx([0.208, 0.939], abs=1e-3)
    assert "said_on_noise" not in summary(answers[3:], ("technology",))["cannot_tell"]


def test_prose_and_json_are_scored_in_part() -> None:
    truth = "One LTE signal. It occupies about 3.5 MHz. It fills the window."
    said = "One LTE signal. It occupies about 4 MHz."
    scored = [one("description", truth, said), one("description", truth, truth)]
    assert [each.credit for each in scored] == [pytest.approx(2 / 5), 1.0]
    assert [each.right for each in scored] == [False, True]
    half = one("json", '{"technology": "LTE", "link": "uplink"}', '{"technology": "LTE", "link": "downlink"}')
    assert (half.credit, half.right) == (0.5, False)
    table = summary([*scored, half], ("description", "json"))["kinds"]
    assert (table["description"]["accuracy"], table["json"]["credit"]) == (0.5, 0.5)


def test_no_answer_is_commoner_than_another_in_a_balanced_draw(data: SpectrogramDataset) -> None:
    labels = label_values(data)
    asked = questions_about(data, range(len(data)), ("technology", "absence", "padded"), 0)
    assert Counter(each.pair.answer for each in asked if each.pair.kind == "technology")["alpha"] == 42
    drawn = balanced(asked, 18, 0, labels)
    told = Counter((each.topic, each.pair.answer) for each in drawn if each.pair.kind == "technology")
    assert set(told.values()) == {6}
    assert [each.sample for each in drawn] == sorted(each.sample for each in drawn)
    for topic in ("absence alpha", "absence beta"):
        yes = Counter(each.pair.answer for each in drawn if each.topic == topic)
        assert yes["yes"] > 0
        assert abs(yes["yes"] - yes["no"]) <= 1
    assert balanced(asked, 18, 0, labels) == drawn != balanced(asked, 18, 1, labels)
    with pytest.raises(ConfigError, match="0 questions"):
        balanced(asked, 0, 0, labels)


def test_what_needs_no_picture_is_at_chance_in_a_balanced_draw(data: SpectrogramDataset) -> None:
    labels = merged_labels(label_values(data), LABELS)
    everything = questions_about(data, range(len(data)), ("technology",), 0)
    pairs = [each.pair for each in everything]
    asked = balanced(everything, 18, 0, labels)
    scored = ask_questions(MajorityAnswerer(pairs), data, asked, labels)
    assert summary(scored, ("technology",))["technology_accuracy"] == pytest.approx(1 / 3)
    drawn = [ask_questions(RandomAnswerer(pairs, seed), data, everything, labels) for seed in range(20)]
    mean = float(np.mean([each.right for part in drawn for each in part]))
    # 1200 draws of one of three: standard error 0.0136.
    assert mean == pytest.approx(1 / 3, abs=0.055)


def test_wording_that_gives_the_answer_away_is_found_out() -> None:
    pairs = [
        Pair(f"Sampled at {rate} MHz. {words}", words[-1], "link", {}) for rate in (1, 2) for words in ("Is A", "Is B")
    ]
    asked = [Question(0, "link", f"Sampled at 3 MHz. Is {letter}", "link") for letter in "AB"]
    nothing = torch.empty(0)
    assert MajorityAnswerer(pairs, by_wording=True)(nothing, asked).texts == ["A", "B"]
    assert MajorityAnswerer(pairs)(nothing, asked).texts == ["A", "A"]
    assert MajorityAnswerer([])(nothing, asked).texts == ["", ""]


def test_a_contestant_is_a_function_of_captures_and_questions(data: SpectrogramDataset) -> None:
    seeing, labels = Seeing(), merged_labels(label_values(data), LABELS)
    asked = questions_about(data, range(len(data)), ("technology",), 0) * 2
    scored = ask_questions(seeing, data, asked, labels, batch=16)
    assert (seeing.captures, seeing.calls) == (60, 4)
    found = summary(scored, ("technology",))
    assert (found["technology_accuracy"], found["parse_failures"]) == (1.0, 0)
    assert found["ece"] == pytest.approx(0.5)
    plain = [each.record() for each in scored]
    assert json.loads(json.dumps(plain)) == plain
    assert {each["snr_db"] for each in plain} == {0.0, 5.0, 10.0, 15.0, None}


def test_a_contestant_that_loses_an_answer_is_refused(data: SpectrogramDataset) -> None:
    asked = questions_about(data, [0, 1], ("technology",), 0)
    with pytest.raises(DatasetError, match="1 answers to 2 questions"):
        ask_questions(lambda captures, questions: Replies(["alpha"]), data, asked, LABELS)


def test_a_wrong_label_of_the_model_is_wrong_and_not_unreadable(data: SpectrogramDataset) -> None:
    asked = questions_about(data, range(10), ("technology",), 0)

    def says(captures: Tensor, questions: Sequence[Question]) -> Replies:
        return Replies(["epsilon"] * len(questions))

    known = merged_labels(label_values(data), {"technology": ["epsilon"]})
    assert summary(ask_questions(says, data, asked, known), ("technology",))["parse_failures"] == 0
    assert summary(ask_questions(says, data, asked, label_values(data)), ("technology",))["parse_failures"] == 10


def test_questions_are_drawn_by_limit_and_refused_without_a_kind(data: SpectrogramDataset) -> None:
    labels = label_values(data)
    assert len(draw_questions(data, labels, ("technology", "absence"), 0, limit=10)) == 10
    assert len(draw_questions(data, labels, ("technology",), 0, per_kind=9)) == 9
    with pytest.raises(ConfigError, match="limit 1"):
        draw_questions(data, labels, ("technology", "link"), 0, limit=1)
    with pytest.raises(ConfigError, match="colour"):
        draw_questions(data, labels, ("colour",), 0)


def test_rfgpt_encodes_a_capture_once_and_answers_as_it_does_alone(world, monkeypatch: pytest.MonkeyPatch) -> None:
    test = SpectrogramDataset(world.data, "test")
    model = world.task.model.eval()
    asked = questions_about(test, range(12), ("technology", "link", "padded", "description"), 3)
    seen: list[int] = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda x: seen.append(len(x)) or encode(x))
    scored = ask_questions(RFGPTAnswerer(model), test, asked, model.labels)
    assert seen == [12]
    for each in scored[::9]:
        x = test.batch([each.sample])["spectrogram"]
        alone = model.answer(x, [each.pair.question], 256)
        assert alone.texts == [each.said]
        assert each.confidence == pytest.approx(math.exp(alone.log_probabilities[0]), rel=1e-3)


def test_the_same_score_through_samples(world) -> None:
    test = SpectrogramDataset(world.data, "test")
    scored = ask_samples(RFGPTAnswerer(world.task.model), test, [0, 1, 2], ("technology",), 0)
    assert [each.sample for each in scored] == [0, 1, 2]
    assert all(isinstance(each.said, str) and each.truth in ("alpha", "beta", "gamma") for each in scored)


def test_asked_tells_who_reads_no_words_the_same() -> None:
    pair = Pair("Is there any LTE?", "yes", "absence", {"asked": "LTE"})
    question = Asked(3, pair, 2e6).question(1)
    assert (question.capture, question.topic, question.sample_rate) == (1, "absence LTE", 2e6)
    assert "yes" not in question.text


def test_held_out_captures_are_told_right(world) -> None:
    found = score(str(world.model), str(world.data), seed=1)
    count = len(SpectrogramDataset(world.data, "test"))
    assert found["technology_accuracy"] >= 0.95
    assert found["link_accuracy"] >= 0.95
    assert found["technology_majority"] < 0.5 < found["link_majority"] < 0.8
    assert (found["questions"], found["samples"], found["parse_failures"]) == (2 * count, count, 0)
    assert sum(sum(row.values()) for row in found["confusion"].values()) == count
    assert score(str(world.model), str(world.data), seed=1) == found
    even = score(str(world.model), str(world.data), seed=1, per_kind=20)
    assert even["link_majority"] == 0.5
    assert even["technology_majority"] == pytest.approx(1 / 3)


def test_a_class_that_the_model_was_never_taught_is_lost_not_left_out(world, tmp_path: Path) -> None:
    picture = np.zeros((2, 1, 64, 64), np.float32)
    write_dataset(tmp_path, picture, recipe_named("small"), {"technology": ["delta"] * 2}, split="test")
    found = score(str(world.model), str(tmp_path), kinds=("technology",))
    assert (found["technology_accuracy"], found["questions"]) == (0.0, 2)


def test_data_of_another_recipe_are_refused(world, tmp_path: Path) -> None:
    picture = np.zeros((2, 1, 128, 128), np.float32)
    write_dataset(tmp_path, picture, recipe_named("lwm"), {"technology": ["alpha"] * 2}, split="test")
    with pytest.raises(RecipeMismatch, match="'lwm'"):
        score(str(world.model), str(tmp_path))


def test_questions_know_the_time_axis_of_either_orientation(tmp_path: Path) -> None:
    """Two bursts 0.3 ms apart are one region in 64 columns of 0.5 ms; in 128 rows taken for columns they were two."""
    emission = {"technology": "alpha", "low": -1e6, "high": 1e6}
    bursts = [emission | {"start": start, "stop": stop} for start, stop in ((0.0, 0.01), (0.0103, 0.02))]
    record = {"technology": "alpha", "sample_rate": 7.68e6, "duration": 0.032, "emissions": bursts, "facts": {}}
    said = {}
    for axes, size in (("frequency-time", (128, 64)), ("time-frequency", (64, 128))):
        recipe = replace(recipe_named("small"), axes=axes, size=size)
        pictures, labels = np.zeros((1, 1, *size), np.float32), {"technology": ["alpha"]}
        write_dataset(tmp_path / axes, pictures, recipe, labels, records=[record])
        (asked,) = questions_about(SpectrogramDataset(tmp_path / axes), [0], ("emissions",), 0)
        said[axes] = asked.pair.answer
    assert said["frequency-time"] == said["time-frequency"] == "1"
