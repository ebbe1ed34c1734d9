"""A small NR receiver written from the standard alone: it shares no code with the generator it judges."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


def m_sequence(taps: tuple[int, int], start: str) -> np.ndarray:
    """127 bits of x(i+7) = x(i+taps[0]) + x(i+taps[1]); ``start`` reads x(6) ... x(0) as the standard prints it."""
    x = np.zeros(127, dtype=int)
    x[:7] = [int(bit) for bit in reversed(start)]
    for i in range(120):
        x[i + 7] = (x[i + taps[0]] + x[i + taps[1]]) % 2
    return x


def primary(n_id_2: int) -> np.ndarray:
    """TS 38.211 clause 7.4.2.2.1: d(n) = 1 - 2 x((n + 43 N_ID2) mod 127)."""
    x = m_sequence((4, 0), "1110110")
    return np.array([1 - 2 * x[(n + 43 * n_id_2) % 127] for n in range(127)])


def secondary(n_id_1: int, n_id_2: int) -> np.ndarray:
    """TS 38.211 clause 7.4.2.3.1."""
    x0, x1 = m_sequence((4, 0), "0000001"), m_sequence((1, 0), "0000001")
    m0, m1 = 15 * (n_id_1 // 112) + 5 * n_id_2, n_id_1 % 112
    n = np.arange(127)
    return (1 - 2 * x0[(n + m0) % 127]) * (1 - 2 * x1[(n + m1) % 127])


def reference(c_init: int, length: int) -> np.ndarray:
    """QPSK reference signal from the Gold sequence, TS 38.211 clause 5.2.1, bit by bit."""
    total = 1600 + 2 * length
    x1 = [1] + [0] * 30
    x2 = [c_init >> i & 1 for i in range(31)]
    for n in range(total - 31):
        x1.append((x1[n + 3] + x1[n]) % 2)
        x2.append((x2[n + 3] + x2[n + 2] + x2[n + 1] + x2[n]) % 2)
    c = np.array(x1[1600:total]) ^ np.array(x2[1600:total])
    return ((1 - 2 * c[0::2]) + 1j * (1 - 2 * c[1::2])) / np.sqrt(2)


def symbol_starts(n_fft: int, mu: int, milliseconds: int) -> np.ndarray:
    """First useful sample of each symbol from the frame's start, TS 38.211 clause 5.3.1, in units of kappa."""
    per_kappa = n_fft * (1 << mu) / 2048
    starts, now = [], 0.0
    for symbol in range(milliseconds * 14 << mu):
        cp = 144 / (1 << mu) + (16 if symbol % (7 << mu) == 0 else 0)
        starts.append(round((now + cp) * per_kappa))
        now += cp + 2048 / (1 << mu)
    return np.array(starts)


@dataclass
class Block:
    """A detected SS/PBCH block: cell, index bits, first useful sample, carrier offset in Hz, DM-RS match 0..1."""

    pci: int
    i_ssb: int
    sample: int
    cfo: float
    match: float


