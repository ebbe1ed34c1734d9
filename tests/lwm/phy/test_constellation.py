"""Constellations against values printed in the standards."""

import numpy as np
import pytest

from lwm.phy.constellation import BITS, cellular, map_bits, wlan


@pytest.mark.parametrize("table", [cellular, wlan])
@pytest.mark.parametrize("name", BITS)
def test_unit_power_and_distinct_points(table, name):
    points = table(name)
    assert points.dtype == np.complex64
    assert len(np.unique(np.round(points, 5))) == len(points) == 2 ** BITS[name]
    assert np.mean(np.abs(points) ** 2) == pytest.approx(1, abs=1e-5)
    assert abs(points.mean()) < 1e-5 or name == "BPSK"


# (bits, I, Q) before scaling, from TS 36.211 tables 7.1.1-1 to 7.1.4-1 and the formulas of TS 38.211 clause 5.1.6.
CELLULAR = {
    "BPSK": (2, [("0", 1, 1), ("1", -1, -1)]),
    "QPSK": (2, [("00", 1, 1), ("01", 1, -1), ("10", -1, 1), ("11", -1, -1)]),
    "16QAM": (10, [("0000", 1, 1), ("0001", 1, 3), ("0010", 3, 1), ("0111", 3, -3), ("1000", -1, 1), ("1111", -3, -3)]),
    "64QAM": (42, [("000000", 3, 3), ("000001", 3, 1), ("000100", 3, 5), ("001111", 7, 7), ("110101", -3, -7)]),
    "256QAM": (170, [("00000000", 5, 5), ("00000001", 5, 7), ("00010000", 5, 11), ("10000000", -5, 5)]),
}


@pytest.mark.parametrize("name", CELLULAR)
def test_cellular_points_of_the_standard(name):
    norm, rows = CELLULAR[name]
    points = cellular(name)
    for bits, real, imaginary in rows:
        assert points[int(bits, 2)] == pytest.approx((real + 1j * imaginary) / np.sqrt(norm), abs=1e-6), bits


def _axis(gray: str) -> int:
    """IEEE 802.11-2020 tables 17-15 (16-QAM) and 17-16 (64-QAM): coded bits to level."""
    tables = {
        1: ["0", "1"],
        2: ["00", "01", "11", "10"],
        3: ["000", "001", "011", "010", "110", "111", "101", "100"],
    }
    order = tables[len(gray)]
    return 2 * order.index(gray) - len(order) + 1


@pytest.mark.parametrize(("name", "norm"), [("QPSK", 2), ("16QAM", 10), ("64QAM", 42)])
def test_wlan_points_of_the_standard(name, norm):
    half = BITS[name] // 2
    expected = [
        _axis(f"{value >> half:0{half}b}") + 1j * _axis(f"{value & (1 << half) - 1:0{half}b}")
        for value in range(2 ** BITS[name])
    ]
    np.testing.assert_allclose(wlan(name), np.array(expected) / np.sqrt(norm), atol=1e-6)
    np.testing.assert_array_equal(wlan("BPSK"), [-1, 1])


@pytest.mark.parametrize("name", ["256QAM", "1024QAM"])
def test_neighbours_differ_in_one_bit(name):
    for points in (cellular(name), wlan(name)):
        distance = np.abs(points[:, None] - points)
        step = np.min(distance[distance > 1e-4])
        first, second = np.nonzero((distance > 1e-4) & (distance < 1.01 * step))
        assert all(int(a ^ b).bit_count() == 1 for a, b in zip(first, second, strict=True))


def test_map_bits_takes_the_first_bit_highest():
    table = cellular("16QAM")
    bits = np.array([[0, 1, 1, 1, 1, 0, 0, 0]], dtype=np.uint8)
    np.testing.assert_array_equal(map_bits(bits, table), [[table[0b0111], table[0b1000]]])
