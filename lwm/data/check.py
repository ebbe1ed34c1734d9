"""What ``lwm doctor`` finds in a data set: everything that opening it does not have the time for."""

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lwm.console import progress
from lwm.data.card import CARD, SHEET
from lwm.data.consistency import header_problems, manifest_problems
from lwm.data.index import FILE_NAME as INDEX
from lwm.data.index import Index, index_key, load_index
from lwm.data.ledger import Ledger, hash_bytes, origins
from lwm.data.manifest import FILE_NAME, MOST_COUNTED, Manifest, ShardEntry
from lwm.data.reader import ShardReader
from lwm.data.statistics import LevelCounter
from lwm.data.storage import level_range
from lwm.errors import ConfigError, DatasetError, RecipeMismatch
from lwm.output import file_sha256
from lwm.signal.recipe import Recipe

RARE = 0.1
"""Share of an even share below which a class counts as too rare: under 2 % of five classes (ours)."""

_TOLERANCE = 1e-6
"""Largest relative difference between statistics in the manifest and those of the shard."""

_SURE = 5
"""Waveforms or recordings that a missing class is expected with, to be no accident (probability e^-5, under 1 %)."""

_ENOUGH = 50
"""Waveforms or recordings in an even share from which on a class can be called rare."""

_BLOCK = 256
"""Pictures looked at together: the memory that checking takes, whatever the size of shard and data set."""

_LISTED = 5
"""Things named of a kind of problem; the others are counted."""

_SHOWN_FROM = 20_000
"""Samples from which progress is shown."""

_LEAKS = ("channel", "waveform", "recording")


class _Notes:
    """What was met so far, over all shards; the index to hold them against, None where there is no good one."""

    def __init__(self, index: Index | None) -> None:
        self.index = index
        self.pictures = Ledger()
        self.origins = {kind: Ledger() for kind in _LEAKS}
        self.independent: dict[str, int] = defaultdict(int)
        self.counts: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))


def check_dataset(root: Path | str) -> list[str]:
    """Problems of a data set, one line each with its remedy; an empty list when it is whole.

    Checked: the manifest, files that are missing or strange to it, the index, sizes and hashes, counts, shapes, NaN and
    values outside the recipe's range, statistics, boxes, records, whether each shard was made with the manifest's
    versions, seed, licence and storage; over all shards duplicates, classes that a split
    lacks or hardly has, and channel draws, waveforms or recordings that are in two splits.
    """
    root = Path(root)
    try:
        manifest = Manifest.load(root, incomplete=True)
        unusable = manifest_problems(root, manifest)
        if unusable:
            return unusable
        recipe = manifest.read_recipe()
    except (DatasetError, ConfigError) as error:
        return [str(error)]
    remedy = "make the data set again" if manifest.complete else "go on with --resume, which makes it again"
    problems = _file_problems(root, manifest)
    stale = _index_problems(root, manifest) if manifest.complete else [""]
    problems += filter(None, stale)
    notes, whole = _Notes(None if stale else load_index(root, manifest)), True
    shown = manifest.count >= _SHOWN_FROM
    with progress("doctor", manifest.count, "samples") if shown else nullcontext() as bar:
        for number, entry in enumerate(manifest.shards):
            found = _check_shard(root, number, entry, manifest, recipe, notes)
            whole = whole and not found
            problems += [problem if "again" in problem else f"{problem}; {remedy}" for problem in found]
            if bar is not None:
                bar.update(entry.count)
    problems += _duplicates(root, manifest, notes.pictures)
    problems += _leaks(root, manifest, notes.origins)
    if manifest.complete and whole:
        problems += _count_problems(root, manifest, notes)
    return problems


def _file_problems(root: Path, manifest: Manifest) -> list[str]:
    """Making that did not end, files that do not belong, an index that is not of this manifest."""
    if not manifest.complete:
        return [f"{root} is not complete ({manifest.count} samples so far); go on with --resume"]
    listed = {entry.name for entry in manifest.shards} | {FILE_NAME, CARD, SHEET, INDEX}
    problems = []
    for path in sorted(root.iterdir()):
        if path.name.endswith(".partial"):
            problems.append(f"{path} was left by an interrupted run; delete it")
        elif path.name not in listed and not path.name.startswith("."):
            problems.append(f"{path} is not in the manifest; delete it or move it elsewhere")
    return problems


