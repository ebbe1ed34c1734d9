"""Questions and answers about one sample, derived from its record, and how answers are read back."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwm.errors import ConfigError
from lwm.language.balance import UNBALANCED, Balance
from lwm.language.captions import caption, context_of, facts_of
from lwm.language.facts import CANNOT_TELL, MOST_COUNTED
from lwm.language.templates import Kind, Wording, library
from lwm.seeding import rng_for

__all__ = [
    "CANNOT_TELL",
    "KINDS",
    "Kind",
    "Pair",
    "all_pairs",
    "draw_from",
    "draw_pair",
    "make_pair",
    "offered",
    "parse_answer",
]


@dataclass(frozen=True)
class Pair:
    """One question with its answer.

    ``kind`` is a key of :data:`KINDS`; ``facts`` are the facts that the answer relies on.
    """

    question: str
    answer: str
    kind: str
    facts: dict[str, str]


KINDS: Mapping[str, Kind] = library()
"""Every kind of question, in the order in which kinds are drawn."""


def offered(facts: Mapping[str, str]) -> list[str]:
    """Kinds whose facts are all there."""
    return [name for name, kind in KINDS.items() if all(need in facts for need in kind.needs)]


def make_pair(
    facts: Mapping[str, str],
    kind: str,
    rng: np.random.Generator,
    context: bool | None = None,
    *,
    wording: Wording = "known",
    balance: Balance = UNBALANCED,
) -> Pair:
    """One pair of a kind, its phrasing drawn.

    Args:
        facts: of one sample, from :func:`lwm.language.captions.facts_of`.
        kind: a key of :data:`KINDS`.
        rng: draws the phrasing, with ``context`` None whether the sample rate is given, and the technology that an
            absence question asks about.
        context: say the sample rate before the question. A bandwidth in MHz cannot be told without it, so that kind
            always has it.
        wording: phrasings for tuning, or those that tuning never sees.
        balance: of the data set: which technologies absence asks about. Without it, the installed ones.

    Raises:
        ConfigError: no such kind, or a fact that it needs is missing.
    """
    if kind not in KINDS:
        raise ConfigError(f"question kind {kind!r}", f"one of {list(KINDS)}")
    template = KINDS[kind]
    missing = [need for need in template.needs if need not in facts]
    if missing:
        raise ConfigError(f"a {kind} question without the facts {missing}", f"facts {list(template.needs)}")
    phrasings = template.phrasings(wording)
    question = phrasings[rng.integers(len(phrasings))]
    told = bool(rng.random() < 0.5) if context is None else context
    known = _relevant(facts, kind)
    if kind == "absence":
        asked = balance.draw_asked(facts["technology"], rng)
        known |= {"asked": asked, "present": "yes" if asked == facts["technology"] else "no"}
        question = question.format(asked=asked)
    if "sample_rate" in facts and (told or "sample_rate" in template.needs):
        question = context_of(float(facts["sample_rate"]) * 1e6) + question
    return Pair(question, _answer(known, kind), kind, known)


def draw_pair(
    record: Mapping[str, Any], columns: int, seed: int, index: int, epoch: int, balance: Balance = UNBALANCED
) -> Pair:
    """The pair of one sample in one epoch: a kind by its weight, then a phrasing.

    Args:
        record: the sample's record.
        columns: columns of the picture.
        seed: of the run.
        index: of the sample in its data set.
        epoch: number of the pass over the data.
        balance: of the data set (:func:`lwm.language.balance.balance_of`, once): draws kinds so that within each the
            answers come equally often, and leaves out kinds with one answer. Without it, by the kinds' weights alone.

    Raises:
        ConfigError: the record holds no fact to ask about.
    """
    facts = facts_of(record, columns)
    if not facts:
        raise ConfigError(
            f"record {index} has nothing to ask about", f"facts such as technology; it has {list(record)}"
        )
    return draw_from(facts, seed, index, epoch, balance)


def draw_from(facts: Mapping[str, str], seed: int, index: int, epoch: int, balance: Balance = UNBALANCED) -> Pair:
    """As :func:`draw_pair`, from facts that were made before: reading a record takes longer than the draw.

    Raises:
        ConfigError: there is no question about these facts, or in a balanced draw none that has two answers.
    """
    weights = {kind: balance.weight(kind, facts) for kind in offered(facts)}
    kinds = [kind for kind, weight in weights.items() if weight > 0]
    if not kinds:
        raise ConfigError(f"sample {index} with nothing to ask about, facts {list(facts)}", "facts such as technology")
    rng = rng_for(seed, "instruction", index, epoch)
    shares = np.array([weights[kind] for kind in kinds])
    return make_pair(facts, kinds[rng.choice(len(kinds), p=shares / shares.sum())], rng, balance=balance)


def all_pairs(
    record: Mapping[str, Any],
    columns: int,
    seed: int,
    index: int,
    *,
    wording: Wording = "known",
    balance: Balance = UNBALANCED,
) -> list[Pair]:
    """One pair of every kind that the record offers; the same for the same seed and index."""
    facts = facts_of(record, columns)
    rng = rng_for(seed, "instructions", index)
    return [make_pair(facts, kind, rng, wording=wording, balance=balance) for kind in offered(facts)]


def parse_answer(text: str, kind: str, labels: Mapping[str, Sequence[str]]) -> str | None:
    """What an answer says, normalised, or None when it does not say it in the form that was asked for.

    Nothing is repaired: case, white space around it and one final full stop are all that is overlooked.

    Args:
        text: the answer.
        kind: a key of :data:`KINDS`, except ``"description"`` which has no single value.
        labels: for each categorical kind the values that exist.

    Returns:
        :data:`CANNOT_TELL` where that is said, the label as ``labels`` spell it, the value of a choice, the number of
        a quantity without its unit, a count ("3", "more than 8"), or for ``"json"`` the canonical JSON text of an
        object that ``summary.schema.json`` of the library allows.

    Raises:
        ConfigError: the kind cannot be parsed.
    """
    said = text.strip().removesuffix(".").strip()
    if kind not in KINDS or KINDS[kind].form == "text":
        readable = [name for name, template in KINDS.items() if template.form != "text"]
        raise ConfigError(f"answers of kind {kind!r}", f"one of {readable}")
    template = KINDS[kind]
    if said.casefold() == CANNOT_TELL:
        return CANNOT_TELL
    if template.form == "json":
        return _parse_json(said, labels)
    if template.form == "quantity":
        found = re.fullmatch(rf"(-?\d+(?:\.\d+)?)\s*{template.unit}", said, re.IGNORECASE)
        return f"{float(found[1]):.7g}" if found else None
    if template.form == "count":
        return said.casefold() if re.fullmatch(rf"\d+|more than {MOST_COUNTED}", said, re.IGNORECASE) else None
    known = template.values or labels.get(kind, ())
    return {label.casefold(): label for label in known}.get(said.casefold())


def _relevant(facts: Mapping[str, str], kind: str) -> dict[str, str]:
    """The facts that an answer of a kind relies on."""
    template = KINDS[kind]
    if template.form == "text":
        return dict(facts)
    names = template.fields if template.form == "json" else template.needs
    return {name: facts[name] for name in names if name in facts}


def _answer(known: Mapping[str, str], kind: str) -> str:
    template = KINDS[kind]
    if template.form == "text":
        return caption(known)
    if template.form == "json":
        return _canonical({name: _plain(known[fact]) for fact, name in template.fields.items() if fact in known})
    # What is asked of noise alone is about the signal that is not there; only counts and absence have answers.
    silent = kind != "absence" and known[template.needs[0]] == CANNOT_TELL
    return CANNOT_TELL if silent else template.answer.format(**known)


def _plain(value: str) -> str | int:
    """A fact as JSON has it: whole numbers as such."""
    return int(value) if re.fullmatch(r"-?\d+", value) else value


def _canonical(plain: Mapping[str, Any]) -> str:
    return json.dumps(plain, ensure_ascii=False)


def _parse_json(text: str, labels: Mapping[str, Sequence[str]]) -> str | None:
    try:
        plain = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    template = KINDS["json"]
    required = {template.fields[need] for need in template.needs}
    if not isinstance(plain, dict) or not required <= set(plain) <= set(template.fields.values()):
        return None
    read = {name: _field(plain[name], fact, labels) for fact, name in template.fields.items() if name in plain}
    return None if None in read.values() else _canonical(read)


def _field(value: Any, fact: str, labels: Mapping[str, Sequence[str]]) -> str | int | None:
    """A field of JSON, normalised; None where it is not of the fact's form."""
    template = KINDS[fact]
    if fact == "emissions" and value == CANNOT_TELL:
        return None
    if isinstance(value, str):
        if template.form in ("quantity", "count") and re.fullmatch(r"-?\d+.*", value):
            return None  # a number is said as a number
        return parse_answer(value, fact, labels)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or template.form not in ("quantity", "count"):
        return None
    said = parse_answer(f"{value} {template.unit}", fact, labels)
    return None if said is None else _plain(said)
