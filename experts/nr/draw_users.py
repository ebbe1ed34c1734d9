"""Random UEs: how many, where, when, so that the capture is on the air as much as wished."""

from dataclasses import replace
from typing import Any

import numpy as np

from experts.nr.carrier import FRAME_PAIR_MS
from experts.nr.coding import mcs_entry
from experts.nr.config import NRConfig, Uplink, User
from experts.nr.downlink import DMRS, PDSCH, PTRS, pdsch_prbs
from experts.nr.downlink_air import GROUP
from experts.nr.draw_signals import draw_csi_rs, free_blocks
from experts.nr.plan import Plan
from experts.nr.streams import Streams
from experts.nr.uplink import PUSCH
from experts.nr.uplink.grid import MODULATION_BITS, transform_sizes
from experts.nr.uplink.pusch_rs import DMRS as PUSCHDMRS
from experts.nr.validation import least_symbols
from experts.nr.window import Bools, Ints, Window
from lwm.errors import RejectedConfig
from lwm.phy.constellation import BITS

MODULATIONS = {
    "downlink": ("QPSK", "16QAM", "64QAM", "256QAM", "1024QAM"),
    "uplink": ("QPSK", "16QAM", "64QAM", "256QAM"),
}
"""By link, TS 38.214 clauses 5.1.3.1 and 6.1.4.1; pi/2-BPSK on request."""
MCS_COUNT = {"1024QAM": 27, "64QAM-transform-precoding": 28}
"""Entries of the MCS tables that are not reserved, TS 38.214 tables 5.1.3.1-4 and 6.1.4.1-1."""
HOPPINGS = ("none", "none", "intra-slot", "inter-slot")
PTRS_SHARE = {"FR1": 0.25, "FR2": 0.75}
"""Share of the captures whose PDSCH has PT-RS: against the phase noise of high carriers."""
INTERLEAVED_SHARE = 0.125
"""Share of the captures with interleaved resource blocks, which scatter every UE over the carrier."""
USERS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Numbers of UEs drawn, those that leave each two groups of resource blocks on average."""
MAX_BURSTS = 8
MAX_BOXES = 36
"""Emissions of UEs aimed at in 16 ms."""
BOXES_DURATION = 0.016
PRESENCE = 0.75
"""Probability that a UE takes part in a burst of scheduled slots (all take part in the longest)."""
STARTS = 64
"""Starts tried for enough time of the link; schedules tried for the activity are ``SCHEDULES``."""
SCHEDULES = 6


def eligible_slots(plan: Window) -> Ints:
    """Slots of the window in which a UE can be scheduled and that the capture sees."""
    least = least_symbols(plan.config.head) if plan.config.uplink is None else plan.symbols
    usable = (plan.available >= least) & (plan.slot_samples > 0)
    return np.flatnonzero(usable & ~plan.blocked.all(axis=1))


def draw_start(rng: np.random.Generator, config: NRConfig, activity: float, pair: float) -> float:
    """A start after ``pair`` (s) whose capture has the link's time for ``activity``, else the one with most."""
    best, most = pair, -1.0
    for start in (pair + rng.uniform(0, FRAME_PAIR_MS / 1e3, STARTS)).tolist():
        plan = Window(replace(config, start=start))
        share = plan.slot_samples[eligible_slots(plan)].sum() / max(1, plan.config.samples)
        if share >= activity:
            return start
        if share > most:
            best, most = start, share
    return best


