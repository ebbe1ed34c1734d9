"""Legality of a whole configuration."""

import numpy as np

from experts.nr.carrier import SYMBOLS, downlink_symbols
from experts.nr.config import NRConfig, validate_carrier, validate_user
from experts.nr.pdsch import FIRST_DMRS, MINIMUM_SYMBOLS
from experts.nr.plan import Plan
from experts.nr.ssb import LENGTH, SSB, candidate_symbols
from lwm.errors import RejectedConfig


def allowed_candidates(config: NRConfig, ssb: SSB) -> list[bool]:
    """For each candidate of ``ssb``, whether all its symbols are downlink whenever its burst comes.

    TS 38.213 clause 11.1: symbols of an SS/PBCH block are not uplink; guard symbols are kept free here too.
    """
    count = len(ssb.bitmap)
    if config.tdd is None:
        return [True] * count
    spread = candidate_symbols(ssb.case, count)[:, None] + np.arange(LENGTH)
    spread = spread << config.mu >> ssb.mu
    # The last carrier symbol that a wider block symbol covers.
    spread += (1 << max(0, config.mu - ssb.mu)) - 1
    allowed = np.ones(count, dtype=bool)
    for half in range(ssb.half_frame, 4, ssb.period_ms // 5):
        slot = (5 * half << config.mu) + spread // SYMBOLS
        symbols = downlink_symbols(config.tdd, 0, int(slot.max()) + 1)[slot]
        allowed &= (spread % SYMBOLS < symbols).all(axis=1)
    return allowed.tolist()


def _validate_ssb_in_downlink(config: NRConfig) -> None:
    allowed = allowed_candidates(config, config.ssb)
    sent = [bit == "1" for bit in config.ssb.bitmap]
    if any(bit and not free for bit, free in zip(sent, allowed, strict=True)):
        nearest = "".join("1" if bit and free else "0" for bit, free in zip(sent, allowed, strict=True))
        slots = config.tdd.slots if config.tdd else ""
        raise RejectedConfig(
            f"SSB bitmap {config.ssb.bitmap} of case {config.ssb.case} in uplink or guard symbols of {slots} "
            "(TS 38.213 clause 11.1)",
            "SS/PBCH blocks in downlink symbols",
            f"nearest is {nearest}" if "1" in nearest else "use another pattern or half frame",
        )


def _validate_schedule(config: NRConfig, plan: Plan) -> None:
    least = max(FIRST_DMRS + 1, config.coreset_symbols + MINIMUM_SYMBOLS)
    taken = np.full((plan.slots, config.n_rb), -1)
    for number, user in enumerate(config.users):
        slots = plan.scheduled(user)
        short = slots[plan.downlink[slots] < least]
        if short.size:
            slot = int(short[0])
            raise RejectedConfig(
                f"user {number} in slot {slot + plan.first_slot} with {plan.downlink[slot]} downlink symbols "
                "(TS 38.214 table 5.1.2.1-1, mapping type A)",
                f"at least {least}",
                f"nearest is slot {_nearest_slot(plan, slot, least)}",
            )
        block = taken[slots, user.prb_start : user.prb_stop]
        if (block >= 0).any():
            other = int(block[block >= 0][0])
            raise RejectedConfig(
                f"users {other} and {number} share resource blocks (TS 38.214 clause 5.1.2.2)",
                "one user a resource block and slot: spatial multiplexing is not modelled",
                "separate their PRBs or slots",
            )
        taken[slots, user.prb_start : user.prb_stop] = number


def _nearest_slot(plan: Plan, slot: int, least: int) -> int | str:
    legal = np.flatnonzero(plan.downlink >= least)
    if not legal.size:
        return "none in this capture"
    return int(legal[np.argmin(np.abs(legal - slot))]) + plan.first_slot


def validate(config: NRConfig) -> Plan:
    """The plan of a legal configuration.

    Raises:
        RejectedConfig: a clause is broken, or nothing is on the air inside the capture.
    """
    validate_carrier(config)
    _validate_ssb_in_downlink(config)
    for user in config.users:
        validate_user(config, user)
    plan = Plan(config)
    _validate_schedule(config, plan)
    if plan.on_air_samples == 0:
        raise RejectedConfig(
            f"nothing on the air from {config.start * 1e3:g} ms for {config.duration * 1e3:g} ms",
            "an SS/PBCH block or a scheduled slot in the capture",
            "schedule a user or move the start",
        )
    return plan
