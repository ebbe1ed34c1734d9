"""SS/PBCH blocks decoded back to their MIB by a receiver written here, and by py3gpp."""

import json

import numpy as np
import pytest

from experts.nr.downlink.pbch import MIB
from experts.nr.ssb import SSB, candidate_symbols, pbch_dmrs, pbch_elements, pss, ssb_blocks, sss
from lwm.errors import RejectedConfig

G = "16 23 18 17 8 30 10 6 24 7 0 5 3 2 1 4 9 11 12 13 14 15 19 20 21 22 25 26 27 28 29 31"
FR2_MIB = MIB(120, 3, 0b10100110, True, False)
BLOCKS = [
    pytest.param(SSB("A", "1111", 20, 0, 0, 17, MIB(15)), 3, 0, 1023, 77, id="A-L4"),
    pytest.param(SSB("B", "1" * 8, 20, 0, 0, 6, MIB(30, 3, 0xC4)), 6, 1, 514, 1007, id="B-L8"),
    pytest.param(SSB("C", "1" * 8, 20, 0, 0, 22, MIB(15, 2, 1, True)), 5, 1, 11, 321, id="C-L8"),
    pytest.param(SSB("D", "1" * 64, 20, 0, 0, 7, FR2_MIB), 37, 0, 300, 500, id="D-L64"),
    pytest.param(SSB("E", "1" * 64, 20, 0, 0, 10, FR2_MIB), 60, 1, 6, 2, id="E-L64"),
]


def places(v: int) -> list[tuple[int, int]]:
    """PBCH elements of TS 38.211 table 7.4.3.1-1 without DM-RS, by symbol and subcarrier."""
    whole = [(symbol, k) for symbol in (1, 2, 3) for k in range(240)]
    return [(s, k) for s, k in whole if k % 4 != v and (s != 2 or k <= 47 or k >= 192)]


def receive(block: np.ndarray, pci: int, index: int, l_max: int, clauses: dict) -> tuple[list[int], bool]:
    """The 32 payload bits in the order of TS 38.212 clause 7.1.1 and whether the CRC holds."""
    symbols = np.array([block[place] for place in places(pci % 4)])
    v = index % (4 if l_max == 4 else 8)
    scrambling = clauses["gold_bits"](pci, 864 * (v + 1))[864 * v :]
    message = clauses["decode_polar"](clauses["soft_bits"](symbols) * (1 - 2 * scrambling), 56, "pbch")
    good = message[32:].tolist() == clauses["crc24c"](message[:32])
    g = [int(number) for number in G.split()]
    plain = {g[10], g[7], g[8]} | ({g[11], g[12], g[13]} if l_max == 64 else set())
    m = 32 - len(plain)
    phase = 2 * message[g[7]] + message[g[8]]
    c = clauses["gold_bits"](pci, 4 * m)[m * phase :]
    a, j = message.copy(), 0
    for i in range(32):
        if i not in plain:
            a[i] ^= c[j]
            j += 1
    payload, j_sfn, j_other, j_ssb = [], 0, 14, 11
    for i in range(32):
        if 1 <= i <= 6 or 24 <= i <= 27:
            payload.append(int(a[g[j_sfn]]))
            j_sfn += 1
        elif i == 28:
            payload.append(int(a[g[10]]))
        elif i >= 29:
            payload.append(int(a[g[j_ssb]]))
            j_ssb += 1
        else:
            payload.append(int(a[g[j_other]]))
            j_other += 1
    return payload, good


def number(bits: list[int]) -> int:
    return int("".join(map(str, bits)), 2)


