"""The card of a data set: ``README.md`` and a sheet of ten pictures, written when it is finished.

Everything in it comes from the manifest, except the ten pictures: the card of a large data set costs no more than that
of a small one.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lwm.data.audit import bar
from lwm.data.manifest import FILE_NAME as MANIFEST
from lwm.data.manifest import SPLITS, Manifest, ShardEntry
from lwm.data.reader import ShardReader
from lwm.output import atomic_file
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CARD, SHEET = "README.md", "samples.png"
"""File names beside the manifest."""

PICTURES = 10
"""Samples drawn on the sheet."""

_BAR = 40
"""Characters of the longest bar of the SNR histogram."""

_LICENCES = {
    "unknown": "unknown",
    "CC0-1.0": "cc0-1.0",
    "CC-BY-4.0": "cc-by-4.0",
    "MIT": "mit",
    "ODbL-1.0": "odbl",
    "Apache-2.0": "apache-2.0",
}
"""SPDX names to those of the Hugging Face Hub; anything else is "other" there."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

_USE = """```python
from lwm.data.dataset import SpectrogramDataset

data = SpectrogramDataset("{root}", split="{split}")
sample = data[0]  # sample["spectrogram"]: float32 [{shape}], dB
print(len(data), data.label_names.keys(), data.record(0))
```"""


def write_card(root: Path, manifest: Manifest, name: str | None = None) -> Path:
    """Write the card and its sheet of pictures into ``root``; returns the card's path.

    Args:
        root: the data set's folder.
        manifest: what is in it.
        name: of the data set, its folder's by default.

    Raises:
        DatasetError: a shard that a picture is taken from is missing or damaged.
        OutputError: no space or permission.
    """
    from lwm.signal.plot import png_bytes

    with atomic_file(root / SHEET) as temporary:
        temporary.write_bytes(png_bytes(sheet(root, manifest), dpi=80))
    with atomic_file(root / CARD) as temporary:
        temporary.write_text(card(name or root.absolute().name, manifest), encoding="utf-8")
    return root / CARD


def card(name: str, manifest: Manifest) -> str:
    """Markdown with the metadata block of the Hugging Face Hub.

    Args:
        name: of the data set, its folder's.
        manifest: with labels, counts, percentiles and audit.
    """
    recipe = manifest.read_recipe()
    size = sum(entry.bytes for entry in manifest.shards)
    technologies = list(dict.fromkeys(entry.technology for entry in manifest.shards))
    splits = _splits(manifest)
    shape = f"{recipe.in_chans}, {recipe.size[0]}, {recipe.size[1]}"
    what = {"plan": "Synthetic r", "recordings": "Recorded r"}.get(_kind(manifest), "R")
    lines = [
        *_front_matter(name, manifest, technologies),
        f"# {name}",
        "",
        f"{what}adio spectrograms for LWM: {manifest.count:,} samples of {', '.join(technologies)} in"
        f" {len(manifest.shards):,} shards, {size / 1e6:,.1f} MB. Each is {shape.replace(', ', '×')} (channels ×"
        f" {recipe.axes.replace('-', ' × ')}), {recipe.duration * 1e3:g} ms of signal, in dB before normalisation.",
        "",
        f"![Ten samples]({SHEET})",
        "",
        _caption(recipe),
        "",
        "## How to load it",
        "",
        _USE.format(root=name, split=splits[0] if splits else "all", shape=shape),
        "",
        "## Splits",
        "",
        *_split_table(manifest),
        "",
        *_label_tables(manifest),
        *_snr_histogram(manifest),
        *_audit_table(manifest),
        *_origin(manifest),
    ]
    return "\n".join(lines)


def _kind(manifest: Manifest) -> str:
    """``"plan"`` (synthetic), ``"recordings"``, or ``"arrays"``."""
    kind = str(manifest.plan.get("kind", "plan"))
    return "recordings" if kind.endswith("recordings") else kind


def _caption(recipe: Any) -> str:
    """What the axes of the pictures are, in their units."""
    time = f"Time runs from left to right, {recipe.duration * 1e3:g} ms"
    if not isinstance(recipe, Recipe):
        return f"{time}; subcarriers run upwards in the order of their frequency, over the channel's bandwidth."
    rate = "the sample rate in Hz (`sample_rate` of each sample)"
    if recipe.sample_rate is not None:
        rate = f"{recipe.sample_rate / 1e6:g} MHz"
    return f"{time}; frequency runs upwards from -fs/2 to fs/2 about the centre frequency, where fs is {rate}."


