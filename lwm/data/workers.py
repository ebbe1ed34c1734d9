"""A pool of processes that says how far each task is, ends at once when told to, and never loses a task."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import torch
from threadpoolctl import threadpool_limits

from lwm.errors import DatasetError, LWMError

Report = Callable[[int], None]
"""Called by a task with the number of samples it has just made."""


MOST_DEATHS = 3
"""Processes that may die over one task before the run gives up."""


class Finished(NamedTuple):
    """A task's number and what it returned."""

    task: int
    result: Any


class Made(NamedTuple):
    """Samples that some task has just made; negative where they were lost with their process."""

    samples: int


def run_tasks(function: Callable[[Any, Report], Any], tasks: Sequence[Any], workers: int) -> Generator[Finished | Made]:
    """Call ``function(task, report)`` for every task and yield its result, and progress on the way.

    A process that dies is replaced and its task begun again; what it had reported is taken back (a negative
    :class:`Made`).

    Args:
        function: importable by name (the processes are spawned).
        tasks: picklable arguments.
        workers: processes; 0 runs everything here, one after the other.

    Raises:
        LWMError: what a task raised.
        DatasetError: a task failed otherwise, or :data:`MOST_DEATHS` processes died over it.
    """
    if workers == 0:
        yield from _run_here(function, tasks)
        return
    pool = _Pool(function, tasks)
    try:
        for _ in range(min(workers, len(tasks))):
            pool.start()
        while pool.running:
            for ready in wait(list(pool.running)):
                assert isinstance(ready, Connection)
                yield from pool.hear(ready)
    finally:
        pool.stop()


@dataclass
class _Worker:
    """A process, the number of the task it is at, and how many samples of it have been reported."""

    process: Any
    task: int
    made: int = 0


class _Pool:
    """Processes and what is left for them to do."""

    def __init__(self, function: Callable[[Any, Report], Any], tasks: Sequence[Any]) -> None:
        self.function, self.tasks = function, tasks
        self.waiting = deque(range(len(tasks)))
        self.running: dict[Connection, _Worker] = {}
        self.deaths: Counter[int] = Counter()
        self._processes: list[Any] = []

    def start(self) -> None:
        """One more process, at the next task."""
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        with _one_thread_each(), _deaf_to_interrupts():
            process = context.Process(target=_work, args=(self.function, there), daemon=True)
            process.start()
        there.close()
        self._processes.append(process)
        self._give(here, process)

    def hear(self, connection: Connection) -> Iterator[Finished | Made]:
        """What a process that has something to say says, or the consequences of its death."""
        worker = self.running[connection]
        try:
            message = connection.recv()
        except (EOFError, ConnectionResetError):
            yield from self._replace(connection, worker)
            return
        if isinstance(message, BaseException):
            raise message
        if isinstance(message, Made):
            worker.made += message.samples
            yield message
            return
        del self.running[connection]
        yield Finished(worker.task, message)
        if self.waiting:
            self._give(connection, worker.process)
        else:
            connection.close()

    def stop(self) -> None:
        """End all processes, whatever they are at."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()

    def _give(self, connection: Connection, process: Any) -> None:
        """The next task to a process; that it died meanwhile shows when it is listened to."""
        number = self.waiting.popleft()
        with suppress(BrokenPipeError):
            connection.send(self.tasks[number])
        self.running[connection] = _Worker(process, number)

    def _replace(self, connection: Connection, worker: _Worker) -> Iterator[Made]:
        """Take a dead process's task back and start another process."""
        del self.running[connection]
        connection.close()
        worker.process.join()
        self._processes.remove(worker.process)
        if worker.made:
            yield Made(-worker.made)
        self.deaths[worker.task] += 1
        if self.deaths[worker.task] >= MOST_DEATHS:
            raise died(self.tasks[worker.task], MOST_DEATHS, exit_name(worker.process.exitcode))
        self.waiting.appendleft(worker.task)
        self.start()


def died(task: Any, times: int, how: str) -> DatasetError:
    """The error for a task over which ``times`` processes died, the last with ``how``."""
    return DatasetError(
        f"{task}: {times} worker processes died over it (the last: {how})",
        "them to end it",
        "memory may be short: run again with --resume and fewer workers, or for data a smaller samples_per_shard",
    )


def exit_name(code: int | None) -> str:
    """``exit code 3``, or the signal's name where one ended the process (``SIGKILL``: often for want of memory)."""
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _work(function: Callable[[Any, Report], Any], connection: Connection) -> None:
    """What a worker process does until its connection closes."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def say(message: Any) -> None:
        try:
            connection.send(message)
        except BrokenPipeError:
            os._exit(1)  # nobody listens any more

    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        say(guarded(function, task, lambda count: say(Made(count))))


def _end_with_parent() -> None:
    """End this process when its parent does, however that ends, so that nobody writes beside the next run."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def guarded(function: Callable[[Any, Report], Any], task: Any, report: Report) -> Any:
    """The task's result, or its error made fit to travel."""
    try:
        return function(task, report)
    except LWMError as error:
        return error
    except Exception as error:  # noqa: BLE001 - whatever a technology raises must reach the parent, with its place
        failure = DatasetError(f"{task} failed with {type(error).__name__}: {error}", remedy="--debug shows where")
        failure.add_note(traceback.format_exc())
        return failure


def _run_here(function: Callable[[Any, Report], Any], tasks: Sequence[Any]) -> Iterator[Finished | Made]:
    """Everything in this process, with one thread as in a worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number, task in enumerate(tasks):
            made: list[int] = []
            with threadpool_limits(1):
                result = guarded(function, task, made.append)
            if isinstance(result, BaseException):
                raise result
            yield Made(sum(made))
            yield Finished(number, result)
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """New processes ignore Ctrl-C, which reaches their whole group: the parent alone decides what it means."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Environment in which a new process uses one thread: threads would fight, and change the last bits of sums."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
