"""The broadcast channel: MIB, payload, coding and scrambling (TS 38.331 MIB, TS 38.212 clause 7.1, 38.211 7.3.3)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from experts.nr.coding import crc_append, polar_encode
from lwm.errors import RejectedConfig
from lwm.phy.sequences import gold

Bits = npt.NDArray[np.uint8]

CODED_BITS = 864
"""M_bit and E: bits of a PBCH."""
_PAYLOAD = 32
# G(j), TS 38.212 table 7.1.1-1.
_TABLE = "16 23 18 17 8 30 10 6 24 7 0 5 3 2 1 4 9 11 12 13 14 15 19 20 21 22 25 26 27 28 29 31"
_G = np.array(_TABLE.split(), dtype=np.int64)
# j of each payload bit: SFN bits from 0, the half-frame bit 10, the SSB index bits from 11, all others from 14.
_SFN_BITS = (*range(1, 7), *range(24, 28))
_HALF, _INDEX = 28, (29, 30, 31)


def _interleaver() -> npt.NDArray[np.int64]:
    others = [i for i in range(_PAYLOAD) if i not in (*_SFN_BITS, _HALF, *_INDEX)]
    j = np.empty(_PAYLOAD, dtype=np.int64)
    j[[*_SFN_BITS, _HALF, *_INDEX, *others]] = np.arange(_PAYLOAD)
    return _G[j]


_PLACES = _interleaver()
"""Place in a of each bit of the payload, TS 38.212 clause 7.1.1."""


@dataclass(frozen=True)
class MIB:
    """MasterInformationBlock of TS 38.331, less what changes from block to block.

    Args:
        scs_common: subCarrierSpacingCommon in kHz: 15 or 30 in FR1, 60 or 120 in FR2.
        dmrs_type_a_position: 2 or 3.
        pdcch_config_sib1: 0 to 255: controlResourceSetZero in the upper, searchSpaceZero in the lower four bits.
        cell_barred: True when barred.
        intra_freq_reselection: True when allowed.
    """

    scs_common: int = 30
    dmrs_type_a_position: int = 2
    pdcch_config_sib1: int = 0
    cell_barred: bool = False
    intra_freq_reselection: bool = True

    def validate(self, fr2: bool) -> None:
        """Raise RejectedConfig for a field outside its range in frequency range 1 or 2."""
        spacings = (60, 120) if fr2 else (15, 30)
        if self.scs_common not in spacings:
            raise RejectedConfig(
                f"subCarrierSpacingCommon {self.scs_common} kHz (TS 38.331 MIB)", f"one of {spacings} kHz"
            )
        if self.dmrs_type_a_position not in (2, 3) or not 0 <= self.pdcch_config_sib1 <= 255:
            raise RejectedConfig(
                f"dmrs-TypeA-Position {self.dmrs_type_a_position} with pdcch-ConfigSIB1 {self.pdcch_config_sib1} "
                "(TS 38.331 MIB)",
                "2 or 3 with 0 to 255",
            )

    def facts(self, sfn: int, k_ssb: int) -> dict[str, Any]:
        """What the MIB says in frame ``sfn``, JSON-able."""
        return {
            "sfn": sfn,
            "scs_common_khz": self.scs_common,
            "k_ssb": k_ssb,
            "dmrs_type_a_position": self.dmrs_type_a_position,
            "coreset_zero": self.pdcch_config_sib1 >> 4,
            "search_space_zero": self.pdcch_config_sib1 & 15,
            "cell_barred": self.cell_barred,
            "intra_freq_reselection": self.intra_freq_reselection,
        }


def _spread(value: npt.NDArray[np.int64] | int, width: int) -> Bits:
    """Bits of ``value``, highest first, uint8 ``[..., width]``."""
    return (np.asarray(value)[..., None] >> np.arange(width - 1, -1, -1) & 1).astype(np.uint8)


def bch_payload(
    mib: MIB,
    sfn: npt.NDArray[np.int64],
    k_ssb: int,
    half_frame: npt.NDArray[np.int64],
    index: npt.NDArray[np.int64],
    l_max: int,
) -> Bits:
    """The 32 payload bits of each block ``[n, 32]`` before interleaving, TS 38.331 MIB and TS 38.212 clause 7.1.1.

    Args:
        mib: constant fields.
        sfn: system frame number of each block ``[n]``, taken modulo 1024.
        k_ssb: ssb-SubcarrierOffset, five bits in FR1, four in FR2.
        half_frame: 0 or 1 of each block ``[n]``.
        index: SSB index of each block ``[n]``.
        l_max: 4, 8 or 64.
    """
    bits = np.zeros((len(sfn), _PAYLOAD), dtype=np.uint8)
    # Bit 0 chooses the MIB, bit 23 is spare.
    bits[:, 1:7] = _spread(sfn >> 4 & 63, 6)
    bits[:, 7] = mib.scs_common in (30, 120)
    bits[:, 8:12] = _spread(k_ssb & 15, 4)
    bits[:, 12] = mib.dmrs_type_a_position == 3
    bits[:, 13:21] = _spread(mib.pdcch_config_sib1, 8)
    bits[:, 21] = not mib.cell_barred
    bits[:, 22] = not mib.intra_freq_reselection
    bits[:, 24:28] = _spread(sfn & 15, 4)
    bits[:, _HALF] = half_frame
    if l_max == 64:
        bits[:, 29:32] = _spread(index >> 3, 3)
    else:
        bits[:, 29] = k_ssb >> 4
    return bits


def _scramble_payload(a: Bits, sfn: npt.NDArray[np.int64], pci: int, l_max: int) -> Bits:
    """TS 38.212 clause 7.1.2: bits a receiver needs before it knows the frame stay as they are."""
    plain = [_PLACES[_HALF], _PLACES[25], _PLACES[26]] + ([_PLACES[i] for i in _INDEX] if l_max == 64 else [])
    scrambled = np.setdiff1d(np.arange(_PAYLOAD), plain)
    c = gold(pci, 4 * scrambled.size).reshape(4, -1)
    a = a.copy()
    a[:, scrambled] ^= c[sfn >> 1 & 3]
    return a


def pbch_bits(payload: Bits, sfn: npt.NDArray[np.int64], index: npt.NDArray[np.int64], pci: int, l_max: int) -> Bits:
    """Scrambled coded bits ``[n, 864]`` ready for QPSK, TS 38.212 clauses 7.1.1 to 7.1.5 and 38.211 clause 7.3.3.1.

    Args:
        payload: of `bch_payload` ``[n, 32]``.
        sfn: system frame number of each block ``[n]``.
        index: SSB index of each block ``[n]``.
        pci: physical cell identity.
        l_max: 4, 8 or 64.
    """
    a = np.empty_like(payload)
    a[:, _PLACES] = payload
    coded = polar_encode(crc_append(_scramble_payload(a, sfn, pci, l_max), "24C"), CODED_BITS, "pbch")
    v = index % (4 if l_max == 4 else 8)
    return coded ^ gold(pci, 8 * CODED_BITS).reshape(8, -1)[v]
