"""WLAN as a Technology: draws, checks and synthesizes captures of 802.11a/g traffic."""

from collections import Counter, defaultdict
from typing import Any, ClassVar

import numpy as np

from experts.wlan import config as space
from experts.wlan.config import TIMING, WLANConfig, clocking
from experts.wlan.mac import ack_frame, data_frame, draw_address
from experts.wlan.phy import OCCUPIED, RATES, Complex, Rate, ppdus
from experts.wlan.traffic import Frame, draw_frames
from lwm.signal.capture import Capture, Emission

MAX_EMISSIONS = 40
"""Above this many PPDUs, a data frame and its Ack, a SIFS apart, become one emission."""

STANDARD = "IEEE 802.11-2020 clause 17 (802.11a/g OFDM)"


class WLAN:
    """802.11a/g: an access point and a station exchanging Data and Ack frames on one channel."""

    name: ClassVar[str] = "wlan"
    title: ClassVar[str] = "WLAN"
    link: ClassVar[str] = "both"
    bandwidths: ClassVar[tuple[float, ...]] = space.BANDWIDTHS

    def sample(self, rng: np.random.Generator, **fixed: Any) -> WLANConfig:
        """Draw a configuration, see :func:`experts.wlan.config.sample`."""
        return space.sample(rng, **fixed)

    def validate(self, config: WLANConfig) -> None:
        """Raise RejectedConfig naming the clause that ``config`` breaks."""
        space.validate(config)

    def synthesize(self, config: WLANConfig, rng: np.random.Generator) -> Capture:
        """Clean capture at a sample rate equal to the bandwidth, unit mean power over the time on the air.

        It may begin and end in the middle of a PPDU; emissions are the parts inside.

        Raises:
            RejectedConfig: ``config`` is not legal.
        """
        self.validate(config)
        frames = draw_frames(rng, config, TIMING[config.bandwidth])
        iq = np.zeros(round(config.duration * config.bandwidth), dtype=np.complex64)
        station = np.float32(10 ** (config.station_level_db / 20))
        for frame, samples in zip(frames, _waveforms(rng, frames, config.windowed), strict=True):
            first, last = max(frame.start, 0), min(frame.start + samples.size, iq.size)
            gain = np.float32(1) if frame.downlink else station
            iq[first:last] += gain * samples[first - frame.start : last - frame.start]
        on = sum(_inside(frame, iq.size) for frame in frames)
        iq *= np.float32(np.sqrt(on / np.vdot(iq, iq).real))
        emissions = _emissions(frames, config, iq.size)
        return Capture(iq, config.bandwidth, None, emissions, _facts(frames, config, on / iq.size, iq.size))

    def describe(self, facts: dict[str, Any]) -> list[str]:
        """Short English sentences of a capture's facts, for captions."""
        rates = " and ".join(f"{rate:g}" for rate in facts["rates_mbps"])
        modulations = " and ".join(facts["modulations"])
        if facts["data_count"]:
            sent = f"Data frames at {rates} Mbit/s with {modulations}, an Ack {facts['sifs_us']:g} us later."
        else:
            sent = f"Only an Ack at {rates} Mbit/s with {modulations} is seen."
        return [
            f"WLAN (802.11a/g OFDM) on a {facts['bandwidth'] / 1e6:g} MHz channel.",
            f"52 subcarriers spaced {facts['subcarrier_spacing'] / 1e3:g} kHz, symbols of {facts['symbol_us']:g} us.",
            sent,
            f"PPDUs in the capture: {facts['ppdu_count']} ({facts['data_count']} data, {facts['ack_count']} Ack).",
            f"On the air {100 * facts['duty_cycle']:.0f} % of the time, in bursts.",
        ]


def _inside(frame: Frame, size: int) -> int:
    """Samples of a frame inside a capture of ``size`` samples."""
    return min(frame.start + frame.samples, size) - max(frame.start, 0)


