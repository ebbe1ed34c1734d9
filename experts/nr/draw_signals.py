"""Random CSI-RS, SRS and PUCCH resources."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from experts.nr.config import MOST_RESOURCES, NRConfig, Report, Uplink
from experts.nr.downlink import CSIRS
from experts.nr.downlink.csirs import ROWS
from experts.nr.downlink_air import cell_of, csi_rs_area, csi_rs_slots
from experts.nr.random_access import prach_blocks
from experts.nr.streams import Streams
from experts.nr.tdd import link_symbols
from experts.nr.uplink import PRACH, PUCCH, SRS
from experts.nr.uplink.prach import Occasions
from experts.nr.uplink.prach_configurations import configuration, configuration_indices
from experts.nr.uplink.prach_tables import FORMATS, LONG_SPACING, RESOURCE_BLOCKS
from experts.nr.uplink.srs import BANDWIDTHS as SRS_BANDWIDTHS
from experts.nr.validation import csi_rs_meets, pilot_symbols
from experts.nr.window import Bools, Ints, Window
from lwm.errors import RejectedConfig

PERIODS_MS = (5, 10, 20)
"""Of CSI-RS, SRS and PUCCH: often enough to be heard, seldom enough to leave the capture legible."""
# Characters of the frequency allocation by row; every other row has 6. Row 1 and 4 set one bit of 4 and of 3.
_BITMAP = {1: 4, 2: 12, 4: 3}
SRS_SYMBOLS = 4
"""Symbols at the end of the slot that SRS take, and PUSCH leaves."""
PRACH_SHARE = 0.25
"""Share of the uplink captures with PRACH."""
MOST_FRAMES = 2
"""Longest PRACH period in frames that is drawn."""
SLOTS_OF_60_KHZ = 40
"""Of a frame, in which PRACH of FR2 is counted: TS 38.211 clause 5.3.2."""
TRIES = 8
"""Draws of one CSI-RS resource before it is given up because it meets the others."""


def free_blocks(config: NRConfig) -> tuple[int, int]:
    """Resource blocks of the carrier that PUCCH at its edges and PRACH beside it leave to the UEs."""
    uplink = config.uplink
    if uplink is None:
        return 0, config.n_rb
    edge = 1 if uplink.reports else 0
    low = edge
    if uplink.prach is not None:
        low = prach_blocks(Window(config), uplink.prach)[1]
    return low, config.n_rb - edge


def _occasions(rng: np.random.Generator, config: NRConfig) -> tuple[int, int]:
    """Period and offset in slots, the offset in a slot that is wholly the link's where the pattern has one."""
    period = int(rng.choice(PERIODS_MS)) << config.mu
    symbols = config.carrier.symbols
    first, stop = link_symbols(config.tdd, config.link, symbols, 0, period)
    whole = np.flatnonzero(stop - first == symbols)
    return period, int(rng.choice(whole)) if whole.size else int(rng.integers(period))


def draw_csi_rs(streams: Streams, config: NRConfig, fixed: dict[str, Any]) -> NRConfig:
    """The configuration with 0 to 8 CSI-RS resources that meet neither DM-RS nor each other.

    ``csi_rs`` among the fixed values is their number, or the resources themselves.
    """
    given = fixed.get("csi_rs", int(streams("csi_rs_count").integers(MOST_RESOURCES + 1)))
    if not isinstance(given, int):
        return replace(config, csi_rs=tuple(given))
    rng, window = streams("csi_rs"), Window(config)
    cell = cell_of(window)
    pilots = pilot_symbols(window)
    found: list[CSIRS] = []
    taken: list[tuple[Ints, Bools]] = []
    for _ in range(given * TRIES):
        if len(found) == given:
            break
        trial = _draw_resource(rng, config)
        try:
            trial.validate(cell)
        except RejectedConfig:
            continue
        if not csi_rs_meets(window, trial, pilots, taken):
            found.append(trial)
            taken.append((csi_rs_slots(window, trial), csi_rs_area(cell, trial).mask))
    return replace(config, csi_rs=tuple(found))