@pytest.mark.parametrize(("ssb", "index", "half", "sfn", "pci"), BLOCKS)
def test_receiver_reads_every_field_in_noise(clauses, ssb, index, half, sfn, pci):
    ssb.validate()
    block = ssb_blocks(pci, np.array([index]), np.array([half]), np.array([sfn]), ssb)[0]
    # 0 dB: the rate is 56/864, far below what QPSK carries there.
    noise = np.random.default_rng(pci).normal(0, np.sqrt(0.5), (*block.shape, 2)) @ [1, 1j]
    payload, good = receive(block + noise, pci, index, len(ssb.bitmap), clauses)
    assert good
    assert payload[0] == 0
    assert number(payload[1:7] + payload[24:28]) == sfn
    assert payload[7] == (ssb.mib.scs_common in (30, 120))
    high = [] if len(ssb.bitmap) == 64 else [payload[29]]
    assert number(high + payload[8:12]) == ssb.k_ssb
    assert payload[12] == ssb.mib.dmrs_type_a_position - 2
    assert number(payload[13:21]) == ssb.mib.pdcch_config_sib1
    assert payload[21] == (0 if ssb.mib.cell_barred else 1)
    assert payload[22] == (0 if ssb.mib.intra_freq_reselection else 1)
    assert payload[28] == half
    if len(ssb.bitmap) == 64:
        assert number(payload[29:32]) == index // 8
    # Read as another SSB index the descrambling is wrong, and the CRC says so.
    _, good = receive(block, pci, index ^ 1, len(ssb.bitmap), clauses)
    assert not good


