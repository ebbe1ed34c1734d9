"""Fading on IQ against a plain channel in double precision, closed forms, and itself in parts."""

from dataclasses import dataclass

import numpy as np
import pytest

from lwm.channel import ChannelDraw, Rays, TDLDraw, apply_channel, delay, doppler_hz, draw_speed, tap_gains
from lwm.channel.blocks import INTERPOLATION_ERROR, _lagrange, make_plan
from lwm.errors import CaptureError, ConfigError
from lwm.seeding import rng_for

RATE = 7.68e6
DOPPLER = 289.0
"""Hz: 120 km/h at 2.6 GHz."""


@dataclass(frozen=True)
class TwoRays(ChannelDraw):
    """Two taps of one ray each, straight ahead and straight behind: nothing but the contract of a draw."""

    second_s: float
    id = "two"
    delays_s = property(lambda self: np.array([0.0, self.second_s]))
    rays = Rays(np.array([[1.0], [-1.0]]), np.sqrt(0.5) * np.array([[1.0], [1j]]))

    def to_dict(self):
        return {"second_s": self.second_s}


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
    for gain, tau in zip(gains, draw.delays_s, strict=True):
        out += gain * np.fft.ifft(spectrum * np.exp(-2j * np.pi * cycles * tau))[pad:-pad]
    return out


def error_db(found, wanted, edge=100):
    inner = slice(edge, -edge)
    return 20 * np.log10(np.linalg.norm((found - wanted)[inner]) / np.linalg.norm(wanted[inner]))


@pytest.mark.parametrize("doppler", [0.0, 7.2, DOPPLER, 5000.0])
@pytest.mark.parametrize(("profile", "spread"), [("TDL-C", 300e-9), ("TDL-E", 100e-9), ("TDL-A", 0.0)])
def test_output_is_the_channel_by_definition(profile, spread, doppler):
    iq = band_limited(6000)
    draw = TDLDraw(profile, spread, seed=2)
    found = apply_channel(iq, RATE, draw, doppler)
    assert found.dtype == np.complex64
    assert found.shape == iq.shape
    assert error_db(found, exact(iq, RATE, draw, doppler)) < -60


def test_long_delays_at_high_doppler_are_those_of_the_output_time():
    # A delay of 200 us is a whole period of this Doppler: a gain taken when the signal leaves would be far off.
    iq = band_limited(8000)
    draw = TDLDraw("TDL-E", 9.6e-6, seed=2)
    assert error_db(apply_channel(iq, RATE, draw, 5000.0), exact(iq, RATE, draw, 5000.0)) < -60


def test_two_rays_are_two_shifted_tones():
    frequency, doppler, late = 0.11 * RATE, 900.0, 4.6 / RATE
    time = np.arange(20_000) / RATE
    tone = np.exp(2j * np.pi * frequency * time).astype(np.complex64)
    found = apply_channel(tone, RATE, TwoRays(late), doppler)
    ahead = np.exp(2j * np.pi * (frequency + doppler) * time)
    behind = 1j * np.exp(2j * np.pi * ((frequency - doppler) * time - frequency * late))
    assert error_db(found, np.sqrt(0.5) * (ahead + behind)) < -60


def test_static_channel_is_constant_and_a_moving_one_is_not():
    tone = np.exp(2j * np.pi * 0.1 * np.arange(20000)).astype(np.complex64)
    draw = TDLDraw("TDL-A", 100e-9, seed=3)
    still, moving = (apply_channel(tone, RATE, draw, doppler)[200:-200] for doppler in (0.0, DOPPLER))
    gain = still / tone[200:-200]
    assert np.abs(gain - gain[0]).max() < 1e-4 * np.abs(gain[0])
    assert np.ptp(np.abs(moving)) > 0.05 * np.abs(gain[0])


def test_mean_power_over_draws_is_one():
    draws = [TDLDraw("TDL-C", 100e-9, seed=11, index=index) for index in range(400)]
    powers = np.mean(np.abs(apply_channel(band_limited(2000), RATE, draws, 0.0)) ** 2, axis=1)
    # Standard error of the mean of 400 draws whose power spreads by about 0.6: 0.03.
    assert np.mean(powers) == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("profile", ["TDL-B", "TDL-E"])
def test_mean_energy_over_delay_is_the_power_delay_profile(profile):
    # A Gaussian pulse of 1.5 samples holds nothing but 1e-8 of its energy outside the flat band.
    lag = np.arange(400) - 100
    pulse = np.exp(-((lag / 1.5) ** 2) / 2).astype(np.complex64)
    draws = [TDLDraw(profile, 1e-6, seed=7, index=index) for index in range(3000)]
    found = np.mean(np.abs(apply_channel(pulse, RATE, draws, 0.0)) ** 2, axis=0)
    powers = (np.abs(draws[0].rays.amplitudes) ** 2).sum(axis=1)
    wanted = powers @ np.exp(-(((lag - draws[0].delays_s[:, None] * RATE) / 1.5) ** 2))
    # Where the power is above a thousandth of the peak; relative standard error of an exponential power over 3000
    # draws: 2 %.
    strong = wanted > 1e-3 * wanted.max()
    assert strong.sum() > 20
    np.testing.assert_allclose(found[strong], wanted[strong], rtol=0.09)


def test_a_signal_may_pass_in_parts():
    iq = band_limited(9000)
    draw = TDLDraw("TDL-A", 30e-9, seed=1)
    whole = apply_channel(iq, RATE, draw, DOPPLER)
    part = apply_channel(iq[4000:], RATE, draw, DOPPLER, start=4000 / RATE)
    assert error_db(part, whole[4000:]) < -60


