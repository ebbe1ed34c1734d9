"""Cells in whole captures: found by py3gpp (cases A to C) and by the receiver of these tests (all cases)."""

import numpy as np
import pytest

from experts.nr import MIB, NR, PDSCH, SSB, Carrier, NRConfig, TDDPattern, User
from lwm.seeding import rng_for

SNR_DB = 6.0
"""In the SS/PBCH block's own 240 subcarriers."""
DELAY = 1234.375
"""Samples, not whole."""
# TS 38.212 table 7.1.1-1.
G = "16 23 18 17 8 30 10 6 24 7 0 5 3 2 1 4 9 11 12 13 14 15 19 20 21 22 25 26 27 28 29 31"
FR1 = [
    pytest.param(
        Carrier(10e6, 0, 17), SSB("A", "0010", 20, 0, 3, 7, MIB(15, 3, 0xA5)), 692, 7 * 15e3, (2, 0), id="A-L4"
    ),
    pytest.param(
        Carrier(20e6, 1, 998),
        SSB("B", "00000100", 10, 1, 30, 4, MIB(30, 2, 0x3C, True)),
        1023,
        4 * 15e3,
        (5, 1),
        id="B-L8",
    ),
    pytest.param(
        Carrier(20e6, 1, 321, TDDPattern("DDDSU")),
        SSB("C", "0100", 20, 1, 0, 0, MIB(15, 2, 1, intra_freq_reselection=False)),
        402,
        0.0,
        (1, 1),
        id="C-TDD",
    ),
    pytest.param(
        Carrier(20e6, 2, 3), SSB("C", "00100000", 5, 0, 1, 22, MIB(30, 3, 255)), 11, 22 * 15e3, (2, 0), id="C-in-60kHz"
    ),
    pytest.param(Carrier(5e6, 1, 640), SSB("A", "0100", 20, 0, 0, 5, MIB(30)), 8, 5 * 15e3, (1, 0), id="A-in-30kHz"),
]
FR2 = [
    pytest.param(
        Carrier(50e6, 3, 500, TDDPattern("DDDSU"), "FR2"),
        SSB("D", "1".rjust(18, "0").ljust(64, "0"), 20, 0, 4, 4, MIB(60, 3, 0xA6, True)),
        300,
        4 * 60e3,
        (17, 0),
        id="D",
    ),
    pytest.param(
        Carrier(100e6, 3, 1006, TDDPattern("DDDSU"), "FR2"),
        SSB("E", "1".rjust(38, "0").ljust(64, "0"), 10, 1, 20, 10, MIB(120, 2, 0x59)),
        77,
        10 * 120e3,
        (37, 1),
        id="E",
    ),
    pytest.param(
        Carrier(100e6, 2, 2, TDDPattern("DDDDDDDSUU"), "FR2"),
        SSB("D", "1".rjust(6, "0").ljust(64, "0"), 20, 1, 60, 0, MIB(120)),
        512,
        0.0,
        (5, 1),
        id="D-in-60kHz",
    ),
]


def received(carrier: Carrier, ssb: SSB, sfn: int, offset: float, cfo: float) -> tuple[np.ndarray, float, float]:
    """A frame's half with other users, late, off in frequency and noisy; its rate and the block's centre in Hz."""
    half = 5 * ssb.half_frame
    scs = 15e3 * (1 << ssb.mu)
    low = 12 * (ssb.first_rb - carrier.n_rb / 2) * carrier.scs + offset
    # A UE beside the block, where the carrier has room for one.
    prbs = (0, ssb.first_rb) if ssb.first_rb >= 6 else (carrier.n_rb - 6, 6)
    first = 10 * sfn + half << carrier.mu
    users = (User(PDSCH(*prbs, "16QAM", (0, 14)), ((first, 2),)),) if carrier.n_rb > 20 else ()
    duration = 0.0031 if carrier.frequency_range == "FR1" else 0.0016
    config = NRConfig(carrier, ssb, users, None, start=(10 * sfn + half) * 1e-3, duration=duration)
    capture = NR().synthesize(config, rng_for(8, carrier.pci))
    rate = capture.sample_rate
    box = next(each for each in capture.emissions if each.attributes["channel"] == "SSB")
    cut = slice(round(box.start * rate), round(box.stop * rate))
    share = np.abs(np.fft.fft(capture.iq[cut])) ** 2
    frequency = np.fft.fftfreq(share.size, 1 / rate)
    power = share[(frequency > box.low) & (frequency < box.high)].sum() / share.size**2
    iq = np.concatenate([capture.iq, np.zeros(2 * int(DELAY))])
    turn = np.exp(-2j * np.pi * np.fft.fftfreq(iq.size) * DELAY)
    iq = np.fft.ifft(np.fft.fft(iq) * turn) * np.exp(2j * np.pi * cfo * np.arange(iq.size) / rate)
    deviation = np.sqrt(power / 10 ** (SNR_DB / 10) * rate / (240 * scs) / 2)
    noise = np.random.default_rng(carrier.pci).normal(0, deviation, (iq.size, 2)) @ [1, 1j]
    return iq + noise, rate, low + 120 * scs