def _index_problems(root: Path, manifest: Manifest) -> list[str]:
    """An index that is missing, damaged, or of another state of the data set."""
    path = root / INDEX
    remedy = "delete it: opening the data set makes it again"
    if not path.is_file():
        return [f"{path} is missing; opening the data set makes it again"]
    try:
        with h5py.File(path, "r") as file:
            same = file.attrs["key"] == index_key(manifest)
    except (OSError, KeyError, RuntimeError) as error:
        return [f"{path} cannot be read ({error}); {remedy}"]
    return [] if same else [f"{path} is stale, not of this manifest; {remedy}"]


def _differs_from_index(shard: ShardReader, number: int, manifest: Manifest, index: Index) -> bool:
    """Whether labels, values or valid columns of a shard are not what the index says."""
    rows = slice(int(index.starts[number]), int(index.starts[number + 1]))
    for label, (codes, names) in shard.labels.items():
        code_of = {name: code for code, name in enumerate(manifest.labels.get(label, []))}
        table = np.array([*(code_of.get(name, -2) for name in names), -1])
        if label not in index.labels or not np.array_equal(index.labels[label][rows], table[codes]):
            return True
    values = all(
        name in index.values and np.array_equal(index.values[name][rows], numbers, equal_nan=True)
        for name, numbers in shard.values.items()
    )
    return not values or not np.array_equal(index.valid_columns(np.arange(rows.start, rows.stop)), shard.valid)


def _check_shard(
    root: Path, number: int, entry: ShardEntry, manifest: Manifest, recipe: Recipe, notes: _Notes
) -> list[str]:
    path = root / entry.name
    if path.is_file() and path.stat().st_size == entry.bytes and file_sha256(path) != entry.sha256:
        return [f"shard {path} is not what was written (SHA-256 differs from the manifest's)"]
    try:
        shard = ShardReader(path, entry)
        recipe.require_same(Recipe.from_dict(shard.recipe), "the manifest", f"shard {path}")
        found = [
            *header_problems(shard, manifest),
            *_picture_problems(shard, recipe, number, notes),
            *_label_problems(shard, manifest, notes),
            *_box_problems(shard),
            *_record_problems(shard, number, notes),
        ]
        if not found and notes.index is not None and _differs_from_index(shard, number, manifest, notes.index):
            return [f"{root / INDEX} is not what shard {path} holds; delete it: opening the data set makes it again"]
    except (DatasetError, RecipeMismatch, ConfigError) as error:
        return [str(error)]
    except (OSError, RuntimeError) as error:
        return [f"shard {path} cannot be read ({error})"]
    return [f"shard {path}: {problem}" for problem in found]


def _picture_problems(shard: ShardReader, recipe: Recipe, number: int, notes: _Notes) -> list[str]:
    rows, columns = recipe.size if recipe.axes == "frequency-time" else recipe.size[::-1]
    shapes = {"mask": (shard.count, rows, columns)}
    problems = []
    for name, layout in shard.layout.items():
        expected = shapes.get(name, (shard.count, recipe.in_chans, rows, columns))
        if name != "iq" and layout.shape != expected:
            problems.append(f"{name} has shape {layout.shape}, expected {expected}")
        elif name in ("spectrogram", "clean"):
            problems += _level_problems(shard, name, recipe, number, notes)
        elif name == "iq":
            broken = sum(int((~np.isfinite(block)).any((1, 2)).sum()) for _, block in _blocks(shard, "iq"))
            problems += [f"iq holds NaN or infinity in {broken} samples"] if broken else []
    return problems


def _blocks(shard: ShardReader, name: str) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]:
    """Rows and what is stored in them, a block at a time."""
    for first in range(0, shard.count, _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, shard.count))
        yield rows, shard.read_stored(rows, name)


