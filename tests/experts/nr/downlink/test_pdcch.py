"""PDCCH against TS 38.211 clauses 7.3.2 and 7.4.1.3, decoded back to its DCI by a receiver written here."""

import numpy as np
import pytest

from experts.nr.downlink.pdcch import PDCCH, Coreset, coreset_rbs, pdcch, validate_pdcch
from experts.nr.downlink.sequences import Cell
from lwm.errors import RejectedConfig

CELL = Cell(611, 1, 51)


def regs_of(coreset: Coreset, first: int, level: int) -> set[tuple[int, int]]:
    """(symbol, resource block of the CORESET) of a candidate's REGs: clause 7.3.2.2, CCE by CCE."""
    n_symb, n_reg = coreset.symbols, 6 * len(coreset.groups) * coreset.symbols
    size, rows, shift = coreset.interleaver or (6, 0, 0)
    taken = set()
    for j in range(first, first + level):
        for part in range(6 // size):
            x = 6 * j // size + part
            if coreset.interleaver:
                columns = n_reg // (size * rows)
                c, r = x // rows, x % rows
                x = (r * columns + c + shift) % (n_reg // size)
            taken |= {(reg % n_symb, reg // n_symb) for reg in range(size * x, size * x + size)}
    return taken


CASES = [
    pytest.param(Coreset((0, 1, 2, 3)), PDCCH(2, 2, 17, None, 40), id="1-symbol-level2"),
    pytest.param(Coreset((1, 2, 5, 7)), PDCCH(3, 1, 65535, 400, 12), id="gap-level1"),
    pytest.param(Coreset((0, 1, 2, 3, 4, 5), 1, 0, (2, 3, 50)), PDCCH(0, 4, 99, 65535, 60), id="L2-R3"),
    pytest.param(Coreset((0, 1, 2, 3, 4, 5), 2, 2, (2, 6, 274)), PDCCH(8, 4, 99, 7, 41), id="2-symbols-L2-R6"),
    pytest.param(Coreset((0, 1, 2, 3, 4, 5), 2, 0, (6, 2, 611)), PDCCH(4, 2, 4097, None, 30), id="2-symbols-L6-R2"),
    pytest.param(Coreset((0, 2, 3, 4, 6, 7), 3, 0, (3, 2, 5)), PDCCH(0, 16, 1000, 1, 140), id="3-symbols-level16"),
    pytest.param(Coreset((0, 1, 2, 3), 3), PDCCH(0, 8, 1000, 1, 8), id="3-symbols-short-DCI"),
]


@pytest.mark.parametrize(("coreset", "candidate"), CASES)
def test_receiver_reads_the_dci(standard, clauses, coreset, candidate):
    validate_pdcch(candidate, coreset, CELL)
    dci = np.random.default_rng(candidate.rnti).integers(0, 2, (2, candidate.dci_bits), dtype=np.uint8)
    block, used = pdcch(CELL, np.array([4, 39]), coreset, candidate, dci)
    regs = regs_of(coreset, candidate.first_cce, candidate.level)
    assert len(regs) == 6 * candidate.level
    rbs = coreset_rbs(coreset)
    assert rbs.tolist() == [6 * group + i for group in coreset.groups for i in range(6)]
    expected = np.zeros_like(used)
    for symbol, rb in regs:
        expected[symbol, 12 * rb : 12 * rb + 12] = True
    np.testing.assert_array_equal(used, expected)
    np.testing.assert_allclose(np.abs(block), np.broadcast_to(expected, block.shape), atol=1e-6)
    n_id = CELL.pci if candidate.n_id is None else candidate.n_id
    # Slot 39 at 30 kHz is slot 19 of its frame.
    for row, slot in enumerate((4, 19)):
        read = []
        for symbol in range(coreset.symbols):
            number = coreset.first_symbol + symbol
            c_init = (2**17 * (14 * slot + number + 1) * (2 * n_id + 1) + 2 * n_id) % 2**31
            r = standard["reference"](c_init, 3 * CELL.n_rb)
            for rb in sorted(rb for s, rb in regs if s == symbol):
                for k in range(12):
                    value = block[row, symbol, 12 * rb + k]
                    if k % 4 == 1:
                        assert value == pytest.approx(r[3 * int(rbs[rb]) + k // 4], abs=1e-5)
                    else:
                        read.append(value)
        bits = 108 * candidate.level
        assert len(read) == bits // 2
        n_rnti = 0 if candidate.n_id is None else candidate.rnti
        scrambling = clauses["gold_bits"]((n_rnti * 2**16 + n_id) % 2**31, bits)
        payload = max(12, candidate.dci_bits)
        soft = clauses["soft_bits"](np.array(read)) * (1 - 2 * scrambling)
        message = clauses["decode_polar"](soft, payload + 24, "dci")
        check = clauses["crc24c"](np.r_[np.ones(24, dtype=int), message[:payload]])
        mask = [candidate.rnti >> place & 1 for place in range(15, -1, -1)]
        assert message[payload:].tolist() == [*check[:8], *(a ^ b for a, b in zip(check[8:], mask, strict=True))]
        assert message[: candidate.dci_bits].tolist() == dci[row].tolist()
        assert not message[candidate.dci_bits : payload].any()


@pytest.mark.parametrize("level", [1, 2, 4, 8, 16])
def test_candidates_of_every_level_tile_the_coreset(level):
    coreset = Coreset(tuple(range(8)), 2, 0, (2, 2, 13))
    total = np.zeros((2, 12 * 48), dtype=int)
    for first in range(0, 16, level):
        candidate = PDCCH(first, level)
        validate_pdcch(candidate, coreset, CELL)
        _, used = pdcch(CELL, np.array([0]), coreset, candidate, np.zeros((1, 40), dtype=np.uint8))
        assert used.sum() == 72 * level
        total += used
    assert (total == 1).all()


@pytest.mark.parametrize(
    ("coreset", "candidate", "words"),
    [
        (Coreset((0, 1, 8)), PDCCH(), "from 0 to 7"),
        (Coreset((1, 0)), PDCCH(), "ascending"),
        (Coreset(symbols=4), PDCCH(), "1 to 3 symbols"),
        (Coreset(interleaver=(3, 2, 0)), PDCCH(), "interleaver"),
        (Coreset(symbols=2, interleaver=(6, 3, 0)), PDCCH(), "divisor"),
        (Coreset(), PDCCH(0, 8), "nearest is 4"),
        (Coreset(), PDCCH(1, 2), "nearest is 0"),
        (Coreset(), PDCCH(0, 1, dci_bits=90), "nearest is 84"),
        (Coreset(), PDCCH(rnti=0), "1 to 65535"),
    ],
)
def test_impossible_candidates_are_refused(coreset, candidate, words):
    with pytest.raises(RejectedConfig, match=words):
        validate_pdcch(candidate, coreset, CELL)


def test_wrong_dci_is_refused():
    with pytest.raises(RejectedConfig, match="dci_bits"):
        pdcch(CELL, np.array([0]), Coreset(), PDCCH(), np.zeros((1, 41), dtype=np.uint8))
