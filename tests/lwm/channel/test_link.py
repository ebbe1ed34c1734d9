"""The whole link: order of its parts, batch against rows alone, numpy against torch, and what the facts say."""

import numpy as np
import pytest
import torch

from lwm.channel import TDLDraw, add_noise, apply_channel
from lwm.channel.impairments import (
    FAMILIES,
    AdjacentChannelInterferer,
    CarrierFrequencyOffset,
    DCOffset,
    IQImbalance,
    PowerAmplifier,
)
from lwm.channel.link import Conditions, receive
from lwm.channel.sites import SiteDraw
from lwm.errors import CaptureError, ConfigError
from lwm.seeding import rng_for
from lwm.signal.capture import Emission
from lwm.signal.resample import shift

RATE = 7.68e6
SAMPLES = 20_000


def waveform():
    """Unit-power noise in half the band."""
    white = rng_for(0, "waveform").standard_normal((SAMPLES, 2), dtype=np.float32).view(np.complex64)[:, 0]
    spectrum = np.fft.fft(white)
    spectrum[np.abs(np.fft.fftfreq(SAMPLES)) > 0.25] = 0
    iq = np.fft.ifft(spectrum).astype(np.complex64)
    return iq / np.sqrt(np.mean(np.abs(iq) ** 2))


def mixed():
    """Conditions of every kind, one with nothing at all."""
    return [
        Conditions(TDLDraw("TDL-C", 300e-9, 1), 120.0, 3.5e9, 10.0, (DCOffset(-20.0, 30.0), PowerAmplifier(2.0, 4.0))),
        Conditions(None),
        Conditions(SiteDraw("munich", 7), 3.0, 3.5e9, 0.0),
        Conditions(None, snr_db=20.0, impairments=(CarrierFrequencyOffset(5e3),)),
    ]


def rngs(count):
    return [rng_for(5, row) for row in range(count)]


def test_a_row_is_the_same_alone_and_in_a_batch():
    iq, many = waveform(), mixed()
    together = receive(iq, RATE, many, rngs(len(many)))
    assert together.iq.shape == together.faded.shape == (4, SAMPLES)
    for row, here in enumerate(many):
        alone = receive(iq, RATE, [here], [rng_for(5, row)])
        np.testing.assert_array_equal(together.iq[row], alone.iq[0])
        assert together.facts[row]["channel"] == alone.facts[0]["channel"]


def test_torch_gives_what_numpy_gives():
    iq, many = waveform(), mixed()
    ours = receive(iq, RATE, many, rngs(len(many)))
    theirs = receive(torch.from_numpy(iq), RATE, many, rngs(len(many)))
    assert isinstance(theirs.iq, torch.Tensor)
    np.testing.assert_allclose(theirs.iq.numpy(), ours.iq, atol=1e-4)
    np.testing.assert_allclose(theirs.faded.numpy(), ours.faded, atol=1e-4)


def test_nothing_asked_for_nothing_done():
    iq = waveform()
    received = receive(iq, RATE, [Conditions(None)], rngs(1))
    np.testing.assert_array_equal(received.iq[0], iq)
    [facts] = received.facts
    assert facts == {"channel": None, "doppler_hz": 0.0, "timing_offset_s": 0.0, "noise": None, "impairments": []}


def test_order_is_transmitter_channel_noise_receiver():
    iq, draw = waveform(), TDLDraw("TDL-A", 100e-9, 3)
    here = Conditions(draw, 30.0, 3.5e9, 15.0, (CarrierFrequencyOffset(3e3), PowerAmplifier(1.5, 3.0)))
    received = receive(iq, RATE, [here], [rng_for(6)])
    amplified = receive(iq, RATE, [Conditions(None, impairments=(PowerAmplifier(1.5, 3.0),))], [rng_for(6)]).iq[0]
    faded = apply_channel(amplified, RATE, draw, here.doppler_hz)
    noisy, _ = add_noise(faded, 15.0, rng_for(6))
    np.testing.assert_allclose(received.faded[0], faded, atol=1e-5)
    np.testing.assert_allclose(received.iq[0], shift(noisy, 3e3, RATE), atol=1e-4)
    assert [fact["name"] for fact in received.facts[0]["impairments"]] == [
        "power_amplifier",
        "carrier_frequency_offset",
    ]


