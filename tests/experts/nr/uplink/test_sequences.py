"""Low-PAPR sequences against closed properties and against the clause written out (TS 38.211 clause 5.2.2)."""

import cmath
import math

import numpy as np
import pytest

from experts.nr.uplink.phi import PHI
from experts.nr.uplink.sequences import base_sequence, chosen_by_symbol, chosen_pucch, largest_prime_below, shifts
from lwm.phy.sequences import gold

OVERSAMPLING = 16


def peak_to_mean(sequences: np.ndarray) -> np.ndarray:
    """Peak to mean power in dB of each row sent on neighbouring subcarriers."""
    length = sequences.shape[1]
    power = np.abs(np.fft.ifft(sequences, OVERSAMPLING * length, axis=1)) ** 2
    return 10 * np.log10(power.max(axis=1) / power.mean(axis=1))


@pytest.mark.parametrize(("length", "ceiling"), [(6, 3.8), (12, 2.9), (18, 2.9), (24, 2.9)])
def test_the_tables_hold_low_papr_sequences(length: int, ceiling: float) -> None:
    phi = PHI[length]
    assert phi.shape == (30, length)
    assert set(np.unique(phi)) == {-3, -1, 1, 3}
    assert len({tuple(row) for row in phi.tolist()}) == 30
    sequences = np.exp(1j * np.pi * phi / 4)
    assert peak_to_mean(sequences).max() < ceiling
    # No two rows are nearly one.
    across = np.abs(sequences.conj() @ sequences.T) / length - np.eye(30)
    assert across.max() < 0.9
    # The ceiling tells: random rows of the same alphabet have far higher peaks.
    random = np.exp(1j * np.pi * np.random.default_rng(1).choice([-3, -1, 1, 3], (1000, length)) / 4)
    assert np.median(peak_to_mean(random)) > ceiling


@pytest.mark.parametrize("length", [12, 18, 24])
def test_a_slip_in_a_table_shows_in_the_peaks(length: int) -> None:
    phi = PHI[length]
    slips = []
    for position in range(length):
        for step in (2, 4, 6):
            other = phi.astype(int).copy()
            other[:, position] = (other[:, position] + 3 + step) % 8 - 3
            slips.append(peak_to_mean(np.exp(1j * np.pi * other / 4)) > 2.9)
    # Share of all slips of one entry that break the ceiling of the test above (its power against a misprint).
    assert np.mean(slips) > 0.75


def test_long_base_sequences_follow_the_formula() -> None:
    for length in (30, 36, 60, 72, 96, 144, 3264):
        for u in (0, 7, 29):
            for v in (0, 1):
                naive = []
                n_zc = max(p for p in range(2, length) if all(p % d for d in range(2, math.isqrt(p) + 1)))
                q_bar = n_zc * (u + 1) / 31
                q = math.floor(q_bar + 0.5) + (v if length >= 72 else 0) * (-1) ** math.floor(2 * q_bar)
                for n in range(length):
                    if length == 30:
                        naive.append(cmath.exp(-1j * math.pi * (u + 1) * (n + 1) * (n + 2) / 31))
                    else:
                        m = n % n_zc
                        naive.append(cmath.exp(-1j * math.pi * q * m * (m + 1) / n_zc))
                np.testing.assert_allclose(base_sequence(u, v, length), naive, atol=2e-5)


@pytest.mark.parametrize("length", [36, 72, 120, 600])
def test_one_period_of_a_long_sequence_has_zero_autocorrelation(length: int) -> None:
    prime = largest_prime_below(length)
    period = np.asarray(base_sequence(11, 0, length)[:prime], dtype=complex)
    spectrum = np.fft.fft(period)
    correlation = np.abs(np.fft.ifft(np.abs(spectrum) ** 2)) / prime
    assert correlation[0] == pytest.approx(1, abs=1e-4)
    assert correlation[1:].max() < 1e-3


def test_cyclic_shifts_are_orthogonal() -> None:
    turned = base_sequence(3, 0, 12) * shifts(12, np.arange(12) / 12)
    np.testing.assert_allclose(turned.conj() @ turned.T, 12 * np.eye(12), atol=1e-4)


def test_group_and_sequence_hopping_of_pucch() -> None:
    n_id = 317
    c_group, c_sequence = gold(n_id // 30, 8 * 2 * 20), gold(32 * (n_id // 30) + n_id % 30, 2 * 20)
    for slot in (0, 3, 19):
        for hop in (0, 1):
            f_gh = sum(2**m * int(c_group[8 * (2 * slot + hop) + m]) for m in range(8)) % 30
            assert chosen_pucch("group", n_id, slot, hop, 20) == ((f_gh + n_id % 30) % 30, 0)
            assert chosen_pucch("sequence", n_id, slot, hop, 20) == (n_id % 30, c_sequence[2 * slot + hop])
            assert chosen_pucch("neither", n_id, slot, hop, 20) == (n_id % 30, 0)


def test_group_and_sequence_hopping_by_symbol() -> None:
    n_id, symbol = 401, 14 * 7 + 3
    c = gold(n_id, 8 * 280)
    f_gh = sum(2**m * int(c[8 * symbol + m]) for m in range(8)) % 30
    assert chosen_by_symbol("group", n_id, n_id, symbol, 280, 72) == ((f_gh + n_id) % 30, 0)
    assert chosen_by_symbol("sequence", n_id, n_id, symbol, 280, 72) == (n_id % 30, c[symbol])
    assert chosen_by_symbol("sequence", n_id, n_id, symbol, 280, 66) == (n_id % 30, 0)
