"""The (32, K) code has the distances of its Reed-Muller construction, and a correlator reads it in noise."""

import numpy as np
import pytest

from experts.nr.coding import PLACEHOLDER_X, PLACEHOLDER_Y, small_block_encode
from lwm.errors import RejectedConfig
from lwm.seeding import rng_for


def messages(size):
    return (np.arange(2**size)[:, None] >> np.arange(size) & 1).astype(np.uint8)


def test_first_six_sequences_are_the_first_order_reed_muller_code():
    weights = small_block_encode(messages(6), 32).sum(axis=1)
    assert np.unique(weights, return_counts=True)[0].tolist() == [0, 16, 32]
    assert (weights == 16).sum() == 62


@pytest.mark.parametrize(("size", "distance"), [(10, 12), (11, 10)])
def test_minimum_distance(size, distance):
    weights = small_block_encode(messages(size), 32).sum(axis=1)
    assert weights[weights > 0].min() == distance


@pytest.mark.parametrize(("size", "output"), [(3, 32), (7, 48), (11, 64), (11, 100)])
def test_correlator_reads_noisy_words(size, output):
    rng = rng_for(8, "small block", size, output)
    book = messages(size)
    sent = rng.integers(0, len(book), 50)
    signal = 1 - 2.0 * small_block_encode(book[sent], output)
    received = signal + rng.normal(0, 0.7, signal.shape)
    correlation = received @ (1 - 2.0 * small_block_encode(book, output)).T
    assert (correlation.argmax(axis=1) == sent).all()


def test_one_and_two_bits():
    c0, c1 = 1, 0
    assert small_block_encode([[1]], 4).tolist() == [[1, 1, 1, 1]]
    assert small_block_encode([[c0, c1]], 7).tolist() == [[1, 0, 1, 1, 0, 1, 1]]
    x, y = PLACEHOLDER_X, PLACEHOLDER_Y
    assert small_block_encode([[c0]], 8, 4).tolist() == [[1, y, x, x, 1, y, x, x]]
    assert small_block_encode([[c0, c1]], 6, 2).tolist() == [[1, 0, 1, 1, 0, 1]]
    assert small_block_encode([[c0, c1]], 12, 4).tolist() == [[1, 0, x, x, 1, 1, x, x, 0, 1, x, x]]


@pytest.mark.parametrize(("size", "output", "order"), [(0, 32, 1), (12, 32, 1), (3, 0, 1), (1, 8, 3)])
def test_bad_sizes(size, output, order):
    with pytest.raises(RejectedConfig, match=r"5\.3\.3"):
        small_block_encode(np.zeros((1, size), np.uint8), output, order)
