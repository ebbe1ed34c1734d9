"""SRS against TS 38.211 clause 6.4.1.4 written out, and found by correlation at its place and nowhere else."""

import cmath
import math

import numpy as np
import pytest

from experts.nr.uplink.grid import Carrier, resource_grid
from experts.nr.uplink.sequences import base_sequence
from experts.nr.uplink.srs import BANDWIDTHS, CYCLIC_SHIFTS, DIVISIONS, SRS, first_resource_block, srs
from lwm.errors import RejectedConfig
from lwm.phy.sequences import gold

CARRIER = Carrier(pci=5, mu=1, n_rb=106)


def naive(carrier: Carrier, slot: int, resource: SRS) -> np.ndarray:
    """One slot's grid ``[symbols, subcarriers]``, clause by clause, element by element."""
    grid = np.zeros((carrier.symbols, 12 * carrier.n_rb), dtype=complex)
    if (slot - resource.period[1]) % resource.period[0]:
        return grid
    (k_tc, comb), (c_srs, b_srs, b_hop) = resource.comb, resource.bandwidth
    m_srs = BANDWIDTHS[c_srs]
    length = int(m_srs[b_srs]) * 12 // k_tc
    n_sf = slot % carrier.frame_slots
    alpha = 2 * math.pi * resource.cyclic_shift / CYCLIC_SHIFTS[k_tc]
    l_0 = carrier.symbols - 1 - resource.offset
    c = gold(resource.n_id, 8 * carrier.symbols * carrier.frame_slots)
    for l_prime in range(resource.symbols):
        number = n_sf * carrier.symbols + l_0 + l_prime
        f_gh, v = 0, 0
        if resource.hopping == "group":
            f_gh = sum(2**m * int(c[8 * number + m]) for m in range(8)) % 30
        elif resource.hopping == "sequence" and length >= 72:
            v = int(c[number])
        base = base_sequence((f_gh + resource.n_id) % 30, v, length)
        n_srs = (slot - resource.period[1]) // resource.period[0] * (resource.symbols // resource.repetition)
        n_srs += l_prime // resource.repetition
        k_0 = 12 * resource.shift + comb
        for b in range(b_srs + 1):
            n_rrc = 4 * resource.position // int(m_srs[b])
            divisions = int(DIVISIONS[c_srs, b])
            if b_hop >= b_srs or b <= b_hop:
                n_b = n_rrc % divisions
            else:
                before = math.prod(int(DIVISIONS[c_srs, level]) for level in range(b_hop + 1, b))
                if divisions % 2 == 0:
                    turn = n_srs % (before * divisions)
                    f_b = divisions // 2 * (turn // before) + turn // (2 * before)
                else:
                    f_b = divisions // 2 * (n_srs // before)
                n_b = (f_b + n_rrc) % divisions
            k_0 += 12 * int(m_srs[b]) * n_b
        for k in range(length):
            grid[l_0 + l_prime, k_0 + k_tc * k] = base[k] * cmath.exp(1j * alpha * k)
    return grid


CASES = [
    SRS(),
    SRS(comb=(4, 3), cyclic_shift=7, bandwidth=(25, 2, 0), position=9, symbols=4, offset=3, period=(5, 2), n_id=77),
    SRS(comb=(8, 5), cyclic_shift=4, bandwidth=(17, 3, 1), shift=20, symbols=2, offset=6, period=(4, 1), n_id=1000),
    SRS(comb=(2, 1), bandwidth=(13, 1, 3), shift=3, position=12, period=(1, 0), hopping="group", n_id=31),
    SRS(
        comb=(2, 1), bandwidth=(24, 1, 0), symbols=4, offset=4, repetition=2, period=(2, 1), hopping="sequence", n_id=9
    ),
    SRS(comb=(4, 0), bandwidth=(11, 3, 0), symbols=4, offset=3, repetition=4, period=(8, 3)),
]


@pytest.mark.parametrize("resource", CASES)
def test_a_resource_is_the_clause_written_out(resource: SRS) -> None:
    resource.validate(CARRIER)
    slots = np.arange(3, 43)
    grid = resource_grid(CARRIER, len(slots), srs(CARRIER, slots, resource))
    for row, slot in enumerate(slots.tolist()):
        np.testing.assert_allclose(grid[row], naive(CARRIER, slot, resource), atol=2e-5)


