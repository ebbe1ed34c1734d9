"""The SS/PBCH block: sequences, mapping, candidate positions (TS 38.211 clauses 7.4.2, 7.4.1.4, 7.4.3; 38.213 4.1)."""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from experts.nr.downlink.pbch import MIB, bch_payload, pbch_bits
from experts.nr.downlink.sequences import Complex, qpsk_sequence
from lwm.errors import RejectedConfig
from lwm.phy.constellation import cellular, map_bits

WIDTH = 240
"""Subcarriers of an SS/PBCH block."""
LENGTH = 4
"""OFDM symbols of an SS/PBCH block."""
_SYNC = slice(56, 183)
NUMEROLOGY = {"A": 0, "B": 1, "C": 1, "D": 3, "E": 4}
"""Numerology of the block by its case, TS 38.213 clause 4.1; A, B and C are of FR1, D and E of FR2."""
_FR2_CASES = ("D", "E")
PERIODS_MS = (5, 10, 20)
"""SSB periods synthesised here (the standard has 40, 80 and 160 ms too)."""


# First symbols, their period in symbols, and the values of n by L_max: TS 38.213 clause 4.1.
_CANDIDATES: dict[str, tuple[tuple[int, ...], int, dict[int, tuple[int, ...]]]] = {
    "A": ((2, 8), 14, {4: (0, 1), 8: (0, 1, 2, 3)}),
    "B": ((4, 8, 16, 20), 28, {4: (0,), 8: (0, 1)}),
    "C": ((2, 8), 14, {4: (0, 1), 8: (0, 1, 2, 3)}),
    "D": ((4, 8, 16, 20), 28, {64: (0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 18)}),
    "E": ((8, 12, 16, 20, 32, 36, 40, 44), 56, {64: (0, 1, 2, 3, 5, 6, 7, 8)}),
}


@dataclass(frozen=True)
class SSB:
    """Where and when SS/PBCH blocks are sent, and what their MIB says.

    Args:
        case: "A" (15 kHz), "B" or "C" (30 kHz), "D" (120 kHz) or "E" (240 kHz), TS 38.213 clause 4.1.
        bitmap: "1" where the candidate of that index is sent; 4 long (carrier up to 3 GHz), 8 (up to 6 GHz) or 64
            (FR2, cases D and E).
        period_ms: 5, 10 or 20.
        half_frame: half of the frame that carries the burst, 0 or 1; 0 with a 5 ms period, which uses both.
        first_rb: carrier resource block in which the block begins.
        k_ssb: offset in that resource block in units of 15 kHz (FR1) or of the MIB's subCarrierSpacingCommon (FR2),
            TS 38.211 clause 7.4.3.1.
        mib: the other fields of the master information block.
    """

    case: str = "C"
    bitmap: str = "1000"
    period_ms: int = 20
    half_frame: int = 0
    first_rb: int = 0
    k_ssb: int = 0
    mib: MIB = field(default_factory=MIB)

    def validate(self) -> None:
        """Raise RejectedConfig for what is wrong whatever the carrier."""
        positions = "(TS 38.213 clause 4.1)"
        if self.case not in NUMEROLOGY:
            raise RejectedConfig(f"SSB case {self.case!r} {positions}", f"one of {list(NUMEROLOGY)}")
        lengths = list(_CANDIDATES[self.case][2])
        if len(self.bitmap) not in lengths or set(self.bitmap) - set("01") or "1" not in self.bitmap:
            raise RejectedConfig(
                f"SSB bitmap {self.bitmap!r} of case {self.case} {positions}",
                f"{' or '.join(map(str, lengths))} characters 0 or 1, one of them 1",
                f"for example {'1'.ljust(lengths[0], '0')}",
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
        self.mib.validate(self.fr2)
        legal = self.offsets
        if self.k_ssb not in legal:
            nearest = min(legal, key=lambda value: abs(value - self.k_ssb))
            raise RejectedConfig(
                f"k_SSB {self.k_ssb} (TS 38.211 clause 7.4.3.1)",
                f"0 to {legal[-1]} in steps of {legal.step} for case {self.case}",
                f"nearest is {nearest}",
            )

    @property
    def mu(self) -> int:
        """Numerology of the block."""
        return NUMEROLOGY[self.case]

    @property
    def l_max(self) -> int:
        """Candidates of a half frame: 4, 8 or 64."""
        return len(self.bitmap)

    @property
    def fr2(self) -> bool:
        """Whether the case is of frequency range 2."""
        return self.case in _FR2_CASES

    @property
    def offsets(self) -> range:
        """Legal k_SSB that put the block on its own subcarrier raster."""
        if not self.fr2:
            return range(0, 24, 1 << self.mu)
        return range(0, 12, (15 << self.mu) // self.mib.scs_common)

    @property
    def k_ssb_hz(self) -> float:
        """Offset of the block in its first resource block in Hz."""
        return self.k_ssb * (1e3 * self.mib.scs_common if self.fr2 else 15e3)


def candidate_symbols(case: str, count: int) -> npt.NDArray[np.int64]:
    """First symbols ``[count]`` of the candidates in their half frame, TS 38.213 clause 4.1.

    Args:
        case: "A" to "E".
        count: L_max, 4 or 8 (cases A, B and C) or 64 (D and E).
    """
    base, step, values = _CANDIDATES[case]
    return (np.array(values[count])[:, None] * step + np.array(base)).reshape(-1)


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


def ssb_blocks(
    pci: int,
    index: npt.NDArray[np.int64],
    half_frame: npt.NDArray[np.int64],
    sfn: npt.NDArray[np.int64],
    ssb: SSB,
) -> Complex:
    """SS/PBCH blocks with their real PBCH, complex64 ``[n, 4, 240]``, unit power a used element.

    Args:
        pci: physical cell identity.
        index: SSB index of each block ``[n]``.
        half_frame: half frame of each block ``[n]``.
        sfn: system frame number of each block ``[n]``, taken modulo 1024.
        ssb: case, k_SSB and MIB.
    """
    data, reference = pbch_elements(pci)
    grid = np.zeros((len(index), LENGTH, WIDTH), dtype=np.complex64)
    grid[:, 0, _SYNC] = pss(pci % 3)
    grid[:, 2, _SYNC] = sss(pci)
    payload = bch_payload(ssb.mib, sfn, ssb.k_ssb, half_frame, index, ssb.l_max)
    flat = grid.reshape(len(index), LENGTH * WIDTH)
    flat[:, data] = map_bits(pbch_bits(payload, sfn, index, pci, ssb.l_max), cellular("QPSK"))
    for row, i, half in zip(flat, index.tolist(), half_frame.tolist(), strict=True):
        row[reference] = pbch_dmrs(pci, i, half, ssb.l_max)
    return grid
