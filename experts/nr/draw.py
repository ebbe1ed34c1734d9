"""Balanced random configurations."""

from dataclasses import replace
from typing import Any

import numpy as np

from experts.nr.carrier import (
    EXTENDED_MU,
    EXTENDED_SYMBOLS,
    FRAME_PAIR_MS,
    FRAMES,
    RESOURCE_BLOCKS,
    SUBCARRIERS,
    SYMBOLS,
    Carrier,
    resource_blocks,
)
from experts.nr.config import Control, NRConfig, Uplink
from experts.nr.downlink import MIB
from experts.nr.draw_signals import draw_uplink_resources
from experts.nr.draw_users import draw_start, draw_users
from experts.nr.ssb import NUMEROLOGY, PERIODS_MS, SSB, WIDTH
from experts.nr.ssb_validation import allowed_candidates, fitting_cases, last_ssb_rb
from experts.nr.streams import Streams
from experts.nr.tdd import TDDPattern
from lwm.errors import ConfigError, RejectedConfig

PATTERNS: dict[int, tuple[str, ...]] = {
    0: ("DDDSU", "DDSUU", "DDDDDDDSUU"),
    1: ("DDDSU", "DDSUU", "DDDSU+DDSUU", "DDDDDDDSUU"),
    2: ("DDDDDDDSUU", "DDDDDSUUUU", "DDDSU", "DDDDDDDDDDDDDDSUUUUU"),
    3: ("DDDSU", "DDSUU", "DDDDDDDSUU", "DDDDDDDDDDDDDDSUUUUU"),
}
"""Common TDD patterns by numerology; pattern1 and pattern2 are joined by a plus."""
LINKS = ("downlink", "uplink")
DURATION = 0.016
EXTENDED_SHARE = 0.25
"""Share of the 60 kHz carriers with an extended cyclic prefix."""
MIN_BESIDE_SSB = 4
"""Resource blocks beside the SSB below which only one SS/PBCH block a burst is drawn."""
NAMES = (
    *("link", "frequency_range", "bandwidth", "mu", "extended_cp", "pci", "tdd", "ssb", "ssb_case", "ssb_period_ms"),
    *("users", "number_of_ues", "modulation", "control_symbols", "dmrs_additional", "dmrs_type", "interleaver"),
    *(
        "transform_precoding",
        "hopping",
        "csi_rs",
        "srs",
        "reports",
        "prach",
        "payload",
        "code_rate",
        "activity",
        "start",
        "duration",
    ),
)
"""What ``draw`` can be told."""


