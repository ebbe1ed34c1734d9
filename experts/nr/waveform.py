"""A plan as samples, boxes and facts."""

from typing import Any

import numpy as np
import numpy.typing as npt

from experts.nr.carrier import SUBCARRIERS, SYMBOLS
from experts.nr.config import User
from experts.nr.pdsch import Cell, pdcch, pdsch
from experts.nr.plan import Plan
from experts.nr.ssb import LENGTH, WIDTH, blocks
from lwm.phy.ofdm import cp_lengths, modulate
from lwm.signal.capture import Emission

Complex = npt.NDArray[np.complex64]

PAYLOAD = "random symbols"


def carrier_grid(plan: Plan, rng: np.random.Generator) -> Complex:
    """PDSCH and PDCCH of all users, complex64 ``[slots * 14, subcarriers]``, unit power a used element on average."""
    config = plan.config
    grid = np.zeros((plan.slots, SYMBOLS, SUBCARRIERS * config.n_rb), dtype=np.complex64)
    head = config.coreset_symbols
    cell = Cell(config.pci, config.mu, config.n_rb)
    for user, sent, used, control in zip(config.users, plan.data, plan.used, plan.control, strict=True):
        subcarriers = slice(SUBCARRIERS * user.prb_start, SUBCARRIERS * user.prb_stop)
        for stop in np.unique(plan.downlink[used]).tolist():
            slots = np.flatnonzero(used & (plan.downlink == stop))
            block = pdsch(
                cell,
                slots + plan.first_slot,
                (user.prb_start, user.prb_stop),
                (head, stop),
                config.dmrs_additional,
                user.modulation,
                rng,
            )
            cut = np.flatnonzero(~sent[slots].all(axis=1))
            block[cut] *= np.repeat(sent[slots[cut]], SUBCARRIERS, axis=1)[:, None]
            grid[slots, head:stop, subcarriers] = block
        slots = np.flatnonzero(control)
        if slots.size:
            low, high = plan.pdcch_rb(user)
            grid[slots, :head, SUBCARRIERS * low : SUBCARRIERS * high] = pdcch(
                cell, slots + plan.first_slot, (low, high), head, rng
            )
    return grid.reshape(plan.slots * SYMBOLS, -1)


def place_ssb(plan: Plan, grid: Complex, rng: np.random.Generator) -> None:
    """Write the SS/PBCH blocks into ``grid`` ``[symbols, subcarriers]`` of their own numerology, centred on 0 Hz."""
    config, times = plan.config, plan.ssb
    ssb = blocks(config.pci, times.index, times.half_frame, len(config.ssb.bitmap), rng)
    first = grid.shape[1] // 2 + round(config.ssb_low / (15e3 * (1 << config.ssb.mu)))
    rows = times.symbol[:, None] + np.arange(LENGTH)
    grid[rows, first : first + WIDTH] = ssb


def modulate_used(grid: Complex, on: npt.NDArray[np.bool_], n_fft: int, mu: int) -> Complex:
    """OFDM samples of ``grid``, computing only the half milliseconds in which a symbol is ``on``."""
    prefixes = cp_lengths(n_fft, mu)
    halves = grid.reshape(-1, len(prefixes), grid.shape[1])
    used = on.reshape(len(halves), -1).any(axis=1)
    samples = np.zeros((len(halves), sum(prefixes) + n_fft * len(prefixes)), dtype=np.complex64)
    if used.any():
        picked = halves if used.all() else halves[used]
        samples[used] = modulate(picked.reshape(-1, grid.shape[1]), n_fft, prefixes).reshape(-1, samples.shape[1])
    return samples.reshape(-1)


def samples(plan: Plan, rng: np.random.Generator) -> Complex:
    """The capture's samples, complex64, unit mean power over the time on the air."""
    config = plan.config
    grid = carrier_grid(plan, rng)
    if config.ssb.mu == config.mu:
        place_ssb(plan, grid, rng)
        iq = modulate_used(grid, plan.carrier_on | plan.ssb_on, config.n_fft, config.mu)
    else:
        iq = modulate_used(grid, plan.carrier_on, config.n_fft, config.mu)
        n_fft = config.n_fft << config.mu >> config.ssb.mu
        own = np.zeros((plan.ssb_on.size, n_fft), dtype=np.complex64)
        place_ssb(plan, own, rng)
        # Equal power a Hz: unit power a used element over each grid's own FFT at one sample rate gives just that.
        iq += modulate_used(own, plan.ssb_on, n_fft, config.ssb.mu)
    iq = iq[plan.crop]
    energy = float(np.vdot(iq, iq).real)
    iq *= np.float32(np.sqrt(plan.on_air_samples / energy))
    return iq


