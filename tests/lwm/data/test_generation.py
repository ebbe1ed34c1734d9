"""Generation: the same samples whoever makes them, balanced classes, disjoint splits, interruptions and errors."""

import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lwm.data.check import check_dataset
from lwm.data.dataset import SpectrogramDataset
from lwm.data.estimate import estimate
from lwm.data.generation import generate
from lwm.data.manifest import Manifest
from lwm.data.plan import load_plan
from lwm.data.shard_task import shard_tasks
from lwm.data.synthesis import Synthesizer
from lwm.errors import ConfigError, DatasetError, LWMError, OutputError
from lwm.technology import technology


def _hashes(folder: Path) -> dict[str, str]:
    return {entry.name: entry.sha256 for entry in Manifest.load(folder).shards}


@pytest.fixture
def made(write_plan: Callable[..., str], tmp_path: Path) -> tuple[str, Path]:
    """A plan and what it gives."""
    plan = write_plan()
    return plan, generate(plan, str(tmp_path / "made"), seed=3, workers=0)


def test_number_of_workers_changes_no_byte(made: tuple[str, Path], tmp_path: Path) -> None:
    plan, here = made
    there = generate(plan, str(tmp_path / "two"), seed=3, workers=2)
    assert _hashes(there) == _hashes(here)
    assert (there / "manifest.json").read_text() == (here / "manifest.json").read_text()
    assert len(_hashes(here)) == 6
    assert check_dataset(there) == []


def test_a_sample_depends_on_seed_split_technology_and_index_alone(write_plan: Callable[..., str]) -> None:
    plan = load_plan(write_plan())
    bursts = technology("bursts")
    together = [sample for samples, _ in Synthesizer(plan, 3, "train", bursts).samples(0, 6) for sample in samples]
    for first in (5, 2):
        ((alone,), _) = next(Synthesizer(plan, 3, "train", bursts).samples(first, 1))
        np.testing.assert_array_equal(alone.spectrogram, together[first].spectrogram)
        assert alone.record == together[first].record
    for other in (
        Synthesizer(plan, 4, "train", bursts),
        Synthesizer(plan, 3, "test", bursts),
    ):
        ((sample, _), _) = next(other.samples(0, 2))
        assert not np.array_equal(sample.spectrogram, together[0].spectrogram)


def test_what_a_sample_holds(made: tuple[str, Path]) -> None:
    dataset = SpectrogramDataset(made[1], "train", 'technology == "bursts"')
    assert dataset.has_clean
    assert dataset.label_names["mobility"] == ["static", "vehicular"]
    assert dataset.label_names["snr"] == ["0", "20"]
    for i in range(len(dataset)):
        sample, record = dataset[i], dataset.record(i)
        assert record["valid_columns"] == int(sample["valid"].sum())
        assert record["technology"] == "bursts"
        assert record["modulation"] == "QPSK"
        assert record["link"] == "both"
        assert dataset.label_names["snr"][sample["snr"]] == f"{record['snr_db']:g}"
        assert (record["speed_kmh"] == 0) == (record["mobility"] == "static")
        (emission,) = record["emissions"]
        assert emission["snr_db"] == record["snr_db"]
        assert emission["stop"] <= record["duration"] + 1e-9
        assert abs(emission["low"]) <= record["sample_rate"] / 2
        assert isinstance(record["facts"]["count"], int)
        assert dataset.values["sample_rate"][i] == record["sample_rate"]


def test_noise_is_at_the_stated_ratio_and_absent_from_the_clean_picture(write_plan: Callable[..., str]) -> None:
    view = {"sample_rates": [4e6], "bandwidths": [1e6], "short_share": 0, "activity": [0.5, 0.5]}
    plan = load_plan(write_plan(view=view, recipe="small"))
    samples = [s for part, _ in Synthesizer(plan, 0, "train", technology("bursts")).samples(0, 8) for s in part]
    for sample in samples:
        noise, (box,) = sample.record["noise"], sample.record["emissions"]
        assert sample.clean is not None
        power, clean = (10 ** (np.asarray(p[0], float) / 10) for p in (sample.spectrogram, sample.clean))
        # Outside the box in time nothing but noise is there; the picture is relative to the noisy capture's power.
        rate, share = sample.record["sample_rate"], box["stop"] / sample.record["duration"]
        quiet = slice(int(share * 64) + 2, 63)
        total = noise["signal_power"] * share + noise["noise_power"]
        assert power[:, quiet].mean() == pytest.approx(noise["noise_power"] / total, rel=0.05)
        assert clean[:, quiet].max() <= 10 ** (-3.9)
        occupied = (box["high"] - box["low"]) / rate
        ratio = noise["signal_power"] / (noise["noise_power"] * occupied)
        assert 10 * np.log10(ratio) == pytest.approx(sample.record["snr_db"], abs=1e-6)


