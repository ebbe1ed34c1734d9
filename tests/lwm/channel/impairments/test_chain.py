"""Levels, composition, batches and backends of all families."""

import json

import numpy as np
import pytest
import torch

from lwm.channel.impairments import (
    FAMILIES,
    STAGES,
    AdjacentChannelInterferer,
    CarrierFrequencyOffset,
    DCOffset,
    IQImbalance,
    PowerAmplifier,
    Quantisation,
    SamplingClockOffset,
    Spurs,
    TDLSweep,
    impair,
)
from lwm.errors import CaptureError, ConfigError
from lwm.seeding import rng_for

RATE = 7.68e6
SAMPLES = 20_011


def signal(rows=3, samples=SAMPLES, seed=0):
    """Noise of unit power in the inner 70 % of the band."""
    rng = np.random.default_rng(seed)
    spectrum = rng.standard_normal((rows, samples)) + 1j * rng.standard_normal((rows, samples))
    spectrum[:, np.abs(np.fft.fftfreq(samples)) > 0.35] = 0
    iq = np.fft.ifft(spectrum)
    return (iq / np.sqrt(np.mean(np.abs(iq) ** 2, -1, keepdims=True))).astype(np.complex64)


def at_level(family, level, rows=3):
    """Rows of one family at one level, each with a generator that goes on after the draw."""
    rngs = [rng_for(7, family.name, row) for row in range(rows)]
    return [[family.at_level(level, rng, RATE)] for rng in rngs], rngs


def evm(found, iq):
    """Error over the best complex gain, root-mean-square over all rows."""
    gain = np.sum(found * iq.conj(), -1, keepdims=True) / np.sum(np.abs(iq) ** 2, -1, keepdims=True)
    return np.sqrt(np.mean(np.abs(found - gain * iq) ** 2) / np.mean(np.abs(gain * iq) ** 2))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_level_zero_is_nearly_nothing_and_error_grows_with_the_level(family):
    iq = signal(8)
    errors = []
    for level in (0.0, 0.25, 0.5, 0.75, 1.0):
        rows, rngs = at_level(family, level, len(iq))
        errors.append(evm(impair(iq, RATE, rows, rngs)[0], iq))
    # 46 dB below the signal or less: under the noise of every SNR that is trained on.
    assert errors[0] < 0.005
    # A shift or a channel decorrelates the signal entirely: from there on its EVM says nothing more.
    compared = [error for error in errors if error < 1]
    assert len(compared) >= 2 or errors[1] > 1
    assert np.all(np.diff(compared) > 0)
    assert errors[-1] > 0.02


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("samples", [1000, SAMPLES])
def test_row_alone_equals_row_in_a_batch_and_torch_equals_numpy(family, samples):
    iq = signal(3, samples)
    rows, rngs = at_level(family, 0.9)
    before = iq.copy()
    batch, facts = impair(iq, RATE, rows, rngs)
    assert np.array_equal(iq, before)
    assert batch.dtype == np.complex64
    for row in range(3):
        # The interferer's neighbours in the batch have other parameters and generators.
        items, alone = at_level(family, 0.9)
        found, measured = impair(iq[row : row + 1], RATE, [items[row]], [alone[row]])
        assert np.array_equal(found[0], batch[row])
        assert measured[0] == facts[row]
    items, rngs = at_level(family, 0.9)
    tensor, measured = impair(torch.from_numpy(iq), RATE, items, rngs)
    assert tensor.dtype == torch.complex64
    difference = np.abs(tensor.numpy() - batch)
    if family is Quantisation:
        # A value on the edge between two steps may fall to either side.
        assert np.count_nonzero(difference > 1e-5) <= 3
    else:
        assert difference.max() < 5e-6 * np.abs(batch).max()
    assert json.loads(json.dumps(measured)) == measured
    assert measured[0][0]["name"] == family.name
    assert family(**measured[0][0]["parameters"]) == items[0][0]


def test_rows_may_differ_in_families_and_order_is_the_physical_one():
    iq = signal(3)
    backwards = [Quantisation(6, 9.0), DCOffset(-15.0, 20.0), CarrierFrequencyOffset(2e3), PowerAmplifier(1.0, 3.0)]
    rows = [[*backwards, IQImbalance(1.0, 5.0)], [], [CarrierFrequencyOffset(-1e3)]]
    found, facts = impair(iq, RATE, rows, [rng_for(row) for row in range(3)])
    names = [fact["name"] for fact in facts[0]]
    assert names == ["iq_imbalance", "power_amplifier", "carrier_frequency_offset", "dc_offset", "quantisation"]
    assert facts[1] == []
    assert np.array_equal(found[1], iq[1])
    step = iq[:1]
    for item in reversed([*backwards, IQImbalance(1.0, 5.0)]):
        step, _ = impair(step, RATE, [[item]], [rng_for(0)])
    assert np.array_equal(step[0], found[0])


def test_families_are_listed_in_physical_order():
    keys = [(STAGES.index(family.stage), family.order) for family in FAMILIES.values()]
    assert keys == sorted(set(keys))
    assert all(name == family.name for name, family in FAMILIES.items())


