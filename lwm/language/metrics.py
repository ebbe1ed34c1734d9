"""Figures of merit of answers: shares with their intervals, buckets of quantities, calibration, baselines."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm.errors import DatasetError
from lwm.language.facts import BANDWIDTH_STEP_MHZ, CANNOT_TELL
from lwm.language.instructions import KINDS, Pair
from lwm.language.questions import PROSE, SNR_BUCKET_DB, snr_bucket
from lwm.proportions import confidence_error, wilson

SCORED = ("technology", "link")
"""Kinds that are asked when nobody says which."""


@dataclass(frozen=True)
class Scored:
    """One question about one sample: what was asked, what was said, and what that was read as.

    ``parsed``: None when the answer could not be read. ``confidence``: the contestant's own probability of its
    answer; None where it gives none. ``snr_db``: of the sample, where it has one.
    """

    sample: int
    pair: Pair
    said: str
    parsed: str | None
    truth: str
    confidence: float | None = None
    snr_db: float | None = None

    @property
    def right(self) -> bool:
        """Whether the answer was readable and true; of a paragraph, whether all its sentences are the true ones."""
        return self.credit == 1.0 if self.pair.kind in PROSE else self.parsed == self.truth

    @property
    def credit(self) -> float:
        """Between 0 and 1: of a paragraph the F1 of its sentences, of JSON the share of right fields, else 0 or 1."""
        if self.parsed is None:
            return 0.0
        if self.pair.kind in PROSE:
            return _sentence_f1(self.parsed, self.truth)
        return (
            _field_share(self.parsed, self.truth)
            if KINDS[self.pair.kind].form == "json"
            else float(self.parsed == self.truth)
        )

    def record(self) -> dict[str, Any]:
        """The answer as a plain dict."""
        plain = {"sample": self.sample, "kind": self.pair.kind, "question": self.pair.question, "truth": self.truth}
        plain |= {"said": self.said, "parsed": self.parsed, "right": self.right, "credit": round(self.credit, 4)}
        return plain | {"confidence": self.confidence, "snr_db": self.snr_db}


def share(right: Sequence[bool] | npt.NDArray[Any]) -> dict[str, Any]:
    """``accuracy``, ``count`` and Wilson's ``interval`` (:func:`lwm.proportions.wilson`) of right and wrong answers.

    Raises:
        DatasetError: none at all.
    """
    if not len(right):
        raise DatasetError("a share of no answers", "one or more")
    hits = int(np.count_nonzero(right))
    return {"accuracy": hits / len(right), "count": len(right), "interval": list(wilson(hits, len(right)))}


def summary(scored: Sequence[Scored], kinds: Sequence[str] = SCORED) -> dict[str, Any]:
    """Figures of all answers, JSON-able.

    Args:
        scored: the answers.
        kinds: of question; each needs an answer.

    Returns:
        ``KIND_accuracy`` (share of right answers, unreadable ones counted as wrong) and ``KIND_majority`` (what always
        giving the commonest truth gets) for each kind; ``kinds``: for each a table with ``accuracy``, ``count``, Wilson
        ``interval``, ``majority`` and ``random`` (an answer drawn evenly from the true ones) on the same questions,
        ``parse_failures``, ``with_signal`` (without noise alone) where there is noise, ``by_snr``, for quantities in
        buckets ``bucket`` and ``within_one``, for prose and JSON ``credit``, with confidences ``ece``; ``questions``,
        ``parse_failures``, ``parse_failure_share``; ``cannot_tell``: share of the answers that say so where that is
        the truth (noise alone), and where it is not, and under ``captures`` the share of captures, with its interval,
        on which more than half of the answers do; ``ece``; ``confusion`` of technologies: truth, then what was read.

    Raises:
        DatasetError: a kind without a question.
    """
    tables: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        mine = [one for one in scored if one.pair.kind == kind]
        if not mine:
            raise DatasetError(f"no sample says its {kind}", "labelled samples", "ask other kinds")
        tables[kind] = kind_table(mine)
    found: dict[str, Any] = {f"{kind}_{name}": table[name] for kind, table in tables.items() for name in _FLAT}
    unread = sum(one.parsed is None for one in scored)
    found |= {"parse_failures": unread, "parse_failure_share": unread / len(scored), "questions": len(scored)}
    found |= {"kinds": tables, "cannot_tell": _cannot_tell(scored)} | _calibration(scored)
    return found | {"confusion": _confusion(scored)}


_FLAT = ("accuracy", "majority")
_STEPS = {"snr": SNR_BUCKET_DB, "bandwidth": BANDWIDTH_STEP_MHZ}


def kind_table(scored: Sequence[Scored]) -> dict[str, Any]:
    """Figures of one kind's answers; see :func:`summary`."""
    truths = Counter(one.truth for one in scored)
    kind = scored[0].pair.kind
    table = share([one.right for one in scored])
    table |= {"majority": truths.most_common(1)[0][1] / len(scored), "random": 1 / len(truths), "answers": len(truths)}
    table["parse_failures"] = sum(one.parsed is None for one in scored)
    told = [one for one in scored if one.truth != CANNOT_TELL]
    if told and len(told) < len(scored):
        table["with_signal"] = share([one.right for one in told])
    buckets = sorted({snr_bucket(one.snr_db) for one in scored if one.snr_db is not None})
    if buckets:
        table["by_snr"] = {str(at): share(_at(scored, at)) for at in buckets}
    if KINDS[kind].form in ("text", "json"):
        table["credit"] = float(np.mean([one.credit for one in scored]))
    return table | _quantity(told) | _calibration(scored)


