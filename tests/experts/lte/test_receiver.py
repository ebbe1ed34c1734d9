"""The receiver reads signals made by others; then it reads ours, clean, in noise and with frequency offset."""

import numpy as np
import pytest

from experts.lte import LTE, PDSCH, LTEConfig, TDDPattern
from experts.lte.frame import RESOURCE_BLOCKS
from lwm.phy.constellation import cellular
from lwm.seeding import rng_for

GOLDEN = {"lte_fdd_6prb_pci301": 301, "lte_fdd_25prb_pci77": 77, "lte_fdd_50prb_pci301": 301}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_signal(shared, receiver, name):
    path = shared / "golden" / f"{name}.sigmf-meta"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    iq, rate, truth = receiver.read(path)
    cell = receiver.search(iq, rate, np.arange(-10e3, 10.1e3, 5e3))
    assert (cell.pci, cell.duplex, cell.extended, cell.frame_start) == (GOLDEN[name], "FDD", False, 0)
    assert truth["pci"] == GOLDEN[name]
    assert abs(cell.cfo) < 20
    grid = receiver.demodulate(iq, rate, cell, truth["n_rb"])
    reference = receiver.crs_reference(cell.pci, truth["n_rb"], False)
    coherence, delay = receiver.crs_coherence(grid, reference)
    assert coherence.min() > 0.999
    assert abs(delay * rate) < 0.05
    gain = receiver.crs_channel(grid, reference, delay)
    assert receiver.decode_pbch(grid, cell.pci, truth["n_rb"], False, gain) == (truth["n_rb"], truth["sfn"])
    assert receiver.decode_pbch(grid, cell.pci, truth["n_rb"], False, 1j * gain) is None
    cfi, agreement = receiver.decode_cfi(grid[0] / gain, cell.pci, truth["n_rb"], 0)
    assert (cfi in (1, 2, 3), agreement > 0.99) == (True, True)
    other, _ = receiver.crs_coherence(grid, receiver.crs_reference(cell.pci ^ 6, truth["n_rb"], False))
    assert other.max() < 0.8


def test_recorded_cell(shared, receiver):
    path = shared / "captures" / "lte_fdd_1860mhz_rtlsdr.sigmf-meta"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    iq, rate, _ = receiver.read(path)
    cell = receiver.search(iq[:192000], rate, np.arange(-50e3, 50.1e3, 5e3))
    assert cell.pci in (142, 86)
    assert cell.duplex == "FDD"
    assert cell.cfo == pytest.approx(-41.8e3, abs=1e3)


CELLS = {
    "fdd": LTEConfig(bandwidth=5e6, pci=301),
    "fdd extended": LTEConfig(bandwidth=1.4e6, pci=77, extended_cp=True),
    "tdd": LTEConfig(bandwidth=10e6, pci=503, tdd=TDDPattern(1, 4)),
    "tdd extended": LTEConfig(bandwidth=3e6, pci=0, tdd=TDDPattern(3, 7), extended_cp=True, cfi=3),
    "tdd short dwpts": LTEConfig(bandwidth=20e6, pci=168, tdd=TDDPattern(0, 0), cfi=1),
    "fdd 15 MHz": LTEConfig(bandwidth=15e6, pci=352, cfi=3),
}