def test_stages_in_turn_equal_all_at_once():
    iq = signal(2)
    row = [
        DCOffset(-20.0, 0.0),
        IQImbalance(2.0, 3.0),
        TDLSweep("TDL-C", 1e-7, 50.0),
        AdjacentChannelInterferer(-5.0, 2e6, 1e6),
        SamplingClockOffset(9.0),
    ]
    whole, facts = impair(iq, RATE, [row, row], [rng_for(1), rng_for(2)])
    rngs, part, collected = [rng_for(1), rng_for(2)], iq, []
    for stage in STAGES:
        part, found = impair(part, RATE, [row, row], rngs, stages=[stage])
        assert {fact["stage"] for fact in found[0]} == {stage}
        collected += found[0]
    assert np.array_equal(part, whole)
    assert collected == facts[0]


def test_a_family_may_come_twice():
    iq = signal(2)
    pair = [CarrierFrequencyOffset(1e3), CarrierFrequencyOffset(2e3)]
    found, facts = impair(iq, RATE, [pair, []], [rng_for(1), rng_for(2)])
    once, _ = impair(iq, RATE, [[CarrierFrequencyOffset(3e3)], []], [rng_for(1), rng_for(2)])
    assert [fact["parameters"]["offset_hz"] for fact in facts[0]] == [1e3, 2e3]
    assert np.abs(found - once).max() < 1e-5


def test_fading_keeps_the_mean_power_and_records_its_draw():
    iq = 3 * signal(2)
    found, facts = impair(iq, RATE, [[TDLSweep("TDL-C", 1e-6, 500.0)]] * 2, [rng_for(1), rng_for(2)])
    assert np.mean(np.abs(found) ** 2, -1) == pytest.approx([9.0, 9.0], rel=1e-4)
    assert facts[0][0]["measured"]["draw"] != facts[1][0]["measured"]["draw"]


def test_no_rows_and_no_samples():
    empty, facts = impair(np.zeros((0, 5), dtype=np.complex64), RATE, [], [])
    assert empty.shape == (0, 5)
    assert facts == []
    nothing = np.zeros((1, 0), dtype=np.complex64)
    for family in FAMILIES.values():
        rows, rngs = at_level(family, 1.0, 1)
        if family is TDLSweep:
            with pytest.raises(CaptureError, match="longer capture"):
                impair(nothing, RATE, rows, rngs)
        else:
            assert impair(nothing, RATE, rows, rngs)[0].shape == (1, 0)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("level", [-0.01, 1.01, float("nan"), float("inf")])
def test_level_out_of_range(family, level):
    with pytest.raises(ConfigError, match="level .* expected 0 to 1"):
        family.at_level(level, rng_for(0), RATE)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_parameters_that_are_not_finite_or_out_of_range(family):
    good = family.at_level(0.5, rng_for(0), RATE).parameters()
    for name, value in good.items():
        if not isinstance(value, str):
            for wrong in (float("nan"), float("inf"), 1e15):
                with pytest.raises(ConfigError, match=" to "):
                    family(**{**good, name: wrong})


def test_fading_is_the_channel_s_stage_between_transmitter_and_air():
    assert STAGES == ("transmitter", "channel", "air", "receiver")
    assert [name for name, family in FAMILIES.items() if family.stage == "channel"] == ["tdl_sweep"]
    iq = signal(1)
    row = [AdjacentChannelInterferer(0.0, 2e6, 1e6), TDLSweep("TDL-C", 1e-7, 50.0)]
    faded, facts = impair(iq, RATE, [row], [rng_for(3)], stages=("channel",))
    alone, _ = impair(iq, RATE, [row[1:]], [rng_for(3)])
    assert [fact["name"] for fact in facts[0]] == ["tdl_sweep"]
    assert np.array_equal(faded, alone)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_parameters_may_be_numbers_of_numpy_but_no_text(family):
    item = family.at_level(0.5, rng_for(0), RATE)
    plain = {name: value for name, value in item.parameters().items() if not isinstance(value, str)}
    typed = {name: np.int64(value) if isinstance(value, int) else np.float64(value) for name, value in plain.items()}
    again = family(**{**item.parameters(), **typed})
    assert again == item
    assert json.loads(json.dumps(again.parameters())) == item.parameters()
    # float32 is no subclass of float, and JSON has no word for it.
    single = {name: np.float32(value) for name, value in plain.items() if isinstance(value, float)}
    json.dumps(family(**{**item.parameters(), **single}).parameters())
    for name in plain:
        for wrong in ("1", None, True, [0.0]):
            with pytest.raises(ConfigError, match="expected a number"):
                family(**{**item.parameters(), name: wrong})


def test_counts_are_whole_numbers():
    for call in (lambda: Quantisation(7.5, 10.0), lambda: Spurs(2.5, -30.0)):
        with pytest.raises(ConfigError, match="whole number"):
            call()


def test_calls_that_do_not_fit():
    iq = signal(2, 100)
    with pytest.raises(ConfigError, match="2 of each"):
        impair(iq, RATE, [[]], [rng_for(0), rng_for(1)])
    with pytest.raises(ConfigError, match="stage 'antenna'"):
        impair(iq, RATE, [[], []], [rng_for(0), rng_for(1)], stages=["antenna"])
    with pytest.raises(CaptureError, match="complex"):
        impair(iq[0], RATE, [[]], [rng_for(0)])
    with pytest.raises(CaptureError, match="complex"):
        impair(iq.real, RATE, [[], []], [rng_for(0), rng_for(1)])
    with pytest.raises(CaptureError, match="sample rate nan"):
        impair(iq, float("nan"), [[], []], [rng_for(0), rng_for(1)])
    with pytest.raises(ConfigError, match="profile 'TDL-Z'"):
        TDLSweep("TDL-Z", 0.0, 0.0)
