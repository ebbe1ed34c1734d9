"""Atomic files and folders: whole under their name or not there."""

import errno
import os
import socket
from pathlib import Path

import pytest

from lwm.errors import OutputError
from lwm.output import atomic_file, atomic_folder, disk_errors, recover_folder, remove_partial, require_empty


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


def test_what_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with pytest.raises(OutputError, match="was filled by somebody else"), atomic_folder(target) as temporary:
        (temporary / "new").touch()
        target.mkdir()
        (target / "theirs").touch()
    assert [path.name for path in target.iterdir()] == ["theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with atomic_folder(tmp_path / "empty") as temporary:
        (temporary / "new").touch()
        (tmp_path / "empty").mkdir()
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["new"]


def test_the_old_folder_is_whole_until_the_new_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").touch()
    rename, kill = Path.rename, [OSError(errno.EIO, "no")]

    def fail(path: Path, to: Path) -> Path:
        if path.name.endswith(".partial"):
            raise kill[0]
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no"), atomic_folder(target, overwrite=True):
        pass
    assert [path.name for path in target.iterdir()] == ["old"]
    # As if killed between the two: nothing is tidied up.
    kill[0] = KeyboardInterrupt()  # type: ignore[call-overload]
    with pytest.raises(KeyboardInterrupt), atomic_folder(target, overwrite=True):
        pass
    monkeypatch.undo()
    assert not target.exists()
    for stale in (".model.h-1-ab.partial", ".model.h-2-cd.partial", ".model.b.h-1-ab.partial"):
        (tmp_path / stale).mkdir()
    recover_folder(target)
    assert [path.name for path in target.iterdir()] == ["old"]
    (tmp_path / ".model.h-1-ab.aside").mkdir()
    recover_folder(target)
    assert {path.name for path in tmp_path.iterdir()} == {"model", ".model.b.h-1-ab.partial"}


def test_no_two_writers_share_a_temporary_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for host in ("a.example.org", "b"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        monkeypatch.setattr(os, "getpid", lambda: 77)
        for _ in range(2):
            with atomic_file(tmp_path / "x") as temporary:
                temporary.touch()
                names.add(temporary.name)
                assert f"{host.replace('.', '-')}-77-" in temporary.name
                with atomic_file(tmp_path / "x") as other:
                    other.touch()
                    assert other != temporary
    assert len(names) == 4
    (tmp_path / names.pop()).touch()
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


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
