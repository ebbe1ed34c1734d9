"""Bit-for-bit equality with py3gpp, a second implementation, where it is installed."""

import numpy as np
import pytest

from experts.nr.coding import (
    MCS_TABLES,
    crc_append,
    data_resource_elements,
    encode_transport_block,
    mcs_entry,
    polar_encode,
    transport_block_size,
)
from experts.nr.coding.crc import GENERATORS
from experts.nr.coding.ldpc import SYSTEMATIC_COLUMNS, ldpc_encode
from experts.nr.coding.transport import code_blocks, segmentation
from lwm.seeding import rng_for

py3gpp = pytest.importorskip("py3gpp", reason="the second implementation, py3gpp, is not installed")
MODULATIONS = {2: "QPSK", 4: "16QAM", 6: "64QAM", 8: "256QAM"}


@pytest.mark.parametrize("kind", GENERATORS)
def test_crc(kind):
    bits = rng_for(8, "py3gpp", kind).integers(0, 2, (1, 700), dtype=np.uint8)
    expected = py3gpp.nrCRCEncode(bits[0].astype(int), kind)[:, 0]
    np.testing.assert_array_equal(crc_append(bits, kind)[0], expected)


@pytest.mark.parametrize(("kind", "bits", "output"), [("pbch", 56, 864), ("dci", 64, 1728), ("dci", 140, 513)])
def test_polar(kind, bits, output):
    message = rng_for(8, "py3gpp", bits).integers(0, 2, (1, bits), dtype=np.uint8)
    mother = py3gpp.nrPolarEncode(message[0].astype(int), output, nmax=9, iil=True)
    expected = py3gpp.nrRateMatchPolar(mother, bits, output)
    np.testing.assert_array_equal(polar_encode(message, output, kind)[0], expected)


@pytest.mark.parametrize(("graph", "lifting"), [(1, 2), (1, 104), (2, 72), (2, 208)])
def test_ldpc(graph, lifting):
    bits = rng_for(8, "py3gpp", graph, lifting).integers(0, 2, (1, SYSTEMATIC_COLUMNS[graph] * lifting), dtype=np.uint8)
    expected = py3gpp.nrLDPCEncode(bits.T.astype(np.int8), graph)
    np.testing.assert_array_equal(ldpc_encode(bits, graph, lifting)[:, 2 * lifting :], expected.T)


@pytest.mark.parametrize(
    ("size", "rate", "order", "output", "rv"),
    [(3752, 0.8, 4, 6000, 0), (9992, 0.5, 6, 19998, 2), (16896, 0.7, 8, 24008, 3), (3848, 0.2, 2, 15000, 1)],
)
def test_transport_block(size, rate, order, output, rv):
    bits = rng_for(8, "py3gpp", size).integers(0, 2, (1, size), dtype=np.uint8)
    plan = segmentation(size, rate)
    message = crc_append(bits, plan.crc)
    blocks = py3gpp.nrCodeBlockSegmentLDPC(message[0].astype(int), plan.base_graph)
    assert blocks.shape == (plan.filled_bits, plan.blocks)
    np.testing.assert_array_equal(code_blocks(bits, plan)[0], np.maximum(blocks, 0).T)
    words = py3gpp.nrLDPCEncode(blocks.astype(np.int8), plan.base_graph)
    expected = py3gpp.nrRateMatchLDPC(words, output, rv, MODULATIONS[order], 1)
    np.testing.assert_array_equal(encode_transport_block(bits, output, rate, order, 1, rv)[0], expected)


def test_transport_block_size():
    rng = rng_for(8, "py3gpp tbs")
    for _ in range(200):
        table = MCS_TABLES[int(rng.integers(0, 3))]
        order, rate = mcs_entry(int(rng.integers(0, 28)), table)
        prbs, per_prb, layers = (int(rng.integers(low, high)) for low, high in ((1, 274), (12, 169), (1, 5)))
        expected = py3gpp.nrTBS(MODULATIONS[order], layers, prbs, per_prb, rate)
        elements = data_resource_elements(prbs, 14, 168 - per_prb)
        assert transport_block_size(elements, rate, order, layers) == expected
