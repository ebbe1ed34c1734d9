"""Scores of whoever answers questions about captures: RF-GPT and its baselines meet the same questions.

The scorer knows an :class:`~lwm.language.answerers.Answerer`, a function from captures and questions to texts, and
nothing of what is behind it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lwm.console import progress, say
from lwm.data.dataset import SpectrogramDataset
from lwm.errors import ConfigError, DatasetError
from lwm.language.answerers import Answerer, RFGPTAnswerer
from lwm.language.converse import load_rfgpt
from lwm.language.datamodule import label_values
from lwm.language.metrics import SCORED, Scored, summary
from lwm.language.questions import Asked, Labels, balanced, questions_about, read_value, require_kinds
from lwm.seeding import rng_for

_BATCH = 32
"""Captures that a contestant is given at a time."""


def score(
    model: str | Path,
    data: str | Path,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    kinds: Sequence[str] = SCORED,
    per_kind: int | None = None,
) -> dict[str, Any]:
    """Ask RF-GPT about the samples of a data set and compare its answers with the records.

    Every chosen sample is asked one question of each kind, phrased by the seed, with the sample rate told.

    Args:
        model: RF-GPT's model folder.
        data: data set's folder.
        split: of the data set; test is of a site that the others have not.
        limit: at most so many questions; None asks about every sample.
        seed: draws samples and phrasings.
        kinds: kinds of questions (see `lwm.language.instructions.KINDS`).
        per_kind: at most so many questions of each kind, all answers of a kind equally often; None asks them all.

    Returns:
        Of :func:`~lwm.language.metrics.summary`, with ``samples``, ``split`` and ``seed``.

    Raises:
        ConfigError: an unknown kind, or a limit below one question of each kind.
        DatasetError: no sample offers these kinds.
        RecipeMismatch: the data are of another recipe than the model's.
    """
    rfgpt = load_rfgpt(model)
    dataset = SpectrogramDataset(data, split)
    rfgpt.recipe.require_same(dataset.recipe)
    labels = merged_labels(label_values(dataset), rfgpt.labels)
    asked = draw_questions(dataset, labels, kinds, seed, limit, per_kind)
    found = summary(ask_questions(RFGPTAnswerer(rfgpt), dataset, asked, labels), kinds)
    for kind in kinds:
        say(f"{kind}: {found[f'{kind}_accuracy']:.3f} right; majority {found[f'{kind}_majority']:.3f}")
    say(f"{found['parse_failures']} of {found['questions']} answers could not be read")
    return found | {"samples": len({one.sample for one in asked}), "split": split, "seed": seed}


def draw_questions(
    data: SpectrogramDataset,
    labels: Labels,
    kinds: Sequence[str],
    seed: int,
    limit: int | None = None,
    per_kind: int | None = None,
) -> list[Asked]:
    """The questions of a score, in the samples' order; arguments and errors as of :func:`score`."""
    require_kinds(kinds)
    if limit is not None and limit < len(kinds):
        raise ConfigError(f"limit {limit}", f"at least {len(kinds)}, one question of each kind")
    order = rng_for(seed, "score").permutation(len(data))
    chosen = np.sort(order if limit is None else order[: limit // len(kinds)])
    asked = questions_about(data, chosen, kinds, seed)
    return asked if per_kind is None else balanced(asked, per_kind, seed, labels)


def ask_samples(
    answerer: Answerer,
    data: SpectrogramDataset,
    samples: Sequence[int] | np.ndarray,
    kinds: Sequence[str],
    seed: int,
    labels: Labels | None = None,
) -> list[Scored]:
    """One question of each kind about each sample that offers it.

    Raises:
        DatasetError: no sample offers any of these kinds.
    """
    asked = questions_about(data, samples, kinds, seed)
    return ask_questions(answerer, data, asked, label_values(data) if labels is None else labels)


def ask_questions(
    answerer: Answerer, data: SpectrogramDataset, asked: Sequence[Asked], labels: Labels, batch: int = _BATCH
) -> list[Scored]:
    """Put questions to a contestant and read what it says; every picture is handed over once.

    Args:
        answerer: the contestant.
        data: what is asked about.
        asked: the questions, those about one sample behind each other.
        labels: for each categorical kind the values that an answer may have.
        batch: samples handed over at a time.

    Raises:
        DatasetError: the contestant gave another number of answers.
    """
    scored: list[Scored] = []
    with progress("questions", len(asked), "questions") as bar:
        for samples, part in _batches(asked, batch):
            row = {sample: number for number, sample in enumerate(samples)}
            captures = data.batch(samples)["spectrogram"]
            said = answerer(captures, [one.question(row[one.sample]) for one in part])
            sure = said.confidences if said.confidences is not None else [None] * len(said.texts)
            if not len(said.texts) == len(sure) == len(part):
                raise DatasetError(f"{len(said.texts)} answers to {len(part)} questions", "one answer a question")
            answers = zip(part, said.texts, sure, strict=True)
            scored += [_scored(one, text, value, labels) for one, text, value in answers]
            bar.update(len(part))
    return scored


def merged_labels(*parts: Labels) -> dict[str, list[str]]:
    """Labels that any part knows: a wrong label is a wrong answer, not one that cannot be read."""
    merged: dict[str, dict[str, None]] = {}
    for part in parts:
        for kind, values in part.items():
            merged.setdefault(kind, {}).update(dict.fromkeys(values))
    return {kind: list(values) for kind, values in merged.items()}


def _batches(asked: Sequence[Asked], batch: int) -> Iterator[tuple[list[int], list[Asked]]]:
    """Questions about ``batch`` samples at a time, with those samples."""
    samples = list(dict.fromkeys(one.sample for one in asked))
    about: dict[int, list[Asked]] = {sample: [] for sample in samples}
    for one in asked:
        about[one.sample].append(one)
    for first in range(0, len(samples), batch):
        part = samples[first : first + batch]
        yield part, [one for sample in part for one in about[sample]]


def _scored(one: Asked, said: str, confidence: float | None, labels: Labels) -> Scored:
    # A truth that is no label can be met by no answer: the question stays, and is lost.
    truth = read_value(one.pair.answer, one.pair.kind, labels) or one.pair.answer
    read = read_value(said, one.pair.kind, labels)
    return Scored(one.sample, one.pair, said, read, truth, confidence, one.snr_db)
