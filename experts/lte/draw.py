"""Balanced random configurations of the LTE downlink."""

from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from experts.lte import frame
from experts.lte.config import (
    MODULATIONS,
    PDSCH,
    LTEConfig,
    TDDPattern,
    on_air,
    require_bandwidth,
    require_modulation,
    require_pattern,
    require_time,
    validate,
)
from lwm.errors import ConfigError, RejectedConfig

WISHES = ("activity", "duplex", "load", "modulation")
"""Keywords of :func:`draw` that shape a configuration without being one of its fields."""

_MAX_USERS = 4
_MIXED = 0.25
_STARTS = 64


def draw(rng: np.random.Generator, fixed: dict[str, Any]) -> LTEConfig:
    """A configuration, uniform over bandwidth, cell identity, duplex, modulation, start; see :meth:`LTE.sample`.

    Raises:
        ConfigError: a keyword that is neither a field of LTEConfig nor one of WISHES.
        RejectedConfig: a fixed value that the standard does not know.
    """
    known = {item.name for item in fields(LTEConfig)} | set(WISHES)
    for name in fixed:
        if name not in known:
            raise ConfigError(f"LTE has no setting {name!r}", f"one of {', '.join(sorted(known))}")
    # Everything is drawn, whether fixed or not, so that fixing one setting leaves the others as they were.
    drawn: dict[str, Any] = {
        "bandwidth": float(rng.choice(tuple(frame.RESOURCE_BLOCKS))),
        "pci": int(rng.integers(504)),
        "extended_cp": bool(rng.random() < 0.1),
        "cfi": int(rng.integers(1, 4)),
        "control_load": float(rng.uniform(0.2, 1.0)),
        "sfn": int(rng.integers(1024)),
        "pdsch_power": float(rng.choice((-3.0, 0.0))),
        "duration": 0.016,
    }
    wishes: dict[str, Any] = {
        "activity": float(rng.uniform(0.3, 1.0)),
        "duplex": str(rng.choice(("FDD", "TDD"))),
        "load": float(rng.uniform(0.2, 1.0)),
        "modulation": str(rng.choice(MODULATIONS)),
    }
    mixed = bool(rng.random() < _MIXED) and "modulation" not in fixed
    special = int(rng.integers(len(frame.dwpts_symbols(extended=False))))
    wishes |= {name: fixed[name] for name in WISHES if name in fixed}
    drawn |= {name: value for name, value in fixed.items() if name not in WISHES}
    _check_wishes(drawn, wishes)
    if "tdd" not in drawn:
        drawn["tdd"] = _pattern(wishes, special, drawn["extended_cp"])
    config = LTEConfig(**drawn)
    _check_before_use(config)
    if "start" not in fixed:
        config = LTEConfig(**(drawn | {"start": _start(config, rng)}))
    if "allocations" not in fixed:
        slots = _loaded_subframes(config, wishes["activity"], rng)
        allocations = _allocations(slots, config.resource_blocks, wishes, mixed, rng)
        config = LTEConfig(**(drawn | {"start": config.start, "allocations": allocations}))
    validate(config)
    return config


def _check_wishes(drawn: dict[str, Any], wishes: dict[str, Any]) -> None:
    for name in ("activity", "load"):
        if not 0 < wishes[name] <= 1:
            raise RejectedConfig(f"LTE {name} {wishes[name]}", "a share in (0, 1]", "nearest: 1")
    if wishes["duplex"] not in ("FDD", "TDD"):
        raise RejectedConfig(f"LTE duplex {wishes['duplex']!r} (TS 36.211 clause 4)", "FDD or TDD")
    require_modulation(wishes["modulation"])
    require_bandwidth(drawn["bandwidth"])


def _check_before_use(config: LTEConfig) -> None:
    """What must hold before start and allocations can be drawn from the frame structure."""
    require_time(config.start, config.duration)
    if config.tdd is not None:
        require_pattern(config.tdd, config.extended_cp)
    if config.cfi not in (1, 2, 3):
        validate(config)


def _pattern(wishes: dict[str, Any], special: int, extended: bool) -> TDDPattern | None:
    """TDD pattern whose downlink share is nearest to the activity, for a given special-subframe configuration."""
    if wishes["duplex"] == "FDD":
        return None
    special %= len(frame.dwpts_symbols(extended))
    shares = [
        frame.downlink_symbols((number, special), extended).mean() for number in range(len(frame.UPLINK_DOWNLINK))
    ]
    return TDDPattern(int(np.argmin(np.abs(np.array(shares) - wishes["activity"]))), special)


def _start(config: LTEConfig, rng: np.random.Generator) -> float:
    """Start of the capture in its frame: uniform, but not such that a short capture misses the PDSCH."""
    able = config.data_symbols()
    step = 0.001 / able.shape[1]
    heard = np.concatenate([[0.0], np.cumsum(np.tile(able.ravel(), 2)) * step])
    places = np.arange(heard.size) * step
    part = config.duration % frame.FRAME
    starts = rng.uniform(0, frame.FRAME, _STARTS)
    time = np.interp(starts + part, places, heard) - np.interp(starts, places, heard)
    enough = time >= 0.5 * part * able.mean()
    first = int(np.argmax(enough)) if enough.any() else int(np.argmax(time))
    # Whole samples, never the first of the next frame.
    return int(starts[first] * config.sample_rate) / config.sample_rate


def _loaded_subframes(config: LTEConfig, activity: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Subframes with PDSCH: all that can have it in TDD, a random share ``activity`` of them in FDD, never none."""
    numbers = config.subframes()
    samples = on_air(config, numbers) * config.data_symbols()[numbers % frame.SUBFRAMES]
    weight = samples.sum(axis=1)
    able = numbers[weight > 0]
    if config.tdd is not None or len(able) == 0:
        return able
    count = max(1, round(activity * len(able)))
    best = numbers[int(np.argmax(weight))]
    others = rng.permutation(able[able != best])[: count - 1]
    return np.sort(np.append(others, best))


def _allocations(
    subframes: npt.NDArray[np.int64], n_rb: int, wishes: dict[str, Any], mixed: bool, rng: np.random.Generator
) -> tuple[PDSCH, ...]:
    """Users side by side with gaps between them; in a mixed capture the smaller ones have a modulation of their own."""
    used = max(1, round(wishes["load"] * n_rb))
    items = []
    for subframe in subframes:
        users = int(rng.integers(1, min(_MAX_USERS, used) + 1))
        sizes = np.diff([0, *np.sort(rng.choice(used - 1, users - 1, replace=False) + 1), used])
        gaps = rng.multinomial(n_rb - used, np.full(users + 1, 1 / (users + 1)))
        firsts = np.cumsum(gaps[:-1]) + np.concatenate([[0], np.cumsum(sizes)[:-1]])
        names = rng.choice(MODULATIONS, users) if mixed else np.full(users, wishes["modulation"])
        names[np.argmax(sizes)] = wishes["modulation"]
        items += [
            PDSCH(int(subframe), int(first), int(size), str(name))
            for first, size, name in zip(firsts, sizes, names, strict=True)
        ]
    return tuple(items)
