"""Fading against closed forms and against a plain channel in double precision."""

import numpy as np
import pytest
from scipy.special import j0

from lwm.channel import PROFILES, ChannelDraw, apply_channel, doppler_hz, tap_gains
from lwm.channel.fading import INTERPOLATION_ERROR, _kernels, _lagrange, _plan
from lwm.errors import CaptureError, ConfigError

RATE = 7.68e6
CARRIER = 2.6e9


def draws(profile, count, spread=100e-9):
    return [ChannelDraw(profile, spread, seed=11, index=index) for index in range(count)]


def band_limited(samples, share=0.9, seed=0):
    """Noise of unit power in the inner ``share`` of the band."""
    rng = np.random.default_rng(seed)
    spectrum = rng.standard_normal(samples) + 1j * rng.standard_normal(samples)
    spectrum[np.abs(np.fft.fftfreq(samples)) > share / 2] = 0
    signal = np.fft.ifft(spectrum)
    return (signal / np.sqrt(np.mean(np.abs(signal) ** 2))).astype(np.complex64)


def exact(iq, rate, draw, doppler):
    """The channel by its definition: each tap delayed by a phase ramp over the whole padded signal, times its gain."""
    pad = 2048
    spectrum = np.fft.fft(np.pad(iq.astype(np.complex128), pad))
    cycles = np.fft.fftfreq(len(spectrum)) * rate
    gains = tap_gains(draw, doppler, np.arange(len(iq)) / rate)
    out = np.zeros(len(iq), dtype=np.complex128)
    for gain, delay in zip(gains, draw.delays_s, strict=True):
        out += gain * np.fft.ifft(spectrum * np.exp(-2j * np.pi * cycles * delay))[pad:-pad]
    return out


def error_db(found, wanted, edge=100):
    inner = slice(edge, -edge)
    return 20 * np.log10(np.linalg.norm((found - wanted)[inner]) / np.linalg.norm(wanted[inner]))


@pytest.mark.parametrize("speed", [0.0, 3.0, 120.0])
@pytest.mark.parametrize(("profile", "spread"), [("TDL-C", 300e-9), ("TDL-E", 100e-9), ("TDL-A", 0.0)])
def test_output_is_the_channel_by_definition(profile, spread, speed):
    iq = band_limited(6000)
    draw = ChannelDraw(profile, spread, seed=2)
    found = apply_channel(iq, RATE, draw, speed, CARRIER)
    assert found.dtype == np.complex64
    assert found.shape == iq.shape
    assert error_db(found, exact(iq, RATE, draw, doppler_hz(speed, CARRIER))) < -60


@pytest.mark.parametrize("delay", [0.5, 3.37, 11.0])
def test_fractional_delay_is_that_of_a_phase_ramp(delay):
    iq = band_limited(4096, seed=4)
    kernel = _kernels("TDL-C", delay / PROFILES["TDL-C"].delays[1])[1]
    found = np.convolve(iq, kernel)[31 : 31 + len(iq)]
    wanted = np.fft.ifft(np.fft.fft(iq) * np.exp(-2j * np.pi * np.fft.fftfreq(len(iq)) * delay))
    assert error_db(found, wanted) < -60


def test_static_channel_is_constant_and_a_moving_one_is_not():
    tone = np.exp(2j * np.pi * 0.1 * np.arange(20000)).astype(np.complex64)
    draw = ChannelDraw("TDL-A", 100e-9, seed=3)
    still, moving = (apply_channel(tone, RATE, draw, speed, CARRIER)[200:-200] for speed in (0.0, 120.0))
    gain = still / tone[200:-200]
    assert np.abs(gain - gain[0]).max() < 1e-4 * np.abs(gain[0])
    assert np.ptp(np.abs(moving)) > 0.05 * np.abs(gain[0])


def test_speeds_share_the_taps_of_the_first_instant():
    draw = ChannelDraw("TDL-D", 100e-9, seed=3)
    start = np.zeros(1)
    np.testing.assert_allclose(tap_gains(draw, 0.0, start), tap_gains(draw, 300.0, start), atol=1e-6)


def test_mean_power_over_draws_is_one():
    iq = band_limited(2000)
    powers = [np.mean(np.abs(apply_channel(iq, RATE, d, 0, CARRIER)) ** 2) for d in draws("TDL-C", 400)]
    # Standard error of the mean of 400 draws whose power spreads by about 0.6: 0.03.
    assert np.mean(powers) == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("profile", ["TDL-A", "TDL-D"])
def test_tap_powers_are_those_of_the_table(profile):
    table = PROFILES[profile]
    gains = np.stack([tap_gains(d, 0.0, np.zeros(1))[:, 0] for d in draws(profile, 2500)])
    wanted = table.powers.copy()
    wanted[0] += table.los_power
    # Standard error of an exponential power over 2500 draws: 2 %.
    np.testing.assert_allclose(np.mean(np.abs(gains) ** 2, axis=0), wanted, rtol=0.08)


def test_k_factor_of_the_first_tap():
    # Moments (Greenstein 1999): with power P and v the variance of the power, K = sqrt(P^2 - v) / (P - sqrt(P^2 - v)).
    power = np.abs([tap_gains(d, 0.0, np.zeros(1))[0, 0] for d in draws("TDL-D", 6000)]) ** 2
    steady = np.sqrt(power.mean() ** 2 - power.var())
    assert 10 * np.log10(steady / (power.mean() - steady)) == pytest.approx(13.3, abs=0.4)


