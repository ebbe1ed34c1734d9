"""Scenes: what a plan may ask for, where carriers lie, what the mask says, and that generation keeps its promises."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lwm.cli import main
from lwm.data.check import check_dataset
from lwm.data.dataset import SpectrogramDataset
from lwm.data.draws import ChannelPlan, ImpairmentPlan
from lwm.data.manifest import Manifest
from lwm.data.masks import PADDED, mask_names
from lwm.data.plan import Plan, ViewPlan
from lwm.data.scene_synthesis import SceneSynthesizer, scene_mask
from lwm.data.scenes import ScenePlan
from lwm.errors import ConfigError
from lwm.models.head import VOID
from lwm.seeding import rng_for

YAML = """
technologies: [wlan, lte]
recipe: small
samples: {train: 4, test: 2}
samples_per_waveform: 2
samples_per_shard: 2
view: {sample_rates: [20.0e6], bandwidths: [5.0e6, 10.0e6], activity: [0.6, 1.0], short_share: 0.5}
channel:
  draws: {train: 4, test: 2}
  snr_db: [20]
  mobility: [static]
scene: {carriers: [1, 2], levels_db: [-5, 0], gaps: [0.5e6, 1.0e6], threshold_db: 3}
"""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(
        technologies=("lte", "wlan"),
        recipe="small",
        samples={"train": 2},
        channel=ChannelPlan({"train": 2}, snr_db=(20,), mobility=("static",)),
        view=ViewPlan((30.72e6,), (5e6, 10e6), (0.6, 1.0), 0.0),
        samples_per_waveform=2,
        scene=ScenePlan((2, 2), (0.0, 0.0), (1e6, 1e6), 0.0),
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same plan made in this process, and by two workers."""
    root = tmp_path_factory.mktemp("scenes")
    config = root / "plan.yaml"
    config.write_text(YAML, encoding="utf-8")
    made = []
    for workers in ("0", "2"):
        out = root / workers
        assert main(["generate", "--config", str(config), "--out", str(out), "--workers", workers]) == 0
        made.append(out)
    return made


def test_padding_is_what_heads_leave_out() -> None:
    assert PADDED == VOID


@pytest.mark.parametrize("gaps", [(0.0, 2e6), (-1e6, -1e6), (5e6, 50e6)])
def test_channels_lie_inside_the_band_and_apart(gaps: tuple[float, float]) -> None:
    scene, rate = ScenePlan((3, 3), gaps=gaps), 30.72e6
    for draw in range(50):
        rng = rng_for(0, "place", draw)
        widths = [5e6, 10e6, 5e6]
        centres = scene.place(rng, widths, rate)
        bands = sorted((c - w / 2, c + w / 2) for c, w in zip(centres, widths, strict=True))
        assert bands[0][0] >= -rate / 2 - 1
        assert bands[-1][1] <= rate / 2 + 1
        between = [low - high for (_, high), (low, _) in itertools.pairwise(bands)]
        assert min(between) >= min(gaps[0], 0.0) - 1
        assert max(between) <= gaps[1] + 1


def test_what_does_not_fit_is_rejected_in_the_end(plan: Plan) -> None:
    wide = replace(plan, scene=ScenePlan((4, 4)), view=ViewPlan((10e6,), (10e6,), short_share=0.0))
    with pytest.raises(ConfigError, match="200 draws of a scene"):
        SceneSynthesizer(wide, 0, "train").group(0)


def test_technologies_repeat_only_when_they_run_out() -> None:
    scene = ScenePlan((3, 3))
    for draw in range(20):
        names = scene.draw_technologies(rng_for(0, "names", draw), ("nr", "lte"))
        assert len(names) == 3
        assert set(names[:2]) == {"nr", "lte"}


def test_impairments_would_move_the_picture_off_its_mask(plan: Plan) -> None:
    moved = replace(plan.channel, impairments=ImpairmentPlan({"carrier_frequency_offset": (0.0, 1.0)}))
    with pytest.raises(ConfigError, match="none in scenes"):
        replace(plan, channel=moved)


@pytest.mark.parametrize("wrong", [{"carriers": (0, 2)}, {"levels_db": (5, -5)}, {"threshold_db": 90.0}])
def test_impossible_scenes_are_refused(wrong: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ConfigError, match="scene"):
        ScenePlan(**wrong)  # type: ignore[arg-type]


def test_snr_of_each_carrier_is_what_its_emissions_say(plan: Plan) -> None:
    """Power inside the carrier's active time against noise of power 1 in its band, from the spectrum itself."""
    maker = SceneSynthesizer(plan, 0, "train")
    group = maker.group(0)
    for each in maker._placed(group, 0, rng_for(0, "test")):
        boxes, rate = each.emissions, group.sample_rate
        times = np.arange(len(each.iq)) / rate
        active = np.any([(times >= box.start) & (times < box.stop) for box in boxes], axis=0)
        bins = np.fft.fftfreq(len(each.iq), 1 / rate)
        band = np.any([(bins >= box.low) & (bins < box.high) for box in boxes], axis=0)
        spectrum = np.abs(np.fft.fft(each.iq)) ** 2 / len(each.iq) ** 2
        signal, noise = spectrum[band].sum() / active.mean(), band.mean()
        # What leaks out of the band is not in the sum: a few hundredths of a dB; boxes' edges are whole samples.
        assert 10 * np.log10(signal / noise) == pytest.approx(20.0, abs=0.3)
        assert {box.snr_db for box in boxes} == {each.snr_db}


