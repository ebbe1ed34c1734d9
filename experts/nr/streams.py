"""Random state of a draw: a stream for each named choice."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from lwm.seeding import rng_for

T = TypeVar("T")


class Streams:
    """One generator for each named choice, so that fixing one choice leaves the others as they were."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.seed = int(rng.integers(1 << 62))

    def __call__(self, name: str) -> np.random.Generator:
        """The generator of the choice ``name``, always in the same state."""
        return rng_for(self.seed, name)

    def one_of(self, name: str, choices: Sequence[T]) -> T:
        """One of ``choices``, uniform; the same share of the list whatever its length."""
        return choices[int(self(name).random() * len(choices))]