@pytest.mark.parametrize(("case", "l_max"), [("A", 4), ("A", 8), ("B", 4), ("B", 8), ("C", 4), ("C", 8)])
def test_fr1_candidates_follow_38_213_clause_4_1(case, l_max):
    if case == "B":
        expected = [s + 28 * n for n in range(l_max // 4) for s in (4, 8, 16, 20)]
    else:
        expected = [s + 14 * n for n in range(l_max // 2) for s in (2, 8)]
    assert candidate_symbols(case, l_max).tolist() == expected


def test_fr2_candidates_follow_38_213_clause_4_1():
    rows_d = [n for n in range(19) if n not in (4, 9, 14)]
    assert candidate_symbols("D", 64).tolist() == [s + 28 * n for n in rows_d for s in (4, 8, 16, 20)]
    rows_e = [n for n in range(9) if n != 4]
    expected = [s + 56 * n for n in rows_e for s in (8, 12, 16, 20, 32, 36, 40, 44)]
    assert candidate_symbols("E", 64).tolist() == expected
    for case, mu in (("D", 3), ("E", 4)):
        first = candidate_symbols(case, 64)
        assert (np.diff(first) >= 4).all()
        assert first[-1] + 4 <= 14 * 5 << mu


def test_py3gpp_decodes_our_block():
    pytest.importorskip("py3gpp")
    from py3gpp.nrBCHDecode import nrBCHDecode
    from py3gpp.nrPBCHDMRS import nrPBCHDMRS
    from py3gpp.nrPBCHPRBS import nrPBCHPRBS
    from py3gpp.nrPSS import nrPSS
    from py3gpp.nrSSS import nrSSS

    pci, index, half, sfn = 321, 3, 1, 693
    ssb = SSB("C", "1" * 8, 20, 0, 0, 6, MIB(30, 3, 0x5A))
    block = ssb_blocks(pci, np.array([index]), np.array([half]), np.array([sfn]), ssb)[0]
    np.testing.assert_allclose(block[0, 56:183], nrPSS(pci), atol=1e-6)
    np.testing.assert_allclose(block[2, 56:183], nrSSS(pci), atol=1e-6)
    np.testing.assert_array_equal(pss(pci % 3), nrPSS(pci))
    np.testing.assert_array_equal(sss(pci), nrSSS(pci))
    np.testing.assert_allclose(pbch_dmrs(pci, index, half, 8), nrPBCHDMRS(pci, index), atol=1e-6)
    data, _ = pbch_elements(pci)
    symbols = block.reshape(-1)[data]
    soft = np.stack([symbols.real, symbols.imag], axis=1).reshape(-1) * (1 - 2 * nrPBCHPRBS(pci, index, 864))
    _, crc, payload, low_sfn, hrf, _ = nrBCHDecode(soft, 8, 8, pci)
    assert not np.any(crc)
    assert number([int(bit) for bit in [*payload[1:7], *low_sfn]]) == sfn
    assert int(hrf) == half
    assert number([int(bit) for bit in payload[13:21]]) == 0x5A
    assert payload[7] == 1
    assert payload[12] == 1


def test_blocks_of_a_batch_are_those_of_single_calls():
    ssb = SSB("D", "1" * 64, 20, 0, 0, 1, FR2_MIB)
    index, half, sfn = np.array([0, 9, 63]), np.array([0, 0, 1]), np.array([4, 4, 5])
    together = ssb_blocks(9, index, half, sfn, ssb)
    for i in range(3):
        alone = ssb_blocks(9, index[i : i + 1], half[i : i + 1], sfn[i : i + 1], ssb)
        np.testing.assert_array_equal(together[i], alone[0])


def test_facts_say_what_the_mib_says():
    facts = FR2_MIB.facts(300, 7)
    assert facts == {
        "sfn": 300,
        "scs_common_khz": 120,
        "k_ssb": 7,
        "dmrs_type_a_position": 3,
        "coreset_zero": 10,
        "search_space_zero": 6,
        "cell_barred": True,
        "intra_freq_reselection": False,
    }


@pytest.mark.parametrize(
    ("ssb", "words"),
    [
        (SSB("F"), "one of"),
        (SSB("D", "1000", mib=FR2_MIB), "64 characters"),
        (SSB("A", "1" * 64), "4 or 8 characters"),
        (SSB("D", "1" * 64), "subCarrierSpacingCommon 30 kHz"),
        (SSB("E", "1" * 64, k_ssb=3, mib=FR2_MIB), "steps of 2 for case E; nearest is 2"),
        (SSB("C", mib=MIB(pdcch_config_sib1=256)), "0 to 255"),
    ],
)
def test_impossible_blocks_are_refused(ssb, words):
    with pytest.raises(RejectedConfig, match=words):
        ssb.validate()


def test_receiver_reads_the_mib_of_the_golden_recording(shared, make_receiver, standard, clauses):
    """A block that another generator made is read with its CRC, and made again by ours symbol for symbol."""
    path = shared / "golden" / "nr_ssb_pci321_case_c.sigmf-data"
    if not path.is_file():
        pytest.skip(f"no recording {path}")
    iq = np.fromfile(path, dtype="<i2").astype(np.float32).view(np.complex64)
    receiver = make_receiver(7.68e6, 30e3)
    found = receiver.detect(iq, 0.0)
    rows = [iq[found.sample + s * (receiver.n + receiver.cp) :][: receiver.n] for s in range(4)]
    block = np.fft.fft(np.array(rows), axis=1)[:, np.arange(240) - 120]
    c_init = ((found.i_ssb + 1) * (found.pci // 4 + 1) << 11) + (found.i_ssb + 1 << 6) + found.pci % 4
    sequence = iter(standard["reference"](c_init, 144))
    for symbol, parts in ((1, ((0, 240),)), (2, ((0, 48), (192, 240))), (3, ((0, 240),))):
        for low, high in parts:
            k = np.arange(low + found.pci % 4, high, 4)
            estimate = block[symbol, k] * np.conj([next(sequence) for _ in k])
            everywhere = np.arange(low, high)
            channel = np.interp(everywhere, k, estimate.real) + 1j * np.interp(everywhere, k, estimate.imag)
            block[symbol, low:high] *= channel.conj()
    payload, good = receive(block / np.abs(block).max(), found.pci, found.i_ssb, 8, clauses)
    assert good
    facts = json.loads(json.loads(path.with_suffix(".sigmf-meta").read_text())["annotations"][0]["core:comment"])
    assert number(payload[1:7] + payload[24:28]) == facts["sfn"]
    k_ssb = number([payload[29], *payload[8:12]])
    mib = MIB(30 if payload[7] else 15, 2 + payload[12], number(payload[13:21]), not payload[21], not payload[22])
    ssb = SSB("C", "1" * 8, k_ssb=k_ssb, mib=mib)
    ours = ssb_blocks(found.pci, np.array([found.i_ssb]), np.array([payload[28]]), np.array([facts["sfn"]]), ssb)[0]
    data, _ = pbch_elements(found.pci)
    theirs = block.reshape(-1)[data]
    np.testing.assert_array_equal(np.sign(theirs.real), np.sign(ours.reshape(-1)[data].real))
    np.testing.assert_array_equal(np.sign(theirs.imag), np.sign(ours.reshape(-1)[data].imag))
