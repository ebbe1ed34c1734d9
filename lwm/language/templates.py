"""The template library: what is asked, in which words, and how the answer is put; data in ``lwm/language/data``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from string import Formatter
from typing import Any, Literal

import yaml

from lwm.errors import ConfigError
from lwm.language.facts import CANNOT_TELL
from lwm.settings import read_settings

Wording = Literal["known", "held_out"]
"""Phrasings to draw from: those for tuning, or those that tuning never sees."""
Form = Literal["label", "choice", "quantity", "count", "text", "json"]
"""What an answer is: a label of the data set, one of ``values``, a number with a unit, a number, prose, JSON."""


@dataclass(frozen=True)
class Sentence:
    """One sentence of a description: said when the facts in ``when`` are so and all facts in ``say`` are known."""

    say: str
    when: dict[str, str] = field(default_factory=dict)

    def fits(self, facts: Mapping[str, str]) -> bool:
        """Whether it can be said of these facts; what cannot be told is not known."""
        known = all(facts.get(name, CANNOT_TELL) != CANNOT_TELL for name in placeholders(self.say))
        return known and all(facts.get(name) == value for name, value in self.when.items())


@dataclass(frozen=True)
class Kind:
    """A kind of question, as a file of the library holds it.

    Args:
        questions: phrasings; those of ``absence`` name the technology ``{asked}``.
        needs: facts without which it is not asked; the first is the one that the answer says.
        held_out: phrasings that tuning never sees, so that wording learnt by heart shows.
        form: of the answer.
        answer: the answer's template, facts in braces.
        weight: how often the kind is drawn beside the others.
        unit: of a quantity.
        values: of a choice.
        fields: of JSON: a fact to its name in the answer.
        sentences: of prose: groups, of each of which the first sentence that fits is said.
    """

    questions: tuple[str, ...]
    needs: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    form: Form = "label"
    answer: str = ""
    weight: float = 1.0
    unit: str = ""
    values: tuple[str, ...] = ()
    fields: dict[str, str] = field(default_factory=dict)
    sentences: tuple[tuple[Sentence, ...], ...] = ()

    def phrasings(self, wording: Wording) -> tuple[str, ...]:
        """The phrasings of a wording."""
        return self.held_out if wording == "held_out" else self.questions


@dataclass(frozen=True)
class _Order:
    kinds: tuple[str, ...]


@cache
def library() -> dict[str, Kind]:
    """Every kind of question by name, in the order of ``kinds.yaml``.

    Raises:
        ConfigError: a file that is missing or wrong, a phrasing that stands twice, an answer without its template.
    """
    found = {name: _kind(name) for name in read_settings(_Order, _load("kinds.yaml"), "kinds.yaml").kinds}
    every = [text for kind in found.values() for text in (*kind.questions, *kind.held_out)]
    twice = sorted({text for text in every if every.count(text) > 1})
    if twice:
        raise ConfigError(f"questions that stand twice in the template library: {twice}", "each once")
    return found


def placeholders(template: str) -> tuple[str, ...]:
    """Names in braces of a template."""
    return tuple(name for _, name, _, _ in Formatter().parse(template) if name)


def library_text(name: str) -> str:
    """Text of a file of the library.

    Raises:
        ConfigError: no such file.
    """
    try:
        return files("lwm.language").joinpath("data", name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"the template library has no {name}", "one file for each kind in kinds.yaml") from error


def _load(name: str) -> Any:
    try:
        return yaml.safe_load(library_text(name))
    except yaml.YAMLError as error:
        raise ConfigError(f"template library {name} is not YAML ({error})", "YAML") from error


def _kind(name: str) -> Kind:
    kind = read_settings(Kind, _load(f"{name}.yaml"), f"{name}.yaml")
    lacking = {
        "questions": not kind.questions or not kind.held_out,
        "needs": not kind.needs,
        "weight": kind.weight <= 0,
        "answer": kind.form in ("label", "choice", "quantity", "count") and not kind.answer,
        "unit": (kind.form == "quantity") != bool(kind.unit),
        "values": (kind.form == "choice") != bool(kind.values),
        "fields": (kind.form == "json") != bool(kind.fields),
        "sentences": (kind.form == "text") != bool(kind.sentences),
    }
    wrong = [key for key, bad in lacking.items() if bad]
    if wrong:
        raise ConfigError(f"{name}.yaml of form {kind.form}: {', '.join(wrong)}", "what this form of answer needs")
    return kind
