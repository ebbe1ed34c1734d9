"""PDSCH, its DM-RS and PT-RS against TS 38.211 clauses 7.3.1, 7.4.1.1 and 7.4.1.2 evaluated element by element."""

from dataclasses import replace

import numpy as np
import pytest

from experts.nr.downlink.dmrs import DMRS, dmrs_positions, dmrs_symbols
from experts.nr.downlink.pdsch import PDSCH, pdsch, pdsch_capacity, pdsch_prbs, validate_pdsch
from experts.nr.downlink.ptrs import PTRS, ptrs_columns, ptrs_symbols
from experts.nr.downlink.sequences import Cell
from lwm.errors import RejectedConfig
from lwm.phy.constellation import cellular

CELL = Cell(77, 1, 51)
# l_d, then positions after l_0 with 0 to 3 additional ones, tables 7.4.1.1.2-3 and 7.4.1.1.2-4; "-" is none.
SINGLE_A = """3 - - - -|4 - - - -|5 - - - -|6 - - - -|7 - - - -|8 - 7 7 7|9 - 7 7 7|10 - 9 6,9 6,9|11 - 9 6,9 6,9|
12 - 9 6,9 5,8,11|13 - 11 7,11 5,8,11|14 - 11 7,11 5,8,11"""
SINGLE_B = """2 - - - -|3 - - - -|4 - - - -|5 - 4 4 4|6 - 4 4 4|7 - 4 4 4|8 - 6 3,6 3,6|9 - 7 4,7 4,7|10 - 7 4,7 4,7|
11 - 8 4,8 3,6,9|12 - 9 5,9 3,6,9|13 - 9 5,9 3,6,9"""
DOUBLE_A = "4 - -|5 - -|6 - -|7 - -|8 - -|9 - -|10 - 8|11 - 8|12 - 8|13 - 10|14 - 10"
DOUBLE_B = "5 - -|6 - -|7 - -|8 - 5|9 - 5|10 - 7|11 - 7|12 - 8|13 - 8"
# Port less 1000: CDM group, Delta, w_f, w_t of tables 7.4.1.1.2-1 and 7.4.1.1.2-2.
PORTS = {
    1: "0 0 ++ ++|0 0 +- ++|1 1 ++ ++|1 1 +- ++|0 0 ++ +-|0 0 +- +-|1 1 ++ +-|1 1 +- +-",
    2: "0 0 ++ ++|0 0 +- ++|1 2 ++ ++|1 2 +- ++|2 4 ++ ++|2 4 +- ++|"
    "0 0 ++ +-|0 0 +- +-|1 2 ++ +-|1 2 +- +-|2 4 ++ +-|2 4 +- +-",
}
SIGN = {"+": 1, "-": -1}


@pytest.mark.parametrize(
    ("table", "mapping", "length"),
    [(SINGLE_A, "A", 1), (SINGLE_B, "B", 1), (DOUBLE_A, "A", 2), (DOUBLE_B, "B", 2)],
)
def test_positions_are_those_of_the_tables(table, mapping, length):
    for row in table.replace("\n", "").split("|"):
        duration, *columns = row.split()
        first = 0 if mapping == "A" else 1
        lead = 2 if mapping == "A" else 1
        for additional, text in enumerate(columns):
            extra = [] if text == "-" else [int(item) + first for item in text.split(",")]
            found = dmrs_positions(DMRS(1, length, additional), mapping, (first, int(duration)))
            assert list(found) == [lead, *extra]


def port_values(dmrs: DMRS, slot: int, symbol: int, second: int, n_id: int, reference) -> dict[int, dict[int, complex]]:
    """w_f(k') w_t(l') r(2n + k') of every port of the DM-RS, by carrier subcarrier: clause 7.4.1.1.2."""
    c_init = (2**17 * (14 * slot + symbol + 1) * (2 * n_id + 1) + 2 * n_id + dmrs.n_scid) % 2**31
    r = reference(c_init, 6 * CELL.n_rb)
    values: dict[int, dict[int, complex]] = {}
    for port in dmrs.ports:
        _, delta, w_f, w_t = PORTS[dmrs.type].split("|")[port].split()
        values[port] = {}
        for n in range(CELL.n_rb * (3 if dmrs.type == 1 else 2)):
            for k_prime in (0, 1):
                k = 4 * n + 2 * k_prime + int(delta) if dmrs.type == 1 else 6 * n + k_prime + int(delta)
                values[port][k] = SIGN[w_f[k_prime]] * SIGN[w_t[second]] * r[2 * n + k_prime]
    return values