def test_classes_are_balanced_and_splits_share_nothing(made: tuple[str, Path]) -> None:
    dataset = SpectrogramDataset(made[1])
    records = [dataset.record(i) for i in range(len(dataset))]
    splits = [r["waveform"].split("/")[0] for r in records]
    classes = Counter(
        (split, r["technology"], r["snr_db"], r["mobility"]) for split, r in zip(splits, records, strict=True)
    )
    assert len(classes) == 2 * 2 * 4
    assert {key[0]: count for key, count in classes.items()} == {"train": 2, "test": 1}
    assert len(set(classes.values())) == 2
    draws = {
        split: {r["channel"]["draw"]["index"] for s, r in zip(splits, records, strict=True) if s == split}
        for split in ("train", "test")
    }
    assert draws["train"].isdisjoint(draws["test"])
    assert all(r["channel"]["name"].startswith(f"{s}/") for s, r in zip(splits, records, strict=True))


def test_technologies_are_seen_alike(write_plan: Callable[..., str]) -> None:
    plan = load_plan(write_plan(view={"bandwidths": [1e6], "activity": [0.3, 0.9]}))
    views = [
        [Synthesizer(plan, 0, "train", technology(name)).waveform(w).view for w in range(6)]
        for name in ("bursts", "tone")
    ]
    assert views[0] == views[1]
    assert len(set(views[0])) == 6


def test_rejected_draws_are_counted_and_drawn_again(write_plan: Callable[..., str], tmp_path: Path) -> None:
    plan = write_plan(view={"bandwidths": [1e6], "activity": [0.8, 1.0]}, samples={"train": 40})
    folder = generate(plan, str(tmp_path / "out"), workers=0)
    rejected = {e.technology: 0 for e in Manifest.load(folder).shards}
    for entry in Manifest.load(folder).shards:
        rejected[entry.technology] += entry.rejected
    assert rejected["tone"] == 0
    assert rejected["bursts"] > 3
    dataset = SpectrogramDataset(folder, where='technology == "bursts"')
    assert len(dataset) == 40
    assert dataset.values["activity"].max() <= 0.9


