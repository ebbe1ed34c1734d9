"""A plan as samples and boxes."""

from typing import Any

import numpy as np
import numpy.typing as npt

from experts.nr.carrier import SUBCARRIERS
from experts.nr.grid import carrier_grid, place_ssb
from experts.nr.plan import Plan
from experts.nr.random_access import add_preambles
from experts.nr.ssb import WIDTH
from experts.nr.transmission import Placement
from lwm.phy.ofdm import cp_lengths, modulate
from lwm.signal.capture import Emission

Complex = npt.NDArray[np.complex64]
TITLE = "5G NR"
PUCCH_MODULATIONS = ("Zadoff-Chu", "Zadoff-Chu", "QPSK", "QPSK", "QPSK")
"""By format: cyclic shifts of a low-PAPR sequence, or symbols (formats 3 and 4 may have pi/2-BPSK)."""
Span = tuple[int, int, int, int]
"""Start and stop sample, low and high resource block."""


def modulate_used(
    grid: Complex, on: npt.NDArray[np.bool_], n_fft: int, mu: int, window: slice, extended: bool = False
) -> Complex:
    """OFDM samples of ``grid``, computing only the half milliseconds in which a symbol is ``on`` inside ``window``."""
    prefixes = cp_lengths(n_fft, mu, extended)
    length = sum(prefixes) + n_fft * len(prefixes)
    halves = grid.reshape(-1, len(prefixes), grid.shape[1])
    used = np.asarray(on.reshape(len(halves), -1).any(axis=1))
    used[: window.start // length] = False
    used[-(-window.stop // length) :] = False
    samples = np.zeros((len(halves), length), dtype=np.complex64)
    if used.any():
        picked = halves if used.all() else halves[used]
        samples[used] = modulate(picked.reshape(-1, grid.shape[1]), n_fft, prefixes).reshape(-1, length)
    return samples.reshape(-1)


def samples(plan: Plan, rng: np.random.Generator) -> Complex:
    """The capture's samples, complex64, unit mean power over the time on the air."""
    config, carrier = plan.config, plan.config.carrier
    grid = carrier_grid(plan, rng)
    shared = config.ssb is not None and config.ssb.mu == config.mu and not carrier.extended_cp
    on = plan.carrier_on
    if shared:
        place_ssb(plan, grid)
        on = on | plan.ssb_on
    iq = modulate_used(grid, on, config.n_fft, config.mu, plan.crop, carrier.extended_cp)
    if config.ssb is not None and not shared and plan.ssb.symbol.size:
        n_fft = config.n_fft << config.mu >> config.ssb.mu
        own = np.zeros((plan.ssb_on.size, n_fft), dtype=np.complex64)
        place_ssb(plan, own)
        # Equal power a Hz: unit power a used element over each grid's own FFT at one sample rate gives just that.
        iq += modulate_used(own, plan.ssb_on, n_fft, config.ssb.mu, plan.crop)
    add_preambles(iq, plan.preambles)
    iq = iq[plan.crop]
    energy = float(np.vdot(iq, iq).real)
    iq *= np.float32(np.sqrt(plan.on_air_samples / energy))
    return iq


def _box(plan: Plan, span: tuple[int, int], band: tuple[float, float], **fields: Any) -> Emission | None:
    """Emission from the first to one past the last sample of the window, cut to the capture; None when outside it."""
    config = plan.config
    rate = config.sample_rate
    start, stop = ((sample - plan.crop.start) / rate for sample in span)
    box = Emission(TITLE, config.link, start=start, stop=stop, low=band[0], high=band[1], **fields)
    return box.clipped(config.samples / rate, rate / 2)


def spans(plan: Plan, part: Placement) -> list[Span]:
    """One span for each slot of a placement."""
    edges = plan.carrier_edges
    begin = part.slots * plan.symbols
    start, stop = edges[begin + part.symbols[0]], edges[begin + part.symbols[1]]
    return [(*span, *part.blocks) for span in zip(start.tolist(), stop.tolist(), strict=True)]


def joined(parts: list[Span], same_blocks: bool) -> list[Span]:
    """Spans that follow each other without a pause made one.

    Args:
        parts: any order.
        same_blocks: join only spans of the very same resource blocks, not all that share some.
    """
    runs: list[Span] = []
    for start, stop, low, high in sorted(parts):
        for place, (first, last, bottom, top) in enumerate(runs):
            shared = (low, high) == (bottom, top) if same_blocks else low < top and high > bottom
            if shared and start <= last:
                runs[place] = (first, max(last, stop), min(bottom, low), max(top, high))
                break
        else:
            runs.append((start, stop, low, high))
    return runs


def _channel_boxes(
    plan: Plan, channels: tuple[str, ...], owner: int, modulation: str, attributes: dict[str, Any]
) -> list[Emission]:
    """One box for each run without a pause of what ``owner`` sends on ``channels``, the first of them its name."""
    carrier = plan.config.carrier
    width = SUBCARRIERS * carrier.scs
    mine = [part for part in plan.placements if part.owner == owner and part.channel in channels]
    parts = [span for part in mine for span in spans(plan, part)]
    boxes = []
    for start, stop, low, high in joined(parts, channels[0] != "PDSCH"):
        known = {"channel": channels[0], **attributes, "prb_start": low, "prb_count": high - low}
        band = (carrier.low_edge + low * width, carrier.low_edge + high * width)
        boxes.append(_box(plan, (start, stop), band, modulation=modulation, attributes=known))
    return [box for box in boxes if box is not None]


def carrier_emissions(plan: Plan) -> list[Emission]:
    """Boxes of the UEs (PDSCH with its PDCCH, or PUSCH), of CSI-RS, of PUCCH and of SRS."""
    config = plan.config
    shared = ("PDSCH", "PDCCH") if config.uplink is None else ("PUSCH",)
    boxes = []
    for number, user in enumerate(config.users):
        boxes += _channel_boxes(plan, shared, number, user.modulation, {"ue": number})
    for number, resource in enumerate(config.csi_rs):
        boxes += _channel_boxes(plan, ("CSI-RS",), number, "QPSK", {"resource": number, "row": resource.row})
    for number, report in enumerate(config.uplink.reports if config.uplink else ()):
        known = {"resource": number, "format": report.pucch.format}
        boxes += _channel_boxes(plan, ("PUCCH",), number, PUCCH_MODULATIONS[report.pucch.format], known)
    for number, sounding in enumerate(config.uplink.srs if config.uplink else ()):
        known = {"resource": number, "comb": sounding.comb[0]}
        boxes += _channel_boxes(plan, ("SRS",), number, "Zadoff-Chu", known)
    return boxes


def ssb_emissions(plan: Plan) -> list[Emission]:
    """One box for each run of neighbouring SS/PBCH blocks of a burst: a beam that is off parts two boxes."""
    ssb, times, edges = plan.config.ssb, plan.ssb, plan.ssb_spans
    if ssb is None:
        return []
    scs = 15e3 * (1 << ssb.mu)
    low = plan.config.ssb_low - scs / 2
    heard = (edges[:, 1] > plan.crop.start) & (edges[:, 0] < plan.crop.stop)
    boxes = []
    # Blocks are in order of time, and the first of a burst never follows the last of the one before by one.
    run = np.cumsum(np.diff(times.index, prepend=-2) != 1)
    for number in dict.fromkeys(run[heard].tolist()):
        members = heard & (run == number)
        attributes = {"channel": "SSB", "case": ssb.case, "ssb_index": times.index[members].tolist()}
        span = (int(edges[members, 0].min()), int(edges[members, 1].max()))
        boxes.append(_box(plan, span, (low, low + WIDTH * scs), modulation="QPSK", attributes=attributes))
    return [box for box in boxes if box is not None]


def prach_emissions(plan: Plan) -> list[Emission]:
    """One box for each preamble."""
    uplink = plan.config.uplink
    if uplink is None or uplink.prach is None:
        return []
    known = {"channel": "PRACH", "format": uplink.prach.format, "preamble": uplink.prach.preamble}
    boxes = [
        _box(plan, (each.first, each.first + each.samples.size), each.band, modulation="Zadoff-Chu", attributes=known)
        for each in plan.preambles
    ]
    return [box for box in boxes if box is not None]


def emissions(plan: Plan) -> list[Emission]:
    """All boxes in order of their start."""
    return sorted(
        ssb_emissions(plan) + carrier_emissions(plan) + prach_emissions(plan), key=lambda box: (box.start, box.low)
    )
