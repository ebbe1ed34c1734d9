"""H c = 0 for both base graphs and every lifting size; a min-sum decoder reads transport blocks in noise."""

import numpy as np
import pytest

from experts.nr.coding import encode_transport_block, lbrm_transport_block_size, mcs_entry, transport_block_size
from experts.nr.coding.base_graphs import LIFTING_SIZES, base_graph_entries
from experts.nr.coding.ldpc import COLUMNS, SYSTEMATIC_COLUMNS, base_graph_rows, ldpc_encode, lifting_size
from experts.nr.coding.transport import segmentation
from lwm.errors import RejectedConfig
from lwm.seeding import rng_for


@pytest.mark.parametrize(("graph", "entries", "rows"), [(1, 316, 46), (2, 197, 42)])
def test_base_graph_has_the_shape_of_the_standard(graph, entries, rows):
    table = base_graph_entries(graph).astype(int)
    assert len(table) == entries
    assert len(np.unique(table[:, 0] * 100 + table[:, 1])) == entries
    assert np.unique(table[:, 0]).tolist() == list(range(rows))
    assert np.unique(table[:, 1]).tolist() == list(range(COLUMNS[graph]))
    for index, sizes in enumerate(LIFTING_SIZES):
        assert table[:, 2 + index].max() < sizes[-1]
    # The extension is one identity block a row.
    for column in range(SYSTEMATIC_COLUMNS[graph] + 4, COLUMNS[graph]):
        mine = table[table[:, 1] == column]
        assert mine[:, 0].tolist() == [column - SYSTEMATIC_COLUMNS[graph]]
        assert not mine[:, 2:].any()


@pytest.mark.parametrize("graph", [1, 2])
@pytest.mark.parametrize("lifting", sorted(size for sizes in LIFTING_SIZES for size in sizes))
def test_every_codeword_obeys_every_check(decoders, graph, lifting):
    information = SYSTEMATIC_COLUMNS[graph] * lifting
    bits = rng_for(8, "ldpc", graph, lifting).integers(0, 2, (2, information), dtype=np.uint8)
    words = ldpc_encode(bits, graph, lifting)
    assert words.shape == (2, COLUMNS[graph] * lifting)
    np.testing.assert_array_equal(words[:, :information], bits)
    rows, columns = decoders.parity_check_edges(graph, lifting)
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    assert not (np.add.reduceat(words[:, columns].astype(int), starts, axis=1) % 2).any()
    np.testing.assert_array_equal(ldpc_encode(bits, graph, lifting, 30), words[:, : 30 * lifting])


@pytest.mark.parametrize(
    ("size", "elements", "index", "layers", "rv", "snr_db"),
    [
        (24, 60, 0, 1, 0, 0.0),
        (208, 400, 1, 1, 0, -2.0),
        (600, 900, 4, 1, 0, -1.0),
        (3824, 3600, 8, 1, 3, 5.0),
        (3752, 1200, 14, 1, 0, 6.5),  # base graph 1, one block
        (3848, 8000, 2, 2, 0, 0.0),  # base graph 2 at a low rate, two blocks and the longer check
        (9992, 2733, 18, 1, 0, 7.0),  # two blocks of unequal output
    ],
)
def test_noisy_round_trip(decoders, size, elements, index, layers, rv, snr_db):
    """Every coded bit is sent antipodally: the SNR is that of a bit."""
    order, rate = mcs_entry(index, "64QAM")
    rng = rng_for(8, "transport", size, index)
    bits = rng.integers(0, 2, (1, size), dtype=np.uint8)
    coded = encode_transport_block(bits, elements * order * layers, rate, order, layers, rv)
    assert coded.shape == (1, elements * order * layers)
    deviation = 10 ** (-snr_db / 20)
    llr = 2 / deviation**2 * (1 - 2.0 * coded[0] + rng.normal(0, deviation, coded.shape[1]))
    decoded = decoders.transport_decode(llr, size, rate, order, layers, rv)
    assert decoded is not None
    np.testing.assert_array_equal(decoded, bits[0])


@pytest.mark.parametrize("rv", [0, 1, 2, 3])
@pytest.mark.parametrize("lbrm", [None, 9000])
def test_redundancy_versions_and_limited_buffer(decoders, rv, lbrm):
    """At a low rate every version decodes by itself; the buffer of 6750 bits ends inside the parity."""
    bits = rng_for(8, "rv", rv).integers(0, 2, (2, 5000), dtype=np.uint8)
    coded = encode_transport_block(bits, 12000, 0.4, 4, 1, rv, lbrm)
    for sent, code in zip(bits, coded, strict=True):
        decoded = decoders.transport_decode(5 * (1 - 2.0 * code), 5000, 0.4, 4, 1, rv, lbrm)
        np.testing.assert_array_equal(decoded, sent)
    other = encode_transport_block(bits, 12000, 0.4, 4, 1, (rv + 1) % 4, lbrm)
    assert (other != coded).any()


def test_scheduled_blocks_split_evenly():
    rng = rng_for(8, "segments")
    for _ in range(200):
        order, rate = mcs_entry(int(rng.integers(0, 28)), "256QAM")
        size = transport_block_size(int(rng.integers(20, 40000)), rate, order, int(rng.integers(1, 5)))
        plan = segmentation(size, rate)
        checks = (24 if size > 3824 else 16) + (24 * plan.blocks if plan.blocks > 1 else 0)
        assert plan.blocks * plan.block_bits == size + checks
        assert plan.block_bits <= plan.filled_bits


def test_largest_transport_block_fits_the_reference_buffer():
    size = lbrm_transport_block_size(273, 4, 8)
    assert segmentation(size, 948 / 1024).blocks * 8448 >= size


@pytest.mark.parametrize(
    ("size", "output", "rate", "order", "rv", "message"),
    [
        (0, 100, 0.5, 2, 0, "at least 1"),
        (100, 300, 1.2, 2, 0, "0 < R < 1"),
        (100, 301, 0.5, 2, 0, "multiple of 2"),
        (100, 0, 0.5, 2, 0, "multiple of 2"),
        (100, 300, 0.5, 3, 0, "1024|10 bits"),
        (100, 300, 0.5, 2, 4, "rv 0 to 3"),
        (8425, 20000, 0.5, 2, 0, "transport_block_size"),
    ],
)
def test_bad_input_names_the_clause(size, output, rate, order, rv, message):
    with pytest.raises(RejectedConfig, match=message):
        encode_transport_block(np.zeros((1, size), np.uint8), output, rate, order, 1, rv)


def test_bad_matrix():
    with pytest.raises(RejectedConfig, match="1 or 2"):
        base_graph_rows(3, 8)
    with pytest.raises(RejectedConfig, match=r"5\.3\.2-1"):
        base_graph_rows(1, 17)
    with pytest.raises(RejectedConfig, match="filler"):
        ldpc_encode(np.zeros((1, 100), np.uint8), 1, 8)
    with pytest.raises(RejectedConfig, match="8448"):
        lifting_size(1, 22, 8449)
