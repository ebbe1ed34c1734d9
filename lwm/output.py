"""Writing files and folders so that nothing half-written ever stands under its final name, and hashing them."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lwm.errors import OutputError

_PARTIAL = ".partial"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission or a read-only place into an OutputError that names ``path``."""
    try:
        yield
    except OSError as error:
        full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if error.errno in full or "No space left" in str(error):
            raise OutputError(f"no space left to write {path}", remedy="free some space and run again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise OutputError(f"{path} cannot be written ({error.strerror})", "a folder you may write to") from error
        raise


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``; renamed to it when the block ends well, removed when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Readable JSON at ``path``, by :func:`atomic_file`."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def atomic_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``path``; takes its place when the block ends well, removed when it does not.

    Raises:
        OutputError: ``path`` exists, is not empty and ``overwrite`` is False.
    """
    require_empty(path, overwrite=overwrite)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_PARTIAL, dir=path.parent))
        try:
            temporary.chmod(0o755)
            yield temporary
            if path.exists():
                shutil.rmtree(path)
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def require_empty(path: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Refuse an output that already holds something, unless told to go on with it or to replace it.

    Raises:
        OutputError: ``path`` is a file, or a folder with something in it and neither option was given.
    """
    if path.is_file() and not overwrite:
        raise OutputError(f"{path} is a file that exists", "a new name", "choose another --out or add --overwrite")
    if path.is_dir() and any(path.iterdir()) and not (resume or overwrite):
        raise OutputError(f"output folder {path} is not empty", "an empty or new folder", "add --resume or --overwrite")


def remove_partial(folder: Path) -> None:
    """Delete what an interrupted run left under temporary names in ``folder``."""
    for stale in folder.glob(f".*{_PARTIAL}"):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
