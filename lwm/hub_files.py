"""Reading the files of a model folder that may be somebody else's: nothing is trusted before it was looked at."""

import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm.errors import ModelError

LARGEST_JSON = 64 * 2**20
"""Bytes; leaves room for the text of a language model's tokenizer inside a config."""

LARGEST_NUMBER = 2**53
"""Beyond it a JSON number is not the same for every reader."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_STRANGE = "do not use this folder; ask its author for a whole one"


def file_in(folder: Path, name: Any) -> Path:
    """The regular file ``name`` directly inside ``folder``.

    Symbolic links are followed only to where the Hugging Face cache keeps what its snapshots link to.

    Raises:
        ModelError: no plain file name (a path, an absolute one, ``..``), no such file, no regular file (a pipe, a
            device), or a link that leaves the folder.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ModelError(f"{folder} names a file {name!r:.80}", "a plain name inside the folder", _STRANGE)
    path = folder / name
    try:
        real = path.resolve(strict=True)
    except FileNotFoundError:
        raise ModelError(f"{path} is missing", "a complete model folder", "copy the folder again") from None
    except (OSError, RuntimeError) as error:  # a loop of links is either
        raise ModelError(f"{path} leads nowhere ({error})", "a regular file", _STRANGE) from error
    if not any(real.parent.is_relative_to(place) for place in _places(folder)):
        raise ModelError(f"{path} is a link to {real}, outside of the folder", "a regular file", _STRANGE)
    if not real.is_file():
        raise ModelError(f"{path} is no regular file", "a regular file", _STRANGE)
    return path


def _places(folder: Path) -> list[Path]:
    """The folder itself; for a snapshot of the Hugging Face cache also its blobs and those of the whole cache."""
    real = folder.resolve()
    if real.parent.name != "snapshots":
        return [real]
    return [real, real.parent.parent / "blobs", real.parent.parent.parent / "blobs"]


def read_json(folder: Path, name: str, finite: bool = True) -> dict[str, Any]:
    """The JSON object in a file of a model folder.

    Args:
        folder: the model folder.
        name: file in it.
        finite: refuse NaN and infinite numbers.

    Raises:
        ModelError: see :func:`file_in`; larger than :data:`LARGEST_JSON`, no JSON, nested too deeply, a key twice, a
            number that is not finite or beyond :data:`LARGEST_NUMBER`, or no object.
    """
    path = file_in(folder, name)
    size = path.stat().st_size
    if size > LARGEST_JSON:
        raise ModelError(f"{path} has {size} bytes", f"at most {LARGEST_JSON}", _STRANGE)
    numbers: dict[str, Any] = {"parse_float": _finite_float, "parse_constant": _finite_float} if finite else {}
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, object_pairs_hook=_without_twins, parse_int=_small_int, **numbers)
    except RecursionError:
        raise ModelError(f"{path} is nested too deeply", "a model folder written by LWM", _STRANGE) from None
    except ValueError as error:  # also what is no JSON or no UTF-8
        raise ModelError(f"{path} is not JSON as LWM writes it ({error})", "a model folder written by LWM") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__}", "a JSON object")
    return value


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError(f"a key twice among {[key for key, _ in pairs][:8]}")
    return value


def _small_int(digits: str) -> int:
    if len(digits) > 17 or abs(int(digits)) > LARGEST_NUMBER:
        raise ValueError(f"number {digits[:20]}... out of range")
    return int(digits)


def _finite_float(digits: str) -> float:
    if not math.isfinite(float(digits)):
        raise ValueError(f"number {digits[:20]} is not finite")
    return float(digits)


def require_plain(value: Any, where: str) -> None:
    """Raise ModelError unless ``value`` is JSON that reads back the same: string keys, no foreign objects, no loops."""
    try:
        _require_string_keys(value, where)
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{where} cannot be kept as JSON ({error})", "plain dicts, lists, numbers and strings"
        ) from None


def _require_string_keys(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} is a {type(key).__name__}")
            _require_string_keys(inner, where)
    elif isinstance(value, list | tuple):
        for inner in value:
            _require_string_keys(inner, where)


def read_arrays(folder: Path, name: str, largest: Mapping[str, int]) -> dict[str, npt.NDArray[np.float32]]:
    """Float32 arrays of an ``.npz`` as LWM writes it: uncompressed, nothing pickled.

    The zip directory and each array's own header are compared with the bytes that are there before any memory is
    taken, so that neither a zip bomb nor an absurd shape gets anywhere.

    Args:
        folder: the model folder.
        name: file in it.
        largest: names of the arrays, each with the most bytes that it may have.

    Raises:
        ModelError: see :func:`file_in`; other arrays, larger ones, compressed ones, other types, damage.
    """
    path = file_in(folder, name)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: member for member in archive.infolist()}
            if len(members) != len(archive.infolist()) or set(members) != {f"{key}.npy" for key in largest}:
                raise ValueError(f"it holds {sorted(members)[:4]} instead of {sorted(largest)}")
            for key, most in largest.items():
                _require_stored(members[f"{key}.npy"], most + 2**12, path.stat().st_size)
            return {key: _array(archive.read(members[f"{key}.npy"])) for key in largest}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError) as error:
        raise ModelError(f"{path} cannot be read ({error})", "what LWM wrote", "copy the folder again") from error


def _require_stored(member: zipfile.ZipInfo, most: int, whole: int) -> None:
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    if member.file_size > min(most, whole):
        raise ValueError(f"{member.filename} says it has {member.file_size} bytes; at most {min(most, whole)} fit")


def _array(content: bytes) -> npt.NDArray[np.float32]:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"array format {version}")
    shape, in_columns, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype != np.float32 or in_columns:
        raise ValueError(f"an array of {dtype}")
    rest = content[stream.tell() :]
    if math.prod(shape) * 4 != len(rest):
        raise ValueError(f"an array of shape {shape} in {len(rest)} bytes")
    return np.frombuffer(rest, np.float32).reshape(shape).copy()
