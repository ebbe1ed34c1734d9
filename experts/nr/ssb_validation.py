"""Legality of SS/PBCH blocks on their carrier."""

import numpy as np

from experts.nr.carrier import FRAME_PAIR_MS, SUBCARRIERS, Carrier, symbol_edges
from experts.nr.config import NRConfig
from experts.nr.ssb import LENGTH, NUMEROLOGY, SSB, WIDTH, candidate_symbols
from experts.nr.tdd import link_symbols
from lwm.errors import RejectedConfig

SSB_MU = {"FR1": (0, 1), "FR2": (3, 4)}
"""Numerologies of SS/PBCH blocks by frequency range, TS 38.213 clause 4.1."""


def last_ssb_rb(carrier: Carrier, ssb: SSB) -> int:
    """Highest resource block in which an SS/PBCH block can begin; negative when it does not fit at all."""
    free = carrier.n_rb * SUBCARRIERS * carrier.scs - WIDTH * 15e3 * (1 << ssb.mu) - ssb.k_ssb_hz
    return int(free // (SUBCARRIERS * carrier.scs))


def fitting_cases(carrier: Carrier) -> list[str]:
    """Cases of the carrier's frequency range whose SS/PBCH block it holds."""
    legal = SSB_MU[carrier.frequency_range]
    return [case for case, mu in NUMEROLOGY.items() if mu in legal and last_ssb_rb(carrier, SSB(case)) >= 0]


def allowed_candidates(carrier: Carrier, ssb: SSB) -> list[bool]:
    """For each candidate of ``ssb``, whether all its symbols are downlink whenever its burst comes.

    TS 38.213 clause 11.1: symbols of an SS/PBCH block are not uplink; guard symbols are kept free here too.
    """
    count = len(ssb.bitmap)
    if carrier.tdd is None:
        return [True] * count
    n_fft = carrier.n_fft << carrier.mu >> ssb.mu
    own = symbol_edges(n_fft, ssb.mu, FRAME_PAIR_MS)
    edges = symbol_edges(carrier.n_fft, carrier.mu, FRAME_PAIR_MS, carrier.extended_cp)
    _, heads = link_symbols(carrier.tdd, "downlink", carrier.symbols, 0, FRAME_PAIR_MS << carrier.mu)
    downlink = (np.arange(carrier.symbols) < heads[:, None]).reshape(-1)
    busy_before = np.concatenate([[0], np.cumsum(~downlink)])
    inside = candidate_symbols(ssb.case, count)
    allowed = np.ones(count, dtype=bool)
    for half in range(ssb.half_frame, 4, ssb.period_ms // 5):
        first = inside + half * (5 * 14 << ssb.mu)
        low = np.searchsorted(edges, own[first], side="right") - 1
        high = np.searchsorted(edges, own[first + LENGTH], side="left")
        allowed &= busy_before[high] == busy_before[low]
    return allowed.tolist()


def validate_ssb(config: NRConfig, ssb: SSB) -> None:
    """Raise RejectedConfig for a block outside its carrier, off its raster or not in downlink symbols."""
    carrier = config.carrier
    if ssb.case in NUMEROLOGY and NUMEROLOGY[ssb.case] not in SSB_MU[carrier.frequency_range]:
        legal = [case for case, mu in NUMEROLOGY.items() if mu in SSB_MU[carrier.frequency_range]]
        raise RejectedConfig(
            f"SSB case {ssb.case!r} in {carrier.frequency_range} (TS 38.213 clause 4.1)", f"one of {legal}"
        )
    ssb.validate()
    last = last_ssb_rb(carrier, ssb)
    if not 0 <= ssb.first_rb <= last:
        remedy = f"nearest is {min(max(0, ssb.first_rb), last)}"
        cases = fitting_cases(carrier)
        other = f"use case {cases[0]} or a wider channel" if cases else "use a wider channel or no SSB"
        raise RejectedConfig(
            f"SSB of case {ssb.case} from resource block {ssb.first_rb} with k_SSB {ssb.k_ssb} "
            f"in {carrier.n_rb} resource blocks of {carrier.scs / 1e3:g} kHz (TS 38.211 clause 7.4.3.1)",
            f"240 subcarriers inside the carrier, first resource block 0 to {last}" if last >= 0 else "room for it",
            remedy if last >= 0 else other,
        )
    if config.ssb_low % (15e3 * (1 << ssb.mu)):
        raise RejectedConfig(
            f"SSB from {config.ssb_low / 1e3:g} kHz with resource block {ssb.first_rb} and k_SSB {ssb.k_ssb} "
            "(TS 38.211 clause 7.4.3.1)",
            f"a multiple of its {15 << ssb.mu} kHz from the carrier's centre",
            f"nearest is resource block {min(ssb.first_rb + 1, last)}",
        )
    allowed = allowed_candidates(carrier, ssb)
    sent = [bit == "1" for bit in ssb.bitmap]
    if any(bit and not free for bit, free in zip(sent, allowed, strict=True)):
        nearest = "".join("1" if bit and free else "0" for bit, free in zip(sent, allowed, strict=True))
        raise RejectedConfig(
            f"SSB bitmap {ssb.bitmap} of case {ssb.case} in uplink or guard symbols of "
            f"{carrier.tdd.text if carrier.tdd else ''} (TS 38.213 clause 11.1)",
            "SS/PBCH blocks in downlink symbols",
            f"nearest is {nearest}" if "1" in nearest else "use another pattern or half frame",
        )
