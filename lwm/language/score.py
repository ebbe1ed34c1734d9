"""Scores of RF-GPT on held-out captures: right answers, answers that cannot be read, and the majority baseline."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwm.console import progress, say
from lwm.data.dataset import SpectrogramDataset
from lwm.errors import ConfigError, DatasetError
from lwm.language.ask import load_rfgpt
from lwm.language.captions import facts_of
from lwm.language.instructions import KINDS, Pair, make_pair, parse_answer
from lwm.language.rfgpt import RFGPT
from lwm.seeding import rng_for

SCORED = ("technology", "link")
"""Kinds that :func:`score` asks when it is not told."""
_BATCH = 64
# Enough for the longest label or JSON answer; one that is cut off cannot be parsed and is counted as such.
_LONGEST_ANSWER = 32


@dataclass(frozen=True)
class Scored:
    """One question about one sample: what was asked, what was said, and what that was read as."""

    sample: int
    pair: Pair
    said: str
    parsed: str | None
    truth: str

    @property
    def right(self) -> bool:
        """Whether the answer was readable and true."""
        return self.parsed == self.truth


def score(
    model: str,
    data: str,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    kinds: Sequence[str] = SCORED,
) -> dict[str, Any]:
    """Ask RF-GPT about the samples of a data set and compare its answers with the records.

    Every chosen sample is asked one question of each kind, phrased by the seed, with the sample rate told.

    Args:
        model: RF-GPT's model folder.
        data: data set's folder.
        split: of the data set.
        limit: at most so many questions; None asks about every sample.
        seed: draws samples and phrasings.
        kinds: kinds of questions (see `lwm.language.instructions.KINDS`), without "description".

    Returns:
        For each kind ``KIND_accuracy`` (share of right answers, unreadable ones counted as wrong) and
        ``KIND_majority`` (what always giving this split's commonest answer would get); ``parse_failures``,
        ``questions``, ``samples``, ``split``, ``seed``; ``confusion`` of technologies: truth, then what was read.

    Raises:
        ConfigError: an unknown kind, or a limit below one question of each kind.
        DatasetError: no sample offers these kinds.
        RecipeMismatch: the data are of another recipe than the model's.
    """
    unknown = [kind for kind in kinds if kind not in KINDS or kind == "description"]
    if unknown or not kinds:
        raise ConfigError(f"question kinds {unknown or list(kinds)}", f"some of {[*KINDS]} without 'description'")
    if limit is not None and limit < len(kinds):
        raise ConfigError(f"limit {limit}", f"at least {len(kinds)}, one question of each kind")
    rfgpt = load_rfgpt(model)
    dataset = SpectrogramDataset(data, split)
    rfgpt.recipe.require_same(dataset.recipe)
    order = rng_for(seed, "score").permutation(len(dataset))
    chosen = np.sort(order if limit is None else order[: limit // len(kinds)])
    scored = ask_samples(rfgpt, dataset, chosen, kinds, seed)
    found = summary(scored, kinds) | {"samples": len(chosen), "split": split, "seed": seed}
    for kind in kinds:
        say(f"{kind}: {found[f'{kind}_accuracy']:.3f} right; majority {found[f'{kind}_majority']:.3f}")
    say(f"{found['parse_failures']} of {found['questions']} answers could not be read")
    return found


def ask_samples(
    model: RFGPT, data: SpectrogramDataset, samples: Sequence[int] | np.ndarray, kinds: Sequence[str], seed: int
) -> list[Scored]:
    """One question of each kind about each sample that offers it; the tower sees every picture once.

    Raises:
        DatasetError: no sample offers any of these kinds.
    """
    scored: list[Scored] = []
    with progress("questions", len(samples) * len(kinds), "questions") as bar:
        for first in range(0, len(samples), _BATCH):
            chosen = np.asarray(samples[first : first + _BATCH])
            rf = model.encode(data.batch(chosen)["spectrogram"])
            rows, pairs = _questions(data, chosen, kinds, seed)
            for start in range(0, len(pairs), 2 * _BATCH):
                part = slice(start, start + 2 * _BATCH)
                asked = [pair.question for pair in pairs[part]]
                texts = model.generate(rf[rows[part]], asked, _LONGEST_ANSWER).texts
                read = zip(rows[part], pairs[part], texts, strict=True)
                scored += [_scored(int(chosen[row]), pair, text, model) for row, pair, text in read]
            bar.update(len(chosen) * len(kinds))
    if not scored:
        raise DatasetError(f"no sample of {data.root} says its {' or '.join(kinds)}", "labelled samples")
    return scored


def summary(scored: Sequence[Scored], kinds: Sequence[str] = SCORED) -> dict[str, Any]:
    """Accuracies, majority baselines and parse failures; NaN-free: a kind that nobody was asked is an error.

    Raises:
        DatasetError: a kind without a question.
    """
    found: dict[str, Any] = {}
    for kind in kinds:
        mine = [one for one in scored if one.pair.kind == kind]
        if not mine:
            raise DatasetError(f"no sample says its {kind}", "labelled samples", "ask other kinds")
        found[f"{kind}_accuracy"] = sum(one.right for one in mine) / len(mine)
        found[f"{kind}_majority"] = Counter(one.truth for one in mine).most_common(1)[0][1] / len(mine)
    found["parse_failures"] = sum(one.parsed is None for one in scored)
    found["questions"] = len(scored)
    confusion: dict[str, Counter[str]] = {}
    for one in scored:
        if one.pair.kind == "technology":
            confusion.setdefault(one.truth, Counter())[one.parsed or "unreadable"] += 1
    found["confusion"] = {truth: dict(counts) for truth, counts in sorted(confusion.items())}
    return found


def _questions(
    data: SpectrogramDataset, chosen: np.ndarray, kinds: Sequence[str], seed: int
) -> tuple[list[int], list[Pair]]:
    """Rows of ``chosen`` and the questions about them."""
    rows: list[int] = []
    pairs: list[Pair] = []
    columns = data.recipe.size[1]
    for row, sample in enumerate(chosen):
        facts = facts_of(data.record(int(sample)), columns)
        rng = rng_for(seed, "score", int(sample))
        for kind in kinds:
            if all(need in facts for need in KINDS[kind].needs):
                rows.append(row)
                pairs.append(make_pair(facts, kind, rng, context=True))
    return rows, pairs


def _scored(sample: int, pair: Pair, said: str, model: RFGPT) -> Scored:
    # A label that the model was never taught cannot be read from it either: the question stays, and is lost.
    truth = parse_answer(pair.answer, pair.kind, model.labels) or pair.answer
    return Scored(sample, pair, said, parse_answer(said, pair.kind, model.labels), truth)
