"""Contestants of the scorer: RF-GPT, and the baselines that see no picture."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from lwm.language.instructions import Pair
from lwm.language.questions import PROSE, Question, topic_of
from lwm.seeding import rng_for

# The longest label is a few tokens; an answer that is cut off cannot be read and counts as such.
_LONGEST = {"json": 128} | dict.fromkeys(PROSE, 256)
_LONGEST_LABEL = 32
_AT_ONCE = 128
"""Questions that one call of ``generate`` takes."""


class Replies(NamedTuple):
    """Answers to a list of questions.

    ``texts``: one a question. ``confidences``: the contestant's own probability of each, 0 to 1; None: it has none.
    """

    texts: list[str]
    confidences: list[float] | None = None


class Answerer(Protocol):
    """Whoever answers questions about captures; all that the scorer knows of a contestant."""

    def __call__(self, captures: Tensor, questions: Sequence[Question]) -> Replies:
        """Answers about dB pictures ``captures [B, C, F, T]``; a question says which of them it is about."""


class RFGPTAnswerer:
    """RF-GPT as a contestant: each capture is encoded once, however many questions are about it.

    The confidence of an answer is the probability that the model gave to all its tokens, end of turn included.

    Args:
        model: :class:`lwm.language.rfgpt.RFGPT`; put into evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()

    def __call__(self, captures: Tensor, questions: Sequence[Question]) -> Replies:
        """Greedy answers, kinds with long answers apart so that a label's batch ends early."""
        device = next(self.model.parameters()).device
        rf = self.model.encode(captures.to(device))
        texts, sure = [""] * len(questions), [0.0] * len(questions)
        for longest in sorted({most_tokens(one.kind) for one in questions}):
            mine = [number for number, one in enumerate(questions) if most_tokens(one.kind) == longest]
            for first in range(0, len(mine), _AT_ONCE):
                part = mine[first : first + _AT_ONCE]
                rows = [[questions[number].capture] for number in part]
                found = self.model.generate(rf, [questions[number].text for number in part], longest, captures=rows)
                for number, text, log_probability in zip(part, found.texts, found.log_probabilities, strict=True):
                    texts[number], sure[number] = text, float(min(1.0, np.exp(log_probability)))
        return Replies(texts, sure)


def most_tokens(kind: str) -> int:
    """Tokens that an answer of a kind is given."""
    return _LONGEST.get(kind, _LONGEST_LABEL)


class MajorityAnswerer:
    """Always the commonest answer of the training pairs: to the same words, or else to the same topic.

    What it gets right above chance can be guessed from a question's wording.

    Args:
        pairs: of the train split.
        by_wording: False for the commonest answer to the topic whatever the words.
    """

    def __init__(self, pairs: Iterable[Pair], by_wording: bool = False) -> None:
        counts: dict[str, Counter[str]] = {}
        for pair in pairs:
            for key in (topic_of(pair), _words(pair.question)) if by_wording else (topic_of(pair),):
                counts.setdefault(key, Counter())[pair.answer] += 1
        # The first in the alphabet of equals, so that the order of the data decides nothing.
        self._best = {key: min(found, key=lambda text: (-found[text], text)) for key, found in counts.items()}

    def __call__(self, captures: Tensor, questions: Sequence[Question]) -> Replies:
        """The same answer to the same question, whatever the capture; empty where no pair was of its topic."""
        return Replies([self._best.get(_words(one.text), self._best.get(one.topic, "")) for one in questions])


class RandomAnswerer:
    """One of the answers that a topic has in the training pairs, drawn evenly.

    Args:
        pairs: of the train split.
        seed: of the draws.
    """

    def __init__(self, pairs: Iterable[Pair], seed: int = 0) -> None:
        found: dict[str, set[str]] = {}
        for pair in pairs:
            found.setdefault(topic_of(pair), set()).add(pair.answer)
        self._answers = {topic: sorted(answers) for topic, answers in found.items()}
        self._rng = rng_for(seed, "random answers")

    def __call__(self, captures: Tensor, questions: Sequence[Question]) -> Replies:
        """A drawn answer to each question; empty where no pair was of its topic."""
        return Replies([self._drawn(self._answers.get(one.topic, [""])) for one in questions])

    def _drawn(self, answers: Sequence[str]) -> str:
        return answers[int(self._rng.integers(len(answers)))]


def _words(question: str) -> str:
    """A question without the sentence that tells the sample rate."""
    return question.split(" MHz. ", 1)[-1]