def _draw_resource(rng: np.random.Generator, config: NRConfig) -> CSIRS:
    number = int(rng.choice(list(ROWS)))
    row = ROWS[number]
    length = _BITMAP.get(number, 6)
    bits = np.zeros(length, dtype=int)
    bits[rng.choice(length, 1 if row.spread else row.frequency, replace=False)] = 1
    last = config.carrier.symbols - 1
    period, offset = _occasions(rng, config)
    return CSIRS(
        number,
        "".join(map(str, bits)),
        int(rng.integers(last + 1)),
        int(rng.integers(2, 13)),
        float(rng.choice(row.densities)),
        int(rng.integers(2)),
        0,
        -(-config.n_rb // 4) * 4,
        period,
        offset,
        config.pci,
    )


def draw_uplink_resources(streams: Streams, config: NRConfig, fixed: dict[str, Any]) -> NRConfig:
    """The configuration with 0 to 8 SRS resources and 0 to 4 PUCCH reports at the edges of the carrier.

    ``srs`` and ``reports`` among the fixed values are their numbers, or the resources themselves.
    """
    srs = fixed.get("srs", int(streams("srs_count").integers(MOST_RESOURCES + 1)))
    if isinstance(srs, int):
        rng = streams("srs")
        srs = tuple(_draw_srs(rng, config) for _ in range(srs))
    reports = fixed.get("reports", int(streams("report_count").integers(5)))
    if isinstance(reports, int):
        rng = streams("reports")
        tail = SRS_SYMBOLS if srs else 0
        reports = tuple(_draw_report(rng, config, tail, number) for number in range(reports))
    config = replace(config, uplink=Uplink(tuple(srs), tuple(reports)))
    drawn = _draw_prach(streams("prach"), config) if streams("prach_share").random() < PRACH_SHARE else None
    prach = fixed.get("prach", drawn)
    if prach is not None and "srs" not in fixed:
        srs = ()  # Sounding would cover the preamble's blocks.
    return replace(config, uplink=Uplink(tuple(srs), tuple(reports), prach))


@lru_cache
def _configurations(paired: bool, spacing: float) -> dict[str, list[Occasions]]:
    """Rows of the PRACH configuration tables of FR1 by format, those that come in every second frame or oftener."""
    rows: dict[str, list[Occasions]] = {}
    for index in configuration_indices(paired):
        form, when = configuration(index, paired, spacing)
        if when.period[0] <= MOST_FRAMES:
            rows.setdefault(form, []).append(when)
    return rows


def _random_occasions(rng: np.random.Generator) -> Occasions:
    """Of FR2 in some of the 60 kHz slots of every frame; TS 38.211 table 6.3.3.2-4 is not kept here."""
    chosen = rng.choice(SLOTS_OF_60_KHZ, int(rng.integers(1, SLOTS_OF_60_KHZ // 2 + 1)), replace=False)
    return Occasions((1, 0), tuple(sorted(chosen.tolist())))


def _draw_prach(rng: np.random.Generator, config: NRConfig) -> PRACH | None:
    """A preamble beside the lower PUCCH, of a uniform format; None where the carrier is too narrow for it."""
    kilohertz, low = 15 << config.mu, config.carrier.frequency_range == "FR1"
    legal = (15, 30) if low else (60, 120)
    spacings = [scs for scs, other in RESOURCE_BLOCKS if other == kilohertz and scs in legal]
    spacing = float(spacings[int(rng.random() * len(spacings))]) if spacings else 15.0
    forms = [] if config.carrier.extended_cp or not spacings else [each for each in FORMATS if each not in LONG_SPACING]
    if low:
        forms += [each for each, scs in LONG_SPACING.items() if (scs, kilohertz) in RESOURCE_BLOCKS]
        rows = _configurations(config.tdd is None, spacing)
        forms = [each for each in forms if each in rows]
    if not forms:
        return None
    form = forms[int(rng.random() * len(forms))]
    when = rows[form][int(rng.random() * len(rows[form]))] if low else _random_occasions(rng)
    zone, preamble = int(rng.integers(16)), int(rng.integers(64))
    prach = PRACH(form, spacing, int(rng.integers(100)), zone, preamble, 1, occasions=when)
    count = RESOURCE_BLOCKS[prach.scs, kilohertz][0]
    return prach if prach.prb + count <= config.n_rb // 2 else None


def _draw_srs(rng: np.random.Generator, config: NRConfig) -> SRS:
    comb = int(rng.choice((2, 4)))
    fits = np.flatnonzero(SRS_BANDWIDTHS[:, 0] <= config.n_rb)
    c_srs = int(fits[-1 - rng.integers(min(8, len(fits)))])
    b_srs = int(rng.integers(4))
    symbols = int(rng.choice((1, 2, 4)))
    return SRS(
        (comb, int(rng.integers(comb))),
        int(rng.integers(8)),
        (c_srs, b_srs, int(rng.integers(b_srs + 1))),
        int(rng.integers(config.n_rb - SRS_BANDWIDTHS[c_srs, 0] + 1)),
        int(rng.integers(68)),
        symbols,
        int(rng.integers(symbols - 1, SRS_SYMBOLS)),
        int(rng.choice([factor for factor in (1, 2, 4) if symbols % factor == 0])),
        _occasions(rng, config),
        n_id=config.pci,
    )


def _draw_report(rng: np.random.Generator, config: NRConfig, tail: int, number: int) -> Report:
    """A PUCCH in the lowest or highest block of the carrier that hops to the other edge half of the time."""
    form = int(rng.integers(5))
    most = config.carrier.symbols - tail
    count = int(rng.integers(1, 3)) if form in (0, 2) else int(rng.integers(4, most + 1))
    first = int(rng.integers(most - count + 1))
    edges = (0, config.n_rb - 1)
    side = int(rng.integers(2))
    hop = bool(rng.random() < 0.5) and count >= 2
    pucch = PUCCH(
        form,
        (edges[side], edges[side] + 1),
        (first, first + count),
        edges[1 - side] if hop else None,
        cyclic_shift=int(rng.integers(12)),
        rnti=number + 1,
    )
    return Report(pucch, _occasions(rng, config))
