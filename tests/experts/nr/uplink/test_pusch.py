"""PUSCH against TS 38.211 clause 6.3.1 and 6.4.1.1 written out element by element."""

import cmath
import math

import numpy as np
import pytest

from experts.nr.uplink.grid import Carrier, modulate_bits, resource_grid
from experts.nr.uplink.pusch import PUSCH, hops, pusch, pusch_capacity
from experts.nr.uplink.pusch_rs import DMRS, PTRS, dmrs_positions, ptrs_samples, ptrs_symbols
from experts.nr.uplink.sequences import base_sequence
from lwm.errors import RejectedConfig
from lwm.phy.constellation import cellular
from lwm.phy.sequences import gold

CARRIER = Carrier(pci=407, mu=1, n_rb=52)
EXTENDED = Carrier(pci=99, mu=2, n_rb=24, extended_cp=True)
# Tables 6.4.1.1.3-1 and -2, typed: CDM group, Delta, w_f(0..1), w_t(0..1) of each port.
TYPE_1 = {
    0: (0, 0, (1, 1), (1, 1)),
    1: (0, 0, (1, -1), (1, 1)),
    2: (1, 1, (1, 1), (1, 1)),
    3: (1, 1, (1, -1), (1, 1)),
    4: (0, 0, (1, 1), (1, -1)),
    5: (0, 0, (1, -1), (1, -1)),
    6: (1, 1, (1, 1), (1, -1)),
    7: (1, 1, (1, -1), (1, -1)),
}
TYPE_2 = {
    **{port: (port // 2, port // 2 * 2, (1, 1 - 2 * (port % 2)), (1, 1)) for port in range(6)},
    **{port + 6: (port // 2, port // 2 * 2, (1, 1 - 2 * (port % 2)), (1, -1)) for port in range(6)},
}


def reference(carrier: Carrier, slot: int, allocation: PUSCH, prb: int, starts: dict[int, int]) -> dict:
    """DM-RS elements of a hop as (symbol, subcarrier) -> value; ``starts``: symbol -> l'."""
    dmrs, width = allocation.dmrs, 12 * (allocation.prb[1] - allocation.prb[0])
    _, delta, w_f, w_t = (TYPE_1 if dmrs.type == 1 else TYPE_2)[dmrs.port]
    n_sf = slot % carrier.frame_slots
    n_id = carrier.pci if dmrs.n_id is None else dmrs.n_id
    beta = math.sqrt(dmrs.groups_without_data)
    found = {}
    for symbol, l_prime in starts.items():
        if allocation.transform_precoding:
            number = carrier.symbols * n_sf + symbol - l_prime
            f_gh, v = 0, 0
            if dmrs.hopping == "group":
                c = gold(n_id // 30, 8 * carrier.symbols * carrier.frame_slots)
                f_gh = sum(2**m * int(c[8 * number + m]) for m in range(8)) % 30
            if dmrs.hopping == "sequence" and width // 2 >= 72:
                v = int(gold(n_id, carrier.symbols * carrier.frame_slots)[number])
            r = base_sequence((f_gh + n_id) % 30, v, width // 2)
        else:
            c_init = (2**17 * (carrier.symbols * n_sf + symbol + 1) * (2 * n_id + 1) + 2 * n_id + dmrs.n_scid) % 2**31
            c = gold(c_init, 24 * carrier.n_rb).astype(int)
            r = [complex(1 - 2 * c[2 * i], 1 - 2 * c[2 * i + 1]) / math.sqrt(2) for i in range(12 * carrier.n_rb)]
        # k counts from common resource block 0, or with transform precoding from the allocation.
        first, origin = (0, 12 * prb) if allocation.transform_precoding else (12 * prb, 0)
        for n in range(12 * carrier.n_rb):
            for k_prime in (0, 1):
                k = 4 * n + 2 * k_prime + delta if dmrs.type == 1 else 6 * n + k_prime + delta
                if first <= k < first + width:
                    found[symbol, origin + k] = beta * w_f[k_prime] * w_t[l_prime] * r[2 * n + k_prime]
    return found


def naive(carrier: Carrier, slot: int, allocation: PUSCH, bits: np.ndarray, starts: list[dict[int, int]]) -> np.ndarray:
    """One slot's grid without PT-RS; ``starts`` has the DM-RS symbols of each hop, counted from the slot's start."""
    grid = np.zeros((carrier.symbols, 12 * carrier.n_rb), dtype=complex)
    n_id = carrier.pci if allocation.n_id is None else allocation.n_id
    scrambled = bits ^ gold(allocation.rnti * 2**15 + n_id, len(bits))
    order = {"pi/2-BPSK": 1, "QPSK": 2, "16QAM": 4, "64QAM": 6, "256QAM": 8}[allocation.modulation]
    symbols = []
    for i in range(len(bits) // order):
        word = [int(bit) for bit in scrambled[order * i : order * (i + 1)]]
        if order == 1:
            symbols.append(
                cmath.exp(1j * math.pi / 2 * (i % 2)) * complex(1 - 2 * word[0], 1 - 2 * word[0]) / math.sqrt(2)
            )
        else:
            symbols.append(complex(cellular(allocation.modulation)[int("".join(map(str, word)), 2)]))
    source = iter(symbols)
    start, stop = allocation.symbols
    width = 12 * (allocation.prb[1] - allocation.prb[0])
    shifted = (allocation.prb[0] + allocation.hop_offset) % carrier.n_rb
    edges = [start, stop]
    blocks = [allocation.prb[0]]
    if allocation.hopping == "intra-slot":
        edges, blocks = [start, start + (stop - start) // 2, stop], [allocation.prb[0], shifted]
    elif allocation.hopping == "inter-slot" and slot % 2:
        blocks = [shifted]
    for hop, prb in enumerate(blocks):
        known = reference(carrier, slot, allocation, prb, starts[hop])
        for symbol in range(edges[hop], edges[hop + 1]):
            if symbol in starts[hop]:
                for k in range(12 * prb, 12 * prb + width):
                    group = k % 2 if allocation.dmrs.type == 1 else k % 6 // 2
                    grid[symbol, k] = known.get((symbol, k), 0)
                    if group >= allocation.dmrs.groups_without_data:
                        grid[symbol, k] = next(source)
                continue
            row = [next(source) for _ in range(width)]
            if allocation.transform_precoding:
                i = np.arange(width)
                row = [(row * np.exp(-2j * math.pi * i * k / width)).sum() / math.sqrt(width) for k in range(width)]
            grid[symbol, 12 * prb : 12 * prb + width] = row
    assert next(source, None) is None
    return grid


def at(*symbols: int) -> dict[int, int]:
    """Single-symbol DM-RS."""
    return dict.fromkeys(symbols, 0)


CASES = [
    # DM-RS symbols typed from tables 6.4.1.1.3-3, -4 and -6.
    (CARRIER, PUSCH(), [at(2)]),
    (CARRIER, PUSCH((5, 9), (0, 13), "64QAM", dmrs=DMRS(additional=3, port=3)), [at(2, 5, 8, 11)]),
    (
        CARRIER,
        PUSCH(symbols=(0, 10), dmrs=DMRS(type=2, additional=2, first=3, port=4, groups_without_data=3)),
        [at(3, 6, 9)],
    ),
    (
        CARRIER,
        PUSCH(prb=(40, 52), modulation="256QAM", dmrs=DMRS(length=2, additional=1, port=5, n_id=12345, n_scid=1)),
        [{2: 0, 3: 1, 10: 0, 11: 1}],
    ),
    (
        CARRIER,
        PUSCH(symbols=(3, 14), mapping="B", dmrs=DMRS(type=2, length=2, additional=1, port=9, groups_without_data=2)),
        [{3: 0, 4: 1, 10: 0, 11: 1}],
    ),
    (CARRIER, PUSCH(symbols=(2, 12), mapping="B", dmrs=DMRS(additional=3, groups_without_data=1)), [at(2, 5, 8, 11)]),
    (CARRIER, PUSCH(symbols=(9, 11), mapping="B", modulation="16QAM"), [at(9)]),
    (
        CARRIER,
        PUSCH(prb=(1, 6), hopping="intra-slot", hop_offset=30, dmrs=DMRS(additional=1)),
        [at(2, 6), at(7, 11)],
    ),
    (
        CARRIER,
        PUSCH(prb=(30, 36), symbols=(1, 11), mapping="B", hopping="intra-slot", hop_offset=40, dmrs=DMRS(additional=1)),
        [at(1, 5), at(6, 10)],
    ),
    (CARRIER, PUSCH(prb=(0, 3), hopping="inter-slot", hop_offset=20, dmrs=DMRS(additional=1)), [at(2, 11)]),
    (CARRIER, PUSCH(prb=(4, 14), transform_precoding=True, modulation="pi/2-BPSK"), [at(2)]),
    (
        CARRIER,
        PUSCH(prb=(4, 34), transform_precoding=True, dmrs=DMRS(additional=1, hopping="sequence", port=1, n_id=1000)),
        [at(2, 11)],
    ),
    (
        CARRIER,
        PUSCH(prb=(9, 10), transform_precoding=True, modulation="16QAM", hopping="intra-slot", hop_offset=7,
              dmrs=DMRS(hopping="group")),
        [at(2), at(7)],
    ),
    (EXTENDED, PUSCH(prb=(3, 9), symbols=(0, 12), dmrs=DMRS(additional=2)), [at(2, 6, 9)]),
]  # fmt: skip


@pytest.mark.parametrize(("carrier", "allocation", "starts"), CASES)
def test_coded_bits_land_where_the_clauses_say(carrier: Carrier, allocation: PUSCH, starts: list) -> None:
    allocation.validate(carrier)
    rng = np.random.default_rng(5)
    slots = np.array([0, 3, 40, 7 + 2 * carrier.frame_slots])
    bits = rng.integers(0, 2, (len(slots), pusch_capacity(carrier, allocation)), dtype=np.uint8)
    blocks = pusch(carrier, slots, allocation, rng, bits)
    grid = resource_grid(carrier, len(slots), blocks)
    for row, slot in enumerate(slots.tolist()):
        np.testing.assert_allclose(grid[row], naive(carrier, slot, allocation, bits[row], starts), atol=1e-4)
    # The mask is what is sent: nothing beside it, and of it only what a DFT of pi/2-BPSK happens to cancel is empty.
    masks = [b._replace(values=np.repeat(b.used[None], len(b.rows), axis=0).astype(np.complex64)) for b in blocks]
    sent = resource_grid(carrier, len(slots), masks)
    assert (sent.real <= 1).all()
    assert not grid[sent == 0].any()
    assert (np.abs(grid[sent == 1]) > 1e-6).mean() > 0.99


def test_random_payload_is_the_constellation_and_nothing_else() -> None:
    rng = np.random.default_rng(2)
    for modulation in ("QPSK", "16QAM", "64QAM", "256QAM"):
        allocation = PUSCH(prb=(0, 52), modulation=modulation, dmrs=DMRS(additional=1))
        (block,) = pusch(CARRIER, np.arange(4), allocation, rng)
        data = block.values[:, [0, 1, *range(3, 11), 12, 13]].reshape(-1)
        table = cellular(modulation)
        nearest = np.abs(data[:, None] - table[None]).argmin(axis=1)
        assert np.abs(data - table[nearest]).max() < 1e-6
        counts = np.bincount(nearest, minlength=len(table))
        # Chi-square over the points: mean m - 1, standard deviation sqrt(2 (m - 1)); five of them.
        degrees = len(table) - 1
        chi = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
        assert abs(chi - degrees) < 5 * math.sqrt(2 * degrees)


def test_transform_precoding_lowers_the_peaks() -> None:
    rng = np.random.default_rng(3)
    peaks = {}
    for name, transform in (("pi/2-BPSK", True), ("QPSK", True), ("QPSK-OFDM", False)):
        modulation = name.split("-OFDM")[0]
        allocation = PUSCH(prb=(0, 50), modulation=modulation, transform_precoding=transform)
        (block,) = pusch(CARRIER, np.arange(20), allocation, rng)
        power = np.abs(np.fft.ifft(block.values[:, 3:], 4096, axis=2)) ** 2
        peaks[name] = np.quantile(power.max(axis=2) / power.mean(axis=2), 0.5)
    # CP-OFDM of 600 subcarriers peaks near ln(4 * 600) times its mean; DFT-s-OFDM stays 2 dB below and more.
    assert peaks["QPSK-OFDM"] > 7
    assert peaks["QPSK"] < peaks["QPSK-OFDM"] / 10**0.2
    assert peaks["pi/2-BPSK"] < peaks["QPSK"]


def test_ptrs_of_cp_ofdm_repeats_the_dmrs_of_its_subcarriers() -> None:
    # Port 2 of type 1 with K = 2, 11 resource blocks, RNTI 6: k_ref^RB = 6 mod (11 mod 2) = 0, k_ref^RE = 1.
    allocation = PUSCH(prb=(3, 14), dmrs=DMRS(additional=1, port=2), ptrs=PTRS(time=2, frequency=2), rnti=6)
    allocation.validate(CARRIER)
    capacity = pusch_capacity(CARRIER, allocation)
    bits = np.zeros((2, capacity), dtype=np.uint8)
    slots = np.array([4, 9])
    (block,) = pusch(CARRIER, slots, allocation, np.random.default_rng(0), bits)
    # L = 2, DM-RS at 2 and 11: symbols 0, 4, 6, 8, 10, 13.
    symbols, subcarriers = [0, 4, 6, 8, 10, 13], [1 + 24 * i for i in range(6)]
    assert capacity == 2 * (12 * 132 - len(symbols) * len(subcarriers))
    for row, slot in enumerate(slots.tolist()):
        known = reference(CARRIER, slot, allocation, 3, {2: 0})
        for symbol in symbols:
            for k in subcarriers:
                assert block.values[row, symbol, k] * math.sqrt(2) == pytest.approx(known[2, 36 + k], abs=1e-5)
    assert block.used.sum() == 12 * 132 + 2 * 66


def test_ptrs_of_dft_s_ofdm_comes_back_from_the_inverse_transform() -> None:
    groups = (4, 4)
    allocation = PUSCH(
        prb=(3, 11), transform_precoding=True, modulation="16QAM", ptrs=PTRS(time=2, groups=groups), rnti=3, n_id=8
    )
    allocation.validate(CARRIER)
    capacity = pusch_capacity(CARRIER, allocation)
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2, (1, capacity), dtype=np.uint8)
    (block,) = pusch(CARRIER, np.array([6]), allocation, rng, bits)
    samples = np.fft.ifft(block.values[0], axis=1, norm="ortho")
    # Table 6.4.1.2.2.2-1, M = 96, four groups of four: 0..3; 96/4 + 12 - 2 ...; 48 + 12 - 2 ...; the last four.
    places = [0, 1, 2, 3, 34, 35, 36, 37, 58, 59, 60, 61, 92, 93, 94, 95]
    c = gold((2**17 * (14 * 6 + 0 + 1) * (2 * 407 + 1) + 2 * 407) % 2**31, 16)
    for symbol in (0, 4, 6, 8, 10, 12):
        for m_prime, m in enumerate(places):
            value = (1 - 2.0 * c[m_prime]) * (1 + 1j) / math.sqrt(2) * cmath.exp(1j * math.pi / 2 * (m % 2))
            value *= (1, -1, -1, 1)[m_prime % 4] * 3 / math.sqrt(5)
            assert samples[symbol, m] == pytest.approx(value, abs=1e-5)
    data = np.delete(samples[0], places)
    expected = modulate_bits(bits ^ gold(3 * 2**15 + 8, capacity), "16QAM")[0, : len(data)]
    np.testing.assert_allclose(data, expected, atol=1e-5)


def test_ptrs_symbols_and_samples_of_the_tables() -> None:
    assert ptrs_symbols(14, (2,), 1) == (0, 1, *range(3, 14))
    assert ptrs_symbols(14, (2, 3), 4) == (0, 7, 11)
    assert ptrs_symbols(14, (2, 11), 4) == (0, 6, 10)
    assert ptrs_samples(24, (2, 2)).tolist() == [5, 6, 17, 18]
    assert ptrs_samples(36, (4, 2)).tolist() == [3, 4, 12, 13, 21, 22, 30, 31]
    assert ptrs_samples(24, (2, 4)).tolist() == [0, 1, 2, 3, 20, 21, 22, 23]
    assert len(set(ptrs_samples(96, (8, 4)).tolist())) == 32


def test_every_duration_of_the_tables_keeps_its_symbols_inside() -> None:
    for mapping in "AB":
        for length in (1, 2):
            for additional in range(4 if length == 1 else 2):
                dmrs = DMRS(length=length, additional=additional)
                for duration in range(1, 15):
                    symbols = dmrs_positions(dmrs, mapping, duration)
                    assert list(symbols) == sorted(set(symbols))
                    assert all(symbol < duration for symbol in symbols)
                    assert len(symbols) <= length * (1 + additional)


@pytest.mark.parametrize(
    ("allocation", "clause", "nearest"),
    [
        (PUSCH(modulation="pi/2-BPSK"), "6.3.1.2-1", "one of"),
        (PUSCH(modulation="1024QAM"), "6.3.1.2-1", "one of"),
        (PUSCH(prb=(50, 53)), "6.1.2.2", "nearest is 49"),
        (PUSCH(prb=(3, 3)), "6.1.2.2", "nearest is 1"),
        (PUSCH(prb=(0, 7), transform_precoding=True), "6.3.1.4", "nearest is 6"),
        (PUSCH(symbols=(1, 14)), "6.1.2.1-1", "one of"),
        (PUSCH(symbols=(0, 3)), "6.1.2.1-1", "nearest is 4"),
        (PUSCH(symbols=(10, 15), mapping="B"), "6.1.2.1-1", "nearest is 4"),
        (PUSCH(symbols=(10, 11), mapping="B"), "6.3.1.6", "one more symbol"),
        (PUSCH(dmrs=DMRS(port=4)), "6.4.1.1.3-1", "nearest is 3"),
        (PUSCH(dmrs=DMRS(port=2, groups_without_data=1)), "38.212", "one of"),
        (PUSCH(dmrs=DMRS(length=2, additional=2)), "6.4.1.1.3-3", "one of"),
        (PUSCH(transform_precoding=True, dmrs=DMRS(type=2)), "6.2.2", "nearest is 1"),
        (PUSCH(hopping="intra-slot", dmrs=DMRS(length=2)), "6.4.1.1.3-6", "nearest is 1"),
        (PUSCH(prb=(0, 10), hopping="inter-slot", hop_offset=45), "38.214 clause 6.3", "nearest is 42"),
        (PUSCH(ptrs=PTRS(time=3)), "6.2.3", "nearest is 2"),
        (PUSCH(rnti=65536), "6.3.1.1", "nearest is 65535"),
    ],
)
def test_what_the_standard_lacks_is_refused(allocation: PUSCH, clause: str, nearest: str) -> None:
    with pytest.raises(RejectedConfig, match=nearest) as caught:
        allocation.validate(CARRIER)
    assert clause in str(caught.value)


def test_two_hops_share_the_symbols() -> None:
    parts = hops(CARRIER, PUSCH(symbols=(0, 13), hopping="intra-slot", hop_offset=5), odd_slot=True)
    assert [(part.symbol, part.length, part.prb) for part in parts] == [(0, 6, 0), (6, 7, 5)]
