"""PDCCH in its CORESET (TS 38.211 clauses 7.3.2 and 7.4.1.3; TS 38.212 clause 7.3)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from experts.nr.coding import crc_append, polar_encode
from experts.nr.downlink.sequences import SUBCARRIERS, Cell, Complex, Mask, Slots, reference
from lwm.errors import RejectedConfig
from lwm.phy.constellation import cellular, map_bits
from lwm.phy.sequences import gold

GROUP = 6
"""Resource blocks of a bit of frequencyDomainResources, and REGs of a CCE."""
LEVELS = (1, 2, 4, 8, 16)
"""Aggregation levels, TS 38.211 table 7.3.2.1-1."""
CCE_BITS = 108
"""Bits of a CCE: 6 REGs of 9 QPSK symbols."""
SHORTEST_DCI = 12
"""Shorter DCI are padded to this, TS 38.212 clause 7.3.1."""
LONGEST_DCI = 140
"""Bits of the longest DCI, TS 38.212 clause 5.3.1: K at most 164 with its CRC."""
_CRC = 24


@dataclass(frozen=True)
class Coreset:
    """A control-resource set.

    Args:
        groups: groups of six resource blocks, ascending; group g begins at resource block 6 g.
        symbols: 1 to 3.
        first_symbol: symbol of the slot in which it begins.
        interleaver: None (not interleaved) or REG bundle size L, interleaver size R and n_shift.
    """

    groups: tuple[int, ...] = (0, 1, 2, 3)
    symbols: int = 1
    first_symbol: int = 0
    interleaver: tuple[int, int, int] | None = None

    @property
    def cces(self) -> int:
        """Control-channel elements."""
        return len(self.groups) * self.symbols

    def validate(self, cell: Cell) -> None:
        """Raise RejectedConfig, naming the clause, for a CORESET that the standard does not have in this cell."""
        clause = "(TS 38.211 clause 7.3.2.2)"
        most = cell.n_rb // GROUP
        ascending = list(self.groups) == sorted(set(self.groups))
        if not self.groups or not ascending or self.groups[0] < 0 or self.groups[-1] >= most:
            raise RejectedConfig(
                f"CORESET of groups {self.groups} {clause}", f"different ascending groups of six from 0 to {most - 1}"
            )
        if self.symbols not in (1, 2, 3) or not 0 <= self.first_symbol <= cell.symbols - self.symbols:
            raise RejectedConfig(
                f"CORESET of {self.symbols} symbols from {self.first_symbol} {clause}",
                f"1 to 3 symbols inside {cell.symbols}",
            )
        if self.interleaver is None:
            return
        bundle, rows, shift = self.interleaver
        legal = (2, 6) if self.symbols == 1 else (self.symbols, 6)
        regs = GROUP * self.cces
        if bundle not in legal or rows not in (2, 3, 6) or not 0 <= shift <= 1007 or regs % (bundle * rows):
            raise RejectedConfig(
                f"CORESET interleaver L {bundle}, R {rows}, n_shift {shift} of {regs} REGs {clause}",
                f"L of {legal}, R of 2, 3, 6, shift 0 to 1007 (274 or the PCI), and L R a divisor of the REGs",
            )


@dataclass(frozen=True)
class PDCCH:
    """One PDCCH candidate in a CORESET.

    Args:
        first_cce: first control-channel element, a multiple of the level (TS 38.213 clause 10.1).
        level: aggregation level, 1, 2, 4, 8 or 16.
        rnti: masks the CRC of the DCI, 1 to 65535.
        n_id: pdcch-DMRS-ScramblingID of a UE-specific search space, 0 to 65535; None (common search space) takes the
            cell's and no RNTI in the scrambling.
        dci_bits: length of the DCI, 1 to 140.
    """

    first_cce: int = 0
    level: int = 4
    rnti: int = 1
    n_id: int | None = None
    dci_bits: int = 40


def validate_pdcch(pdcch: PDCCH, coreset: Coreset, cell: Cell) -> None:
    """Raise RejectedConfig, naming the clause, for a PDCCH that the standard does not have in this CORESET."""
    coreset.validate(cell)
    if pdcch.level not in LEVELS or pdcch.level > coreset.cces:
        legal = [level for level in LEVELS if level <= coreset.cces]
        raise RejectedConfig(
            f"aggregation level {pdcch.level} in {coreset.cces} CCEs (TS 38.211 table 7.3.2.1-1)",
            f"one of {legal}",
            f"nearest is {min(legal, key=lambda level: abs(level - pdcch.level))}",
        )
    last = coreset.cces - pdcch.level
    if pdcch.first_cce % pdcch.level or not 0 <= pdcch.first_cce <= last:
        nearest = min(max(0, round(pdcch.first_cce / pdcch.level)), last // pdcch.level) * pdcch.level
        raise RejectedConfig(
            f"PDCCH of level {pdcch.level} from CCE {pdcch.first_cce} (TS 38.213 clause 10.1)",
            f"a multiple of the level, at most {last}",
            f"nearest is {nearest}",
        )
    most = min(LONGEST_DCI, CCE_BITS * pdcch.level - _CRC)
    if not 1 <= pdcch.dci_bits <= most:
        raise RejectedConfig(
            f"DCI of {pdcch.dci_bits} bits on {pdcch.level} CCEs (TS 38.212 clause 7.3)",
            f"1 to {most}",
            f"nearest is {min(max(1, pdcch.dci_bits), most)}",
        )
    if not 1 <= pdcch.rnti <= 65535 or not 0 <= (pdcch.n_id or 0) <= 65535:
        raise RejectedConfig(
            f"RNTI {pdcch.rnti} with identity {pdcch.n_id} (TS 38.211 clause 7.3.2.3)", "1 to 65535 with 0 to 65535"
        )


def coreset_rbs(coreset: Coreset) -> npt.NDArray[np.int64]:
    """Resource blocks, ascending: the columns of blocks and masks are 12 of each."""
    return (np.array(coreset.groups)[:, None] * GROUP + np.arange(GROUP)).reshape(-1)


def cce_regs(coreset: Coreset) -> npt.NDArray[np.int64]:
    """REG numbers of each CCE ``[cces, 6]``, TS 38.211 clause 7.3.2.2; REGs count time first from the lowest block."""
    regs = GROUP * coreset.cces
    if coreset.interleaver is None:
        return np.arange(regs).reshape(-1, GROUP)
    bundle, rows, shift = coreset.interleaver
    columns = regs // (bundle * rows)
    column, row = np.divmod(np.arange(regs // bundle), rows)
    bundles = (row * columns + column + shift) % (regs // bundle)
    return (bundles[:, None] * bundle + np.arange(bundle)).reshape(-1, GROUP)


def pdcch_regs(coreset: Coreset, pdcch: PDCCH) -> Mask:
    """REGs that a PDCCH takes, bool ``[symbols, resource blocks of the CORESET]``."""
    regs = cce_regs(coreset)[pdcch.first_cce : pdcch.first_cce + pdcch.level].reshape(-1)
    taken = np.zeros((coreset.symbols, GROUP * len(coreset.groups)), dtype=bool)
    taken[regs % coreset.symbols, regs // coreset.symbols] = True
    return taken


def encode_dci(dci: npt.NDArray[np.uint8], rnti: int, length: int) -> npt.NDArray[np.uint8]:
    """Rate-matched bits ``[n, length]`` of DCI ``[n, bits]``, TS 38.212 clauses 7.3.1 to 7.3.4.

    Args:
        dci: payloads, padded here to 12 bits when shorter.
        rnti: masks the last 16 bits of the CRC.
        length: E, 108 bits a CCE.
    """
    rows = len(dci)
    padded = np.pad(dci, ((0, 0), (0, max(0, SHORTEST_DCI - dci.shape[1]))))
    # The CRC is that of the DCI behind 24 ones, which are not sent.
    checked = crc_append(np.concatenate([np.ones((rows, _CRC), dtype=np.uint8), padded], axis=1), "24C")[:, _CRC:]
    masked = checked.copy()
    masked[:, -16:] ^= (rnti >> np.arange(15, -1, -1) & 1).astype(np.uint8)
    return polar_encode(masked, length, "dci")


def pdcch(
    cell: Cell, slots: Slots, coreset: Coreset, candidate: PDCCH, dci: npt.NDArray[np.uint8]
) -> tuple[Complex, Mask]:
    """PDCCH with its DM-RS in many slots; precoderGranularity is sameAsREG-bundle: DM-RS only in its own REGs.

    Args:
        cell: whose.
        slots: slot numbers ``[n]``; the number within the frame counts.
        coreset: where.
        candidate: which CCEs, legal by `validate_pdcch`.
        dci: payload bits, uint8 0 and 1 ``[n, dci_bits]``.

    Returns:
        complex64 ``[n, symbols, 12 * resource blocks of the CORESET]``, columns as of `coreset_rbs`, unit power a used
        element, and where something is sent, bool ``[symbols, 12 * resource blocks]``.
    """
    if dci.shape != (len(slots), candidate.dci_bits):
        raise RejectedConfig(f"DCI {dci.shape}", f"{(len(slots), candidate.dci_bits)}: slots, dci_bits")
    rbs, taken = coreset_rbs(coreset), pdcch_regs(coreset, candidate)
    n_id = cell.pci if candidate.n_id is None else candidate.n_id
    bits = encode_dci(dci, candidate.rnti, CCE_BITS * candidate.level)
    c_init = ((0 if candidate.n_id is None else candidate.rnti << 16) + n_id) % (1 << 31)
    symbols = map_bits(bits ^ gold(c_init, bits.shape[1]), cellular("QPSK"))
    used = np.repeat(taken, SUBCARRIERS, axis=1)
    pilots = used & (np.arange(used.shape[1]) % 4 == 1)
    block = np.zeros((len(slots), *used.shape), dtype=np.complex64)
    block[:, used & ~pilots] = symbols
    for symbol in range(coreset.symbols):
        r = reference(cell, slots, coreset.first_symbol + symbol, 3, n_id)[:, rbs[taken[symbol]]]
        block[:, symbol, pilots[symbol]] = r.reshape(len(slots), -1)
    return block, used