def number(bits) -> int:
    """Highest bit first."""
    return int("".join(str(int(bit)) for bit in bits), 2)


def mib_fields(payload, index_bits) -> dict:
    """What the 24 bits of BCCH-BCH-Message say (TS 38.331), without the frame number."""
    high = [] if len(index_bits) == 3 else index_bits
    return {
        "scs": int(payload[7]),
        "k_ssb": number([*high, *payload[8:12]]),
        "type_a": 2 + int(payload[12]),
        "sib1": number(payload[13:21]),
        "barred": not payload[21],
        "reselection": not payload[22],
    }


def expected_fields(ssb: SSB) -> dict:
    """The same of a configuration."""
    mib = ssb.mib
    return {
        "scs": int(mib.scs_common in (30, 120)),
        "k_ssb": ssb.k_ssb,
        "type_a": mib.dmrs_type_a_position,
        "sib1": mib.pdcch_config_sib1,
        "barred": mib.cell_barred,
        "reselection": mib.intra_freq_reselection,
    }


def expected_sample(ssb: SSB, index: int, rate: float, standard: dict) -> int:
    """First useful sample of block ``index`` from the half frame's start, by TS 38.213 clause 4.1."""
    first = {
        "A": [s + 14 * n for n in range(4) for s in (2, 8)],
        "B": [s + 28 * n for n in range(2) for s in (4, 8, 16, 20)],
        "C": [s + 14 * n for n in range(4) for s in (2, 8)],
        "D": [s + 28 * n for n in range(19) if n not in (4, 9, 14) for s in (4, 8, 16, 20)],
        "E": [s + 56 * n for n in range(9) if n != 4 for s in (8, 12, 16, 20, 32, 36, 40, 44)],
    }[ssb.case]
    return int(standard["symbol_starts"](round(rate / (15e3 * (1 << ssb.mu))), ssb.mu, 5)[first[index]])


