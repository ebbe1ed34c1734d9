"""The SNR that was asked for, by each of its definitions."""

import numpy as np
import pytest
import torch

from lwm.channel import MOBILITY, add_noise, draw_speed
from lwm.channel.noise import active_samples, occupied_band
from lwm.errors import CaptureError, ConfigError
from lwm.seeding import rng_for
from lwm.signal.capture import Emission

RATE = 10e6
BURST = Emission("x", start=2e-3, stop=5e-3, low=-1e6, high=1.5e6)


def burst_signal(samples=100_000):
    """Power 4 from 2 to 5 ms, nothing else, all inside 2.5 MHz."""
    iq = np.zeros(samples, dtype=np.complex64)
    iq[20_000:50_000] = 2 * np.exp(2j * np.pi * 0.05 * np.arange(30_000))
    return iq


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 25.0])
def test_capture_snr_is_met(snr_db):
    iq = burst_signal()
    noisy, [facts] = add_noise(iq, snr_db, rng_for(1), "capture")
    noise = np.mean(np.abs(noisy - iq) ** 2)
    assert 10 * np.log10(np.mean(np.abs(iq) ** 2) / noise) == pytest.approx(snr_db, abs=0.1)
    assert facts["noise_power_measured"] == pytest.approx(noise, rel=1e-3)
    assert facts["snr_achieved_db"] == pytest.approx(10 * np.log10(np.mean(np.abs(iq) ** 2) / noise), abs=1e-3)
    assert facts["signal_power"] == pytest.approx(4 * 0.3, rel=1e-5)
    assert noisy.dtype == np.complex64


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 25.0])
def test_emission_snr_is_met_in_its_time_and_band(snr_db):
    iq = burst_signal()
    noisy, [facts] = add_noise(iq, snr_db, rng_for(2), "emission", [BURST], RATE)
    spectrum = np.abs(np.fft.fft(noisy - iq)) ** 2 / len(iq) ** 2
    frequency = np.fft.fftfreq(len(iq), 1 / RATE)
    inside = spectrum[(frequency >= -1e6) & (frequency < 1.5e6)].sum()
    assert 10 * np.log10(4 / inside) == pytest.approx(snr_db, abs=0.1)
    assert facts["active_share"] == pytest.approx(0.3)
    assert facts["occupied_share"] == pytest.approx(0.25)
    assert facts["noise_power"] == pytest.approx(4 / 10 ** (snr_db / 10) / 0.25, rel=1e-5)


def test_noise_is_white_circular_and_from_the_generator_alone():
    iq = np.ones(200_000, dtype=np.complex64)
    noisy, [facts] = add_noise(iq, 0.0, rng_for(3))
    noise = noisy - iq
    assert np.abs(np.mean(noise**2)) < 0.01
    assert np.abs(np.mean(noise[1:] * noise[:-1].conj())) < 0.01
    assert facts["noise_power_measured"] == pytest.approx(1.0, abs=0.01)
    np.testing.assert_array_equal(noisy, add_noise(iq, 0.0, rng_for(3))[0])


def test_rows_of_a_batch_are_what_they_are_alone_on_numpy_and_torch():
    rows = np.stack([burst_signal(), 3 * burst_signal()])
    snrs = [0.0, 20.0]
    noisy, facts = add_noise(rows, snrs, [rng_for(4, i) for i in range(2)], "emission", [BURST], RATE)
    for index, (row, snr_db) in enumerate(zip(rows, snrs, strict=True)):
        alone, [said] = add_noise(row, snr_db, rng_for(4, index), "emission", [BURST], RATE)
        np.testing.assert_array_equal(noisy[index], alone)
        assert said == facts[index]
        assert said["snr_achieved_db"] == pytest.approx(snr_db, abs=0.1)
    on_torch, said = add_noise(
        torch.from_numpy(rows), snrs, [rng_for(4, i) for i in range(2)], "emission", [BURST], RATE
    )
    np.testing.assert_allclose(on_torch.numpy(), noisy, rtol=1e-6, atol=1e-6)
    achieved = [fact["snr_achieved_db"] for fact in said]
    assert achieved == pytest.approx([fact["snr_achieved_db"] for fact in facts], abs=1e-6)


def test_one_snr_and_generator_a_row():
    with pytest.raises(ConfigError, match="2 SNRs and 1 generators for 3 rows"):
        add_noise(np.ones((3, 10), np.complex64), [0.0, 1.0], [rng_for(0)])


def test_unions_of_boxes():
    boxes = [
        Emission("a", start=0.0, stop=2.0, low=-10.0, high=0.0),
        Emission("b", start=1.0, stop=3.0, low=-5.0, high=5.0),
        Emission("c", start=6.0, stop=99.0, low=20.0, high=99.0),
    ]
    np.testing.assert_array_equal(active_samples(boxes, 8, 1.0), [1, 1, 1, 0, 0, 0, 1, 1])
    assert occupied_band(boxes, 60.0) == pytest.approx(15 + 10)


@pytest.mark.parametrize("snr_db", [-61.0, 101.0, float("nan")])
def test_snr_out_of_range_is_refused_with_the_range(snr_db):
    with pytest.raises(ConfigError, match="expected -60 to 100 dB"):
        add_noise(burst_signal(), snr_db, rng_for(0))


def test_what_a_definition_needs_is_asked_for():
    iq = burst_signal()
    with pytest.raises(CaptureError, match="without emissions or sample rate"):
        add_noise(iq, 0.0, rng_for(0), "emission", [], RATE)
    with pytest.raises(CaptureError, match="signal of power 0"):
        add_noise(iq, 0.0, rng_for(0), "emission", [Emission("x", start=6e-3, stop=7e-3, low=0, high=1e6)], RATE)
    with pytest.raises(CaptureError, match="signal of power 0"):
        add_noise(np.zeros(0, np.complex64), 0.0, rng_for(0))
    with pytest.raises(ConfigError, match="SNR reference"):
        add_noise(iq, 0.0, rng_for(0), "peak")


def test_speeds_lie_in_their_class():
    assert {name: draw_speed(name, rng_for(0)) for name in ("static", "pedestrian")} == {"static": 0, "pedestrian": 3}
    speeds = [draw_speed("vehicular", rng_for(0, index)) for index in range(200)]
    low, high = MOBILITY["vehicular"]
    assert low <= min(speeds) < low + 10
    assert high - 10 < max(speeds) <= high
    with pytest.raises(ConfigError, match="one of .*'pedestrian'"):
        draw_speed("flying", rng_for(0))
