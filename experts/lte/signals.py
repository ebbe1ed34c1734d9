"""Reference and synchronisation signals of the LTE downlink, and the PCFICH, as complex64 values."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from experts.lte.frame import SUBFRAMES, control_symbols, slot_symbols
from lwm.phy.constellation import cellular, map_bits
from lwm.phy.sequences import gold

Complex = npt.NDArray[np.complex64]

_MAX_RB = 110
_ROOTS = (25, 29, 34)
_CFI = ("011" * 11, "101" * 11, "110" * 11)


@lru_cache
def pss(n_id_2: int) -> Complex:
    """Primary synchronisation signal d_u(n), ``[62]``: Zadoff-Chu root 25, 29 or 34 (TS 36.211 clause 6.11.1.1)."""
    n = np.arange(62)
    n = n + (n > 30)
    return np.exp(-1j * np.pi * _ROOTS[n_id_2] * n * (n + 1) / 63).astype(np.complex64)


def _register(*taps: int) -> npt.NDArray[np.int64]:
    """1 - 2 x(i) of a 5-bit m-sequence with x(i+5) = sum of x(i+tap) and initial state 00001, ``[31]``."""
    x = [0, 0, 0, 0, 1]
    for i in range(26):
        x.append(sum(x[i + tap] for tap in taps) % 2)
    return 1 - 2 * np.array(x)


@lru_cache
def sss(n_id_1: int, n_id_2: int) -> Complex:
    """Secondary synchronisation signal, ``[2, 62]``: of the first and second half of a frame (clause 6.11.2.1)."""
    quotient = n_id_1 // 30
    quotient = (n_id_1 + quotient * (quotient + 1) // 2) // 30
    m = n_id_1 + quotient * (quotient + 1) // 2
    m0 = m % 31
    m1 = (m0 + m // 31 + 1) % 31
    s, c, z = _register(0, 2), _register(0, 3), _register(0, 1, 2, 4)
    s0, s1 = np.roll(s, -m0), np.roll(s, -m1)
    c0, c1 = np.roll(c, -n_id_2), np.roll(c, -n_id_2 - 3)
    z0, z1 = np.roll(z, -(m0 % 8)), np.roll(z, -(m1 % 8))
    even = np.stack([s0 * c0, s1 * c0])
    odd = np.stack([s1 * c1 * z0, s0 * c1 * z1])
    return np.stack([even, odd], axis=2).reshape(2, 62).astype(np.complex64)


def crs_symbols(extended: bool) -> tuple[int, ...]:
    """Symbols of a subframe that hold CRS of port 0 (TS 36.211 clause 6.10.1.2)."""
    slot = slot_symbols(extended)
    return (0, slot - 3, slot, 2 * slot - 3)


@lru_cache(maxsize=64)
def crs(pci: int, n_rb: int, extended: bool) -> Complex:
    """Cell-specific reference signal, ``[10 subframes, 4 symbols, 2 * n_rb]`` (TS 36.211 clause 6.10.1.1)."""
    slot = slot_symbols(extended)
    first = 2 * (_MAX_RB - n_rb)
    rows = []
    for subframe in range(SUBFRAMES):
        for symbol in crs_symbols(extended):
            number = 2 * subframe + symbol // slot
            prefix = 0 if extended else 1
            c_init = 2**10 * (7 * (number + 1) + symbol % slot + 1) * (2 * pci + 1) + 2 * pci + prefix
            rows.append(gold(c_init, first + 4 * n_rb)[first:])
    return map_bits(np.stack(rows), cellular("QPSK")).reshape(SUBFRAMES, 4, 2 * n_rb)


def crs_offset(pci: int, index: int) -> int:
    """First subcarrier, 0 to 5, of CRS port 0 in the ``index``-th entry of :func:`crs_symbols`."""
    return (3 * (index % 2) + pci) % 6


@lru_cache(maxsize=64)
def pcfich(pci: int, n_rb: int, cfi: int, tdd: bool) -> tuple[npt.NDArray[np.int64], Complex]:
    """Subcarriers ``[16]`` and QPSK symbols ``[10 subframes, 16]`` of the PCFICH.

    TS 36.211 clauses 6.7.1 (scrambling) and 6.7.4 (four resource-element groups), TS 36.212 table 5.3.4-1.
    """
    reference = 6 * (pci % (2 * n_rb))
    groups = [(reference + 6 * (quarter * n_rb // 2)) % (12 * n_rb) for quarter in range(4)]
    carriers = np.concatenate([k + np.flatnonzero((k + np.arange(6)) % 3 != pci % 3) for k in groups])
    extra = 1 if n_rb <= 10 else 0
    rows = []
    for subframe, symbols in enumerate(control_symbols(n_rb, cfi, tdd)):
        word = (_CFI[symbols - extra - 1])[:32]
        bits = np.array([int(bit) for bit in word], dtype=np.uint8)
        rows.append(bits ^ gold(2**9 * (subframe + 1) * (2 * pci + 1) + pci, 32))
    return carriers, map_bits(np.stack(rows), cellular("QPSK"))