def _level_problems(shard: ShardReader, name: str, recipe: Recipe, number: int, notes: _Notes) -> list[str]:
    """NaN, range and statistics of one kind of picture; the spectrograms' hashes are noted."""
    layout, entry = shard.layout[name], shard.entry
    low, high = level_range(recipe)
    margin = max(abs(low), abs(high)) * float(np.finfo(np.float16).eps)
    counter = LevelCounter.of_layout(recipe, layout)
    broken, least, most = 0, np.inf, -np.inf
    for rows, stored in _blocks(shard, name):
        broken += int((~np.isfinite(stored)).any((1, 2, 3)).sum())
        flat = stored.reshape(len(stored), -1)
        lowest, highest = flat.min(1), flat.max(1)
        least, most = min(least, float(lowest.min())), max(most, float(highest.max()))
        if name == "spectrogram":
            counter.add(stored, shard.valid[rows])
            uneven = np.flatnonzero(lowest != highest)  # silence is always the same
            notes.pictures.add(number, rows[uneven], (hash_bytes(flat[i].tobytes()) for i in uneven))
    if broken:
        return [f"{name} holds NaN or infinity in {broken} samples"]
    least, most = least * layout.scale + layout.shift, most * layout.scale + layout.shift
    if least < low - margin or most > high + margin:
        return [f"{name} spans {least:g} to {most:g}, expected {low:g} to {high:g}"]
    if name == "spectrogram":
        found = counter.result()
        same = np.allclose((found.mean, found.std), (entry.mean, entry.std), rtol=_TOLERANCE, atol=_TOLERANCE)
        if not same or found.cells != entry.cells or not np.array_equal(found.histogram, shard.histogram):
            return ["mean and standard deviation or level histogram are not those of the pictures"]
    return []


def _label_problems(shard: ShardReader, manifest: Manifest, notes: _Notes) -> list[str]:
    problems = []
    for label, (codes, names) in shard.labels.items():
        if len(codes) != shard.count or codes.min() < -1 or codes.max() >= len(names):
            problems.append(
                f"label {label} has {len(codes)} codes from {codes.min()} to {codes.max()} for {len(names)} names"
            )
            continue
        unknown = sorted(set(names) - set(manifest.labels.get(label, [])))
        if manifest.complete and unknown:
            problems.append(f"label {label} has {unknown}, which the manifest does not know")
        if len(manifest.labels.get(label, [])) <= MOST_COUNTED:
            column = notes.counts[shard.entry.split][label]
            for name, count in zip(names, np.bincount(codes[codes >= 0], minlength=len(names)), strict=True):
                column[name] = column.get(name, 0) + int(count)
    return problems


def _box_problems(shard: ShardReader) -> list[str]:
    if not shard.has_boxes:
        return []
    places, codes, names, offset = shard.read_boxes()
    problems = []
    if len(offset) != shard.count + 1 or offset[0] != 0 or offset[-1] != len(places) or (np.diff(offset) < 0).any():
        problems.append(f"box_offset does not share {len(places)} boxes among {shard.count} samples")
    if len(codes) != len(places) or (len(codes) and (codes.min() < 0 or codes.max() >= len(names))):
        problems.append(f"boxes have {len(codes)} labels for {len(places)} boxes and {len(names)} names")
    upside_down = ~((places[:, 1] >= places[:, 0]) & (places[:, 3] >= places[:, 2]))
    if upside_down.any():
        problems.append(f"{int(upside_down.sum())} boxes are not finite or end before they begin")
    return problems


def _record_problems(shard: ShardReader, number: int, notes: _Notes) -> list[str]:
    try:
        records = [json.loads(text) for text in shard.records()]
    except ValueError as error:
        return [f"records cannot be read ({error})"]
    if len(records) != shard.count:
        return [f"there are {len(records)} records for {shard.count} samples"]
    met: dict[str, dict[int, int]] = {kind: {} for kind in _LEAKS}
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            return [f"record {row} is no JSON object"]
        for kind, name in origins(record).items():
            met[kind].setdefault(hash_bytes(name.encode()), row)
    # Samples of one waveform or recording share most of their labels.
    notes.independent[shard.entry.split] += len(met["waveform"]) + len(met["recording"]) or shard.count
    for kind, rows in met.items():
        notes.origins[kind].add(number, rows.values(), rows)
    return []


