"""Atomic files and folders: whole under their name or not there."""

import errno
from pathlib import Path

import pytest

from lwm.errors import OutputError
from lwm.output import atomic_file, atomic_folder, disk_errors, remove_partial, require_empty


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("before")
    with pytest.raises(ValueError, match="half"), atomic_file(target) as temporary:
        temporary.write_text("ha")
        raise ValueError("half")
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_folder_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "kept").touch()
    with pytest.raises(ValueError, match="half"), atomic_folder(target, overwrite=True) as temporary:
        (temporary / "new").touch()
        raise ValueError("half")
    assert [path.name for path in target.iterdir()] == ["kept"]
    with atomic_folder(target, overwrite=True) as temporary:
        (temporary / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(OutputError, match="not empty.*--resume or --overwrite"):
        require_empty(tmp_path)
    require_empty(tmp_path, resume=True)
    require_empty(tmp_path, overwrite=True)
    require_empty(tmp_path / "new")
    with pytest.raises(OutputError, match="is a file"):
        require_empty(tmp_path / "a")


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no space left"), disk_errors(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OutputError, match="cannot be written"), disk_errors(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(IsADirectoryError), disk_errors(tmp_path / "x"):
        raise IsADirectoryError(errno.EISDIR, "Is a directory")


def test_leftovers_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".shard.h5.77.partial").touch()
    (tmp_path / ".model.x.partial").mkdir()
    (tmp_path / "kept.h5").touch()
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.h5"]
