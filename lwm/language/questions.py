"""Questions for scoring: drawn alike for every contestant, each answer to a kind as often as the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm.data.dataset import SpectrogramDataset
from lwm.data.plan import NOISE
from lwm.errors import ConfigError, DatasetError
from lwm.language.balance import Balance
from lwm.language.captions import facts_of, title_of
from lwm.language.facts import CANNOT_TELL, columns_of
from lwm.language.instructions import KINDS, Pair, make_pair, offered, parse_answer
from lwm.language.templates import Wording
from lwm.seeding import rng_for

Labels = Mapping[str, Sequence[str]]

PROSE = tuple(name for name, kind in KINDS.items() if kind.form == "text")
"""Kinds whose answer is a paragraph: read sentence by sentence, never as one value."""
SNR_BUCKET_DB = 5
"""Width in dB of the buckets in which accuracy over SNR is told."""


@dataclass(frozen=True)
class Question:
    """What a contestant is given beside the captures; the answer is not in it.

    ``capture``: which of the captures that are handed over. ``kind``: a key of
    :data:`~lwm.language.instructions.KINDS`. ``text``: the question in words, the sample rate told. ``topic`` and
    ``sample_rate``: the same for who reads no words: the kind, with what it is asked about where that differs from
    question to question, and Hz, None where the record does not know them.
    """

    capture: int
    kind: str
    text: str
    topic: str
    sample_rate: float | None = None


@dataclass(frozen=True)
class Asked:
    """One question about one sample of a data set, with what is known of the sample.

    ``pair``: question and true answer. ``sample_rate``: Hz. ``snr_db``: of the sample, None where it has none.
    """

    sample: int
    pair: Pair
    sample_rate: float | None = None
    snr_db: float | None = None

    @property
    def topic(self) -> str:
        """The kind, and what the question names: ``"absence LTE"``."""
        return topic_of(self.pair)

    def question(self, capture: int) -> Question:
        """The question about row ``capture`` of the captures that are handed over."""
        return Question(capture, self.pair.kind, self.pair.question, self.topic, self.sample_rate)


def topic_of(pair: Pair) -> str:
    """The kind of a pair, and what its question names."""
    return f"{pair.kind} {pair.facts['asked']}" if "asked" in pair.facts else pair.kind


def require_kinds(kinds: Sequence[str]) -> None:
    """ConfigError unless ``kinds`` names some kinds of question."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ConfigError(f"question kinds {unknown or list(kinds)}", f"some of {[*KINDS]}")


def read_value(text: str, kind: str, labels: Labels) -> str | None:
    """What an answer says, see :func:`~lwm.language.instructions.parse_answer`; of prose the text itself, if any."""
    return (text.strip() or None) if kind in PROSE else parse_answer(text, kind, labels)


def questions_about(
    data: SpectrogramDataset,
    samples: Sequence[int] | npt.NDArray[Any],
    kinds: Sequence[str],
    seed: int,
    wording: Wording = "known",
    balance: Balance | None = None,
) -> list[Asked]:
    """One question of each kind about each sample that offers it, phrased by the seed, the sample rate told.

    Args:
        data: what is asked about.
        samples: which of its samples.
        kinds: keys of :data:`~lwm.language.instructions.KINDS`.
        seed: of the phrasings.
        wording: phrasings of the tuning, or those that tuning never sees.
        balance: which technologies an absence question names; None for :func:`even_balance`.

    Raises:
        ConfigError: no such kind.
        DatasetError: no sample offers any of these kinds.
    """
    require_kinds(kinds)
    asked: list[Asked] = []
    balance = even_balance(data) if balance is None else balance
    columns = columns_of(data.recipe)
    for sample in map(int, samples):
        record = data.record(sample)
        facts = facts_of(record, columns)
        there = set(offered(facts))
        snr, rate = record.get("snr_db"), record.get("sample_rate")
        known = (None if rate is None else float(rate), None if snr is None else float(snr))
        for kind in kinds:
            if kind in there:
                rng = rng_for(seed, "score", sample, kind)
                pair = make_pair(facts, kind, rng, context=True, wording=wording, balance=balance)
                asked.append(Asked(sample, pair, *known))
    if not asked:
        raise DatasetError(f"no sample of {data.root} says its {' or '.join(kinds)}", "labelled samples")
    return asked


def even_balance(data: SpectrogramDataset) -> Balance:
    """Absence questions about the technologies of a data set: half of them about one that is there."""
    titles = [title_of(name) for name in data.label_names.get("technology", []) if name != NOISE]
    share = {
        there: {each: 0.5 if each == there else 0.5 / max(1, len(titles) - 1) for each in titles} for there in titles
    }
    if len(titles) == 1:
        share = {titles[0]: {titles[0]: 1.0}}
    return Balance(None, share | ({CANNOT_TELL: dict.fromkeys(titles, 1 / len(titles))} if titles else {}))


def balanced(asked: Sequence[Asked], per_kind: int, seed: int, labels: Labels) -> list[Asked]:
    """At most ``per_kind`` questions of each kind in which no answer is commoner than its share.

    Of the K pairs of topic and answer that a kind has, each gets ``per_kind`` / K questions (at least one) or as many
    as there are; what a rare answer lacks is not made up by commoner ones. The order is that of ``asked``, so that the
    questions about one sample stay together.

    Raises:
        ConfigError: ``per_kind`` below 1.
    """
    if per_kind < 1:
        raise ConfigError(f"{per_kind} questions of each kind", "1 or more")
    groups: dict[str, dict[tuple[str, str], list[int]]] = {}
    for number, one in enumerate(asked):
        pair = one.pair
        value = read_value(pair.answer, pair.kind, labels) or pair.answer
        groups.setdefault(pair.kind, {}).setdefault((one.topic, value), []).append(number)
    chosen: list[int] = []
    for kind, values in groups.items():
        most = max(1, per_kind // len(values))
        rng = rng_for(seed, "balance", kind)
        drawn = [int(number) for value in sorted(values) for number in rng.permutation(values[value])[:most]]
        # More answers than questions (paragraphs, say): some answers are not asked for.
        chosen += drawn if len(drawn) <= per_kind else [int(number) for number in rng.permutation(drawn)[:per_kind]]
    return [asked[number] for number in np.sort(np.array(chosen, np.int64))]


def snr_bucket(snr_db: float) -> int:
    """Middle in dB of the bucket of :data:`SNR_BUCKET_DB` that holds an SNR."""
    return SNR_BUCKET_DB * int(np.floor(snr_db / SNR_BUCKET_DB + 0.5))
