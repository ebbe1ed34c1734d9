"""``payload="coded"``: transport blocks decoded back from the samples by a receiver written here."""

from dataclasses import replace
from math import floor, log2

import numpy as np
import pytest

import experts.nr.payload as payload_module
from experts.nr import (
    CSIRS,
    DMRS,
    MIB,
    NR,
    PDSCH,
    PTRS,
    PUSCH,
    SSB,
    Carrier,
    Control,
    NRConfig,
    TDDPattern,
    Uplink,
    User,
)
from experts.nr.coding.tables import TBS_TABLE
from experts.nr.uplink.pusch_rs import DMRS as UplinkDMRS
from experts.nr.uplink.pusch_rs import PTRS as UplinkPTRS
from lwm.errors import RejectedConfig
from lwm.seeding import rng_for

ORDER = {"pi/2-BPSK": 1, "QPSK": 2, "16QAM": 4, "64QAM": 6, "256QAM": 8, "1024QAM": 10}


def levels(order: int) -> np.ndarray:
    """Amplitudes of one axis by its bits, highest first, TS 38.211 clauses 5.1.3 to 5.1.7 before scaling."""
    half = order // 2
    amplitude = np.ones(1 << half)
    for value in range(1 << half):
        signs = [1 - 2 * (value >> (half - 1 - place) & 1) for place in range(half)]
        inner = 1
        for place, sign in enumerate(reversed(signs[1:])):
            inner = (2 << place) - sign * inner
        amplitude[value] = signs[0] * inner
    return amplitude


