"""Questions and answers about one sample, derived from its record, and how answers are read back."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwm.errors import ConfigError
from lwm.language.captions import caption, context_of, facts_of
from lwm.seeding import rng_for


@dataclass(frozen=True)
class Pair:
    """One question with its answer.

    ``kind`` is a key of :data:`KINDS`; ``facts`` are the facts that the answer relies on.
    """

    question: str
    answer: str
    kind: str
    facts: dict[str, str]


@dataclass(frozen=True)
class Kind:
    """A kind of question: its phrasings, the facts that it needs, how often it is drawn and the unit of its answer."""

    questions: tuple[str, ...]
    needs: tuple[str, ...]
    weight: float = 1.0
    unit: str = ""


KINDS: dict[str, Kind] = {
    "technology": Kind(
        (
            "Which technology is this?",
            "What radio technology is on the air?",
            "Name the technology of this signal.",
            "Which standard does this signal follow?",
        ),
        ("technology",),
        weight=4.0,
    ),
    "link": Kind(
        (
            "Which link direction is this?",
            "Is this downlink or uplink?",
            "Name the link direction of this signal.",
        ),
        ("link",),
        weight=2.0,
    ),
    "snr": Kind(
        (
            "What is the SNR?",
            "How strong is the signal over the noise?",
            "Estimate the signal-to-noise ratio.",
        ),
        ("snr",),
        unit=" dB",
    ),
    "mobility": Kind(
        (
            "How fast does the receiver move?",
            "Is the channel static, pedestrian or vehicular?",
            "Name the mobility class.",
        ),
        ("mobility",),
    ),
    "bandwidth": Kind(
        (
            "What is the channel bandwidth?",
            "How wide is the channel?",
            "Estimate the bandwidth of this signal.",
        ),
        ("bandwidth", "sample_rate"),
        unit=" MHz",
    ),
    "modulation": Kind(
        (
            "Which modulation is used?",
            "Name the modulation.",
            "How are the data symbols modulated?",
        ),
        ("modulation",),
        weight=0.5,
    ),
    "duration": Kind(
        (
            "How long is the capture?",
            "What is the duration of this capture?",
        ),
        ("duration", "valid"),
        weight=0.5,
        unit=" ms",
    ),
    "padded": Kind(
        (
            "Is the capture shorter than the window?",
            "Was the capture padded?",
        ),
        ("padded",),
        weight=0.5,
    ),
    "valid": Kind(
        (
            "How much of the window is valid?",
            "What share of the window does the capture fill?",
        ),
        ("valid",),
        weight=0.5,
        unit=" %",
    ),
    "description": Kind(
        (
            "Describe the capture.",
            "Write a short description of this spectrogram.",
            "What can be seen here?",
        ),
        ("technology", "link"),
        weight=0.5,
    ),
    "json": Kind(
        (
            "Answer in JSON: technology and link.",
            "Give technology and link as JSON.",
        ),
        ("technology", "link"),
    ),
}
"""Every kind of question, in the order in which kinds are drawn."""


def offered(facts: Mapping[str, str]) -> list[str]:
    """Kinds whose facts are all there."""
    return [name for name, kind in KINDS.items() if all(need in facts for need in kind.needs)]


def make_pair(facts: Mapping[str, str], kind: str, rng: np.random.Generator, context: bool | None = None) -> Pair:
    """One pair of a kind, its phrasing drawn.

    Args:
        facts: of one sample, from :func:`lwm.language.captions.facts_of`.
        kind: a key of :data:`KINDS`.
        rng: draws the phrasing, and with ``context`` None whether the sample rate is given.
        context: say the sample rate before the question. A bandwidth in MHz cannot be told without it, so that kind
            always has it.

    Raises:
        ConfigError: no such kind, or a fact that it needs is missing.
    """
    if kind not in KINDS:
        raise ConfigError(f"question kind {kind!r}", f"one of {list(KINDS)}")
    template = KINDS[kind]
    missing = [need for need in template.needs if need not in facts]
    if missing:
        raise ConfigError(f"a {kind} question without the facts {missing}", f"facts {list(template.needs)}")
    question = template.questions[rng.integers(len(template.questions))]
    told = bool(rng.random() < 0.5) if context is None else context
    if "sample_rate" in facts and (told or "sample_rate" in template.needs):
        question = context_of(float(facts["sample_rate"]) * 1e6) + question
    used = facts if kind == "description" else {need: facts[need] for need in template.needs}
    return Pair(question, _answer(facts, kind), kind, dict(used))


def draw_pair(record: Mapping[str, Any], columns: int, seed: int, index: int, epoch: int) -> Pair:
    """The pair of one sample in one epoch: a kind by its weight, then a phrasing.

    Args:
        record: the sample's record.
        columns: columns of the picture.
        seed: of the run.
        index: of the sample in its data set.
        epoch: number of the pass over the data.

    Raises:
        ConfigError: the record holds no fact to ask about.
    """
    facts = facts_of(record, columns)
    kinds = offered(facts)
    if not kinds:
        raise ConfigError(
            f"record {index} has nothing to ask about", f"facts such as technology; it has {list(record)}"
        )
    rng = rng_for(seed, "instruction", index, epoch)
    weights = np.array([KINDS[kind].weight for kind in kinds])
    return make_pair(facts, kinds[rng.choice(len(kinds), p=weights / weights.sum())], rng)


def all_pairs(record: Mapping[str, Any], columns: int, seed: int, index: int) -> list[Pair]:
    """One pair of every kind that the record offers; the same for the same seed and index."""
    facts = facts_of(record, columns)
    rng = rng_for(seed, "instructions", index)
    return [make_pair(facts, kind, rng) for kind in offered(facts)]


def parse_answer(text: str, kind: str, labels: Mapping[str, Sequence[str]]) -> str | None:
    """What an answer says, normalised, or None when it does not say it in the form that was asked for.

    Nothing is repaired: case, white space around it and one final full stop are all that is overlooked.

    Args:
        text: the answer.
        kind: a key of :data:`KINDS`, except ``"description"`` which has no single value.
        labels: for each categorical kind the values that exist.

    Returns:
        The label as ``labels`` spell it, the number of a quantity without its unit, or for ``"json"`` the canonical
        JSON text of an object with exactly the keys technology and link.

    Raises:
        ConfigError: the kind cannot be parsed.
    """
    said = text.strip().removesuffix(".").strip()
    if kind == "json":
        return _parse_json(said, labels)
    if kind not in KINDS or kind == "description":
        raise ConfigError(f"answers of kind {kind!r}", f"one of {[name for name in KINDS if name != 'description']}")
    if KINDS[kind].unit:
        found = re.fullmatch(rf"(-?\d+(?:\.\d+)?)\s*{KINDS[kind].unit.strip()}", said, re.IGNORECASE)
        return f"{float(found[1]):g}" if found else None
    known = ("yes", "no") if kind == "padded" else labels.get(kind, ())
    return {label.casefold(): label for label in known}.get(said.casefold())


def _answer(facts: Mapping[str, str], kind: str) -> str:
    if kind == "description":
        return caption(facts)
    if kind == "json":
        return _canonical({name: facts[name] for name in KINDS[kind].needs})
    return facts[KINDS[kind].needs[0]] + KINDS[kind].unit


def _canonical(plain: Mapping[str, str]) -> str:
    return json.dumps(plain, ensure_ascii=False)


def _parse_json(text: str, labels: Mapping[str, Sequence[str]]) -> str | None:
    try:
        plain = json.loads(text)
    except json.JSONDecodeError:
        return None
    needs = KINDS["json"].needs
    if not isinstance(plain, dict) or set(plain) != set(needs):
        return None
    values = [parse_answer(plain[name], name, labels) if isinstance(plain[name], str) else None for name in needs]
    known = [value for value in values if value is not None]
    return _canonical(dict(zip(needs, known, strict=True))) if len(known) == len(needs) else None