def draw_layout(rng: np.random.Generator, n_rb: int, wanted: int | None) -> list[tuple[int, int]]:
    """First and one past the last resource block of each UE, on six-RB groups, half of the time without gaps."""
    groups = n_rb // GROUP
    legal = [count for count in USERS if count <= max(1, groups // 2)]
    drawn = legal[int(rng.random() * len(legal))]
    count = drawn if wanted is None else wanted
    if not 1 <= count <= min(groups, USERS[-1]):
        raise RejectedConfig(
            f"{count} UEs in {n_rb} resource blocks (TS 38.213 clause 10.1, a CORESET of 6 each)",
            f"1 to {min(groups, USERS[-1])}",
            f"nearest is {min(max(1, count), groups, USERS[-1])}",
        )
    least = 2 if 2 * count <= groups else 1
    # Parts alternate gap, UE, gap, UE, ..., gap.
    weights = rng.gamma(1.0, size=2 * count + 1)
    weights[0::2] *= 0.0 if rng.random() < 0.5 else 0.5
    parts = rng.multinomial(groups - least * count, weights / weights.sum())
    parts[1::2] += least
    edges = np.cumsum(parts)
    layout = GROUP * np.stack([edges[0::2][:count], edges[1::2]], axis=1)
    if edges[-2] == groups:
        layout[-1, 1] = n_rb
    return [(int(low), int(high)) for low, high in layout]


def _bursts(rng: np.random.Generator, slots: int, on: int, most: int) -> Ints:
    """Burst number of each of ``slots`` slots, -1 where idle: ``on`` slots in up to ``most`` bursts."""
    idle = slots - on
    count = int(rng.integers(1, min(most, on, idle + 1) + 1))
    lengths = np.diff(np.r_[0, 1 + np.sort(rng.choice(on - 1, count - 1, replace=False)), on])
    spare = idle - (count - 1)
    gaps = np.diff(np.r_[-1, np.sort(rng.choice(spare + count, count, replace=False)), spare + count]) - 1
    gaps[1:-1] += 1
    numbers = np.full(2 * count + 1, -1)
    numbers[1::2] = np.arange(count)
    repeats = np.empty(2 * count + 1, dtype=np.int64)
    repeats[0::2], repeats[1::2] = gaps, lengths
    return np.repeat(numbers, repeats)


def user_prbs(user: User, n_rb: int) -> Ints:
    """Resource blocks of a UE, of its first hop where it hops."""
    if isinstance(user.shared, PDSCH):
        return pdsch_prbs(user.shared, n_rb)
    return np.arange(*user.shared.prb)


def runs_of(slots: Ints) -> tuple[tuple[int, int], ...]:
    """(first, count) of the runs of consecutive numbers in sorted ``slots``."""
    cuts = np.flatnonzero(np.diff(slots) > 1) + 1
    return tuple((int(part[0]), len(part)) for part in np.split(slots, cuts))


def _schedule(rng: np.random.Generator, config: NRConfig, eligible: Ints, on: int, users: int) -> Bools:
    """Who is scheduled in which of the ``eligible`` slots, ``on`` of which are used: bool ``[users, eligible]``."""
    pauses = int((np.diff(eligible) > 1).sum())
    boxes = MAX_BOXES * max(1.0, config.duration / BOXES_DURATION)
    most = min(MAX_BURSTS, max(1, int(boxes / users) - pauses))
    burst = _bursts(rng, len(eligible), on, most)
    lengths = np.bincount(burst[burst >= 0])
    present = rng.random((lengths.size, users)) < PRESENCE
    present[np.arange(lengths.size), rng.integers(users, size=lengths.size)] = True
    present[lengths.argmax()] = True
    return (burst >= 0) & present[burst].T


class _OnAir:
    """Time on the air of a trial schedule, without planning every channel of it."""

    def __init__(self, empty: Plan, eligible: Ints, users: tuple[User, ...]) -> None:
        shape = (empty.slots, empty.symbols)
        symbol = np.arange(empty.symbols)
        stop = empty.stop if empty.config.uplink is None else np.full(empty.slots, users[0].shared.symbols[1])
        self.plan, self.eligible = empty, eligible
        self.always = empty.carrier_on.reshape(shape)
        self.used = (symbol >= empty.first[:, None]) & (symbol < stop[:, None])
        # A slot in which the SS/PBCH blocks leave a UE nothing.
        self.silent = np.zeros((len(users), eligible.size), dtype=bool)
        if empty.blocked.any():
            blocked = empty.blocked[eligible]
            prbs = [user_prbs(user, empty.config.n_rb) for user in users]
            self.silent = np.array([blocked[:, each].all(axis=1) for each in prbs])

    def samples(self, schedule: Bools) -> int:
        """Samples of the capture on the air."""
        on = self.always.copy()
        heard = (schedule & ~self.silent).any(axis=0)
        on[self.eligible[heard]] |= self.used[self.eligible[heard]]
        return self.plan.samples_on(on.reshape(-1))

    def unheard(self, schedule: Bools) -> int:
        """UEs that never send."""
        return int((~(schedule & ~self.silent).any(axis=1)).sum())


def _best_schedule(rng: np.random.Generator, empty: Plan, users: tuple[User, ...], activity: float) -> tuple[User, ...]:
    """``users`` in slots that come near the activity and, if they can, let every UE be heard."""
    config, eligible = empty.config, eligible_slots(empty)
    clock = _OnAir(empty, eligible, users)
    slot = float(empty.slot_samples[eligible].mean()) / config.samples
    wanted = (activity - empty.duty_cycle) / slot
    best, least = np.zeros((len(users), eligible.size), dtype=bool), np.inf
    for _ in range(SCHEDULES):
        on = int(np.clip(round(wanted), 1, eligible.size))
        trial = _schedule(rng, config, eligible, on, len(users))
        error = activity - clock.samples(trial) / config.samples
        unheard = clock.unheard(trial)
        if abs(error) + unheard < least:
            best, least = trial, abs(error) + unheard
        if least <= 0.6 * slot:
            break
        wanted = on + error / slot
    slots = eligible + empty.first_slot
    return tuple(replace(user, runs=runs_of(slots[row])) for user, row in zip(users, best, strict=True))


def _interleaver(streams: Streams, fixed: dict[str, Any]) -> int:
    """Bundle of the interleaved mapping, mostly 0 for none."""
    bundle = streams.one_of("bundle", (2, 4)) if streams("interleaver").random() < INTERLEAVED_SHARE else 0
    return int(fixed.get("interleaver", bundle))


def _downlink_users(
    streams: Streams, config: NRConfig, layout: list[tuple[int, int]], modulation: str, fixed: dict[str, Any]
) -> tuple[User, ...]:
    """UEs with PDSCH: the same DM-RS, PT-RS and mapping of resource blocks for all, so that none meets another."""
    dmrs = DMRS(
        type=fixed.get("dmrs_type", streams.one_of("dmrs_type", (1, 2))),
        additional=fixed.get("dmrs_additional", int(streams("dmrs_additional").integers(4))),
    )
    likely = PTRS_SHARE[config.carrier.frequency_range]
    ptrs = PTRS(streams.one_of("ptrs_time", (1, 2, 4)), streams.one_of("ptrs_frequency", (2, 4)))
    shared = PDSCH(
        0,
        1,
        modulation,
        (config.head, config.carrier.symbols - config.head),
        dmrs=dmrs,
        ptrs=ptrs if streams("ptrs").random() < likely else None,
        interleaver=_interleaver(streams, fixed),
    )
    return tuple(
        User(replace(shared, prb_start=low, prb_count=high - low, rnti=number + 1), ())
        for number, (low, high) in enumerate(layout)
    )


def _uplink_users(
    streams: Streams, config: NRConfig, layout: list[tuple[int, int]], modulation: str, fixed: dict[str, Any]
) -> tuple[User, ...]:
    """UEs with PUSCH, which ends before the symbols that SRS may take; all hop by the same number of blocks."""
    assert config.uplink is not None
    tail = max((resource.offset + 1 for resource in config.uplink.srs), default=0)
    precoding = fixed.get("transform_precoding", bool(streams("transform_precoding").random() < 0.5))
    hopping = fixed.get("hopping", streams.one_of("hopping", HOPPINGS))
    most = 1 if hopping == "intra-slot" else 3
    # The second hop stays in the blocks of the UEs and never wraps.
    bottom, top = free_blocks(config)
    low, high = layout[0][0], layout[-1][1]
    offset = int(streams("hop_offset").integers(bottom - low, top - high + 1)) % config.n_rb
    dmrs = PUSCHDMRS(
        type=1 if precoding else fixed.get("dmrs_type", streams.one_of("dmrs_type", (1, 2))),
        additional=min(most, fixed.get("dmrs_additional", int(streams("dmrs_additional").integers(4)))),
    )
    users = []
    for number, (low, high) in enumerate(layout):
        count = high - low
        if precoding:
            count = max(transform_sizes(count))
        shared = PUSCH(
            (low, low + count),
            (0, config.carrier.symbols - tail),
            modulation,
            precoding,
            hopping=hopping,
            hop_offset=offset if hopping != "none" else 0,
            dmrs=dmrs,
            rnti=number + 1,
        )
        users.append(User(shared, ()))
    return tuple(users)


def _draw_rate(streams: Streams, modulation: str, fixed: dict[str, Any]) -> float:
    """Code rate times 1024 of an MCS of the modulation in the tables of TS 38.214 clauses 5.1.3.1 and 6.1.4.1."""
    order = MODULATION_BITS.get(modulation, BITS.get(modulation, 2))
    table = "64QAM-transform-precoding" if order == 1 else "1024QAM"
    rates = [rate for q, rate in (mcs_entry(index, table, True) for index in range(MCS_COUNT[table])) if q == order]
    return float(fixed.get("code_rate", 1024 * streams.one_of("code_rate", rates)))


def _owned_reports(uplink: Uplink, users: int) -> Uplink:
    """PUCCH reports dealt to the UEs with PUSCH, so that none adds to their number."""
    dealt = [
        replace(report, pucch=replace(report.pucch, rnti=number % users + 1))
        for number, report in enumerate(uplink.reports)
    ]
    return replace(uplink, reports=tuple(dealt))


def draw_users(streams: Streams, config: NRConfig, activity: float, fixed: dict[str, Any]) -> NRConfig:
    """The configuration with users whose time on the air comes as near to the activity as whole slots allow."""
    downlink = config.uplink is None
    modulation = fixed.get("modulation", streams.one_of("modulation", MODULATIONS[config.link]))
    bottom, top = free_blocks(config)
    layout = draw_layout(streams("layout"), top - bottom, fixed.get("number_of_ues"))
    layout = [(low + bottom, high + bottom) for low, high in layout]
    if downlink and _interleaver(streams, fixed):
        # Scattered bundles seldom hold six neighbouring blocks from a multiple of six, a CORESET.
        config = replace(config, control=None)
    if config.uplink is not None and isinstance(fixed.get("reports", 0), int):
        config = replace(config, uplink=_owned_reports(config.uplink, len(layout)))
    make = _downlink_users if downlink else _uplink_users
    rate = _draw_rate(streams, modulation, fixed)
    users = tuple(replace(user, code_rate=rate) for user in make(streams, config, layout, modulation, fixed))
    rng = streams("schedule")
    empty = Plan(config)
    eligible = eligible_slots(empty)
    if not eligible.size:
        return config
    if downlink:
        everywhere = runs_of(eligible + empty.first_slot)
        crowded = replace(config, users=tuple(replace(user, runs=everywhere) for user in users))
        config = replace(draw_csi_rs(streams, crowded, fixed), users=())
        empty = Plan(config)
    return replace(config, users=_best_schedule(rng, empty, users, activity))
