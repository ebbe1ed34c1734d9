"""CSI-RS of every row against TS 38.211 clause 7.4.1.5 evaluated element by element."""

import numpy as np
import pytest

from experts.nr.downlink.csirs import CSIRS, csi_rs, csi_rs_elements, csi_rs_mask
from experts.nr.downlink.sequences import Cell
from lwm.errors import RejectedConfig

CELL = Cell(5, 1, 50)
# Row: ports, cdm-Type size in frequency and time, (k, l) of each CDM group as table 7.4.1.5.3-1 prints them.
TABLE = {
    1: (1, 1, 1, "k0,l0 k0+4,l0 k0+8,l0"),
    2: (1, 1, 1, "k0,l0"),
    3: (2, 2, 1, "k0,l0"),
    4: (4, 2, 1, "k0,l0 k0+2,l0"),
    5: (4, 2, 1, "k0,l0 k0,l0+1"),
    6: (8, 2, 1, "k0,l0 k1,l0 k2,l0 k3,l0"),
    7: (8, 2, 1, "k0,l0 k1,l0 k0,l0+1 k1,l0+1"),
    8: (8, 2, 2, "k0,l0 k1,l0"),
    9: (12, 2, 1, "k0,l0 k1,l0 k2,l0 k3,l0 k4,l0 k5,l0"),
    10: (12, 2, 2, "k0,l0 k1,l0 k2,l0"),
    11: (16, 2, 1, "k0,l0 k1,l0 k2,l0 k3,l0 k0,l0+1 k1,l0+1 k2,l0+1 k3,l0+1"),
    12: (16, 2, 2, "k0,l0 k1,l0 k2,l0 k3,l0"),
    13: (
        24,
        2,
        1,
        "k0,l0 k1,l0 k2,l0 k0,l0+1 k1,l0+1 k2,l0+1 k0,l1 k1,l1 k2,l1 k0,l1+1 k1,l1+1 k2,l1+1",
    ),
    14: (24, 2, 2, "k0,l0 k1,l0 k2,l0 k0,l1 k1,l1 k2,l1"),
    15: (24, 2, 4, "k0,l0 k1,l0 k2,l0"),
    16: (
        32,
        2,
        1,
        "k0,l0 k1,l0 k2,l0 k3,l0 k0,l0+1 k1,l0+1 k2,l0+1 k3,l0+1 "
        "k0,l1 k1,l1 k2,l1 k3,l1 k0,l1+1 k1,l1+1 k2,l1+1 k3,l1+1",
    ),
    17: (32, 2, 2, "k0,l0 k1,l0 k2,l0 k3,l0 k0,l1 k1,l1 k2,l1 k3,l1"),
    18: (32, 2, 4, "k0,l0 k1,l0 k2,l0 k3,l0"),
}
# [w_f; w_t] by index, tables 7.4.1.5.3-2 to 7.4.1.5.3-5.
CODES = {
    1: [("+", "+")],
    2: [("++", "+"), ("+-", "+")],
    4: [("++", "++"), ("+-", "++"), ("++", "+-"), ("+-", "+-")],
    8: [
        ("++", "++++"),
        ("+-", "++++"),
        ("++", "+-+-"),
        ("+-", "+-+-"),
        ("++", "++--"),
        ("+-", "++--"),
        ("++", "+--+"),
        ("+-", "+--+"),
    ],
}
BITMAPS = {
    1: "0100",
    2: "000010000000",
    3: "010000",
    4: "010",
    5: "100000",
    6: "101101",
    7: "100100",
    8: "010010",
    9: "111111",
    10: "101010",
    13: "110100",
    14: "001011",
    15: "100110",
}
SIGN = {"+": 1, "-": -1}


def resource(row: int, density: float) -> CSIRS:
    bitmap = BITMAPS.get(row, "110011")
    return CSIRS(row, bitmap, 3, 9, density, 1, 8, 40, 40, 3, 1000 - row)


def offsets(csirs: CSIRS) -> dict[str, int]:
    """k_i of clause 7.4.1.5.3: f(i) is the number of the i-th bit of the bitmap that is one, counted from b_0."""
    unit = {1: 1, 2: 1, 4: 4}.get(csirs.row, 2)
    ones = [place for place in range(len(csirs.bitmap)) if csirs.bitmap[-1 - place] == "1"]
    return {f"k{i}": unit * place for i, place in enumerate(ones)}


