"""Closed forms of the waveform: occupied bandwidth, emission beside the channel, envelope statistics."""

import numpy as np
import pytest

from experts.nr import NR, PDSCH, PUSCH, Carrier, NRConfig, TDDPattern, Uplink, User
from lwm.seeding import rng_for


def full_downlink(carrier: Carrier, modulation: str = "64QAM", milliseconds: int = 2) -> NRConfig:
    """Every resource block of every slot to one UE."""
    shared = PDSCH(0, carrier.n_rb, modulation, (0, carrier.symbols))
    runs = ((0, milliseconds << carrier.mu),)
    return NRConfig(carrier, None, (User(shared, runs),), None, start=0.0, duration=milliseconds * 1e-3)


def full_uplink(
    carrier: Carrier, prb: tuple[int, int], modulation: str, transform: bool, milliseconds: int
) -> NRConfig:
    """One UE's PUSCH in every slot."""
    user = User(PUSCH(prb, (0, carrier.symbols), modulation, transform), ((0, milliseconds << carrier.mu),))
    return NRConfig(carrier, None, (user,), None, uplink=Uplink(), start=0.0, duration=milliseconds * 1e-3)


def spectrum(capture) -> tuple[np.ndarray, np.ndarray]:
    """Frequency in Hz and energy, ascending."""
    energy = np.abs(np.fft.fftshift(np.fft.fft(capture.iq))) ** 2
    return np.fft.fftshift(np.fft.fftfreq(capture.iq.size, 1 / capture.sample_rate)), energy


def occupied(capture) -> float:
    """Hz between the half percents of the energy (99 %, TS 38.101-1 clause 6.5.1 and 38.104 clause 6.6.2)."""
    frequency, energy = spectrum(capture)
    low, high = np.searchsorted(np.cumsum(energy) / energy.sum(), (0.005, 0.995))
    return frequency[high] - frequency[low]


# N_RB as TS 38.101-1 and 38.101-2 tables 5.3.2-1 print them.
CHANNELS = [
    (Carrier(5e6, 0), 25),
    (Carrier(50e6, 0), 270),
    (Carrier(20e6, 1), 51),
    (Carrier(100e6, 1), 273),
    (Carrier(20e6, 2, extended_cp=True), 24),
    (Carrier(100e6, 3, tdd=TDDPattern("DDDDS"), frequency_range="FR2"), 66),
]


@pytest.mark.parametrize(("carrier", "n_rb"), CHANNELS)
def test_occupied_bandwidth_is_that_of_the_resource_blocks(carrier, n_rb):
    """99 % lie in 99 % of N_RB * 12 * SCS, spread by the sidelobes of a subcarrier, within 1 %."""
    config = full_downlink(carrier, milliseconds=1)
    if carrier.tdd is not None:
        runs = tuple((slot, 1) for slot in range(8) if slot % 5 < 4)
        config = NRConfig(carrier, None, (User(config.users[0].shared, runs),), None, start=0.0, duration=1e-3)
    capture = NR().synthesize(config, rng_for(84, carrier.n_fft))
    width = n_rb * 12 * 15e3 * (1 << carrier.mu)
    assert occupied(capture) == pytest.approx(0.99 * width, rel=0.01)
    # OBW of TS 38.104 clause 6.6.2: less than the channel bandwidth.
    assert occupied(capture) < carrier.bandwidth


@pytest.mark.parametrize("prb", [(0, 6), (40, 52)])
def test_occupied_bandwidth_of_an_uplink_is_that_of_its_allocation(prb):
    capture = NR().synthesize(full_uplink(Carrier(20e6, 0), prb, "QPSK", True, 4), rng_for(85))
    count = prb[1] - prb[0]
    # A narrow allocation has relatively more in its sidelobes.
    assert occupied(capture) == pytest.approx(count * 180e3, rel=0.12)
    frequency, energy = spectrum(capture)
    middle = (frequency * energy).sum() / energy.sum()
    assert middle == pytest.approx((sum(prb) / 2 - 53) * 180e3, abs=30e3)


def leakage(carrier: Carrier, low: float, high: float) -> float:
    """Share of the power of unfiltered sampled CP-OFDM between two frequencies in Hz, by its closed form.

    Independent subcarriers k of unit power and rectangular symbols of L samples (prefix included) have the density
    sum over k of sin^2(pi L x) / (L rate sin^2(pi x)), x = (f - k SCS) / rate: sinc^2 with its aliases.
    """
    scs, rate = carrier.scs, carrier.sample_rate
    length = carrier.n_fft * (1 + 9 / 128)
    k = (np.arange(12 * carrier.n_rb) - 6 * carrier.n_rb) * scs
    frequency = np.linspace(low, high, 4001)
    x = (frequency[:, None] - k) / rate
    density = (np.sin(np.pi * length * x) ** 2 / np.sin(np.pi * x) ** 2).sum(axis=1) / (length * rate)
    return float(np.trapezoid(density, frequency) / k.size)