def _front_matter(name: str, manifest: Manifest, technologies: list[str]) -> list[str]:
    licences = [part.strip() for part in manifest.licence.split(";")]
    alone = licences[0] if len(licences) == 1 else ""
    licence = _LICENCES.get(alone, "other")
    size = next((said for most, said in _SIZES if manifest.count < most), "n>1M")
    return [
        "---",
        f"pretty_name: {json.dumps(name)}",
        f"license: {licence}",
        *([f"license_name: {json.dumps(manifest.licence)}"] if licence == "other" else []),
        f"tags: {json.dumps(['radio', 'spectrogram', 'lwm', *technologies])}",
        f"size_categories: {json.dumps([size])}",
        "---",
        "",
    ]


def _splits(manifest: Manifest) -> list[str]:
    """Splits, those of training first and in their order."""
    return sorted(manifest.splits, key=lambda split: (*SPLITS, split).index(split))


def _split_table(manifest: Manifest) -> list[str]:
    levels = ["1", "50", "99"]
    rows = []
    for split in _splits(manifest):
        found = manifest.statistics.get(split)
        spread = [f"{manifest.percentiles.get(split, {}).get(level, float('nan')):.2f}" for level in levels]
        size = sum(entry.bytes for entry in manifest.shards if entry.split == split)
        moments = ["", ""] if found is None else [f"{found.mean:.3f}", f"{found.std:.3f}"]
        rows.append([split, f"{manifest.splits[split]:,}", f"{size / 1e6:,.1f}", *moments, *spread])
    return _table(["split", "samples", "MB", "mean", "std", *(f"{level} %" for level in levels)], rows)


def _label_tables(manifest: Manifest) -> list[str]:
    """Samples of each label by name and split."""
    lines = ["## Labels", ""]
    splits = _splits(manifest)
    for label, names in manifest.labels.items():
        columns = [manifest.counts.get(split, {}).get(label) for split in splits]
        if not any(columns):
            lines += [f"`{label}`: {len(names):,} names, from `{names[0]}` to `{names[-1]}`.", ""]
            continue
        rows = [[name, *(f"{(column or {}).get(name, 0):,}" for column in columns)] for name in names]
        lines += [*_table([label, *splits], rows), ""]
    return lines


def _snr_histogram(manifest: Manifest) -> list[str]:
    """Bars of the ``snr`` label, whose names are dB."""
    total: dict[str, int] = {}
    for column in manifest.counts.values():
        for name, count in column.get("snr", {}).items():
            total[name] = total.get(name, 0) + count
    if not total:
        return []
    most = max(total.values())
    ordered = [name for name in manifest.labels["snr"] if name in total]
    bars = [f"{name:>6} dB {'█' * max(1, round(_BAR * total[name] / most))} {total[name]:,}" for name in ordered]
    return ["## SNR", "", "```", *bars, "```", ""]


def _audit_table(manifest: Manifest) -> list[str]:
    lines = [
        "## Shortcut audit",
        "",
        "How well a logistic regression tells each label from mean level, occupied bandwidth, guard-band level and a"
        " ten-bin histogram of levels. Balanced accuracy is the mean over classes. A label at or above the bar, halfway"
        " from chance to 1, is **marked**: a model's score on it says little about what it understood.",
        "",
    ]
    if not manifest.audit:
        return [*lines, "No label has enough samples of two classes to be audited.", ""]
    rows = [
        [
            label,
            str(found["classes"]),
            f"{found['accuracy']:.3f}",
            f"{found['majority']:.3f}",
            f"{found['balanced']:.3f}",
            f"{found['chance']:.3f}",
            f"{bar(found['classes']):.3f}",
            f"**marked** ({found['best']})" if found["marked"] else "",
        ]
        for label, found in manifest.audit.items()
    ]
    head = ["label", "classes", "accuracy", "majority", "balanced accuracy", "chance", "bar", "shortcut"]
    sizes = sorted({(found["train"], found["scored"]) for found in manifest.audit.values()})
    said = "; ".join(f"{train:,} to learn from, {scored:,} scored" for train, scored in sizes)
    return [*lines, *_table(head, rows), "", f"Samples: {said}.", ""]


