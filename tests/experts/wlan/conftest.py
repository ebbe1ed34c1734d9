"""A receiver for the 802.11 OFDM PHY, written from IEEE Std 802.11-2020 clause 17 and from nothing in ``experts``.

It is judged on signals that others made before it judges ours.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

# Table 17-6 and table 17-4: RATE bits R1-R4 -> Mbit/s, bits a subcarrier, puncturing pattern over A1 B1 A2 B2 ...
MODES = {
    (1, 1, 0, 1): (6, 1, "11"),
    (1, 1, 1, 1): (9, 1, "111001"),
    (0, 1, 0, 1): (12, 2, "11"),
    (0, 1, 1, 1): (18, 2, "111001"),
    (1, 0, 0, 1): (24, 4, "11"),
    (1, 0, 1, 1): (36, 4, "111001"),
    (0, 0, 0, 1): (48, 6, "1110"),
    (0, 0, 1, 1): (54, 6, "111001"),
}
# Tables 17-14 to 17-17: levels of one axis in the order of their Gray labels, and K_MOD.
AXES = {1: [-1, 1], 2: [-1, 1], 4: [-3, -1, 3, 1], 6: [-7, -5, -1, -3, 7, 5, 1, 3]}
KMOD = {1: 1.0, 2: 2**-0.5, 4: 10**-0.5, 6: 42**-0.5}
# Equation 17-8, subcarriers -26..26.
LTF = np.array([{"+": 1, "-": -1, "0": 0}[sign] for sign in "++--++-+-++++++--++-+-++++0+--++-+-+-----++--+-+-++++"])
CARRIERS = np.arange(-26, 27)
PILOTS = np.array([-21, -7, 7, 21])
DATA = np.array([k for k in CARRIERS if k != 0 and k not in PILOTS])
BACKOFF = 3


def _lfsr(count: int, state: list[int]) -> np.ndarray:
    """Scrambler of figure 17-7 run step by step; state x1..x7."""
    out = []
    for _ in range(count):
        new = state[6] ^ state[3]
        out.append(new)
        state = [new, *state[:6]]
    return np.array(out)


POLARITY = 1 - 2 * _lfsr(127, [1] * 7)


@dataclass
class Received:
    """A decoded PPDU: first sample, rate at 20 MHz, LENGTH, frequency offset in Hz, PSDU, FCS verdict, EVM in dB."""

    start: int
    rate: int
    length: int
    cfo: float
    psdu: bytes
    fcs_ok: bool
    evm_db: float


def viterbi(soft: np.ndarray) -> np.ndarray:
    """Bits of K = 7, 133/171 from soft values ``[steps, 2]`` (positive means 1), from state 0 to state 0."""
    register = np.arange(128)
    parity = [np.array([bin(r & g).count("1") % 2 for r in register]) for g in (0o133, 0o171)]
    branch = soft[:, :1] * (2 * parity[0] - 1) + soft[:, 1:] * (2 * parity[1] - 1)
    even, odd = np.ascontiguousarray(branch[:, 0::2]), np.ascontiguousarray(branch[:, 1::2])
    before = register.reshape(64, 2) & 63
    first, second = before[:, 0], before[:, 1]
    metric = np.full(64, -1e9)
    metric[0] = 0
    chosen = np.empty((len(soft), 64), dtype=bool)
    for step in range(len(soft)):
        zero, one = metric[first] + even[step], metric[second] + odd[step]
        np.greater(one, zero, out=chosen[step])
        metric = np.maximum(zero, one)
    state, bits = 0, np.empty(len(soft), dtype=np.uint8)
    for step in range(len(soft) - 1, -1, -1):
        bits[step] = state >> 5
        state = (state << 1 & 63) | int(chosen[step, state])
    return bits


def deinterleave(soft: np.ndarray, bits: int) -> np.ndarray:
    """Equations 17-17 and 17-18 undone on ``[symbols, n_cbps]``."""
    n_cbps, s = 48 * bits, max(bits // 2, 1)
    out = np.empty_like(soft)
    for k in range(n_cbps):
        i = (n_cbps // 16) * (k % 16) + k // 16
        j = s * (i // s) + (i + n_cbps - 16 * i // n_cbps) % s
        out[:, k] = soft[:, j]
    return out


def demap(points: np.ndarray, weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Max-log soft bits ``[symbols, 48 bits]`` of equalised points ``[symbols, 48]``, and the nearest points."""
    level = np.array(AXES[bits]) * KMOD[bits]
    per_axis = max(bits // 2, 1)
    label = np.arange(len(level))[:, None] >> np.arange(per_axis - 1, -1, -1) & 1
    parts, near = [], []
    for value in (points.real,) if bits == 1 else (points.real, points.imag):
        distance = (value[..., None] - level) ** 2
        near.append(level[distance.argmin(-1)])
        for column in range(per_axis):
            zero, one = (distance[..., label[:, column] == v].min(-1) for v in (0, 1))
            parts.append((zero - one) * weight)
    nearest = near[0] if bits == 1 else near[0] + 1j * near[1]
    return np.stack(parts, -1).reshape(len(points), -1), nearest


def decode_bits(soft: np.ndarray, bits: int, pattern: str, count: int) -> np.ndarray:
    """First ``count`` data bits, ending in the encoder's tail, of interleaved soft bits ``[symbols, n_cbps]``."""
    kept = deinterleave(soft, bits).ravel()
    pair = np.array([int(mark) for mark in pattern], dtype=bool)
    mother = np.zeros((len(kept) // pair.sum(), len(pair)))
    mother[:, pair] = kept.reshape(len(mother), -1)
    return viterbi(mother.reshape(-1, 2)[:count])


def spectra(iq: np.ndarray, first: int, count: int, step: int) -> np.ndarray:
    """FFT bins -26..26 of ``count`` 64-sample windows, ``step`` apart."""
    windows = iq[first + step * np.arange(count)[:, None] + np.arange(64)]
    return np.fft.fft(windows, axis=1)[:, CARRIERS]


def track(symbols: np.ndarray, channel: np.ndarray, first: int) -> np.ndarray:
    """Equalised symbols ``[n, 53]`` with common phase and clock drift taken out by the pilots (clause 17.3.5.10)."""
    at = PILOTS + 26
    number = (first + np.arange(len(symbols))) % 127
    sent = POLARITY[number][:, None] * np.array([1, 1, 1, -1])
    strength = np.abs(channel[at]) ** 2
    ratio = symbols[:, at] / channel[at] * sent * strength
    common = np.angle(ratio.sum(1, keepdims=True))
    turned = ratio * np.exp(-1j * common)
    slope = np.angle((turned[:, 2:] * np.conj(turned[:, 1::-1])).sum(1)) / 28
    drift = np.polyval(np.polyfit(np.arange(len(slope)), slope, 1), np.arange(len(slope))) if len(slope) > 8 else 0
    phase = common + np.multiply.outer(np.broadcast_to(drift, len(symbols)), CARRIERS)
    with np.errstate(divide="ignore", invalid="ignore"):
        return symbols / channel * np.exp(-1j * phase)


def find_preambles(iq: np.ndarray) -> list[int]:
    """Rough first samples of L-STFs: places where the signal repeats after 16 samples but is no carrier."""
    product = iq[16:] * np.conj(iq[:-16])
    window = np.ones(96)
    power = np.convolve(np.abs(iq) ** 2, window, "valid")[: len(product) - 95]
    later = np.convolve(np.abs(iq[16:]) ** 2, window, "valid")[: len(power)]
    like = np.abs(np.convolve(product, window, "valid")) / np.sqrt(power * later + 1e-12 * power.max() ** 2)
    high = np.concatenate([[False], like > 0.7, [False]])
    edges = np.flatnonzero(np.diff(high.astype(int)))
    return [int(a) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= 24]


def receive(iq: np.ndarray, rough: int, sample_rate: float = 20e6) -> Received | None:
    """The PPDU whose L-STF begins about ``rough``; None where no SIGNAL field of even parity follows."""
    piece = iq[rough + 16 : rough + 112]
    coarse = np.angle(np.vdot(piece[:-16], piece[16:])) / 16
    tail = iq[rough:] * np.exp(-1j * coarse * np.arange(len(iq) - rough))
    bins = np.zeros(64, dtype=complex)
    bins[CARRIERS] = LTF
    sent = np.fft.ifft(bins)
    match = np.abs(np.correlate(tail[:560], sent, "valid"))
    if len(match) < 65:
        return None
    first = int(np.argmax(match[:-64] * match[64:]))
    one, two = tail[first : first + 64], tail[first + 64 : first + 128]
    fine = np.angle(np.vdot(one, two)) / 64
    tail = tail * np.exp(-1j * fine * np.arange(len(tail)))
    start = first - BACKOFF
    if start < 0 or len(tail) < start + 128 + 80:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        channel = spectra(tail, start, 2, 64).mean(0) / LTF
    channel[26] = np.inf
    weight = np.abs(channel[DATA + 26]) ** 2
    body = start + 128 + 16
    signal = track(spectra(tail, body, 1, 80), channel, 0)[:, DATA + 26]
    bits = decode_bits(demap(signal, weight, 1)[0], 1, "11", 24)
    mode = MODES.get(tuple(int(b) for b in bits[:4]))
    length = int(bits[5:17] @ (1 << np.arange(12)))
    if mode is None or bits[4] or bits[:18].sum() % 2 or length == 0:
        return None
    rate, n_bpsc, pattern = mode
    n_dbps = 48 * n_bpsc * (len(pattern) // 2) // pattern.count("1")
    count = 16 + 8 * length + 6
    symbols = -(-count // n_dbps)
    if len(tail) < body + 80 * (symbols + 1) - 16:
        return None
    points = track(spectra(tail, body + 80, symbols, 80), channel, 1)[:, DATA + 26]
    soft, nearest = demap(points, weight, n_bpsc)
    plain = decode_bits(soft, n_bpsc, pattern, count)
    # SERVICE's first seven bits are zero: what is received there is the scrambler's own output, x7 first.
    seven = [int(b) for b in plain[:7]]
    stream = np.concatenate([seven, _lfsr(127, seven[::-1])])
    psdu = np.packbits((plain ^ np.resize(stream[:127], count))[16 : 16 + 8 * length], bitorder="little").tobytes()
    error = np.mean(np.abs(points - nearest) ** 2)
    return Received(
        start=rough + first - 192,
        rate=rate,
        length=length,
        cfo=(coarse + fine) / (2 * np.pi) * sample_rate,
        psdu=psdu,
        fcs_ok=zlib.crc32(psdu[:-4]) == int.from_bytes(psdu[-4:], "little"),
        evm_db=float(10 * np.log10(error + 1e-30)),
    )


def receive_all(iq: np.ndarray, sample_rate: float = 20e6) -> list[Received]:
    """Every PPDU whose SIGNAL field decodes and whose end is in ``iq``, in order."""
    found: list[Received] = []
    clear = 0
    for rough in find_preambles(iq):
        if rough < clear:
            continue
        ppdu = receive(iq, rough, sample_rate)
        if ppdu is not None:
            found.append(ppdu)
            if ppdu.fcs_ok:
                clear = rough + 320
    return found


@pytest.fixture(name="receive_all", scope="session")
def receive_all_fixture() -> Callable[..., list[Received]]:
    """The receiver above: ``receive_all(iq, sample_rate) -> list[Received]``."""
    return receive_all


@pytest.fixture(scope="session")
def preambles() -> Callable[[np.ndarray], list[int]]:
    """The L-STF detector above."""
    return find_preambles
