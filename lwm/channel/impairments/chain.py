"""Any set of impairments on a batch, in the order in which hardware applies them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lwm.channel.impairments.arrays import Array, as_batch
from lwm.channel.impairments.base import STAGES, Impairment, Stage
from lwm.errors import CaptureError, ConfigError

Facts = list[list[dict[str, Any]]]


def impair(
    iq: Array,
    sample_rate: float,
    rows: Sequence[Sequence[Impairment]],
    rngs: Sequence[np.random.Generator],
    stages: Sequence[Stage] = STAGES,
) -> tuple[Array, Facts]:
    """Impair a batch: each row by its own impairments, sorted from transmitter to receiver.

    Rows that share a family are computed together; a row gives the same samples alone and inside any batch. Random
    numbers come from the numpy generators whatever the device, so numpy and torch agree within float32 rounding.

    Args:
        iq: complex ``[B, S]``, numpy or torch on any device; it is not changed.
        sample_rate: Hz.
        rows: for each row its impairments, in any order; a family may come more than once.
        rngs: one generator a row, advanced by what the row's impairments draw.
        stages: which stages to apply: other channels belong between ``"transmitter"`` and ``"channel"``, noise of the
            receiver between ``"air"`` and ``"receiver"``.

    Returns:
        complex64 ``[B, S]`` of the same kind on the same device, and for each row, in the order of application, a
        list of JSON-able dicts with ``name``, ``stage``, ``parameters`` and what was ``measured``.

    Raises:
        CaptureError: ``iq`` is not a complex batch, the sample rate is not positive, or a channel is longer than the
            capture.
        ConfigError: not one sequence of impairments and one generator a row, or an unknown stage.
    """
    if not (math.isfinite(sample_rate) and sample_rate > 0):
        raise CaptureError(f"sample rate {sample_rate}", "a positive number of Hz")
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise ConfigError(f"stage {unknown[0]!r}", f"stages among {list(STAGES)}")
    out = as_batch(iq)
    if not len(out) == len(rows) == len(rngs):
        raise ConfigError(f"{len(rows)} impairment lists and {len(rngs)} generators", f"{len(out)} of each, one a row")
    facts: Facts = [[] for _ in rows]
    for step in _steps(rows, stages):
        where = list(step)
        chosen = [step[index] for index in where]
        whole = len(where) == len(out)
        part = out if whole else out[where]
        found = type(chosen[0]).apply(part, sample_rate, chosen, [rngs[index] for index in where])
        if not whole:
            out[where] = part
        for index, item, measured in zip(where, chosen, found, strict=True):
            facts[index].append(
                {"name": item.name, "stage": item.stage, "parameters": item.parameters(), "measured": measured}
            )
    return out, facts


def _steps(rows: Sequence[Sequence[Impairment]], stages: Sequence[Stage]) -> list[dict[int, Impairment]]:
    """From row to impairment for each family in physical order; a family's second in a row is a step of its own."""
    steps: dict[tuple[int, str, int], dict[int, Impairment]] = {}
    for index, row in enumerate(rows):
        seen: dict[str, int] = {}
        for item in row:
            if item.stage in stages:
                times = seen[item.name] = seen.get(item.name, 0) + 1
                steps.setdefault((item.order, item.name, times), {})[index] = item
    return [steps[key] for key in sorted(steps)]
