"""Captures of noise alone: what they hold, how they are labelled, and that they change nothing else."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lwm.data.check import check_dataset
from lwm.data.dataset import SpectrogramDataset
from lwm.data.generation import generate
from lwm.data.manifest import Manifest
from lwm.data.noise_synthesis import NoiseSynthesizer
from lwm.data.plan import NOISE, Plan, load_plan, parse_plan
from lwm.errors import ConfigError
from lwm.seeding import rng_for
from lwm.study.probes import PATCHES, Pictures, occupancy_records

VIEW = {"sample_rates": [1e6, 2e6], "bandwidths": [1e6], "short_share": 0.5, "noise_share": 0.25}
IMPAIRMENTS = {"share": 1.0, "families": {"dc_offset": [1.0, 1.0], "power_amplifier": [1.0, 1.0]}}


@pytest.fixture
def made(write_plan: Callable[..., str], tmp_path: Path) -> Path:
    return generate(write_plan(view=VIEW), str(tmp_path / "made"), seed=3, workers=0)


def test_a_share_of_every_split_is_noise_and_the_rest_is_as_without_it(
    made: Path, write_plan: Callable[..., str], tmp_path: Path
) -> None:
    assert check_dataset(made) == []
    # 2 technologies x 8 (4) samples are three quarters.
    manifest = Manifest.load(made)
    counts: Counter[tuple[str, str]] = Counter()
    for entry in manifest.shards:
        counts[entry.split, entry.technology] += entry.count
    assert (counts["train", NOISE], counts["test", NOISE]) == (5, 3)
    assert (counts["train", "tone"], counts["test", "bursts"]) == (8, 4)
    without = generate(write_plan(view=VIEW | {"noise_share": 0.0}), str(tmp_path / "without"), seed=3, workers=0)
    theirs = {entry.name: entry.sha256 for entry in Manifest.load(without).shards}
    ours = {entry.name: entry.sha256 for entry in manifest.shards if entry.technology != NOISE}
    assert ours == theirs


def test_samples_of_noise_have_no_label_of_a_signal(made: Path) -> None:
    data = SpectrogramDataset(made, "train")
    silent = np.flatnonzero(data.labels["technology"] < 0)
    assert len(silent) == 5
    assert data.label_names["technology"] == ["bursts", "tone"]
    for label in data.labels:
        assert (data.labels[label][silent] == -1).all(), label
    assert np.isnan(data.values["snr_db"][silent]).all()
    for index in silent:
        record = data.record(int(index))
        assert (record["technology"], record["emissions"], record["source"]) == (NOISE, [], "synthetic")
        assert "snr_db" not in record
        assert data[int(index)]["clean"].max() == data.recipe.floor_db
    assert len(SpectrogramDataset(made, "train", 'technology == "tone" or technology == "bursts"')) == 16


def test_noise_is_white_and_as_strong_as_the_plan_says(write_plan: Callable[..., str]) -> None:
    plan = load_plan(write_plan(view=VIEW | {"short_share": 0.0}, storage={"iq": True}))
    synthesizer = NoiseSynthesizer(plan, 3, "train")
    samples = [sample for group, _ in synthesizer.samples(0, 12) for sample in group]
    for sample in samples:
        assert sample.iq is not None
        power, wanted = float(np.mean(np.abs(sample.iq) ** 2)), sample.record["noise"]["noise_power"]
        # The mean of S squared magnitudes of complex Gaussian samples has a relative deviation of 1/sqrt(S).
        assert abs(power / wanted - 1) < 5 / np.sqrt(len(sample.iq))
        lags = [abs(np.vdot(sample.iq[lag:], sample.iq[:-lag])) / len(sample.iq) / wanted for lag in (1, 2, 7)]
        assert max(lags) < 5 / np.sqrt(len(sample.iq))
    # The plan's SNRs are 0 and 20 dB under a unit signal.
    assert {sample.record["noise"]["noise_power"] for sample in samples} == {1.0, 0.01}
    # Pictures are relative to the capture's mean power: white noise is flat about 0 dB over frequency.
    rows = 10 ** (torch.from_numpy(np.stack([sample.spectrogram for sample in samples])) / 10)
    # Within 10 %: resampling at a capture's end and the area average leave no more.
    assert (rows.mean((0, 1, 3)) - 1).abs().max() < 0.1


def test_only_the_receiver_impairs_it(write_plan: Callable[..., str]) -> None:
    channel = {"draws": {"train": 3, "test": 2}, "snr_db": [0], "mobility": ["static"], "impairments": IMPAIRMENTS}
    plan = load_plan(write_plan(view=VIEW, channel=channel, storage={"iq": True}))
    ((sample, _), _) = next(NoiseSynthesizer(plan, 3, "train").samples(0, 2))
    assert [each["name"] for each in sample.record["impairments"]] == ["dc_offset"]
    assert sample.values["level_dc_offset"] == 1.0
    assert sample.values["level_power_amplifier"] == 0.0
    assert sample.iq is not None
    # A constant that white noise of this length has not.
    assert abs(sample.iq.mean()) > 10 / np.sqrt(len(sample.iq))


def test_a_sample_depends_on_seed_split_and_index_alone(write_plan: Callable[..., str]) -> None:
    plan = load_plan(write_plan(view=VIEW))
    together = [sample for group, _ in NoiseSynthesizer(plan, 3, "train").samples(0, 6) for sample in group]
    assert len({sample.record["waveform_hash"] for sample in together}) == 6
    ((alone,), _) = next(NoiseSynthesizer(plan, 3, "train").samples(5, 1))
    np.testing.assert_array_equal(alone.spectrogram, together[5].spectrogram)
    assert alone.record == together[5].record
    ((other, _), _) = next(NoiseSynthesizer(plan, 4, "train").samples(0, 2))
    assert not np.array_equal(other.spectrogram, together[0].spectrogram)


def test_occupancy_probes_leave_noise_out(write_plan: Callable[..., str], tmp_path: Path) -> None:
    samples = {"train": 2, "test": 48}
    channel = {"draws": {"train": 1, "test": 200}, "snr_db": [20], "mobility": ["static"]}
    plan = write_plan(view=VIEW | {"short_share": 0.0}, samples=samples, channel=channel, samples_per_waveform=6)
    pictures = Pictures.of(generate(plan, str(tmp_path / "made"), seed=3, workers=0))
    assert (pictures.dataset.labels["technology"] < 0).sum() == 32
    features = rng_for(0, "features").normal(size=(len(pictures.db), PATCHES, 2))
    features[pictures.dataset.labels["technology"] < 0] = np.nan  # no fit survives them
    records = list(occupancy_records(pictures, 4, [features], (2,), 1, 0))
    assert {record["task"] for record in records} == {"occupancy"}


def test_a_wrong_share(write_plan: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match=r"view\.noise_share; expected a share, 0 to below 1"):
        load_plan(write_plan(view=VIEW | {"noise_share": 1.0}))
    with pytest.raises(ConfigError, match=r"view\.noise_share; expected 0 in scenes"):
        load_plan(write_plan(view=VIEW, scene={}))


def test_the_shipped_plan_has_a_tenth(technologies: Path) -> None:
    plan = load_plan("generate/rfgpt")
    assert parse_plan(plan.to_dict(), "rfgpt") == plan
    for split in ("train", "validation", "test"):
        counts = plan.counts(split)
        assert counts[NOISE] / sum(counts.values()) == pytest.approx(0.1, abs=0.002)
    total = sum(sum(plan.counts(split).values()) for split in plan.samples)
    assert 11_500 < total < 12_500
    assert isinstance(plan, Plan)
    small = plan.scaled(900)
    assert sum(sum(small.counts(split).values()) for split in small.samples) == pytest.approx(900, abs=6)