@pytest.mark.parametrize("carrier", [Carrier(10e6, 0), Carrier(20e6, 1)])
def test_emission_beside_the_channel_is_that_of_unfiltered_ofdm(carrier):
    """The generator does not filter: the power just outside the channel is the sidelobes' closed form.

    A transmitter's filter or window is an impairment of the channel chain; the raw waveform alone is near the 45 dB
    of ACLR of a base station (TS 38.104 table 6.6.3.2-1) only where the sidelobes have fallen so far. The sidelobes are
    those of the jump at the symbols' ends: about two independent values a symbol, so 0.2 dB of standard error.
    """
    capture = NR().synthesize(full_downlink(carrier, "QPSK", 16 >> carrier.mu), rng_for(86, carrier.mu))
    frequency, energy = spectrum(capture)
    edge = carrier.bandwidth / 2
    stop = capture.sample_rate / 2 * 0.9
    for low, high in ((edge, stop), (-stop, -edge)):
        share = energy[(frequency > low) & (frequency < high)].sum() / energy.sum()
        assert 10 * np.log10(share) == pytest.approx(10 * np.log10(leakage(carrier, low, high)), abs=0.8)
        assert -40 < 10 * np.log10(share) < -25


def exceeding(power: np.ndarray, levels_db: np.ndarray) -> np.ndarray:
    """Share of samples whose power over the mean exceeds each level."""
    return np.array([(power > level).mean() for level in 10 ** (levels_db / 10) * power.mean()])


def test_envelope_of_cp_ofdm_is_gaussian():
    """CCDF exp(-x) of a complex Gaussian: 12 N_RB independent subcarriers; within 5 standard errors and 3 %."""
    capture = NR().synthesize(full_downlink(Carrier(20e6, 0), "256QAM", 4), rng_for(87))
    power = np.abs(capture.iq) ** 2
    levels = np.array([0.0, 3.0, 6.0, 8.0])
    expected = np.exp(-(10 ** (levels / 10)))
    # 1272 of 2048 bins: so many samples are independent.
    independent = power.size * 1272 / 2048
    error = np.sqrt(expected * (1 - expected) / independent)
    assert (np.abs(exceeding(power, levels) - expected) < 5 * error + 0.03 * expected).all()


@pytest.mark.parametrize(("modulation", "least_db"), [("QPSK", 2.0), ("pi/2-BPSK", 3.0), ("64QAM", 1.0)])
def test_dft_s_ofdm_has_lower_peaks(modulation, least_db):
    """The level that one sample in a thousand exceeds, against -ln(1/1000) = 8.39 dB of a complex Gaussian."""
    carrier = Carrier(20e6, 0)
    peaks = {}
    for transform in (True, False):
        own = modulation if transform else modulation.replace("pi/2-BPSK", "QPSK")
        capture = NR().synthesize(full_uplink(carrier, (10, 64), own, transform, 8), rng_for(88, transform))
        # Data symbols alone: without the third, DM-RS, of each slot.
        start = np.cumsum([0, *np.tile([160, *[144] * 6], 16) + 2048])
        data = [capture.iq[start[s] : start[s + 1]] for s in range(112) if s % 14 != 2]
        power = np.abs(np.concatenate(data)) ** 2
        peaks[transform] = 10 * np.log10(np.quantile(power, 0.999) / power.mean())
    assert peaks[False] == pytest.approx(10 * np.log10(np.log(1000)), abs=0.3)
    assert peaks[True] < peaks[False] - least_db


@pytest.mark.parametrize("modulation", ["QPSK", "16QAM", "64QAM", "256QAM", "1024QAM"])
def test_constellation_follows_its_closed_form(standard, modulation):
    """Power of the points: CCDF of two independent odd integers, and every value of an axis alike often."""
    carrier = Carrier(20e6, 0)
    capture = NR().synthesize(full_downlink(carrier, modulation, 2), rng_for(89, modulation))
    grid = standard["demodulate"](capture.iq, carrier.n_fft, 0, 12 * carrier.n_rb, 2).reshape(2, 14, -1)
    data = np.delete(grid, (2, 11), axis=1).reshape(-1)
    side = {"QPSK": 2, "16QAM": 4, "64QAM": 8, "256QAM": 16, "1024QAM": 32}[modulation]
    odd = 2 * np.arange(side) - side + 1
    scale = np.sqrt(np.mean(np.abs(data) ** 2) / (2 * np.mean(odd**2)))
    points = data / scale
    nearest = 2 * np.round((points - (1 + 1j)) / 2) + (1 + 1j)
    # EVM of an ideal demodulation; the scale is that of the mean power, known to 0.5 %.
    gain = np.vdot(nearest, points) / np.vdot(nearest, nearest)
    assert np.sqrt(np.mean(np.abs(points / gain - nearest) ** 2) / np.mean(np.abs(nearest) ** 2)) < 0.005
    power = odd[:, None] ** 2 + odd**2
    for level in np.quantile(power, (0.25, 0.5, 0.9)) + 1:
        expected = (power > level).mean()
        found = (np.abs(nearest) ** 2 > level).mean()
        assert abs(found - expected) < 5 * np.sqrt(max(expected * (1 - expected), 1e-9) / data.size)
    for axis in (nearest.real, nearest.imag):
        counts = np.unique(axis, return_counts=True)[1]
        assert counts.size == side
        chi_square = ((counts - data.size / side) ** 2).sum() / (data.size / side)
        # Mean side - 1, variance 2 (side - 1): six standard deviations.
        assert chi_square < side - 1 + 6 * np.sqrt(2 * (side - 1))