def _duplicates(root: Path, manifest: Manifest, pictures: Ledger) -> list[str]:
    """Pictures of one hash: of those that are named the bytes are compared, the others are counted."""
    groups, compared = pictures.groups(), 0
    found: list[str] = []
    for places in groups:
        if len(found) == _LISTED:
            break
        compared += 1
        shown, more = places[:_LISTED], len(places[_LISTED:])
        readers = {number: ShardReader(root / (e := manifest.shards[number]).name, e) for number, _ in shown}
        first, *others = [readers[number].read_stored([row]).tobytes() for number, row in shown]
        same = [shown[0], *(place for place, other in zip(shown[1:], others, strict=True) if other == first)]
        if len(same) > 1:
            named = ", ".join(f"{manifest.shards[number].name}[{row}]" for number, row in same)
            found.append(f"{named} and {more} more" if more else named)
    found += [""] * (len(groups) - compared)
    return _listed(found, "{} are the same picture", "more pictures are there twice or oftener", "keep one of each")


def _leaks(root: Path, manifest: Manifest, ledgers: dict[str, Ledger]) -> list[str]:
    """Channel draws, waveforms and recordings that are in two splits."""
    splits = list(manifest.splits)
    split_of_shard = np.array([splits.index(entry.split) for entry in manifest.shards], np.int64)
    problems = []
    for kind, ledger in ledgers.items():
        groups = ledger.groups(split_of_shard)
        named = []
        for places in groups[:_LISTED]:
            records = [_record(root, manifest.shards[number], row) for number, row in places]
            names = [_origin_name(kind, record) for record in records]
            name = " = ".join(dict.fromkeys(names))
            where = sorted({manifest.shards[place].split for place, _ in places})
            named.append(f"{kind} {name} is in the splits {where}")
        named += [""] * (len(groups) - len(named))
        problems += _listed(named, "{}", f"more {kind}s are in two splits", "make the data set again")
    return problems


def _record(root: Path, entry: ShardEntry, row: int) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(ShardReader(root / entry.name, entry).records()[row])
    return record


def _origin_name(kind: str, record: dict[str, Any]) -> str:
    """What a person finds an origin by: of a waveform its name, of which the hash says nothing."""
    return str(record.get("waveform") or origins(record)[kind]) if kind == "waveform" else origins(record)[kind]


def _listed(found: list[str], said: str, more: str, remedy: str) -> list[str]:
    """The first few of a kind of problem and the number of the others."""
    lines = [f"{said.format(item)}; {remedy}" for item in found[:_LISTED]]
    return lines + ([f"{len(found) - _LISTED} {more}; {remedy}"] if len(found) > _LISTED else [])


def _count_problems(root: Path, manifest: Manifest, notes: _Notes) -> list[str]:
    """Counts that are not the manifest's; classes that a split lacks or hardly has."""
    problems = []
    for label, names in manifest.labels.items():
        if len(names) > MOST_COUNTED:
            continue
        columns = {
            split: {name: notes.counts[split][label].get(name, 0) for name in names} for split in manifest.splits
        }
        for split, column in columns.items():
            said = manifest.counts.get(split, {}).get(label, dict.fromkeys(names, 0))
            if said != column:
                problems.append(f"{root}: label {label} is counted {said} in {split}, found {column}; make it again")
        present = [{name for name, count in column.items() if count} for column in columns.values()]
        if all(one & other for one in present for other in present):  # else it names what splits do not share
            problems += [f"{root}: label {label} {said}" for said in _uneven(columns, names, notes.independent)]
    return problems


def _uneven(columns: dict[str, dict[str, int]], names: list[str], independent: dict[str, int]) -> list[str]:
    """Classes that a split lacks or hardly has, where chance does not explain it; ``independent``: draws by split."""
    remedy = "add samples of it, or sample the classes evenly when training"
    total = {name: sum(column[name] for column in columns.values()) for name in names}
    found = []
    for split, column in columns.items():
        labelled = sum(column.values())
        even = labelled / len(names)
        draws = min(1.0, independent[split] / max(1, labelled))
        for name, count in column.items():
            expected = labelled * total[name] / max(1, sum(total.values()))
            if not count and draws * expected >= _SURE:
                found.append(f"has no {name!r} in {split}, where {expected:.0f} are expected; {remedy}")
            elif draws * even >= _ENOUGH and count < RARE * even and (count or len(columns) == 1):
                share = count / labelled
                found.append(f"has {name!r} in {share:.2%} of {split} only, under {RARE / len(names):.2%}; {remedy}")
    return found
