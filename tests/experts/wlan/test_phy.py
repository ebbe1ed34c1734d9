"""The OFDM PHY against the worked example of IEEE Std 802.11-2020 annex I.1 and against closed forms."""

import zlib

import numpy as np
import pytest

from experts.wlan.mac import ack_frame, data_frame, with_fcs
from experts.wlan.phy import (
    RATES,
    convolve,
    data_symbols,
    interleaver,
    pilot_polarity,
    ppdu_samples,
    ppdus,
    preamble,
    scrambler_table,
    signal_bits,
)

ANNEX_HEADER = bytes.fromhex("0402002e006008cd37a60020d6013cf1006008ad3baf0000")
ANNEX_TEXT = b"Joy, bright spark of divinity,\nDaughter of Elysium,\nFire-insired we trea"
ANNEX_SCALE = np.sqrt(52) / 64
"""The annex scales its inverse FFT by 1/64; ours has unit mean power."""
ROUNDING = 7.5e-4
"""The annex prints three decimals: real and imaginary part are each right to 0.0005."""


def text(bits: np.ndarray) -> str:
    return "".join(str(int(bit)) for bit in bits)


@pytest.fixture(scope="module")
def annex() -> np.ndarray:
    """The example's PPDU: 36 Mbit/s, 100 octets, scrambler state 1011101."""
    return ppdus(RATES[36], [with_fcs(ANNEX_HEADER + ANNEX_TEXT)], np.array([0b1011101]))[0] * ANNEX_SCALE


def test_scrambler_sequence():
    # Clause 17.3.5.5 prints the sequence from the all-ones state.
    printed = (
        "00001110 11110010 11001001 00000010 00100110 00101110 10110110 00001100"
        "11010100 11100111 10110100 00101010 11111010 01010001 10111000 1111111"
    )
    assert text(scrambler_table()[127]) == printed.replace(" ", "")
    assert text(scrambler_table()[0b1011101][:16]) == "0110110000011001"


def test_every_scrambler_state_is_a_shift_of_one_m_sequence():
    rows = {text(np.roll(scrambler_table()[127], shift)) for shift in range(127)}
    assert {text(row) for row in scrambler_table()[1:]} == rows


def test_pilot_polarity_begins_as_printed():
    assert pilot_polarity()[:14].tolist() == [1, 1, 1, 1, -1, -1, -1, 1, -1, -1, -1, -1, 1, 1]


def test_annex_fcs():
    assert with_fcs(ANNEX_HEADER + ANNEX_TEXT)[-4:].hex() == "673321b6"


def test_annex_signal_field():
    bits = signal_bits(RATES[36], 100)
    assert text(bits) == "101100010011000000000000"
    coded = convolve(bits, np.array([0]))
    assert text(coded) == "110100011010000100000010001111100111000000000000"
    assert text(coded[interleaver(48, 1)]) == "100101001101000000010100100000110010010010010100"


def test_annex_preamble(annex):
    assert annex.size == 881
    short = [0.023 + 0.023j, -0.132 + 0.002j, -0.013 - 0.079j, 0.143 - 0.013j, 0.092, 0.143 - 0.013j]
    np.testing.assert_allclose(annex[:6], short, atol=ROUNDING)
    np.testing.assert_allclose(annex[[160, 161, 162]], [-0.055 + 0.023j, 0.012 - 0.098j, 0.092 - 0.106j], atol=ROUNDING)
    long = [0.156, -0.005 - 0.120j, 0.040 - 0.111j, 0.097 + 0.083j, 0.021 + 0.028j, 0.060 - 0.088j]
    np.testing.assert_allclose(annex[192:198], long, atol=ROUNDING)


def test_annex_signal_and_first_data_samples(annex):
    signal = [0.109, 0.033 - 0.044j, -0.002 - 0.038j, -0.081 + 0.084j, 0.007 - 0.100j, -0.001 - 0.113j]
    np.testing.assert_allclose(annex[320:326], signal, atol=ROUNDING)
    data = [-0.139 + 0.050j, 0.004 + 0.014j, 0.011 - 0.100j, -0.097 - 0.020j, 0.062 + 0.081j, 0.124 + 0.139j]
    np.testing.assert_allclose(annex[400:406], data, atol=ROUNDING)