def gain(dmrs: DMRS, port: int) -> complex:
    """The documented factor of a layer on the one antenna: j for every code bit of its port."""
    _, _, w_f, w_t = PORTS[dmrs.type].split("|")[port].split()
    return 1j ** ((w_f == "+-") + (w_t == "+-")) / np.sqrt(len(dmrs.ports))


CASES = [
    DMRS(),
    DMRS(ports=(3,), additional=3, n_id=65535, n_scid=1),
    DMRS(ports=(0,), groups_without_data=1, type_a_position=3),
    DMRS(ports=(0, 1)),
    DMRS(ports=(0, 1, 2, 3), additional=2),
    DMRS(length=2, ports=(4,)),
    DMRS(length=2, ports=(0, 1, 4, 5)),
    DMRS(type=2, ports=(4,), groups_without_data=3),
    DMRS(type=2, ports=(1, 2), groups_without_data=2, n_scid=1),
    DMRS(type=2, length=2, ports=(0, 9, 11), groups_without_data=3),
]


@pytest.mark.parametrize("dmrs", CASES, ids=lambda dmrs: f"type{dmrs.type}-{dmrs.length}-{dmrs.ports}")
@pytest.mark.parametrize("interleaver", [0, 4])
def test_dmrs_of_every_port(standard, dmrs, interleaver):
    config = PDSCH(9, 14, "16QAM", (1, 13), "A", dmrs, interleaver=interleaver)
    validate_pdsch(config, CELL)
    block, used = pdsch(CELL, np.array([7, 27]), config, np.random.default_rng(0))
    columns = (pdsch_prbs(config, CELL.n_rb)[:, None] * 12 + np.arange(12)).reshape(-1)
    n_id = CELL.pci if dmrs.n_id is None else dmrs.n_id
    beta = np.sqrt(dmrs.groups_without_data)
    for position in dmrs_positions(dmrs, "A", (1, 13)):
        for second in range(dmrs.length):
            symbol = position + second
            values = port_values(dmrs, 7, symbol, second, n_id, standard["reference"])
            total: dict[int, complex] = {}
            for port, ones in values.items():
                for k, one in ones.items():
                    total[k] = total.get(k, 0) + beta * gain(dmrs, port) * one
            sent = dict(zip(columns.tolist(), block[0, symbol - 1], strict=True))
            # Slot 27 at 30 kHz is slot 7 of the next frame: the same reference signals.
            again = dict(zip(columns.tolist(), block[1, symbol - 1], strict=True))
            at = [k for k in columns.tolist() if k in total]
            np.testing.assert_allclose([sent[k] for k in at], [total[k] for k in at], atol=1e-5)
            np.testing.assert_allclose([again[k] for k in at], [total[k] for k in at], atol=1e-5)
            groups = {row.split()[1] for row in PORTS[dmrs.type].split("|")}
            delta = sorted(map(int, groups))[: dmrs.groups_without_data]
            period, step = (4, 2) if dmrs.type == 1 else (6, 1)
            comb = {(d + step * k_prime) for d in delta for k_prime in (0, 1)}
            silent = [i for i, k in enumerate(columns.tolist()) if k % period in comb and k not in total]
            assert not block[:, symbol - 1, silent].any()
            assert not used[symbol - 1, silent].any()
            data = [i for i, k in enumerate(columns.tolist()) if k % period not in comb]
            assert used[symbol - 1, data].all()


def demap(block: np.ndarray, modulation: str, clauses) -> np.ndarray:
    """Bits of the nearest points of clause 5.1."""
    order = {"QPSK": 2, "16QAM": 4, "64QAM": 6, "256QAM": 8, "1024QAM": 10}[modulation]
    words = [[value >> place & 1 for place in range(order - 1, -1, -1)] for value in range(1 << order)]
    points = np.array([clauses["qam"](word) for word in words])
    nearest = np.array([int(np.abs(value - points).argmin()) for value in block])
    assert np.abs(block - points[nearest]).max() < 1e-4
    return np.array(words)[nearest].reshape(-1)


