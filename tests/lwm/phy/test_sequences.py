"""Gold sequence against the recursion of TS 36.211 clause 7.2, one bit at a time."""

import numpy as np
import pytest

from lwm.phy.sequences import gold


def _naive(c_init: int, length: int) -> list[int]:
    x1 = [1] + [0] * 30
    x2 = [c_init >> bit & 1 for bit in range(31)]
    for n in range(1600 + length):
        x1.append(x1[n + 3] ^ x1[n])
        x2.append(x2[n + 3] ^ x2[n + 2] ^ x2[n + 1] ^ x2[n])
    return [x1[n + 1600] ^ x2[n + 1600] for n in range(length)]


@pytest.mark.parametrize("c_init", [0, 1, 301, 2**31 - 1, 0x2AAAAAAA])
@pytest.mark.parametrize("length", [1, 27, 28, 29, 440, 9000])
def test_gold_is_the_recursion(c_init, length):
    values = gold(c_init, length)
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values, _naive(c_init, length))