class Receiver:
    """Finds the SS/PBCH block in samples of ``rate`` whose block has subcarriers of ``scs`` Hz."""

    def __init__(self, rate: float, scs: float) -> None:
        self.rate, self.scs, self.n = rate, scs, round(rate / scs)
        self.cp = 9 * self.n // 128

    def detect(self, iq: np.ndarray, center: float) -> Block:
        """The strongest block whose middle subcarrier (k = 120) lies near ``center`` Hz."""
        time = np.arange(iq.size) / self.rate
        base = self._band(iq * np.exp(-2j * np.pi * center * time))
        best = (0.0, 0, 0, 0.0)
        for n_id_2 in range(3):
            for fraction in (-0.4, -0.2, 0.0, 0.2, 0.4):
                metric = self._pss_metric(base, n_id_2, fraction)
                best = max(best, (float(metric.max()), n_id_2, int(metric.argmax()), fraction))
        _, n_id_2, start, _ = best
        cfo = self._cyclic_prefix_cfo(base, start)
        symbols = self._symbols(base * np.exp(-2j * np.pi * cfo * time), start)
        channel = symbols[0, 56:183] * primary(n_id_2)
        smooth = np.convolve(channel, np.ones(9) / 9, "same")
        equal = symbols[2, 56:183] * smooth.conj()
        scores = [abs(np.vdot(secondary(n_id_1, n_id_2), equal)) for n_id_1 in range(336)]
        pci = 3 * int(np.argmax(scores)) + n_id_2
        i_ssb, match = self._dmrs(symbols, pci)
        return Block(pci, i_ssb, start, cfo, match)

    def _band(self, base: np.ndarray) -> np.ndarray:
        spectrum = np.fft.fft(base)
        # The block and half a subcarrier of offset on either side, against noise and other users.
        spectrum[np.abs(np.fft.fftfreq(base.size, 1 / self.rate)) > 122 * self.scs] = 0
        return np.fft.ifft(spectrum)

    def _pss_metric(self, base: np.ndarray, n_id_2: int, fraction: float) -> np.ndarray:
        spectrum = np.zeros(self.n, dtype=complex)
        spectrum[np.arange(56, 183) - 120] = primary(n_id_2)
        replica = np.fft.ifft(spectrum) * np.exp(2j * np.pi * fraction * np.arange(self.n) / self.n)
        size = base.size + self.n
        product = np.fft.fft(base, size) * np.fft.fft(replica, size).conj()
        limit = base.size - 4 * (self.n + self.cp)
        return np.abs(np.fft.ifft(product))[:limit] ** 2

    def _cyclic_prefix_cfo(self, base: np.ndarray, start: int) -> float:
        total = 0.0 + 0.0j
        for symbol in range(4):
            end = start + symbol * (self.n + self.cp)
            total += np.vdot(base[end - self.cp : end], base[end - self.cp + self.n : end + self.n])
        return float(np.angle(total)) / (2 * np.pi) * self.scs

    def _symbols(self, base: np.ndarray, start: int) -> np.ndarray:
        rows = [base[start + s * (self.n + self.cp) :][: self.n] for s in range(4)]
        return np.fft.fft(np.array(rows), axis=1)[:, np.arange(240) - 120]

    def _dmrs(self, symbols: np.ndarray, pci: int) -> tuple[int, float]:
        places = [(1, k) for k in range(pci % 4, 240, 4)]
        places += [(2, k) for k in range(pci % 4, 240, 4) if k < 48 or k >= 192]
        places += [(3, k) for k in range(pci % 4, 240, 4)]
        received = np.array([symbols[place] for place in places])
        scores = []
        for i in range(8):
            expected = reference((((i + 1) * (pci // 4 + 1)) << 11) + ((i + 1) << 6) + pci % 4, 144)
            # Products of neighbours: insensitive to a phase slope left by the timing.
            product = received * expected.conj()
            scores.append(abs(np.vdot(product[:-1], product[1:])) / np.vdot(received, received).real)
        return int(np.argmax(scores)), float(max(scores))


def demodulate(iq: np.ndarray, n_fft: int, mu: int, subcarriers: int, milliseconds: int) -> np.ndarray:
    """Resource grid ``[symbols, subcarriers]`` of samples that begin with a millisecond of the frame."""
    index = symbol_starts(n_fft, mu, milliseconds)[:, None] + np.arange(n_fft)
    bins = np.fft.fft(iq[index], axis=1) / np.sqrt(n_fft)
    return bins[:, np.arange(subcarriers) - subcarriers // 2]


@pytest.fixture(scope="session")
def make_receiver() -> type[Receiver]:
    """The receiver class."""
    return Receiver


@pytest.fixture(scope="session")
def standard() -> dict:
    """The receiver's own reading of the standard, by name."""
    return {
        "primary": primary,
        "secondary": secondary,
        "reference": reference,
        "symbol_starts": symbol_starts,
        "demodulate": demodulate,
    }


@pytest.fixture(scope="session")
def decoders() -> ModuleType:
    """Module ``coding/decoders.py``: the independent decoders (test folders are no packages)."""
    path = Path(__file__).parent / "coding" / "decoders.py"
    spec = importlib.util.spec_from_file_location("nr_test_decoders", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