class Py3gppSearch:
    """Cell search made of py3gpp's functions alone, where it has them; block of ``scs`` kHz centred on 0 Hz."""

    def __init__(self, rate: float, scs: int) -> None:
        self.rate, self.scs = int(rate), scs
        self.py3gpp = pytest.importorskip("py3gpp", reason="the second implementation, py3gpp, is not installed")

    def replica(self, n_id_2: int, hertz: float) -> np.ndarray:
        """One OFDM symbol without prefix with the PSS."""
        grid = np.zeros((240, 1), dtype=complex)
        self.py3gpp.nrSetResources(self.py3gpp.nrPSSIndices(), grid, self.py3gpp.nrPSS(n_id_2))
        wave, _ = self.py3gpp.nrOFDMModulate(grid=grid, scs=self.scs, initialNSlot=2, SampleRate=self.rate)
        wave = np.asarray(wave)[-self.rate // (1000 * self.scs) :]
        return wave * np.exp(2j * np.pi * hertz * np.arange(wave.size) / self.rate)

    def find(self, iq: np.ndarray) -> tuple[int, int, float]:
        """First useful sample, N_ID2 and carrier offset in Hz of the strongest PSS."""
        best = (0.0, 0, 0, 0.0)
        spectrum = np.fft.fft(iq)
        for n_id_2 in range(3):
            for hertz in np.array([-0.3, 0.0, 0.3]) * 1e3 * self.scs:
                replica = np.fft.fft(self.replica(n_id_2, hertz), iq.size)
                metric = np.abs(np.fft.ifft(spectrum * replica.conj()))
                best = max(best, (float(metric.max()), int(metric.argmax()), n_id_2, hertz))
        _, start, n_id_2, _ = best
        size = self.rate // (1000 * self.scs)
        prefix = 9 * size // 128
        ends = start + np.arange(4) * (size + prefix)
        copies = sum(np.vdot(iq[end - prefix : end], iq[end - prefix + size : end + size]) for end in ends)
        return start, n_id_2, float(np.angle(copies)) / (2 * np.pi) * 1e3 * self.scs

    def decode(self, iq: np.ndarray) -> dict:
        """Cell, DM-RS index, first useful sample, carrier offset, CRC (0 is right) and MIB."""
        start, n_id_2, cfo = self.find(iq)
        size = self.rate // (1000 * self.scs)
        begin = start - 9 * size // 128
        wave = iq[begin : begin + 4 * (size + 9 * size // 128)]
        wave = wave * np.exp(-2j * np.pi * cfo * np.arange(wave.size) / self.rate)
        grid = self.py3gpp.nrOFDMDemodulate(
            waveform=wave, nrb=20, scs=self.scs, initialNSlot=2, SampleRate=self.rate, CyclicPrefixFraction=1.0
        )
        from py3gpp.nrBCHDecode import nrBCHDecode
        from py3gpp.nrPBCHPRBS import nrPBCHPRBS

        flat = grid.ravel(order="F")
        # The channel across the PSS equalises the SSS two symbols later.
        channel = flat[self.py3gpp.nrPSSIndices()] * self.py3gpp.nrPSS(n_id_2)
        smooth = np.convolve(channel, np.ones(9), "same")
        sss = flat[self.py3gpp.nrSSSIndices()] * smooth.conj()
        scores = [abs(np.vdot(self.py3gpp.nrSSS(3 * n + n_id_2), sss)) for n in range(336)]
        pci = 3 * int(np.argmax(scores)) + n_id_2
        pilots = self.py3gpp.nrPBCHDMRSIndices(pci)
        index, match = 0, 0.0
        for candidate in range(8):
            product = flat[pilots] * self.py3gpp.nrPBCHDMRS(pci, candidate).conj()
            score = abs(np.vdot(product[:-1], product[1:])) / np.vdot(product, product).real
            index, match = max((index, match), (candidate, score), key=lambda pair: pair[1])
        estimate, _ = self.py3gpp.nrChannelEstimate(
            rxGrid=grid, refInd=pilots, refSym=self.py3gpp.nrPBCHDMRS(pci, index)
        )
        data = self.py3gpp.nrPBCHIndices(pci)
        symbols = flat[data] * estimate.ravel(order="F")[data].conj()
        soft = self.py3gpp.nrSymbolDemodulate(symbols / np.abs(symbols).mean(), "QPSK", 1.0)
        # py3gpp descrambles with v as told, 0 to 7; a carrier up to 3 GHz has two bits of the index there.
        found = {"pci": pci, "dmrs_index": index, "sample": start, "cfo": cfo}
        for v in (index, index % 4):
            _, crc, payload, low_sfn, half, _ = nrBCHDecode(soft * (1 - 2.0 * nrPBCHPRBS(pci, v, 864)), 8, v, pci)
            if not np.any(crc):
                return found | {"crc": 0, "payload": payload, "low_sfn": low_sfn, "half": int(half)}
        return found | {"crc": 1}


@pytest.mark.parametrize(("carrier", "ssb", "sfn", "offset", "place"), FR1)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_py3gpp_finds_the_cell_and_reads_its_mib(standard, carrier, ssb, sfn, offset, place):
    index, half = place
    scs = 15 << ssb.mu
    cfo = (0.33 if carrier.pci % 2 else -0.21) * 1e3 * scs
    iq, rate, centre = received(carrier, ssb, sfn, offset, cfo)
    found = Py3gppSearch(rate, scs).decode(iq * np.exp(-2j * np.pi * centre * np.arange(iq.size) / rate))
    assert found["pci"] == carrier.pci
    assert found["dmrs_index"] == (index + 4 * half if len(ssb.bitmap) == 4 else index)
    assert abs(found["sample"] - DELAY - expected_sample(ssb, index, rate, standard)) <= rate / (240e3 * scs)
    assert found["cfo"] == pytest.approx(cfo, abs=0.02 * 1e3 * scs)
    assert found["crc"] == 0
    assert number([*found["payload"][1:7], *found["low_sfn"]]) == sfn
    assert found["half"] == half
    read, told = mib_fields(found["payload"], []), expected_fields(ssb)
    # py3gpp leaves the fifth bit of k_SSB, which is not in the MIB's 24 bits, unread.
    assert read == told | {"k_ssb": told["k_ssb"] % 16}


def own_receiver(iq: np.ndarray, rate: float, scs: float, centre: float, l_max: int, tools: tuple) -> dict:
    """The whole receiver of these tests: synchronisation, DM-RS index, channel, polar decoder, CRC, payload."""
    make_receiver, standard, decoders = tools
    receiver = make_receiver(rate, scs)
    found = receiver.detect(iq, centre)
    time = np.arange(iq.size) / rate
    base = iq * np.exp(-2j * np.pi * (centre + found.cfo) * time)
    rows = [base[found.sample + s * (receiver.n + receiver.cp) :][: receiver.n] for s in range(4)]
    block = np.fft.fft(np.array(rows), axis=1)[:, np.arange(240) - 120]
    v, c_part = found.pci % 4, found.i_ssb + 1
    pilots = standard["reference"]((c_part * (found.pci // 4 + 1) << 11) + (c_part << 6) + v, 144)
    data, done = [], 0
    for symbol, bands in ((1, ((0, 240),)), (2, ((0, 48), (192, 240))), (3, ((0, 240),))):
        for low, high in bands:
            k = np.arange(low + v, high, 4)
            ratio = block[symbol, k] * pilots[done : done + k.size].conj()
            done += k.size
            everywhere = np.arange(low, high)
            channel = np.interp(everywhere, k, ratio.real) + 1j * np.interp(everywhere, k, ratio.imag)
            data.append((block[symbol, low:high] * channel.conj())[everywhere % 4 != v])
    soft = np.concatenate(data).view(float)
    gold = standard["reference"](found.pci, 432 * 8)
    signs = np.sqrt(2) * np.stack([gold.real, gold.imag], axis=1).reshape(8, 864)
    soft = soft * signs[found.i_ssb % (4 if l_max == 4 else 8)]
    message = decoders.polar_decode(soft / np.abs(soft).mean(), 56, "pbch", "24C")
    return {"cell": found, "payload": None if message is None else deinterleaved(message, found.pci, l_max, standard)}


def deinterleaved(message: np.ndarray, pci: int, l_max: int, standard: dict) -> list[int]:
    """The payload of TS 38.212 clause 7.1.1, descrambled by 7.1.2."""
    g = [int(word) for word in G.split()]
    plain = {g[10], g[7], g[8]} | ({g[11], g[12], g[13]} if l_max == 64 else set())
    size = 32 - len(plain)
    gold = standard["reference"](pci, 2 * size)
    bits = (np.stack([gold.real, gold.imag], axis=1).reshape(4, size) < 0).astype(int)
    a = message.astype(int)
    a[[i for i in range(32) if i not in plain]] ^= bits[2 * a[g[7]] + a[g[8]]]
    sfn, others, index = iter(g[:10]), iter(g[14:]), iter(g[11:14])
    kinds = [sfn if 1 <= i <= 6 or 24 <= i <= 27 else index if i >= 29 else others for i in range(32) if i != 28]
    payload = [int(a[next(kind)]) for kind in kinds]
    return [*payload[:28], int(a[g[10]]), *payload[28:]]


@pytest.mark.parametrize(("carrier", "ssb", "sfn", "offset", "place"), [*FR2, *FR1[:3:2]])
def test_own_receiver_finds_the_cell_and_reads_its_mib(
    make_receiver, standard, decoders, carrier, ssb, sfn, offset, place
):
    index, half = place
    scs, l_max = 15e3 * (1 << ssb.mu), len(ssb.bitmap)
    cfo = -0.27 * scs
    iq, rate, centre = received(carrier, ssb, sfn, offset, cfo)
    found = own_receiver(iq, rate, scs, centre, l_max, (make_receiver, standard, decoders))
    cell, payload = found["cell"], found["payload"]
    assert cell.pci == carrier.pci
    assert cell.i_ssb == (index + 4 * half if l_max == 4 else index % 8)
    assert abs(cell.sample - DELAY - expected_sample(ssb, index, rate, standard)) <= rate / (240 * scs)
    assert cell.cfo == pytest.approx(cfo, abs=0.03 * scs)
    assert payload is not None, "the CRC of the broadcast channel does not hold"
    assert payload[0] == 0
    assert number(payload[1:7] + payload[24:28]) == sfn
    assert payload[28] == half
    assert mib_fields(payload, payload[29:32] if l_max == 64 else payload[29:30]) == expected_fields(ssb)
    if l_max == 64:
        assert 8 * number(payload[29:32]) + cell.i_ssb == index


def test_own_receiver_finds_no_mib_in_another_cell_s_block(make_receiver, standard, decoders):
    """The CRC can fail: with the scrambling of another cell nothing is decoded."""
    carrier, ssb, sfn, offset, _ = FR1[0].values
    iq, rate, centre = received(carrier, ssb, sfn, offset, 0.0)

    def mistaken(*arguments):
        receiver = make_receiver(*arguments)
        detect = receiver.detect

        def another(*inputs):
            block = detect(*inputs)
            block.pci += 4
            return block

        receiver.detect = another
        return receiver

    found = own_receiver(iq, rate, 15e3, centre, 4, (mistaken, standard, decoders))
    assert found["payload"] is None