def ports_of(csirs: CSIRS, slot: int, reference) -> dict[int, dict[tuple[int, int], complex]]:
    """a(k, l) of every port by the equations of clause 7.4.1.5.3, keyed by (symbol, subcarrier)."""
    ports, width, length, text = TABLE[csirs.row]
    names = {**offsets(csirs), "l0": csirs.symbol, "l1": csirs.symbol2}
    size = width * length
    grids = {p: {} for p in range(ports)}
    alpha = csirs.density if ports == 1 else 2 * csirs.density
    sequences = {}
    for group, pair in enumerate(text.split()):
        k_bar, l_bar = (
            sum(names[part] if part in names else int(part) for part in item.split("+")) for item in pair.split(",")
        )
        for s, (w_f, w_t) in enumerate(CODES[size]):
            port = s + (0 if ports == 1 else group * size)
            for n in range(csirs.first_rb, min(csirs.first_rb + csirs.n_rb, CELL.n_rb)):
                if csirs.density == 0.5 and n % 2 != csirs.parity:
                    continue
                for k_prime in range(width):
                    for l_prime in range(length):
                        symbol = l_bar + l_prime
                        if symbol not in sequences:
                            c_init = (2**10 * (14 * slot + symbol + 1) * (2 * csirs.n_id + 1) + csirs.n_id) % 2**31
                            sequences[symbol] = reference(c_init, 3 * CELL.n_rb + 4)
                        m = int(np.floor(n * alpha)) + k_prime + int(np.floor(k_bar * csirs.density / 12))
                        value = SIGN[w_f[k_prime]] * SIGN[w_t[l_prime]] * sequences[symbol][m]
                        grids[port][symbol, 12 * n + k_bar + k_prime] = value
    return grids


HALF = (2, 3, *range(11, 19))
CASES = [(row, 3.0 if row == 1 else 1.0) for row in TABLE] + [(row, 0.5) for row in HALF]


@pytest.mark.parametrize(("row", "density"), CASES)
def test_every_port_of_every_row_is_at_its_place_with_its_code(standard, row, density):
    csirs = resource(row, density)
    csirs.validate(CELL)
    assert csirs.ports == TABLE[row][0]
    slot = 17
    symbol, subcarrier = csi_rs_elements(CELL, csirs)
    # Slot 57 is slot 17 of its frame at 30 kHz.
    value = csi_rs(CELL, np.array([57]), csirs)[0]
    sent = dict(zip(zip(symbol.tolist(), subcarrier.tolist(), strict=True), value, strict=True))
    assert len(sent) == symbol.size
    size = TABLE[row][1] * TABLE[row][2]
    expected: dict[tuple[int, int], complex] = {}
    grids = ports_of(csirs, slot, standard["reference"])
    for port, grid in grids.items():
        gain = 1j ** (port % size).bit_count() / np.sqrt(size)
        for place, one in grid.items():
            expected[place] = expected.get(place, 0) + gain * one
        # Despread, every port is found with the gain it was given; the codes remove all others.
        mean = sum(sent[place] * np.conj(one) for place, one in grid.items()) / len(grid)
        assert mean == pytest.approx(gain, abs=1e-5)
    assert sent.keys() == expected.keys()
    np.testing.assert_allclose([sent[place] for place in expected], list(expected.values()), atol=1e-5)
    np.testing.assert_allclose(np.abs(value), 1, atol=1e-5)
    mask = csi_rs_mask(CELL, csirs)
    assert mask.sum() == value.size
    assert mask[symbol, subcarrier].all()


def test_periodicity_and_offset():
    csirs = CSIRS(period=40, offset=3)
    assert np.flatnonzero(csirs.sent(np.arange(130))).tolist() == [3, 43, 83, 123]


@pytest.mark.parametrize(
    ("csirs", "words"),
    [
        (CSIRS(row=19), "nearest is 18"),
        (CSIRS(row=4, bitmap="001", density=0.5), "density 0.5 of row 4"),
        (CSIRS(row=3, bitmap="110000"), "1 of them 1"),
        (CSIRS(row=2, bitmap="000001"), "12 characters"),
        (CSIRS(row=15, bitmap="000111", symbol=11), "symbols"),
        (CSIRS(row=13, bitmap="000111", symbol=4, symbol2=5), "twice"),
        (CSIRS(period=12), "nearest period is 10"),
        (CSIRS(period=20, offset=20), "offset below it"),
        (CSIRS(n_rb=22), "multiples of 4"),
        (CSIRS(first_rb=52), "beginning below 50"),
        (CSIRS(n_id=1024), "0 to 1023"),
    ],
)
def test_impossible_resources_are_refused(csirs, words):
    with pytest.raises(RejectedConfig, match=words):
        csirs.validate(CELL)
