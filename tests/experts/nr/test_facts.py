"""What a capture says of itself: counted inside the capture, and in sentences."""

import json

import numpy as np
import pytest

from experts.nr import (
    CSIRS,
    MIB,
    NR,
    PDSCH,
    PRACH,
    PUCCH,
    PUSCH,
    SRS,
    SSB,
    Carrier,
    Control,
    NRConfig,
    Report,
    TDDPattern,
    Uplink,
    User,
)
from experts.nr.uplink.prach import Occasions
from lwm.seeding import rng_for

CARRIER = Carrier(20e6, 1, 77)


def facts_of(config: NRConfig) -> dict:
    """Through JSON and back, so that whatever is not plain shows."""
    return json.loads(json.dumps(NR().synthesize(config, rng_for(1)).facts))


def test_mib_of_the_first_block_that_is_heard():
    ssb = SSB("C", "1100", 20, 0, 10, 2, MIB(pdcch_config_sib1=0x5A, cell_barred=True))
    # Frame 302 is the first even one from 3.013 s on: 20 ms of burst period from frame 0.
    facts = facts_of(NRConfig(CARRIER, ssb, (), None, start=3.013, duration=0.016))
    assert facts["mib"] == {
        "sfn": 302,
        "scs_common_khz": 30,
        "k_ssb": 2,
        "dmrs_type_a_position": 2,
        "coreset_zero": 5,
        "search_space_zero": 10,
        "cell_barred": True,
        "intra_freq_reselection": True,
    }
    assert (facts["ssb_count"], facts["ssb_heard"]) == (2, 2)


def test_downlink_signals_are_counted_inside_the_capture():
    users = (
        User(PDSCH(0, 24, "QPSK", (1, 13), rnti=1), ((0, 4),)),
        User(PDSCH(24, 24, "16QAM", (1, 13), rnti=2), ((3, 9),)),
        User(PDSCH(24, 24, "16QAM", (1, 13), rnti=3), ((90, 1),)),
    )
    csi_rs = (
        CSIRS(3, "000001", 6, n_rb=52, period=4, offset=1),
        CSIRS(3, "000001", 13, n_rb=52, period=40, offset=30),
    )
    # From the middle of slot 1 to the middle of slot 5.
    config = NRConfig(CARRIER, None, users, Control(1), csi_rs, start=0.00075, duration=0.002)
    facts = facts_of(config)
    assert facts["number_of_ues"] == 2
    assert facts["modulation"] == "mixed"
    assert [user["slots"] for user in facts["users"]] == [3, 3]
    # PDCCH is in the first symbol: that of slot 1 is over when the capture begins.
    assert facts["pdcch_count"] == 2 + 3
    assert (facts["csi_rs_count"], [each["ports"] for each in facts["csi_rs"]]) == (1, [2])
    assert [facts[name] for name in ("ptrs_count", "srs_count", "pucch_count", "prach_count")] == [0, 0, 0, 0]
    lines = NR().describe(facts)
    assert "The capture holds the downlink of a carrier in FR1." in lines
    assert "The capture has 1 CSI-RS resource and 5 PDCCH." in lines
    assert "The carrier has no SSB." in lines


def test_uplink_counts_all_who_transmit():
    users = (User(PUSCH((10, 30), symbols=(0, 12), rnti=1), ((0, 4),)),)
    uplink = Uplink(
        (SRS((2, 0), 0, (9, 0, 0), 4, offset=0, period=(4, 1)),),
        (Report(PUCCH(0, (0, 1), (10, 12), rnti=1), (4, 0)), Report(PUCCH(0, (50, 51), (10, 12), rnti=9), (4, 0))),
        PRACH("A1", 30.0, prb=32, occasions=Occasions(slots=(0,))),
    )
    facts = facts_of(NRConfig(CARRIER, None, users, None, uplink=uplink, duration=0.002))
    # The one with PUSCH, RNTI 9 with PUCCH alone, the sender of the preamble.
    assert facts["number_of_ues"] == 3
    assert (facts["srs_count"], facts["pucch_count"], facts["prach_count"]) == (1, 2, 1)
    assert (facts["pucch_formats"], facts["prach_format"]) == ([0, 0], "A1")
    assert facts["users"][0]["waveform"] == "CP-OFDM"
    lines = NR().describe(facts)
    assert "3 UEs transmit on the uplink." in lines
    assert "The capture has 1 SRS resource, 2 PUCCH resources and 1 PRACH preamble of format A1." in lines
    sounding = facts_of(NRConfig(CARRIER, None, (), None, uplink=Uplink(uplink.srs), duration=0.002))
    assert (sounding["number_of_ues"], sounding["modulation"]) == (1, "none")


@pytest.mark.parametrize(
    ("modulation", "rate", "bits"),
    # 20 resource blocks, 14 symbols, one of DM-RS in 12 subcarriers: N_RE 20 * 156 = 3120. TS 38.214 clause 5.1.3.2:
    # N_info = 3120 * 2 * 308 / 1024 = 1876.9, to 1872 in steps of 16, table 5.1.3.2-1: 1928 is too many, 1864, 1928;
    # N_info = 3120 * 6 * 666 / 1024 = 12175.3 > 3824: n = 8, N' = 256 * round(12151.3 / 256) = 12032, C = 2 of 8448:
    # 16 * ceil(12056 / 16) - 24 = 12040.
    [("QPSK", 308, (1872, 1928)), ("64QAM", 666, (12040, 12296))],
)
def test_transport_blocks_are_those_of_the_standard(modulation, rate, bits):
    from experts.nr import DMRS

    user = User(PDSCH(0, 20, modulation, (0, 14), dmrs=DMRS(additional=0)), ((0, 2),), rate)
    facts = facts_of(NRConfig(CARRIER, None, (user,), None, payload="coded", duration=0.001))
    (found,) = facts["users"][0]["transport_block_bits"]
    assert bits[0] <= found <= bits[1]
    assert facts["users"][0]["code_rate"] == pytest.approx(rate / 1024)


def test_tdd_and_duty_cycle():
    users = (User(PDSCH(0, 48, "QPSK", (1, 13)), ((0, 4), (5, 4))),)
    carrier = Carrier(20e6, 1, 77, TDDPattern("DDDSU"))
    facts = facts_of(NRConfig(carrier, None, users, duration=0.005))
    assert (facts["duplex"], facts["tdd_pattern"], facts["special_slot"]) == ("TDD", "DDDSU", [10, 2, 2])
    assert facts["duty_cycle"] == pytest.approx(2 * (3 + 10 / 14) / 10, abs=1e-3)
    assert np.isfinite(facts["start"])
