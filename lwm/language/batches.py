"""Batches of conversations: padded rows of like length, or several conversations packed into a row."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lwm.errors import ConfigError
from lwm.language.chat import IGNORED
from lwm.seeding import rng_for

# Batches are made of pairs of like length out of pools of this many batches: little padding, and still another mix
# in every epoch.
_POOL = 16


class Encoded(NamedTuple):
    """One tokenised conversation about the sample in row ``row`` of the RF tokens."""

    row: int
    ids: list[int]
    labels: list[int]

    @property
    def answer_tokens(self) -> int:
        """Tokens that the loss counts; the first token of a row is predicted from nothing and never counts."""
        return sum(label != IGNORED for label in self.labels[1:])


def require_trainable(pair: Encoded, what: str, context: int | None) -> Encoded:
    """The conversation if it fits into the language model's context and has an answer to learn.

    Args:
        pair: to be checked.
        what: names it in an error.
        context: most tokens of a conversation; None for no limit.

    Raises:
        ConfigError: too long, both lengths are named; or without a label.
    """
    if context is not None and len(pair.ids) > context:
        raise ConfigError(
            f"{what} of {len(pair.ids)} tokens",
            f"at most {context}, the language model's context",
            "take fewer RF tokens, or a language model with a longer context",
        )
    if not pair.answer_tokens:
        raise ConfigError(
            f"{what} without a single labelled token", "an answer that the loss sees", "check the chat template"
        )
    return pair


def planned(
    count: int, batch_size: int, seed: int, epoch: int, shuffle: bool, encoded: Callable[[int], Encoded]
) -> list[list[Encoded]]:
    """All batches of an epoch.

    Args:
        count: samples.
        batch_size: conversations a batch.
        seed: of the orders.
        epoch: number of the pass over the data.
        shuffle: mix anew in every epoch, conversations of like length together; else in order.
        encoded: makes the conversation about a row.
    """
    order = rng_for(seed, "order", epoch).permutation(count) if shuffle else np.arange(count)
    pairs = [encoded(int(row)) for row in order]
    if not shuffle:
        return list(chunks(pairs, batch_size))
    pools = chunks(pairs, batch_size * _POOL)
    batches = [batch for pool in pools for batch in chunks(sorted(pool, key=_length), batch_size)]
    mixed = rng_for(seed, "batches", epoch).permutation(len(batches))
    return [batches[number] for number in mixed]


def collate(ids: Sequence[list[int]], labels: Sequence[list[int]], pad_id: int) -> dict[str, Tensor]:
    """Conversations padded at the right: ``input_ids``, ``labels`` and ``attention_mask``, int64 ``[B, S]``."""
    tokens = [torch.tensor(row) for row in ids]
    return {
        "input_ids": pad_sequence(tokens, batch_first=True, padding_value=pad_id),
        "labels": pad_sequence([torch.tensor(row) for row in labels], batch_first=True, padding_value=IGNORED),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True),
    }


def pack(pairs: Sequence[Encoded], length: int) -> list[list[Encoded]]:
    """Conversations put into rows of at most ``length`` tokens, the longest first, each into the fullest row that has
    room for it (best fit decreasing); a longer one has a row of its own."""
    rows: list[list[Encoded]] = []
    room: list[int] = []
    for pair in sorted(pairs, key=_length, reverse=True):
        fits = [number for number, left in enumerate(room) if left >= len(pair.ids)]
        if fits:
            best = min(fits, key=room.__getitem__)
            rows[best].append(pair)
            room[best] -= len(pair.ids)
        else:
            rows.append([pair])
            room.append(length - len(pair.ids))
    return rows


def collate_packed(rows: Sequence[Sequence[Encoded]], pad_id: int) -> dict[str, Tensor]:
    """Rows of conversations, int64 ``[R, S]`` each.

    ``input_ids``, ``labels`` and ``attention_mask`` as of :func:`collate`; ``position_ids`` count from 0 in every
    conversation; ``segments`` number a row's conversations from 1, 0 is padding. No first token of a conversation has
    a label, or it would be predicted from its neighbour.
    """
    joined = [[token for pair in row for token in pair.ids] for row in rows]
    labels = [[label for pair in row for label in (IGNORED, *pair.labels[1:])] for row in rows]
    positions = [torch.cat([torch.arange(len(pair.ids)) for pair in row]) for row in rows]
    segments = [torch.cat([torch.full((len(pair.ids),), number) for number, pair in enumerate(row, 1)]) for row in rows]
    return collate(joined, labels, pad_id) | {
        "position_ids": pad_sequence(positions, batch_first=True),
        "segments": pad_sequence(segments, batch_first=True),
    }


def chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Lists of ``size`` items, the last one of what is left."""
    return (list(items[first : first + size]) for first in range(0, len(items), size))


def _length(pair: Encoded) -> int:
    return len(pair.ids)
