"""Downlink captures demodulated: every CSI-RS at its place and nowhere else, PDSCH on its constellation."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from experts.nr import CSIRS, DMRS, NR, PDSCH, PTRS, Carrier, Control, NRConfig, TDDPattern, User
from lwm.seeding import rng_for

SIDE = {"QPSK": 2, "16QAM": 4, "64QAM": 8, "256QAM": 16, "1024QAM": 32}


def evm(symbols: np.ndarray, modulation: str) -> float:
    """Root mean square error over root mean square of the nearest points, after one common gain."""
    side = SIDE[modulation]
    points = symbols / np.sqrt(np.mean(np.abs(symbols) ** 2)) * np.sqrt(2 * (side**2 - 1) / 3)

    def nearest(values: np.ndarray) -> np.ndarray:
        return np.clip(2 * np.round((values - 1) / 2) + 1, 1 - side, side - 1)

    for _ in range(2):
        ideal = nearest(points.real) + 1j * nearest(points.imag)
        points = points / (np.vdot(ideal, points) / np.vdot(ideal, ideal))
    return float(np.sqrt(np.mean(np.abs(points - ideal) ** 2) / np.mean(np.abs(ideal) ** 2)))


def slots_of(standard: dict, capture, carrier: Carrier, milliseconds: int) -> np.ndarray:
    """Resource grid ``[slots, 14, subcarriers]``."""
    grid = standard["demodulate"](capture.iq, carrier.n_fft, carrier.mu, 12 * carrier.n_rb, milliseconds)
    return grid.reshape(-1, 14, 12 * carrier.n_rb)


class Known(NamedTuple):
    """A resource and what TS 38.211 table 7.4.1.5.3-1 says of it, read by hand.

    Attributes:
        resource: as configured.
        groups: (k, l) of each CDM group.
        cdm: subcarriers and symbols of a group.
        slots: of the first ten.
    """

    resource: CSIRS
    groups: list[tuple[int, int]]
    cdm: tuple[int, int]
    slots: list[int]


KNOWN = [
    Known(
        CSIRS(1, "0010", 4, density=3, n_rb=48, period=4, offset=1, n_id=11),
        [(1, 4), (5, 4), (9, 4)],
        (1, 1),
        [1, 5, 9],
    ),
    Known(
        CSIRS(1, "0001", 4, density=3, n_rb=48, period=5, offset=0, n_id=12), [(0, 4), (4, 4), (8, 4)], (1, 1), [0, 5]
    ),
    Known(CSIRS(2, "000010000000", 5, density=0.5, parity=1, n_rb=48, period=5, n_id=22), [(7, 5)], (1, 1), [0, 5]),
    Known(CSIRS(3, "010000", 5, n_rb=48, period=4, offset=2, n_id=1023), [(8, 5)], (2, 1), [2, 6]),
    Known(CSIRS(4, "010", 6, first_rb=4, n_rb=44, period=10, offset=3, n_id=33), [(4, 6), (6, 6)], (2, 1), [3]),
    Known(CSIRS(8, "001001", 7, n_rb=48, period=5, offset=2, n_id=44), [(0, 7), (6, 7)], (2, 2), [2, 7]),
    Known(
        CSIRS(17, "101011", 9, 12, density=0.5, n_rb=48, period=8, offset=6, n_id=55),
        [(k, symbol) for symbol in (9, 12) for k in (0, 2, 6, 10)],
        (2, 2),
        [6],
    ),
    Known(CSIRS(18, "110110", 9, n_rb=48, period=10, offset=8, n_id=66), [(k, 9) for k in (2, 4, 8, 10)], (2, 4), [8]),
]


def group_metric(grid: np.ndarray, known: Known, place: tuple[int, int, int], sequence) -> float:
    """Share of the energy of a hypothetical CDM group's elements that its ports explain, 0 to 1.

    The ports of a group are all Walsh functions of its elements, so their correlations together are those of
    the Hadamard transform over (k', l').
    """
    slot, k, symbol = place
    resource, (width, length) = known.resource, known.cdm
    n = np.arange(resource.first_rb, resource.first_rb + resource.n_rb)
    if resource.density == 0.5:
        n = n[n % 2 == resource.parity]
    alpha = resource.density if resource.row in (1, 2) else 2 * resource.density
    index = np.floor(n * alpha).astype(int)[:, None] + np.arange(width) + int(k * resource.density / 12)
    columns = 12 * n[:, None] + k + np.arange(width)
    despread = np.stack(
        [grid[slot, symbol + late, columns] * sequence(slot, symbol + late)[index].conj() for late in range(length)],
        axis=1,
    ).reshape(n.size, -1)
    energy = np.sum(np.abs(despread) ** 2)
    walsh = np.array([[1]])
    while len(walsh) < width * length:
        walsh = np.kron(walsh, [[1, 1], [1, -1]])
    ports = walsh @ despread.sum(axis=0)
    return float(np.sum(np.abs(ports) ** 2) / (walsh.size * n.size) / energy * len(walsh)) if energy else 0.0


def test_every_csi_rs_is_at_its_place_and_nowhere_else(standard):
    """Eight resources between the PDSCH of a UE: search over slots, symbols and subcarriers for each."""
    carrier = Carrier(20e6, 1, 611)
    pdsch = PDSCH(0, 51, "16QAM", (1, 13), dmrs=DMRS(additional=0))
    resources = tuple(known.resource for known in KNOWN)
    config = NRConfig(carrier, None, (User(pdsch, ((0, 10),)),), Control(1), resources, start=0.0, duration=0.005)
    capture = NR().synthesize(config, rng_for(91))
    grid = slots_of(standard, capture, carrier, 5)
    assert capture.facts["csi_rs_count"] == 8
    for known in KNOWN:
        n_id, cache = known.resource.n_id, {}

        def sequence(slot: int, symbol: int, n_id=n_id, cache=cache) -> np.ndarray:
            if (slot, symbol) not in cache:
                c_init = (2**10 * (14 * slot + symbol + 1) * (2 * n_id + 1) + n_id) % 2**31
                cache[slot, symbol] = standard["reference"](c_init, 160)
            return cache[slot, symbol]

        width, length = known.cdm
        places = [(slot, k, s) for slot in range(10) for k in range(13 - width) for s in range(3, 15 - length)]
        found = {place: group_metric(grid, known, place, sequence) for place in places}
        expected = {(slot, *group) for slot in known.slots for group in known.groups}
        assert {place for place, metric in found.items() if metric > 0.999} == expected
        # A group over several symbols shares all but one with itself a symbol later; beyond that chance agreement,
        # the largest of over a thousand places, of as few as 24 elements.
        limit = 0.6 if length < 3 else (length - 1) / length + 0.1
        assert max(metric for place, metric in found.items() if place not in expected) < limit
        number = KNOWN.index(known)
        boxes = [box for box in capture.emissions if box.attributes.get("resource") == number]
        assert {int(box.start * 2000) for box in boxes} == set(known.slots)


@pytest.mark.parametrize(
    ("carrier", "pdsch", "slots", "dmrs"),
    [
        pytest.param(
            Carrier(20e6, 1, 5),
            PDSCH(10, 24, "256QAM", (1, 13), dmrs=DMRS(additional=2), ptrs=PTRS(1, 2, 1), interleaver=4, rnti=10),
            (0, 4),
            (2, 7, 11),
            id="interleaved-PTRS",
        ),
        pytest.param(
            Carrier(10e6, 0, 1007),
            PDSCH(0, 52, "1024QAM", (0, 14), dmrs=DMRS(2, 2, 1, groups_without_data=3, ports=(2,))),
            (1, 2),
            (2, 3, 10, 11),
            id="type-2-double",
        ),
        pytest.param(
            Carrier(100e6, 3, 12, TDDPattern("DDDSU"), "FR2"),
            PDSCH(6, 60, "64QAM", (2, 12), ptrs=PTRS(2, 2), rnti=4),
            (0, 3),
            (2, 11),
            id="FR2-PTRS",
        ),
        pytest.param(
            Carrier(15e6, 0, 3),
            PDSCH(3, 40, "16QAM", (4, 7), "B", DMRS(additional=1, groups_without_data=1)),
            (0, 3),
            (4, 8),
            id="mapping-B",
        ),
    ],
)
def test_evm_of_pdsch_is_below_half_a_percent(standard, carrier, pdsch, slots, dmrs):
    """Data: everything in the allocation that is neither DM-RS nor PT-RS lies on the constellation."""
    config = NRConfig(carrier, None, (User(pdsch, (slots,)),), None, start=0.0, duration=0.003)
    grid = slots_of(standard, NR().synthesize(config, rng_for(92)), carrier, 3)
    used = np.abs(grid) > 1e-3 * np.abs(grid).max()
    first, count = slots
    assert not np.delete(used, np.s_[first : first + count], axis=0).any()
    begin, length = pdsch.symbols
    blocks = np.flatnonzero(used[first].any(axis=0).reshape(-1, 12).any(axis=1))
    assert blocks.size == pdsch.prb_count
    assert used[first : first + count, :begin].sum() == used[first : first + count, begin + length :].sum() == 0
    own = (12 * blocks[:, None] + np.arange(12)).reshape(-1)
    assert (np.diff(blocks) > 1).any() == bool(pdsch.interleaver)
    step = 2 if pdsch.dmrs.type == 1 else 6
    pilots = own[own % step == 0] if step == 2 else own[own % 6 // 2 == 1]
    data = []
    for slot in range(first, first + count):
        for symbol in range(begin, begin + length):
            free = np.ones(12 * carrier.n_rb, dtype=bool)
            if symbol in dmrs:
                if pdsch.dmrs.groups_without_data >= 2:
                    continue
                free[pilots] = False
            row = grid[slot, symbol]
            tracked = tracking(row, pdsch, blocks, standard, carrier, slot, dmrs[0]) if pdsch.ptrs else None
            if tracked is not None:
                free[tracked] = False
            data.append(row[own][free[own]])
    assert evm(np.concatenate(data), pdsch.modulation) < 0.005


def tracking(row, pdsch, blocks, standard, carrier, slot, front) -> np.ndarray | None:
    """Subcarriers with PT-RS in a symbol, found by the DM-RS sequence that they repeat; None without PT-RS."""
    assert pdsch.ptrs is not None
    # K = 2: an even number of blocks, RNTI even: blocks 0, 2, ...; port 0 offset00 and offset01: subcarriers 0 and 2.
    columns = 12 * blocks[::2] + (0, 2)[pdsch.ptrs.offset]
    n_id = carrier.pci
    c_init = ((14 * (slot % (10 << carrier.mu)) + front + 1) * (2 * n_id + 1) * 2**17 + 2 * n_id) % 2**31
    expected = standard["reference"](c_init, 6 * carrier.n_rb)[columns // 2]
    match = abs(np.vdot(expected, row[columns])) / (np.linalg.norm(expected) * np.linalg.norm(row[columns]) + 1e-12)
    return columns if match > 0.999 else None


def test_evm_of_extended_prefix_and_two_layers(standard):
    """60 kHz with 12 symbols a slot; two layers in quadrature give the sum constellation of their points."""
    carrier = Carrier(20e6, 2, 8, extended_cp=True)
    pdsch = PDSCH(0, 24, "16QAM", (0, 12), dmrs=DMRS(additional=0))
    config = NRConfig(carrier, None, (User(pdsch, ((0, 4),)),), None, start=0.0, duration=0.001)
    iq = NR().synthesize(config, rng_for(93)).iq
    rows = iq.reshape(48, 5 * carrier.n_fft // 4)[:, carrier.n_fft // 4 :]
    grid = np.fft.fft(rows, axis=1)[:, np.arange(288) - 144].reshape(4, 12, 288)
    assert evm(np.delete(grid, 2, axis=1).reshape(-1), "16QAM") < 0.005
    double = replace(pdsch, dmrs=DMRS(additional=0, ports=(0, 1)))
    config = replace(config, users=(User(double, ((0, 4),)),))
    rows = NR().synthesize(config, rng_for(93)).iq.reshape(48, -1)[:, carrier.n_fft // 4 :]
    grid = np.fft.fft(rows, axis=1)[:, np.arange(288) - 144].reshape(4, 12, 288)
    data = np.delete(grid, 2, axis=1).reshape(-1)
    # x0 + j x1 of two 16QAM points: sums of two odd integers, even from -6 to 6 on each axis.
    points = data / np.sqrt(np.mean(np.abs(data) ** 2)) * np.sqrt(20)
    error = points - 2 * (np.round(points.real / 2) + 1j * np.round(points.imag / 2))
    gain_error = 0.02
    assert np.sqrt(np.mean(np.abs(error) ** 2) / 20) < gain_error
    assert np.abs(points.real).max() < 6.2
