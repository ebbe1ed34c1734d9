"""PUCCH against TS 38.211 clauses 6.3.2 and 6.4.1.3 written out element by element."""

import cmath
import math

import numpy as np
import pytest

from experts.nr.coding import encode_uci
from experts.nr.uplink.grid import Carrier, resource_grid
from experts.nr.uplink.pucch import PUCCH, dmrs_symbols, format_1_code, format_4_code, pucch, pucch_capacity
from experts.nr.uplink.sequences import base_sequence
from lwm.errors import RejectedConfig
from lwm.phy.sequences import gold

CARRIER = Carrier(pci=611, mu=1, n_rb=51)
EXTENDED = Carrier(pci=12, mu=2, n_rb=24, extended_cp=True)
# phi(m) of table 6.3.2.4.1-2, typed.
PHI_1 = {
    1: [[0]],
    2: [[0, 0], [0, 1]],
    3: [[0, 0, 0], [0, 1, 2], [0, 2, 1]],
    4: [[0, 0, 0, 0], [0, 2, 0, 2], [0, 0, 2, 2], [0, 2, 2, 0]],
    5: [[0] * 5, [0, 1, 2, 3, 4], [0, 2, 4, 1, 3], [0, 3, 1, 4, 2], [0, 4, 3, 2, 1]],
    6: [[0] * 6, [0, 1, 2, 3, 4, 5], [0, 2, 4, 0, 2, 4], [0, 3, 0, 3, 0, 3], [0, 4, 2, 0, 4, 2], [0, 5, 4, 3, 2, 1]],
    7: [
        [0] * 7,
        [0, 1, 2, 3, 4, 5, 6],
        [0, 2, 4, 6, 1, 3, 5],
        [0, 3, 6, 2, 5, 1, 4],
        [0, 4, 1, 5, 2, 6, 3],
        [0, 5, 3, 1, 6, 4, 2],
        [0, 6, 5, 4, 3, 2, 1],
    ],
}
# w_n of tables 6.3.2.6.3-1 and -2, typed.
W_4 = {
    2: [[1] * 12, [1] * 6 + [-1] * 6],
    4: [
        [1] * 12,
        [1] * 3 + [-1j] * 3 + [-1] * 3 + [1j] * 3,
        [1] * 3 + [-1] * 3 + [1] * 3 + [-1] * 3,
        [1] * 3 + [1j] * 3 + [-1] * 3 + [-1j] * 3,
    ],
}