def test_energy_stays_causal():
    impulse = np.zeros(1000, dtype=np.complex64)
    impulse[500] = 1
    out = apply_channel(impulse, RATE, TDLDraw("TDL-A", 1e-6, seed=1), 0.0)
    assert np.abs(out[: 500 - 32]).max() < 1e-6
    assert np.abs(out[500 + 32 + int(9.6586e-6 * RATE) + 2 :]).max() < 1e-6
    assert np.abs(out).max() > 0.05


@pytest.mark.parametrize("doppler", [1e-7, 5e-5, 1e-3, 0.03, 0.49])
def test_interpolated_sinusoid_keeps_the_stated_error(doppler):
    plan = make_plan(doppler, 23, 70, 150_000)
    coarse, fine, count = plan.instants(0, 1)
    nodes = (coarse[:, None] + fine).reshape(-1)[:count]
    found = np.exp(2j * np.pi * doppler * nodes) @ _lagrange(plan.nodes, plan.hop)[:, 0]
    wanted = np.exp(2j * np.pi * doppler * np.arange(plan.hop))
    assert np.abs(found - wanted).max() <= INTERPOLATION_ERROR


@pytest.mark.parametrize("samples", [20, 429, 430])
def test_short_signals_keep_their_length(samples):
    iq = np.ones(samples, dtype=np.complex64)
    for doppler in (0.0, 2700.0):
        found = apply_channel(iq, 1.92e6, TDLDraw("TDL-A", 1e-6, seed=1), doppler)
        assert found.shape == (samples,)
        assert np.isfinite(found).all()


def test_doppler_of_a_known_speed():
    assert doppler_hz(108.0, 299_792_458.0 * 10) == pytest.approx(300.0)


def test_high_speed_trains_are_in_range():
    speeds = [draw_speed("high-speed-train", rng_for(0, index)) for index in range(200)]
    assert 300 <= min(speeds) < 310
    assert 490 < max(speeds) <= 500
    assert doppler_hz(500.0, 2.6e9) == pytest.approx(1204.5, abs=0.1)


@pytest.mark.parametrize("speed", [-1.0, 501.0, float("nan")])
def test_speed_out_of_range_is_refused_with_the_range(speed):
    with pytest.raises(ConfigError, match=r"speed .* km/h; expected 0 to 500 km/h"):
        doppler_hz(speed, 2.6e9)


def test_carrier_out_of_range_is_refused():
    with pytest.raises(ConfigError, match="carrier frequency"):
        doppler_hz(3.0, float("nan"))


@pytest.mark.parametrize("doppler", [-1.0, 3.84e6, float("nan"), float("inf")])
def test_doppler_out_of_range_is_refused_with_the_range(doppler):
    with pytest.raises(ConfigError, match=r"Doppler .* Hz; expected 0 to less than half the sample rate of 7.68e\+06"):
        apply_channel(np.ones(100, np.complex64), RATE, TDLDraw("TDL-A", 1e-7, seed=0), doppler)


def test_start_must_be_finite():
    with pytest.raises(ConfigError, match="channel start nan s"):
        apply_channel(np.ones(100, np.complex64), RATE, TDLDraw("TDL-A", 1e-7, seed=0), 3.0, start=float("nan"))


def test_channel_longer_than_the_capture_is_refused_with_the_range():
    draw = TDLDraw("TDL-A", 1e-6, seed=1)
    with pytest.raises(CaptureError, match=r"TDL-A/1000ns/1/0 with delays of 0 to 18.5445 samples; expected 0 to less"):
        apply_channel(np.ones(18, np.complex64), 1.92e6, draw, 0.0)
    with pytest.raises(CaptureError, match="to less than 0 samples; take a longer capture"):
        apply_channel(np.ones(0, np.complex64), 1.92e6, draw, 0.0)
    with pytest.raises(CaptureError, match="to less than 65408 samples"):
        apply_channel(np.ones(70_000, np.complex64), 1e12, draw, 0.0)


def test_negative_delays_are_refused():
    with pytest.raises(CaptureError, match="delays of -5 to 0 samples; expected 0 to"):
        apply_channel(np.ones(100, np.complex64), 1e6, TwoRays(-5e-6), 0.0)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_sample_rate_must_be_positive(rate):
    with pytest.raises(CaptureError, match="sample rate"):
        apply_channel(np.ones(100, np.complex64), rate, TDLDraw("TDL-A", 1e-7, seed=0), 0.0)


@pytest.mark.parametrize(("edge", "worst_db"), [(0.45, -58.0), (0.47, -53.0)])
def test_worst_error_of_a_fractional_delay_is_the_one_stated(edge, worst_db):
    """Tones up to ``edge`` cycles a sample at every 64th of a sample, away from the ends."""
    samples = np.arange(1024)
    frequencies = np.linspace(edge - 0.02, edge, 9)
    tones = np.exp(2j * np.pi * frequencies[:, None] * samples).astype(np.complex64)
    worst = 0.0
    for fraction in np.arange(1, 64) / 64:
        late = delay(tones, fraction, 1.0)
        wanted = tones * np.exp(-2j * np.pi * frequencies * fraction)[:, None]
        worst = max(worst, np.abs(late - wanted)[:, 200:-200].max())
    assert worst_db - 3 < 20 * np.log10(worst) < worst_db
