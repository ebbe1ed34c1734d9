"""Uplink captures demodulated: SRS, PUCCH and PRACH where they belong and nowhere else, PUSCH on its constellation."""

from math import floor

import numpy as np
import pytest

from experts.nr import NR, PRACH, PUCCH, PUSCH, SRS, Carrier, NRConfig, Report, Uplink, User
from experts.nr.uplink.prach import Occasions
from experts.nr.uplink.pusch_rs import DMRS, PTRS
from experts.nr.uplink.sequences import base_sequence
from lwm.phy.sequences import gold
from lwm.seeding import rng_for

CARRIER = Carrier(20e6, 1, 611)
WIDTH = 612
SIDE = {"QPSK": 2, "16QAM": 4, "64QAM": 8, "256QAM": 16}


def evm(symbols: np.ndarray, modulation: str) -> float:
    """Root mean square error over root mean square of the nearest points, after one common gain."""
    if modulation == "pi/2-BPSK":
        turned = symbols * np.exp(-1j * np.pi / 2 * (np.arange(symbols.size) % 2))
        ideal = np.where((turned * np.exp(-1j * np.pi / 4)).real > 0, 1, -1) * np.exp(1j * np.pi / 4)
        turned = turned / (np.vdot(ideal, turned) / ideal.size)
        return float(np.sqrt(np.mean(np.abs(turned - ideal) ** 2)))
    side = SIDE[modulation]
    points = symbols / np.sqrt(np.mean(np.abs(symbols) ** 2)) * np.sqrt(2 * (side**2 - 1) / 3)
    for _ in range(2):
        parts = [np.clip(2 * np.round((part - 1) / 2) + 1, 1 - side, side - 1) for part in (points.real, points.imag)]
        ideal = parts[0] + 1j * parts[1]
        points = points / (np.vdot(ideal, points) / np.vdot(ideal, ideal))
    return float(np.sqrt(np.mean(np.abs(points - ideal) ** 2) / np.mean(np.abs(ideal) ** 2)))


