"""A pool of processes that says how far each task is, ends at once when told to, and never loses a task in silence."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import torch
from threadpoolctl import threadpool_limits

from lwm.errors import DatasetError, LWMError

Report = Callable[[int], None]
"""Called by a task with the number of samples it has just made."""


class Finished(NamedTuple):
    """A task's number and what it returned."""

    task: int
    result: Any


class Made(NamedTuple):
    """Samples that some task has just made."""

    samples: int


def run_tasks(function: Callable[[Any, Report], Any], tasks: Sequence[Any], workers: int) -> Iterator[Finished | Made]:
    """Call ``function(task, report)`` for every task and yield its result, and progress on the way.

    Args:
        function: importable by name (the processes are spawned).
        tasks: picklable arguments.
        workers: processes; 0 runs everything here, one after the other.

    Raises:
        LWMError: what a task raised.
        DatasetError: a task failed otherwise or its process died; the note says where.
    """
    if workers == 0:
        yield from _run_here(function, tasks)
        return
    context = multiprocessing.get_context("spawn")
    waiting = list(range(len(tasks)))[::-1]
    running: dict[Connection, tuple[Any, int]] = {}
    processes = []
    try:
        with _one_thread_each(), _deaf_to_interrupts():
            for _ in range(min(workers, len(tasks))):
                here, there = context.Pipe()
                process = context.Process(target=_work, args=(function, there), daemon=True)
                process.start()
                there.close()
                processes.append(process)
                number = waiting.pop()
                _send(here, process, tasks[number])
                running[here] = (process, number)
        while running:
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                process, number = running[ready]
                message = _receive(ready, process)
                if isinstance(message, Made):
                    yield message
                    continue
                if waiting:
                    following = waiting.pop()
                    _send(ready, process, tasks[following])
                    running[ready] = (process, following)
                else:
                    del running[ready]
                    ready.close()
                yield Finished(number, message)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _died(process: Any) -> DatasetError:
    process.join()
    return DatasetError(
        f"a worker process died (exit code {process.exitcode})",
        "it to end its task",
        "run again with --resume, and with fewer --workers if memory was short",
    )


def _send(connection: Connection, process: Any, task: Any) -> None:
    try:
        connection.send(task)
    except BrokenPipeError:
        raise _died(process) from None


def _receive(connection: Connection, process: Any) -> Any:
    try:
        message = connection.recv()
    except (EOFError, ConnectionResetError):
        raise _died(process) from None
    if isinstance(message, BaseException):
        raise message
    return message


def _work(function: Callable[[Any, Report], Any], connection: Connection) -> None:
    """What a worker process does until its connection closes."""
    torch.set_num_threads(1)
    try:
        while True:
            task = connection.recv()
            connection.send(_guarded(function, task, lambda count: connection.send(Made(count))))
    except (EOFError, BrokenPipeError):
        return


def _guarded(function: Callable[[Any, Report], Any], task: Any, report: Report) -> Any:
    """The task's result, or its error made fit to travel."""
    try:
        return function(task, report)
    except (EOFError, BrokenPipeError):
        raise
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
                result = _guarded(function, task, made.append)
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
