"""Who is on the air when: a configuration laid out on the slots and symbols of its capture."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from experts.nr.carrier import SUBCARRIERS, SYMBOLS, downlink_symbols, symbol_edges
from experts.nr.config import NRConfig, User
from experts.nr.pdsch import pdcch_blocks
from experts.nr.ssb import LENGTH, WIDTH, candidate_symbols

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SSBTimes:
    """SS/PBCH blocks of a window ``[n]``: first symbol in their numerology, index, half frame and burst."""

    symbol: Ints
    index: Ints
    half_frame: Ints
    burst: Ints


class Plan:
    """The transmissions of ``config`` on the whole milliseconds around its capture.

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
        self.downlink = downlink_symbols(config.tdd, self.first_slot, self.slots)
        self.crop = slice(config.first_sample - self.first_ms * per_ms, stop - self.first_ms * per_ms)

    @cached_property
    def ssb(self) -> SSBTimes:
        """SS/PBCH blocks inside the window."""
        ssb = self.config.ssb
        sent = np.flatnonzero(np.array(list(ssb.bitmap)) == "1")
        halves = np.arange(self.first_ms // 5, (self.first_ms + self.milliseconds - 1) // 5 + 1)
        halves = halves[halves % (ssb.period_ms // 5) == ssb.half_frame]
        per_ms = SYMBOLS << ssb.mu
        inside = candidate_symbols(ssb.case, len(ssb.bitmap))[sent]
        symbol = ((halves * 5 - self.first_ms) * per_ms)[:, None] + inside
        keep = (symbol >= 0) & (symbol < self.milliseconds * per_ms)
        index, half, burst = (
            np.broadcast_to(value, symbol.shape)[keep] for value in (sent, halves[:, None] % 2, halves[:, None])
        )
        return SSBTimes(symbol[keep], index, half, burst)

    @cached_property
    def ssb_rb(self) -> tuple[int, int]:
        """First and one past the last carrier resource block that SS/PBCH blocks touch."""
        config = self.config
        low = SUBCARRIERS * config.ssb.first_rb * config.scs + 15e3 * config.ssb.k_ssb
        high = low + WIDTH * 15e3 * (1 << config.ssb.mu)
        width = SUBCARRIERS * config.scs
        return int(low // width), -int(-high // width)

    @cached_property
    def blocked(self) -> Bools:
        """Slot and resource block ``[slots, n_rb]`` kept free for SS/PBCH blocks.

        TS 38.214 clause 5.1.4 takes these resource blocks from PDSCH in the symbols of the SS/PBCH block and clause
        5.1.6.2 forbids PDSCH DM-RS there; leaving them free for the whole slot satisfies both.
        """
        blocked = np.zeros((self.slots, self.config.n_rb), dtype=bool)
        # Symbols of different numerologies begin together, TS 38.211 clause 5.3.1.
        spread = self.ssb.symbol[:, None] + np.arange(LENGTH)
        slot = np.unique((spread << self.config.mu >> self.config.ssb.mu) // SYMBOLS)
        blocked[slot, slice(*self.ssb_rb)] = True
        return blocked

    def scheduled(self, user: User) -> Ints:
        """Slots of the window in which ``user`` is scheduled."""
        slots = np.zeros(self.slots, dtype=bool)
        for first, count in user.runs:
            begin = first - self.first_slot
            slots[max(0, begin) : max(0, begin + count)] = True
        return np.flatnonzero(slots)

    @cached_property
    def data(self) -> list[Bools]:
        """For each user, where PDSCH is sent: ``[slots, prb_count]``."""
        sent = []
        for user in self.config.users:
            on = np.zeros((self.slots, user.prb_count), dtype=bool)
            slots = self.scheduled(user)
            on[slots] = ~self.blocked[slots, user.prb_start : user.prb_stop]
            sent.append(on)
        return sent

    @cached_property
    def used(self) -> list[Bools]:
        """For each user, slots ``[slots]`` with PDSCH."""
        return [np.asarray(sent.any(axis=1)) for sent in self.data]

    @cached_property
    def control(self) -> list[Bools]:
        """For each user, slots ``[slots]`` with PDCCH: scheduled with data and nothing of the PDCCH in the SSB's way.

        TS 38.213 clause 10.1: a candidate that meets an SS/PBCH block is not monitored.
        """
        if not self.config.coreset_symbols:
            return [np.zeros(self.slots, dtype=bool) for _ in self.config.users]
        return [
            used & ~np.asarray(self.blocked[:, slice(*self.pdcch_rb(user))].any(axis=1))
            for user, used in zip(self.config.users, self.used, strict=True)
        ]

    def pdcch_rb(self, user: User) -> tuple[int, int]:
        """First and one past the last resource block of a user's PDCCH."""
        first, groups = user.pdcch_groups
        return first, first + pdcch_blocks(groups, self.config.coreset_symbols)

    @cached_property
    def carrier_on(self) -> Bools:
        """Symbols of the carrier's numerology with PDSCH or PDCCH ``[slots * 14]``."""
        on = np.zeros((self.slots, SYMBOLS), dtype=bool)
        head = self.config.coreset_symbols
        for used, control in zip(self.used, self.control, strict=True):
            on[control, :head] = True
            on[:, head:] |= used[:, None] & (np.arange(head, SYMBOLS) < self.downlink[:, None])
        return on.reshape(-1)

    @cached_property
    def ssb_on(self) -> Bools:
        """Symbols of the SS/PBCH blocks' numerology with one on the air."""
        on = np.zeros(self.milliseconds * SYMBOLS << self.config.ssb.mu, dtype=bool)
        on[self.ssb.symbol[:, None] + np.arange(LENGTH)] = True
        return on

    def edges(self, mu: int) -> Ints:
        """First samples of the symbols of numerology ``mu`` over the window, and its end."""
        return symbol_edges(self.config.n_fft << self.config.mu >> mu, mu, self.milliseconds)

    @cached_property
    def on_air_samples(self) -> int:
        """Samples of the capture in which something is on the air."""
        config = self.config
        finest = max(config.mu, config.ssb.mu)
        on = np.repeat(self.carrier_on, 1 << finest - config.mu) | np.repeat(self.ssb_on, 1 << finest - config.ssb.mu)
        lengths = np.diff(np.clip(self.edges(finest), self.crop.start, self.crop.stop))
        return int(lengths[on].sum())

    @property
    def duty_cycle(self) -> float:
        """Share of the capture in which something is on the air."""
        return self.on_air_samples / self.config.samples

    @cached_property
    def slot_samples(self) -> Ints:
        """Samples of the capture in the downlink part of each slot ``[slots]``."""
        edges = np.clip(self.edges(self.config.mu), self.crop.start, self.crop.stop)
        begin = np.arange(self.slots) * SYMBOLS
        return edges[begin + self.downlink] - edges[begin]
