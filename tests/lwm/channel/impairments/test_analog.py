"""IQ imbalance, power amplifier and DC offset against closed forms."""

import numpy as np
import pytest

from lwm.channel.impairments import DCOffset, IQImbalance, PowerAmplifier, impair
from lwm.seeding import rng_for

RATE = 7.68e6


def one(iq, *impairments, seed=0):
    """One row through impairments: samples and what was measured by the last."""
    out, facts = impair(iq[None], RATE, [impairments], [rng_for(seed)])
    return out[0], facts[0][-1]["measured"]


def tone(bin_number, samples=4096):
    return np.exp(2j * np.pi * bin_number * np.arange(samples) / samples).astype(np.complex64)


@pytest.mark.parametrize(("gain_db", "phase_deg"), [(3.0, 15.0), (0.5, -2.0), (-1.0, 0.0), (0.0, 5.0)])
def test_image_of_a_tone_has_the_level_of_the_closed_form(gain_db, phase_deg):
    found, facts = one(tone(300), IQImbalance(gain_db, phase_deg))
    lines = np.abs(np.fft.fft(found)) ** 2
    gain, cosine = 10 ** (gain_db / 20), np.cos(np.radians(phase_deg))
    rejection = 10 * np.log10((1 + 2 * gain * cosine + gain**2) / (1 - 2 * gain * cosine + gain**2))
    assert 10 * np.log10(lines[300] / lines[-300]) == pytest.approx(rejection, abs=0.01)
    assert facts["image_rejection_db"] == pytest.approx(rejection, abs=1e-6)
    assert np.mean(np.abs(found) ** 2) == pytest.approx(1, abs=1e-5)


def test_imbalance_is_that_between_the_branches():
    found, _ = one(tone(300).astype(np.complex128), IQImbalance(2.0, 10.0))
    i, q = found.real.astype(float), found.imag.astype(float)
    # y = (direction of the I branch) cos + (direction of the Q branch) sin.
    along = [2 * np.mean(found * wave) for wave in (tone(300).real, tone(300).imag)]
    assert 20 * np.log10(abs(along[0]) / abs(along[1])) == pytest.approx(2.0, abs=1e-3)
    assert np.degrees(np.angle(along[1] / along[0])) == pytest.approx(100.0, abs=1e-2)
    assert np.mean(i * i + q * q) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("smoothness", [0.5, 1.0, 3.0, 10.0])
def test_amplifier_follows_rapps_curve_up_to_saturation(smoothness):
    level_db = np.linspace(-40, 60, 401)
    amplitude = 10 ** (level_db / 20)
    phase = np.exp(1j * np.linspace(0, 6, 401))
    iq = (amplitude * phase).astype(np.complex64)
    # From 70 dB below saturation to 30 dB above it.
    found, facts = one(iq, PowerAmplifier(smoothness, -10.0))
    saturation = facts["saturation_amplitude"]
    drive = amplitude / saturation
    wanted = amplitude / (1 + drive ** (2 * smoothness)) ** (1 / (2 * smoothness))
    assert np.max(np.abs(np.abs(found) / wanted - 1)) < 1e-5
    assert np.max(np.abs(np.angle(found * phase.conj()))) < 1e-5
    assert np.abs(found).max() <= saturation * (1 + 1e-5)


def test_saturation_is_the_back_off_over_the_mean_power_and_evm_is_measured():
    rng = np.random.default_rng(1)
    iq = (3 * (rng.standard_normal(20000) + 1j * rng.standard_normal(20000))).astype(np.complex64)
    found, facts = one(iq, PowerAmplifier(1.0, 4.0))
    assert 20 * np.log10(facts["saturation_amplitude"] / np.sqrt(np.mean(np.abs(iq) ** 2))) == pytest.approx(
        4, abs=1e-4
    )
    gain = np.vdot(iq, found) / np.vdot(iq, iq)
    evm = np.linalg.norm(found - gain * iq) / np.linalg.norm(gain * iq)
    assert facts["evm_percent"] == pytest.approx(100 * evm, rel=1e-3)
    assert facts["gain_db"] == pytest.approx(20 * np.log10(abs(gain)), abs=1e-3)


def test_offset_has_its_level_and_phase():
    iq = 5 * tone(100)
    found, facts = one(iq, DCOffset(-20.0, 30.0))
    offset = np.mean(found.astype(np.complex128))
    assert 20 * np.log10(abs(offset) / 5) == pytest.approx(-20, abs=1e-3)
    assert np.degrees(np.angle(offset)) == pytest.approx(30, abs=1e-2)
    assert facts["offset_amplitude"] == pytest.approx(0.5, rel=1e-5)


def test_silence_stays_silence():
    silence = np.zeros(1000, dtype=np.complex64)
    found, _ = one(silence, IQImbalance(3.0, 15.0), PowerAmplifier(1.0, 2.0), DCOffset(-10.0, 0.0))
    assert not found.any()
