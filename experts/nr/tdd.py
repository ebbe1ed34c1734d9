"""Downlink-uplink patterns of unpaired spectrum, TS 38.213 clause 11.1."""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lwm.errors import RejectedConfig

PERIODICITIES_MS: dict[int, tuple[float, ...]] = {
    0: (1, 2, 3, 4, 5, 10),
    1: (0.5, 1, 2, 2.5, 3, 4, 5, 10),
    2: (0.5, 1, 1.25, 2, 2.5, 3, 4, 5, 10),
    3: (0.5, 0.625, 1, 1.25, 2, 2.5, 3, 4, 5, 10),
}
"""Periods of a pattern by numerology, TS 38.213 clause 11.1 and dl-UL-TransmissionPeriodicity of TS 38.331."""
WINDOW_MS = 20
"""What the period of a pattern, or of two after one another, divides."""
_CLAUSE = "(TS 38.213 clause 11.1)"


@dataclass(frozen=True)
class TDDPattern:
    """Downlink-uplink pattern of TS 38.213 clause 11.1.

    Args:
        slots: one letter a slot, D downlink, S special, U uplink, in this order; repeated for ever.
        special: downlink, guard and uplink symbols of an S slot.
        second: pattern2, which follows each period of this one; None: this one alone.
    """

    slots: str
    special: tuple[int, int, int] = (10, 2, 2)
    second: "TDDPattern | None" = None

    @classmethod
    def parse(cls, text: str, special: tuple[int, int, int] = (10, 2, 2)) -> "TDDPattern":
        """The pattern that ``text`` spells, for example ``DDDSU`` or, of two patterns, ``DDDSU+DDSUU``."""
        first, *more = text.split("+")
        return cls(first, special, cls.parse("+".join(more), special) if more else None)

    @property
    def text(self) -> str:
        """Letters of pattern1, and of pattern2 after a plus."""
        return self.slots if self.second is None else f"{self.slots}+{self.second.text}"

    @property
    def letters(self) -> str:
        """Letters of the whole period."""
        return self.text.replace("+", "")

    def validate(self, mu: int, symbols: int = 14) -> None:
        """Raise RejectedConfig unless the pattern is one that numerology ``mu`` and ``symbols`` a slot can have."""
        self._validate_letters(mu, symbols)
        if self.second is not None:
            if self.second.second is not None:
                raise RejectedConfig(f"three TDD patterns {self.text} {_CLAUSE}", "pattern1 and pattern2")
            self.second._validate_letters(mu, symbols)
        whole = len(self.letters) / (1 << mu)
        if (WINDOW_MS / whole) % 1:
            raise RejectedConfig(
                f"TDD period {whole:g} ms of {self.text!r} {_CLAUSE}",
                f"a divisor of {WINDOW_MS} ms",
                "add or change pattern2, for example to 5 ms in all",
            )

    def _validate_letters(self, mu: int, symbols: int) -> None:
        if not re.fullmatch("D*S?U*", self.slots) or not self.slots:
            raise RejectedConfig(
                f"TDD pattern {self.slots!r} {_CLAUSE}",
                "letters D, then at most one S, then U",
                "for example DDDSU, or DDDSU+DDSUU for pattern1 and pattern2",
            )
        if len(self.special) != 3 or min(self.special) < 0 or sum(self.special) != symbols:
            nearest = (symbols - 4, 2, 2)
            raise RejectedConfig(
                f"special slot {self.special} {_CLAUSE}",
                f"three counts that sum to {symbols}",
                f"for example {nearest}",
            )
        period = len(self.slots) / (1 << mu)
        legal = PERIODICITIES_MS[mu]
        if period not in legal:
            nearest_ms = min(legal, key=lambda ms: abs(ms - period))
            raise RejectedConfig(
                f"TDD period {period:g} ms of {self.slots!r} {_CLAUSE}",
                f"one of {list(legal)} ms with {15 << mu} kHz subcarriers",
                f"nearest is {nearest_ms:g} ms, {round(nearest_ms * (1 << mu))} slots",
            )

    @property
    def downlink_share(self) -> float:
        """Share of the symbols that are downlink."""
        return self._share("D", 0)

    @property
    def uplink_share(self) -> float:
        """Share of the symbols that are uplink."""
        return self._share("U", 2)

    def _share(self, letter: str, part: int) -> float:
        total = self.slots.count(letter) + self.slots.count("S") * self.special[part] / sum(self.special)
        if self.second is not None:
            total += self.second._share(letter, part) * len(self.second.slots)
        return total / len(self.letters)

    def parts(self, symbols: int) -> npt.NDArray[np.int64]:
        """Downlink symbols at the head and uplink symbols at the tail of each slot of a period ``[slots, 2]``."""
        own = {"D": (symbols, 0), "S": (self.special[0], self.special[2]), "U": (0, symbols)}
        rows = [own[letter] for letter in self.slots]
        alone = np.array(rows, dtype=np.int64).reshape(-1, 2)
        return alone if self.second is None else np.concatenate([alone, self.second.parts(symbols)])


def link_symbols(
    tdd: TDDPattern | None, link: str, symbols: int, first: int, count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and one past the last symbol ``[count]`` that ``link`` has in each slot from slot ``first``.

    Args:
        tdd: pattern; None is FDD, where every symbol is the link's.
        link: "downlink" or "uplink".
        symbols: OFDM symbols of a slot.
        first: slot counted from the start of an even frame.
        count: slots.
    """
    if tdd is None:
        return np.zeros(count, dtype=np.int64), np.full(count, symbols)
    parts = tdd.parts(symbols)
    heads, tails = parts[np.arange(first, first + count) % len(parts)].T
    if link == "downlink":
        return np.zeros(count, dtype=np.int64), heads
    return symbols - tails, np.full(count, symbols)
