"""Studies: their plans, their probes, and one run from end to end."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from lwm.cli import main
from lwm.data.shard import write_dataset
from lwm.errors import ConfigError
from lwm.evaluation.task import FewShotTask
from lwm.seeding import rng_for
from lwm.shipped import shipped_configs
from lwm.signal.recipe import recipe_named
from lwm.study.plan import Study, load_study, merged
from lwm.study.probes import (
    PATCHES,
    Pictures,
    label_records,
    occupancy_records,
    occupied_patches,
    plain_features,
    plain_patches,
    probed_patches,
)
from lwm.study.report import paired_difference, probe_table, reconstruction_table
from lwm.tasks.pretrain import MaskedModeling

SIDE, PATCH = 32, 4
STUDY = """
name: tiny
base: pretrain/study
data: {main: generate/tiny}
sample_steps: 64
options: {main: {size: tiny, shape: {patch: 16}}}
arms: {clean: {}, plain: {target: input, loss_on: masked}}
tasks: {main: [TASK]}
occupancy: [main]
mask_ratios: [0.5]
k: [2]
episodes: 2
headlines: [clean]
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """Two technologies on six channel draws: a band that is on the air in noise, and the band without noise."""
    rng = rng_for(0, "test", "study")
    count = 120
    low = rng.integers(0, 6, count) * PATCH
    rows = np.arange(SIDE)[None, :, None]
    band = (rows >= low[:, None, None]) & (rows < low[:, None, None] + 2 * PATCH)
    clean = np.broadcast_to(np.where(band, 0.0, -30.0), (count, SIDE, SIDE)).astype(np.float32)
    noisy = (clean + rng.normal(0, 1, clean.shape)).astype(np.float32)
    labels = {
        "technology": [["lte", "nr"][i % 2] for i in range(count)],
        "mobility": [["pedestrian", "vehicular"][i // 2 % 2] for i in range(count)],
        "channel": [f"test/{i // 4 % 6}" for i in range(count)],
    }
    root = tmp_path_factory.mktemp("study") / "data"
    recipe = replace(recipe_named("small"), name="tiny", size=(SIDE, SIDE))
    write_dataset(root, noisy[:, None], recipe, labels, split="test", clean=clean[:, None])
    return Pictures.of(root)


def test_labels_in_the_features_are_found_and_shuffled_ones_are_not(pictures: Pictures) -> None:
    task = FewShotTask("mobility", ("mobility",), k=(5,), episodes=4, test_per_class=40)
    codes = pictures.dataset.labels["mobility"]
    rng = rng_for(1, "test", "study")
    noise = rng.normal(0, 1, (len(codes), 8)).astype(np.float32)
    planted = noise + 10 * codes[:, None]
    found = [r for r in label_records(pictures, task, [noise, planted, noise], 0) if r["layer"] == "chosen"]
    assert [r["macro_f1"] for r in found] == [1.0] * 4
    assert {r["depth"] for r in found} == {2 / 3}
    blind = [r["macro_f1"] for r in label_records(pictures, task, [noise], 0)]
    # Four episodes of about 40 test samples: half a chance has a standard error of 0.04.
    assert abs(np.mean(blind) - 0.5) < 0.16


def test_middle_and_last_layer_are_reported_apart(pictures: Pictures) -> None:
    task = FewShotTask("mobility", ("mobility",), k=(5,), episodes=1, test_per_class=40)
    codes = pictures.dataset.labels["mobility"]
    noise = rng_for(2, "test", "study").normal(0, 1, (len(codes), 8)).astype(np.float32)
    layers = [noise, noise, noise + 10 * codes[:, None]]
    by_layer = {r["layer"]: r["macro_f1"] for r in label_records(pictures, task, layers, 0)}
    assert by_layer["last"] == by_layer["chosen"] == 1.0
    assert by_layer["middle"] < 0.8


def test_selection_of_a_task_is_kept(pictures: Pictures) -> None:
    task = FewShotTask("m", ("mobility",), where='technology == "nr"', k=(2,), episodes=1, test_per_class=500)
    (record,) = label_records(pictures, task, plain_features(pictures), 0)
    nr = (pictures.dataset.labels["technology"] == pictures.dataset.label_names["technology"].index("nr")).sum()
    assert record["test_samples"] < nr / 2 + 10


def test_occupied_patches_are_those_of_the_band(pictures: Pictures) -> None:
    occupied = occupied_patches(pictures.clean, PATCH).unflatten(1, (SIDE // PATCH, SIDE // PATCH))
    assert pictures.clean is not None
    truth = pictures.clean[:, 0, ::PATCH, ::PATCH] > -15
    assert torch.equal(occupied, truth)
    assert occupied.float().mean().item() == pytest.approx(0.25)


def test_occupancy_is_plain_to_see_at_this_snr_and_hidden_from_noise(pictures: Pictures) -> None:
    plain = plain_patches(pictures, PATCH)
    assert plain[0].shape == (120, PATCHES, PATCH * PATCH + 1)
    easy = [r["macro_f1"] for r in occupancy_records(pictures, PATCH, plain, (5,), 2, 0)]
    assert min(easy) > 0.99
    noise = rng_for(3, "test", "study").normal(0, 1, (120, PATCHES, 6)).astype(np.float32)
    blind = [r["macro_f1"] for r in occupancy_records(pictures, PATCH, [noise], (5,), 2, 0)]
    assert max(blind) < 0.6


def test_probed_patches_are_cells_of_the_picture(pictures: Pictures) -> None:
    places = probed_patches(pictures, PATCH)
    assert all(len(set(row)) == PATCHES for row in places.tolist())
    number, place = 7, int(places[7, 3])
    row, column = divmod(place, SIDE // PATCH)
    cells = pictures.db[number, 0, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
    whole = pictures.db[number, 0]
    expected = ((cells - whole.mean()) / whole.std()).flatten()
    np.testing.assert_allclose(plain_patches(pictures, PATCH)[0][number, 3, :-1], expected, atol=1e-5)


def test_paired_difference_is_that_of_the_paired_t_test() -> None:
    rng = rng_for(4, "test", "study")
    ours, theirs = rng.normal(0.6, 0.1, 9), rng.normal(0.5, 0.1, 9)
    mean, half = paired_difference(ours, theirs)
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    np.testing.assert_allclose([mean - half, mean + half], [interval.low, interval.high])


def test_table_marks_what_is_beyond_the_interval_and_what_was_seen() -> None:
    base = {"data": "main", "k": 20, "layer": "chosen", "seed": 0, "clean_target": False, "labels": ["snr"]}
    records = []
    for episode in range(5):
        wobble = 0.01 * (episode % 2)
        for arm, score, seen in (("good", 0.8, ["snr"]), ("same", 0.5, []), ("random weights", 0.5, [])):
            near = wobble if arm != "same" else -wobble
            records.append(
                base | {"arm": arm, "task": "snr", "episode": episode, "macro_f1": score + near, "labels_seen": seen}
            )
    rows = [line for line in probe_table(records) if line.startswith("| ")]
    assert rows[0] == "| arm | snr |"
    assert rows[1] == "| good | 80.4 + * |"
    assert rows[2] == "| same | 49.6 |"
    assert rows[3] == "| random weights | 50.4 |"


def test_reconstruction_table_has_a_column_a_ratio() -> None:
    records = [
        {"arm": "a", "mask_ratio": ratio, "balanced_accuracy": score}
        for ratio, score in ((0.5, 0.9), (0.9, 0.7), (0.9, 0.8))
    ]
    assert reconstruction_table(records)[-2] == "| a | 90.0 | 75.0 |"


@pytest.mark.parametrize("name", shipped_configs("studies"))
def test_every_arm_of_a_shipped_study_is_a_task_that_can_be_built(name: str) -> None:
    study = load_study(name)
    assert study.sample_steps >= 60_000
    for job in study.jobs(Path("out"), Path("data"), [0, 1]):
        config = job.config()
        assert config["trainer"]["max_steps"] * config["data"]["init_args"]["batch_size"] >= study.sample_steps
        task = MaskedModeling(**config["model"]["init_args"])
        assert task.training_options.seed == config["seed_everything"] == job.seed


def test_merging_goes_into_mappings() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}, "d": {}}) == {"a": {"b": 1, "c": 4}, "d": {}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"occupancy": ("other",)}, "other"),
        ({"headlines": ("x",)}, "headlines"),
        ({"mask_ratios": (1.0,)}, "mask_ratios"),
        ({"arms": {}}, "arms"),
    ],
)
def test_studies_that_cannot_be(change: dict[str, object], said: str) -> None:
    settings: dict[str, object] = {"name": "s", "base": "pretrain/study", "data": {"m": "generate/tiny"}}
    with pytest.raises(ConfigError, match=said):
        Study(**(settings | {"arms": {"a": {}}} | change))  # type: ignore[arg-type]


