"""Sequences against the formulas and tables of TS 36.211."""

import numpy as np
import pytest

from experts.lte import broadcast, signals
from experts.lte.frame import control_symbols, downlink_symbols
from experts.lte.grid import BROADCAST, CONTROL, DATA, layout


@pytest.mark.parametrize(("n_id_2", "root"), [(0, 25), (1, 29), (2, 34)])
def test_pss_is_the_formula(receiver, n_id_2, root):
    values = signals.pss(n_id_2)
    np.testing.assert_allclose(values, receiver.primary(n_id_2), atol=1e-5)
    # First values worked out by hand: d(0) = 1, d(1) = exp(-j 2 pi u / 63), d(61) = exp(-j pi u 62 * 63 / 63) = 1.
    assert values[0] == pytest.approx(1)
    assert values[1] == pytest.approx(np.exp(-2j * np.pi * root / 63), abs=1e-6)
    assert values[61] == pytest.approx(1, abs=1e-5)


def test_sss_of_all_cells(receiver):
    for n_id_2 in range(3):
        expected = receiver.secondary_all(n_id_2)
        ours = np.stack([signals.sss(n_id_1, n_id_2) for n_id_1 in range(168)])
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(("pci", "n_rb", "extended"), [(0, 6, False), (301, 50, False), (503, 100, True)])
def test_crs_values_and_places(receiver, pci, n_rb, extended):
    _, columns, values = receiver.crs_reference(pci, n_rb, extended)
    np.testing.assert_allclose(signals.crs(pci, n_rb, extended).reshape(40, -1), values, atol=1e-6)
    assert [signals.crs_offset(pci, index) for index in range(4)] == columns[:4, 0].tolist()


def test_special_subframe_lengths():
    # TS 36.211 table 4.2-1 in units of T_s, and the symbols these lengths hold.
    normal = (6592, 19760, 21952, 24144, 26336, 6592, 19760, 21952, 24144, 13168)
    for special, length in enumerate(normal):
        count = int(downlink_symbols((2, special), False)[1].sum())
        assert count * 2192 + 16 * (1 + (count > 7)) == length
    extended = (7680, 20480, 23040, 25600, 7680, 20480, 23040, 12800)
    for special, length in enumerate(extended):
        assert int(downlink_symbols((2, special), True)[6].sum()) * 2560 == length


def test_control_region_follows_table_6_7_1():
    assert control_symbols(50, 3, tdd=False) == (3,) * 10
    assert control_symbols(6, 3, tdd=False) == (4,) * 10
    assert control_symbols(50, 3, tdd=True) == (3, 2, 3, 3, 3, 3, 2, 3, 3, 3)
    assert control_symbols(6, 2, tdd=True) == (3, 2, 3, 3, 3, 3, 2, 3, 3, 3)


@pytest.mark.parametrize(("extended", "bits"), [(False, 1920), (True, 1728)])
@pytest.mark.parametrize("n_rb", [6, 25, 100])
def test_broadcast_elements_hold_four_frames_of_bits(extended, bits, n_rb):
    kind = layout(n_rb, 2, None, extended, 1)
    assert np.count_nonzero(kind == BROADCAST) == bits // 2 // 4


def test_broadcast_coding_of_known_words():
    # TS 36.212 clause 5.1.1 with zero start value: the CRC-16 of "123456789" is 31C3 hexadecimal.
    bits = np.unpackbits(np.frombuffer(b"123456789", dtype=np.uint8))
    assert int("".join(map(str, broadcast.crc16(bits))), 2) == 0x31C3
    # One bit set: the three streams are the generators 133, 171, 165 (octal), read from that bit on, around the end.
    streams = broadcast.convolve(np.eye(40, dtype=np.uint8)[36])
    for stream, generator in zip(streams, ("1011011", "1111001", "1110101"), strict=True):
        assert "".join(map(str, np.roll(stream, -36)[:7])) == generator
        assert stream.sum() == generator.count("1")
    # Every coded bit is sent sixteen times in 40 ms.
    values = broadcast.rate_match(np.arange(120, dtype=np.uint8).reshape(3, 40) + 3, 1920)
    assert np.bincount(values)[3:].tolist() == [16] * 120


def test_elements_of_a_plain_subframe():
    # 12 * 14 elements a block, less two control symbols, less the CRS of the other symbols (three times two).
    kind = layout(50, 0, None, False, 2)[3]
    assert np.count_nonzero(kind == DATA) == 50 * (12 * 12 - 6)
    assert np.count_nonzero(kind == CONTROL) == 50 * (8 + 12)