def _waveforms(rng: np.random.Generator, frames: list[Frame], windowed: bool) -> list[Complex]:
    """Samples of every frame, encoded together by rate."""
    access_point, station = draw_address(rng), draw_address(rng)
    sequence = int(rng.integers(4096))
    psdus = []
    for frame in frames:
        if frame.kind == "ack":
            psdus.append(ack_frame(station if frame.downlink else access_point))
        else:
            psdus.append(
                data_frame(
                    rng, frame.octets, access_point, station, frame.downlink, frame.nav, sequence + frame.exchange
                )
            )
    states = rng.integers(1, 128, len(frames))
    groups: dict[Rate, list[int]] = defaultdict(list)
    for index, frame in enumerate(frames):
        groups[frame.rate].append(index)
    waveforms: dict[int, Complex] = {}
    for rate, members in groups.items():
        made = ppdus(rate, [psdus[index] for index in members], states[members], windowed)
        waveforms.update(zip(members, made, strict=True))
    return [waveforms[index] for index in range(len(frames))]


def _bursts(frames: list[Frame]) -> list[list[Frame]]:
    """Frames grouped into emissions: one each, or with their exchange where they are many."""
    if len(frames) <= MAX_EMISSIONS:
        return [[frame] for frame in frames]
    exchanges: dict[int, list[Frame]] = defaultdict(list)
    for frame in frames:
        exchanges[frame.exchange].append(frame)
    return list(exchanges.values())


def _emissions(frames: list[Frame], config: WLANConfig, size: int) -> list[Emission]:
    half = OCCUPIED * config.bandwidth / 64
    return [
        Emission(
            technology=WLAN.title,
            link=WLAN.link,
            modulation=_dominant(burst, size).modulation,
            start=max(burst[0].start, 0) / config.bandwidth,
            stop=min(burst[-1].start + burst[-1].samples, size) / config.bandwidth,
            low=-half,
            high=half,
            attributes=_attributes(burst, config, size),
        )
        for burst in _bursts(frames)
    ]


def _dominant(frames: list[Frame], size: int) -> Rate:
    """Rate that is longest on the air."""
    time: Counter[Rate] = Counter()
    for frame in frames:
        time[frame.rate] += _inside(frame, size)
    return time.most_common(1)[0][0]


def _attributes(burst: list[Frame], config: WLANConfig, size: int) -> dict[str, Any]:
    clock = clocking(config.bandwidth)
    if len(burst) > 1:
        kinds = Counter(frame.kind for frame in burst)
        return {"frame": "exchange", "data": kinds["data"], "ack": kinds["ack"]} | {
            "rate_mbps": _dominant(burst, size).mbps * clock
        }
    frame = burst[0]
    return {
        "frame": frame.kind,
        "rate_mbps": frame.rate.mbps * clock,
        "length": frame.octets,
        "direction": "downlink" if frame.downlink else "uplink",
    }


def _facts(frames: list[Frame], config: WLANConfig, duty: float, size: int) -> dict[str, Any]:
    clock = clocking(config.bandwidth)
    data = [frame for frame in frames if frame.kind == "data"]
    used = sorted({frame.rate.mbps for frame in (data or frames)})
    kinds = Counter(frame.kind for frame in frames)
    return {
        "standard": STANDARD,
        "bandwidth": config.bandwidth,
        "subcarrier_spacing": config.bandwidth / 64,
        "symbol_us": 4 / clock,
        "sifs_us": 16 / clock,
        "rates_mbps": [mbps * clock for mbps in used],
        "ack_rates_mbps": sorted({frame.rate.mbps * clock for frame in frames if frame.kind == "ack"}),
        "modulation": _dominant(data or frames, size).modulation,
        "modulations": list(dict.fromkeys(RATES[mbps].modulation for mbps in used)),
        "ppdu_count": len(frames),
        "data_count": kinds["data"],
        "ack_count": kinds["ack"],
        "duty_cycle": duty,
        "station_level_db": config.station_level_db,
        "payload": "coded random MPDU",
    }