def _at(scored: Sequence[Scored], bucket: int) -> list[bool]:
    return [one.right for one in scored if one.snr_db is not None and snr_bucket(one.snr_db) == bucket]


def _quantity(scored: Sequence[Scored]) -> dict[str, Any]:
    """Of quantities in buckets: the share in the right bucket, whatever number was said, and at most one bucket off."""
    step = _STEPS.get(scored[0].pair.kind) if scored else None
    if step is None:
        return {}
    pairs = [(one.parsed, one.truth) for one in scored]
    off = np.array(
        [abs(_bucket(said, step) - _bucket(truth, step)) if _number(said) else np.inf for said, truth in pairs]
    )
    return {"bucket": share(off == 0), "within_one": share(off <= 1)}


def _bucket(text: str | None, step: float) -> float:
    return float(np.floor(float(text or "nan") / step + 0.5))


def _number(text: str | None) -> bool:
    return text is not None and re.fullmatch(r"-?\d+(\.\d+)?", text) is not None


def _cannot_tell(scored: Sequence[Scored]) -> dict[str, Any]:
    """How often "cannot tell" was said where it is the truth, and where it is not; parts nobody was asked are left
    out.

    The answers about one capture are no independent draws: the interval counts captures, each by most of its answers.
    """
    parts: dict[str, dict[int, list[bool]]] = {"said_on_noise": {}, "said_falsely": {}}
    for one in scored:
        part = parts["said_on_noise" if one.truth == CANNOT_TELL else "said_falsely"]
        part.setdefault(one.sample, []).append(one.parsed == CANNOT_TELL)
    return {name: _of_captures(list(said.values())) for name, said in parts.items() if said}


def _of_captures(said: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """``share`` and ``count`` of answers, and of ``captures`` on which more than half of the answers are so."""
    answers = [each for mine in said for each in mine]
    captures = share([2 * sum(mine) > len(mine) for mine in said])
    table = {"share": sum(answers) / len(answers), "count": len(answers)}
    return table | {"captures": {"share": captures.pop("accuracy"), **captures}}


def _calibration(scored: Sequence[Scored]) -> dict[str, float]:
    sure = [(one.confidence, one.right) for one in scored if one.confidence is not None]
    if not sure:
        return {}
    confidence, right = zip(*sure, strict=True)
    return {"ece": confidence_error(confidence, right), "confidence": float(np.mean(confidence))}


def _confusion(scored: Sequence[Scored]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for one in scored:
        if one.pair.kind == "technology":
            counts.setdefault(one.truth, Counter())[one.parsed or "unreadable"] += 1
    return {truth: dict(row) for truth, row in sorted(counts.items())}


def _sentence_f1(said: str, truth: str) -> float:
    ours, theirs = _sentences(said), _sentences(truth)
    shared = sum((ours & theirs).values())
    return 2 * shared / max(1, ours.total() + theirs.total())


def _sentences(text: str) -> Counter[str]:
    return Counter(part for part in (part.strip(" .") for part in re.split(r"\.(?:\s|$)", text)) if part)


def _field_share(said: str, truth: str) -> float:
    if CANNOT_TELL in (said, truth):  # no object at all
        return float(said == truth)
    ours, theirs = json.loads(said), json.loads(truth)
    return sum(name in ours and ours[name] == value for name, value in theirs.items()) / max(1, len(theirs))
