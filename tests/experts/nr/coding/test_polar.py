"""A list decoder written from the standard reads BCH, DCI and UCI, clean and in noise."""

import numpy as np
import pytest

from experts.nr.coding import crc_append, encode_uci, polar_encode
from experts.nr.coding.polar import polar_plan, polar_transform
from experts.nr.coding.polar_tables import INPUT_INTERLEAVER, RELIABILITY, SUB_BLOCKS
from lwm.errors import RejectedConfig
from lwm.seeding import rng_for

CHECKS = {"pbch": "24C", "dci": "24C", "uci": "11"}


def test_tables_are_permutations_and_obey_the_partial_order():
    for table in (RELIABILITY, INPUT_INTERLEAVER, SUB_BLOCKS):
        assert sorted(table.tolist()) == list(range(len(table)))
    rank = np.argsort(RELIABILITY)
    index = np.arange(1024)
    # A position is less reliable than the same one with another bit set.
    for bit in range(10):
        below = index[(index >> bit & 1) == 0]
        assert (rank[below] < rank[below | 1 << bit]).all()


def test_transform_is_the_kronecker_power():
    matrix = np.ones((1, 1), dtype=int)
    for _ in range(6):
        matrix = np.kron(matrix, [[1, 0], [1, 1]])
    u = rng_for(8, "transform").integers(0, 2, (5, 64), dtype=np.uint8)
    np.testing.assert_array_equal(polar_transform(u), u @ matrix % 2)


@pytest.mark.parametrize(
    ("kind", "payload", "output", "snr_db"),
    [
        ("pbch", 32, 864, -7.0),
        ("dci", 12, 108, 0.0),  # puncturing
        ("dci", 40, 108, 4.5),  # shortening
        ("dci", 40, 216, 0.5),
        ("dci", 70, 432, -0.5),
        ("dci", 140, 864, -0.5),
        ("uci", 12, 40, 4.0),  # three parity-check bits
        ("uci", 15, 256, -4.5),  # one of them by row weight
        ("uci", 19, 64, 2.5),
        ("uci", 20, 64, 3.5),
        ("uci", 40, 100, 3.0),
        ("uci", 200, 500, 2.0),
    ],
)
def test_noisy_round_trip(decoders, kind, payload, output, snr_db):
    rng = rng_for(8, "polar", kind, payload, output)
    check = "6" if kind == "uci" and payload <= 19 else CHECKS[kind]
    bits = rng.integers(0, 2, (3, payload), dtype=np.uint8)
    coded = crc_append(bits, check)
    code = polar_encode(coded, output, kind)
    assert code.shape == (3, output)
    deviation = 10 ** (-snr_db / 20)
    llr = 2 / deviation**2 * (1 - 2.0 * code + rng.normal(0, deviation, code.shape))
    for sent, values in zip(bits, llr, strict=True):
        decoded = decoders.polar_decode(values, coded.shape[1], kind, check)
        assert decoded is not None
        np.testing.assert_array_equal(decoded, sent)


@pytest.mark.parametrize(("kind", "bits"), [("dci", 64), ("uci", 18), ("uci", 25), ("uci", 60)])
def test_construction_agrees_with_the_text_over_rates(decoders, kind, bits):
    for output in range(bits + 4, 500, 41):
        size, roles, sent = decoders.polar_construction(bits, output, kind)
        plan = polar_plan(bits, output, kind)
        assert plan.size == size
        np.testing.assert_array_equal(plan.information, np.flatnonzero(roles == 1))
        np.testing.assert_array_equal(plan.parity, np.flatnonzero(roles == 2))
        expected = np.array(sent)[decoders.triangular(output)] if kind == "uci" else sent
        np.testing.assert_array_equal(plan.output, expected)


def test_dci_with_rnti_is_read_only_with_it(decoders):
    bits = rng_for(8, "dci").integers(0, 2, (1, 40), dtype=np.uint8)
    rnti = 0x4601
    code = polar_encode(crc_append(bits, "24C", rnti, ones=True), 216, "dci")
    mask = np.r_[np.zeros(48, int), rnti >> np.arange(15, -1, -1) & 1]

    def descramble(message):
        return np.r_[np.ones(24, int), message ^ mask]

    decoded = decoders.polar_decode(10 * (1 - 2.0 * code[0]), 64, "dci", "24C", scrambling=descramble)
    np.testing.assert_array_equal(decoded, bits[0])
    assert decoders.polar_decode(10 * (1 - 2.0 * code[0]), 64, "dci", "24C") is None


@pytest.mark.parametrize(("size", "output"), [(15, 60), (30, 100), (401, 1089), (1013, 3001)])
def test_uci_is_segmented_as_the_standard_says(decoders, size, output):
    bits = rng_for(8, "uci", size).integers(0, 2, (1, size), dtype=np.uint8)
    llr = 10 * (1 - 2.0 * encode_uci(bits, output)[0])
    segments = 2 if size >= 360 else 1
    check = "6" if size <= 19 else "11"
    per_block = -(-size // segments)
    share = output // segments
    parts = [
        decoders.polar_decode(llr[part * share :][:share], per_block + int(check), "uci", check, paths=1)
        for part in range(segments)
    ]
    decoded = np.concatenate(parts)
    np.testing.assert_array_equal(decoded[len(decoded) - size :], bits[0])
    assert not decoded[: len(decoded) - size].any()


def test_small_uci_is_a_small_block():
    assert encode_uci([[1, 0, 1, 1]], 40).shape == (1, 40)


@pytest.mark.parametrize(
    ("bits", "output", "kind"),
    [(64, 60, "dci"), (165, 864, "dci"), (56, 864, "bch"), (17, 100, "uci"), (28, 100, "uci"), (18, 20, "uci")],
)
def test_bad_sizes_name_the_clause(bits, output, kind):
    with pytest.raises(RejectedConfig, match=r"TS 38\.212 5\."):
        polar_encode(np.zeros((1, bits), np.uint8), output, kind)
    with pytest.raises(RejectedConfig, match="1706"):
        encode_uci(np.zeros((1, 1707), np.uint8), 8000)
