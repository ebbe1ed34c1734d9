"""What ``lwm inspect`` says about a data set."""

from pathlib import Path
from typing import Any

import numpy as np

from lwm.data.dataset import SpectrogramDataset
from lwm.data.manifest import Manifest
from lwm.data.reader import check_size

_MOST_NAMES = 12
"""Labels with more names than this get their number instead of a count for each."""


def describe_dataset(root: Path | str) -> str:
    """Splits, statistics, recipe and the samples of every label, a few dozen lines of text.

    Raises:
        DatasetError: no whole data set in ``root``, or a shard is missing or truncated.
    """
    root = Path(root)
    manifest = Manifest.load(root)
    for entry in manifest.shards:
        check_size(root / entry.name, entry)
    dataset = SpectrogramDataset(root)
    recipe = manifest.read_recipe()
    size = sum(entry.bytes for entry in manifest.shards)
    mean, std = manifest.training_statistics()
    lines = [
        f"data set {root}: {manifest.count} samples in {len(manifest.shards)} shards, {size / 1e6:.1f} MB",
        f"recipe {recipe.name}: {recipe.in_chans}x{recipe.size[0]}x{recipe.size[1]}, {recipe.duration * 1e3:g} ms,"
        f" {recipe.summary}, {recipe.floor_db:g} to {recipe.ceiling_db:g} dB",
        f"statistics for models: mean {mean:.3f}, standard deviation {std:.3f}",
        f"storage: {_storage(manifest.storage)}",
        f"clean pictures: {'yes' if dataset.has_clean else 'no'}; seed: {manifest.seed}; licence: {manifest.licence}",
        "",
        "split        technology      samples      mean       std",
    ]
    for key, (part_mean, part_std) in manifest.statistics.items():
        split, _, technology = key.partition("/")
        count = sum(e.count for e in manifest.shards if e.split == split and technology in ("", e.technology))
        lines.append(f"{split:<12} {technology or 'all':<12} {count:>10} {part_mean:>9.3f} {part_std:>9.3f}")
    for split, found in manifest.percentiles.items():
        said = ", ".join(f"{percent} % {level:.1f}" for percent, level in found.items())
        lines.append(f"percentiles of {split}: {said}")
    lines += ["", *_label_lines(dataset), "", *_value_lines(dataset), *_audit_lines(manifest)]
    return "\n".join(lines)


def _storage(plain: dict[str, Any]) -> str:
    parts = [str(plain.get("dtype"))]
    parts += [f"{plain['compression']} in chunks of {plain['chunk']}"] if plain.get("compression") else ["mapped"]
    return ", ".join(parts + ([f"IQ as {plain['iq_dtype']}"] if plain.get("iq") else []))


def _audit_lines(manifest: Manifest) -> list[str]:
    """Labels that trivial features tell; see the card for the others."""
    marked = [
        f"shortcut: {label} is told by trivial features, above all {found['best']}"
        f" (balanced accuracy {found['balanced']:.2f}, chance {found['chance']:.2f})"
        for label, found in manifest.audit.items()
        if found["marked"]
    ]
    if manifest.audit and not marked:
        marked = [f"no shortcut among {len(manifest.audit)} labels audited"]
    return ["", *marked] if marked else []


def _label_lines(dataset: SpectrogramDataset) -> list[str]:
    lines = []
    for label, names in dataset.label_names.items():
        codes = dataset.labels[label]
        counts = np.bincount(codes[codes >= 0], minlength=len(names))
        if len(names) > _MOST_NAMES:
            said = f"{len(names)} names, {counts.min()} to {counts.max()} samples each"
        else:
            said = ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))
        without = int((codes < 0).sum())
        lines.append(f"label {label}: {said}" + (f", none {without}" if without else ""))
    return lines


def _value_lines(dataset: SpectrogramDataset) -> list[str]:
    lines = []
    for name, numbers in dataset.values.items():
        known = numbers[np.isfinite(numbers)]
        said = f"{known.min():g} to {known.max():g}, median {np.median(known):g}" if known.size else "unknown"
        lines.append(f"value {name}: {said}")
    return lines