def test_the_bandwidth_table_is_a_tree() -> None:
    assert BANDWIDTHS.shape == (64, 4)
    assert (BANDWIDTHS[:, :-1] == BANDWIDTHS[:, 1:] * DIVISIONS[:, 1:]).all()
    assert (BANDWIDTHS % 4 == 0).all()
    # Wider and wider, from 4 to 272 resource blocks (TS 38.214 clause 6.2.1).
    assert (np.diff(BANDWIDTHS[:, 0]) >= 0).all()
    assert (BANDWIDTHS[0, 0], BANDWIDTHS[-1, 0]) == (4, 272)
    # Rows of the table as printed: C_SRS 9, 28, 55 and 63.
    assert BANDWIDTHS[[9, 28, 55, 63]].tolist() == [[32, 16, 8, 4], [120, 40, 8, 4], [240, 48, 16, 8], [272, 16, 8, 4]]


@pytest.mark.parametrize("c_srs", range(0, 64, 3))
def test_hopping_sounds_the_whole_band_once_in_a_cycle(c_srs: int) -> None:
    resource = SRS(bandwidth=(c_srs, 3, 0))
    cycle = int(BANDWIDTHS[c_srs, 0] // BANDWIDTHS[c_srs, 3])
    first = first_resource_block(resource, np.arange(cycle))
    assert sorted(first.tolist()) == list(range(0, int(BANDWIDTHS[c_srs, 0]), int(BANDWIDTHS[c_srs, 3])))


def test_each_of_eight_resources_is_found_at_its_place_and_nowhere_else() -> None:
    resources = [
        SRS(comb=(4, offset), cyclic_shift=shift, bandwidth=(9, 1, 3), position=4 * place, period=(2, 0), n_id=40)
        for offset, shift, place in [
            (0, 0, 0),
            (0, 6, 0),
            (1, 3, 0),
            (2, 0, 0),
            (3, 9, 0),
            (0, 0, 1),
            (1, 0, 1),
            (2, 5, 1),
        ]
    ]
    grid = sum(resource_grid(CARRIER, 2, srs(CARRIER, np.arange(2), resource)) for resource in resources)
    base = base_sequence(40 % 30, 0, 48).conj() / 48
    windows = np.lib.stride_tricks.sliding_window_view(grid, 189, axis=2)[..., ::4]
    # Zero-lag correlation with each of the twelve cyclic shifts, at every slot, symbol and first subcarrier.
    peak = np.abs(np.fft.fft(windows * base))[..., ::4]
    found = set(map(tuple, np.argwhere(peak > 0.99).tolist()))
    # One step of the comb aside, a Zadoff-Chu sequence is nearly itself at a shift between two of the twelve.
    assert peak[peak <= 0.99].max() < 0.96
    truth = {(0, 13, r.comb[1] + 192 * (r.position // 4), r.cyclic_shift) for r in resources}
    assert found == truth


def test_orthogonal_shifts_share_a_comb() -> None:
    grids = [
        resource_grid(CARRIER, 1, srs(CARRIER, np.array([0]), SRS(comb=(8, 2), cyclic_shift=shift))).reshape(-1)
        for shift in range(6)
    ]
    gram = np.array([[np.vdot(a, b) for b in grids] for a in grids])
    np.testing.assert_allclose(gram, 48 * np.eye(6), atol=1e-3)


@pytest.mark.parametrize(
    ("resource", "clause", "nearest"),
    [
        (SRS(comb=(3, 0)), "6.4.1.4.2", "nearest is 2"),
        (SRS(comb=(2, 2)), "6.4.1.4.3", "nearest is 1"),
        (SRS(comb=(8, 0), cyclic_shift=6), "6.4.1.4.2-1", "nearest is 5"),
        (SRS(bandwidth=(63, 0, 0)), "6.4.1.4.3-1", "nearest is 25"),
        (SRS(bandwidth=(25, 0, 0), shift=3), "6.4.1.4.3", "nearest is 2"),
        (SRS(symbols=3), "6.4.1.4.1", "nearest is 2"),
        (SRS(symbols=4, offset=2), "6.4.1.4.1", "nearest is 3"),
        (SRS(symbols=2, offset=1, repetition=4), "6.4.1.4.3", "nearest is 2"),
        (SRS(period=(7, 0)), "6.4.1.4.4", "nearest is 8"),
        (SRS(period=(4, 4)), "6.4.1.4.4", "nearest is 3"),
        (SRS(n_id=1024), "6.4.1.4.2", "nearest is 1023"),
    ],
)
def test_what_the_standard_lacks_is_refused(resource: SRS, clause: str, nearest: str) -> None:
    with pytest.raises(RejectedConfig, match=nearest) as caught:
        resource.validate(CARRIER)
    assert clause in str(caught.value)
