"""Which samples make up each batch of each epoch: a function of seed and epoch alone, whatever reads them.

An epoch is one sequence of batches, the same for every number of processes: rank ``r`` of ``W`` takes batches ``r``,
``r + W``, ...; what does not divide is left out. Inside an epoch a position in that sequence is all there is to save.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lwm.errors import ConfigError
from lwm.seeding import rng_for

WINDOW = 8192
"""Samples inside which the rows of neighbouring chunks are mixed: 256 MiB of 128x128 pictures."""

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """Samples that are walked through again and again, in a new order each time, none twice before all were seen.

    Chunks come in random order and the rows of :data:`WINDOW` samples are mixed: a disk reads runs of rows, and a
    compressed chunk is opened once. A pool of up to :data:`WINDOW` samples is shuffled plainly.

    Args:
        name: of the pool's random draws.
        indices: int64 ``[n]``.
        chunks: number of each sample's chunk ``[n]``.
    """

    name: str
    indices: Indices
    chunks: Indices

    def take(self, seed: int, start: int, count: int) -> Indices:
        """``count`` samples from position ``start`` of the endless walk."""
        parts, size = [], len(self.indices)
        while count > 0:
            number, inside = divmod(start, size)
            parts.append(self._walk(seed, number)[inside : inside + count])
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _walk(self, seed: int, number: int) -> Indices:
        rng = rng_for(seed, "order", self.name, number)
        if len(self.indices) <= WINDOW:
            return rng.permutation(self.indices)
        ranks = rng.permutation(int(self.chunks[-1]) + 1)
        order = np.argsort(ranks[self.chunks], kind="stable")
        for first in range(0, len(order), WINDOW):
            rng.shuffle(order[first : first + WINDOW])
        return self.indices[order]


class BatchOrder:
    """Batches of an epoch. Subclasses say how many there are and what is in them."""

    total: int
    """Batches of an epoch, of all ranks together."""

    def batches(self, epoch: int) -> tuple[Indices, Indices]:
        """Samples of the epoch ``[n]`` and the bounds of its batches ``[total + 1]``."""
        raise NotImplementedError

    def walk(self, epoch: int, start: int, rank: int, world: int) -> Iterator[Indices]:
        """The batches of one rank from its ``start``-th on."""
        indices, bounds = self.batches(epoch)
        for number in range(start * world + rank, self.total // world * world, world):
            yield indices[bounds[number] : bounds[number + 1]]


class PlainOrder(BatchOrder):
    """All samples once, in order, for evaluation. Every rank gets as many batches, none empty.

    Args:
        size: samples.
        batch_size: largest number in a batch.
        world: ranks.

    Raises:
        ConfigError: fewer samples than ranks.
    """

    def __init__(self, size: int, batch_size: int, world: int = 1) -> None:
        if size < world:
            raise ConfigError(f"{size} samples for {world} processes", "at least one for each", "use fewer devices")
        self.size = size
        needed = -(-size // batch_size)
        self.total = -(-needed // world) * world
        if self.total == needed:
            self._bounds = np.minimum(np.arange(needed + 1) * batch_size, size)
        else:
            self._bounds = np.arange(self.total + 1) * size // self.total

    def batches(self, epoch: int) -> tuple[Indices, Indices]:
        """See :class:`BatchOrder`."""
        return np.arange(self.size), self._bounds


class ShuffledOrder(BatchOrder):
    """Batches for training.

    Args:
        pools: where samples come from.
        batch_size: samples in a batch. What is left at the end of an epoch is left out, unless it is all there is.
        seed: of the orders.
        shares: of each pool in an epoch, > 0; None: every sample once (of a single pool).
        even: every batch holds as many of each pool, to within one, whatever ``shares`` say.
        groups: code of each sample ``[size]``; a batch holds one code only. None: any mixture.

    The number of samples of an epoch is that of all pools. With shares each pool gives its share of them to within
    one sample, in every epoch: where that is less than it has, the next epoch goes on with the rest; where it is
    more, samples come again, none a second time more often than another.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        batch_size: int,
        seed: int,
        *,
        shares: Sequence[float] | None = None,
        even: bool = False,
        groups: npt.NDArray[np.integer] | None = None,
    ) -> None:
        self.pools, self.batch_size, self.seed, self.even, self.groups = list(pools), batch_size, seed, even, groups
        size = sum(len(pool.indices) for pool in pools)
        if even:
            size = size // batch_size * batch_size or size
            self.quotas = np.bincount(np.arange(size) % len(pools), minlength=len(pools))
        else:
            given = [len(pool.indices) for pool in pools] if shares is None else shares
            self.quotas = _divide(size, np.asarray(given, float))
        self.total = len(_bounds(size, batch_size) if groups is None else self.batches(0)[1]) - 1

    def batches(self, epoch: int) -> tuple[Indices, Indices]:
        """See :class:`BatchOrder`."""
        parts = [
            pool.take(self.seed, epoch * int(quota), int(quota))
            for pool, quota in zip(self.pools, self.quotas, strict=True)
        ]
        indices = parts[0] if len(parts) == 1 else np.empty(int(self.quotas.sum()), np.int64)
        if len(parts) > 1:
            slots = self._slots(epoch)
            for number, part in enumerate(parts):
                indices[slots == number] = part
        if self.groups is not None:
            return self._grouped(indices, epoch)
        return indices, _bounds(len(indices), self.batch_size)

    def _slots(self, epoch: int) -> Indices:
        """Which pool each place of the epoch is filled from."""
        rng = rng_for(self.seed, "slots", epoch)
        if not self.even:
            return rng.permutation(np.repeat(np.arange(len(self.pools)), self.quotas))
        slots = np.arange(int(self.quotas.sum())) % len(self.pools)
        whole = len(slots) // self.batch_size * self.batch_size
        mixed = rng.permuted(slots[:whole].reshape(-1, self.batch_size), axis=1).ravel()
        return np.concatenate([mixed, rng.permutation(slots[whole:])])

    def _grouped(self, indices: Indices, epoch: int) -> tuple[Indices, Indices]:
        """The same samples in batches of one group each, the batches in random order."""
        assert self.groups is not None
        codes = self.groups[indices]
        batches = []
        for code in np.unique(codes):
            members = indices[codes == code]
            bounds = _bounds(len(members), self.batch_size).tolist()
            batches += [members[a:b] for a, b in pairwise(bounds)]
        order = rng_for(self.seed, "groups", epoch).permutation(len(batches))
        chosen = [batches[number] for number in order]
        return np.concatenate(chosen), np.cumsum([0, *map(len, chosen)])


def _bounds(size: int, batch_size: int) -> Indices:
    """Bounds of whole batches, or of the one smaller batch that is all there is."""
    return np.arange(size // batch_size + 1) * batch_size if size >= batch_size else np.array([0, size])


def _divide(count: int, shares: npt.NDArray[np.float64]) -> Indices:
    """Whole numbers that add up to ``count``, nearest to ``shares`` (largest remainder)."""
    exact = count * shares / shares.sum()
    floor = np.floor(exact).astype(np.int64)
    rest = np.argsort(floor - exact, kind="stable")[: count - int(floor.sum())]
    floor[rest] += 1
    return floor
