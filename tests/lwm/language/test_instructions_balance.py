"""No answer can be guessed from the wording: a predictor that sees only texts, on a generated data set."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from lwm.data.dataset import SpectrogramDataset
from lwm.data.generation import generate
from lwm.language.balance import MOST_REPEATED, UNBALANCED, Balance, balance_of, balance_of_facts
from lwm.language.captions import facts_of
from lwm.language.facts import CANNOT_TELL
from lwm.language.instructions import KINDS, Pair, draw_from
from lwm.seeding import rng_for

EPOCHS = 60
Facts = list[dict[str, str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SpectrogramDataset:
    """The shipped data set's plan at a size of seconds."""
    out = tmp_path_factory.mktemp("rfgpt") / "set"
    return SpectrogramDataset(generate("generate/rfgpt", str(out), samples=170, seed=5, workers=0), "train")


@pytest.fixture(scope="module")
def facts(data: SpectrogramDataset) -> Facts:
    return [facts_of(data.record(index), data.columns) for index in range(len(data))]


def drawn(facts: Facts, balance: Balance) -> dict[str, list[Pair]]:
    """Pairs of many epochs, by kind."""
    found = defaultdict(list)
    for epoch in range(EPOCHS):
        for index, mine in enumerate(facts):
            pair = draw_from(mine, 0, index, epoch, balance)
            found[pair.kind].append(pair)
    return found


def guessed(pairs: list[Pair]) -> float:
    """Share that the commonest answer to each wording gets right on the other half of the epochs' pairs."""
    half = len(pairs) // 2
    heard: dict[str, Counter[str]] = defaultdict(Counter)
    for pair in pairs[:half]:
        heard[pair.question.split(". ")[-1]][pair.answer] += 1
    right = 0
    for pair in pairs[half:]:
        counts = heard[pair.question.split(". ")[-1]]
        right += bool(counts) and counts.most_common(1)[0][0] == pair.answer
    return right / (len(pairs) - half)


def bar(facts: Facts, kind: str, pairs: list[Pair]) -> float:
    """What an even draw lets a text guess: one of the answers, or "cannot tell" by its share, and chance beside it.

    Four standard deviations of a share over half of the pairs, and the same again for picking the best of the answers
    by counts as small (the commonest of a few equal ones is above their mean).
    """
    silent = np.mean([each["technology"] == CANNOT_TELL for each in facts])
    answers = {pair.answer for pair in pairs} - {CANNOT_TELL}
    # Answers that are too rare to be drawn as often as the others leave more to those.
    own = Counter(each[KINDS[kind].needs[0]] for each in facts if all(need in each for need in KINDS[kind].needs))
    own.pop(CANNOT_TELL, None)
    rare = [count / own.total() for count in own.values() if MOST_REPEATED * count / own.total() < 1 / len(own)]
    fair = (1 - silent) * (1 - MOST_REPEATED * sum(rare)) / max(1, len(answers) - len(rare))
    fair = 0.5 if kind == "absence" else max(fair, silent)
    return fair + 4 * np.sqrt(fair * (1 - fair) / (len(pairs) / 2))


def test_no_kind_can_be_guessed_from_its_wording(facts: Facts) -> None:
    found = drawn(facts, balance_of_facts(facts))
    constant = {"duration", "padded"}  # every capture fills the window: there is nothing to ask
    assert set(found) == set(KINDS) - constant
    for kind in set(found) - {"description", "json"}:
        assert guessed(found[kind]) <= bar(facts, kind, found[kind]), kind


def test_without_the_balance_some_can_be_guessed(facts: Facts) -> None:
    """The check above can fail: it does on draws that no balance was given to."""
    found = drawn(facts, UNBALANCED)
    over = {
        kind
        for kind in found
        if kind not in ("description", "json") and guessed(found[kind]) > bar(facts, kind, found[kind])
    }
    assert {"link", "numerology", "temporal"} <= over
    assert guessed(found["padded"]) == guessed(found["duration"]) == 1.0


def test_answers_come_equally_often_and_kinds_as_they_weigh(facts: Facts) -> None:
    found = drawn(facts, balance_of_facts(facts))
    counts = {
        kind: Counter(pair.answer for pair in pairs if pair.answer != CANNOT_TELL) for kind, pairs in found.items()
    }
    for kind in ("technology", "link", "temporal", "snr", "mobility"):
        fair = sum(counts[kind].values()) / len(counts[kind])
        # Five standard deviations of a multinomial's class; these answers are common enough to be drawn evenly.
        assert all(abs(count - fair) < 5 * np.sqrt(fair) for count in counts[kind].values()), kind
    asked = Counter((pair.facts["asked"], pair.answer) for pair in found["absence"])
    for name in ("LTE", "5G NR", "WLAN"):
        yes, no = asked[name, "yes"], asked[name, "no"]
        assert abs(yes - no) < 5 * np.sqrt(yes + no)
    share = {kind: len(pairs) for kind, pairs in found.items()}
    assert share["technology"] / share["snr"] == pytest.approx(KINDS["technology"].weight, rel=0.25)


def test_the_balance_is_a_property_of_the_data_alone(data: SpectrogramDataset, facts: Facts) -> None:
    assert balance_of(data) == balance_of_facts(facts)
    mixed = [facts[index] for index in rng_for(0, "mixed").permutation(len(facts))]
    ours, theirs = balance_of_facts(facts), balance_of_facts(mixed)
    assert ours.factors is not None
    assert theirs.factors is not None
    for kind, answers in ours.factors.items():
        assert theirs.factors[kind] == pytest.approx(answers, rel=1e-6)


def test_one_technology_is_not_asked_for_and_noise_makes_it_a_question() -> None:
    lte = [{"technology": "LTE", "link": ("downlink", "uplink")[i % 2]} for i in range(40)]
    balance = balance_of_facts(lte)
    assert balance.factors is not None
    assert set(balance.factors) == {"link", "description", "json"}
    noise = [{"technology": CANNOT_TELL, "link": CANNOT_TELL, "emissions": "0"} for _ in range(40)]
    assert set(drawn(lte + noise, balance_of_facts(lte + noise))) == {"link", "description", "json"}


def test_uneven_technologies_get_as_many_no_as_yes() -> None:
    """Closed form of what is asked: the mass of yes and of no about each technology, from the balance alone."""
    mass = {"LTE": 0.5, "5G NR": 0.3, "WLAN": 0.1, CANNOT_TELL: 0.1}
    facts = [{"technology": name, "link": "both"} for name, share in mass.items() for _ in range(round(200 * share))]
    balance = balance_of_facts(facts)
    assert balance.factors is not None
    weights = {
        name: [balance.weight(kind, {"technology": name, "link": "both"}) for kind in balance.factors] for name in mass
    }
    place = list(balance.factors).index("absence")
    rows = {name: mass[name] * weights[name][place] / sum(weights[name]) for name in mass}
    for asked in ("LTE", "5G NR", "WLAN"):
        yes = rows[asked] * balance.asked[asked][asked]
        no = sum(rows[name] * balance.asked[name][asked] for name in mass if name != asked)
        assert no == pytest.approx(yes, rel=0.02)
