"""Balanced random configurations."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from experts.nr.carrier import BANDWIDTHS, FRAME_PAIR_MS, RESOURCE_BLOCKS, SUBCARRIERS, TDDPattern, resource_blocks
from experts.nr.config import CORESET_GROUP, MODULATIONS, NRConfig, User, last_ssb_rb
from experts.nr.pdsch import FIRST_DMRS, MINIMUM_SYMBOLS
from experts.nr.plan import Plan
from experts.nr.ssb import NUMEROLOGY, PERIODS_MS, SSB, WIDTH
from experts.nr.validation import allowed_candidates
from lwm.errors import ConfigError, RejectedConfig

PATTERNS: dict[int, tuple[str, ...]] = {
    0: ("DDDSU", "DDSUU", "DDDDDDDSUU"),
    1: ("DDDSU", "DDSUU", "DDDSUDDSUU", "DDDDDDDSUU"),
    2: ("DDDDDDDSUU", "DDDDDSUUUU", "DDDDDDDDDDDDDDSUUUUU"),
}
"""Common TDD patterns of 2.5 ms and more by numerology."""
DURATION = 0.016
MAX_USERS = 4
MAX_BURSTS = 8
MIN_BESIDE_SSB = 4
"""Resource blocks beside the SSB below which only one SS/PBCH block a burst is drawn."""
MAX_BOXES = 36
"""PDSCH emissions aimed at in 16 ms."""
PRESENCE = 0.75
"""Probability that a UE takes part in a burst of scheduled slots (all take part in the longest)."""
STARTS = 64
"""Starts tried for enough downlink time, then schedules tried for the activity are ``SCHEDULES``."""
SCHEDULES = 6
EXTRA = ("activity", "modulation", "number_of_ues", "ssb_case", "ssb_period_ms")
"""Names besides the configuration's fields that ``draw`` takes."""


def draw(rng: np.random.Generator, **fixed: Any) -> NRConfig:
    """A random configuration; see :meth:`experts.nr.NR.sample`."""
    _check_names(fixed)
    bandwidth, mu = _draw_channel(rng, fixed)
    activity = float(fixed.get("activity", rng.uniform(0.3, 1.0)))
    if not 0 < activity <= 1:
        raise RejectedConfig(f"activity {activity}", "more than 0 and at most 1")
    config = NRConfig(
        bandwidth=bandwidth,
        mu=mu,
        pci=fixed.get("pci", int(rng.integers(1008))),
        tdd=_draw_tdd(rng, mu, activity, fixed),
        coreset_symbols=fixed.get("coreset_symbols", int(rng.integers(1, 3))),
        dmrs_additional=fixed.get("dmrs_additional", int(rng.integers(4))),
        duration=fixed.get("duration", DURATION),
    )
    if config.tdd is not None:
        config.tdd.validate(mu)
    config = replace(config, ssb=fixed["ssb"] if "ssb" in fixed else _draw_ssb(rng, config, fixed))
    if "users" in fixed:
        start = fixed.get("start", float(rng.uniform(0, FRAME_PAIR_MS / 1e3)))
        return replace(config, users=tuple(fixed["users"]), start=start)
    config = replace(config, start=fixed["start"] if "start" in fixed else _draw_start(rng, config, activity))
    return _draw_schedule(rng, config, activity, _draw_layout(rng, config, fixed), fixed.get("modulation"))


def _check_names(fixed: dict[str, Any]) -> None:
    known = [field.name for field in fields(NRConfig)] + list(EXTRA)
    unknown = sorted(set(fixed) - set(known))
    if unknown:
        raise ConfigError(f"5G NR has no setting {', '.join(unknown)}", f"some of {sorted(known)}")
    clash = sorted(set(fixed) & {"activity", "modulation", "number_of_ues"})
    if "users" in fixed and clash and clash != ["activity"]:
        raise ConfigError(f"{', '.join(clash)} beside users", "one or the other", "users already say it")
    clash = sorted(set(fixed) & {"ssb_case", "ssb_period_ms"})
    if "ssb" in fixed and clash:
        raise ConfigError(f"{', '.join(clash)} beside ssb", "one or the other", "ssb already says it")


