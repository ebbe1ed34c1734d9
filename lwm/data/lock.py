"""One run at a time in a folder: the second is refused at once and told who the first is."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from lwm.errors import OutputError
from lwm.output import disk_errors

FILE_NAME = ".lock"
"""Stands in a folder while a run writes to it; says which."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
"""What ``flock`` answers on a file system without locks (some network ones)."""


@contextmanager
def folder_lock(root: Path) -> Iterator[None]:
    """Hold ``root`` for this run; the folder is made, and removed again when nothing was put into it.

    The lock is the kernel's (``flock``), which lets go of it however the run ends, ``kill -9`` included: what it left
    of the file bars nobody. It reaches over machines where the network file system carries locks (NFS does). Where
    there are none, the process that the file names is asked for, and one on another machine counts as running.

    Raises:
        OutputError: another run holds it; the message names its process and host. Or no permission, no space.
    """
    fresh = not root.exists()
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    try:
        with _hold(root / FILE_NAME, root):
            yield
    finally:
        if fresh:
            with suppress(OSError):  # not empty
                root.rmdir()


@contextmanager
def name_lock(root: Path) -> Iterator[None]:
    """Hold the name ``root`` for a run that makes the folder elsewhere and moves it there at its end.

    The lock file stands beside it; a data set that stands there already is held too, as :func:`folder_lock` does.

    Raises:
        OutputError: another run holds it, or is writing to the folder. Or no permission, no space.
    """
    with disk_errors(root):
        root.parent.mkdir(parents=True, exist_ok=True)
    with (
        _hold(root.with_name(f".{root.name}{FILE_NAME}"), root),
        # An empty folder is not held: the file would be in the way when the new one takes its place.
        _hold(root / FILE_NAME, root) if root.is_dir() and any(root.iterdir()) else nullcontext(),
    ):
        yield


@contextmanager
def _hold(path: Path, root: Path) -> Iterator[None]:
    """Hold the lock file ``path``, which stands for ``root``."""
    with disk_errors(path):
        handle = _acquire(path, root)
    try:
        with disk_errors(path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(_this_run()).encode(), 0)
        yield
    finally:
        with suppress(OSError):  # the folder may be gone, another one or read-only by now
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                path.unlink()
        os.close(handle)


def _acquire(path: Path, root: Path) -> int:
    """An open file that holds the lock."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The run before may have removed the file between our opening and our locking it.
            if os.path.exists(path) and os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise _held(path, root) from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                if not _seems_running(_holder(path)):
                    return handle
                os.close(handle)
                raise _held(path, root) from None
            os.close(handle)
            raise
        os.close(handle)


def _this_run() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _holder(path: Path) -> dict[str, Any]:
    """What the file says; empty where it says nothing yet."""
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _seems_running(holder: dict[str, Any]) -> bool:
    if holder.get("host") != socket.gethostname():
        return bool(holder)
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _held(path: Path, root: Path) -> OutputError:
    holder = _holder(path)
    who = (
        f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        if {"pid", "host", "since"} <= set(holder)
        else "another process"
    )
    return OutputError(
        f"another run is writing to {root} ({who})",
        "one at a time",
        f"wait for it or end it; delete {path} only if that process is gone",
    )
