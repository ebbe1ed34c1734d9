"""Faults that a generation survives: killed processes, a full disk, damaged shards, two runs in one folder."""

import errno
import fcntl
import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from lwm.data.generation import generate
from lwm.data.journal import Journal
from lwm.data.lock import FILE_NAME as LOCK
from lwm.data.lock import folder_lock
from lwm.data.manifest import Manifest
from lwm.data.plan import load_plan
from lwm.data.shard import ShardReader
from lwm.data.shard_task import make_shard, shard_tasks
from lwm.errors import OutputError

PLAN = {
    "technologies": ["bursts", "tone"],
    "recipe": "small",
    "samples": {"train": 16, "test": 8},
    "samples_per_waveform": 2,
    "samples_per_shard": 2,
    "view": {"sample_rates": [1.0e6], "bandwidths": [1.0e6]},
    "channel": {"draws": {"train": 3, "test": 2}, "snr_db": [0, 20], "mobility": ["static", "vehicular"]},
}


def _content(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(technologies: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A plan of 24 shards and the folder that it gives undisturbed."""
    plan = tmp_path_factory.mktemp("plan") / "plan.yaml"
    plan.write_text(yaml.safe_dump(PLAN))
    return str(plan), generate(str(plan), str(tmp_path_factory.mktemp("whole") / "out"), seed=3, workers=0)


@pytest.fixture
def whole(undisturbed: tuple[str, Path], tmp_path: Path) -> tuple[str, dict[str, bytes]]:
    """The plan and the files that it gives; copies are in ``whole/out``, a name that the card holds."""
    plan, folder = undisturbed
    shutil.copytree(folder, tmp_path / "whole" / "out")
    return plan, _content(folder)


def _run_to_be_killed(plan: str, out: str, resume: bool) -> None:
    os.setsid()
    generate(plan, out, seed=3, workers=0, resume=resume)


def test_killed_runs_lose_one_shard_at_most_and_end_alike(
    whole: tuple[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, wanted = whole
    monkeypatch.setenv("BURSTS_SLEEP", "0.01")
    out = tmp_path / "out"
    moments = np.random.default_rng(4).uniform(0.02, 0.35, 8)
    before: dict[str, int] = {}
    killed = []
    for moment in moments:
        # A fork, for it needs no second to import everything; it leads a group of its own.
        child = multiprocessing.get_context("fork").Process(
            target=_run_to_be_killed, args=(plan, str(out), out.exists() and any(out.iterdir()))
        )
        child.start()
        child.join(float(moment))
        if child.is_alive():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        killed.append(child.exitcode == -signal.SIGKILL)
        there = {path.name: path.stat().st_ino for path in out.glob("*.h5")}
        # A shard that was made again is a new file; only the one that no line had been written for may be.
        assert sum(there.get(name) != inode for name, inode in before.items()) <= 1
        before = there
    assert sum(killed) >= 4
    generate(plan, str(out), seed=3, workers=0, resume=True)
    assert _content(out) == wanted


def test_killed_workers_change_nothing(
    whole: tuple[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, wanted = whole
    monkeypatch.setenv("BURSTS_SLEEP", "0.1")
    out = tmp_path / "out"
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        for moment in np.random.default_rng(5).uniform(0.05, 0.5, 2):
            # Not before the workers are at it: imports take longer than the rest.
            while len(list(out.glob("*.h5"))) < 2 * len(killed) + 1 and not over.is_set():
                time.sleep(0.01)
            over.wait(float(moment))
            for child in multiprocessing.active_children()[:1]:
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)
                killed.append(child.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    generate(plan, str(out), seed=3, workers=2)
    over.set()
    thread.join()
    assert len(killed) == 2
    assert _content(out) == wanted


def test_a_killed_group_leaves_nothing_that_bars_the_next_run(
    whole: tuple[str, dict[str, bytes]], tmp_path: Path, environment: dict[str, str]
) -> None:
    plan, wanted = whole
    out = tmp_path / "out"
    words = ["generate", "--config", plan, "--out", str(out), "--seed", "3", "--workers", "2"]
    run = subprocess.Popen(
        [sys.executable, "-m", "lwm.cli", *words],
        env=environment | {"BURSTS_SLEEP": "0.1"},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.h5"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    # While it is at work, nobody else may be.
    with pytest.raises(OutputError, match=rf"another run is writing to .*process {run.pid} on {socket.gethostname()}"):
        generate(plan, str(out), seed=3, workers=0, resume=True)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert (out / LOCK).is_file()
    known = {entry.name for entry in Journal(out).read()}
    assert len(known) >= 2
    stamps = {name: (out / name).stat().st_ino for name in known}
    generate(plan, str(out), seed=3, workers=0, resume=True)
    assert _content(out) == wanted
    assert {name: (out / name).stat().st_ino for name in known} == stamps


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 150 kB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=150k", "lwm-test", str(folder)]
    tried = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("mount") else None
    if tried is None or tried.returncode:
        pytest.skip(f"no file system can be mounted here: {tried.stderr.strip() if tried else 'no mount command'}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_what_is_finished(
    whole: tuple[str, dict[str, bytes]], small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, wanted = whole
    out = small_disk / "out"
    with pytest.raises(OutputError, match=r"has 0\.00 GB of free space"):
        generate(plan, str(out), seed=3, workers=0)
    # Something else fills the disk after the run has begun.
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 10**12}))
    with pytest.raises(OutputError, match=r"no space left to write .*; free some space and run again"):
        generate(plan, str(out), seed=3, workers=0)
    finished = {name: content for name, content in _content(out).items() if name.endswith(".h5")}
    assert 1 <= len(finished) < 24
    assert all(wanted[name] == content for name, content in finished.items())
    assert not list(out.glob("*.partial")) + list(out.glob(".*.partial"))
    with pytest.raises(OutputError, match="no space left"):
        generate(plan, str(out), seed=3, workers=0, resume=True)
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    stamps = {name: (out / name).stat().st_ino for name in finished}
    generate(plan, str(out), seed=3, workers=0, resume=True)
    assert _content(out) == wanted
    assert sum((out / name).stat().st_ino != stamp for name, stamp in stamps.items()) <= 1


def test_a_file_size_limit_keeps_what_is_finished(write_plan: Callable[..., str], tmp_path: Path) -> None:
    plan = write_plan(samples={"train": 2, "test": 8}, samples_per_shard=8)
    wanted = _content(generate(plan, str(tmp_path / "whole" / "out"), workers=0))
    small, large = (len(wanted[f"bursts-{split}-00000.h5"]) for split in ("train", "test"))
    out = tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((small + large) // 2, before[1]))
    try:
        with pytest.raises(OutputError, match=r"no space left to write .*bursts-test-00000\.h5; free some space"):
            generate(plan, str(out), workers=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    shards = [name for name in _content(out) if name.endswith(".h5")]
    assert sorted(shards) == ["bursts-train-00000.h5", "tone-train-00000.h5"]
    assert [entry.name for entry in Manifest.load(out, incomplete=True).shards] == sorted(shards)
    generate(plan, str(out), workers=0, resume=True)
    assert _content(out) == wanted


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_flip, "its SHA-256 differs"),
        (lambda path: os.truncate(path, 1000), "1000 bytes instead of"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_a_damaged_shard_is_named_and_made_again(
    whole: tuple[str, dict[str, bytes]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    said: str,
) -> None:
    plan, wanted = whole
    out = tmp_path / "whole" / "out"
    stamps = {name: (out / name).stat().st_mtime_ns for name in wanted if name.endswith(".h5")}
    broken = "bursts-train-00001.h5"
    damage(out / broken)
    generate(plan, str(out), workers=0, resume=True)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("note:"))
    assert broken in line
    assert said in line
    assert _content(out) == wanted
    assert [name for name, stamp in stamps.items() if (out / name).stat().st_mtime_ns != stamp] == [broken]


def test_the_order_of_shards_and_their_size_change_no_sample(write_plan: Callable[..., str], tmp_path: Path) -> None:
    found = {}
    for size in (2, 8):
        plan = load_plan(write_plan(samples_per_shard=size))
        root = tmp_path / str(size)
        tasks = shard_tasks(root, plan, 3)
        samples = {}
        for task in tasks if size == 8 else tasks[::-1]:
            entry = make_shard(task, lambda count: None)
            shard = ShardReader(root / entry.name, entry)
            pictures = shard.read(np.arange(entry.count))
            named = {label: np.array(names)[codes] for label, (codes, names) in shard.labels.items()}
            for row, record in enumerate(shard.records()):
                key = (task.technology, task.split, task.first + row)
                samples[key] = (pictures[row].tobytes(), record, {label: str(n[row]) for label, n in named.items()})
        found[size] = (len(tasks), samples)
    assert found[2][0] == 12
    assert found[8][0] == 4
    assert len(found[2][1]) == 24
    assert found[2][1] == found[8][1]


def test_one_run_at_a_time(whole: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    plan, _ = whole
    out = tmp_path / "out"
    with folder_lock(out):
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputError, match=rf"\(process {os.getpid()} on {socket.gethostname()} since .*wait"):
                generate(plan, str(out), workers=0, **options)
        assert [path.name for path in out.iterdir()] == [LOCK]
    assert not out.exists()


def test_a_lock_without_a_run_bars_nobody(whole: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    plan, wanted = whole
    out = tmp_path / "out"
    out.mkdir()
    # Killed after it had taken the lock and before it wrote anything; the process of that number runs.
    (out / LOCK).write_text(json.dumps({"pid": os.getppid(), "host": socket.gethostname(), "since": "yesterday"}))
    generate(plan, str(out), seed=3, workers=0)
    assert _content(out) == wanted


@pytest.mark.parametrize(
    ("pid", "host", "free"), [("running", "here", False), ("gone", "here", True), ("gone", "elsewhere", False)]
)
def test_without_locks_the_process_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: str, host: str, free: bool
) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    gone = subprocess.Popen(["true"])
    gone.wait()
    monkeypatch.setattr(fcntl, "flock", refuse)
    holder = {"pid": os.getpid() if pid == "running" else gone.pid, "since": "now"}
    holder["host"] = socket.gethostname() if host == "here" else "elsewhere"
    (tmp_path / LOCK).write_text(json.dumps(holder))
    if free:
        with folder_lock(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    else:
        with pytest.raises(OutputError, match=f"process {holder['pid']} on {holder['host']}"), folder_lock(tmp_path):
            pass


def test_a_line_cut_off_is_no_shard(whole: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    entries = Manifest.load(tmp_path / "whole" / "out").shards
    (tmp_path / "cut").mkdir()
    journal = Journal(tmp_path / "cut")
    assert journal.read() == []
    for entry in entries[:3]:
        journal.add(entry)
    os.truncate(journal.path, journal.path.stat().st_size - 5)
    assert journal.read() == entries[:2]
    # The next line is not lost with it.
    journal.add(entries[3])
    journal.add(entries[4])
    assert journal.read() == [*entries[:2], *entries[3:5]]