def _draw_channel(rng: np.random.Generator, fixed: dict[str, Any]) -> tuple[float, int]:
    """Bandwidth in Hz and numerology, uniform over what the given one leaves."""
    bandwidth, mu = fixed.get("bandwidth"), fixed.get("mu")
    if bandwidth is None:
        row = RESOURCE_BLOCKS.get(mu) if mu is not None else None
        bandwidth = float(rng.choice(BANDWIDTHS if row is None else [1e6 * mhz for mhz in row]))
    if mu is None:
        legal = [mu for mu, row in RESOURCE_BLOCKS.items() if bandwidth in [1e6 * mhz for mhz in row]]
        # Without a legal numerology any of them names the clause below.
        mu = int(rng.choice(legal)) if legal else 1
    resource_blocks(bandwidth, mu)
    return float(bandwidth), mu


def _draw_tdd(rng: np.random.Generator, mu: int, activity: float, fixed: dict[str, Any]) -> TDDPattern | None:
    """FDD and TDD evenly where some common pattern has enough downlink for ``activity``."""
    if "tdd" in fixed:
        return TDDPattern(fixed["tdd"]) if isinstance(fixed["tdd"], str) else fixed["tdd"]
    patterns = [TDDPattern(slots) for slots in PATTERNS[mu]]
    enough = [pattern for pattern in patterns if pattern.downlink_share >= activity]
    if not enough or rng.random() < 0.5:
        return None
    return enough[rng.integers(len(enough))]


def _draw_ssb(rng: np.random.Generator, config: NRConfig, fixed: dict[str, Any]) -> SSB:
    """SSB of a case that fits the carrier, with its own numerology if that fits, at a random place."""
    fitting = [case for case in NUMEROLOGY if last_ssb_rb(config.bandwidth, config.mu, SSB(case)) >= 0]
    same = [case for case in fitting if NUMEROLOGY[case] == config.mu]
    case = fixed.get("ssb_case", str(rng.choice(same or fitting)))
    period = fixed.get("ssb_period_ms", int(rng.choice(PERIODS_MS)))
    half = int(rng.integers(2)) if period > 5 else 0
    l_max = int(rng.choice([4, 8]))
    ssb = SSB(case, "1" + "0" * (l_max - 1), period, half)
    ssb.validate()
    allowed = np.flatnonzero(allowed_candidates(config, ssb))
    if allowed.size:
        # Where the SSB leaves no room for a UE beside it, more than one block would keep most slots empty of data.
        width = WIDTH * (1 << ssb.mu) / (SUBCARRIERS << config.mu)
        most = allowed.size if config.n_rb - width >= MIN_BESIDE_SSB else 1
        count = int(rng.integers(1, most + 1))
        sent = set(rng.choice(allowed, count, replace=False).tolist())
        ssb = replace(ssb, bitmap="".join("1" if index in sent else "0" for index in range(l_max)))
    offsets = [
        k
        for k in range(0, min(24, SUBCARRIERS << config.mu), 1 << ssb.mu)
        if last_ssb_rb(config.bandwidth, config.mu, replace(ssb, k_ssb=k)) >= 0
    ]
    ssb = replace(ssb, k_ssb=int(rng.choice(offsets)) if offsets else 0)
    last = max(0, last_ssb_rb(config.bandwidth, config.mu, ssb))
    return replace(ssb, first_rb=int(rng.integers(last + 1)))


def _eligible(plan: Plan) -> npt.NDArray[np.int64]:
    """Slots of the plan in which PDSCH can be scheduled and that the capture sees."""
    least = max(FIRST_DMRS + 1, plan.config.coreset_symbols + MINIMUM_SYMBOLS)
    usable = (plan.downlink >= least) & (plan.slot_samples > 0)
    return np.flatnonzero(usable & ~plan.blocked.all(axis=1))


def _draw_start(rng: np.random.Generator, config: NRConfig, activity: float) -> float:
    """A start whose capture has the downlink time for ``activity``, else the one of those tried with most."""
    best, most = 0.0, -1.0
    for start in rng.uniform(0, FRAME_PAIR_MS / 1e3, STARTS).tolist():
        plan = Plan(replace(config, start=start))
        downlink = plan.slot_samples[_eligible(plan)].sum() / max(1, plan.config.samples)
        if downlink >= activity:
            return start
        if downlink > most:
            best, most = start, downlink
    return best


