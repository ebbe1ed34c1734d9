"""Parameter space of the 802.11 OFDM PHY: what may be drawn, what the standard forbids."""

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from experts.wlan.phy import RATES, Rate, ppdu_samples
from lwm.errors import ConfigError, RejectedConfig

BANDWIDTHS = (5e6, 10e6, 20e6)
"""Channel spacings in Hz: quarter-clocked, half-clocked and full (clause 17.1)."""

DATA_OVERHEAD = 28
"""Octets of MAC header (24) and FCS (4) in a Data frame, clause 9.3.2.1."""

MAX_LENGTH = 4095
"""Largest LENGTH in octets that the SIGNAL field can hold, clause 17.3.4.3."""

LEVEL_LIMIT_DB = 20.0
"""Largest level difference between the two stations; LWM's own choice, the standard sets none."""

AIR_TIME = (0.15e-3, 2.5e-3)
"""s, bounds of the log-uniform air time that ``sample`` gives data PPDUs; LWM's own choice."""


@dataclass(frozen=True)
class Timing:
    """Inter-frame timing in samples at a sample rate equal to the channel spacing (table 17-21, clause 10.3.2.3).

    Args:
        sifs: short inter-frame space: 16, 32 or 64 us.
        slot: slot time: 9, 13 or 21 us.
        cw_min: smallest contention window, slots.
    """

    sifs: int
    slot: int
    cw_min: int = 15

    @property
    def difs(self) -> int:
        """DIFS = SIFS + 2 slots."""
        return self.sifs + 2 * self.slot


TIMING = {20e6: Timing(320, 180), 10e6: Timing(320, 130), 5e6: Timing(320, 105)}


@dataclass(frozen=True)
class WLANConfig:
    """One capture of a half-duplex exchange between an access point and a station.

    Args:
        bandwidth: Hz, channel spacing, one of 5, 10, 20 MHz; the sample rate too.
        duration: s.
        activity: share of the time on the air, (0..1]; what SIFS and DIFS leave of it when it cannot be met.
        rates: Mbit/s at this bandwidth, each data PPDU draws one of them; a single one fixes the capture's modulation.
        min_octets: shortest PSDU (MAC header, body, FCS) of a data PPDU.
        max_octets: longest PSDU of a data PPDU.
        downlink_share: probability that an exchange's data frame goes from the access point to the station.
        station_level_db: received level of the station relative to the access point.
        windowed: symbol edges overlapped by the window of clause 17.3.2.5, as in annex I, or abrupt.
    """

    bandwidth: float = 20e6
    duration: float = 16e-3
    activity: float = 0.6
    rates: tuple[float, ...] = (24.0,)
    min_octets: int = 200
    max_octets: int = 1500
    downlink_share: float = 0.7
    station_level_db: float = 0.0
    windowed: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.rates, list):
            object.__setattr__(self, "rates", tuple(self.rates))


def clocking(bandwidth: float) -> float:
    """Clock relative to 20 MHz operation: 1, 1/2 or 1/4."""
    return bandwidth / 20e6


def rate_at(mbps: float, bandwidth: float) -> Rate:
    """Row of table 17-4 for a rate in Mbit/s at ``bandwidth`` Hz; both must be legal."""
    return RATES[round(mbps / clocking(bandwidth))]


def validate(config: WLANConfig) -> None:
    """Raise RejectedConfig naming the clause of IEEE Std 802.11-2020 broken and the nearest legal value."""
    _validate_bandwidth(config.bandwidth)
    for name in ("duration", "activity", "min_octets", "max_octets", "downlink_share", "station_level_db"):
        _require_number(name, getattr(config, name))
    _validate_rates(config)
    _validate_lengths(config)
    _validate_traffic(config)


def _require_number(name: str, value: Any) -> None:
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise RejectedConfig(f"WLAN {name} {value!r}", "a finite number")


def _validate_bandwidth(bandwidth: Any) -> None:
    _require_number("bandwidth", bandwidth)
    if bandwidth not in BANDWIDTHS:
        nearest = min(BANDWIDTHS, key=lambda other: abs(other - bandwidth))
        raise RejectedConfig(
            f"WLAN bandwidth {bandwidth:g} Hz (IEEE 802.11-2020 clause 17.1)",
            "channel spacing of 5, 10 or 20 MHz",
            f"nearest legal: {nearest:g}",
        )


def _validate_rates(config: WLANConfig) -> None:
    legal = [mbps * clocking(config.bandwidth) for mbps in RATES]
    if not isinstance(config.rates, tuple) or not config.rates:
        raise RejectedConfig(f"WLAN rates {config.rates!r}", f"a list of one or more of {legal} Mbit/s")
    for rate in config.rates:
        if rate not in legal:
            _require_number("rate", rate)
            nearest = min(legal, key=lambda other: abs(other - rate))
            raise RejectedConfig(
                f"WLAN rate {rate!r} Mbit/s (IEEE 802.11-2020 clause 17.3.2.2, table 17-4)",
                f"one of {legal} at {config.bandwidth / 1e6:g} MHz",
                f"nearest legal: {nearest:g}",
            )


