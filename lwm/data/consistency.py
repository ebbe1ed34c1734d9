"""Whether a manifest can be used at all, and whether its shards were made as it says: the first things doctor asks."""

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

from lwm.data.manifest import FILE_NAME, Manifest, ShardEntry
from lwm.data.reader import RESERVED_LABELS, ShardReader

_COUNTS = ("count", "bytes", "cells", "rejected")
_NUMBERS = ("mean", "std")
_DICTS = ("recipe", "plan", "versions", "labels", "storage", "percentiles", "counts", "audit")
_REMEDY = "make the data set again"


def manifest_problems(root: Path, manifest: Manifest) -> list[str]:
    """Entries of another type than :class:`ShardEntry` has, shards listed twice, labels that no reader could give.

    Where there is one, nothing else of the data set can be checked.
    """
    path = root / FILE_NAME
    wrong = [name for name in _DICTS if not isinstance(getattr(manifest, name), dict)]
    wrong += [] if manifest.seed is None or _is_int(manifest.seed) else ["seed"]
    wrong += [] if isinstance(manifest.licence, str) else ["licence"]
    problems = [f"{path}: {name} is {getattr(manifest, name)!r}, of another type; {_REMEDY}" for name in wrong]
    if isinstance(manifest.labels, dict):
        problems += [
            f"{path}: label {label!r} has names {names!r}, expected a list of text; {_REMEDY}"
            for label, names in manifest.labels.items()
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names)
        ]
        problems += [
            f"{path}: label {label!r} is called as something else in a batch is; {_REMEDY} with another name"
            for label in sorted(RESERVED_LABELS & set(manifest.labels))
        ]
    for number, entry in enumerate(manifest.shards):
        found = {name: getattr(entry, name) for name in _wrong_fields(entry)}
        if found:
            problems.append(f"{path}: shard {number} ({entry.name!r}) has {found}, of another type; {_REMEDY}")
    repeated = {name: times for name, times in Counter(str(e.name) for e in manifest.shards).items() if times > 1}
    return problems + [f"{path} lists shard {name} {times} times; {_REMEDY}" for name, times in repeated.items()]


def _wrong_fields(entry: ShardEntry) -> list[str]:
    wrong = []
    for name in (field.name for field in fields(entry)):
        value = getattr(entry, name)
        if name in _COUNTS:
            right = _is_int(value) and value >= 0
        elif name in _NUMBERS:
            right = _is_int(value) or isinstance(value, float)
        else:
            right = isinstance(value, str)
        # A name with a folder in it would lead out of the data set.
        if not right or (name == "name" and Path(value).name != value):
            wrong.append(name)
    return wrong


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def header_problems(shard: ShardReader, manifest: Manifest) -> list[str]:
    """What a shard says about its making that its manifest says otherwise: versions, seed, licence, storage."""
    problems = []
    names = {name for name in {*shard.versions, *manifest.versions} if manifest.versions}
    differ = sorted(name for name in names if shard.versions.get(name) != manifest.versions.get(name))
    if differ:
        said = ", ".join(f"{name} {shard.versions.get(name)}, not {manifest.versions.get(name)}" for name in differ)
        problems.append(f"was written with other versions than the manifest says ({said})")
    if shard.seed != manifest.seed:
        problems.append(f"has seed {shard.seed}, the manifest {manifest.seed}")
    # A data set of recordings names the licences of all, with semicolons between them.
    if f"; {shard.licence}; " not in f"; {manifest.licence}; ":
        problems.append(f"has licence {shard.licence!r}, the manifest {manifest.licence!r}")
    if manifest.storage and shard.storage != manifest.storage:
        problems.append(f"has storage {shard.storage}, the manifest {manifest.storage}")
    return problems
