"""The OFDM PHY of IEEE Std 802.11-2020 clause 17: from PSDUs to samples, whole batches of PPDUs at once.

One sample lasts 1/bandwidth, so that the 20, 10 and 5 MHz clockings give the same samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import fft

from lwm.phy.constellation import BITS, wlan

Bits = npt.NDArray[np.uint8]
Complex = npt.NDArray[np.complex64]
Index = npt.NDArray[np.intp]

N_FFT = 64
SYMBOL = 80
"""Samples of an OFDM symbol with its guard interval (table 17-5: 4 us at 20 MHz)."""
PREAMBLE = 320
"""Samples of L-STF and L-LTF."""
N_DATA = 48
SERVICE_BITS = 16
TAIL_BITS = 6
OCCUPIED = 26.5
"""Half the occupied band in subcarrier spacings: subcarriers -26..26 with half a spacing at each side."""


@dataclass(frozen=True)
class Rate:
    """A row of table 17-4 (RATE-dependent parameters).

    Args:
        mbps: data rate in Mbit/s at 20 MHz.
        modulation: of the DATA field.
        code: coding rate as numerator and denominator.
        signal: RATE field R1..R4, first transmitted bit first (table 17-6).
    """

    mbps: int
    modulation: str
    code: tuple[int, int]
    signal: tuple[int, int, int, int]

    @property
    def n_bpsc(self) -> int:
        """Coded bits a subcarrier."""
        return BITS[self.modulation]

    @property
    def n_cbps(self) -> int:
        """Coded bits an OFDM symbol."""
        return N_DATA * self.n_bpsc

    @property
    def n_dbps(self) -> int:
        """Data bits an OFDM symbol."""
        return self.n_cbps * self.code[0] // self.code[1]


RATES = {
    rate.mbps: rate
    for rate in (
        Rate(6, "BPSK", (1, 2), (1, 1, 0, 1)),
        Rate(9, "BPSK", (3, 4), (1, 1, 1, 1)),
        Rate(12, "QPSK", (1, 2), (0, 1, 0, 1)),
        Rate(18, "QPSK", (3, 4), (0, 1, 1, 1)),
        Rate(24, "16QAM", (1, 2), (1, 0, 0, 1)),
        Rate(36, "16QAM", (3, 4), (1, 0, 1, 1)),
        Rate(48, "64QAM", (2, 3), (0, 0, 0, 1)),
        Rate(54, "64QAM", (3, 4), (0, 0, 1, 1)),
    )
}
"""Rates by their Mbit/s at 20 MHz."""

_KEPT = {(1, 2): (2, (0, 1)), (2, 3): (4, (0, 1, 2)), (3, 4): (6, (0, 1, 2, 5))}
"""Period and kept positions of A1 B1 A2 B2 ... for each coding rate (figure 17-9)."""


def data_symbols(rate: Rate, octets: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """OFDM symbols of the DATA field for PSDU lengths in octets (equation 17-11)."""
    bits = SERVICE_BITS + 8 * np.asarray(octets, dtype=np.int64) + TAIL_BITS
    return -(-bits // rate.n_dbps)


def ppdu_samples(symbols: int) -> int:
    """Samples of a PPDU with that many DATA symbols: L-STF, L-LTF, SIGNAL, DATA."""
    return PREAMBLE + SYMBOL * (1 + symbols)


@lru_cache
def scrambler_table() -> Bits:
    """Output ``[128, 127]`` of the scrambler S(x) = x^7 + x^4 + 1 for every initial state (clause 17.3.5.5).

    Row ``state`` holds one period; bit 6 of the state is x7, the stage fed back first; row 0 is unused and zero.
    """
    state: Bits = np.arange(128, dtype=np.uint8)
    table = np.empty((128, 127), dtype=np.uint8)
    for step in range(127):
        table[:, step] = (state >> 6 ^ state >> 3) & 1
        state = (state << 1 & 0x7F | table[:, step]).astype(np.uint8)
    return table


@lru_cache
def pilot_polarity() -> npt.NDArray[np.float32]:
    """p_0..p_126 of equation 17-25: the scrambler's sequence from the all-ones state, 0 as 1 and 1 as -1."""
    return 1 - 2 * scrambler_table()[127].astype(np.float32)


