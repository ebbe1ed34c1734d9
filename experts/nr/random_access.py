"""PRACH preambles of a plan: when they are sent, and their samples."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from experts.nr.carrier import Carrier, symbol_edges
from experts.nr.tdd import link_symbols
from experts.nr.uplink import PRACH, PRACHSignal, prach
from experts.nr.uplink import Carrier as UplinkCarrier
from experts.nr.uplink.prach import occasions
from experts.nr.uplink_air import uplink_carrier
from experts.nr.window import Window

SUBFRAME = 30_720
"""A millisecond in T_s, the clock in which PRACH occasions are told."""
LEAD_MS = 5
"""Longest preamble, format 1 with its guard time, and a little more."""
FRAME_MS = 10


@lru_cache(maxsize=16)
def _uplink_edges(carrier: Carrier, phase_ms: int, milliseconds: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Sample edges of symbols from ``phase_ms`` on and, before each, how many symbols were not uplink."""
    edges = symbol_edges(carrier.n_fft, carrier.mu, milliseconds, carrier.extended_cp)
    first, _ = link_symbols(carrier.tdd, "uplink", carrier.symbols, phase_ms << carrier.mu, milliseconds << carrier.mu)
    busy = (np.arange(carrier.symbols) < first[:, None]).reshape(-1)
    return edges, np.concatenate([[0], np.cumsum(busy)])


@lru_cache(maxsize=16)
def _preamble(carrier: UplinkCarrier, config: PRACH, sample_rate: float, start: int) -> PRACHSignal:
    """The preamble that begins at ``start`` T_s of a subframe; a millisecond is whole samples, so all repeat these."""
    signal = prach(carrier, config, sample_rate, start)
    signal.samples.setflags(write=False)
    return signal


def preambles(window: Window, config: PRACH) -> list[PRACHSignal]:
    """Preambles that touch the window, their first samples counted from its start.

    An occasion that is not wholly in uplink symbols is not valid (TS 38.213 clause 8.1) and stays silent.
    """
    carrier = window.config.carrier
    lead = min(LEAD_MS, window.first_ms)
    origin = window.first_ms - lead
    total = lead + window.milliseconds + LEAD_MS
    edges, busy = _uplink_edges(carrier, origin % 20, total)
    frame = origin // FRAME_MS
    frames = -(-(origin + total) // FRAME_MS) - frame
    starts = occasions(config, frame, frames) - (origin - FRAME_MS * frame) * SUBFRAME
    rate = carrier.sample_rate
    sent = []
    for start in starts[(starts >= 0) & (starts < (lead + window.milliseconds) * SUBFRAME)].tolist():
        subframe, inside = divmod(start, SUBFRAME)
        signal = _preamble(uplink_carrier(window), config, rate, inside)
        signal = signal._replace(first=signal.first + subframe * round(rate / 1e3))
        stop = signal.first + signal.samples.size
        if stop > edges[-1]:
            continue
        low = int(np.searchsorted(edges, signal.first, side="right")) - 1
        high = int(np.searchsorted(edges, stop, side="left"))
        first = signal.first - int(edges[_symbols_of(carrier, lead)])
        if busy[high] == busy[low] and first + signal.samples.size > 0 and first < window.carrier_edges[-1]:
            sent.append(signal._replace(first=first))
    return sent


def _symbols_of(carrier: Carrier, milliseconds: int) -> int:
    return milliseconds * carrier.symbols << carrier.mu


def prach_blocks(window: Window, config: PRACH) -> tuple[int, int]:
    """First and one past the last resource block of the carrier that the preamble's band touches."""
    low, high = config.resource_blocks(uplink_carrier(window))
    return low, min(high, window.config.n_rb)


def add_preambles(iq: npt.NDArray[np.complex64], signals: list[PRACHSignal]) -> None:
    """Add preambles to the samples of a window, cut at its ends."""
    for signal in signals:
        begin, stop = max(0, signal.first), min(iq.size, signal.first + signal.samples.size)
        if stop > begin:
            iq[begin:stop] += signal.samples[begin - signal.first : stop - signal.first]