def test_annex_first_data_symbol_in_frequency(annex):
    bins = np.fft.fft(annex[416:480])
    low = [-0.316 + 0.316j, -0.316 + 0.316j, 0.316 + 0.316j, -0.949 - 0.949j, 0.316 + 0.949j, 1]
    high = [-0.316 + 0.949j, 0.316 + 0.949j, -0.949 + 0.316j, 0.949 - 0.949j, 0.316 + 0.316j, -0.316 - 0.316j, 1]
    np.testing.assert_allclose(bins[-26:-20], low, atol=1e-3)
    np.testing.assert_allclose(bins[1:8], high, atol=1e-3)
    assert np.abs(bins[[0, *range(27, 38)]]).max() < 1e-5


def test_preamble_repeats():
    samples = preamble()
    np.testing.assert_allclose(samples[16:160], samples[:144], atol=1e-6)
    np.testing.assert_allclose(samples[192:256], samples[256:320], atol=1e-6)
    np.testing.assert_allclose(samples[160:192], samples[288:320], atol=1e-6)
    assert np.mean(np.abs(samples) ** 2) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("mbps", sorted(RATES))
def test_rate_table(mbps):
    """A symbol of 4 us carries n_dbps bits: the name of the rate follows."""
    rate = RATES[mbps]
    assert rate.n_dbps / 4 == mbps
    assert sorted(interleaver(rate.n_cbps, rate.n_bpsc)) == list(range(rate.n_cbps))


def test_durations():
    # TXTIME of clause 17.4.3: 20 us + 4 us a symbol; 1,500 octets at 54 Mbit/s last 244 us, an Ack at 24 Mbit/s 28.
    assert ppdu_samples(int(data_symbols(RATES[54], 1500))) == 244 * 20
    assert ppdu_samples(int(data_symbols(RATES[24], 14))) == 28 * 20


def test_a_batch_is_its_members():
    rng = np.random.default_rng(3)
    psdus = [rng.bytes(n) for n in (1, 40, 333, 7)]
    states = np.array([1, 127, 64, 93])
    for mbps in (9, 48):
        together = ppdus(RATES[mbps], psdus, states)
        for psdu, state, samples in zip(psdus, states, together, strict=True):
            np.testing.assert_array_equal(samples, ppdus(RATES[mbps], [psdu], np.array([state]))[0])


def test_window_touches_only_the_joints():
    rng = np.random.default_rng(4)
    psdu = [rng.bytes(100)]
    soft, hard = (ppdus(RATES[12], psdu, np.array([9]), windowed)[0] for windowed in (True, False))
    joints = np.concatenate([[0, 160], np.arange(320, soft.size, 80)])
    assert np.array_equal(np.flatnonzero(np.abs(soft - hard) > 0), joints[np.abs(soft - hard)[joints] > 0])
    assert hard[-1] == 0
    assert np.mean(np.abs(hard[:-1]) ** 2) == pytest.approx(1, abs=0.1)


def test_frames_have_a_right_fcs_and_header():
    rng = np.random.default_rng(1)
    ap, sta = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
    down = data_frame(rng, 60, ap, sta, downlink=True, nav=44, sequence=4097)
    assert len(down) == 60
    assert down[:10].hex() == "08022c00" + sta.hex()
    assert down[22:24].hex() == "1000"
    up = data_frame(rng, 60, ap, sta, downlink=False, nav=44, sequence=0)
    assert up[:16].hex() == "08012c00" + ap.hex() + sta.hex()
    # The receiver's register over a frame and its right FCS ends in a constant (clause 9.2.4.8).
    assert {zlib.crc32(frame) for frame in (down, up, ack_frame(sta))} == {0x2144DF1C}
    assert ack_frame(sta)[:10] == bytes.fromhex("d4000000") + sta
