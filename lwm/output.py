"""Writing files and folders so that nothing half-written ever stands under its final name, and hashing them."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lwm.errors import OutputError

_PARTIAL, _ASIDE = ".partial", ".aside"


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


def _beside(path: Path, suffix: str) -> Path:
    """A hidden name beside ``path`` that no other process takes, here or on another machine of a shared file system."""
    host = re.sub(r"[^\w-]", "-", socket.gethostname())
    return path.with_name(f".{path.name}.{host}-{os.getpid()}-{secrets.token_hex(4)}{suffix}")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``; renamed to it when the block ends well, removed when it does not."""
    temporary = _beside(path, _PARTIAL)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def scratch_file(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` for what is needed for a while only; removed when the block ends."""
    temporary = _beside(path, _PARTIAL)
    with disk_errors(path):
        try:
            yield temporary
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

    With ``overwrite`` the old folder is moved aside, the new one moved in, and only then the old one is deleted;
    :func:`recover_folder` mends what a kill between the two moves leaves.

    Raises:
        OutputError: ``path`` exists, is not empty and ``overwrite`` is False: at the start, or at the end, when
            somebody else put something there meanwhile.
    """
    require_empty(path, overwrite=overwrite)
    path = path.resolve() if path.is_symlink() else path
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path, _PARTIAL)
        temporary.mkdir(0o755)
        try:
            yield temporary
            if overwrite and path.exists():
                _exchange(path, temporary)
            else:
                _move_in(path, temporary)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _move_in(path: Path, temporary: Path) -> None:
    """Rename; the kernel takes an empty folder's place and refuses any other in the same step."""
    try:
        temporary.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise OutputError(
            f"{path} was filled by somebody else meanwhile", "an empty or new folder", "choose another --out"
        ) from error


def _exchange(path: Path, temporary: Path) -> None:
    aside = _beside(path, _ASIDE)
    path.rename(aside)
    try:
        temporary.rename(path)
    except OSError:
        aside.rename(path)
        raise
    _delete(aside)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
    for stale in filter(is_partial, folder.iterdir()):
        _delete(stale)


def is_partial(path: Path) -> bool:
    """Whether the name is a temporary one."""
    return path.name.startswith(".") and path.name.endswith(_PARTIAL)


def recover_folder(path: Path) -> None:
    """Mend what killed runs of :func:`atomic_folder` left beside ``path``; only for who knows that none is running.

    Half-written folders are deleted. An old one that was moved aside comes back where no new one took its place.
    """
    if not path.parent.is_dir():
        return
    left = re.compile(rf"\.{re.escape(path.name)}\.[\w-]+({re.escape(_PARTIAL)}|{re.escape(_ASIDE)})")
    for stale in [each for each in path.parent.iterdir() if left.fullmatch(each.name)]:
        if stale.name.endswith(_ASIDE) and not path.exists():
            stale.rename(path)
        else:
            _delete(stale)
