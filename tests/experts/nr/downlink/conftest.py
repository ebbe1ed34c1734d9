"""Downlink receivers and formulas written from TS 38.211 and TS 38.212 clause by clause, in plain loops."""

import numpy as np
import pytest

from experts.nr.coding.polar import polar_plan


def gold_bits(c_init: int, length: int) -> np.ndarray:
    """c(n) of TS 38.211 clause 5.2.1, bit by bit."""
    total = 1600 + length
    x1 = [1] + [0] * 30
    x2 = [c_init >> i & 1 for i in range(31)]
    for n in range(total):
        x1.append((x1[n + 3] + x1[n]) % 2)
        x2.append((x2[n + 3] + x2[n + 2] + x2[n + 1] + x2[n]) % 2)
    return np.array([x1[n + 1600] ^ x2[n + 1600] for n in range(length)])


def crc24c(bits: np.ndarray) -> list[int]:
    """Remainder of long division by D^24+D^23+D^21+D^20+D^17+D^15+D^13+D^12+D^8+D^4+D^2+D+1, TS 38.212 clause 5.1."""
    powers = (24, 23, 21, 20, 17, 15, 13, 12, 8, 4, 2, 1, 0)
    work = [*bits.tolist(), *[0] * 24]
    for i in range(len(bits)):
        if work[i]:
            for power in powers:
                work[i + 24 - power] ^= 1
    return work[-24:]


def successive_cancellation(llr: np.ndarray, frozen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bits u and codeword x = u G of a polar code from log-likelihood ratios (positive is 0)."""
    if llr.size == 1:
        u = np.zeros(1, dtype=int) if frozen[0] else (llr < 0).astype(int)
        return u, u
    a, b = np.split(llr, 2)
    left, right = np.split(frozen, 2)
    u1, x1 = successive_cancellation(np.sign(a) * np.sign(b) * np.minimum(abs(a), abs(b)), left)
    u2, x2 = successive_cancellation(b + (1 - 2 * x1) * a, right)
    return np.concatenate([u1, u2]), np.concatenate([x1 ^ x2, x2])


def decode_polar(llr: np.ndarray, bits: int, kind: str) -> np.ndarray:
    """Message bits ``[bits]`` of one block; how the code is built is the coder's, tested elsewhere."""
    plan = polar_plan(bits, llr.size, kind)
    mother = np.zeros(plan.size)
    np.add.at(mother, plan.output, llr)
    frozen = np.ones(plan.size, dtype=bool)
    frozen[plan.information] = False
    u, _ = successive_cancellation(mother, frozen)
    message = np.empty(bits, dtype=int)
    message[plan.interleaver] = u[plan.information]
    return message


def soft_bits(symbols: np.ndarray) -> np.ndarray:
    """Log-likelihood ratios of QPSK up to a factor, TS 38.211 clause 5.1.3."""
    return np.stack([symbols.real, symbols.imag], axis=-1).reshape(-1)


def qam(bits: list[int]) -> complex:
    """The symbol of TS 38.211 clauses 5.1.3 to 5.1.7 for 2, 4, 6, 8 or 10 bits, as the clauses print it."""
    b = [1 - 2 * bit for bit in bits]
    if len(b) == 2:
        return (b[0] + 1j * b[1]) / np.sqrt(2)
    if len(b) == 4:
        return (b[0] * (2 - b[2]) + 1j * b[1] * (2 - b[3])) / np.sqrt(10)
    if len(b) == 6:
        return (b[0] * (4 - b[2] * (2 - b[4])) + 1j * b[1] * (4 - b[3] * (2 - b[5]))) / np.sqrt(42)
    if len(b) == 8:
        i = b[0] * (8 - b[2] * (4 - b[4] * (2 - b[6])))
        q = b[1] * (8 - b[3] * (4 - b[5] * (2 - b[7])))
        return (i + 1j * q) / np.sqrt(170)
    i = b[0] * (16 - b[2] * (8 - b[4] * (4 - b[6] * (2 - b[8]))))
    q = b[1] * (16 - b[3] * (8 - b[5] * (4 - b[7] * (2 - b[9]))))
    return (i + 1j * q) / np.sqrt(682)


@pytest.fixture(scope="session")
def clauses() -> dict:
    """The formulas above by name."""
    return {
        "gold_bits": gold_bits,
        "crc24c": crc24c,
        "decode_polar": decode_polar,
        "soft_bits": soft_bits,
        "qam": qam,
    }