def test_a_study_runs_resumes_and_refuses_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, config = tmp_path / "task.yaml", tmp_path / "study.yaml"
    task.write_text("name: snr\nlabels: [snr]\ntest_per_class: 20\n")
    config.write_text(STUDY.replace("TASK", str(task)))
    out = tmp_path / "out"
    words = ["study", "--config", str(config), "--out", str(out), "--data", str(tmp_path / "data"), "--workers", "0"]
    assert main([*words, "--seeds", "0", "1"]) == 0
    results = json.loads((out / "results.json").read_text())
    arms = {(r["arm"], r["seed"]) for r in results["records"]}
    baselines = {(name, seed) for name in ("random weights", "plain statistics") for seed in (0, 1)}
    assert arms == {("clean", 0), ("plain", 0), ("clean", 1)} | baselines
    assert {r["task"] for r in results["records"]} == {"snr", "occupancy", "reconstruction"}
    assert (out / "probes.png").stat().st_size > 5000
    assert (out / "reconstruction.png").stat().st_size > 5000
    assert "| clean | " in (out / "table.md").read_text()

    assert main(words) == 2  # not empty
    kept = out / "runs" / "main-plain-0" / "records.json"
    again = json.loads(kept.read_text())
    kept.unlink()
    untouched = (out / "runs" / "main-clean-0" / "records.json").stat().st_mtime_ns
    # The checkpoint is gone, the model is there: what needs the decoder cannot be measured again, so train again.
    assert main([*words, "--seeds", "0", "1", "--resume"]) == 0
    assert json.loads(kept.read_text()) == again
    assert (out / "runs" / "main-clean-0" / "records.json").stat().st_mtime_ns == untouched

    capsys.readouterr()
    assert main([*words, "--resume", "--sample-steps", "96"]) == 2
    assert "sample_steps" in capsys.readouterr().err
    assert main([*words, "--resume", "--arms", "clear"]) == 2
    assert "clear" in capsys.readouterr().err
    assert main([*words, "--resume", "--samples", "90"]) == 2
    assert "another plan" in capsys.readouterr().err
    # Some arms again: the table keeps the others and the baselines.
    assert main([*words, "--resume", "--arms", "plain"]) == 0
    kept = {(r["arm"], r["seed"]) for r in json.loads((out / "results.json").read_text())["records"]}
    assert kept == arms
    # A plan of before an option existed is the same plan where the option has its default; the file is another one.
    file = tmp_path / "data" / "tiny" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["plan"]["view"]["noise_share"]
    file.write_text(json.dumps(manifest))
    capsys.readouterr()
    assert main([*words, "--resume", "--arms", "plain"]) == 2
    assert "another data_sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("tasks: {main: [TASK]}", "tasks: {main: [tasks/snrr]}"), "snrr"),
        (("{target: input", "{targett: input"), "targett"),
    ],
)
def test_typos_are_found_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], said: str
) -> None:
    config = tmp_path / "study.yaml"
    config.write_text(STUDY.replace(*change).replace("TASK", "tasks/snr"))
    out, data = tmp_path / "out", tmp_path / "data"
    assert main(["study", "--config", str(config), "--out", str(out), "--data", str(data)]) == 2
    assert said in capsys.readouterr().err
    assert not data.exists()
    assert not out.exists()