def test_autocorrelation_is_the_bessel_function():
    doppler = 200.0
    lags = np.linspace(0, 2 / doppler, 9)
    gains = np.stack([tap_gains(d, doppler, lags) for d in draws("TDL-A", 500)])
    found = np.mean(gains * gains[..., :1].conj(), axis=0).sum(axis=0)
    # 500 draws of 23 unequal taps, some nine of weight: standard error about 0.015.
    np.testing.assert_allclose(found, j0(2 * np.pi * doppler * lags), atol=0.06)


def test_line_of_sight_turns_at_seven_tenths_of_the_doppler():
    doppler = 100.0
    times = np.arange(4096) / 2000.0
    gains = tap_gains(ChannelDraw("TDL-E", 1e-7, seed=0), doppler, times)[0]
    spectrum = np.abs(np.fft.fft(gains * np.hanning(4096)))
    assert np.fft.fftfreq(4096, 1 / 2000.0)[spectrum.argmax()] == pytest.approx(70.0, abs=0.5)


def test_taps_are_independent():
    gains = np.stack([tap_gains(d, 0.0, np.zeros(1))[:, 0] for d in draws("TDL-B", 3000)])
    gains /= np.sqrt(np.mean(np.abs(gains) ** 2, axis=0))
    correlation = gains.conj().T @ gains / len(gains)
    np.testing.assert_allclose(correlation, np.eye(23), atol=0.085)


def test_rayleigh_taps_are_gaussian():
    gain = np.array([tap_gains(d, 0.0, np.zeros(1))[1, 0] for d in draws("TDL-A", 4000)])
    power = np.abs(gain) ** 2 / np.mean(np.abs(gain) ** 2)
    # Sum of 32 unit phasors: E|h|^4 = 2 - 1/32.
    assert np.mean(power**2) == pytest.approx(2 - 1 / 32, abs=0.12)
    assert np.mean(power < 0.1) == pytest.approx(1 - np.exp(-0.1), abs=0.012)


def test_a_batch_passes_one_channel_row_by_row():
    iq = np.stack([band_limited(3000, seed=seed) for seed in (1, 2)])
    draw = ChannelDraw("TDL-A", 100e-9, seed=1)
    both = apply_channel(iq, RATE, draw, 30, CARRIER)
    for row, found in zip(iq, both, strict=True):
        np.testing.assert_allclose(found, apply_channel(row, RATE, draw, 30, CARRIER), atol=1e-6)


def test_a_signal_may_pass_in_parts():
    iq = band_limited(9000)
    draw = ChannelDraw("TDL-A", 30e-9, seed=1)
    whole = apply_channel(iq, RATE, draw, 120, CARRIER)
    part = apply_channel(iq[4000:], RATE, draw, 120, CARRIER, start=4000 / RATE)
    assert error_db(part, whole[4000:]) < -60


def test_energy_stays_causal():
    impulse = np.zeros(1000, dtype=np.complex64)
    impulse[500] = 1
    out = apply_channel(impulse, RATE, ChannelDraw("TDL-A", 1e-6, seed=1), 0, CARRIER)
    assert np.abs(out[: 500 - 32]).max() < 1e-6
    assert np.abs(out[500 + 32 + int(9.6586e-6 * RATE) + 2 :]).max() < 1e-6
    assert np.abs(out).max() > 0.05


@pytest.mark.parametrize("doppler", [1e-7, 5e-5, 1e-3])
def test_interpolated_sinusoid_keeps_the_stated_error(doppler):
    plan = _plan(doppler, (23, 70), 150_000)
    nodes = plan.hop * (np.array(plan.nodes) + 1) / 2
    found = np.exp(2j * np.pi * doppler * nodes) @ _lagrange(plan)
    wanted = np.exp(2j * np.pi * doppler * np.arange(plan.hop))
    assert np.abs(found - wanted).max() <= INTERPOLATION_ERROR


@pytest.mark.parametrize("samples", [1, 5, 429, 430])
def test_short_signals_keep_their_length(samples):
    iq = np.ones(samples, dtype=np.complex64)
    for speed in (0.0, 500.0):
        assert np.isfinite(apply_channel(iq, 1.92e6, ChannelDraw("TDL-A", 1e-6, seed=1), speed, 5.9e9)).all()


def test_doppler_of_a_known_speed():
    assert doppler_hz(108.0, 299_792_458.0 * 10) == pytest.approx(300.0)


@pytest.mark.parametrize("speed", [-1.0, 501.0, float("nan")])
def test_speed_out_of_range_is_refused_with_the_range(speed):
    with pytest.raises(ConfigError, match=r"speed .* km/h; expected 0 to 500 km/h"):
        apply_channel(np.ones(10, np.complex64), RATE, ChannelDraw("TDL-A", 1e-7, seed=0), speed, CARRIER)


def test_carrier_and_rate_out_of_range_are_refused():
    draw = ChannelDraw("TDL-A", 1e-7, seed=0)
    with pytest.raises(ConfigError, match="carrier frequency"):
        apply_channel(np.ones(10, np.complex64), RATE, draw, 3, float("nan"))
    with pytest.raises(CaptureError, match="sample rate 0"):
        apply_channel(np.ones(10, np.complex64), 0, draw, 3, CARRIER)
    with pytest.raises(CaptureError, match="channel delays"):
        apply_channel(np.ones(10, np.complex64), 1e12, ChannelDraw("TDL-A", 1e-6, seed=0), 3, CARRIER)
