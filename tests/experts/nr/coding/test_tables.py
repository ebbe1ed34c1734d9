"""MCS tables and transport block sizes against the rules of 38.214 that tie them together."""

import numpy as np
import pytest

from experts.nr.coding import (
    MCS_TABLES,
    data_resource_elements,
    lbrm_transport_block_size,
    mcs_entry,
    transport_block_size,
)
from experts.nr.coding.tables import TBS_TABLE
from lwm.errors import RejectedConfig
from lwm.seeding import rng_for

ENTRIES = {
    "64QAM": 29, "256QAM": 28, "64QAM-lowSE": 29, "1024QAM": 27,
    "64QAM-transform-precoding": 28, "64QAM-lowSE-transform-precoding": 28,
}  # fmt: skip
HIGHEST = {"64QAM": 5.5547, "256QAM": 7.4063, "64QAM-lowSE": 4.5234, "1024QAM": 9.2578}
"""Spectral efficiency of the last index, printed in the tables themselves."""


@pytest.mark.parametrize("table", MCS_TABLES)
def test_every_index_and_no_other(table):
    entries = [mcs_entry(index, table) for index in range(ENTRIES[table])]
    efficiency = np.array([order * rate for order, rate in entries])
    # Two indices at a change of modulation may have nearly the same spectral efficiency.
    assert (np.diff(efficiency) > -0.02).all()
    assert (np.diff([order for order, _ in entries]) >= 0).all()
    assert all(0 < rate < 0.95 for _, rate in entries)
    if table in HIGHEST:
        assert efficiency[-1] == pytest.approx(HIGHEST[table], abs=5e-5)
    for index in (-1, ENTRIES[table]):
        with pytest.raises(RejectedConfig, match=r"5\.1\.3\.1"):
            mcs_entry(index, table)


def test_pi2_bpsk_keeps_the_spectral_efficiency():
    for index in range(2):
        one = mcs_entry(index, "64QAM-transform-precoding", pi2_bpsk=True)
        two = mcs_entry(index, "64QAM-transform-precoding")
        assert (one[0], two[0]) == (1, 2)
        assert one[1] == 2 * two[1]


def test_unknown_table():
    with pytest.raises(RejectedConfig, match="256QAM"):
        mcs_entry(0, "4096QAM")


def test_small_sizes_come_from_the_table():
    assert len(TBS_TABLE) == 93
    assert (np.diff(TBS_TABLE) > 0).all()
    for elements in range(1, 3000, 7):
        size = transport_block_size(elements, 0.5, 2)
        information = elements * 1.0
        assert size in TBS_TABLE
        # Quantised down by at most 1/8 or to a multiple of 8, then up to the next entry.
        assert size >= min(information * 7 / 8, information - 8)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.2501, 0.6, 0.9258])
def test_large_sizes_are_near_the_information_and_fill_whole_blocks(rate):
    rng = rng_for(8, "tbs", str(rate))
    for elements in rng.integers(20_000, 150_000, 100).tolist():
        size = transport_block_size(elements, rate, 4)
        information = elements * rate * 4
        assert abs(size - information) < information / 32 + 8 * (1 + size // 3816)
        most = 3816 if rate <= 0.25 else 8424
        blocks = 1 if size + 24 <= most else -(-(size + 24) // most)
        assert (size + 24) % (8 * blocks) == 0


def test_resource_elements_of_an_allocation():
    assert data_resource_elements(106, 13, 12) == 106 * 144
    assert data_resource_elements(1, 14, 0) == 156  # the cap a resource block
    assert data_resource_elements(4, 14, 12, overhead=6) == 4 * 150


def test_reference_size_counts_four_layers_at_most():
    assert lbrm_transport_block_size(273, 8, 8) == lbrm_transport_block_size(273, 4, 8)
    assert lbrm_transport_block_size(33, 1, 6) == lbrm_transport_block_size(66, 1, 6)
    assert lbrm_transport_block_size(32, 1, 6) < lbrm_transport_block_size(33, 1, 6)


@pytest.mark.parametrize(("elements", "rate"), [(0, 0.5), (100, 0.0), (100, 1.0)])
def test_nothing_to_send(elements, rate):
    with pytest.raises(RejectedConfig, match=r"5\.1\.3\.2"):
        transport_block_size(elements, rate, 2)
