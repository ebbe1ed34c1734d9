"""The same shards on a Dask cluster: two worker processes here, which share this file system."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lwm.data import cluster
from lwm.data.generation import generate
from lwm.data.plan import load_plan
from lwm.data.shard_task import make_shard, shard_tasks
from lwm.data.workers import Finished, Made
from lwm.errors import ConfigError, DatasetError


@pytest.fixture(scope="module")
def workers(technologies: Path) -> Iterator[Any]:
    """A cluster of two processes that find the made-up technologies and take their time."""
    distributed = pytest.importorskip("distributed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BURSTS_SLEEP", "0.05")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(technologies), *sys.path]))
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, worker_dashboard_address=None
        ) as started:
            yield started


def _content(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_cluster_makes_the_same_bytes_though_a_worker_is_killed(
    workers: Any, write_plan: Callable[..., str], tmp_path: Path
) -> None:
    plan = write_plan(samples_per_shard=2)
    here = generate(plan, str(tmp_path / "here" / "out"), seed=3, workers=0)
    there = tmp_path / "there" / "out"
    killed = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while len(list(there.glob("*.h5"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        killed.append(workers.workers[0].process.process.pid)
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    generate(plan, str(there), seed=3, scheduler=workers.scheduler_address)
    thread.join()
    assert len(killed) == 1
    assert _content(there) == _content(here)


def test_events_and_errors_of_a_cluster(
    workers: Any, write_plan: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = workers.scheduler_address
    marker = tmp_path / "marker"
    tasks = shard_tasks(tmp_path, load_plan(write_plan()), 3)[:2]
    with pytest.raises(DatasetError, match=r"worker .* does not see .*marker; expected a file system that all"):
        list(cluster.run_on_cluster(make_shard, tasks, address, marker))
    marker.touch()
    events = list(cluster.run_on_cluster(make_shard, tasks, address, marker))
    assert sorted(e.task for e in events if isinstance(e, Finished)) == [0, 1]
    assert sum(e.samples for e in events if isinstance(e, Made)) == sum(task.count for task in tasks)
    impossible = load_plan(write_plan(view={"bandwidths": [1e6], "activity": [0.95, 1.0]}))
    with pytest.raises(ConfigError, match="200 draws of bursts in a row were rejected"):
        list(cluster.run_on_cluster(make_shard, shard_tasks(tmp_path, impossible, 3)[:1], address, marker))
    ours = cluster.package_versions()
    monkeypatch.setattr(cluster, "package_versions", lambda: ours | {"numpy": "0.9"})
    with pytest.raises(DatasetError, match=rf"has numpy {ours['numpy']}; expected numpy 0\.9 as here"):
        list(cluster.run_on_cluster(make_shard, tasks, address, marker))


def test_no_scheduler_is_said_in_time(write_plan: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 within 1 s"):
        list(cluster.run_on_cluster(make_shard, [], "tcp://127.0.0.1:9", tmp_path, timeout=1.0))
    assert time.monotonic() - started < 10
    with pytest.raises(ConfigError, match="no Dask scheduler answers at nonsense"):
        list(cluster.run_on_cluster(make_shard, [], "nonsense", tmp_path, timeout=1.0))


def test_without_dask_it_is_said_how_to_get_it(
    write_plan: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"--scheduler tcp://a:1 without Dask .*pip install 'lwm\[cluster\]'"):
        generate(write_plan(), str(tmp_path / "out"), scheduler="tcp://a:1")