class Naive:
    """One slot of one resource, clause by clause."""

    def __init__(self, carrier: Carrier, slot: int, resource: PUCCH) -> None:
        self.carrier, self.resource, self.n_sf = carrier, resource, slot % carrier.frame_slots
        self.n_id = carrier.pci if resource.n_id is None else resource.n_id
        self.grid = np.zeros((carrier.symbols, 12 * carrier.n_rb), dtype=complex)
        self.start, self.count = resource.symbols[0], resource.symbols[1] - resource.symbols[0]
        self.width = 12 * (resource.prb[1] - resource.prb[0])

    def hop(self, symbol: int) -> int:
        """m' of a symbol counted from the start of the PUCCH."""
        return int(self.resource.second_prb is not None and symbol >= self.count // 2)

    def put(self, symbol: int, k: int, value: complex) -> None:
        prb = self.resource.second_prb if self.hop(symbol) else self.resource.prb[0]
        self.grid[self.start + symbol, 12 * prb + k] = value

    def r(self, symbol: int, m_0: int, m_cs: int, length: int) -> list[complex]:
        """Clauses 6.3.2.2.1 and 6.3.2.2.2."""
        f_gh, v, index = 0, 0, 2 * self.n_sf + self.hop(symbol)
        if self.resource.hopping == "group":
            c = gold(self.n_id // 30, 16 * self.carrier.frame_slots)
            f_gh = sum(2**m * int(c[8 * index + m]) for m in range(8)) % 30
        elif self.resource.hopping == "sequence":
            v = int(gold(2**5 * (self.n_id // 30) + self.n_id % 30, 2 * self.carrier.frame_slots)[index])
        base = base_sequence((f_gh + self.n_id % 30) % 30, v, length)
        n_symb = self.carrier.symbols
        c = gold(self.n_id, 8 * n_symb * self.carrier.frame_slots)
        n_cs = sum(2**m * int(c[8 * n_symb * self.n_sf + 8 * (symbol + self.start) + m]) for m in range(8))
        alpha = 2 * math.pi / 12 * ((m_0 + m_cs + n_cs) % 12)
        return [cmath.exp(1j * alpha * n) * complex(base[n]) for n in range(length)]

    def coded_symbols(self, coded: np.ndarray) -> list[complex]:
        """Scrambling and modulation, clauses 6.3.2.5.1, 6.3.2.5.2 and 6.3.2.6.2."""
        b = (coded ^ gold(self.resource.rnti * 2**15 + self.n_id, len(coded))).astype(int)
        if self.resource.format > 2 and self.resource.modulation == "pi/2-BPSK":
            return [
                cmath.exp(1j * math.pi / 2 * (i % 2)) * (1 + 1j) * (1 - 2 * b[i]) / math.sqrt(2) for i in range(len(b))
            ]
        return [complex(1 - 2 * b[2 * i], 1 - 2 * b[2 * i + 1]) / math.sqrt(2) for i in range(len(b) // 2)]


def naive_0(own: Naive, bits: np.ndarray) -> None:
    m_cs = {(0,): 0, (1,): 6, (0, 0): 0, (0, 1): 3, (1, 1): 6, (1, 0): 9}[tuple(bits.tolist())]
    for symbol in range(own.count):
        for k, value in enumerate(own.r(symbol, own.resource.cyclic_shift, m_cs, 12)):
            own.put(symbol, k, value)


def naive_1(own: Naive, bits: np.ndarray) -> None:
    signs = [1 - 2 * int(bit) for bit in bits]
    d = complex(signs[0], signs[-1]) / math.sqrt(2)
    for m_prime in (0, 1):
        for parity in (0, 1):
            here = [s for s in range(own.count) if own.hop(s) == m_prime and s % 2 == parity]
            for m, symbol in enumerate(here):
                w = cmath.exp(2j * math.pi * PHI_1[len(here)][own.resource.code[0]][m] / len(here))
                for k, value in enumerate(own.r(symbol, own.resource.cyclic_shift, 0, 12)):
                    own.put(symbol, k, w * value * (d if parity else 1))


def naive_2(own: Naive, coded: np.ndarray) -> None:
    source = iter(own.coded_symbols(coded))
    for symbol in range(own.count):
        number, n_0 = own.start + symbol, own.n_id
        c_init = (2**17 * (own.carrier.symbols * own.n_sf + number + 1) * (2 * n_0 + 1) + 2 * n_0) % 2**31
        c = gold(c_init, 8 * own.carrier.n_rb).astype(int)
        prb = own.resource.second_prb if own.hop(symbol) else own.resource.prb[0]
        for k in range(own.width):
            if k % 3 == 1:
                m = (12 * prb + k) // 3
                own.put(symbol, k, complex(1 - 2 * c[2 * m], 1 - 2 * c[2 * m + 1]) / math.sqrt(2))
            else:
                own.put(symbol, k, next(source))
    assert next(source, None) is None


def naive_3_4(own: Naive, coded: np.ndarray, reference: tuple[int, ...]) -> None:
    d, data = own.coded_symbols(coded), 0
    index, n_sf = own.resource.code if own.resource.format == 4 else (0, 1)
    m_0 = {(0, 2): 0, (1, 2): 6, (0, 4): 0, (1, 4): 6, (2, 4): 3, (3, 4): 9, (0, 1): 0}[index, n_sf]
    for symbol in range(own.count):
        if symbol in reference:
            for k, value in enumerate(own.r(symbol, m_0, 0, own.width)):
                own.put(symbol, k, value)
            continue
        share = own.width // n_sf
        row = [d[data * share + k % share] * (W_4[n_sf][index][k] if n_sf > 1 else 1) for k in range(own.width)]
        data += 1
        for k in range(own.width):
            total = sum(row[i] * cmath.exp(-2j * math.pi * i * k / own.width) for i in range(own.width))
            own.put(symbol, k, total / math.sqrt(own.width))
    assert data * own.width // n_sf == len(d)


# DM-RS symbols of formats 3 and 4 typed from table 6.4.1.3.3.2-1.
CASES = [
    (CARRIER, PUCCH(0, (50, 51), (13, 14), cyclic_shift=7), 1, ()),
    (CARRIER, PUCCH(0, (0, 1), (5, 7), second_prb=40, hopping="group"), 2, ()),
    (CARRIER, PUCCH(1, (3, 4), (0, 14), cyclic_shift=3, code=(6, 2)), 2, ()),
    (CARRIER, PUCCH(1, (3, 4), (2, 13), second_prb=50, code=(1, 2), hopping="sequence", n_id=1023), 1, ()),
    (CARRIER, PUCCH(1, (8, 9), (10, 14), second_prb=0), 1, ()),
    (EXTENDED, PUCCH(1, (3, 4), (0, 12), cyclic_shift=11, hopping="group"), 2, ()),
    (CARRIER, PUCCH(2, (10, 13), (12, 14), rnti=77), 5, ()),
    (CARRIER, PUCCH(2, (10, 18), (3, 5), second_prb=30), 40, ()),
    (CARRIER, PUCCH(3, (0, 8), (4, 14), hopping="sequence"), 150, (2, 7)),
    (CARRIER, PUCCH(3, (0, 5), (0, 14), 46, modulation="pi/2-BPSK", additional_dmrs=True), 12, (1, 5, 8, 12)),
    (CARRIER, PUCCH(3, (7, 8), (10, 14), second_prb=9), 4, (0, 2)),
    (CARRIER, PUCCH(4, (7, 8), (0, 11), code=(1, 2)), 11, (2, 7)),
    (CARRIER, PUCCH(4, (7, 8), (0, 13), second_prb=3, code=(3, 4), modulation="pi/2-BPSK", additional_dmrs=True), 3,
     (1, 4, 7, 11)),
]  # fmt: skip


@pytest.mark.parametrize(("carrier", "resource", "count", "reference"), CASES)
def test_control_information_lands_where_the_clauses_say(
    carrier: Carrier, resource: PUCCH, count: int, reference: tuple[int, ...]
) -> None:
    resource.validate(carrier)
    slots = np.array([0, 5, 19, 6 + 3 * carrier.frame_slots])
    rng = np.random.default_rng(count)
    uci = rng.integers(0, 2, (len(slots), count), dtype=np.uint8)
    grid = resource_grid(carrier, len(slots), pucch(carrier, slots, resource, rng, uci))
    for row, slot in enumerate(slots.tolist()):
        own = Naive(carrier, slot, resource)
        if resource.format < 2:
            (naive_0 if resource.format == 0 else naive_1)(own, uci[row])
        else:
            coded = encode_uci(uci[row : row + 1], pucch_capacity(resource))[0]
            if resource.format == 2:
                naive_2(own, coded)
            else:
                naive_3_4(own, coded, reference)
        np.testing.assert_allclose(grid[row], own.grid, atol=1e-4)


@pytest.mark.parametrize(
    "resource", [PUCCH(0), PUCCH(1, symbols=(0, 9)), PUCCH(2), PUCCH(3, symbols=(0, 7), prb=(2, 8))]
)
def test_random_payload_has_unit_power_and_fills_its_block(resource: PUCCH) -> None:
    blocks = pucch(CARRIER, np.arange(40), resource, np.random.default_rng(0))
    power = np.concatenate([np.abs(block.values).ravel() ** 2 for block in blocks])
    assert power.mean() == pytest.approx(1, abs=1e-3)
    assert all(block.used.all() for block in blocks)


def test_codes_of_format_1_are_orthogonal_and_those_of_the_table() -> None:
    for length, rows in PHI_1.items():
        codes = np.stack([format_1_code(length, index) for index in range(length)])
        np.testing.assert_allclose(codes.conj() @ codes.T, length * np.eye(length), atol=1e-5)
        np.testing.assert_allclose(codes[: len(rows)], np.exp(2j * np.pi * np.array(rows) / length), atol=1e-6)


def test_codes_of_format_4_keep_ues_apart_on_the_comb() -> None:
    for length, rows in W_4.items():
        np.testing.assert_allclose([format_4_code(length, n) for n in range(length)], rows, atol=1e-6)
        blocks = [
            pucch(CARRIER, np.arange(3), PUCCH(4, symbols=(0, 14), code=(n, length)), np.random.default_rng(n))[
                0
            ].values
            for n in range(length)
        ]
        # After the DFT each sequence has its own subcarriers, the DM-RS its own cyclic shift.
        data = [s for s in range(14) if s not in (3, 10)]
        on = np.stack([np.abs(block[:, data]).max(axis=(0, 1)) > 1e-5 for block in blocks])
        assert (on.sum(axis=0) == 1).all()
        pilots = np.stack([block[:, [3, 10]].reshape(-1) for block in blocks])
        np.testing.assert_allclose(pilots.conj() @ pilots.T, 72 * np.eye(length), atol=1e-3)


def test_a_bank_of_correlators_reads_format_0() -> None:
    rng = np.random.default_rng(8)
    uci = rng.integers(0, 2, (20, 2), dtype=np.uint8)
    resource = PUCCH(0, (9, 10), (13, 14), cyclic_shift=2)
    grid = resource_grid(CARRIER, 20, pucch(CARRIER, np.arange(20), resource, rng, uci))
    base = base_sequence(611 % 30, 0, 12)
    c = gold(611, 8 * 14 * 20).reshape(-1, 8) @ (1 << np.arange(8))
    for slot in range(20):
        peaks = np.abs(np.fft.fft(grid[slot, 13, 108:120] * base.conj())) / 12
        shift = int((np.argmax(peaks) - 2 - c[14 * slot + 13]) % 12)
        assert {0: (0, 0), 3: (0, 1), 6: (1, 1), 9: (1, 0)}[shift] == tuple(uci[slot].tolist())
        assert np.sort(peaks)[-2] < 1e-5
        assert np.abs(np.delete(grid[slot], np.s_[108:120], axis=1)).max() == 0


def test_symbols_with_dmrs_of_lengths_not_used_above() -> None:
    for count, plain, additional in [
        (5, (0, 3), (0, 3)),
        (6, (1, 4), (1, 4)),
        (8, (1, 5), (1, 5)),
        (9, (1, 6), (1, 6)),
    ]:
        assert dmrs_symbols(PUCCH(3, symbols=(0, count))) == plain
        assert dmrs_symbols(PUCCH(3, symbols=(0, count), additional_dmrs=True)) == additional
    assert dmrs_symbols(PUCCH(3, symbols=(0, 12))) == (2, 8)
    assert dmrs_symbols(PUCCH(3, symbols=(0, 12), additional_dmrs=True)) == (1, 4, 7, 10)
    assert dmrs_symbols(PUCCH(4, symbols=(0, 4))) == (1,)


@pytest.mark.parametrize(
    ("resource", "clause", "nearest"),
    [
        (PUCCH(5), "6.3.2.1-1", "nearest is 4"),
        (PUCCH(0, prb=(0, 2)), "9.2.1", "nearest is 1|one of"),
        (PUCCH(3, prb=(0, 7), symbols=(0, 8)), "9.2.1", "nearest is 6"),
        (PUCCH(2, prb=(0, 17)), "9.2.1", "nearest is 16"),
        (PUCCH(0, symbols=(0, 3)), "6.3.2.1-1", "nearest is 2"),
        (PUCCH(1, symbols=(0, 3)), "6.3.2.1-1", "nearest is 4"),
        (PUCCH(1, symbols=(11, 15)), "9.2.1", "nearest is 10"),
        (PUCCH(0, prb=(51, 52)), "9.2.1", "nearest is 50"),
        (PUCCH(0, symbols=(13, 14), second_prb=3), "9.2.1", "nearest is 2"),
        (PUCCH(0, cyclic_shift=12), "9.2.1", "nearest is 11"),
        (PUCCH(1, symbols=(0, 8), code=(4, 2)), "6.3.2.4.1-2", "nearest is 3"),
        (PUCCH(1, symbols=(0, 14), second_prb=3, code=(3, 2)), "6.3.2.4.1-2", "nearest is 2"),
        (PUCCH(4, symbols=(0, 8), code=(0, 3)), "6.3.2.6.3", "nearest is 2"),
        (PUCCH(4, symbols=(0, 8), code=(2, 2)), "6.3.2.6.3", "nearest is 1"),
        (PUCCH(3, symbols=(0, 8), modulation="16QAM"), "6.3.2.6.2", "one of"),
        (PUCCH(0, n_id=1024), "6.3.2.2.1", "nearest is 1023"),
    ],
)
def test_what_the_standard_lacks_is_refused(resource: PUCCH, clause: str, nearest: str) -> None:
    with pytest.raises(RejectedConfig, match=nearest) as caught:
        resource.validate(CARRIER)
    assert clause in str(caught.value)


def test_information_of_a_wrong_size_is_refused() -> None:
    rng, slots = np.random.default_rng(0), np.arange(1)
    with pytest.raises(RejectedConfig, match="nearest is 2"):
        pucch(CARRIER, slots, PUCCH(0), rng, np.zeros((1, 3), dtype=np.uint8))
    with pytest.raises(RejectedConfig, match="nearest is 3"):
        pucch(CARRIER, slots, PUCCH(2), rng, np.zeros((1, 2), dtype=np.uint8))
