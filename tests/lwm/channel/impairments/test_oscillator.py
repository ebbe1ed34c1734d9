"""Frequency offset, phase noise and spurs against closed forms; statistical tests state their error."""

import numpy as np
import pytest
from scipy.signal import welch

from lwm.channel.impairments import CarrierFrequencyOffset, PhaseNoise, Spurs, impair
from lwm.seeding import rng_for

RATE = 7.68e6


def one(iq, impairment, rate=RATE, seed=0):
    out, facts = impair(iq[None], rate, [[impairment]], [rng_for(seed)])
    return out[0], facts[0][0]["measured"]


@pytest.mark.parametrize("offset", [5e3, -123.4567, 1.9e6])
@pytest.mark.parametrize("samples", [1000, 1024, 50_001])
def test_offset_moves_a_signal_by_exactly_that(offset, samples):
    rng = np.random.default_rng(2)
    iq = (rng.standard_normal(samples) + 1j * rng.standard_normal(samples)).astype(np.complex64)
    found, facts = one(iq, CarrierFrequencyOffset(offset))
    wanted = iq * np.exp(2j * np.pi * offset / RATE * np.arange(samples))
    assert np.max(np.abs(found - wanted) / np.abs(iq)) < 2e-6
    assert facts["cycles"] == pytest.approx(offset * samples / RATE)


@pytest.mark.parametrize("corner", [10e3, 100e3, 1e6])
def test_phase_noise_has_the_variance_and_spectrum_of_its_model(corner):
    impairment = PhaseNoise(-95.0, corner)
    samples = 1 << 20
    phase = np.angle(np.stack([one(np.ones(samples, dtype=np.complex64), impairment, seed=s)[0] for s in range(4)]))
    # The variance of a mean square over T with correlation time 1 / (2 pi corner) has the relative standard deviation
    # sqrt(1 / (pi corner T)): 0.8 % or less over the four captures, and four of those are allowed; the straight
    # lines take up to 2.6 % of the power at 40 grid points a corner.
    corner_time = np.pi * corner * 4 * samples / RATE
    ratio = np.mean(phase**2) / impairment.rms_rad**2
    assert 1 - 4 / np.sqrt(corner_time) - 0.05 < ratio < 1 + 4 / np.sqrt(corner_time)
    frequency, spectrum = welch(phase, RATE, nperseg=1 << 14, axis=-1)
    # One-sided density of the phase is twice the single-sideband level; sampling folds it.
    folded = frequency[:, None] + RATE * np.arange(-50, 51)
    model = np.sum(2 * 10 ** (-95 / 10) / (1 + (folded / corner) ** 2), axis=1)
    for low, high in ((2e3, corner / 2), (corner / 2, 2 * corner), (2 * corner, min(6 * corner, RATE / 8))):
        band = (frequency > low) & (frequency < high)
        if np.count_nonzero(band) > 8:
            # About 500 segments and 8 bins or more: 1.6 % standard deviation or less, 0.3 dB allowed.
            assert abs(10 * np.log10(spectrum.mean(0)[band].mean() / model[band].mean())) < 0.3, (low, high)


def test_phase_noise_keeps_the_power_and_states_its_rms():
    iq = np.ones(200_000, dtype=np.complex64)
    found, facts = one(iq, PhaseNoise(-80.0, 300e3))
    assert np.mean(np.abs(found) ** 2) == pytest.approx(1, abs=5e-3)
    measured = np.degrees(np.sqrt(np.mean(np.angle(found) ** 2)))
    assert facts["rms_measured_deg"] == pytest.approx(measured, rel=0.02)
    assert facts["rms_model_deg"] == pytest.approx(np.degrees(np.sqrt(np.pi * 1e-8 * 300e3)))


def test_spurs_stand_at_their_level_and_frequency():
    samples = 1 << 15
    rng = np.random.default_rng(3)
    iq = (rng.standard_normal(samples) + 1j * rng.standard_normal(samples)).astype(np.complex64)
    found, facts = one(iq, Spurs(3, -25.0))
    added = found.astype(np.complex128) - iq
    time = np.arange(samples) / RATE
    waves = np.exp(2j * np.pi * np.array(facts["frequencies_hz"])[:, None] * time)
    amplitudes, *_ = np.linalg.lstsq(waves.T, added, rcond=None)
    reference = np.mean(np.abs(iq) ** 2)
    assert 10 * np.log10(np.abs(amplitudes) ** 2 / reference) == pytest.approx([-25.0] * 3, abs=0.01)
    assert np.linalg.norm(added - amplitudes @ waves) < 1e-4 * np.linalg.norm(added)
