"""Polar coding of BCH, DCI and UCI: TS 38.212, 5.3.1 and 5.4.1.

Everything that depends on the sizes alone is one cached plan; encoding a batch is a scatter, log2(N) butterflies of
XORs and a gather.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log2

import numpy as np
import numpy.typing as npt

from experts.nr.coding.crc import as_bits
from experts.nr.coding.polar_tables import INPUT_INTERLEAVER, RELIABILITY, SUB_BLOCKS
from lwm.errors import RejectedConfig

KINDS = ("pbch", "dci", "uci")
_MAX_EXPONENT = {"pbch": 9, "dci": 9, "uci": 10}
_MAX_UCI_OUTPUT = 8192


@dataclass(frozen=True)
class PolarPlan:
    """Where every bit of one polar code goes.

    Attributes:
        size: mother code length N.
        interleaver: ``[K]`` gather over the input bits (Π_IL; identity for UCI).
        information: ``[K]`` ascending positions in u of the interleaved input bits.
        parity: ``[n_PC]`` ascending positions in u of the parity-check bits.
        parity_cover: one array per parity-check bit, the positions in u that it adds up.
        output: ``[E]`` gather over the mother code: sub-blocks, selection and the interleaver of coded bits.
    """

    size: int
    interleaver: npt.NDArray[np.intp]
    information: npt.NDArray[np.intp]
    parity: npt.NDArray[np.intp]
    parity_cover: tuple[npt.NDArray[np.intp], ...]
    output: npt.NDArray[np.intp]


def polar_code_size(information_bits: int, rate_matched_bits: int, max_exponent: int) -> int:
    """Mother code length N for K and E (38.212 5.3.1)."""
    exponent = ceil(log2(rate_matched_bits))
    below = 8 * rate_matched_bits <= 9 * 2 ** (exponent - 1)
    if below and 16 * information_bits < 9 * rate_matched_bits:
        exponent -= 1
    return 1 << max(5, min(exponent, ceil(log2(8 * information_bits)), max_exponent))


def _sub_block_interleaver(size: int) -> npt.NDArray[np.intp]:
    """``[N]`` J(n) of 38.212 5.4.1.1."""
    return (SUB_BLOCKS[:, None] * (size // 32) + np.arange(size // 32)).ravel()


def _candidates(bits: int, output: int, size: int) -> npt.NDArray[np.intp]:
    """Positions that may carry bits, by rising reliability: Q_I,tmp of 38.212 5.4.1.1."""
    frozen = np.zeros(size, dtype=bool)
    order = _sub_block_interleaver(size)
    if output < size:
        if 16 * bits <= 7 * output:  # puncturing
            frozen[order[: size - output]] = True
            if 4 * output >= 3 * size:
                frozen[: ceil(3 * size / 4 - output / 2)] = True
            else:
                frozen[: ceil(9 * size / 16 - output / 4)] = True
        else:  # shortening
            frozen[order[output:]] = True
    sequence = RELIABILITY[size > RELIABILITY]
    return sequence[~frozen[sequence]]


def _parity_positions(chosen: npt.NDArray[np.intp], count: int, by_weight: int) -> npt.NDArray[np.intp]:
    """Parity-check positions among ``chosen`` (rising reliability): Q_PC of 38.212 5.3.1.2."""
    least = chosen[: count - by_weight]
    if not by_weight:
        return np.sort(least)
    strong = chosen[count:]
    weight = np.bitwise_count(strong)
    return np.sort(np.append(least, strong[weight == weight.min()][-1]))


def _coded_interleaver(length: int) -> npt.NDArray[np.intp]:
    """``[E]`` gather of the triangular interleaver (38.212 5.4.1.3): written by rows, read by columns."""
    side = ceil((np.sqrt(8 * length + 1) - 1) / 2)
    row, column = np.nonzero(np.add.outer(np.arange(side), np.arange(side)) < side)
    number = np.arange(len(row))
    order = np.lexsort((row, column))
    read = number[order]
    return read[read < length]


def _check_sizes(bits: int, output: int, kind: str) -> None:
    if kind not in KINDS:
        raise RejectedConfig(f"polar code for {kind!r}", "pbch, dci or uci (TS 38.212 5.3.1)", "pick one of them")
    most = len(INPUT_INTERLEAVER) if kind != "uci" else 1023
    least = 18 if kind == "uci" else 25
    if not least <= bits <= most or (kind == "uci" and 25 < bits < 31):
        allowed = "18 to 25 or 31 to 1023" if kind == "uci" else f"{least} to {most}"
        raise RejectedConfig(
            f"{bits} bits with CRC for {kind}", f"{allowed} (TS 38.212 5.3.1)", "mend the payload size"
        )
    parity = 3 if kind == "uci" and bits <= 25 else 0
    if not bits + parity <= output <= _MAX_UCI_OUTPUT:
        raise RejectedConfig(
            f"E = {output} for {bits} bits", f"{bits + parity} to {_MAX_UCI_OUTPUT} (TS 38.212 5.4.1)", "mend E"
        )


@lru_cache(maxsize=256)
def polar_plan(bits: int, output: int, kind: str) -> PolarPlan:
    """The plan of one polar code.

    Args:
        bits: K, with the CRC.
        output: E, bits after rate matching.
        kind: ``"pbch"``, ``"dci"`` (n_max 9, I_IL 1, I_BIL 0) or ``"uci"`` (n_max 10, I_IL 0, I_BIL 1, with three
            parity-check bits for K of 18 to 25; 38.212 6.3.1.3.1, 6.3.1.4.1, 7.1.4, 7.3.3).

    Raises:
        RejectedConfig: sizes outside the standard, or more bits than the mother code has places.
    """
    _check_sizes(bits, output, kind)
    size = polar_code_size(bits, output, _MAX_EXPONENT[kind])
    parity_count = 3 if kind == "uci" and bits <= 25 else 0
    candidates = _candidates(bits, output, size)
    if len(candidates) < bits + parity_count:
        raise RejectedConfig(
            f"{bits} bits in a polar code of {size}", f"at most {len(candidates) - parity_count} (TS 38.212 5.4.1.1)",
            "send fewer bits or segment them",
        )  # fmt: skip
    chosen = candidates[len(candidates) - bits - parity_count :]
    by_weight = int(parity_count > 0 and output - bits + 3 > 192)
    parity = _parity_positions(chosen, parity_count, by_weight) if parity_count else chosen[:0]
    information = np.setdiff1d(chosen, parity)
    # The shift register of 5.3.1.2 turns once a position: a check adds the information bits 5, 10, ... before it.
    cover = tuple(
        information[(information < position) & ((position - information) % 5 == 0)] for position in parity.tolist()
    )
    if kind == "uci":
        interleaver = np.arange(bits)
    else:
        start = len(INPUT_INTERLEAVER) - bits
        interleaver = INPUT_INTERLEAVER[start <= INPUT_INTERLEAVER] - start
    order = _sub_block_interleaver(size)
    if output >= size:
        selected = order[np.arange(output) % size]
    else:
        selected = order[size - output :] if 16 * bits <= 7 * output else order[:output]
    if kind == "uci":
        selected = selected[_coded_interleaver(output)]
    return PolarPlan(size, interleaver, information, parity, cover, selected)


def polar_transform(u: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """``u G_N`` over GF(2) for uint8 ``[batch, N]``, G_N the Kronecker power of [[1, 0], [1, 1]] (38.212 5.3.1.2)."""
    batch, size = u.shape
    code = u.copy()
    step = 1
    while step < size:
        pairs = code.reshape(batch, size // (2 * step), 2, step)
        pairs[:, :, 0] ^= pairs[:, :, 1]
        step *= 2
    return code


def polar_encode(bits: npt.ArrayLike, E: int, kind: str) -> npt.NDArray[np.uint8]:
    """Polar-coded and rate-matched bits of one code block (38.212 5.3.1, 5.4.1).

    Args:
        bits: ``[batch, K]`` of 0 and 1, CRC attached.
        E: number of bits after rate matching.
        kind: ``"pbch"``, ``"dci"`` or ``"uci"``.

    Returns:
        uint8 ``[batch, E]``.

    Raises:
        RejectedConfig: sizes outside the standard.
    """
    message = as_bits(bits, "TS 38.212 5.3.1")
    plan = polar_plan(message.shape[1], E, kind)
    u = np.zeros((len(message), plan.size), dtype=np.uint8)
    u[:, plan.information] = message[:, plan.interleaver]
    for position, cover in zip(plan.parity.tolist(), plan.parity_cover, strict=True):
        u[:, position] = np.bitwise_xor.reduce(u[:, cover], axis=1)
    return polar_transform(u)[:, plan.output]
