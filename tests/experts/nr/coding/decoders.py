"""Decoders written from TS 38.212, step by step as its text goes; of the generator only the standard's tables are used.

Log-likelihood ratios are positive for a 0.
"""

from math import ceil, floor, log2

import numpy as np

from experts.nr.coding.base_graphs import LIFTING_SIZES, base_graph_entries
from experts.nr.coding.polar_tables import INPUT_INTERLEAVER, RELIABILITY, SUB_BLOCKS

POLYNOMIALS = {"24A": 0x1864CFB, "24B": 0x1800063, "24C": 0x1B2B117, "16": 0x11021, "11": 0xE21, "6": 0x61}


def crc_remainder(bits, kind):
    """Remainder of the whole bit string by long division: 0 when the check holds."""
    polynomial = POLYNOMIALS[kind]
    length = polynomial.bit_length() - 1
    register = 0
    for bit in bits:
        register = register << 1 | int(bit)
        if register >> length:
            register ^= polynomial
    return register


# --- polar codes ------------------------------------------------------------------------------------------------


def polar_construction(bits, output, kind):
    """N, the roles of the positions (0 frozen, 1 information, 2 parity), the rate matching and the interleaver."""
    if output <= 9 / 8 * 2 ** (ceil(log2(output)) - 1) and bits / output < 9 / 16:
        n1 = ceil(log2(output)) - 1
    else:
        n1 = ceil(log2(output))
    n = max(min(n1, ceil(log2(bits * 8)), 10 if kind == "uci" else 9), 5)
    size = 2**n
    order = [int(SUB_BLOCKS[32 * k // size]) * (size // 32) + k % (size // 32) for k in range(size)]
    frozen = set()
    if output >= size:
        sent = [order[k % size] for k in range(output)]
    elif bits / output <= 7 / 16:
        sent = [order[k + size - output] for k in range(output)]
        frozen |= {order[k] for k in range(size - output)}
        if output >= 3 * size / 4:
            frozen |= set(range(ceil(3 * size / 4 - output / 2)))
        else:
            frozen |= set(range(ceil(9 * size / 16 - output / 4)))
    else:
        sent = order[:output]
        frozen |= {order[k] for k in range(output, size)}
    parity_count = 3 if kind == "uci" and 18 <= bits <= 25 else 0
    ranked = [int(q) for q in RELIABILITY if q < size and q not in frozen][-(bits + parity_count) :]
    by_weight = 1 if parity_count and output - bits + 3 > 192 else 0
    parity = set(ranked[: parity_count - by_weight])
    if by_weight:
        strong = ranked[parity_count:]
        least = min(bin(q).count("1") for q in strong)
        parity.add([q for q in strong if bin(q).count("1") == least][-1])
    roles = np.zeros(size, dtype=int)
    roles[ranked] = 1
    roles[sorted(parity)] = 2
    return size, roles, sent


def triangular(length):
    """Positions in reading order of the interleaver of coded bits."""
    side = 0
    while side * (side + 1) // 2 < length:
        side += 1
    table = {}
    count = 0
    for i in range(side):
        for j in range(side - i):
            if count < length:
                table[i, j] = count
            count += 1
    return [table[i, j] for j in range(side) for i in range(side - j) if (i, j) in table]


class ListDecoder:
    """Successive cancellation list decoder with the min-sum rule and the parity checks of short UCI."""

    def __init__(self, roles, paths):
        self.roles, self.paths = roles, paths

    def decode(self, llr):
        """The paths' decisions ``[paths, N]``, likeliest first."""
        self.metric = np.zeros(1)
        self.decisions = np.zeros((1, len(llr)), dtype=np.int8)
        self.register = np.zeros((1, 5), dtype=np.int8)
        self._node(llr[None], 0)
        return self.decisions[np.argsort(self.metric)]

    def _node(self, llr, start):
        if llr.shape[1] == 1:
            return self._leaf(llr[:, 0], start)
        half = llr.shape[1] // 2
        first, second = llr[:, :half], llr[:, half:]
        upper, origin = self._node(np.sign(first) * np.sign(second) * np.minimum(abs(first), abs(second)), start)
        lower, later = self._node(second[origin] + (1 - 2.0 * upper) * first[origin], start + half)
        upper = upper[later]
        return np.concatenate([upper ^ lower, lower], axis=1), origin[later]

    def _leaf(self, llr, position):
        role = self.roles[position]
        self.register = np.roll(self.register, -1, axis=1)
        origin = np.arange(len(llr))
        if role == 1:
            bit = np.repeat(np.array([0, 1], dtype=np.int8), len(llr))
            metric = np.tile(self.metric, 2) + np.maximum(0, -np.tile(llr, 2) * (1 - 2.0 * bit))
            kept = np.argsort(metric, kind="stable")[: self.paths]
            origin, bit, self.metric = np.tile(origin, 2)[kept], bit[kept], metric[kept]
            self.decisions, self.register = self.decisions[origin], self.register[origin]
            self.register[:, 0] ^= bit
        else:
            bit = self.register[:, 0] if role == 2 else np.zeros(len(llr), dtype=np.int8)
            self.metric = self.metric + np.maximum(0, -llr * (1 - 2.0 * bit))
        self.decisions[:, position] = bit
        return bit[:, None].copy(), origin


def polar_decode(llr, bits, kind, check, paths=8, scrambling=None):
    """The likeliest of the list's messages whose check holds, without the check; None when none does."""
    output = len(llr)
    size, roles, sent = polar_construction(bits, output, kind)
    if kind == "uci":
        plain = np.empty(output)
        plain[triangular(output)] = llr
        llr = plain
    mother = np.zeros(size)
    np.add.at(mother, sent, llr)
    if size > output and bits / output > 7 / 16:
        mother[sorted(set(range(size)) - set(sent))] = 1e3  # shortened bits are known zeros
    length = POLYNOMIALS[check].bit_length() - 1
    for path in ListDecoder(roles, paths).decode(mother):
        message = path[roles == 1]
        if kind != "uci":
            plain = np.empty_like(message)
            plain[[int(p) - (164 - bits) for p in INPUT_INTERLEAVER if p >= 164 - bits]] = message
            message = plain
        checked = message if scrambling is None else scrambling(message)
        if crc_remainder(checked, check) == 0:
            return message[:-length].astype(np.uint8)
    return None


# --- LDPC -------------------------------------------------------------------------------------------------------


def parity_check_edges(graph, lifting):
    """Row and column of every 1 of H, by rising row."""
    index = next(number for number, sizes in enumerate(LIFTING_SIZES) if lifting in sizes)
    rows, columns = [], []
    for entry in base_graph_entries(graph).astype(int):
        shift = entry[2 + index] % lifting
        rows.append(entry[0] * lifting + np.arange(lifting))
        columns.append(entry[1] * lifting + (np.arange(lifting) + shift) % lifting)
    rows, columns = np.concatenate(rows), np.concatenate(columns)
    order = np.argsort(rows, kind="stable")
    return rows[order], columns[order]


def min_sum(llr, graph, lifting, iterations=25):
    """Flooding min-sum decoder, messages scaled by 0.75; hard decisions of the whole codeword."""
    rows, columns = parity_check_edges(graph, lifting)
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    to_check = llr[columns]
    for _ in range(iterations):
        magnitude = abs(to_check)
        smallest = np.minimum.reduceat(magnitude, starts)[rows]
        is_smallest = magnitude == smallest
        single = np.add.reduceat(is_smallest.astype(int), starts)[rows] == 1
        others = np.minimum.reduceat(np.where(is_smallest, np.inf, magnitude), starts)[rows]
        size = np.where(is_smallest & single, others, smallest)
        negative = to_check < 0
        sign = (np.add.reduceat(negative.astype(int), starts)[rows] - negative) % 2
        to_bit = 0.75 * np.minimum(size, 1e6) * (1 - 2.0 * sign)
        total = llr + np.bincount(columns, to_bit, len(llr))
        bits = total < 0
        if not (np.add.reduceat(bits[columns].astype(int), starts) % 2).any():
            break
        to_check = total[columns] - to_bit
    return bits.astype(np.uint8)


def code_block_sizes(size, rate):
    """Base graph, C, K', K and Z of a transport block (7.2.2, 5.2.2)."""
    graph = 2 if size <= 292 or (size <= 3824 and rate <= 0.67) or rate <= 0.25 else 1
    total = size + (24 if size > 3824 else 16)
    most = 8448 if graph == 1 else 3840
    blocks, per_block = 1, total
    if total > most:
        blocks = ceil(total / (most - 24))
        per_block = (total + blocks * 24) // blocks
    columns = 22
    if graph == 2:
        columns = 10 if total > 640 else 9 if total > 560 else 8 if total > 192 else 6
    lifting = min(z for sizes in LIFTING_SIZES for z in sizes if columns * z >= per_block)
    return graph, blocks, per_block, (22 if graph == 1 else 10) * lifting, lifting


def transport_decode(llr, size, rate, order, layers=1, rv=0, lbrm_bits=None):
    """Bits of a transport block; None when a check fails."""
    graph, blocks, per_block, filled, lifting = code_block_sizes(size, rate)
    full = (66 if graph == 1 else 50) * lifting
    buffer = full if lbrm_bits is None else min(full, floor(lbrm_bits / (blocks * 2 / 3)))
    numerator = {1: (0, 17, 33, 56), 2: (0, 13, 25, 43)}[graph][rv]
    start = floor(numerator * buffer / full) * lifting
    message, taken = [], 0
    for block in range(blocks):
        symbols = len(llr) // (layers * order)
        share = symbols / blocks
        output = layers * order * (floor(share) if block <= blocks - symbols % blocks - 1 else ceil(share))
        piece = llr[taken : taken + output].reshape(-1, order).T.ravel()  # undoes 5.4.2.2
        taken += output
        word = np.zeros(full + 2 * lifting)
        word[per_block:filled] = 1e4  # filler bits are known zeros
        k = j = 0
        while k < output:
            place = (start + j) % buffer + 2 * lifting
            if not per_block <= place < filled:
                word[place] += piece[k]
                k += 1
            j += 1
        bits = min_sum(word, graph, lifting)[:per_block]
        if blocks > 1:
            if crc_remainder(bits, "24B"):
                return None
            bits = bits[:-24]
        message.append(bits)
    message = np.concatenate(message)
    check = "24A" if size > 3824 else "16"
    return None if crc_remainder(message, check) else message[:size]
