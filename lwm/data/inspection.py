"""What ``lwm inspect`` says about a data set."""

from pathlib import Path

import numpy as np

from lwm.data.dataset import SpectrogramDataset
from lwm.data.manifest import Manifest

_MOST_NAMES = 12
"""Labels with more names than this get their number instead of a count for each."""


def describe_dataset(root: Path | str) -> str:
    """Splits, statistics, recipe and the samples of every label, a few dozen lines of text.

    Raises:
        DatasetError: no whole data set in ``root``.
    """
    root = Path(root)
    manifest = Manifest.load(root)
    dataset = SpectrogramDataset(root)
    recipe = manifest.read_recipe()
    size = sum(entry.bytes for entry in manifest.shards)
    mean, std = manifest.training_statistics()
    lines = [
        f"data set {root}: {manifest.count} samples in {len(manifest.shards)} shards, {size / 1e6:.1f} MB",
        f"recipe {recipe.name}: {recipe.in_chans}x{recipe.size[0]}x{recipe.size[1]}, {recipe.duration * 1e3:g} ms,"
        f" FFT {recipe.n_fft}, {recipe.window} window, {recipe.floor_db:g} to {recipe.ceiling_db:g} dB",
        f"statistics for models: mean {mean:.3f}, standard deviation {std:.3f}",
        f"clean pictures: {'yes' if dataset.has_clean else 'no'}; seed: {manifest.seed}; licence: {manifest.licence}",
        "",
        "split        technology      samples      mean       std",
    ]
    for key, (part_mean, part_std) in manifest.statistics.items():
        split, _, technology = key.partition("/")
        count = sum(e.count for e in manifest.shards if e.split == split and technology in ("", e.technology))
        lines.append(f"{split:<12} {technology or 'all':<12} {count:>10} {part_mean:>9.3f} {part_std:>9.3f}")
    lines += ["", *_label_lines(dataset), "", *_value_lines(dataset)]
    return "\n".join(lines)


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
