"""How often questions are drawn, so that no answer can be guessed from a question's wording.

Every sample gives one pair an epoch. The probability that sample ``i`` is asked kind ``k`` is proportional to a factor
of the kind and of the sample's own answer to it. The factors are found by iterative proportional fitting (Deming and
Stephan 1940) over the data set, so that within a kind the answers come equally often, and kinds as often as they weigh.
Noise alone keeps its share of every kind.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lwm.console import progress
from lwm.data.dataset import SpectrogramDataset
from lwm.language.captions import facts_of, title_of
from lwm.language.facts import CANNOT_TELL, columns_of
from lwm.language.templates import Kind, library
from lwm.technology import technology_names

MOST_REPEATED = 5.0
"""Times as often as it occurs that an answer is drawn at most: a rare one is no reason to ask the same few samples."""
_ANY = "any"
_ROUNDS = 200
_STEP = 0.5
_SMALLEST = 1e-6

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Balance:
    """Draws of a data set.

    Args:
        factors: kind to answer to factor; a kind with less than two answers is left out. None weighs kinds alone.
        asked: technology that is there (or "cannot tell") to the probability of each one to be asked about by
            ``absence``; of what it lacks, the installed technologies stand in.
    """

    factors: Mapping[str, Mapping[str, float]] | None = None
    asked: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def weight(self, kind: str, facts: Mapping[str, str]) -> float:
        """Weight with which a sample is asked a kind that its facts offer."""
        template = library()[kind]
        if self.factors is None:
            return template.weight
        # An answer that the data set did not have is drawn as the kind weighs.
        return self.factors.get(kind, {}).get(
            answer_class(template, facts), template.weight if kind in self.factors else 0
        )

    def draw_asked(self, present: str, rng: np.random.Generator) -> str:
        """The technology that an absence question asks about, where ``present`` is there."""
        shares = self.asked.get(present) or _even_chance(present)
        names = list(shares)
        return names[int(rng.choice(len(names), p=np.array(list(shares.values()))))]


UNBALANCED = Balance()
"""Kinds by their weights; absence asks about the installed technologies, one that is there half of the time."""


def balance_of(data: SpectrogramDataset) -> Balance:
    """The balance of a data set (of one split), from the records of all its samples."""
    return balance_of_facts(read_facts(data, range(len(data))))


def read_facts(data: SpectrogramDataset, samples: Sequence[int] | npt.NDArray[np.int64]) -> list[dict[str, str]]:
    """Facts of some samples, in their order, from their records."""
    columns, facts = columns_of(data.recipe), []
    with progress("facts", len(samples), "records") as bar:
        for index in samples:
            facts.append(facts_of(data.record(int(index)), columns))
            bar.update(1)
    return facts


def balance_of_facts(facts: Iterable[Mapping[str, str]]) -> Balance:
    """The balance of samples whose facts are given."""
    samples = list(facts)
    table = _Table(samples)
    factors = table.fit()
    shares = table.drawn(factors)
    found: dict[str, dict[str, float]] = {}
    for (kind, answer), factor in zip(table.classes, factors.tolist(), strict=True):
        found.setdefault(kind, {})[answer] = factor
    drawn = {answer: share for (kind, answer), share in zip(table.classes, shares, strict=True) if kind == "absence"}
    return Balance(found, _asked(drawn) if drawn else {})


def answer_class(kind: Kind, facts: Mapping[str, str]) -> str:
    """What stands for the answer of a sample to a kind: its first fact; of prose and JSON only whether there is any."""
    value = facts[kind.needs[0]]
    return value if value == CANNOT_TELL or kind.form not in ("text", "json") else _ANY


class _Table:
    """Samples times kinds, each cell with the number of the answer's class (kind, answer), or the last one, none.

    Attributes:
        classes: kind and answer of each class ``[C]``.
        codes: ``[N, K]``.
        kinds: number of the kind of each class ``[C]``.
    """

    def __init__(self, samples: list[Mapping[str, str]]) -> None:
        answers = {name: _answers(kind, samples) for name, kind in library().items()}
        asked = {name: column for name, column in answers.items() if _informative(library()[name], column)}
        self.names = list(asked)
        self.classes = [(name, each) for name, column in asked.items() for each in sorted(set(column) - {""})]
        number = {one: place for place, one in enumerate(self.classes)}
        none = len(self.classes)
        self.codes = (
            np.array(
                [[number.get((name, answer), none) for answer in column] for name, column in asked.items()], np.int64
            )
            .reshape(len(asked), len(samples))
            .T
        )
        self.kinds = np.array([self.names.index(name) for name, _ in self.classes], np.int64)
        self.weights = np.array([library()[name].weight for name in self.names])

    def fit(self) -> Floats:
        """Factor of each class ``[C]``."""
        counts = np.bincount(self.codes.ravel(), minlength=len(self.classes) + 1)[:-1].astype(np.float64)
        wanted, offered = self._wanted(counts), np.bincount(self.kinds, counts, len(self.names))
        totals = self.weights * offered
        totals *= len(self.codes) / max(totals.sum(), 1.0)
        factors = self.weights[self.kinds]
        for _ in range(_ROUNDS):
            drawn = np.maximum(self.drawn(factors), _SMALLEST)
            factors = factors * (wanted * totals[self.kinds] / drawn) ** _STEP
        return factors

    def drawn(self, factors: Floats) -> Floats:
        """Expected number of pairs of each class ``[C]`` in an epoch."""
        cells = np.append(factors, 0.0)[self.codes]
        cells /= np.maximum(cells.sum(1, keepdims=True), 1e-300)
        return np.bincount(self.codes.ravel(), cells.ravel(), len(self.classes) + 1)[:-1].astype(np.float64)

    def _wanted(self, counts: Floats) -> Floats:
        """Share of its kind that each class should have ``[C]``."""
        wanted = np.zeros(len(self.classes))
        for kind in range(len(self.names)):
            mine = np.flatnonzero(self.kinds == kind)
            own = counts[mine] / counts[mine].sum()
            silent = np.array([self.classes[place][1] == CANNOT_TELL for place in mine])
            wanted[mine[silent]] = own[silent]
            wanted[mine[~silent]] = _even(own[~silent], own[~silent].sum())
        return wanted


def _answers(kind: Kind, samples: list[Mapping[str, str]]) -> list[str]:
    """Answer of each sample, empty where the kind is not offered."""
    return [answer_class(kind, facts) if all(need in facts for need in kind.needs) else "" for facts in samples]


def _informative(kind: Kind, answers: list[str]) -> bool:
    """Whether there is something to tell: two answers other than "cannot tell", but for prose and JSON."""
    told = set(answers) - {"", CANNOT_TELL}
    return len(told) > (0 if kind.form in ("text", "json") else 1)


def _even(own: Floats, total: float) -> Floats:
    """``total`` shared out evenly, no part above :data:`MOST_REPEATED` times its own share."""
    share, free = np.zeros(len(own)), np.ones(len(own), bool)
    while free.any():
        level = (total - share[~free].sum()) / free.sum()
        capped = free & (MOST_REPEATED * own < level)
        if not capped.any():
            share[free] = level
            break
        share[capped] = MOST_REPEATED * own[capped]
        free &= ~capped
    return share


def _asked(drawn: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """What absence asks about, where ``drawn`` says how often it is drawn for each technology and for noise.

    About what is there with one probability, so that half of all answers are yes; else about another one, by
    proportional fitting, so that each technology gets as many no as yes.
    """
    there = [name for name in drawn if name != CANNOT_TELL]
    rows = [name for name in drawn if drawn[name] > 0]
    mass = np.array([drawn[name] for name in rows])
    present = np.array([name != CANNOT_TELL for name in rows])
    yes = min(1.0, 0.5 * mass.sum() / max(float(mass[present].sum()), _SMALLEST))
    rest = np.where(present, 1 - yes, 1.0) * mass
    wanted = np.array([yes * drawn[name] for name in there])
    flow = np.array(
        [[0.0 if row == name else weight for name, weight in zip(there, wanted, strict=True)] for row in rows]
    )
    for _ in range(_ROUNDS):
        flow *= (wanted / np.maximum(flow.sum(0), _SMALLEST))[None]
        flow *= (rest / np.maximum(flow.sum(1), _SMALLEST))[:, None]
    found = {}
    for row, name in enumerate(rows):
        shares = flow[row] + (yes * mass[row] if name != CANNOT_TELL else 0.0) * np.array(
            [each == name for each in there]
        )
        found[name] = dict(zip(there, (shares / shares.sum()).tolist(), strict=True))
    return found


def _even_chance(present: str) -> dict[str, float]:
    """One that is there half of the time, else any other installed one; one that is not, always."""
    others = [title for title in map(title_of, technology_names()) if title != present]
    if present == CANNOT_TELL or not others:
        return dict.fromkeys(others or [present], 1 / max(1, len(others)))
    return {present: 0.5} | dict.fromkeys(others, 0.5 / len(others))