def soft_bits(symbols: np.ndarray, modulation: str, variance: float) -> np.ndarray:
    """Max-log log-likelihood ratios, positive for 0; symbols have unit mean power, noise ``variance``."""
    if modulation == "pi/2-BPSK":
        turned = symbols * np.exp(-1j * np.pi / 2 * (np.arange(symbols.size) % 2) - 1j * np.pi / 4)
        return 4 * turned.real / variance
    order = ORDER[modulation]
    amplitude = levels(order)
    axis = amplitude / np.sqrt(2 * np.mean(amplitude**2))
    soft = np.empty((symbols.size, order))
    for first, part in enumerate((symbols.real, symbols.imag)):
        distance = (part[:, None] - axis) ** 2 / variance
        for place in range(order // 2):
            one = np.arange(axis.size) >> (order // 2 - 1 - place) & 1 == 1
            soft[:, 2 * place + first] = distance[:, one].min(axis=1) - distance[:, ~one].min(axis=1)
    return soft.reshape(-1)


def block_size(elements: int, rate: float, order: int) -> int:
    """Transport block bits of TS 38.214 clause 5.1.3.2 from step 2 on, one layer."""
    information = elements * rate * order
    if information <= 3824:
        n = max(3, floor(log2(information)) - 6)
        quantised = max(24, 2**n * floor(information / 2**n))
        return next(size for size in TBS_TABLE if size >= quantised)
    n = floor(log2(information - 24)) - 5
    quantised = max(3840, 2**n * floor((information - 24) / 2**n + 0.5))
    limit = 3816 if rate <= 0.25 else 8424
    blocks = -(-(quantised + 24) // limit) if rate <= 0.25 or quantised > 8424 else 1
    return 8 * blocks * -(-(quantised + 24) // (8 * blocks)) - 24


def decoded(decoders, soft: np.ndarray, gold: np.ndarray, size: int, rate: float, order: int):
    """Descrambled and decoded transport block; None when a CRC fails."""
    return decoders.transport_decode(soft * (1 - 2.0 * gold), size, rate, order)


def gold_bits(standard: dict, c_init: int, length: int) -> np.ndarray:
    """c(n) of TS 38.211 clause 5.2.1."""
    symbols = standard["reference"](c_init, -(-length // 2))
    return (np.stack([symbols.real, symbols.imag], axis=1).reshape(-1)[:length] < 0).astype(np.uint8)


@pytest.fixture
def sent(monkeypatch) -> list[np.ndarray]:
    """Transport blocks as they go into the coder, in order."""
    blocks: list[np.ndarray] = []
    encode = payload_module.encode_transport_block

    def spy(bits, *rest):
        blocks.append(np.array(bits))
        return encode(bits, *rest)

    monkeypatch.setattr(payload_module, "encode_transport_block", spy)
    return blocks


def noisy(iq: np.ndarray, snr_db: float, seed: int) -> np.ndarray:
    """With white noise ``snr_db`` below unit power."""
    deviation = np.sqrt(0.5 / 10 ** (snr_db / 10))
    return iq + np.random.default_rng(seed).normal(0, deviation, (iq.size, 2)) @ [1, 1j]


def c_init(slot: int, symbol: int, n_id: int) -> int:
    """Of DM-RS with n_SCID 0."""
    return ((14 * slot + symbol + 1) * (2 * n_id + 1) * 2**17 + 2 * n_id) % 2**31


DOWNLINK = [
    # Carrier, PDSCH, code rate times 1024, slot, SNR in dB over the whole sample rate, DM-RS symbols.
    pytest.param(
        Carrier(10e6, 0, 44), PDSCH(0, 52, "QPSK", (1, 13), rnti=4097), 193.0, 1, 3.0, (2, 11), id="QPSK-low-rate"
    ),
    pytest.param(
        Carrier(20e6, 1, 812, TDDPattern("DDDSU")),
        PDSCH(6, 45, "64QAM", (1, 13), dmrs=DMRS(additional=2, n_id=999), rnti=77, n_id=300),
        772.0,
        2,
        27.0,
        (2, 7, 11),
        id="64QAM-many-blocks",
    ),
    pytest.param(
        Carrier(10e6, 0, 3),
        PDSCH(
            2,
            11,
            "16QAM",
            (1, 13),
            dmrs=DMRS(type=2, additional=0, groups_without_data=1),
            ptrs=PTRS(2, 2, 0),
            interleaver=2,
            rnti=513,
        ),
        490.0,
        2,
        25.0,
        (2,),
        id="16QAM-interleaved-PTRS",
    ),
    pytest.param(
        Carrier(5e6, 1, 9), PDSCH(0, 11, "1024QAM", (1, 13), rnti=2), 853.0, 1, None, (2, 11), id="1024QAM-noise-free"
    ),
]


def interleaved(pdsch: PDSCH, n_rb: int) -> list[int]:
    """Physical resource block of each virtual one, TS 38.211 clause 7.3.1.6, bandwidth part from block 0."""
    if not pdsch.interleaver:
        return list(range(pdsch.prb_start, pdsch.prb_start + pdsch.prb_count))
    size = pdsch.interleaver
    count = -(-n_rb // size)
    columns = count // 2
    bundle = {c * 2 + r: r * columns + c for r in (0, 1) for c in range(columns)}
    bundle[count - 1] = count - 1
    virtual = range(pdsch.prb_start, pdsch.prb_start + pdsch.prb_count)
    return [size * bundle[v // size] + v % size for v in virtual]


@pytest.mark.parametrize(("carrier", "pdsch", "rate", "slot", "snr_db", "dmrs"), DOWNLINK)
def test_pdsch_is_decoded_bit_true(standard, decoders, sent, carrier, pdsch, rate, slot, snr_db, dmrs):
    user = User(pdsch, ((slot, 1),), rate)
    # An interleaved allocation of bundles has no six neighbouring blocks for a CORESET.
    control = None if pdsch.interleaver else Control(1)
    config = NRConfig(carrier, None, (user,), control, payload="coded", start=0.0, duration=0.004)
    capture = NR().synthesize(config, rng_for(81, carrier.pci))
    iq = capture.iq if snr_db is None else noisy(capture.iq, snr_db, carrier.pci)
    grid = standard["demodulate"](iq, carrier.n_fft, carrier.mu, 12 * carrier.n_rb, 4)
    block = grid.reshape(-1, 14, 12 * carrier.n_rb)[slot]

    n_id = carrier.pci if pdsch.dmrs.n_id is None else pdsch.dmrs.n_id
    step = 6 if pdsch.dmrs.type == 1 else 4
    physical = np.array(interleaved(pdsch, carrier.n_rb))
    own = (12 * np.sort(physical)[:, None] + np.arange(12)).reshape(-1)
    inside = np.array([0, 2, 4, 6, 8, 10] if pdsch.dmrs.type == 1 else [0, 1, 6, 7])
    pilots = (12 * physical[:, None] + inside).reshape(-1)
    wanted = (step * physical[:, None] + np.arange(step)).reshape(-1)
    beta = np.sqrt(pdsch.dmrs.groups_without_data)
    expected = beta * standard["reference"](c_init(slot, 2, n_id), step * carrier.n_rb)[wanted]
    free = np.zeros((14, 12 * carrier.n_rb), dtype=bool)
    first, count = pdsch.symbols
    free[first : first + count, own] = True
    for symbol in dmrs:
        free[symbol, pilots] = False
        if pdsch.dmrs.groups_without_data == 2:
            free[symbol, own] = False
    if pdsch.ptrs is not None:
        # K = 2, 11 blocks, RNTI odd: blocks 1 mod 2 (N_RB mod K = 1: RNTI mod 1 = 0), port 0 offset 00: subcarrier 0.
        columns = 12 * np.sort(physical)[0::2]
        # L = 2 from symbol 1, afresh from DM-RS in symbol 2.
        free[np.ix_([1, 4, 6, 8, 10, 12], columns)] = False
    # Subcarriers of virtual blocks in order, then symbols.
    order = (12 * physical[:, None] + np.arange(12)).reshape(-1)
    data = np.concatenate([block[symbol, order[free[symbol, order]]] for symbol in range(first, first + count)])
    gain = np.vdot(expected, block[2, pilots]) / np.vdot(expected, expected)

    bits = ORDER[pdsch.modulation]
    pilot_count = len(dmrs) * pdsch.dmrs.groups_without_data * (6 if pdsch.dmrs.type == 1 else 4)
    per_block = min(156, 12 * count - pilot_count)
    size = block_size(min(per_block * pdsch.prb_count, data.size), rate / 1024, bits)
    variance = 1e-4 if snr_db is None else 10 ** (-snr_db / 10) / abs(gain) ** 2
    soft = soft_bits(data / gain, pdsch.modulation, variance)
    scrambling = (pdsch.rnti << 15) + (carrier.pci if pdsch.n_id is None else pdsch.n_id)
    found = decoded(decoders, soft, gold_bits(standard, scrambling, soft.size), size, rate / 1024, bits)
    assert found is not None, "a CRC of the transport block fails"
    assert len(sent) == 1
    np.testing.assert_array_equal(found, sent[0][0])
    assert capture.facts["payload"] != "random symbols"
    assert capture.facts["users"][0]["code_rate"] == rate / 1024
    # Another UE's scrambling decodes nothing.
    other = gold_bits(standard, scrambling + (1 << 15), soft.size)
    assert decoded(decoders, soft, other, size, rate / 1024, bits) is None


def test_pdsch_around_csi_rs_and_ssb_is_decoded_bit_true(standard, decoders, sent):
    """Rate matching: what is reserved carries no coded bit, TS 38.214 clause 5.1.4."""
    carrier = Carrier(20e6, 0, 100)
    resource = CSIRS(4, "010", symbol=6, n_rb=48, first_rb=32, period=4, offset=1, n_id=7)
    ssb = SSB("A", "1111", 20, 0, 10, 0, MIB(15))
    pdsch = PDSCH(0, 60, "16QAM", (1, 13), dmrs=DMRS(additional=0, groups_without_data=2), rnti=3)
    user = User(pdsch, ((0, 2),), 378.0)
    config = NRConfig(carrier, ssb, (user,), None, (resource,), payload="coded", start=0.0, duration=0.002)
    capture = NR().synthesize(config, rng_for(82))
    slots = standard["demodulate"](noisy(capture.iq, 20.0, 5), carrier.n_fft, 0, 12 * carrier.n_rb, 2)
    for slot, block in enumerate(slots.reshape(2, 14, -1)):
        free = np.zeros(block.shape, dtype=bool)
        free[1:, : 12 * 60] = True
        free[2] = False
        # Blocks of the SSB, 10 to 29, for the whole slot.
        free[:, 120 : 12 * 30] = False
        if slot == 1:
            # Row 4, bitmap 010: k_0 = 4, pairs at k_0 and k_0 + 2.
            for k in (4, 5, 6, 7):
                free[6, 12 * 32 + k : 12 * 80 : 12] = False
        pilots = np.r_[0:120:2, 360:720:2]
        expected = np.sqrt(2) * standard["reference"](c_init(slot, 2, 100), 6 * carrier.n_rb)[pilots // 2]
        gain = np.vdot(expected, block[2, pilots]) / np.vdot(expected, expected)
        data = block[free] / gain
        size = block_size(min(60 * min(156, 12 * 13 - 12), data.size), 378 / 1024, 4)
        soft = soft_bits(data, "16QAM", 10 ** (-20 / 10) / abs(gain) ** 2)
        gold = gold_bits(standard, (3 << 15) + 100, soft.size)
        found = decoded(decoders, soft, gold, size, 378 / 1024, 4)
        assert found is not None, f"a CRC of the transport block of slot {slot} fails"
        assert any(np.array_equal(found, blocks[0]) for blocks in sent)


@pytest.mark.parametrize(
    ("rate", "words"),
    [(948.0, "38.214 clauses 5.1.3 and 6.1.4.*at most 0.95"), (1024.0, "0 < R < 1"), (float("nan"), "0 < R < 1")],
)
def test_a_transport_block_that_its_elements_cannot_carry_is_refused(rate, words):
    """One resource block, two symbols of data: 48 coded bits against 40 and a CRC of 16."""
    user = User(PDSCH(0, 1, "QPSK", (0, 3), dmrs=DMRS(additional=0)), ((0, 1),), rate)
    config = NRConfig(Carrier(), None, (user,), None, payload="coded", duration=1e-3)
    with pytest.raises(RejectedConfig, match=words):
        NR().validate(config)
    NR().validate(replace(config, payload="symbols"))


UPLINK = [
    # PUSCH, code rate times 1024, SNR in dB, (symbols with DM-RS, first block) of each hop in slot 3.
    pytest.param(
        PUSCH(
            (4, 24), (0, 14), "16QAM", True, dmrs=UplinkDMRS(additional=1), ptrs=UplinkPTRS(1, groups=(4, 4)), rnti=9
        ),
        434.0,
        22.0,
        [(0, 14, (2, 11), 4)],
        id="DFT-s-16QAM-PTRS",
    ),
    pytest.param(
        PUSCH((0, 12), (0, 14), "pi/2-BPSK", True, hopping="inter-slot", hop_offset=30, rnti=1000, n_id=77),
        314.0,
        4.0,
        [(0, 14, (2,), 30)],
        id="DFT-s-BPSK-inter-slot",
    ),
    pytest.param(
        PUSCH(
            (2, 27),
            (0, 14),
            "256QAM",
            hopping="intra-slot",
            hop_offset=20,
            dmrs=UplinkDMRS(additional=1, port=2),
            ptrs=UplinkPTRS(1, 2),
            rnti=6,
        ),
        754.0,
        None,
        [(0, 7, (2, 6), 2), (7, 14, (7, 11), 22)],
        id="CP-256QAM-intra-slot-PTRS",
    ),
    pytest.param(
        PUSCH((0, 51), (0, 12), "64QAM", dmrs=UplinkDMRS(2, additional=0, port=4, groups_without_data=3)),
        666.0,
        24.0,
        [(0, 12, (2,), 0)],
        id="CP-64QAM-type-2",
    ),
]


def uplink_data(block: np.ndarray, pusch: PUSCH, hop: tuple, gain: complex, free: np.ndarray) -> np.ndarray:
    """Data symbols of a hop: elements, or ahead of the DFT the samples, that carry neither DM-RS nor PT-RS."""
    start, stop, dmrs, prb = hop
    width = 12 * (pusch.prb[1] - pusch.prb[0])
    out = []
    for symbol in range(start, stop):
        row = block[symbol, 12 * prb : 12 * prb + width] / gain
        if symbol in dmrs:
            continue
        if pusch.transform_precoding:
            row = np.fft.ifft(row) * np.sqrt(width)
        out.append(row[free])
    return np.concatenate(out)


@pytest.mark.parametrize(("pusch", "rate", "snr_db", "hops"), UPLINK)
def test_pusch_is_decoded_bit_true(standard, decoders, sent, pusch, rate, snr_db, hops):
    carrier, slot = Carrier(20e6, 1, 610), 3
    user = User(pusch, ((slot, 1),), rate)
    config = NRConfig(carrier, None, (user,), None, uplink=Uplink(), payload="coded", start=0.0, duration=0.002)
    capture = NR().synthesize(config, rng_for(83, pusch.rnti))
    iq = capture.iq if snr_db is None else noisy(capture.iq, snr_db, pusch.rnti)
    block = standard["demodulate"](iq, carrier.n_fft, 1, 612, 2).reshape(4, 14, 612)[slot]
    width = 12 * (pusch.prb[1] - pusch.prb[0])
    free = np.ones(width, dtype=bool)
    if pusch.ptrs is not None and pusch.transform_precoding:
        # Table 6.4.1.2.2.2-1, four groups of four samples.
        for begin in (0, width // 4 + width // 8 - 2, width // 2 + width // 8 - 2, width - 4):
            free[begin : begin + 4] = False
    elif pusch.ptrs is not None:
        # K = 2, 25 blocks: N_RB mod K = 1, from block 0; port 2, offset 00: subcarrier 1.
        free[1::24] = False
    data, variance = [], 0.0
    for hop in hops:
        _, _, dmrs, prb = hop
        at, values = pilots_of(standard, pusch, carrier, slot, dmrs[0], prb)
        row = block[dmrs[0], 12 * prb : 12 * prb + width][at]
        gain = np.vdot(values, row) / np.vdot(values, values)
        assert abs(np.vdot(values, row)) > 0.8 * np.linalg.norm(values) * np.linalg.norm(row)
        data.append(uplink_data(block, pusch, hop, gain, free))
        variance = 1e-4 if snr_db is None else 10 ** (-snr_db / 10) / abs(gain) ** 2
    symbols = np.concatenate(data)
    order = ORDER[pusch.modulation]
    count = sum(len(dmrs) for _, _, dmrs, _ in hops)
    per_block = min(156, 12 * (pusch.symbols[1] - pusch.symbols[0]) - 12 * count)
    size = block_size(min(per_block * width // 12, symbols.size), rate / 1024, order)
    soft = soft_bits(symbols, pusch.modulation, variance)
    scrambling = (pusch.rnti << 15) + (carrier.pci if pusch.n_id is None else pusch.n_id)
    found = decoded(decoders, soft, gold_bits(standard, scrambling, soft.size), size, rate / 1024, order)
    assert found is not None, "a CRC of the transport block fails"
    np.testing.assert_array_equal(found, sent[0][0])


def pilots_of(
    standard: dict, pusch: PUSCH, carrier: Carrier, slot: int, symbol: int, prb: int
) -> tuple[np.ndarray, np.ndarray]:
    """Subcarriers of the allocation with DM-RS and their values, TS 38.211 clause 6.4.1.1; even ports, one symbol."""
    width = 12 * (pusch.prb[1] - pusch.prb[0])
    beta = np.sqrt(pusch.dmrs.groups_without_data)
    if pusch.transform_precoding:
        # Base sequence u = N_ID mod 30, v = 0 of clause 5.2.2.1.
        length = width // 2
        prime = max(n for n in range(2, length) if all(n % d for d in range(2, n)))
        q_bar = prime * (carrier.pci % 30 + 1) / 31
        q, m = floor(q_bar + 0.5), np.arange(length) % prime
        return np.arange(0, width, 2), beta * np.exp(-1j * np.pi * q * m * (m + 1) / prime)
    k = np.arange(width)
    at = k[k % 2 == pusch.dmrs.port // 2] if pusch.dmrs.type == 1 else k[k % 6 // 2 == pusch.dmrs.port // 2]
    per_block = 6 if pusch.dmrs.type == 1 else 4
    sequence = standard["reference"](c_init(slot, symbol, carrier.pci), per_block * carrier.n_rb)
    return at, beta * sequence[per_block * prb : per_block * prb + at.size]