def test_a_plan_that_no_draw_meets_is_an_error(write_plan: Callable[..., str], tmp_path: Path) -> None:
    plan = write_plan(view={"bandwidths": [1e6], "activity": [0.95, 1.0]})
    with pytest.raises(ConfigError, match=r"200 draws of bursts in a row were rejected .*clause 1\.2\.3"):
        generate(plan, str(tmp_path / "out"), workers=0)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_resumed_gives_the_same_files(
    made: tuple[str, Path], tmp_path: Path, environment: dict[str, str], how: signal.Signals
) -> None:
    plan, whole = made
    out = tmp_path / "out"
    command = [sys.executable, "-m", "lwm.cli", "generate", "--config", plan, "--out", str(out), "--seed", "3"]
    process = subprocess.Popen(
        [*command, "--workers", "1"],
        env=environment | {"BURSTS_SLEEP": "0.3"},
        stderr=subprocess.PIPE,
        text=True,
        # A suite that runs in the background of a shell hands on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.h5"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(how)
    _, said = process.communicate(timeout=30)
    assert process.returncode == (130 if how == signal.SIGINT else -9), said
    assert 2 <= len(list(out.glob("*.h5"))) < 6
    if how == signal.SIGINT:
        assert "run the same command again (with --resume" in said
        assert list(out.glob(".*")) == []
        assert (
            len(Manifest.load(out, incomplete=True).shards) >= 1
        )  # the last shard may be on the disk before the run has heard of it
    with pytest.raises(DatasetError, match="not complete"):
        SpectrogramDataset(out)
    with pytest.raises(OutputError, match="--resume or --overwrite"):
        generate(plan, str(out), seed=3, workers=0)
    generate(plan, str(out), workers=0, resume=True)
    assert _hashes(out) == _hashes(whole)
    assert check_dataset(out) == []


def test_resuming_makes_changed_shards_again_and_keeps_the_rest(
    made: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    plan, folder = made
    before = _hashes(folder)
    broken, kept = (folder / name for name in sorted(before)[:2])
    content = bytearray(broken.read_bytes())
    content[-1] ^= 1
    broken.write_bytes(content)
    stamp = kept.stat().st_mtime_ns
    generate(plan, str(folder), workers=0, resume=True)
    assert _hashes(folder) == before
    assert check_dataset(folder) == []
    assert kept.stat().st_mtime_ns == stamp
    assert f"{broken} is not what was written" in capsys.readouterr().out


def test_resuming_another_plan_or_seed_is_refused(made: tuple[str, Path], write_plan: Callable[..., str]) -> None:
    plan, folder = made
    with pytest.raises(DatasetError, match=r"another seed \(3 against 4\).*--overwrite"):
        generate(plan, str(folder), seed=4, workers=0, resume=True)
    with pytest.raises(DatasetError, match=r"another plan \(samples_per_waveform 2 against 4\)"):
        generate(write_plan(samples_per_waveform=4), str(folder), seed=3, workers=0, resume=True)


def test_resuming_what_is_no_data_set_is_refused(write_plan: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(DatasetError, match=r"holds no manifest\.json"):
        generate(write_plan(), str(tmp_path / "out"), workers=0, resume=True)


def test_overwrite_replaces_a_data_set_and_nothing_else(made: tuple[str, Path], tmp_path: Path) -> None:
    plan, folder = made
    before = _hashes(folder)
    generate(plan, str(folder), seed=5, samples=4, workers=0, overwrite=True)
    assert set(_hashes(folder)) < set(before)
    assert Manifest.load(folder).count == 4  # in the plan's proportions: 1.33 and 0.67 of each technology
    (tmp_path / "other").mkdir()
    precious = tmp_path / "other" / "thesis.txt"
    precious.write_text("precious")
    with pytest.raises(OutputError, match="delete it yourself"):
        generate(plan, str(tmp_path / "other"), workers=0, overwrite=True)
    assert precious.read_text() == "precious"


@pytest.mark.parametrize(
    ("cause", "workers", "message"),
    [
        ("BURSTS_FAIL", 0, r"shard bursts-train-00000.h5 .*failed with ValueError: no symbols left"),
        ("BURSTS_FAIL", 1, r"shard bursts-train-00000.h5 .*failed with ValueError: no symbols left"),
        ("BURSTS_DIE", 1, r"shard bursts-train-00000.h5 .*3 worker processes died over it \(the last: exit code 3\)"),
    ],
)
def test_a_failing_sample_or_worker_is_an_error(
    write_plan: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cause: str,
    workers: int,
    message: str,
) -> None:
    monkeypatch.setenv(cause, "1")
    with pytest.raises(LWMError, match=message) as caught:
        generate(write_plan(), str(tmp_path / "out"), workers=workers)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]
    with pytest.raises(DatasetError, match="not complete"):
        Manifest.load(tmp_path / "out")


def test_full_disk_is_one_line_and_leaves_no_part_of_a_shard(write_plan: Callable[..., str], tmp_path: Path) -> None:
    plan = write_plan()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"no space left to write .*bursts-train-00000\.h5; free some space"):
            generate(plan, str(tmp_path / "out"), workers=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]


def test_a_disk_that_is_too_small_is_seen_before_the_start(
    write_plan: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"0\.00 GB of free space; expected 0\.00 GB for 24 samples"):
        generate(write_plan(), str(tmp_path / "out"), workers=0)
    assert not (tmp_path / "out").exists()


def test_shards_hold_whole_waveforms(write_plan: Callable[..., str]) -> None:
    plan = load_plan(write_plan(samples_per_waveform=3, samples_per_shard=8, samples={"train": 14}))
    counts = [(task.first, task.count) for task in shard_tasks(Path("x"), plan, 0) if task.technology == "tone"]
    assert counts == [(0, 6), (6, 6), (12, 2)]


@pytest.mark.parametrize("options", [{"workers": -1}, {"seed": -1}, {"resume": True, "overwrite": True}])
def test_impossible_options(write_plan: Callable[..., str], tmp_path: Path, options: dict) -> None:
    with pytest.raises(ConfigError, match="expected workers and seed of 0 or more"):
        generate(write_plan(), str(tmp_path / "out"), **options)


def test_a_dry_run_says_what_it_will_cost_and_writes_nothing(
    write_plan: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, out = write_plan(), tmp_path / "out"
    generate(plan, str(out), seed=3, workers=2, dry_run=True)
    said = capsys.readouterr().out
    assert not out.exists()
    assert "24 samples in 6 shards of up to 4; nothing is written" in said
    assert "4 classes in each: 2 SNR x 2 mobility" in said
    assert "time on 2 workers: " in said
    (others,) = (line for line in said.splitlines() if line.startswith("time on other"))
    assert [part.split(":")[0] for part in others.split(": ", 1)[1].split("; ")] == ["1", "4", "6"]
    assert "until a worker is at work (imports, tables) and " in said
    found = estimate(shard_tasks(out, load_plan(plan), 3), seconds=0.2)
    made = generate(plan, str(out), seed=3, workers=0)
    real = sum(entry.bytes for entry in Manifest.load(made).shards)
    assert found.bytes == pytest.approx(real, rel=0.1)
    fixed = found.start_seconds + found.finish_seconds
    assert found.start_seconds > 0.5  # a process of its own imports everything
    assert found.finish_seconds > 0.01
    assert found.seconds(1) - fixed == pytest.approx(2 * (found.seconds(2) - fixed), rel=1e-6)
