"""k-shot episodes: seeded, stratified, disjoint, and independent of the order of samples and classes.

The channel draws are divided once per seed: ``test_channels`` of them are for testing, the rest ("support") for
training and validation. No channel draw is on both sides. The test part is the same in every episode; an episode draws
its training and validation part from the support, so that episodes differ in what is learnt from. Within one episode
the k-shot training part contains that of every smaller k.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from lwm.errors import ConfigError, DatasetError
from lwm.evaluation.metrics import natural
from lwm.evaluation.task import FewShotTask
from lwm.seeding import rng_for

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """What drawing episodes needs to know about the samples.

    Args:
        classes: class names, in natural order.
        codes: class of each sample ``[N]``.
        channels: channel draw of each sample ``[N]``, as text.
        keys: identity of each sample ``[N]``, as text; what makes a draw independent of the samples' order.
    """

    classes: list[str]
    codes: Indices
    channels: NDArray[np.str_]
    keys: NDArray[np.str_]


@dataclass(frozen=True)
class Episode:
    """One draw: indices into the samples, sorted by class; no sample is in two parts."""

    k: int
    number: int
    train: Indices
    validation: Indices
    test: Indices


def join_labels(columns: list[NDArray[np.str_]]) -> tuple[list[str], Indices]:
    """Class names (values joined by a space, in natural order) and the class of each sample, from label columns."""
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    found = sorted(set(rows), key=lambda row: [natural(value) for value in row])
    code = {row: number for number, row in enumerate(found)}
    return [" ".join(row) for row in found], np.array([code[row] for row in rows], dtype=np.int64)


def content_key(*parts: bytes) -> str:
    """Identity of a sample from its content, the same wherever it stands in a data set."""
    digest = blake2b(digest_size=12)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


class EpisodeDraw:
    """All episodes of one task and seed.

    Args:
        samples: the samples to draw from.
        task: the task.
        seed: the seed, >= 0.

    Raises:
        DatasetError: fewer than two classes, fewer than two channel draws, or too few samples of a class.
        ConfigError: a negative seed.
    """

    def __init__(self, samples: Samples, task: FewShotTask, seed: int) -> None:
        if seed < 0:
            raise ConfigError(f"seed {seed}", "0 or more")
        if len(samples.classes) < 2:
            raise DatasetError(f"task {task.name!r} finds the classes {samples.classes}", "at least two")
        self.samples, self.task, self.seed = samples, task, seed
        self._require_enough()

    @cached_property
    def test_channels(self) -> set[str]:
        """Channel draws kept for testing.

        Channels are taken in a seeded order; each goes to the side that brings every class nearer to the wanted
        share, so that a channel draw tied to one class does not leave another side without it.
        """
        samples = self.samples
        names, of_sample = np.unique(samples.channels, return_inverse=True)
        if len(names) < 2:
            raise DatasetError(
                f"{len(names)} channel draw in the {self.task.split} split", "several", "generate more samples"
            )
        width = len(samples.classes)
        counts = np.bincount(of_sample * width + samples.codes, minlength=len(names) * width).reshape(-1, width)
        chosen, taken, seen = set(), np.zeros(width), np.zeros(width)
        for number in rng_for(self.seed, "fewshot", "channels").permutation(len(names)):
            seen += counts[number]
            wanted = self.task.test_channels * seen
            if np.square(taken + counts[number] - wanted).sum() < np.square(taken - wanted).sum():
                taken += counts[number]
                chosen.add(str(names[number]))
        return chosen

    @cached_property
    def _is_test(self) -> NDArray[np.bool_]:
        return np.isin(self.samples.channels, sorted(self.test_channels))

    def _of_class(self, code: int, test: bool) -> Indices:
        """Samples of a class on one side, ordered by their identity."""
        found = np.flatnonzero((self.samples.codes == code) & (self._is_test == test))
        return found[np.argsort(self.samples.keys[found], kind="stable")]

    @cached_property
    def test(self) -> Indices:
        """The test part of every episode: equally many samples of each class."""
        sides = [self._of_class(code, test=True) for code in range(len(self.samples.classes))]
        count = min(self.task.test_per_class, *(len(side) for side in sides))
        rngs = [rng_for(self.seed, "fewshot", "test", name) for name in self.samples.classes]
        return np.concatenate([rng.permutation(side)[:count] for rng, side in zip(rngs, sides, strict=True)])

    def episode(self, k: int, number: int) -> Episode:
        """Episode ``number`` with ``k`` training samples a class."""
        held = self.task.validation_per_class(k)
        train, validation = [], []
        for code, name in enumerate(self.samples.classes):
            rng = rng_for(self.seed, "fewshot", "support", name, number)
            drawn = rng.permutation(self._of_class(code, test=False))
            train.append(drawn[:k])
            validation.append(drawn[len(drawn) - held :])
        return Episode(k, number, np.concatenate(train), np.concatenate(validation), self.test)

    def __iter__(self) -> Iterator[Episode]:
        for k in self.task.k:
            for number in range(self.task.episodes):
                yield self.episode(k, number)

    def _require_enough(self) -> None:
        k = max(self.task.k)
        needed = k + self.task.validation_per_class(k)
        for code, name in enumerate(self.samples.classes):
            support, test = len(self._of_class(code, test=False)), len(self._of_class(code, test=True))
            if support < needed or test < 1:
                raise DatasetError(
                    f"class {name!r} has {support} samples to learn from and {test} to test on",
                    f"{needed} and 1 for k = {k} ({k} for training, {needed - k} for validation)",
                    "ask for a smaller k (--k), or generate more samples (generate/fewshot has enough for 100)",
                )