def _origin(manifest: Manifest) -> list[str]:
    origins = {"plan": f"by `lwm generate` with seed {manifest.seed}", "recordings": "by `lwm ingest` from recordings"}
    made = origins.get(_kind(manifest), "from arrays")
    return [
        "## Licence and origin",
        "",
        f"Licence: {manifest.licence}. Made {made}.",
        *_attributions(manifest),
        f"Storage: `{json.dumps(manifest.storage)}`. Versions: `{json.dumps(manifest.versions)}`.",
        f"`lwm doctor` checks every file against the SHA-256 in `{MANIFEST}`.",
        "",
        "### Recipe",
        "",
        *_table(["field", "value"], [[key, str(value)] for key, value in manifest.recipe.items()]),
        "",
        "### Plan",
        "",
        "```json",
        _shortened(manifest.plan),
        "```",
        "",
    ]


def _attributions(manifest: Manifest) -> list[str]:
    """What the ray-traced sites of a plan ask to be said, once each."""
    from lwm.channel.sites import site_table

    sites = (manifest.plan.get("channel") or {}).get("sites") or {}
    names = sorted({name for part in sites.values() for name in part})
    asked = [site_table(name).provenance.get("attribution") for name in names]
    return [f"Attribution: {text}." for text in dict.fromkeys(asked) if text]


def _shortened(plan: dict[str, Any], most: int = 12) -> str:
    """The plan with lists cut after some items: a thousand recordings are listed in the manifest."""

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(item) for key, item in value.items()}
        if isinstance(value, list | tuple) and len(value) > most:
            return [*map(cut, value[:most]), f"... {len(value) - most} more"]
        return value

    return json.dumps(cut(plan), indent=1, ensure_ascii=False)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)]


def sheet(root: Path, manifest: Manifest) -> "Figure":
    """Ten samples, from shards of every split and technology in turn."""
    from matplotlib.figure import Figure

    chosen = _examples(manifest)
    recipe = manifest.read_recipe()
    figure = Figure(figsize=(15.0, 6.0))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.93, wspace=0.04, hspace=0.16)
    for place, (entry, row) in enumerate(chosen):
        shard = ShardReader(root / entry.name, entry)
        axes = figure.add_subplot(2, PICTURES // 2, place + 1)
        _draw(axes, shard, row, recipe, f"{entry.split} {row}")
    return figure


def _examples(manifest: Manifest) -> list[tuple[ShardEntry, int]]:
    """Ten (or all) samples: shards of each technology in turn, a random row of each."""
    groups: dict[tuple[str, str], list[ShardEntry]] = {}
    for entry in manifest.shards:
        groups.setdefault((entry.technology, entry.split), []).append(entry)
    found: list[tuple[ShardEntry, int]] = []
    for turn in range(PICTURES):
        for entries in groups.values():
            entry = entries[turn % len(entries)]
            order = rng_for(manifest.seed or 0, "card", entry.name).permutation(entry.count)
            if turn // len(entries) < entry.count:
                found.append((entry, int(order[turn // len(entries)])))
    return found[:PICTURES]


def _draw(axes: Any, shard: ShardReader, row: int, recipe: Any, fallback: str) -> None:
    from lwm.signal.plot import upright

    picture = upright(shard.read([row])[0], recipe)
    if recipe.channels != "grey":
        axes.imshow(picture.astype(np.uint8), origin="lower", aspect="auto", interpolation="nearest")
    else:
        grey = picture.mean(2)  # antennas of CSI
        cells = grey[:, shard.valid[row]] if shard.valid[row].any() else grey  # padding does not set the contrast
        low, high = np.percentile(cells, (2, 99.8))
        axes.imshow(grey, origin="lower", aspect="auto", interpolation="nearest", vmin=low, vmax=max(high, low + 1))
    said = {label: names[codes[row]] for label, (codes, names) in shard.labels.items() if codes[row] >= 0}
    parts = [said[label] for label in ("technology", "class", "modulation", "mobility") if label in said]
    snr = f"{said['snr']} dB" if "snr" in said else ""
    axes.set_title(" ".join([*parts, snr]).strip() or fallback, fontsize=9)
    axes.set(xticks=[], yticks=[])