@pytest.mark.parametrize("name", CELLS)
def test_cell_search_in_noise_and_offset(receiver, name):
    fixed = {field: getattr(CELLS[name], field) for field in ("bandwidth", "pci", "tdd", "extended_cp", "cfi")}
    rng = rng_for(5, name)
    config = LTE().sample(rng, **fixed, duration=0.025)
    capture = LTE().synthesize(config, rng)
    rate, n_rb = capture.sample_rate, config.resource_blocks
    cfo = 3100.0
    noise = rng.standard_normal((capture.iq.size, 2)) @ np.array([1, 1j]) / np.sqrt(2)
    # 3 dB of signal to noise over the whole sampled band.
    noisy = capture.iq * np.exp(2j * np.pi * cfo * np.arange(capture.iq.size) / rate) + noise * 10 ** (-3 / 20)
    cell = receiver.search(noisy, rate, np.arange(-5e3, 5.1e3, 2.5e3))
    assert (cell.pci, cell.duplex, cell.extended) == (config.pci, config.duplex, config.extended_cp)
    begin = round((1 - config.start / 0.01) * 19200) % 19200
    assert (cell.frame_start - begin + 9600) % 19200 - 9600 == pytest.approx(0, abs=1)
    reference = receiver.crs_reference(cell.pci, n_rb, cell.extended)
    cell.cfo += receiver.crs_frequency(receiver.demodulate(noisy, rate, cell, n_rb), reference)
    assert cell.cfo == pytest.approx(cfo, abs=30)
    grid = receiver.demodulate(noisy, rate, cell, n_rb)
    coherence, delay = receiver.crs_coherence(grid, reference)
    channel = receiver.crs_channel(grid, reference, delay)
    heard_from = (config.sfn + (config.start > 0)) % 1024
    assert receiver.decode_pbch(grid, cell.pci, n_rb, cell.extended, channel) == (n_rb, heard_from)
    # CRS in the first symbol of every downlink subframe and DwPTS, and nowhere else.
    sent = config.downlink()[:, 0]
    at_start = coherence.reshape(10, 4)[:, 0]
    assert at_start[sent].mean() > 0.5
    assert at_start[~sent].mean() < 0.45 if config.tdd is not None else sent.all()


def _frame(modulation, bandwidth, tdd=None, extended=False, power=0.0):
    n_rb = RESOURCE_BLOCKS[bandwidth]
    allocations = (PDSCH(0, 0, n_rb, modulation), PDSCH(5, 1, n_rb - 2, modulation))
    return LTEConfig(
        bandwidth, 137, tdd, extended, cfi=2, pdsch_power=power, allocations=allocations, start=0.0, duration=0.01
    )


@pytest.mark.parametrize(
    ("modulation", "bandwidth", "tdd", "extended", "power"),
    [
        ("QPSK", 20e6, None, False, -3.0),
        ("16QAM", 3e6, TDDPattern(0, 5), True, 0.0),
        ("64QAM", 15e6, TDDPattern(5, 7), False, -6.0),
        ("256QAM", 1.4e6, None, False, 0.0),
        ("256QAM", 10e6, None, True, 3.0),
    ],
)
def test_ideal_demodulation_of_pdsch(receiver, modulation, bandwidth, tdd, extended, power):
    config = _frame(modulation, bandwidth, tdd, extended, power)
    capture = LTE().synthesize(config, rng_for(1, modulation))
    n_rb = config.resource_blocks
    cell = receiver.Cell(config.pci, config.duplex, extended, 0, 0.0, 1.0)
    grid = receiver.demodulate(capture.iq, capture.sample_rate, cell, n_rb)
    rows, columns, values = receiver.crs_reference(config.pci, n_rb, extended)
    grid = grid / np.mean(grid[rows[:2], columns[:2]] * values[:2].conj())
    symbols = 12 if extended else 14
    points = cellular(modulation) * 10 ** (power / 20)
    for subframe, first, stop in ((0, 0, 12 * n_rb), (5, 12, 12 * n_rb - 12)):
        here = grid[subframe * symbols : (subframe + 1) * symbols]
        cfi, agreement = receiver.decode_cfi(here[0], config.pci, n_rb, subframe)
        assert (cfi, agreement > 0.99) == (2, True)
        free = receiver.data_elements(n_rb, config.pci, subframe, 3 if n_rb <= 10 else 2, config.duplex, extended)
        free[:, :first] = free[:, stop:] = False
        received = here[free]
        error = np.abs(received[:, None] - points).min(axis=1)
        assert np.sqrt(np.mean(error**2) / np.mean(np.abs(points) ** 2)) < 0.005
        # As many points are in use as that many uniform draws reach: the modulation is the one asked for.
        nearest = np.abs(received[:, None] - points).argmin(axis=1)
        reached = len(points) * (1 - np.exp(-received.size / len(points)))
        assert np.unique(nearest).size > 0.9 * reached
        # Outside the allocation, PDSCH elements are silent.
        free = receiver.data_elements(n_rb, config.pci, subframe, 3 if n_rb <= 10 else 2, config.duplex, extended)
        free[:, first:stop] = False
        assert np.abs(here[free]).max(initial=0) < 0.005