def test_interleaved_mapping_follows_clause_7_3_1_6():
    # 51 blocks in bundles of 4: 13 bundles, C = 6; bundle 2c + r goes to 6 r + c, the last one stays.
    moved = {2 * c + r: 6 * r + c for c in range(6) for r in range(2)} | {12: 12}
    assert pdsch_prbs(PDSCH(8, 8, interleaver=4), 51).tolist() == [
        *range(4 * moved[2], 4 * moved[2] + 4),
        *range(4 * moved[3], 4 * moved[3] + 4),
    ]
    for bundle in (2, 4):
        for n_rb in (24, 51, 106, 273):
            assert pdsch_prbs(PDSCH(0, n_rb, interleaver=bundle), n_rb).tolist() == list(range(n_rb))
    # 24 blocks in bundles of 2: 12 bundles, C = 6: bundle 1 goes to 6 and 3 to 7.
    assert pdsch_prbs(PDSCH(2, 2, interleaver=2), 24).tolist() == [12, 13]
    assert pdsch_prbs(PDSCH(6, 2, interleaver=2), 24).tolist() == [14, 15]


@pytest.mark.parametrize("modulation", ["QPSK", "16QAM", "64QAM", "256QAM", "1024QAM"])
@pytest.mark.parametrize("interleaver", [0, 2])
def test_coded_bits_come_back(clauses, modulation, interleaver):
    """Elements are read frequency first over the virtual blocks, demapped and descrambled as clause 7.3.1 says."""
    dmrs = DMRS(groups_without_data=1)
    config = PDSCH(5, 5, modulation, (2, 6), "A", dmrs, PTRS(2, 2, 1), interleaver, rnti=40001, n_id=1023)
    rng = np.random.default_rng(3)
    reserved = np.zeros((6, 60), dtype=bool)
    reserved[3, 7:31] = True
    capacity = pdsch_capacity(CELL, config, reserved)
    bits = rng.integers(0, 2, (2, capacity), dtype=np.uint8)
    block, used = pdsch(CELL, np.array([3, 4]), config, reserved=reserved, bits=bits)
    bundles = -(-CELL.n_rb // 2)
    prbs = []
    for virtual in range(5, 10):
        bundle = virtual // 2
        target = (bundle % 2) * (bundles // 2) + bundle // 2 if interleaver and bundle < bundles - 1 else bundle
        prbs.append(2 * target + virtual % 2)
    ascending = sorted(prbs)
    tracking = ptrs_columns(config.ptrs, dmrs, config.rnti, 5)
    read = []
    for symbol in range(2, 8):
        for prb in prbs:
            for k in range(12):
                column = 12 * ascending.index(prb) + k
                is_dmrs = symbol in (2, 7) and k % 2 == 0
                # l_d is 8: DM-RS in symbols 2 and 7; PT-RS on every second symbol between them.
                is_ptrs = symbol in (4, 6) and column in tracking
                if not (is_dmrs or is_ptrs or reserved[symbol - 2, column]):
                    read.append(block[1, symbol - 2, column])
    assert len(read) * int(np.log2(len(cellular(modulation)))) == capacity
    scrambling = clauses["gold_bits"](40001 * 2**15 + 1023, capacity)
    np.testing.assert_array_equal(demap(np.array(read), modulation, clauses) ^ scrambling, bits[1])
    assert not block[:, reserved].any()
    assert not used[reserved].any()


@pytest.mark.parametrize("modulation", ["16QAM", "1024QAM"])
def test_constellation_is_the_clauses(clauses, modulation):
    table = cellular(modulation)
    order = len(table).bit_length() - 1
    expected = [clauses["qam"]([i >> place & 1 for place in range(order - 1, -1, -1)]) for i in range(len(table))]
    np.testing.assert_allclose(table, expected, atol=1e-6)
    assert np.mean(np.abs(table) ** 2) == pytest.approx(1, abs=1e-6)


def test_layers_are_summed_with_their_port_s_factor(clauses):
    dmrs = DMRS(ports=(0, 1, 2), additional=0)
    config = PDSCH(0, 2, "16QAM", (0, 3), "A", dmrs, rnti=7)
    capacity = pdsch_capacity(CELL, config)
    assert capacity == 2 * 24 * 4 * 3
    bits = np.random.default_rng(1).integers(0, 2, (1, capacity), dtype=np.uint8)
    block, _ = pdsch(CELL, np.array([0]), config, bits=bits)
    scrambled = (bits[0] ^ clauses["gold_bits"](7 * 2**15 + CELL.pci, capacity)).reshape(-1, 4)
    d = [clauses["qam"](word.tolist()) for word in scrambled]
    # x^(i)(n) = d(3 n + i), table 7.3.1.3-1.
    expected = [sum(gain(dmrs, port) * d[3 * n + i] for i, port in enumerate(dmrs.ports)) for n in range(len(d) // 3)]
    np.testing.assert_allclose(block[0, :2].reshape(-1), expected, atol=1e-5)


@pytest.mark.parametrize("modulation", ["QPSK", "64QAM", "1024QAM"])
def test_random_payload_uses_every_point_alike_with_unit_power(clauses, modulation):
    config = PDSCH(0, 51, modulation, (0, 14), "A", DMRS(additional=0))
    block, used = pdsch(CELL, np.arange(8), config, np.random.default_rng(11))
    data = np.delete(block, 2, axis=1).reshape(-1)
    table = cellular(modulation)
    index = np.array([np.abs(part[:, None] - table).argmin(axis=1) for part in np.split(data, 102)]).reshape(-1)
    counts = np.bincount(index, minlength=len(table))
    # Chi-squared with len - 1 degrees of freedom: mean len - 1, deviation sqrt(2 (len - 1)); six of them.
    statistic = ((counts - data.size / len(table)) ** 2).sum() / (data.size / len(table))
    assert abs(statistic - len(table) + 1) < 6 * np.sqrt(2 * (len(table) - 1))
    assert np.mean(np.abs(data) ** 2) == pytest.approx(1, abs=0.02)
    assert used.sum() == 13 * 612 + 306


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_power_does_not_depend_on_the_layers(layers):
    config = PDSCH(0, 51, "QPSK", (0, 14), "A", DMRS(ports=tuple(range(layers)), additional=1))
    block, _ = pdsch(CELL, np.arange(6), config, np.random.default_rng(2))
    data = np.delete(block, (2, 11), axis=1)
    assert np.mean(np.abs(data) ** 2) == pytest.approx(1, abs=0.03)
    assert np.mean(np.abs(block[:, [2, 11]]) ** 2) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("time", "occupied", "symbols", "expected"),
    [
        # Worked by hand from the five steps of clause 7.4.1.2.2.
        (1, (2, 11), (1, 13), (1, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13)),
        (2, (2, 11), (1, 13), (1, 4, 6, 8, 10, 13)),
        (4, (2, 11), (1, 13), (1, 6, 10)),
        (4, (2, 5, 8, 11), (0, 14), (0,)),
        (2, (2, 3, 10, 11), (2, 12), (5, 7, 9, 13)),
        (1, (4,), (4, 3), (5, 6)),
    ],
)
def test_ptrs_symbols_follow_the_clause(time, occupied, symbols, expected):
    assert ptrs_symbols(time, occupied, symbols) == expected


@pytest.mark.parametrize(
    ("dmrs", "offset", "first"),
    # Table 7.4.1.2.2-1.
    [
        (DMRS(), 0, 0),
        (DMRS(), 3, 8),
        (DMRS(ports=(3,)), 1, 5),
        (DMRS(type=2, ports=(1,)), 3, 0),
        (DMRS(type=2, ports=(5,), groups_without_data=3), 2, 11),
    ],
)
@pytest.mark.parametrize(("frequency", "prbs", "rnti"), [(2, 10, 7), (4, 10, 7), (4, 3, 5)])
def test_ptrs_has_its_place_and_the_value_of_the_first_dmrs(standard, dmrs, offset, first, frequency, prbs, rnti):
    config = PDSCH(20, prbs, "64QAM", (1, 13), "A", dmrs, PTRS(1, frequency, offset), rnti=rnti)
    block, _ = pdsch(CELL, np.array([5]), config, np.random.default_rng(0))
    k_rb = rnti % frequency if prbs % frequency == 0 else rnti % (prbs % frequency)
    columns = [first + 12 * rb for rb in range(k_rb, prbs, frequency)]
    port = dmrs.ports[0]
    c_init = (2**17 * (14 * 5 + 2 + 1) * (2 * CELL.pci + 1) + 2 * CELL.pci) % 2**31
    r = standard["reference"](c_init, 6 * CELL.n_rb)
    _, delta, _, _ = PORTS[dmrs.type].split("|")[port].split()
    for column in columns:
        k = 240 + column - int(delta)
        value = r[k // 2] if dmrs.type == 1 else r[2 * (k // 6) + k % 6]
        for symbol in (1, 3, 12, 13):
            assert block[0, symbol - 1, column] == pytest.approx(gain(dmrs, port) * value, abs=1e-5)


def test_values_of_py3gpp(clauses):
    pytest.importorskip("py3gpp")
    from py3gpp import nrCarrierConfig, nrPDSCHConfig, nrPDSCHDMRS, nrPDSCHDMRSIndices
    from py3gpp.nrPDSCH import nrPDSCH

    carrier = nrCarrierConfig()
    carrier.NSizeGrid, carrier.NSlot = 51, 9
    theirs = nrPDSCHConfig()
    theirs.NSizeBWP, theirs.NStartBWP, theirs.PRBSet = 51, 0, np.arange(6, 18)
    theirs.SymbolAllocation, theirs.DMRS.DMRSAdditionalPosition = [0, 14], 2
    theirs.DMRS.NIDNSCID = CELL.pci
    config = PDSCH(6, 12, "16QAM", (0, 14), "A", DMRS(additional=2, groups_without_data=1))
    bits = np.random.default_rng(0).integers(0, 2, (1, pdsch_capacity(CELL, config)), dtype=np.uint8)
    block, _ = pdsch(CELL, np.array([9]), config, bits=bits)
    grid = np.zeros((14, 612), dtype=complex)
    grid[:, 72:216] = block[0]
    np.testing.assert_allclose(
        grid.reshape(-1)[nrPDSCHDMRSIndices(carrier, theirs)], nrPDSCHDMRS(theirs, carrier), atol=1e-6
    )
    symbols = nrPDSCH([bits[0]], ["16QAM"], 1, CELL.pci, config.rnti)[0]
    # Symbols 0 and 1 carry data only, in order.
    np.testing.assert_allclose(block[0, :2].reshape(-1), symbols[:288], atol=1e-6)


def test_mapping_type_b_and_extended_prefix(standard):
    cell = Cell(3, 2, 24, 12)
    config = PDSCH(0, 24, "QPSK", (5, 7), "B", DMRS(additional=1))
    validate_pdsch(config, cell)
    assert dmrs_symbols(config.dmrs, "B", config.symbols) == (5, 9)
    block, _ = pdsch(cell, np.array([13]), config, np.random.default_rng(0))
    for symbol in (5, 9):
        c_init = (2**17 * (12 * 13 + symbol + 1) * 7 + 6) % 2**31
        expected = np.sqrt(2) * standard["reference"](c_init, 144)
        np.testing.assert_allclose(block[0, symbol - 5, ::2], expected, atol=1e-5)


GOOD = PDSCH(0, 10)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(GOOD, prb_count=60), "nearest is 0 to 50"),
        (replace(GOOD, modulation="8PSK"), "5.1.3.1"),
        (replace(GOOD, interleaver=3), "7.3.1.6"),
        (replace(GOOD, rnti=0), "7.3.1.1"),
        (replace(GOOD, symbols=(3, 8)), "5.1.2.1-1"),
        (replace(GOOD, symbols=(1, 14)), "5.1.2.1-1"),
        (replace(GOOD, mapping="B", symbols=(0, 14)), "5.1.2.1-1"),
        (replace(GOOD, symbols=(0, 3), dmrs=DMRS(type_a_position=3)), "symbol 3 inside"),
        (replace(GOOD, symbols=(0, 3), dmrs=DMRS(length=2)), "l_d from 4"),
        (replace(GOOD, dmrs=DMRS(length=2, additional=2)), "nearest is 1"),
        (replace(GOOD, dmrs=DMRS(additional=3, type_a_position=3)), "TypeA-Position"),
        (replace(GOOD, dmrs=DMRS(ports=(4,))), "0 to 3"),
        (replace(GOOD, dmrs=DMRS(ports=(2,), groups_without_data=1)), "nearest is 2"),
        (replace(GOOD, dmrs=DMRS(2, ports=(0, 1, 2, 3, 4), groups_without_data=3)), "1 to 4"),
        (replace(GOOD, dmrs=DMRS(n_id=65536)), "65535"),
        (replace(GOOD, ptrs=PTRS(3)), "7.4.1.2.2"),
        (replace(GOOD, dmrs=DMRS(length=2, ports=(4,)), ptrs=PTRS()), "7.4.1.2.2-1"),
    ],
)
def test_impossible_allocations_are_refused(config, words):
    with pytest.raises(RejectedConfig, match=words):
        validate_pdsch(config, CELL)


def test_wrong_payload_is_refused():
    with pytest.raises(RejectedConfig, match="capacity"):
        pdsch(CELL, np.array([0]), GOOD, bits=np.zeros((1, 3), dtype=np.uint8))
    with pytest.raises(RejectedConfig, match="without payload"):
        pdsch(CELL, np.array([0]), GOOD)
