"""What every test shares."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Before torch is imported: two test processes share two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Two test processes share two cores."""
    torch.set_num_threads(1)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's number of threads for one test."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Gives a TCP port of this machine on which nothing listens."""

    def port() -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return int(free.getsockname()[1])

    return port


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recordings (``LWM_SHARED``); tests that need one are skipped where it is absent."""
    folder = (ROOT / os.environ.get("LWM_SHARED", "../shared")).resolve()
    if not (folder / "captures").is_dir():
        pytest.skip(f"no recordings: {folder}/captures is absent (set LWM_SHARED)")
    return folder
