"""Checks against long division and against published check values."""

import numpy as np
import pytest

from experts.nr.coding import crc_append
from experts.nr.coding.crc import GENERATORS
from lwm.errors import RejectedConfig
from lwm.seeding import rng_for

# Check values of "123456789" (catalogue of parametrised CRC algorithms: CRC-24/LTE-A, CRC-24/LTE-B, CRC-16/XMODEM).
PUBLISHED = {"24A": 0xCDE703, "24B": 0x23EF52, "16": 0x31C3}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_check_value(kind):
    bits = np.unpackbits(np.frombuffer(b"123456789", dtype=np.uint8))[None]
    parity = crc_append(bits, kind)[0, 72:]
    assert int("".join(map(str, parity)), 2) == PUBLISHED[kind]


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("length", [1, 12, 511, 512, 513, 2500])
def test_whole_codeword_divides(decoders, kind, length):
    bits = rng_for(8, "crc", kind, length).integers(0, 2, (2, length), dtype=np.uint8)
    coded = crc_append(bits, kind)
    assert coded.shape == (2, length + GENERATORS[kind][0])
    np.testing.assert_array_equal(coded[:, :length], bits)
    assert [decoders.crc_remainder(word, kind) for word in coded] == [0, 0]
    coded[0, length // 2] ^= 1
    assert decoders.crc_remainder(coded[0], kind)


def test_rnti_scrambles_the_last_sixteen_bits(decoders):
    bits = rng_for(8, "rnti").integers(0, 2, (1, 40), dtype=np.uint8)
    rnti = 0xA5C3
    plain, masked = crc_append(bits, "24C", ones=True), crc_append(bits, "24C", rnti, ones=True)
    difference = plain[0] ^ masked[0]
    assert not difference[:48].any()
    assert int("".join(map(str, difference[48:])), 2) == rnti
    assert decoders.crc_remainder(np.r_[np.ones(24, int), plain[0]], "24C") == 0


@pytest.mark.parametrize(
    ("bits", "kind", "rnti", "message"),
    [
        (np.zeros(8), "16", 0, "batch"),
        (np.full((1, 8), 2), "16", 0, "0 and 1"),
        (np.zeros((1, 8)), "32", 0, "24A"),
        (np.zeros((1, 8)), "11", 3, "7.3.2"),
        (np.zeros((1, 8)), "24C", 1 << 16, "65535"),
    ],
)
def test_bad_input_names_the_clause(bits, kind, rnti, message):
    with pytest.raises(RejectedConfig, match=message):
        crc_append(bits, kind, rnti)