@lru_cache
def interleaver(n_cbps: int, n_bpsc: int) -> Index:
    """Gather index of clause 17.3.5.7: output bit j is input bit ``index[j]``."""
    k = np.arange(n_cbps)
    s = max(n_bpsc // 2, 1)
    i = n_cbps // 16 * (k % 16) + k // 16
    j = s * (i // s) + (i + n_cbps - 16 * i // n_cbps) % s
    index = np.empty_like(k)
    index[j] = k
    return index


@lru_cache
def _coded_index(rate: Rate) -> Index:
    """Which of a symbol's 2 n_dbps mother-code bits stands at each interleaved position."""
    period, kept = _KEPT[rate.code]
    mother = np.arange(2 * rate.n_dbps).reshape(-1, period)[:, kept].ravel()
    return mother[interleaver(rate.n_cbps, rate.n_bpsc)]


def convolve(bits: Bits, starts: Index) -> Bits:
    """Mother code of clause 17.3.5.6, g0 = 133 and g1 = 171 (octal), K = 7, from the zero state at every start.

    Args:
        bits: ``[n]``, the blocks behind one another.
        starts: first bit of each block; blocks are at least six bits long.

    Returns:
        ``[2 n]``: A1 B1 A2 B2 ...
    """
    delayed = [bits]
    for delay in range(1, 7):
        late = np.empty_like(bits)
        late[delay:] = bits[:-delay]
        late[(starts[:, None] + np.arange(delay)).ravel()] = 0
        delayed.append(late)
    common = delayed[0] ^ delayed[2] ^ delayed[3] ^ delayed[6]
    return np.stack([common ^ delayed[5], common ^ delayed[1]], axis=1).ravel()


@lru_cache
def _subcarriers() -> tuple[Index, Index]:
    """FFT bins of the 48 data subcarriers from -26 to 26, and of the pilots -21, -7, 7, 21 (clause 17.3.5.10)."""
    pilots = np.array([-21, -7, 7, 21])
    data = np.array([k for k in range(-26, 27) if k and k not in pilots])
    return data % N_FFT, pilots % N_FFT


def _time(bins: Complex) -> Complex:
    """Inverse FFT with unit mean power for 52 unit subcarriers."""
    return fft.ifft(bins, axis=-1, overwrite_x=True) * np.float32(N_FFT / np.sqrt(52))


def modulate(points: Complex, number: npt.NDArray[np.int64]) -> Complex:
    """OFDM symbols with guard interval.

    Args:
        points: ``[symbols, 48]``.
        number: ``[symbols]``, index into the pilot polarity: 0 for SIGNAL, 1 and up for DATA.

    Returns:
        ``[symbols, 80]``.
    """
    data, pilots = _subcarriers()
    bins = np.zeros((len(points), N_FFT), dtype=np.complex64)
    bins[:, data] = points
    bins[:, pilots] = pilot_polarity()[number % 127, None] * np.array([1, 1, 1, -1], dtype=np.float32)
    body = _time(bins)
    return np.concatenate([body[:, N_FFT - 16 :], body], axis=1)


def _map(bits: Bits, modulation: str) -> Complex:
    """Points ``[symbols, 48]`` of interleaved bits ``[symbols, n_cbps]``."""
    groups = bits.reshape(len(bits), N_DATA, -1)
    label: Bits = groups[..., 0]
    for column in range(1, groups.shape[-1]):
        label = label << np.uint8(1) | groups[..., column]
    return wlan(modulation)[label]


@lru_cache
def preamble() -> Complex:
    """L-STF and L-LTF, complex64 ``[320]``, unit mean power (clause 17.3.3)."""
    short = np.zeros(N_FFT, dtype=np.complex64)
    where = np.array([-24, -20, -16, -12, -8, -4, 4, 8, 12, 16, 20, 24])
    sign = np.array([1, -1, 1, -1, -1, 1, -1, -1, 1, 1, 1, 1])
    short[where] = np.sqrt(13 / 6) * (1 + 1j) * sign
    long = np.zeros(N_FFT, dtype=np.complex64)
    left = "11--11-1-111111--11-1-1111"
    right = "1--11-1-1-----11--1-1-1111"
    long[-26:] = [1 if mark == "1" else -1 for mark in left]
    long[1:27] = [1 if mark == "1" else -1 for mark in right]
    stf, ltf = _time(short), _time(long)
    return np.concatenate([np.resize(stf, 160), ltf[32:], ltf, ltf])


def signal_bits(rate: Rate, octets: int) -> Bits:
    """The 24 bits of the SIGNAL field: RATE, reserved, LENGTH, even parity, tail (clause 17.3.4)."""
    length = octets >> np.arange(12) & 1
    head = np.concatenate([rate.signal, [0], length])
    return np.concatenate([head, [head.sum() % 2], np.zeros(TAIL_BITS)]).astype(np.uint8)


def _encode(bits: Bits, starts: Index, rate: Rate, number: npt.NDArray[np.int64]) -> Complex:
    coded = convolve(bits, starts).reshape(-1, 2 * rate.n_dbps)
    return modulate(_map(coded[:, _coded_index(rate)], rate.modulation), number)


def ppdus(rate: Rate, psdus: Sequence[bytes], states: npt.NDArray[np.integer], windowed: bool = True) -> list[Complex]:
    """Samples of PPDUs of one rate.

    Args:
        rate: of the DATA field.
        psdus: MPDUs with FCS, 1..4095 octets each.
        states: scrambler's initial state for each, 1..127.
        windowed: overlap neighbouring symbols by one sample at half weight, the discrete window of annex I.

    Returns:
        One complex64 array a PPDU, :func:`ppdu_samples` long and one more for the window's last edge (0 without),
        unit mean power.
    """
    lengths = np.array([len(psdu) for psdu in psdus])
    symbols = data_symbols(rate, lengths)
    ends = np.cumsum(symbols)
    starts = (ends - symbols) * rate.n_dbps
    bits = np.zeros(int(ends[-1]) * rate.n_dbps, dtype=np.uint8)
    scrambler = scrambler_table()
    for psdu, state, start, count in zip(psdus, states, starts, symbols * rate.n_dbps, strict=True):
        tail = start + SERVICE_BITS + 8 * len(psdu)
        bits[start + SERVICE_BITS : tail] = np.unpackbits(np.frombuffer(psdu, np.uint8), bitorder="little")
        bits[start : start + count] ^= np.resize(scrambler[state], count)
        bits[tail : tail + TAIL_BITS] = 0
    number = np.arange(int(ends[-1])) - np.repeat(ends - symbols, symbols) + 1
    data = _encode(bits, starts, rate, number)
    heads = np.concatenate([signal_bits(rate, int(length)) for length in lengths])
    first = np.arange(len(psdus))
    signal = _encode(heads, 24 * first, RATES[6], np.zeros_like(first))
    return [
        _assemble(signal[ppdu], data[end - count : end], windowed)
        for ppdu, (end, count) in enumerate(zip(ends, symbols, strict=True))
    ]


def _assemble(signal: Complex, data: Complex, windowed: bool) -> Complex:
    samples = np.concatenate([preamble(), signal, data.ravel(), np.zeros(1, np.complex64)])
    if windowed:
        # Every part goes on periodically for one sample, which shares its place with the next part's first.
        parts = samples[PREAMBLE:-1].reshape(-1, SYMBOL)
        after = np.concatenate([preamble()[[0, 160 + 32]], parts[:, 16]])
        joints = np.concatenate([[0, 160], np.arange(PREAMBLE, samples.size, SYMBOL)])
        samples[joints] *= np.float32(0.5)
        samples[joints[1:]] += np.float32(0.5) * after
    return samples
