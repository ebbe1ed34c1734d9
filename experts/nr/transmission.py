"""One channel of one owner in some slots: where it lies and how it is written to the grid."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Complex = npt.NDArray[np.complex64]


@dataclass(frozen=True)
class Placement:
    """The same symbols and resource blocks in each of some slots.

    Args:
        channel: "PDSCH", "PDCCH", "CSI-RS", "PUSCH", "PUCCH" or "SRS".
        owner: number of the UE or of the resource in its list of the configuration.
        slots: slots of the window ``[n]``, ascending.
        symbols: first and one past the last symbol of the slot.
        blocks: first and one past the last resource block.
    """

    channel: str
    owner: int
    slots: Ints
    symbols: tuple[int, int]
    blocks: tuple[int, int]


class Transmission(Protocol):
    """What a plan is made of."""

    @property
    def placements(self) -> list[Placement]:
        """Where it lies, exactly."""
        ...

    def write(self, grid: Complex, first_slot: int, rng: np.random.Generator) -> None:
        """Write its elements into ``grid`` ``[slots, symbols, subcarriers]`` whose slot 0 is ``first_slot``."""
        ...


def pieces(blocks: Ints) -> list[tuple[int, int]]:
    """First and one past the last of each run of consecutive numbers in ascending ``blocks``."""
    if not blocks.size:
        return []
    cuts = np.flatnonzero(np.diff(blocks) > 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(blocks, cuts)]
