"""The same tasks on many machines: submitted to a Dask scheduler, gathered as they end.

The machines share a file system, at the same path, and have the same versions installed. Recipes for Slurm and
Kubernetes: ``docs/cluster.md``.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from lwm.data.manifest import package_versions
from lwm.data.workers import Finished, Made, Report, died, guarded
from lwm.errors import ConfigError, DatasetError

CONNECT_SECONDS = 20.0
"""How long a scheduler may take to answer."""


def run_on_cluster(
    function: Callable[[Any, Report], Any],
    tasks: Sequence[Any],
    address: str,
    marker: Path,
    timeout: float = CONNECT_SECONDS,
) -> Iterator[Finished | Made]:
    """Call ``function(task, report)`` for every task on a Dask cluster and yield the results as they come.

    Dask gives the task of a worker that died to another one; workers may come and go. Progress comes by the task.

    Args:
        function: importable by name on the workers.
        tasks: picklable arguments.
        address: of the scheduler, for example ``tcp://10.0.0.1:8786``, or a scheduler file that workers share.
        marker: a file on the shared file system that every worker must see.
        timeout: s that the scheduler may take to answer.

    Raises:
        ConfigError: Dask is not installed, or no scheduler answers.
        LWMError: what a task raised.
        DatasetError: a task failed otherwise, a worker does not see ``marker`` or has other versions, or
            :data:`lwm.data.workers.MOST_DEATHS` workers died over one task.
    """
    client = _connect(address, timeout)
    try:
        from distributed import as_completed

        versions = package_versions()
        numbers = {}
        for number, task in enumerate(tasks):
            # Not pure: a second run must not be given the first one's results.
            future = client.submit(_do, function, task, versions, str(marker.absolute()), pure=False)
            numbers[future] = number
        for future in as_completed(list(numbers), loop=client.loop):
            number = numbers.pop(future)
            result, made = _result(future, tasks[number])
            future.release()
            yield Made(made)
            yield Finished(number, result)
    finally:
        with contextlib.suppress(OSError, TimeoutError):
            client.cancel(list(numbers), force=True)
        client.close()


def require_scheduler(address: str, timeout: float = CONNECT_SECONDS) -> None:
    """Refuse an address at which no scheduler answers within ``timeout`` seconds.

    Raises:
        ConfigError: none does, or Dask is not installed.
    """
    _connect(address, timeout).close()


def _connect(address: str, timeout: float) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError(
            f"--scheduler {address} without Dask ({error})", "Dask distributed", "pip install 'lwm[cluster]'"
        ) from error
    where: dict[str, Any] = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
    try:
        return Client(**where, timeout=timeout, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no Dask scheduler answers at {address} within {timeout:g} s ({type(error).__name__})",
            "the address of a running one, such as tcp://HOST:8786, or its scheduler file",
            "start one with dask scheduler",
        ) from error


def _result(future: Any, task: Any) -> tuple[Any, int]:
    """What a task returned and how many samples it made; its error raised."""
    from distributed import KilledWorker

    error = future.exception()
    if isinstance(error, KilledWorker):
        times = error.allowed_failures + 1
        raise died(task, times, f"at {error.last_worker.address}") from error
    if error is not None:
        raise DatasetError(
            f"{task} failed on a worker with {type(error).__name__}: {error}",
            "workers with the same lwm and technologies installed",
            "the worker's log says more",
        ) from error
    result, made = future.result()
    if isinstance(result, BaseException):
        raise result
    return result, made


def _do(function: Callable[[Any, Report], Any], task: Any, versions: dict[str, str], marker: str) -> tuple[Any, int]:
    """One task, in a thread of a worker: its result or its error, and the samples made."""
    host = f"worker {socket.gethostname()} (process {os.getpid()})"
    here = package_versions()
    if here != versions:
        other = [f"{name} {here.get(name)}" for name in versions if here.get(name) != versions[name]]
        wanted = [f"{name} {versions[name]}" for name in versions if here.get(name) != versions[name]]
        return DatasetError(f"{host} has {', '.join(other)}", f"{', '.join(wanted)} as here"), 0
    if not Path(marker).is_file():
        return DatasetError(f"{host} does not see {marker}", "a file system that all machines share"), 0
    # For good, not for the time of this task: other threads of this worker come and go meanwhile. Threads would
    # fight, and change the last bits of sums.
    torch.set_num_threads(1)
    threadpool_limits(1)
    made: list[int] = []
    return guarded(function, task, made.append), sum(made)
