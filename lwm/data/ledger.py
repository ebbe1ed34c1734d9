"""What ``lwm doctor`` remembers of millions of samples: 64-bit hashes and where each was met, in plain arrays."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Places = list[tuple[int, int]]
"""(number of the shard, row in it)."""


class Ledger:
    """Hashes of one kind of thing (pictures, channel draws, waveforms), 20 bytes each.

    Two different things get one hash once in 2^64 pairs: 2e-6 for ten million things. Who needs certainty compares
    what stands at the places.
    """

    def __init__(self) -> None:
        self._hashes: list[npt.NDArray[np.uint64]] = []
        self._shards: list[npt.NDArray[np.int32]] = []
        self._rows: list[npt.NDArray[np.int32]] = []

    def add(self, shard: int, rows: Iterable[int], hashes: Iterable[int]) -> None:
        """Note hashes met in rows of a shard."""
        found = np.fromiter(hashes, np.uint64)
        self._hashes.append(found)
        self._shards.append(np.full(len(found), shard, np.int32))
        self._rows.append(np.fromiter(rows, np.int32))

    def groups(self, group_of_shard: npt.NDArray[np.int64] | None = None) -> list[Places]:
        """Places of every hash that was met twice, or, where shards have groups, in two groups: one of each group.

        Args:
            group_of_shard: ``[shards]``; by default every place is a group of its own.
        """
        if not self._hashes:
            return []
        hashes = np.concatenate(self._hashes)
        shards, rows = np.concatenate(self._shards), np.concatenate(self._rows)
        order = np.lexsort((rows, shards, hashes))
        hashes, shards, rows = hashes[order], shards[order], rows[order]
        groups = np.arange(len(hashes)) if group_of_shard is None else group_of_shard[shards]
        again = np.flatnonzero(hashes[1:] == hashes[:-1])
        found: list[Places] = []
        # Only what repeats is looked at one by one: next to nothing in a sound data set.
        for hash_ in np.unique(hashes[again]):
            first, last = np.searchsorted(hashes, hash_, "left"), np.searchsorted(hashes, hash_, "right")
            _, one_of_each = np.unique(groups[first:last], return_index=True)
            if len(one_of_each) > 1:
                found.append([(int(shards[first + i]), int(rows[first + i])) for i in one_of_each])
        return sorted(found)


def hash_bytes(content: bytes | memoryview) -> int:
    """64-bit hash."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def origins(record: dict[str, Any]) -> dict[str, str]:
    """Names of what must not be in two splits: the ``channel`` draw, the ``waveform``, the ``recording`` of a sample.

    Of a traced site the channel draw is the receiver's place: two links to one receiver are alike. A generated waveform
    is the hash of its clean IQ, for its name holds the split and so is never in two. What is not of the type that
    generation and ingest write names nothing.
    """
    found = {}
    channel = record.get("channel")
    draw = channel.get("draw") if isinstance(channel, dict) else None
    if isinstance(draw, dict):
        known = ("model", "site", "receiver") if draw.get("model") == "site" else tuple(draw)
        found["channel"] = json.dumps({key: draw.get(key) for key in known}, sort_keys=True)
    waveform = _text(record, "waveform_hash") or _text(record, "waveform")
    recording = _text(record, "recording") or _text(record, "source")
    if waveform:
        found["waveform"] = waveform
    elif recording:
        found["recording"] = recording
    return found


def _text(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    return value if isinstance(value, str) else ""
