"""``--overwrite`` and ``--resume``: what they may delete, when, and what they leave alone."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lwm.data import generation
from lwm.data.estimate import estimate, iq_bytes
from lwm.data.generation import generate
from lwm.data.journal import FILE_NAME as JOURNAL
from lwm.data.manifest import Manifest, package_versions
from lwm.data.plan import load_plan
from lwm.data.replacement import remove_dataset, require_replaceable
from lwm.data.shard_task import shard_tasks
from lwm.errors import ConfigError, DatasetError, LWMError, OutputError


def _content(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def made(write_plan: Callable[..., str], tmp_path: Path) -> tuple[str, Path]:
    """A plan and what it gives."""
    plan = write_plan()
    return plan, generate(plan, str(tmp_path / "made"), workers=0)


def test_a_manifest_of_something_else_is_not_overwritten(write_plan: Callable[..., str], tmp_path: Path) -> None:
    out = tmp_path / "webapp"
    out.mkdir()
    (out / "manifest.json").write_text(json.dumps({"name": "An app", "icons": []}))
    (out / "thesis.txt").write_text("precious")
    before = _content(out)
    with pytest.raises(OutputError, match=r"no data set that can be overwritten .*format version None.*yourself"):
        generate(write_plan(), str(out), workers=0, overwrite=True)
    assert _content(out) == before


@pytest.mark.parametrize("strange", ["thesis.txt", "notes/a.txt", ".git/config", "more-train-00000.h5"])
def test_what_the_data_set_does_not_own_is_named_and_kept(made: tuple[str, Path], strange: str) -> None:
    plan, out = made
    (out / strange).parent.mkdir(exist_ok=True)
    (out / strange).write_text("precious")
    before = _content(out)
    with pytest.raises(OutputError, match=rf"holds {strange.split('/')[0]} beside its data set.*move it elsewhere"):
        generate(plan, str(out), workers=0, overwrite=True)
    assert _content(out) == before


def test_all_that_an_interrupted_run_leaves_is_owned(made: tuple[str, Path]) -> None:
    _, out = made
    manifest = Manifest.load(out)
    noted, unnoted = manifest.shards.pop(), manifest.shards.pop()
    manifest.complete = False
    manifest.save(out)
    (out / JOURNAL).write_text(json.dumps(noted.__dict__) + "\n")
    (out / ".x.h5.host-1-abc.partial").touch()
    assert {noted.name, unnoted.name} < {path.name for path in require_replaceable(out)}
    remove_dataset(out)
    assert list(out.iterdir()) == []


def test_a_deletion_cut_short_can_be_done_again(
    made: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = made
    wanted, unlink, removed = _content(out), Path.unlink, []

    def cut(path: Path, missing_ok: bool = False) -> None:
        if path.parent == out and not path.name.startswith("."):
            if len(removed) == stop:
                raise KeyboardInterrupt
            removed.append(path.name)
        unlink(path, missing_ok)

    for stop in range(len(wanted)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            removed.clear()
            patch.setattr(Path, "unlink", cut)
            remove_dataset(out)
        assert len(list(out.iterdir())) == len(wanted) - stop
        require_replaceable(out)
        if stop == len(wanted) - 1:
            assert [path.name for path in out.iterdir()] == ["manifest.json"]
        generate(plan, str(out), workers=0, overwrite=True) if stop in (1, len(wanted) - 1) else restore(out, wanted)
        assert _content(out) == wanted


def restore(folder: Path, content: dict[str, bytes]) -> None:
    """Put files back."""
    for name, image in content.items():
        (folder / name).write_bytes(image)


def test_a_temporary_file_alone_bars_nobody(made: tuple[str, Path], tmp_path: Path) -> None:
    plan, whole = made
    for number, options in enumerate(({}, {"resume": True}, {"overwrite": True})):
        out = tmp_path / str(number) / "made"
        out.mkdir(parents=True)
        (out / ".manifest.json.99.partial").write_text("{")
        generate(plan, str(out), workers=0, **options)
        assert _content(out) == _content(whole)


@pytest.mark.parametrize(
    ("message", "plan", "options"),
    [
        ("no Dask scheduler answers", {}, {"scheduler": "nonsense"}),
        ("200 draws of bursts in a row", {"view": {"bandwidths": [1e6], "activity": [0.95, 1.0]}}, {}),
        ("free space", {"samples": {"train": 10**12}, "samples_per_shard": 10**12}, {}),
        ("hdf5plugin, which is not installed", {"storage": {"compression": "zstd"}}, {}),
    ],
)
def test_the_old_data_set_stays_until_the_new_one_can_be_made(
    made: tuple[str, Path],
    write_plan: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    message: str,
    plan: dict,
    options: dict,
) -> None:
    if "scheduler" in options:
        pytest.importorskip("distributed")
    if "storage" in plan:
        monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    before = _content(made[1])
    with pytest.raises(LWMError, match=message):
        generate(write_plan(**plan), str(made[1]), workers=0, overwrite=True, **options)
    assert _content(made[1]) == before


def test_resuming_with_other_versions_is_refused_while_something_is_missing(
    made: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = made
    ours = package_versions()
    monkeypatch.setattr(generation, "package_versions", lambda: ours | {"numpy": "0.9"})
    generate(plan, str(out), workers=0, resume=True)
    (out / "tone-test-00000.h5").unlink()
    before = _content(out)
    with pytest.raises(DatasetError, match=rf"versions \(numpy {ours['numpy']} against 0\.9\).*--overwrite"):
        generate(plan, str(out), workers=0, resume=True)
    assert _content(out) == before


def test_resuming_what_is_complete_changes_nothing(
    made: tuple[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = made
    stamps = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.iterdir()}
    capsys.readouterr()
    generate(plan, str(out), workers=0, resume=True)
    assert "is complete: 24 samples in 6 shards, none damaged; nothing was changed" in capsys.readouterr().out
    assert {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.iterdir()} == stamps
    before = _content(out)
    (out / "README.md").unlink()
    generate(plan, str(out), workers=0, resume=True)
    assert _content(out) == before


def test_space_is_asked_for_what_is_missing_and_for_iq(
    write_plan: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 24 samples: two pictures of 64 x 64 half-precision numbers and 16 ms of IQ at 2 MHz, two half-precision numbers.
    each = 2 * 64 * 64 * 2 + 32_000 * 2 * 2
    plan = write_plan(storage={"iq": True}, view={"sample_rates": [2e6], "bandwidths": [1e6], "short_share": 0})
    out = tmp_path / "out"
    usage = type("usage", (), {"free": 0.99 * 24 * each})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match="for 24 samples"):
        generate(plan, str(out), workers=0)
    usage.free *= 1.02
    generate(plan, str(out), workers=0)
    (out / "tone-test-00000.h5").unlink()
    usage.free = 0.99 * 4 * each
    with pytest.raises(OutputError, match="for 4 samples"):
        generate(plan, str(out), workers=0, resume=True)
    usage.free *= 1.02
    generate(plan, str(out), workers=0, resume=True)
    usage.free = 0
    generate(plan, str(out), workers=0, overwrite=True)


def test_expected_length_of_iq_is_that_of_drawn_views(write_plan: Callable[..., str]) -> None:
    plan = load_plan(write_plan(storage={"iq": True, "iq_dtype": "float32"}, samples_per_shard=6))
    rng = np.random.default_rng(2)
    drawn = [plan.view.draw(rng, plan.read_recipe().duration) for _ in range(3 * 4000)]
    lengths = np.array([view.sample_rate * view.duration for view in drawn]).reshape(-1, 3).max(1)
    error = lengths.std() / np.sqrt(len(lengths)) / lengths.mean()
    assert error < 0.01
    assert iq_bytes(plan) == pytest.approx(8 * lengths.mean(), rel=4 * error)
    assert iq_bytes(load_plan(write_plan())) == 0


def test_the_estimate_knows_iq(write_plan: Callable[..., str], tmp_path: Path) -> None:
    plan = write_plan(storage={"iq": True}, view={"sample_rates": [2e6], "bandwidths": [1e6], "short_share": 0})
    tasks = shard_tasks(tmp_path / "out", load_plan(plan), 0)
    root = generate(plan, str(tmp_path / "out"), workers=0)
    found = estimate(tasks, seconds=0.1)
    assert found.bytes == pytest.approx(sum(entry.bytes for entry in Manifest.load(root).shards), rel=0.05)


def test_a_folder_is_demanded_by_what_writes(write_plan: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match="generate without --out; expected a folder to make"):
        generate(write_plan(), workers=0)