def test_snr_is_that_of_the_faded_emission_whatever_else_is_on_the_air():
    iq = waveform()
    box = Emission("x", stop=SAMPLES / RATE, low=-RATE / 4, high=RATE / 4)
    draws = [TDLDraw("TDL-B", 200e-9, 9, index) for index in range(3)]
    interferer = AdjacentChannelInterferer(10.0, 3e6, 1e6)
    many = [Conditions(draw, 60.0, 3.5e9, 5.0, (IQImbalance(1.0, 5.0), interferer)) for draw in draws]
    received = receive(iq, RATE, many, rngs(3), "emission", [box])
    for row, facts in enumerate(received.facts):
        power = np.mean(np.abs(received.faded[row]) ** 2)
        assert facts["noise"]["signal_power"] == pytest.approx(power, rel=1e-4)
        assert facts["noise"]["snr_achieved_db"] == pytest.approx(5.0, abs=0.1)
        assert np.mean(np.abs(received.iq[row]) ** 2) > 5 * power
        assert facts["doppler_hz"] == pytest.approx(60 / 3.6 * 3.5e9 / 299792458)


def test_a_draw_is_read_back_from_the_facts():
    many = mixed()
    facts = receive(waveform(), RATE, many, rngs(len(many))).facts
    assert TDLDraw.from_dict(facts[0]["channel"]) == many[0].channel
    assert SiteDraw.from_dict(facts[2]["channel"]) == many[2].channel


def test_timing_offsets_are_those_of_an_fft_shift():
    iq, offset = waveform(), 3.7 / RATE
    # The waveform fills half the band and all the time: its edges wrap around in the FFT and are left out.
    received = receive(iq, RATE, [Conditions(None), Conditions(None, timing_offset_s=offset)], rngs(2))
    turn = np.exp(-2j * np.pi * np.fft.fftfreq(SAMPLES, 1 / RATE) * offset)
    shifted = np.fft.ifft(np.fft.fft(iq) * turn)
    inside = slice(100, -100)
    np.testing.assert_array_equal(received.iq[0], iq)
    assert np.abs(received.faded[1] - shifted)[inside].max() < 5e-3
    assert received.facts[1]["timing_offset_s"] == offset


def test_a_sweep_of_fading_is_part_of_what_is_called_faded():
    sweep = FAMILIES["tdl_sweep"].at_level(1.0, rng_for(0))
    received = receive(waveform(), RATE, [Conditions(None, impairments=(sweep,))], rngs(1))
    np.testing.assert_array_equal(received.iq, received.faded)
    assert np.abs(received.faded[0] - waveform()).max() > 0.1


def test_double_precision_is_taken_and_real_numbers_are_not():
    iq = waveform()
    double = receive(iq.astype(complex), RATE, [Conditions(None, snr_db=10.0)], rngs(1))
    assert double.iq.dtype == double.faded.dtype == np.complex64
    np.testing.assert_array_equal(double.iq, receive(iq, RATE, [Conditions(None, snr_db=10.0)], rngs(1)).iq)
    assert receive(torch.from_numpy(iq.astype(complex)), RATE, [Conditions(None)], rngs(1)).iq.dtype == torch.complex64
    with pytest.raises(CaptureError, match="float32 and shape .*expected complex"):
        receive(iq.real, RATE, [Conditions(None)], rngs(1))


@pytest.mark.parametrize("wrong", [{"speed_kmh": float("nan")}, {"carrier_hz": -1.0}, {"snr_db": float("inf")}])
def test_conditions_are_checked_even_without_a_channel(wrong):
    with pytest.raises(ConfigError, match="expected"):
        Conditions(None, **wrong)


@pytest.mark.parametrize(("rows", "rate"), [(2, RATE), (0, float("nan")), (0, 0.0)])
def test_one_waveform_at_a_positive_rate(rows, rate):
    iq = np.tile(waveform(), (rows, 1)) if rows else waveform()
    with pytest.raises(CaptureError, match="one waveform"):
        receive(iq, rate, [Conditions(None)], rngs(1))


def test_one_generator_a_receiver():
    with pytest.raises(ConfigError, match="2 generators for 1 conditions"):
        receive(waveform(), RATE, [Conditions(None)], rngs(2))