def _validate_lengths(config: WLANConfig) -> None:
    for name in ("min_octets", "max_octets"):
        value = getattr(config, name)
        if int(value) != value or not DATA_OVERHEAD <= value <= MAX_LENGTH:
            clause = "17.3.4.3 LENGTH" if value > DATA_OVERHEAD else "9.3.2.1 Data frame format"
            nearest = min(max(round(value), DATA_OVERHEAD), MAX_LENGTH)
            raise RejectedConfig(
                f"WLAN {name} {value!r} (IEEE 802.11-2020 clause {clause})",
                f"an integer of {DATA_OVERHEAD}..{MAX_LENGTH} octets",
                f"nearest legal: {nearest}",
            )
    if config.min_octets > config.max_octets:
        raise RejectedConfig(
            f"WLAN min_octets {config.min_octets} above max_octets {config.max_octets}",
            "min_octets <= max_octets",
            f"nearest legal: min_octets {config.max_octets}",
        )


def _validate_traffic(config: WLANConfig) -> None:
    symbol = 80 / config.bandwidth
    if config.duration < symbol:
        raise RejectedConfig(
            f"WLAN duration {config.duration!r} s (IEEE 802.11-2020 clause 17.3.2.4, table 17-5)",
            "at least one OFDM symbol",
            f"nearest legal: {symbol:g}",
        )
    bounds = {
        "activity": (0.0, 1.0),
        "downlink_share": (0.0, 1.0),
        "station_level_db": (-LEVEL_LIMIT_DB, LEVEL_LIMIT_DB),
    }
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if not low <= value <= high or (name == "activity" and value == 0):
            nearest = "just above 0" if name == "activity" and value <= 0 else f"{min(max(value, low), high):g}"
            raise RejectedConfig(f"WLAN {name} {value!r}", f"a value of {low:g}..{high:g}", f"nearest legal: {nearest}")
    if not isinstance(config.windowed, bool):
        raise RejectedConfig(f"WLAN windowed {config.windowed!r}", "true or false")


def _draw_rates(rng: np.random.Generator, bandwidth: float, modulation: str | None) -> tuple[float, ...]:
    """One rate, each of the eight (or of those with ``modulation``) as likely as any other."""
    wanted = [mbps for mbps, rate in RATES.items() if modulation in (None, rate.modulation)]
    if not wanted:
        raise ConfigError(f"WLAN modulation {modulation!r}", f"one of {sorted({r.modulation for r in RATES.values()})}")
    return (float(rng.choice(wanted)) * clocking(bandwidth),)


def _draw_octets(rng: np.random.Generator, config: WLANConfig) -> dict[str, int]:
    """PSDU lengths around an air time of AIR_TIME, longer where inter-frame spaces would cost the activity."""
    activity = min(config.activity, 0.99)
    air = math.exp(rng.uniform(*np.log(AIR_TIME))) * config.bandwidth
    spaces = 2 * TIMING[config.bandwidth].sifs
    air = max(air, 1.5 * spaces * activity / (1 - activity))
    rate = rate_at(max(config.rates), config.bandwidth)
    symbols = max((air - ppdu_samples(0)) / 80, 1)
    middle = symbols * rate.n_dbps / 8
    spread = rng.uniform(0, 0.5)
    low, high = (round(middle * factor) for factor in (1 - spread, 1 + spread))
    return {
        "min_octets": min(max(low, DATA_OVERHEAD), MAX_LENGTH),
        "max_octets": min(max(high, DATA_OVERHEAD), MAX_LENGTH),
    }


def sample(rng: np.random.Generator, **fixed: Any) -> WLANConfig:
    """Draw a configuration, one rate a capture, all eight rates alike.

    Args:
        rng: random state.
        fixed: fields of :class:`WLANConfig` to fix; ``modulation`` ("BPSK", "QPSK", "16QAM", "64QAM") instead of
            ``rates`` draws among the rates that use it.

    Raises:
        ConfigError: a keyword that is no field.
        RejectedConfig: a fixed value outside the standard.
    """
    known = {field.name for field in fields(WLANConfig)} | {"modulation"}
    if unknown := sorted(set(fixed) - known):
        raise ConfigError(f"WLAN settings {unknown}", f"some of {sorted(known)}")
    modulation = fixed.pop("modulation", None)
    bandwidth = fixed.get("bandwidth", float(rng.choice(BANDWIDTHS)))
    _validate_bandwidth(bandwidth)
    drawn: dict[str, Any] = {
        "bandwidth": bandwidth,
        "duration": 16e-3,
        "activity": float(rng.uniform(0.3, 1.0)),
        "downlink_share": float(rng.uniform(0.2, 0.9)),
        "station_level_db": float(rng.uniform(-6.0, 6.0)),
    }
    drawn["rates"] = _draw_rates(rng, bandwidth, modulation)
    widest = WLANConfig(**({"min_octets": DATA_OVERHEAD, "max_octets": MAX_LENGTH} | drawn | fixed))
    validate(widest)
    octets = _draw_octets(rng, widest)
    if "min_octets" in fixed:
        octets["max_octets"] = max(octets["max_octets"], fixed["min_octets"])
    if "max_octets" in fixed:
        octets["min_octets"] = min(octets["min_octets"], fixed["max_octets"])
    config = WLANConfig(**(drawn | octets | fixed))
    validate(config)
    return config
