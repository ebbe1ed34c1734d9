"""What ``lwm doctor`` finds in a data set: everything that opening it does not have the time for."""

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from lwm.data.manifest import Manifest, ShardEntry
from lwm.data.shard import ShardReader, valid_cells
from lwm.errors import DatasetError, RecipeMismatch
from lwm.output import file_sha256
from lwm.signal.recipe import Recipe

_TOLERANCE = 1e-3
"""Largest relative difference between statistics in the manifest and those of the shard."""


class _Seen:
    """What was met so far, over all shards."""

    def __init__(self) -> None:
        self.pictures: dict[bytes, str] = {}
        self.splits: dict[tuple[str, str], set[str]] = defaultdict(set)


def check_dataset(root: Path | str) -> list[str]:
    """Problems of a data set, one line each; an empty list when it is whole.

    Checked: the manifest, files that are missing or strange to it, sizes and hashes, counts, shapes, NaN and values
    outside the recipe's range, statistics, records, duplicates, and channels or waveforms that are in two splits.
    """
    root = Path(root)
    try:
        manifest = Manifest.load(root, incomplete=True)
        recipe = manifest.read_recipe()
    except DatasetError as error:
        return [str(error)]
    problems = []
    if not manifest.complete:
        problems.append(f"{root} is not complete ({manifest.count} samples so far); go on with --resume")
    listed = {entry.name for entry in manifest.shards}
    if manifest.complete:
        strange = sorted(path.name for path in root.glob("*.h5") if path.name not in listed)
        problems += [f"{root / name} is not in the manifest; delete it" for name in strange]
    seen = _Seen()
    for entry in manifest.shards:
        problems += _check_shard(root, entry, manifest, recipe, seen)
    for (kind, name), splits in seen.splits.items():
        if len(splits) > 1:
            problems.append(f"{kind} {name} is in the splits {sorted(splits)}; make the data set again")
    return problems


def _check_shard(root: Path, entry: ShardEntry, manifest: Manifest, recipe: Recipe, seen: _Seen) -> list[str]:
    path = root / entry.name
    remedy = "make the data set again" if manifest.complete else "go on with --resume, which makes it again"
    if path.is_file() and path.stat().st_size == entry.bytes and file_sha256(path) != entry.sha256:
        return [f"shard {path} is not what was written (SHA-256 differs from the manifest's); {remedy}"]
    try:
        shard = ShardReader(path, entry)
        recipe.require_same(Recipe.from_dict(shard.recipe), "the manifest", f"shard {path}")
    except (DatasetError, RecipeMismatch) as error:
        return [str(error)]
    found = [*_picture_problems(shard, recipe, seen), *_label_problems(shard, manifest), *_record_problems(shard, seen)]
    return [f"shard {path}: {problem}; {remedy}" for problem in found]


def _picture_problems(shard: ShardReader, recipe: Recipe, seen: _Seen) -> list[str]:
    problems = []
    entry = shard.entry
    rows, columns = recipe.size if recipe.axes == "frequency-time" else recipe.size[::-1]
    low, high = (recipe.floor_db, recipe.ceiling_db) if recipe.channels == "grey" else (0.0, 255.0)
    margin = abs(high) * float(np.finfo(np.float16).eps)
    for name, (_, shape, _) in shard.layout.items():
        expected = (entry.count, recipe.in_chans, rows, columns)
        if shape != expected:
            problems.append(f"{name} has shape {shape}, expected {expected}")
            continue
        pictures = shard.read(np.arange(entry.count), name)
        if not np.isfinite(pictures).all():
            problems.append(
                f"{name} holds NaN or infinity in {int((~np.isfinite(pictures)).any((1, 2, 3)).sum())} samples"
            )
        elif pictures.min() < low - margin or pictures.max() > high + margin:
            problems.append(f"{name} spans {pictures.min():g} to {pictures.max():g}, expected {low:g} to {high:g}")
        elif name == "spectrogram":
            cells = valid_cells(pictures, shard.valid, recipe)
            if cells.size != entry.cells or not np.allclose(
                (cells.mean(), cells.std()), (entry.mean, entry.std), rtol=_TOLERANCE, atol=_TOLERANCE
            ):
                problems.append("mean and standard deviation are not those of the manifest")
        if name == "spectrogram":
            problems += _duplicates(shard, pictures, seen)
    return problems


def _duplicates(shard: ShardReader, pictures: np.ndarray, seen: _Seen) -> list[str]:
    problems = []
    for row, picture in enumerate(pictures):
        if picture.min() == picture.max():
            continue  # silence is always the same
        here = f"{shard.path.name}[{row}]"
        other = seen.pictures.setdefault(hashlib.sha256(picture.tobytes()).digest(), here)
        if other != here:
            problems.append(f"sample {row} is the same picture as {other}")
    return problems


def _label_problems(shard: ShardReader, manifest: Manifest) -> list[str]:
    problems = []
    for label, (codes, names) in shard.labels.items():
        if len(codes) != shard.count or codes.min() < -1 or codes.max() >= len(names):
            problems.append(
                f"label {label} has {len(codes)} codes from {codes.min()} to {codes.max()} for {len(names)} names"
            )
        unknown = sorted(set(names) - set(manifest.labels.get(label, [])))
        if manifest.complete and unknown:
            problems.append(f"label {label} has {unknown}, which the manifest does not know")
    return problems


def _record_problems(shard: ShardReader, seen: _Seen) -> list[str]:
    try:
        records = [json.loads(text) for text in shard.records()]
    except (OSError, ValueError) as error:
        return [f"records cannot be read ({error})"]
    for record in records:
        channel = record.get("channel")
        if isinstance(channel, dict) and {"profile", "seed", "index"} <= set(channel):
            seen.splits["channel", f"{channel['profile']}/{channel['seed']}/{channel['index']}"].add(shard.entry.split)
        if "waveform" in record:
            seen.splits["waveform", str(record["waveform"])].add(shard.entry.split)
    return []
