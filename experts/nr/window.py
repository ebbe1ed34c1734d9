"""The slots, symbols and SS/PBCH blocks around a capture."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from experts.nr.carrier import SUBCARRIERS, SYMBOLS, symbol_edges
from experts.nr.config import NRConfig, User
from experts.nr.ssb import LENGTH, WIDTH, candidate_symbols
from experts.nr.tdd import link_symbols

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SSBTimes:
    """SS/PBCH blocks of a window ``[n]``: first symbol in their numerology, index, absolute half frame."""

    symbol: Ints
    index: Ints
    burst: Ints


class Window:
    """The whole milliseconds around the capture of ``config``.

    Every numerology's slots and every SS/PBCH block lie inside whole milliseconds, so nothing is cut by the window's
    edge but the capture itself. Slots and symbols below count from ``first_ms``.
    """

    def __init__(self, config: NRConfig) -> None:
        self.config = config
        stop = config.first_sample + config.samples
        per_ms = round(config.sample_rate / 1e3)
        self.first_ms = config.first_sample // per_ms
        self.milliseconds = -(-stop // per_ms) - self.first_ms
        self.first_slot = self.first_ms << config.mu
        self.slots = self.milliseconds << config.mu
        self.symbols = config.carrier.symbols
        self.first, self.stop = link_symbols(config.tdd, config.link, self.symbols, self.first_slot, self.slots)
        self.crop = slice(config.first_sample - self.first_ms * per_ms, stop - self.first_ms * per_ms)

    @property
    def available(self) -> Ints:
        """Symbols of the link in each slot ``[slots]``."""
        return self.stop - self.first

    def edges(self, mu: int, extended: bool = False) -> Ints:
        """First samples of the symbols of numerology ``mu`` over the window, and its end."""
        return symbol_edges(self.config.n_fft << self.config.mu >> mu, mu, self.milliseconds, extended)

    @cached_property
    def carrier_edges(self) -> Ints:
        """:meth:`edges` of the carrier's numerology and cyclic prefix."""
        return self.edges(self.config.mu, self.config.carrier.extended_cp)

    @cached_property
    def ssb(self) -> SSBTimes:
        """SS/PBCH blocks inside the window."""
        ssb = self.config.ssb
        if ssb is None:
            none = np.zeros(0, dtype=np.int64)
            return SSBTimes(none, none, none)
        sent = np.flatnonzero(np.array(list(ssb.bitmap)) == "1")
        halves = np.arange(self.first_ms // 5, (self.first_ms + self.milliseconds - 1) // 5 + 1)
        halves = halves[halves % (ssb.period_ms // 5) == ssb.half_frame]
        per_ms = SYMBOLS << ssb.mu
        inside = candidate_symbols(ssb.case, len(ssb.bitmap))[sent]
        symbol = ((halves * 5 - self.first_ms) * per_ms)[:, None] + inside
        keep = (symbol >= 0) & (symbol < self.milliseconds * per_ms)
        index, burst = (np.broadcast_to(value, symbol.shape)[keep] for value in (sent, halves[:, None]))
        return SSBTimes(symbol[keep], index, burst)

    @cached_property
    def ssb_spans(self) -> Ints:
        """First and one past the last sample of each SS/PBCH block ``[n, 2]``."""
        if self.config.ssb is None:
            return np.zeros((0, 2), dtype=np.int64)
        edges = self.edges(self.config.ssb.mu)
        return np.stack([edges[self.ssb.symbol], edges[self.ssb.symbol + LENGTH]], axis=1)

    @cached_property
    def ssb_rb(self) -> tuple[int, int]:
        """First and one past the last carrier resource block that SS/PBCH blocks touch."""
        config = self.config
        if config.ssb is None:
            return 0, 0
        low = config.ssb_low + SUBCARRIERS * config.n_rb / 2 * config.scs
        width = SUBCARRIERS * config.scs
        return int(low // width), -int(-(low + WIDTH * 15e3 * (1 << config.ssb.mu)) // width)

    @cached_property
    def blocked(self) -> Bools:
        """Slot and resource block ``[slots, n_rb]`` kept free for SS/PBCH blocks.

        TS 38.214 clause 5.1.4 takes these resource blocks from PDSCH in the symbols of the SS/PBCH block and clause
        5.1.6.2 forbids PDSCH DM-RS there; leaving them free for the whole slot satisfies both.
        """
        blocked = np.zeros((self.slots, self.config.n_rb), dtype=bool)
        begins = self.carrier_edges[:: self.symbols]
        for start, stop in self.ssb_spans.tolist():
            low = int(np.searchsorted(begins, start, side="right")) - 1
            high = int(np.searchsorted(begins, stop, side="left"))
            blocked[low:high, slice(*self.ssb_rb)] = True
        return blocked

    def scheduled(self, user: User) -> Ints:
        """Slots of the window in which ``user`` is scheduled."""
        slots = np.zeros(self.slots, dtype=bool)
        for first, count in user.runs:
            begin = first - self.first_slot
            slots[max(0, begin) : max(0, begin + count)] = True
        return np.flatnonzero(slots)

    @cached_property
    def ssb_on(self) -> Bools:
        """Symbols of the SS/PBCH blocks' numerology with one on the air."""
        mu = self.config.ssb.mu if self.config.ssb else self.config.mu
        on = np.zeros(self.milliseconds * SYMBOLS << mu, dtype=bool)
        on[self.ssb.symbol[:, None] + np.arange(LENGTH)] = True
        return on

    @cached_property
    def slot_samples(self) -> Ints:
        """Samples of the capture in the link's part of each slot ``[slots]``."""
        edges = np.clip(self.carrier_edges, self.crop.start, self.crop.stop)
        begin = np.arange(self.slots) * self.symbols
        return edges[begin + self.stop] - edges[begin + self.first]
