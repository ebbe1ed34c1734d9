"""A small LTE receiver written from TS 36.211, sharing no code with the generator: it judges recordings, then us."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve, resample_poly

BASE_RATE = 1.92e6
HALF_FRAME = 9600
CARRIERS = np.r_[-31:0, 1:32]


def read(meta_path: Path):
    """IQ complex64, sample rate and annotation comment of a SigMF recording (ci16 or cu8)."""
    meta = json.loads(meta_path.read_text())
    kind = meta["global"]["core:datatype"]
    raw = meta_path.with_suffix(".sigmf-data").read_bytes()
    if kind == "ci16_le":
        values = np.frombuffer(raw, "<i2").astype(np.float32) / 32768
    else:
        values = (np.frombuffer(raw, np.uint8).astype(np.float32) - 127.5) / 128
    comment = meta["annotations"][0].get("core:comment", "{}")
    return values.view(np.complex64), float(meta["global"]["core:sample_rate"]), json.loads(comment)


def primary(n_id_2):
    """Clause 6.11.1.1, written as the two branches of the standard."""
    u = (25, 29, 34)[n_id_2]
    low, high = np.arange(31), np.arange(31, 62)
    return np.concatenate(
        [np.exp(-1j * np.pi * u * low * (low + 1) / 63), np.exp(-1j * np.pi * u * (high + 1) * (high + 2) / 63)]
    )


def secondary_all(n_id_2):
    """All 168 SSS of clause 6.11.2.1, [168, 2, 62]; (m0, m1) by running down table 6.11.2.1-1."""
    pairs = [(m0, m0 + step) for step in range(1, 31) for m0 in range(31 - step)][:168]

    def sequence(taps):
        x = [0, 0, 0, 0, 1]
        while len(x) < 31:
            x.append(sum(x[len(x) - 5 + tap] for tap in taps) % 2)
        return [1 - 2 * bit for bit in x]

    s, c, z = sequence((2, 0)), sequence((3, 0)), sequence((4, 2, 1, 0))
    out = np.zeros((168, 2, 62))
    for n_id_1, (m0, m1) in enumerate(pairs):
        for n in range(31):
            c0, c1 = c[(n + n_id_2) % 31], c[(n + n_id_2 + 3) % 31]
            a, b = s[(n + m0) % 31], s[(n + m1) % 31]
            out[n_id_1, 0, 2 * n], out[n_id_1, 0, 2 * n + 1] = a * c0, b * c1 * z[(n + m0 % 8) % 31]
            out[n_id_1, 1, 2 * n], out[n_id_1, 1, 2 * n + 1] = b * c0, a * c1 * z[(n + m1 % 8) % 31]
    return out


def gold_naive(c_init, length):
    """Clause 7.2, one step at a time, for an array of c_init: uint8 [len(c_init), length]."""
    c_init = np.atleast_1d(np.asarray(c_init, dtype=np.int64))
    total = length + 1600 + 31
    x1 = np.zeros((total, 1), dtype=np.uint8)
    x1[0] = 1
    x2 = np.zeros((total, c_init.size), dtype=np.uint8)
    for bit in range(31):
        x2[bit] = c_init >> bit & 1
    for n in range(total - 31):
        x1[n + 31] = x1[n + 3] ^ x1[n]
        x2[n + 31] = x2[n + 3] ^ x2[n + 2] ^ x2[n + 1] ^ x2[n]
    return (x1[1600 : 1600 + length] ^ x2[1600 : 1600 + length]).T


@dataclass
class Cell:
    """What the search found; ``frame_start`` in samples at 1.92 MHz, ``cfo`` in Hz."""

    pci: int
    duplex: str
    extended: bool
    frame_start: int
    cfo: float
    score: float


def _symbol(x, start):
    return np.fft.fft(x[start : start + 128])[CARRIERS]


def _find_pss(x, offsets):
    best = (0.0, 0, 0, 0.0)
    energy = np.convolve(np.abs(x) ** 2, np.ones(128), mode="valid") + 1e-12
    time = np.arange(128) / BASE_RATE
    for n_id_2 in range(3):
        bins = np.zeros(128, dtype=complex)
        bins[CARRIERS] = primary(n_id_2)
        reference = np.fft.ifft(bins)
        reference /= np.linalg.norm(reference)
        for offset in offsets:
            moved = reference * np.exp(2j * np.pi * offset * time)
            match = np.abs(fftconvolve(x, moved[::-1].conj(), mode="valid")) ** 2 / energy
            folds = match[: match.size // HALF_FRAME * HALF_FRAME].reshape(-1, HALF_FRAME).mean(axis=0)
            place = int(np.argmax(folds))
            if folds[place] > best[0]:
                best = (float(folds[place]), n_id_2, place, float(offset))
    return best


def search(iq, rate, offsets=(0.0,)):
    """Cell search by PSS correlation, then SSS over both duplex modes and both cyclic prefixes; None or a Cell."""
    x = resample_poly(iq, 1, round(rate / BASE_RATE)) if rate > BASE_RATE else np.asarray(iq)
    _, n_id_2, place, offset = _find_pss(x, offsets)
    x = x * np.exp(-2j * np.pi * offset * np.arange(x.size) / BASE_RATE)
    places = np.arange(place, x.size - 128, HALF_FRAME)
    places = places[places >= 480]
    bins = np.zeros(128, dtype=complex)
    bins[CARRIERS] = primary(n_id_2)
    product = np.stack([x[p : p + 128] for p in places]) * np.fft.ifft(bins).conj()
    halves = np.sum(product[:, 64:].sum(axis=1) * product[:, :64].sum(axis=1).conj())
    residual = float(np.angle(halves)) / (2 * np.pi * 64 / BASE_RATE)
    x = x * np.exp(-2j * np.pi * residual * np.arange(x.size) / BASE_RATE)
    best = None
    table = secondary_all(n_id_2)
    # PSS start minus SSS start, and PSS start after the frame start, in samples at 1.92 MHz.
    for duplex, extended, back, after in (
        ("FDD", False, 137, 832),
        ("FDD", True, 160, 832),
        ("TDD", False, 412, 2204),
        ("TDD", True, 480, 2272),
    ):
        channel = np.stack([_symbol(x, p) for p in places]) * primary(n_id_2).conj()
        received = np.stack([_symbol(x, p - back) for p in places])
        norm = np.sum(np.abs(received) * np.abs(channel)) + 1e-12
        for parity in range(2):
            half = (np.arange(places.size) + parity) % 2
            scores = np.einsum("pk,npk->n", (received * channel.conj()).real, table[:, half]) / norm
            n_id_1 = int(np.argmax(scores))
            if best is None or scores[n_id_1] > best.score:
                start = int(places[0]) - int(half[0]) * HALF_FRAME - after
                pci = 3 * n_id_1 + n_id_2
                best = Cell(pci, duplex, extended, start % (2 * HALF_FRAME), offset + residual, float(scores[n_id_1]))
    return best


def demodulate(iq, rate, cell, n_rb, subframes=10, shift=0):
    """Grid [subframes * symbols, 12 * n_rb] from the first whole frame on, CFO removed; ``shift`` samples later."""
    n_fft = round(rate / 15e3)
    x = iq * np.exp(-2j * np.pi * cell.cfo * np.arange(iq.size) / rate)
    place = round(cell.frame_start * rate / BASE_RATE) + shift
    rows = []
    carriers = np.r_[-6 * n_rb : 0, 1 : 6 * n_rb + 1]
    for number in range(subframes * (12 if cell.extended else 14)):
        first = number % (6 if cell.extended else 7) == 0
        prefix = n_fft // 4 if cell.extended else n_fft * (160 if first else 144) // 2048
        place += prefix
        window = x[np.arange(place, place + n_fft).clip(0, x.size - 1)]
        rows.append(np.fft.fft(window)[carriers] / np.sqrt(n_fft))
        place += n_fft
    return np.stack(rows)


def crs_reference(pci, n_rb, extended, subframes=10):
    """Rows, columns [count, 2 n_rb] and values of CRS port 0, clause 6.10.1."""
    slot = 6 if extended else 7
    rows, columns, inits = [], [], []
    for number in range(2 * subframes):
        for symbol, v in ((0, 0), (slot - 3, 3)):
            ns = number % 20
            inits.append(1024 * (7 * (ns + 1) + symbol + 1) * (2 * pci + 1) + 2 * pci + (0 if extended else 1))
            rows.append(slot * number + symbol)
            columns.append(6 * np.arange(2 * n_rb) + (v + pci % 6) % 6)
    bits = 1.0 - 2.0 * gold_naive(inits, 4 * 110)
    m = np.arange(2 * n_rb) + 110 - n_rb
    values = (bits[:, 2 * m] + 1j * bits[:, 2 * m + 1]) / np.sqrt(2)
    return np.array(rows)[:, None], np.array(columns), values


def crs_coherence(grid, reference):
    """Mean coherence [0, 1] of the channel on neighbouring CRS, per CRS symbol, and the delay in seconds."""
    rows, columns, values = reference
    channel = grid[rows, columns] * values.conj()
    steps = np.sum(channel[:, 1:] * channel[:, :-1].conj(), axis=1)
    power = np.sum(np.abs(channel[:, 1:]) ** 2 + np.abs(channel[:, :-1]) ** 2, axis=1) / 2
    delay = -float(np.angle(steps.sum())) / (2 * np.pi * 6 * 15e3)
    return np.abs(steps) / (power + 1e-12), delay


def crs_frequency(grid, reference):
    """Remaining frequency offset in Hz, within 1 kHz, from the turn of the channel over a slot of 0.5 ms."""
    rows, columns, values = reference
    channel = grid[rows, columns] * values.conj()
    return float(np.angle(np.sum(channel[2:] * channel[:-2].conj()))) / (2 * np.pi * 0.5e-3)


def crs_channel(grid, reference, delay):
    """Flat channel with ``delay`` seconds over the subcarriers, ``[12 n_rb]``, from the CRS of the first subframe."""
    rows, columns, values = reference
    half = grid.shape[1] // 2
    ramp = np.exp(-2j * np.pi * 15e3 * delay * np.r_[-half:0, 1 : half + 1])
    return ramp * np.mean(grid[rows[:4], columns[:4]] * (values[:4] * ramp[columns[:4]]).conj())


def data_elements(n_rb, pci, subframe, control, duplex, extended):
    """Elements [symbols, 12 n_rb] of an FDD or TDD full downlink subframe that PDSCH may use, clause 6.3.5."""
    slot = 6 if extended else 7
    free = np.ones((2 * slot, 12 * n_rb), dtype=bool)
    free[:control] = False
    k = np.arange(12 * n_rb)
    for symbol in (0, slot):
        free[symbol, k % 6 == pci % 6] = False
        free[symbol + slot - 3, k % 6 == (pci + 3) % 6] = False
    middle = np.abs(k - (6 * n_rb - 0.5)) < 36
    sync = {"FDD": {0: (slot - 1, slot - 2), 5: (slot - 1, slot - 2)}, "TDD": {0: (-1,), 5: (-1,), 1: (2,), 6: (2,)}}
    for symbol in sync[duplex].get(subframe, ()):
        free[symbol, middle] = False
    if subframe == 0:
        free[slot : slot + 4, middle] = False
    return free


def decode_cfi(row, pci, n_rb, subframe):
    """CFI of the equalised first symbol of a subframe, clauses 6.7.1 to 6.7.4 of TS 36.211, and its agreement."""
    start = 6 * (pci % (2 * n_rb))
    places = []
    for i in range(4):
        base = (start + (i * n_rb // 2) * 6) % (12 * n_rb)
        places += [k for k in range(base, base + 6) if k % 3 != pci % 3]
    symbols = row[places]
    soft = np.stack([symbols.real, symbols.imag], axis=1).ravel()
    scrambling = gold_naive((subframe + 1) * (2 * pci + 1) * 512 + pci, 32)[0]
    soft = soft * (1.0 - 2.0 * scrambling)
    words = [[int("011"[i % 3]) for i in range(32)], [int("101"[i % 3]) for i in range(32)]]
    words.append([int("110"[i % 3]) for i in range(32)])
    scores = (1.0 - 2.0 * np.array(words)) @ soft / np.abs(soft).sum()
    return int(np.argmax(scores)) + 1, float(scores.max())


def decode_pbch(grid, pci, n_rb, extended, channel):
    """Master information block of the first frame of ``grid``, or None when no quarter passes its CRC.

    De-mapping by clause 6.6.4, blind over the four frames of 40 ms, soft de-rate-matching, then a Viterbi decoder that
    runs around the tail-biting code three times (TS 36.212 clauses 5.1.1, 5.1.3.1, 5.1.4.2, 5.3.1).

    Args:
        channel: gain of each subcarrier ``[12 n_rb]``.

    Returns:
        (resource blocks, system frame number) of the frame.
    """
    grid = grid / channel
    slot = 6 if extended else 7
    k = np.arange(6 * n_rb - 36, 6 * n_rb + 36)
    soft = []
    for symbol in range(4):
        row = grid[slot + symbol, k]
        with_crs = symbol in ((0, 1, 3) if extended else (0, 1))
        row = row[k % 3 != pci % 3] if with_crs else row
        soft.append(np.stack([row.real, row.imag], axis=1).ravel())
    soft = np.concatenate(soft)
    length = 4 * soft.size
    scrambling = 1.0 - 2.0 * gold_naive(pci, length)[0]
    columns = [1, 17, 9, 25, 5, 21, 13, 29, 3, 19, 11, 27, 7, 23, 15, 31]
    columns += [0, 16, 8, 24, 4, 20, 12, 28, 2, 18, 10, 26, 6, 22, 14, 30]
    # Position of each transmitted bit in the three coded streams: 40 bits in two rows of 32, 24 of them dummies.
    places = [(s, r * 32 + c - 24) for s in range(3) for c in columns for r in range(2) if r * 32 + c >= 24]
    for quarter in range(4):
        coded = np.zeros((3, 40))
        for i in range(soft.size):
            position = quarter * soft.size + i
            coded[places[position % 120]] += soft[i] * scrambling[position]
        bits = _viterbi_tail_biting(coded)
        if _crc16_remainder(bits) == 0:
            number = int("".join(map(str, bits[6:14])), 2)
            return (6, 15, 25, 50, 75, 100)[int("".join(map(str, bits[:3])), 2)], 4 * number + quarter
    return None


def _crc16_remainder(bits):
    work = list(bits)
    for i in range(len(work) - 16):
        if work[i]:
            for power in (16, 12, 5, 0):
                work[i + 16 - power] ^= 1
    return int("".join(map(str, work[-16:])), 2)


def _viterbi_tail_biting(coded):
    polynomials = (0o133, 0o171, 0o165)
    metric = np.zeros(64)
    history = []
    states = np.arange(64)
    # State: the six latest bits, newest highest; its predecessors differ in their oldest, lowest bit.
    previous = np.stack([states << 1 & 63, (states << 1 & 63) | 1])
    newest = states >> 5
    outputs = np.array(
        [
            [
                [1 - 2 * (int(p & (n << 6 | s)).bit_count() & 1) for p in polynomials]
                for n, s in zip(newest, row, strict=True)
            ]
            for row in previous
        ]
    )
    for step in range(120):
        candidates = metric[previous] + outputs @ coded[:, step % 40]
        choice = np.argmax(candidates, axis=0)
        metric = candidates[choice, states]
        history.append(previous[choice, states])
    state, bits = int(np.argmax(metric)), []
    for row in reversed(history):
        bits.append(state >> 5)
        state = int(row[state])
    return bits[::-1][40:80]