def test_mask_marks_cells_whose_clean_power_is_above_the_noise(plan: Plan) -> None:
    """Against an STFT written out: frames of 256 samples, Hann, bins and frames averaged over each cell."""
    maker = SceneSynthesizer(plan, 0, "train")
    group = maker.group(0)
    placed = maker._placed(group, 0, rng_for(0, "test"))
    mask = scene_mask(placed, plan, maker.recipe, group.sample_rate)
    window = np.hanning(257)[:-1] / np.sqrt((np.hanning(257)[:-1] ** 2).sum())
    powers = []
    for each in placed:
        frames = each.iq[: len(each.iq) // 256 * 256].reshape(-1, 256) * window
        power = np.abs(np.fft.fftshift(np.fft.fft(frames, axis=1), axes=1)) ** 2
        rows = power.reshape(len(frames), 64, 4).mean(2)
        assert len(frames) % 64 == 0  # 1,920 frames, 30 a column
        powers.append(rows.reshape(64, -1, 64).mean(1).T)
    best = np.argmax(powers, axis=0)
    codes = np.array([plan.technologies.index(each.carrier.technology) + 1 for each in placed])
    expected = np.where(np.max(powers, axis=0) >= 1.0, codes[best], 0)
    assert (mask == expected).mean() > 0.999
    assert set(np.unique(mask)) == {0, 1, 2}


def test_noise_alone_is_at_the_threshold() -> None:
    """Unit noise has unit power in every cell: what the threshold is relative to. Mean of 4,096 cells, 1 % error."""
    import torch

    from lwm.signal.recipe import recipe_named

    rng = rng_for(0, "noise")
    iq = (rng.normal(size=491520) + 1j * rng.normal(size=491520)) / np.sqrt(2)
    cells = replace(recipe_named("small"), power_reference="full_scale", floor_db=-120.0)
    db, _ = cells(torch.from_numpy(iq.astype(np.complex64))[None], 30.72e6)
    assert float(torch.pow(10, db / 10).mean()) == pytest.approx(1.0, rel=0.01)


def test_a_higher_threshold_marks_fewer_cells(plan: Plan) -> None:
    maker = SceneSynthesizer(plan, 0, "train")
    group = maker.group(0)
    placed = maker._placed(group, 0, rng_for(0, "test"))
    counts = [
        int((scene_mask(placed, replace(plan, scene=ScenePlan(threshold_db=level)), maker.recipe, 30.72e6) > 0).sum())
        for level in (-20.0, 0.0, 15.0)
    ]
    assert counts[0] > counts[1] > counts[2] > 0


def test_scenes_are_the_same_whatever_the_number_of_workers(folders: list[Path]) -> None:
    one, two = (Manifest.load(folder) for folder in folders)
    assert [(e.name, e.sha256) for e in one.shards] == [(e.name, e.sha256) for e in two.shards]
    assert all(entry.name.startswith("scene-") for entry in one.shards)


def test_doctor_finds_nothing(folders: list[Path]) -> None:
    assert check_dataset(folders[0]) == []


def test_dataset_hands_out_masks_and_what_is_in_them(folders: list[Path]) -> None:
    data = SpectrogramDataset(folders[0])
    assert data.has_mask
    assert data.mask_names == mask_names(["wlan", "lte"]) == ["noise", "wlan", "lte"]
    batch = data.batch(np.arange(len(data)))
    mask, valid = batch["mask"].numpy(), batch["valid"].numpy()
    assert mask.dtype == np.uint8
    assert mask.shape == (6, 64, 64)
    assert ((mask == PADDED) == ~valid[:, None, :]).all()
    assert not valid.all()
    for row in range(len(data)):
        record = data.record(row)
        named = set(np.unique(mask[row])) - {0, PADDED}
        assert named <= {data.mask_names.index(each["technology"]) for each in record["carriers"]}
        for code, name in enumerate(("wlan", "lte"), start=1):
            said = data.label_names[f"has_{name}"][data.labels[f"has_{name}"][row]]
            assert (said == "yes") == any(each["technology"] == name for each in record["carriers"])
            share = (mask[row][:, valid[row]] == code).mean()
            assert data.values[f"share_{name}"][row] == pytest.approx(share, abs=1e-6)
        assert np.array_equal(data[row]["mask"].numpy(), mask[row])


def test_marked_cells_are_louder_than_the_others(folders: list[Path]) -> None:
    data = SpectrogramDataset(folders[0], split="train")
    batch = data.batch(np.arange(len(data)))
    db, mask = batch["spectrogram"].numpy()[:, 0], batch["mask"].numpy()
    for picture, classes in zip(db, mask, strict=True):
        assert np.median(picture[(classes > 0) & (classes < PADDED)]) > np.median(picture[classes == 0]) + 3


def test_generation_resumes_and_replaces_scenes(folders: list[Path], tmp_path: Path) -> None:
    config = folders[0].parent / "plan.yaml"
    out = tmp_path / "again"
    words = ["generate", "--config", str(config), "--out", str(out), "--workers", "0"]
    assert main(words) == 0
    lost = out / Manifest.load(out).shards[1].name
    lost.unlink()
    assert main([*words, "--resume"]) == 0
    assert Manifest.load(out).shards == Manifest.load(folders[0]).shards
    assert main([*words, "--overwrite"]) == 0
