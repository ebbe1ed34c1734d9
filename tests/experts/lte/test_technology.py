"""The LTE technology: contract, exact facts, power, spectrum, gaps, refusals."""

import dataclasses
import json

import numpy as np
import pytest

from experts.lte import LTE, PDSCH, LTEConfig, TDDPattern
from experts.lte.frame import FFT_SIZES, RESOURCE_BLOCKS
from lwm.errors import ConfigError, RejectedConfig
from lwm.seeding import rng_for
from lwm.technology import Technology, technology

BANDWIDTHS = sorted(RESOURCE_BLOCKS)


def _draw(seed, **fixed):
    rng = rng_for(seed, "lte")
    config = LTE().sample(rng, **fixed)
    return config, LTE().synthesize(config, rng)


def test_registered_and_keeps_the_contract():
    assert isinstance(technology("lte"), LTE)
    assert isinstance(LTE(), Technology)


@pytest.mark.parametrize("seed", range(40))
def test_random_draws_are_legal_and_exact(seed):
    duration = (0.001, 0.0037, 0.016)[seed % 3]
    config, capture = _draw(seed, duration=duration, bandwidth=(1.4e6, 3e6, 5e6)[seed // 3 % 3])
    assert capture.iq.dtype == np.complex64
    assert capture.iq.size == round(duration * capture.sample_rate)
    assert capture.sample_rate == 15e3 * FFT_SIZES[config.resource_blocks]
    on = np.zeros(capture.iq.size, dtype=bool)
    for emission in capture.emissions:
        first, stop = (round(t * capture.sample_rate) for t in (emission.start, emission.stop))
        assert (emission.technology, emission.link) == ("LTE", "downlink")
        assert not on[first:stop].any()
        on[first:stop] = True
    assert np.mean(np.abs(capture.iq[on]) ** 2) == pytest.approx(1, rel=1e-4)
    assert not capture.iq[~on].any()
    assert capture.facts["activity"] == pytest.approx(on.mean(), abs=1e-4)
    assert capture.facts["modulation"] in ("QPSK", "16QAM", "64QAM", "256QAM")
    json.dumps([capture.facts, dataclasses.asdict(config), [dataclasses.asdict(e) for e in capture.emissions]])


@pytest.mark.parametrize("bandwidth", BANDWIDTHS)
def test_energy_lies_in_the_emission_box(bandwidth):
    _, capture = _draw(3, bandwidth=bandwidth, duplex="FDD", activity=1.0, load=1.0)
    spectrum = np.abs(np.fft.fft(capture.iq)) ** 2
    frequency = np.fft.fftfreq(capture.iq.size, 1 / capture.sample_rate)
    (emission,) = capture.emissions
    inside = (frequency >= emission.low) & (frequency <= emission.high)
    assert spectrum[inside].sum() > 0.99 * spectrum.sum()
    # The box is no wider than it must be: its outermost 15 kHz hold as much as any other of its subcarriers.
    edges = spectrum[inside & (np.abs(frequency) > emission.high - 15e3)].sum() / 2
    assert edges > 0.5 * spectrum[inside].sum() / (12 * RESOURCE_BLOCKS[bandwidth])
    # The carrier at 0 Hz is empty but for its neighbours' side lobes.
    assert spectrum[np.abs(frequency) < 2e3].mean() < 0.2 * spectrum[inside].mean()


@pytest.mark.parametrize("configuration", range(7))
def test_tdd_bursts_follow_the_pattern(configuration):
    pattern = TDDPattern(configuration, 4)
    config = LTEConfig(bandwidth=1.4e6, tdd=pattern, start=0.0, duration=0.01)
    capture = LTE().synthesize(config, rng_for(0, "x"))
    power = np.abs(capture.iq.reshape(10, -1)) ** 2
    kinds = capture.facts["frame_pattern"]
    assert [bool(p.any()) for p in power] == [kind != "U" for kind in kinds]
    # DwPTS of configuration 4 has 12 of the 14 symbols: 26336 of 30720 T_s.
    dwpts = 26336 // 16
    assert power[1, :dwpts].any()
    assert not power[1, dwpts:].any()
    starts = [0, *(i for i in range(2, 10) if kinds[i] == "D" and kinds[i - 1] == "U")]
    starts += [6] if kinds[6] == "D" and kinds[5] == "S" else []
    assert [round(e.start * 1e3, 6) for e in capture.emissions] == sorted(starts)


def test_activity_is_met_by_the_nearest_pattern_in_tdd():
    for wanted in (0.3, 0.5, 0.9):
        config, capture = _draw(8, duplex="TDD", activity=wanted, duration=0.02, bandwidth=3e6)
        shares = [
            dataclasses.replace(config, tdd=TDDPattern(n, config.tdd.special_subframe)).downlink().mean()
            for n in range(7)
        ]
        assert config.tdd.configuration == int(np.argmin(np.abs(np.array(shares) - wanted)))
        assert capture.facts["activity"] == pytest.approx(config.downlink().mean(), abs=0.01)


def test_activity_is_the_share_of_loaded_subframes_in_fdd():
    config, capture = _draw(2, duplex="FDD", activity=0.3, duration=0.02, bandwidth=3e6, load=0.6, start=0.0)
    assert capture.facts["activity"] == 1
    assert len(capture.facts["loaded_subframes"]) == 6
    loaded = {item.subframe for item in config.allocations}
    power = np.mean(np.abs(capture.iq.reshape(20, -1)) ** 2, axis=1)
    quiet = [number for number in range(20) if number not in loaded]
    assert 0 < power[quiet].min() < power[quiet].mean() < 0.7 * power[sorted(loaded)].mean()


def test_facts_of_a_known_schedule():
    allocations = (PDSCH(2, 0, 10, "64QAM"), PDSCH(2, 10, 5, "QPSK"), PDSCH(3, 0, 25, "64QAM"))
    config = LTEConfig(bandwidth=5e6, pci=77, cfi=1, allocations=allocations, start=0.002, duration=0.002)
    facts = LTE().synthesize(config, rng_for(0, "x")).facts
    assert facts["modulation"] == "64QAM"
    assert facts["modulations"] == {"64QAM": 0.875, "QPSK": 0.125}
    assert facts["prb_load"] == pytest.approx(40 / 50)
    assert facts["subframes"] == facts["loaded_subframes"] == [2, 3]
    # 13 symbols of 12 elements less six CRS a block, of 14 symbols of nearly equal length.
    assert facts["pdsch_share"] == pytest.approx(0.8 * (13 * 12 - 6) / (14 * 12), rel=2e-3)


def test_same_seed_same_samples_and_fixed_settings_shift_nothing():
    first, second = _draw(4, bandwidth=3e6)[1], _draw(4, bandwidth=3e6)[1]
    np.testing.assert_array_equal(first.iq, second.iq)
    assert not np.array_equal(first.iq, _draw(5, bandwidth=3e6)[1].iq)
    free, bound = LTE().sample(rng_for(6, "a")), LTE().sample(rng_for(6, "a"), bandwidth=20e6)
    assert (free.pci, free.cfi, free.control_load) == (bound.pci, bound.cfi, bound.control_load)


def test_draws_are_balanced():
    rng = rng_for(0, "balance")
    configs = [LTE().sample(rng) for _ in range(300)]
    counts = [sum(config.bandwidth == bandwidth for config in configs) for bandwidth in BANDWIDTHS]
    assert min(counts) > 25
    assert 110 < sum(config.tdd is None for config in configs) < 190
    assert np.ptp([config.start for config in configs]) > 0.009


BAD = {
    "bandwidth": ({"bandwidth": 7e6}, "36.101", "nearest: 5e+06"),
    "pci": ({"pci": 504}, "6.11", "nearest: 503"),
    "cfi": ({"cfi": 4}, "6.7-1", "nearest: 3"),
    "sfn": ({"sfn": 1024}, "36.331", "nearest: 1023"),
    "p_a": ({"pdsch_power": -4.0}, "5.2", "nearest: -4.77"),
    "pattern": ({"tdd": TDDPattern(7)}, "4.2-2", "nearest: 6"),
    "special": ({"tdd": TDDPattern(1, 8), "extended_cp": True}, "4.2-1", "nearest: 7"),
    "start": ({"start": 0.012}, "4.1", "nearest: 0.002"),
    "duration": ({"duration": 0.0}, "duration", "positive"),
    "uplink only": ({"tdd": TDDPattern(0), "start": 0.003, "duration": 0.001}, "4.2-2", "start 0"),
    "uplink subframe": ({"tdd": TDDPattern(0), "allocations": (PDSCH(12, 0, 1, "QPSK"),)}, "4.2-2", "nearest: 11"),
    "short dwpts": ({"tdd": TDDPattern(0, 0), "allocations": (PDSCH(1, 0, 1, "QPSK"),)}, "7.1", "nearest: 0"),
    "blocks": ({"allocations": (PDSCH(0, 48, 4, "QPSK"),)}, "7.1.6", "nearest: 48..49"),
    "overlap": ({"allocations": (PDSCH(0, 0, 4, "QPSK"), PDSCH(0, 3, 4, "QPSK"))}, "7.1.6", "46 blocks"),
    "modulation": ({"allocations": (PDSCH(0, 0, 4, "8PSK"),)}, "6.3.2-1", "256QAM"),
    "control load": ({"control_load": 1.5}, "control", "nearest: 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_illegal_configurations_are_refused(name):
    change, clause, remedy = BAD[name]
    config = LTEConfig(**change)
    with pytest.raises(RejectedConfig) as caught:
        LTE().validate(config)
    message = str(caught.value)
    assert clause in message
    assert remedy in message
    assert "\n" not in message
    with pytest.raises(RejectedConfig):
        LTE().synthesize(config, rng_for(0, "x"))


def test_sample_refuses_what_it_cannot_fix():
    with pytest.raises(ConfigError, match="bandwith"):
        LTE().sample(rng_for(0, "x"), bandwith=5e6)
    for wish in ({"activity": 0.0}, {"load": 2}, {"duplex": "HDX"}, {"modulation": "BPSK"}, {"bandwidth": 40e6}):
        with pytest.raises(RejectedConfig):
            LTE().sample(rng_for(0, "x"), **wish)


@pytest.mark.parametrize("seed", range(6))
def test_sentences_say_the_facts(seed):
    _, capture = _draw(seed, bandwidth=10e6, duration=0.002)
    facts = capture.facts
    sentences = LTE().describe(facts)
    text = " ".join(sentences)
    assert sentences[0].startswith("The carrier is LTE with a 10 MHz channel (50 resource blocks), ")
    assert f"cell identity is {facts['pci']}." in text
    assert facts["modulation"] in text
    assert ("time division" in text) == (facts["duplex"] == "TDD")
    assert all(sentence.endswith(".") and "{" not in sentence for sentence in sentences)
