"""The SS/PBCH block: sequences, mapping, candidate positions (TS 38.211 clauses 7.4.2, 7.4.1.4, 7.4.3; 38.213 4.1)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lwm.errors import RejectedConfig
from lwm.phy.constellation import cellular
from lwm.phy.sequences import gold

Complex = npt.NDArray[np.complex64]

WIDTH = 240
"""Subcarriers of an SS/PBCH block."""
LENGTH = 4
"""OFDM symbols of an SS/PBCH block."""
_SYNC = slice(56, 183)
NUMEROLOGY = {"A": 0, "B": 1, "C": 1}
"""Numerology of the block by its case, TS 38.213 clause 4.1."""
PERIODS_MS = (5, 10, 20)
"""SSB periods synthesised here (the standard has 40, 80 and 160 ms too)."""


@dataclass(frozen=True)
class SSB:
    """Where and when SS/PBCH blocks are sent.

    Args:
        case: "A" (15 kHz), "B" or "C" (30 kHz), TS 38.213 clause 4.1.
        bitmap: "1" where the candidate of that index is sent; 4 long (carrier up to 3 GHz) or 8 (up to 6 GHz).
        period_ms: 5, 10 or 20.
        half_frame: half of the frame that carries the burst, 0 or 1; 0 with a 5 ms period, which uses both.
        first_rb: carrier resource block in which the block begins.
        k_ssb: offset in that resource block in units of 15 kHz, TS 38.211 clause 7.4.3.1.
    """

    case: str = "C"
    bitmap: str = "1000"
    period_ms: int = 20
    half_frame: int = 0
    first_rb: int = 0
    k_ssb: int = 0

    def validate(self) -> None:
        """Raise RejectedConfig for what is wrong whatever the carrier."""
        positions, clause = "(TS 38.213 clause 4.1)", "(TS 38.211 clause 7.4.3.1)"
        if self.case not in NUMEROLOGY:
            raise RejectedConfig(f"SSB case {self.case!r} {positions}", f"one of {list(NUMEROLOGY)} in FR1")
        if len(self.bitmap) not in (4, 8) or set(self.bitmap) - set("01") or "1" not in self.bitmap:
            raise RejectedConfig(
                f"SSB bitmap {self.bitmap!r} {positions}", "4 or 8 characters 0 or 1, one of them 1", "for example 1000"
            )
        if self.period_ms not in PERIODS_MS:
            nearest = min(PERIODS_MS, key=lambda ms: abs(ms - self.period_ms))
            raise RejectedConfig(
                f"SSB period {self.period_ms} ms {positions}", f"one of {list(PERIODS_MS)} ms", f"nearest is {nearest}"
            )
        if self.half_frame not in ((0,) if self.period_ms == 5 else (0, 1)):
            raise RejectedConfig(
                f"SSB half frame {self.half_frame} with a period of {self.period_ms} ms {positions}",
                "0, or 1 from 10 ms",
            )
        step = 1 << NUMEROLOGY[self.case]
        if self.k_ssb not in range(0, 24, step):
            nearest = min(range(0, 24, step), key=lambda legal: abs(legal - self.k_ssb))
            raise RejectedConfig(
                f"k_SSB {self.k_ssb} {clause}",
                f"0 to 23 in steps of {step} for case {self.case}",
                f"nearest is {nearest}",
            )

    @property
    def mu(self) -> int:
        """Numerology of the block."""
        return NUMEROLOGY[self.case]


def candidate_symbols(case: str, count: int) -> npt.NDArray[np.int64]:
    """First symbols ``[count]`` of the candidates in their half frame, TS 38.213 clause 4.1.

    Args:
        case: "A", "B" or "C".
        count: L_max, 4 or 8.
    """
    base, step = ([4, 8, 16, 20], 28) if case == "B" else ([2, 8], 14)
    n = np.arange(count // len(base))
    return (n[:, None] * step + np.array(base)).reshape(-1)


@lru_cache
def pss(n_id_2: int) -> Complex:
    """Primary synchronisation signal ``[127]``, TS 38.211 clause 7.4.2.2.1."""
    x = [0, 1, 1, 0, 1, 1, 1]
    while len(x) < 127:
        x.append(x[-3] ^ x[-7])
    return (1 - 2 * np.roll(x, -43 * n_id_2)).astype(np.complex64)


@lru_cache
def sss(pci: int) -> Complex:
    """Secondary synchronisation signal ``[127]`` of cell ``pci``, TS 38.211 clause 7.4.2.3.1."""
    n_id_1, n_id_2 = divmod(pci, 3)
    x0, x1 = ([1, 0, 0, 0, 0, 0, 0] for _ in range(2))
    while len(x0) < 127:
        x0.append(x0[-3] ^ x0[-7])
        x1.append(x1[-6] ^ x1[-7])
    shift = 15 * (n_id_1 // 112) + 5 * n_id_2
    return ((1 - 2 * np.roll(x0, -shift)) * (1 - 2 * np.roll(x1, -(n_id_1 % 112)))).astype(np.complex64)


def qpsk_sequence(c_init: int, length: int) -> Complex:
    """r(n) ``[length]`` of TS 38.211 clauses 7.4.1.1.1, 7.4.1.3.1 and 7.4.1.4.1."""
    bits = gold(c_init, 2 * length).reshape(-1, 2)
    return cellular("QPSK")[2 * bits[:, 0] + bits[:, 1]]


@lru_cache(maxsize=256)
def pbch_dmrs(pci: int, index: int, half_frame: int, l_max: int) -> Complex:
    """DM-RS of PBCH ``[144]``, TS 38.211 clause 7.4.1.4.1; the half frame enters only where L_max is 4."""
    i_ssb = index % 4 + 4 * half_frame if l_max == 4 else index % 8
    c_init = (((i_ssb + 1) * (pci // 4 + 1)) << 11) + ((i_ssb + 1) << 6) + pci % 4
    return qpsk_sequence(c_init, 144)


@lru_cache
def pbch_elements(pci: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Flat indices into ``[4, 240]`` of the PBCH data ``[432]`` and of its DM-RS ``[144]``, in mapping order.

    TS 38.211 table 7.4.3.1-1: symbols 1 and 3 whole, symbol 2 outside the SSS; DM-RS on every fourth from v.
    """
    region = np.zeros((LENGTH, WIDTH), dtype=bool)
    region[[1, 3]] = True
    region[2, :48] = region[2, 192:] = True
    reference = region & (np.arange(WIDTH) % 4 == pci % 4)
    return np.flatnonzero(region & ~reference), np.flatnonzero(reference)


def blocks(
    pci: int,
    index: npt.NDArray[np.int64],
    half_frame: npt.NDArray[np.int64],
    l_max: int,
    rng: np.random.Generator,
) -> Complex:
    """SS/PBCH blocks with random PBCH payload symbols, complex64 ``[n, 4, 240]``, unit power a used element.

    Args:
        pci: physical cell identity.
        index: SSB index of each block ``[n]``.
        half_frame: half frame of each block ``[n]``.
        l_max: 4 or 8.
        rng: payload source.
    """
    data, reference = pbch_elements(pci)
    grid = np.zeros((len(index), LENGTH, WIDTH), dtype=np.complex64)
    grid[:, 0, _SYNC] = pss(pci % 3)
    grid[:, 2, _SYNC] = sss(pci)
    flat = grid.reshape(len(index), LENGTH * WIDTH)
    flat[:, data] = cellular("QPSK")[rng.integers(0, 4, (len(index), data.size), dtype=np.uint8)]
    for row, i, half in zip(flat, index.tolist(), half_frame.tolist(), strict=True):
        row[reference] = pbch_dmrs(pci, i, half, l_max)
    return grid
