"""SS/PBCH blocks against the standard's formulas and against an independent receiver."""

import json

import numpy as np
import pytest

from experts.nr import NR, PDSCH, SSB, Carrier, NRConfig, TDDPattern, User
from experts.nr.downlink import MIB
from experts.nr.ssb import candidate_symbols, pbch_elements, pss, ssb_blocks, sss
from lwm.seeding import rng_for


def test_pss_begins_with_the_values_of_38_211():
    # x(0..6) = 0 1 1 0 1 1 1 and x(i+7) = x(i+4) + x(i), worked out by hand; d = 1 - 2x.
    known = [1, -1, -1, 1, -1, -1, -1, -1, 1, 1, -1, -1, -1, 1, 1, -1, 1]
    assert pss(0)[:17].tolist() == known
    assert pss(1).tolist() == np.roll(pss(0), -43).tolist()


@pytest.mark.parametrize("pci", [0, 1, 2, 321, 500, 671, 1007])
def test_synchronisation_signals_follow_the_formulas(standard, pci):
    np.testing.assert_array_equal(pss(pci % 3), standard["primary"](pci % 3))
    np.testing.assert_array_equal(sss(pci), standard["secondary"](pci // 3, pci % 3))


def test_candidates_follow_38_213_clause_4_1():
    assert candidate_symbols("A", 4).tolist() == [2, 8, 16, 22]
    assert candidate_symbols("C", 8).tolist() == [2, 8, 16, 22, 30, 36, 44, 50]
    assert candidate_symbols("B", 4).tolist() == [4, 8, 16, 20]
    assert candidate_symbols("B", 8).tolist() == [4, 8, 16, 20, 32, 36, 44, 48]


@pytest.mark.parametrize("pci", [4, 5, 6, 7])
def test_block_has_432_data_and_144_reference_elements(standard, pci):
    data, reference = pbch_elements(pci)
    assert data.size == 432
    assert set((reference % 240 % 4).tolist()) == {pci % 4}
    block = ssb_blocks(pci, np.array([2]), np.array([1]), np.array([0]), SSB("A", "0010", mib=MIB(15)))[0]
    i = 2 + 4 * 1
    expected = standard["reference"](((i + 1) * (pci // 4 + 1) << 11) + (i + 1 << 6) + pci % 4, 144)
    np.testing.assert_allclose(block.reshape(-1)[reference], expected, atol=1e-6)
    assert not block[0, :56].any()
    assert not block[0, 183:].any()
    assert not block[2, 48:56].any()
    assert not block[2, 183:192].any()


def test_receiver_reads_the_golden_recording(shared, make_receiver, standard):
    path = shared / "golden" / "nr_ssb_pci321_case_c.sigmf-data"
    if not path.is_file():
        pytest.skip(f"no recording {path}")
    truth = json.loads(path.with_suffix(".sigmf-meta").read_text())
    facts = json.loads(truth["annotations"][0]["core:comment"])
    iq = np.fromfile(path, dtype="<i2").astype(np.float32).view(np.complex64)
    found = make_receiver(7.68e6, 30e3).detect(iq, 0.0)
    assert found.pci == facts["pci"]
    assert found.i_ssb == facts["ssb_index"]
    assert found.match > 0.9
    # Case C candidate 2 begins in symbol 16 of the half frame.
    assert abs(found.sample - standard["symbol_starts"](256, 1, 2)[16]) <= 1


CELLS = [
    pytest.param(10e6, 0, 17, SSB("A", "0010", 20, 0, 3, 7), None, id="case-A-FDD"),
    pytest.param(20e6, 1, 998, SSB("B", "00000100", 10, 0, 30, 2), None, id="case-B-L8"),
    pytest.param(20e6, 1, 321, SSB("C", "0100", 20, 1, 0, 0), TDDPattern("DDDSU"), id="case-C-TDD-second-half"),
    pytest.param(5e6, 1, 640, SSB("A", "0100", 20, 0, 0, 5), None, id="case-A-in-30kHz-carrier"),
    pytest.param(20e6, 2, 3, SSB("C", "00100000", 5, 0, 7, 22), None, id="case-C-in-60kHz-carrier"),
]


@pytest.mark.parametrize(("bandwidth", "mu", "pci", "ssb", "tdd"), CELLS)
def test_receiver_reads_our_blocks_in_noise_and_offset(make_receiver, standard, bandwidth, mu, pci, ssb, tdd):
    late = 1e-4
    start = 0.005 * ssb.half_frame + late
    users = (User(PDSCH(0, 6, "16QAM"), ((5 * ssb.half_frame << mu, 3),)),)
    config = NRConfig(Carrier(bandwidth, mu, pci, tdd), ssb, users, start=start, duration=0.0043)
    capture = NR().synthesize(config, rng_for(5, pci))
    rate, scs = capture.sample_rate, 15e3 * (1 << ssb.mu)
    box = next(e for e in capture.emissions if e.attributes["channel"] == "SSB")
    power = np.mean(np.abs(capture.iq[round(box.start * rate) : round(box.stop * rate)]) ** 2)
    # 3 dB in the block's own band, and an offset of 0.17 subcarriers.
    deviation = np.sqrt(power / 2 * rate / (240 * scs) / 2)
    noise = np.random.default_rng(pci).normal(0, deviation, (capture.iq.size, 2)).view(complex)[:, 0]
    iq = capture.iq * np.exp(2j * np.pi * 0.17 * scs * np.arange(capture.iq.size) / rate) + noise
    found = make_receiver(rate, scs).detect(iq, config.ssb_low + 120 * scs)
    assert found.pci == pci
    index = ssb.bitmap.index("1")
    assert found.i_ssb == (index + 4 * ssb.half_frame if len(ssb.bitmap) == 4 else index)
    assert found.cfo == pytest.approx(0.17 * scs, abs=0.03 * scs)
    half = standard["symbol_starts"](round(rate / scs), ssb.mu, 5)
    expected = half[candidate_symbols(ssb.case, len(ssb.bitmap))[index]] - round(late * rate)
    assert abs(found.sample - expected) <= 2
    assert box.start == pytest.approx((expected - 9 * round(rate / scs) // 128) / rate, abs=1e-9)
