"""The pool of processes: dead ones are replaced, their tasks begun again, and nobody outlives the parent."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from lwm.data.workers import MOST_DEATHS, Finished, Made, exit_name, run_tasks
from lwm.errors import ConfigError, DatasetError

MODULE = '''
import os, signal, sys, time
from pathlib import Path
from lwm.errors import ConfigError

def square(task, report):
    """The first ``deaths`` times the process dies; every beginning is a line of the log."""
    number, deaths, log = task
    report(2)
    with open(log, "a") as file:
        file.write(f"{number}\\n")
    if Path(log).read_text().split().count(str(number)) <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    report(1)
    return number * number

def refuse(task, report):
    raise ConfigError(f"task {task}", "another")

def endless(task, report):
    Path(task).write_text(str(os.getpid()))
    time.sleep(60)

if __name__ == "__main__":
    import lwm_test_tasks
    from lwm.data.workers import run_tasks
    list(run_tasks(lwm_test_tasks.endless, [sys.argv[1]], 1))
'''


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Functions that a spawned process can import."""
    (tmp_path / "lwm_test_tasks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("lwm_test_tasks", None)
    return importlib.import_module("lwm_test_tasks")


def test_a_dead_workers_task_is_done_again_and_counted_once(functions: ModuleType, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    tasks = [(number, 1 if number == 1 else 0, log) for number in range(4)]
    events = list(run_tasks(functions.square, tasks, 2))
    assert {e.task: e.result for e in events if isinstance(e, Finished)} == {0: 0, 1: 1, 2: 4, 3: 9}
    assert sum(e.samples for e in events if isinstance(e, Made)) == 4 * 3
    assert -2 in [e.samples for e in events if isinstance(e, Made)]
    assert sorted(Path(log).read_text().split()) == ["0", "1", "1", "2", "3"]


def test_a_task_that_kills_every_worker_is_named(functions: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"\(7, 99, .*3 worker processes died over it \(the last: SIGKILL\).*memory"):
        list(run_tasks(functions.square, [(7, 99, str(tmp_path / "log"))], 1))
    assert len((tmp_path / "log").read_text().splitlines()) == MOST_DEATHS


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_ours_passes_as_it_is(functions: ModuleType, workers: int) -> None:
    with pytest.raises(ConfigError, match="task 5; expected another"):
        list(run_tasks(functions.refuse, [5], workers))


def test_workers_end_with_a_killed_parent(functions: ModuleType, tmp_path: Path) -> None:
    said = tmp_path / "pid"
    assert functions.__file__ is not None
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    parent = subprocess.Popen([sys.executable, functions.__file__, str(said)], env=environment)
    _wait_until(lambda: said.is_file() and said.read_text() != "")
    worker = int(said.read_text())
    os.kill(worker, 0)
    parent.kill()
    parent.wait()
    _wait_until(lambda: not _runs(worker))


def _runs(pid: int) -> bool:
    """Whether a process is there and more than a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_names_of_exits() -> None:
    assert exit_name(-signal.SIGKILL) == "SIGKILL"
    assert exit_name(3) == "exit code 3"
