"""PRACH against TS 38.211 clauses 5.3.2 and 6.3.3 written out, and by correlation."""

import numpy as np
import pytest

from experts.nr.uplink.grid import Carrier
from experts.nr.uplink.prach import FRAME, PRACH, SUBFRAME, TS, Occasions, durations, occasions, prach, preamble
from experts.nr.uplink.prach_configurations import configuration, configuration_indices
from experts.nr.uplink.prach_tables import CYCLIC_SHIFTS, ROOTS
from lwm.errors import RejectedConfig
from lwm.phy.ofdm import cp_lengths, modulate

CARRIER = Carrier(pci=1, mu=1, n_rb=51)
RATE = 30.72e6
# Table 6.3.3.2-1 and k-bar as the tests need them, typed from the standard and not from the generator.
K_BAR = {(1.25, 30): 1, (5.0, 30): 10, (15.0, 30): 2, (30.0, 30): 2, (120.0, 120): 2, (60.0, 120): 2, (1.25, 15): 7}


def naive(carrier: Carrier, config: PRACH, rate: float, start: int, prefix: int, useful: int) -> np.ndarray:
    """The sum of clause 5.3.2 at every sample."""
    first, stop = -(-start * rate // TS), -(-(start + prefix + useful) * rate // TS)
    t = np.arange(first, stop) / rate - (start + prefix) / TS
    delta_f = 15e3 * (1 << carrier.mu)
    k_1 = 12 * config.prb - 6 * carrier.n_rb
    offset = delta_f / (1e3 * config.scs) * k_1 + K_BAR[config.scs, 15 << carrier.mu]
    length = config.length
    per_root = length // config.cyclic_shift if config.cyclic_shift else 1
    u = int(ROOTS[length][config.root + config.preamble // per_root])
    c_v = config.preamble % per_root * config.cyclic_shift
    shifted = (np.arange(length) + c_v) % length
    x = np.exp(-1j * np.pi * (u * shifted * (shifted + 1) % (2 * length)) / length)
    total = np.zeros(len(t), dtype=complex)
    for k in range(length):
        y = (x * np.exp(-2j * np.pi * np.arange(length) * k / length)).sum() / np.sqrt(length)
        total += y * np.exp(2j * np.pi * (k + offset) * 1e3 * config.scs * t)
    return total / np.sqrt(rate / (1e3 * config.scs))


@pytest.mark.parametrize(
    ("carrier", "config", "rate", "start", "prefix", "useful"),
    [
        # Table 6.3.3.1-2 at 30 kHz; symbols 0 and 14 of a subframe have a prefix longer by 16 T_s.
        (CARRIER, PRACH("A1", 30, root=5, preamble=9, zone=4, prb=7), RATE, 0, 144 + 16, 2048),
        (CARRIER, PRACH("A1", 30, root=5, prb=30), RATE, SUBFRAME // 2, 144 + 16, 2048),
        (CARRIER, PRACH("A1", 30, root=5, prb=30), RATE, SUBFRAME // 2 + 1112, 144, 2048),
        (CARRIER, PRACH("C0", 15, root=20, prb=3), 7.68e6 * 4, 0, 1240 + 16, 2048),
        # A rate at which the prefix is not whole samples.
        (Carrier(1, 3, 32), PRACH("A1", 120, root=2, prb=0), 61.32e6, 0, 36 + 16, 512),
    ],
)
def test_a_preamble_is_the_sum_of_the_clause(
    carrier: Carrier, config: PRACH, rate: float, start: int, prefix: int, useful: int
) -> None:
    config.validate(carrier)
    assert durations(config, start) == (prefix, useful)
    sent = prach(carrier, config, rate, start)
    assert sent.first == -(-start * rate // TS)
    np.testing.assert_allclose(sent.samples, naive(carrier, config, rate, start, prefix, useful), atol=2e-4)


# Lengths in T_s at 15 kHz, typed from tables 6.3.3.1-1 and -2 as prefix + useful.
SPANS = {
    "0": 3168 + 24576,
    "1": 21024 + 2 * 24576,
    "2": 4688 + 4 * 24576,
    "3": 3168 + 4 * 6144,
    "A1": 288 + 4096,
    "A2": 576 + 8192,
    "A3": 864 + 12288,
    "B1": 216 + 4096,
    "B2": 360 + 8192,
    "B3": 504 + 12288,
    "B4": 936 + 24576,
    "C0": 1240 + 2048,
    "C2": 2048 + 8192,
}


@pytest.mark.parametrize("name", SPANS)
def test_every_format_has_its_length_and_its_repetitions(name: str) -> None:
    carrier = Carrier(pci=1, mu=0, n_rb=50)
    config = PRACH(name, 15, root=3, preamble=1, zone=6, prb=4)
    config.validate(carrier)
    start = SUBFRAME + 2208 + 3 * 2192
    sent = prach(carrier, config, 15.36e6, start)
    # Over the middle of the subframe the short formats gain the 16 T_s of its long symbol.
    crossing = config.scs == 15 and 2208 + 3 * 2192 + SPANS[name] > 15360
    assert len(sent.samples) == (SPANS[name] + 16 * crossing) // 2
    period = round(15.36e6 / (1e3 * config.scs))
    np.testing.assert_allclose(sent.samples[period:], sent.samples[:-period], atol=1e-6)
    # Equal power a Hz with a carrier of unit resource elements at the same rate.
    grid = np.ones((7, 1024), dtype=np.complex64)
    density = np.mean(np.abs(modulate(grid, 1024, cp_lengths(1024))[-1024:]) ** 2) / 15.36e6
    own = np.mean(np.abs(sent.samples[-period:]) ** 2) / (config.length * 1e3 * config.scs)
    assert own == pytest.approx(density, rel=1e-4)


@pytest.mark.parametrize("length", [839, 139])
def test_roots_are_a_permutation_and_preambles_have_zero_autocorrelation(length: int) -> None:
    assert sorted(ROOTS[length].tolist()) == list(range(1, length))
    assert (ROOTS[length][0::2] + ROOTS[length][1::2] == length).all()
    for root in (0, 1, length // 2, length - 2):
        y = np.asarray(preamble(length, root, 0, 0), dtype=complex)
        np.testing.assert_allclose(np.abs(y), 1, atol=1e-4)
        x = np.fft.ifft(y)
        np.testing.assert_allclose(np.abs(x), 1 / np.sqrt(length), atol=1e-4)
        correlation = np.fft.ifft(np.abs(np.fft.fft(x)) ** 2)
        assert np.abs(correlation[1:]).max() < 1e-4


def test_the_logical_order_goes_by_cubic_metric() -> None:
    # TS 38.211 table 6.3.3.1-3 keeps the order of TS 36.211: cubic metric below 1.2 dB first, above it after.
    metric = []
    for root in range(0, 838, 2):
        x = np.fft.ifft(np.asarray(preamble(839, root, 0, 0), dtype=complex), 4 * 839)
        power = np.abs(x) ** 2
        metric.append(10 * np.log10(np.mean((power / power.mean()) ** 3)))
    low, high = np.array(metric[:228]), np.array(metric[228:])
    assert np.mean(low[:, None] < high[None, :]) > 0.99


def test_the_64_preambles_of_a_cell_are_told_apart() -> None:
    for length, spacing, zone in ((839, 1.25, 1), (839, 5.0, 8), (139, 15.0, 3), (139, 15.0, 0)):
        n_cs = CYCLIC_SHIFTS[spacing][zone]
        all_64 = np.stack([preamble(length, 0, n_cs, index) for index in range(64)])
        across = np.abs(all_64.conj() @ all_64.T) / length - np.eye(64)
        # Shifts of a root are orthogonal, different roots meet at 1 / sqrt(length) (Zadoff-Chu, prime length).
        assert across.max() == pytest.approx(0 if n_cs and 64 * n_cs <= length else length**-0.5, abs=1e-4)


def test_a_detector_finds_each_preamble_root_shift_and_band() -> None:
    for name, spacing, prb, index in (("B4", 30, 5, 17), ("B4", 30, 39, 40), ("0", 1.25, 20, 33), ("A2", 15, 11, 2)):
        config = PRACH(name, spacing, root=8, zone=5, preamble=index, prb=prb)
        config.validate(CARRIER)
        sent = prach(CARRIER, config, RATE, 0)
        size = round(RATE / (1e3 * config.scs))
        spectrum = np.fft.fft(sent.samples[-size:], norm="ortho")
        lowest = round(30 / config.scs * (12 * prb - 6 * CARRIER.n_rb)) + K_BAR[config.scs, 30]
        used = (lowest + np.arange(config.length)) % size
        outside = np.ones(size, dtype=bool)
        outside[used] = False
        assert np.abs(spectrum[outside]).max() < 1e-4
        assert sent.band == ((lowest - 0.5) * 1e3 * config.scs, (lowest + config.length - 0.5) * 1e3 * config.scs)
        scores = [
            abs(np.vdot(preamble(config.length, 8, config.cyclic_shift, other), spectrum[used])) / config.length
            for other in range(64)
        ]
        assert int(np.argmax(scores)) == index
        assert scores[index] == pytest.approx(1, abs=1e-3)


def test_occasions_are_where_the_symbol_clock_says() -> None:
    # 30 kHz, two PRACH slots a subframe, three A2 occasions from symbol 2 in each, every other frame.
    config = PRACH("A2", 30, occasions=Occasions(period=(2, 1), slots=(9, 4), symbol=2, slots_per=2, count=3))
    config.validate(CARRIER)
    found = occasions(config, first_frame=6, frames=3)
    edges = np.r_[0, np.cumsum(np.tile(np.array(cp_lengths(1024, 1)) + 1024, 2))]
    symbols = [14 * slot + 2 + 4 * number for slot in (0, 1) for number in range(3)]
    truth = [FRAME + subframe * SUBFRAME + edges[symbol] for subframe in (4, 9) for symbol in symbols]
    assert found.tolist() == truth
    one = PRACH("A2", 30, occasions=Occasions(slots=(4,), symbol=2))
    assert occasions(one, 0, 1).tolist() == [4 * SUBFRAME + edges[14 + 2]]
    # 120 kHz: slot 7 of 60 kHz is the last quarter of subframe 1; its second half.
    fast = PRACH("A1", 120, occasions=Occasions(slots=(7,), symbol=0))
    eighth = np.r_[0, np.cumsum(np.tile((np.array(cp_lengths(256, 3)) + 256), 2))]
    assert occasions(fast, 0, 1).tolist() == [SUBFRAME + eighth[14 * 7]]
    long = PRACH("0", occasions=Occasions(slots=(1, 6), symbol=7))
    assert occasions(long, 0, 1).tolist() == [SUBFRAME + 7 * 2192 + 16, 6 * SUBFRAME + 7 * 2192 + 16]


@pytest.mark.parametrize(
    ("config", "clause", "nearest"),
    [
        (PRACH("A4"), "6.3.3.1-1", "one of"),
        (PRACH("A1", 45), "6.3.3.1-2", "nearest is 30"),
        (PRACH("A1", 60), "6.3.3.2-1", "nearest is 30"),
        (PRACH("A1", 30, root=138), "6.3.3.1-3", "nearest is 137"),
        (PRACH("A1", 30, zone=16), "6.3.3.1-5", "nearest is 15"),
        (PRACH("A1", 30, preamble=64), "6.3.3.1", "nearest is 63"),
        (PRACH("A1", 30, prb=40), "5.3.2", "nearest first block is 39"),
        (PRACH("B4", 30, occasions=Occasions(symbol=3)), "6.3.3.2-2", "nearest is 2"),
        (PRACH("A1", 30, occasions=Occasions(symbol=0, count=8)), "6.3.3.2-2", "nearest is 7"),
        (PRACH("A1", 15, occasions=Occasions(slots_per=2)), "6.3.3.2-2", "nearest is 1"),
        (PRACH("0", occasions=Occasions(slots=(10,))), "6.3.3.2-2", "nearest is 9"),
        (PRACH("0", occasions=Occasions(period=(3, 0))), "6.3.3.2-2", "nearest is 2"),
    ],
)
def test_what_the_standard_lacks_is_refused(config: PRACH, clause: str, nearest: str) -> None:
    with pytest.raises(RejectedConfig, match=nearest) as caught:
        config.validate(CARRIER)
    assert clause in str(caught.value)


def test_an_unfit_sample_rate_is_refused() -> None:
    with pytest.raises(RejectedConfig, match="nearest is 3.072e\\+07 Hz"):
        prach(CARRIER, PRACH("A1", 30), 30.725e6, 0)
    with pytest.raises(RejectedConfig, match="at least 1.8"):
        prach(CARRIER, PRACH("A1", 30, prb=0), 15.36e6, 0)


@pytest.mark.parametrize("paired", [True, False])
def test_every_configuration_index_is_a_legal_prach(paired: bool) -> None:
    indices = configuration_indices(paired)
    for index, name in indices.items():
        for spacing in (15, 30):
            found, when = configuration(index, paired, spacing)
            assert found == name
            PRACH(name, spacing, occasions=when).validate(CARRIER)
    # Whole runs, each row once within its format.
    assert set(indices) == ({*range(60), *range(147, 167), *range(177, 256)} if paired else set(range(211)))
    for name in set(indices.values()):
        rows = [configuration(index, paired, 30)[1] for index in indices if indices[index] == name]
        assert len(rows) == len(set(rows))


def test_rows_of_the_configuration_tables() -> None:
    # Typed from tables 6.3.3.2-2 and -3: index, spectrum, format, x, y, subframes, symbol, slots, occasions.
    for index, paired, name, when in [
        (16, True, "0", Occasions((1, 0), (1,))),
        (27, True, "0", Occasions((1, 0), tuple(range(10)))),
        (52, True, "1", Occasions((1, 0), (3, 6, 9))),
        (147, True, "A3", Occasions((16, 1), (4, 9), 0, 1, 2)),
        (197, True, "B1", Occasions((1, 0), (1, 3, 5, 7, 9), 0, 2, 7)),
        (255, True, "C2", Occasions((1, 0), (1, 3, 5, 7, 9), 0, 2, 2)),
        (198, True, "B4", Occasions((16, 0), (4, 9), 0, 2, 1)),
        (218, True, "B4", Occasions((1, 0), (1, 3, 5, 7, 9), 0, 2, 1)),
        (16, False, "0", Occasions((1, 0), (1, 6), 7)),
        (39, False, "2", Occasions((1, 0), (6,), 7)),
        (66, False, "3", Occasions((1, 0), (1, 3, 5, 7, 9))),
        (67, False, "A1", Occasions((16, 1), (9,), 0, 2, 6)),
        (86, False, "A1", Occasions((1, 0), tuple(range(10)), 7, 1, 3)),
        (109, False, "A2", Occasions((1, 0), tuple(range(10)), 9, 1, 1)),
        (132, False, "A3", Occasions((1, 0), tuple(range(10)), 7, 1, 1)),
        (160, False, "B4", Occasions((1, 0), (9,), 2, 1, 1)),
        (188, False, "C0", Occasions((1, 0), tuple(range(10)), 8, 1, 3)),
        (210, False, "C2", Occasions((1, 0), tuple(range(10)), 8, 1, 1)),
    ]:
        assert configuration(index, paired, 30) == (name, when)
    with pytest.raises(RejectedConfig, match=r"6.3.3.2-2.*nearest is 59"):
        configuration(70, True, 15)