def _runs(on: npt.NDArray[np.bool_], joined: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of each run of ``on``; neighbours i, i+1 belong together where ``joined[i]``."""
    index = np.flatnonzero(on)
    if not index.size:
        return []
    split = np.flatnonzero((np.diff(index) > 1) | ~joined[index[:-1]])
    return list(zip(index[np.r_[0, split + 1]].tolist(), index[np.r_[split, index.size - 1]].tolist(), strict=True))


def _box(plan: Plan, symbols: tuple[int, int], mu: int, band: tuple[float, float], **fields: Any) -> Emission | None:
    """Emission from the first to one past the last symbol, cut to the capture; None when outside it."""
    edges = plan.edges(mu)
    rate = plan.config.sample_rate
    start, stop = ((int(edges[symbol]) - plan.crop.start) / rate for symbol in symbols)
    box = Emission("5G NR", "downlink", start=start, stop=stop, low=band[0], high=band[1], **fields)
    return box.clipped(plan.config.samples / rate, rate / 2)


def user_emissions(plan: Plan, number: int, user: User) -> list[Emission]:
    """One box for each run of slots without a pause that ``user`` holds (PDSCH with its PDCCH)."""
    config, sent, control = plan.config, plan.data[number], plan.control[number]
    head = config.coreset_symbols
    boxes = []
    for first, last in _runs(plan.used[number], plan.downlink[:-1] == SYMBOLS):
        blocks_used = user.prb_start + np.flatnonzero(sent[first : last + 1].any(axis=0))
        low, high = int(blocks_used[0]), int(blocks_used[-1]) + 1
        width = SUBCARRIERS * config.scs
        # Subcarrier k is centred on its frequency, so a resource block begins half a subcarrier below its first one.
        base = -(config.n_rb * SUBCARRIERS + 1) / 2 * config.scs
        begin = SYMBOLS * first + (0 if control[first] else head)
        end = SYMBOLS * last + int(plan.downlink[last])
        attributes = {"channel": "PDSCH", "ue": number, "prb_start": low, "prb_count": high - low}
        band = (base + low * width, base + high * width)
        boxes.append(
            _box(plan, (begin, end), config.mu, band, modulation=user.modulation, attributes=attributes),
        )
    return [box for box in boxes if box is not None]


def ssb_emissions(plan: Plan) -> list[Emission]:
    """One box for each burst of SS/PBCH blocks, from its first block to its last inside the capture."""
    ssb, times = plan.config.ssb, plan.ssb
    scs = 15e3 * (1 << ssb.mu)
    low = plan.config.ssb_low - scs / 2
    edges = plan.edges(ssb.mu)
    heard = (edges[times.symbol + LENGTH] > plan.crop.start) & (edges[times.symbol] < plan.crop.stop)
    boxes = []
    for burst in np.unique(times.burst[heard]):
        members = heard & (times.burst == burst)
        symbol = times.symbol[members]
        attributes = {"channel": "SSB", "case": ssb.case, "ssb_index": times.index[members].tolist()}
        span = (int(symbol.min()), int(symbol.max()) + LENGTH)
        band = (low, low + WIDTH * scs)
        boxes.append(_box(plan, span, ssb.mu, band, modulation="QPSK", attributes=attributes))
    return [box for box in boxes if box is not None]


def emissions(plan: Plan) -> list[Emission]:
    """All boxes in order of their start."""
    boxes = ssb_emissions(plan)
    for number, user in enumerate(plan.config.users):
        boxes += user_emissions(plan, number, user)
    return sorted(boxes, key=lambda box: (box.start, box.low))


def facts(plan: Plan, boxes: list[Emission]) -> dict[str, Any]:
    """What is known about the capture, JSON-able; only UEs that are on the air in it are counted."""
    config = plan.config
    heard = sorted({box.attributes["ue"] for box in boxes if "ue" in box.attributes})
    users = [config.users[number] for number in heard]
    modulations = {user.modulation for user in users}
    common = modulations.pop() if len(modulations) == 1 else "mixed" if modulations else "none"
    return {
        "technology": "5G NR",
        "link": "downlink",
        "bandwidth": config.bandwidth,
        "subcarrier_spacing": 15e3 * (1 << config.mu),
        "cp": "normal",
        "pci": config.pci,
        "n_rb": config.n_rb,
        "duplex": "FDD" if config.tdd is None else "TDD",
        "tdd_pattern": None if config.tdd is None else config.tdd.slots,
        "special_slot": None if config.tdd is None else list(config.tdd.special),
        "ssb_case": config.ssb.case,
        "ssb_scs_khz": 15 << config.ssb.mu,
        "ssb_count": config.ssb.bitmap.count("1"),
        "ssb_bitmap": config.ssb.bitmap,
        "ssb_period_ms": config.ssb.period_ms,
        "ssb_low_hz": config.ssb_low,
        "number_of_ues": len(users),
        "users": [
            {"ue": number, "prb_start": u.prb_start, "prb_count": u.prb_count, "modulation": u.modulation}
            for number, u in zip(heard, users, strict=True)
        ],
        "modulation": common,
        "coreset_symbols": config.coreset_symbols,
        "dmrs_additional": config.dmrs_additional,
        "start_in_frame_pair": config.start,
        "duty_cycle": plan.duty_cycle,
        "payload": PAYLOAD,
    }