def _draw_layout(rng: np.random.Generator, config: NRConfig, fixed: dict[str, Any]) -> list[tuple[int, int]]:
    """First and one past the last resource block of each UE, on six-RB groups, half of the time without gaps."""
    groups = config.n_rb // CORESET_GROUP
    roomy = max(1, groups // 2)
    count = fixed.get("number_of_ues", int(rng.integers(1, min(MAX_USERS, roomy) + 1)))
    if not 1 <= count <= groups:
        raise RejectedConfig(
            f"{count} UEs in {config.n_rb} resource blocks (TS 38.213 clause 10.1, a CORESET of 6 each)",
            f"1 to {groups}",
            f"nearest is {min(max(1, count), groups)}",
        )
    least = 2 if 2 * count <= groups else 1
    # Parts alternate gap, UE, gap, UE, ..., gap.
    weights = rng.gamma(1.0, size=2 * count + 1)
    weights[0::2] *= 0.0 if rng.random() < 0.5 else 0.5
    parts = rng.multinomial(groups - least * count, weights / weights.sum())
    parts[1::2] += least
    edges = np.cumsum(parts)
    layout = CORESET_GROUP * np.stack([edges[0::2][:count], edges[1::2]], axis=1)
    if edges[-2] == groups:
        layout[-1, 1] = config.n_rb
    return [(int(low), int(high)) for low, high in layout]


def _bursts(rng: np.random.Generator, slots: int, on: int, most: int) -> npt.NDArray[np.int64]:
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


def _runs_of(slots: npt.NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """(first, count) of the runs of consecutive numbers in sorted ``slots``."""
    cuts = np.flatnonzero(np.diff(slots) > 1) + 1
    return tuple((int(part[0]), len(part)) for part in np.split(slots, cuts))


def _schedule(
    rng: np.random.Generator, plan: Plan, on: int, layout: list[tuple[int, int]], modulation: str
) -> tuple[User, ...]:
    """Users on ``on`` of the plan's eligible slots."""
    eligible = _eligible(plan)
    pauses = int((np.diff(eligible) > 1).sum())
    boxes = MAX_BOXES * max(1.0, plan.config.duration / DURATION)
    most = min(MAX_BURSTS, max(1, int(boxes / len(layout)) - pauses))
    burst = _bursts(rng, len(eligible), on, most)
    lengths = np.bincount(burst[burst >= 0])
    present = rng.random((lengths.size, len(layout))) < PRESENCE
    present[np.arange(lengths.size), rng.integers(len(layout), size=lengths.size)] = True
    present[lengths.argmax()] = True
    users = []
    for number, (low, high) in enumerate(layout):
        taken = eligible[(burst >= 0) & present[burst, number]] + plan.first_slot
        users.append(User(low, high - low, modulation, _runs_of(taken)))
    return tuple(users)


def _draw_schedule(
    rng: np.random.Generator,
    config: NRConfig,
    activity: float,
    layout: list[tuple[int, int]],
    modulation: str | None,
) -> NRConfig:
    """The configuration with users whose time on the air comes as near to ``activity`` as whole slots allow."""
    name = str(rng.choice(MODULATIONS)) if modulation is None else modulation
    empty = Plan(config)
    eligible = _eligible(empty)
    if not eligible.size:
        return config
    slot = float(empty.slot_samples[eligible].mean()) / config.samples
    wanted = (activity - empty.duty_cycle) / slot
    best, least = config, np.inf
    for _ in range(SCHEDULES):
        on = int(np.clip(round(wanted), 1, eligible.size))
        trial = replace(config, users=_schedule(rng, empty, on, layout, name))
        plan = Plan(trial)
        silent = sum(not used.any() for used in plan.used)
        error = activity - plan.duty_cycle
        if abs(error) + silent < least:
            best, least = trial, abs(error) + silent
        if least <= 0.6 * slot:
            break
        wanted = on + error / slot
    return best