def draw(rng: np.random.Generator, **fixed: Any) -> NRConfig:
    """A random configuration; see :meth:`experts.nr.NR.sample`."""
    _check_names(fixed)
    streams = Streams(rng)
    activity = float(fixed.get("activity", streams("activity").uniform(0.3, 1.0)))
    if not 0 < activity <= 1:
        raise RejectedConfig(f"activity {activity}", "more than 0 and at most 1")
    link = fixed.get("link", streams.one_of("link", LINKS))
    if link not in LINKS:
        raise RejectedConfig(f"link {link!r}", f"one of {list(LINKS)}")
    carrier = _draw_carrier(streams, activity, link, fixed)
    carrier.validate()
    ssb = fixed["ssb"] if "ssb" in fixed else _draw_ssb(streams, carrier, fixed)
    config = NRConfig(carrier, ssb if link == "downlink" else None, duration=fixed.get("duration", DURATION))
    config = replace(config, payload=fixed.get("payload", "symbols"), control=None)
    if link == "downlink":
        symbols = fixed.get("control_symbols", int(streams("control").integers(1, 3)))
        config = replace(config, control=Control(symbols) if symbols else None)
    else:
        config = draw_uplink_resources(streams, replace(config, uplink=Uplink()), fixed)
    pair = FRAME_PAIR_MS / 1e3 * int(streams("frame").integers(FRAMES // 2))
    if "users" in fixed:
        start = fixed.get("start", pair + float(streams("start").uniform(0, FRAME_PAIR_MS / 1e3)))
        return replace(config, users=tuple(fixed["users"]), start=start)
    start = fixed["start"] if "start" in fixed else draw_start(streams("start"), config, activity, pair)
    return draw_users(streams, replace(config, start=start), activity, fixed)


def _check_names(fixed: dict[str, Any]) -> None:
    unknown = sorted(set(fixed) - set(NAMES))
    if unknown:
        raise ConfigError(f"5G NR has no setting {', '.join(unknown)}", f"some of {sorted(NAMES)}")
    clash = sorted(set(fixed) & {"modulation", "number_of_ues"})
    if "users" in fixed and clash:
        raise ConfigError(f"{', '.join(clash)} beside users", "one or the other", "users already say it")
    clash = sorted(set(fixed) & {"ssb_case", "ssb_period_ms"})
    if "ssb" in fixed and clash:
        raise ConfigError(f"{', '.join(clash)} beside ssb", "one or the other", "ssb already says it")


def _draw_carrier(streams: Streams, activity: float, link: str, fixed: dict[str, Any]) -> Carrier:
    """Frequency range, then bandwidth, then numerology, each uniform over what the given ones leave."""
    bandwidth, mu = fixed.get("bandwidth"), fixed.get("mu")

    def rows(name: str) -> dict[int, dict[int, int]]:
        own = RESOURCE_BLOCKS.get(name, {})
        return {
            each: row
            for each, row in own.items()
            if mu in (None, each) and (bandwidth is None or bandwidth in [1e6 * mhz for mhz in row])
        }

    ranges = [name for name in RESOURCE_BLOCKS if rows(name)] or ["FR1"]
    name = fixed.get("frequency_range", streams.one_of("frequency_range", ranges))
    legal = rows(name)
    if bandwidth is None:
        widths = sorted({mhz for row in legal.values() for mhz in row}) or [20]
        bandwidth = 1e6 * streams.one_of("bandwidth", widths)
        legal = rows(name)
    if mu is None:
        # Without a legal numerology any of them names the clause below.
        mu = streams.one_of("mu", list(legal) or [1 if name == "FR1" else 3])
    resource_blocks(bandwidth, mu, name)
    extended = bool(streams("extended_cp").random() < EXTENDED_SHARE) and mu == EXTENDED_MU
    carrier = Carrier(
        float(bandwidth),
        mu,
        fixed.get("pci", int(streams("pci").integers(1008))),
        frequency_range=name,
        extended_cp=fixed.get("extended_cp", extended),
    )
    return replace(carrier, tdd=_draw_tdd(streams, carrier, activity, link, fixed))


def _draw_tdd(
    streams: Streams, carrier: Carrier, activity: float, link: str, fixed: dict[str, Any]
) -> TDDPattern | None:
    """FDD and TDD evenly in FR1 where some common pattern has enough for ``activity``; always TDD in FR2."""
    symbols = EXTENDED_SYMBOLS if carrier.extended_cp else SYMBOLS
    special = (symbols - 4, 2, 2)
    if "tdd" in fixed:
        given = fixed["tdd"]
        return TDDPattern.parse(given, special) if isinstance(given, str) else given
    patterns = [TDDPattern.parse(text, special) for text in PATTERNS[carrier.mu]]
    shares = {id(each): each.downlink_share if link == "downlink" else each.uplink_share for each in patterns}
    enough = [pattern for pattern in patterns if shares[id(pattern)] >= activity]
    fdd = streams("duplex").random() < 0.5
    if carrier.frequency_range == "FR2":
        enough = enough or [max(patterns, key=lambda pattern: shares[id(pattern)])]
    elif fdd or not enough:
        return None
    chosen: TDDPattern = streams.one_of("tdd", enough)
    return chosen


def _draw_ssb(streams: Streams, carrier: Carrier, fixed: dict[str, Any]) -> SSB | None:
    """SSB of a case that fits the carrier, with its own numerology if that fits, at a random place.

    None in a carrier that is too narrow for any (3 MHz).
    """
    fitting = fitting_cases(carrier)
    if not fitting and "ssb_case" not in fixed:
        return None
    same = [case for case in fitting if NUMEROLOGY[case] == carrier.mu]
    case = fixed.get("ssb_case", streams.one_of("ssb_case", same or fitting or [""]))
    period = fixed.get("ssb_period_ms", streams.one_of("ssb_period_ms", PERIODS_MS))
    half = int(streams("ssb_half").integers(2)) if period > 5 else 0
    l_max = 64 if carrier.frequency_range == "FR2" else streams.one_of("ssb_l_max", (4, 8))
    common = round(carrier.scs / 1e3) if carrier.frequency_range == "FR2" else min(30, round(carrier.scs / 1e3))
    sib1 = int(streams("mib").integers(256))
    mib = MIB(scs_common=common, pdcch_config_sib1=sib1)
    ssb = SSB(case, "1" + "0" * (l_max - 1), period, half, mib=mib)
    ssb.validate()
    ssb = replace(ssb, bitmap=_draw_bitmap(streams, carrier, ssb))
    return _draw_ssb_place(streams, carrier, ssb)


def _draw_bitmap(streams: Streams, carrier: Carrier, ssb: SSB) -> str:
    """Some of the candidates that fall into downlink symbols; the given one's bitmap where none do."""
    allowed = np.flatnonzero(allowed_candidates(carrier, ssb))
    if not allowed.size:
        return ssb.bitmap
    # Where the SSB leaves no room for a UE beside it, more than one block would keep most slots empty of data.
    width = WIDTH * (1 << ssb.mu) / (SUBCARRIERS << carrier.mu)
    most = allowed.size if carrier.n_rb - width >= MIN_BESIDE_SSB else 1
    stream = streams("ssb_bitmap")
    count = int(stream.integers(1, most + 1))
    sent = set(stream.choice(allowed, count, replace=False).tolist())
    return "".join("1" if index in sent else "0" for index in range(len(ssb.bitmap)))


def _draw_ssb_place(streams: Streams, carrier: Carrier, ssb: SSB) -> SSB:
    """k_SSB on the block's own subcarrier raster, then a resource block that leaves it inside the carrier."""
    most = SUBCARRIERS << carrier.mu
    offsets = [k for k in ssb.offsets if k < most and last_ssb_rb(carrier, replace(ssb, k_ssb=k)) >= 0]
    ssb = replace(ssb, k_ssb=streams.one_of("k_ssb", offsets or [0]))
    last = max(0, last_ssb_rb(carrier, ssb))
    return replace(ssb, first_rb=int(streams("ssb_rb").integers(last + 1)))
