"""Low-PAPR sequences of type 1 (TS 38.211 clause 5.2.2) and the numbers that choose among them."""

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from experts.nr.uplink.grid import Complex
from experts.nr.uplink.phi import PHI
from lwm.phy.constellation import cellular
from lwm.phy.sequences import gold

Hopping = Literal["neither", "group", "sequence"]
HOPPINGS: tuple[Hopping, ...] = ("neither", "group", "sequence")
"""Group hopping, sequence hopping or neither: ``enable``, ``disable`` and ``neither`` of pucch-GroupHopping."""
GROUPS = 30
"""Sequence groups u."""
TWO_SEQUENCES = 72
"""Length from which a group has two base sequences, 6 resource blocks (TS 38.211 clause 5.2.2)."""


def largest_prime_below(limit: int) -> int:
    """Largest prime number smaller than ``limit``, at least 3."""
    return next(n for n in range(limit - 1, 1, -1) if all(n % divisor for divisor in range(2, int(n**0.5) + 1)))


@lru_cache(maxsize=2048)
def base_sequence(u: int, v: int, length: int) -> Complex:
    """Base sequence r_{u,v}(n), unit amplitude.

    Args:
        u: group, 0 to 29.
        v: number within the group; taken as 0 below length 72, where a group has one sequence.
        length: M_ZC: 6, 12, 18, 24, 30 or a larger multiple of 6.

    Returns:
        complex64 ``[length]``, read-only.
    """
    n = np.arange(length)
    if length in PHI:
        phase = PHI[length][u] / 4
    elif length == 30:
        phase = -((u + 1) * (n + 1) * (n + 2) % 62) / 31
    else:
        n_zc = largest_prime_below(length)
        q_bar = n_zc * (u + 1) / 31
        q = int(q_bar + 0.5) + (v if length >= TWO_SEQUENCES else 0) * (-1) ** int(2 * q_bar)
        m = n % n_zc
        # Whole turns are taken out in integers: the phase grows as the square of the length.
        phase = -(q * m * (m + 1) % (2 * n_zc)) / n_zc
    sequence = np.exp(1j * np.pi * phase).astype(np.complex64)
    sequence.setflags(write=False)
    return sequence


def shifts(length: int, turns: npt.NDArray[np.float64]) -> Complex:
    """Cyclic shift factors exp(j alpha n), complex64 ``[..., length]``.

    Args:
        length: sequence length.
        turns: alpha / (2 pi) of each, any shape.
    """
    return np.exp(2j * np.pi * (np.asarray(turns)[..., None] * np.arange(length) % 1)).astype(np.complex64)


class Chosen(NamedTuple):
    """Group and sequence number of one symbol or hop."""

    u: int
    v: int


@lru_cache(maxsize=1024)
def _pseudo_random(c_init: int, length: int) -> npt.NDArray[np.uint8]:
    bits = gold(c_init, length)
    bits.setflags(write=False)
    return bits


def byte_of(c_init: int, index: int, length: int) -> int:
    """sum over m of 2^m c(8 index + m), m from 0 to 7.

    Args:
        c_init: initialisation of c.
        index: which byte.
        length: bytes that may be asked for with this ``c_init`` (they are kept).
    """
    bits = _pseudo_random(c_init, 8 * length)[8 * index : 8 * index + 8]
    return int(bits @ (1 << np.arange(8)))


def chosen_pucch(hopping: Hopping, n_id: int, slot: int, hop: int, slots: int) -> Chosen:
    """u and v of PUCCH, TS 38.211 clause 6.3.2.2.1.

    Args:
        hopping: pucch-GroupHopping.
        n_id: hoppingId, 0 to 1023.
        slot: slot number in the frame.
        hop: 0, or 1 in the second hop of intra-slot hopping.
        slots: slots of a frame.
    """
    index = 2 * slot + hop
    if hopping == "group":
        return Chosen((byte_of(n_id // GROUPS, index, 2 * slots) + n_id) % GROUPS, 0)
    if hopping == "sequence":
        c_init = (n_id // GROUPS << 5) + n_id % GROUPS
        return Chosen(n_id % GROUPS, int(_pseudo_random(c_init, 2 * slots)[index]))
    return Chosen(n_id % GROUPS, 0)


def chosen_by_symbol(hopping: Hopping, n_id: int, c_init: int, index: int, count: int, length: int) -> Chosen:
    """u and v of PUSCH DM-RS and of SRS, TS 38.211 clauses 6.4.1.1.1.2 and 6.4.1.4.2.

    Args:
        hopping: group, sequence or neither.
        n_id: identity of the sequences.
        c_init: initialisation of c(i) for the hopping chosen.
        index: symbol number in the frame, counted over slots.
        count: symbols of a frame.
        length: sequence length; sequences hop only from 72.
    """
    if hopping == "group":
        return Chosen((byte_of(c_init, index, count) + n_id) % GROUPS, 0)
    if hopping == "sequence" and length >= TWO_SEQUENCES:
        return Chosen(n_id % GROUPS, int(_pseudo_random(c_init, count)[index]))
    return Chosen(n_id % GROUPS, 0)


@lru_cache(maxsize=2048)
def qpsk(c_init: int, length: int) -> Complex:
    """r(n) of TS 38.211 clause 6.4.1.1.1.1 from c(2n) and c(2n + 1), complex64 ``[length]``, read-only."""
    bits = gold(c_init, 2 * length).reshape(-1, 2)
    sequence = cellular("QPSK")[2 * bits[:, 0] + bits[:, 1]]
    sequence.setflags(write=False)
    return sequence


def dmrs_init(n_id: int, n_scid: int, slot: int, symbol: int, symbols: int) -> int:
    """c_init of PUSCH DM-RS (TS 38.211 clause 6.4.1.1.1.1) and, with n_SCID 0, of PUCCH format 2 (6.4.1.3.2.1).

    Args:
        n_id: N_ID^{n_SCID}, 0 to 65535.
        n_scid: 0 or 1.
        slot: slot number in the frame.
        symbol: OFDM symbol in the slot.
        symbols: symbols of a slot.
    """
    return (((symbols * slot + symbol + 1) * (2 * n_id + 1) << 17) + 2 * n_id + n_scid) % (1 << 31)