def captured(standard: dict, uplink: Uplink, users: tuple[User, ...], slots: int = 10):
    """The capture from the start of frame 0 and its grid ``[slots, 14, 612]``."""
    config = NRConfig(CARRIER, None, users, None, uplink=uplink, start=0.0, duration=slots / 2000)
    capture = NR().synthesize(config, rng_for(94))
    grid = standard["demodulate"](capture.iq, CARRIER.n_fft, 1, WIDTH, slots // 2)
    return capture, grid.reshape(slots, 14, WIDTH)


def zadoff_chu(length: int, u: int) -> np.ndarray:
    """r_{u,0} of TS 38.211 clause 5.2.2.1, length 36 or more."""
    prime = max(n for n in range(2, length) if all(n % d for d in range(2, n)))
    q, m = floor(prime * (u + 1) / 31 + 0.5), np.arange(length) % prime
    return np.exp(-1j * np.pi * q * m * (m + 1) / prime)


# Resource, and by hand its (slot, symbol, first resource block) among ten slots. C_SRS 13: 48, 24, 12, 4 blocks.
SOUNDINGS = [
    (SRS((2, 0), 0, (13, 0, 3), period=(2, 0), n_id=40), [(s, 13, 0) for s in range(0, 10, 2)]),
    (SRS((2, 0), 3, (13, 0, 3), period=(2, 0), n_id=40), [(s, 13, 0) for s in range(0, 10, 2)]),
    (SRS((2, 1), 5, (13, 0, 3), period=(2, 0), n_id=40), [(s, 13, 0) for s in range(0, 10, 2)]),
    # n_RRC 6: block 24. Counted back one symbol from the last.
    (SRS((4, 2), 7, (13, 1, 3), position=6, offset=1, period=(4, 1), n_id=7), [(s, 12, 24) for s in (1, 5, 9)]),
    # Hops: F_1 = n_SRS mod 2, n_SRS = slot.
    (SRS((8, 5), 2, (13, 1, 0), offset=2, period=(1, 0), n_id=99), [(s, 11, 24 * (s % 2)) for s in range(10)]),
    # Four symbols, two at each of two frequencies: n_SRS = 2 n + l' // 2.
    (
        SRS((4, 1), 11, (13, 1, 0), symbols=4, offset=6, repetition=2, period=(5, 2), n_id=3),
        [(s, 7 + i, 24 * (i // 2)) for s in (2, 7) for i in range(4)],
    ),
    # Group hopping, and three blocks from the carrier's first.
    (SRS((2, 1), 6, (13, 1, 3), shift=3, offset=1, period=(10, 4), hopping="group", n_id=31), [(4, 12, 3)]),
    (SRS((4, 0), 4, (13, 1, 3), position=0, offset=1, period=(10, 8), n_id=900), [(8, 12, 0)]),
]


def group(resource: SRS, slot: int, symbol: int) -> int:
    """u of TS 38.211 clause 6.4.1.4.2."""
    if resource.hopping != "group":
        return resource.n_id % 30
    bits = gold(resource.n_id, 8 * 14 * 20)[8 * (14 * slot + symbol) :][:8]
    return (int(bits @ (1 << np.arange(8))) + resource.n_id) % 30


def test_every_srs_is_at_its_place_and_nowhere_else(standard):
    """Eight resources on shared combs beside PUSCH: every slot, symbol, block, comb offset and cyclic shift."""
    user = User(PUSCH((0, 51), (0, 7), "QPSK"), ((0, 10),))
    capture, grid = captured(standard, Uplink(srs=tuple(each for each, _ in SOUNDINGS)), (user,))
    assert capture.facts["srs_count"] == 8
    gain = np.sqrt(np.mean(np.abs(grid[:, 3:7]) ** 2))
    largest_elsewhere = 0.0
    for resource, places in SOUNDINGS:
        comb, length = resource.comb[0], 12 * (48 if resource.bandwidth[1] == 0 else 24) // resource.comb[0]
        starts = (0,) if resource.bandwidth[1] == 0 else (resource.shift, resource.shift + 24)
        most = {2: 8, 4: 12, 8: 6}[comb]
        codes = np.exp(-2j * np.pi * np.outer(np.arange(most), np.arange(length)) / most)
        found = {}
        for slot in range(10):
            for symbol in range(14):
                base = zadoff_chu(length, group(resource, slot, symbol)).conj() / (length * gain)
                for start in starts:
                    for offset in range(comb):
                        row = grid[slot, symbol, 12 * start + offset :][: comb * length : comb]
                        for shift, value in enumerate(np.abs(codes @ (row * base))):
                            found[slot, symbol, start, offset, shift] = value
        mine = {(*place, resource.comb[1], resource.cyclic_shift) for place in places}
        # Resources with the same sequence and comb are told apart by their cyclic shift alone.
        others = {
            (*place, other.comb[1], other.cyclic_shift)
            for other, elsewhere in SOUNDINGS
            for place in elsewhere
            if (other.n_id, other.comb[0], other.bandwidth) == (resource.n_id, comb, resource.bandwidth)
        }
        assert all(abs(found[place] - 1) < 0.02 for place in mine)
        assert {place for place, value in found.items() if value > 0.9} == mine | others
        largest_elsewhere = max(
            largest_elsewhere, *(value for place, value in found.items() if place not in mine | others)
        )
    # Over ten thousand places of as few as 36 elements: sqrt(ln(13440) / 36) = 0.51 is the typical largest by chance.
    assert largest_elsewhere < 0.7


REPORTS = (
    Report(PUCCH(0, (0, 1), (12, 14), cyclic_shift=3), (4, 1)),
    Report(PUCCH(1, (1, 2), (0, 14), second_prb=49, cyclic_shift=5, code=(1, 2)), (5, 0)),
    Report(PUCCH(2, (2, 6), (12, 14), rnti=5), (2, 1)),
    Report(PUCCH(3, (6, 9), (0, 14), second_prb=44, additional_dmrs=True, rnti=7), (4, 2)),
    Report(PUCCH(4, (9, 10), (0, 14), code=(1, 4), modulation="pi/2-BPSK", rnti=9), (5, 3)),
)


def low_papr(slot: int, symbol: int, length: int, shift: int) -> np.ndarray:
    """r^alpha_{u,v} of TS 38.211 clause 6.3.2.2 without hopping; u = N_ID mod 30."""
    n_cs = int(gold(611, 8 * 14 * 20)[8 * (14 * slot + symbol) :][:8] @ (1 << np.arange(8)))
    n = np.arange(length)
    return base_sequence(611 % 30, 0, length) * np.exp(2j * np.pi * ((shift + n_cs) % 12) / 12 * n)


def match(received: np.ndarray, expected: np.ndarray) -> complex:
    """Correlation coefficient."""
    return complex(np.vdot(expected, received) / (np.linalg.norm(expected) * np.linalg.norm(received)))


@pytest.fixture(scope="module")
def control(standard):
    """Capture with all five formats, PUSCH between them."""
    user = User(PUSCH((10, 40), (0, 14), "16QAM"), ((0, 10),))
    return captured(standard, Uplink(reports=REPORTS), (user,))


def test_each_pucch_is_in_its_slots_alone(control):
    capture, grid = control
    power = np.mean(np.abs(grid[:, :, 120:480]) ** 2)
    rows = {
        0: [(12, 14, 0, 1)],
        1: [(0, 7, 1, 2), (7, 14, 49, 50)],
        2: [(12, 14, 2, 6)],
        3: [(0, 7, 6, 9), (7, 14, 44, 47)],
        4: [(0, 14, 9, 10)],
    }
    slots = {0: [1, 5, 9], 1: [0, 5], 2: [1, 3, 5, 7, 9], 3: [2, 6], 4: [3, 8]}
    left = np.abs(grid) ** 2 / power
    left[:, :, 120:480] = 0
    for form, parts in rows.items():
        for start, stop, low, high in parts:
            own = left[slots[form], start:stop, 12 * low : 12 * high]
            assert own.mean() == pytest.approx(1, rel=0.25)
            left[slots[form], start:stop, 12 * low : 12 * high] = 0
    assert left.max() < 1e-6
    assert capture.facts["pucch_count"] == 5


def test_pucch_formats_0_and_1_are_detected(control):
    _, grid = control
    for slot in (1, 5, 9):
        found = []
        for symbol in (12, 13):
            scores = [abs(match(grid[slot, symbol, :12], low_papr(slot, symbol, 12, 3 + m))) for m in range(12)]
            assert max(scores) > 0.9999
            assert sorted(scores)[-2] < 0.01
            found.append(int(np.argmax(scores)))
        # m_cs of two HARQ-ACK bits, TS 38.213 table 9.2.3-4, the same in both symbols.
        assert found[0] == found[1]
        assert found[0] in (0, 3, 6, 9)
    for slot in (0, 5):
        symbols = []
        for begin, prb in ((0, 1), (7, 49)):
            own = [grid[slot, s, 12 * prb : 12 * prb + 12] for s in range(begin, begin + 7)]
            flat = np.array([np.vdot(low_papr(slot, begin + i, 12, 5), row) / 12 for i, row in enumerate(own)])
            # Seven symbols: DM-RS on even symbols of the PUCCH; phi of w_1 is 0 2 0 2 of four and 0 1 2 of three.
            pilots, data = flat[begin % 2 :: 2], flat[1 - begin % 2 :: 2]
            phases = {4: np.array([0, 2, 0, 2]), 3: np.array([0, 1, 2])}
            codes = [np.exp(2j * np.pi * phases[part.size] / part.size) for part in (pilots, data)]
            assert abs(match(pilots, codes[0])) > 0.9999
            assert abs(match(data, codes[1])) > 0.9999
            symbols.append(np.vdot(codes[1], data) / data.size / (np.vdot(codes[0], pilots) / pilots.size))
        assert abs(symbols[0] - symbols[1]) < 0.01
        assert evm(np.array(symbols), "QPSK") < 0.005


def test_pucch_formats_2_to_4_are_detected(control):
    _, grid = control
    for slot in (1, 3, 5, 7, 9):
        for symbol in (12, 13):
            row = grid[slot, symbol, 24:72]
            c_init = ((14 * slot + symbol + 1) * (2 * 611 + 1) * 2**17 + 2 * 611) % 2**31
            bits = gold(c_init, 2 * 4 * 6).reshape(-1, 2).astype(int)
            expected = ((1 - 2 * bits[:, 0]) + 1j * (1 - 2 * bits[:, 1]))[8:24]
            assert match(row[1::3], expected).real > 0.9999
            assert evm(row[np.arange(48) % 3 != 1], "QPSK") < 0.005
    for slot in (2, 6):
        for symbol in range(14):
            prb = 6 if symbol < 7 else 44
            row = grid[slot, symbol, 12 * prb : 12 * prb + 36]
            if symbol in (1, 5, 8, 12):
                assert match(row, low_papr(slot, symbol, 36, 0)).real > 0.9999
            else:
                assert evm(np.fft.ifft(row), "QPSK") < 0.005
    cover = np.repeat([1, -1j, -1, 1j], 3)
    for slot in (3, 8):
        for symbol in range(14):
            row = grid[slot, symbol, 108:120]
            if symbol in (3, 10):
                # m_0 of code 1 of 4, TS 38.211 table 6.4.1.3.3.1-1.
                assert match(row, low_papr(slot, symbol, 12, 6)).real > 0.9999
                continue
            copies = (np.fft.ifft(row) * cover.conj()).reshape(4, 3)
            assert np.abs(copies - copies[0]).max() < 1e-3 * np.abs(copies).max()
            # Three symbols of pi/2-BPSK: the rotation goes on from one OFDM symbol to the next.
            first = 3 * (symbol - sum(s < symbol for s in (3, 10)))
            assert evm(np.r_[np.zeros(first % 2), copies[0]][first % 2 :] * 1j ** (-(first % 2)), "pi/2-BPSK") < 0.005


RANDOM_ACCESS = [
    # Long format 0 in subframe 4: prefix 3168 T_s, N_CS 46, 18 shifts a root; index 20 is shift 2 of logical root 1.
    pytest.param(
        PRACH("0", 1.25, root=0, zone=8, preamble=20, prb=11, occasions=Occasions(slots=(4,))),
        (839, 710, 92, 24576, 1, 4 * 30720 + 3168, (12 * 11 - 306) * 24 + 1),
        id="format-0",
    ),
    # Short format B4, 30 kHz, second slot of subframe 4: prefix 468 + 16 T_s (the 0.5 ms instant), N_CS 12.
    pytest.param(
        PRACH("B4", 30, root=4, zone=6, preamble=5, prb=30, occasions=Occasions(slots=(4,))),
        (139, 3, 60, 1024, 12, 4 * 30720 + 15360 + 484, 12 * 30 - 306 + 2),
        id="format-B4",
    ),
]


@pytest.mark.parametrize(("config", "truth"), RANDOM_ACCESS)
def test_prach_is_detected_with_its_root_and_shift_and_nowhere_else(config, truth):
    length, root, shift, size, repetitions, begin, lowest = truth
    user = User(PUSCH((0, 9), (0, 14), "QPSK"), ((6, 6),))
    described = NRConfig(CARRIER, None, (user,), None, uplink=Uplink(prach=config), start=0.003, duration=0.003)
    capture = NR().synthesize(described, rng_for(95))
    assert capture.facts["prach_count"] == 1
    begin -= 3 * 30720
    m = np.arange(length)
    for candidate in (root, length - root):
        sequence = np.exp(-1j * np.pi * (candidate * m * (m + 1) % (2 * length)) / length)
        replica = np.fft.fft(sequence)
        for repetition in range(repetitions):
            received = np.fft.fft(capture.iq[begin + repetition * size :][:size])[(lowest + m) % size]
            profile = np.abs(np.fft.ifft(received * replica.conj())) ** 2
            profile /= np.sum(np.abs(received) ** 2) * np.sum(np.abs(replica) ** 2) / length**2 / length * length
            if candidate == root:
                # x_{u,v}(n) = x_u(n + C_v): the peak is C_v before the origin.
                assert int(profile.argmax()) == (-shift) % length
                assert profile.max() == pytest.approx(1, abs=1e-3)
                assert np.sort(profile)[-2] < 1e-3
            else:
                assert profile.max() < 0.1
    # Beside the preamble its band is silent: before its prefix and after its end.
    band = lowest * 30.72e6 / size + np.array([0, length]) * 30.72e6 / size
    box = next(each for each in capture.emissions if each.attributes["channel"] == "PRACH")
    assert (box.low, box.high) == pytest.approx(tuple(band), abs=30.72e6 / size)
    assert box.start == pytest.approx((4e-3 if size > 1024 else 4.5e-3) - 3e-3, abs=1e-7)
    quiet = np.r_[capture.iq[: round(box.start * 30.72e6)], capture.iq[round(box.stop * 30.72e6) :]]
    spectrum = np.abs(np.fft.fft(quiet)) ** 2
    frequency = np.fft.fftfreq(quiet.size, 1 / 30.72e6)
    assert spectrum[(frequency > band[0]) & (frequency < band[1])].sum() < 1e-3 * spectrum.sum()


SHARED = [
    # PUSCH; its (first symbol, stop, DM-RS symbols, first block) in even and in odd slots; samples or columns of PT-RS.
    pytest.param(
        PUSCH((0, 12), (0, 14), "64QAM", True, hopping="inter-slot", hop_offset=30, ptrs=PTRS(1, groups=(2, 2))),
        [[(0, 14, (2,), 0)], [(0, 14, (2,), 30)]],
        # M / 4 and 3 M / 4, each with the one before it.
        [35, 36, 107, 108],
        id="DFT-s-inter-slot-PTRS",
    ),
    pytest.param(
        PUSCH((5, 20), (0, 12), "pi/2-BPSK", True, hopping="intra-slot", hop_offset=25, dmrs=DMRS(additional=1)),
        [[(0, 6, (2,), 5), (6, 12, (6, 10), 30)]] * 2,
        [],
        id="DFT-s-BPSK-intra-slot",
    ),
    pytest.param(
        PUSCH((1, 51), (0, 14), "256QAM", dmrs=DMRS(additional=3, port=1), ptrs=PTRS(1, 4), rnti=2),
        [[(0, 14, (2, 5, 8, 11), 1)]] * 2,
        # K = 4, 50 blocks: RNTI mod (50 mod 4 = 2) is block 0; port 1: subcarrier 2.
        list(range(2, 600, 48)),
        id="CP-PTRS",
    ),
    pytest.param(
        PUSCH((1, 9), (3, 11), "16QAM", mapping="B", hopping="inter-slot", hop_offset=40, dmrs=DMRS(additional=1)),
        [[(3, 11, (3, 9), 1)], [(3, 11, (3, 9), 41)]],
        [],
        id="CP-inter-slot-mapping-B",
    ),
]


@pytest.mark.parametrize(("pusch", "hops", "tracked"), SHARED)
def test_evm_of_pusch_is_below_half_a_percent(standard, pusch, hops, tracked):
    _, grid = captured(standard, Uplink(), (User(pusch, ((0, 4),)),), 4)
    width = 12 * (pusch.prb[1] - pusch.prb[0])
    silent = np.abs(grid)
    limit = 1e-3 * silent.max()
    for slot in range(4):
        data = []
        for start, stop, dmrs, prb in hops[slot % 2]:
            silent[slot, start:stop, 12 * prb : 12 * prb + width] = 0
            for symbol in range(start, stop):
                if symbol in dmrs:
                    continue
                row = grid[slot, symbol, 12 * prb : 12 * prb + width]
                row = np.fft.ifft(row) if pusch.transform_precoding else row
                data.append(np.delete(row, tracked))
        assert evm(np.concatenate(data), pusch.modulation) < 0.005
    assert silent.max() < limit
