"""OFDM modulation: prefixes of the standard, Parseval, cyclic prefix, subcarrier places."""

import numpy as np
import pytest

from lwm.phy.ofdm import cp_lengths, modulate
from lwm.seeding import rng_for

PLANS = [(128, 0, False), (512, 0, True), (1536, 0, False), (2048, 0, False), (1024, 1, False), (1024, 2, True)]


def _grid(symbols, subcarriers):
    rng = rng_for(0, "ofdm", symbols, subcarriers)
    return (rng.standard_normal((symbols, subcarriers, 2)) @ np.array([1, 1j])).astype(np.complex64)


def test_prefixes_of_the_standard():
    # TS 36.211 table 6.12-1 at 30.72 MHz; TS 38.211 clause 5.3.1 with mu = 1: 144 kappa 2^-mu + 16 kappa.
    assert cp_lengths(2048) == (160, *[144] * 6)
    assert cp_lengths(2048, extended=True) == (512,) * 6
    assert cp_lengths(2048, numerology=1) == (144 + 32, *[144] * 13)


@pytest.mark.parametrize(("n_fft", "numerology", "extended"), PLANS)
def test_half_a_millisecond_is_exact(n_fft, numerology, extended):
    prefixes = cp_lengths(n_fft, numerology, extended)
    rate = n_fft * 15e3 * 2**numerology
    assert sum(prefixes) + len(prefixes) * n_fft == rate * 0.5e-3


@pytest.mark.parametrize("dc_null", [False, True])
@pytest.mark.parametrize(("n_fft", "numerology", "extended"), PLANS)
def test_parseval_prefix_and_places(n_fft, numerology, extended, dc_null):
    prefixes = cp_lengths(n_fft, numerology, extended)
    subcarriers = 12 * (n_fft // 24)
    grid = _grid(2 * len(prefixes), subcarriers)
    samples = modulate(grid, n_fft, prefixes, dc_null=dc_null)
    assert samples.dtype == np.complex64
    offsets = np.r_[-subcarriers // 2 : 0, 0 : subcarriers // 2]
    offsets[subcarriers // 2 :] += dc_null
    place = 0
    for symbol, prefix in enumerate(prefixes * 2):
        body = samples[place + prefix : place + prefix + n_fft]
        np.testing.assert_array_equal(samples[place : place + prefix], body[n_fft - prefix :])
        assert np.sum(np.abs(body) ** 2) == pytest.approx(np.sum(np.abs(grid[symbol]) ** 2), rel=1e-4)
        bins = np.fft.fft(body, norm="ortho")
        np.testing.assert_allclose(bins[offsets], grid[symbol], atol=1e-4)
        place += prefix + n_fft
    assert place == samples.size


def test_one_subcarrier_is_one_tone():
    grid = np.zeros((7, 12), dtype=np.complex64)
    grid[:, 8] = 1
    samples = modulate(grid, 128, cp_lengths(128))[10:138]
    # Subcarrier 8 of 12 is two above the centre: two turns in a symbol of 128 samples.
    np.testing.assert_allclose(samples, np.exp(2j * np.pi * 2 * np.arange(128) / 128) / np.sqrt(128), atol=1e-6)
