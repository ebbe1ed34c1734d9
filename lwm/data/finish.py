"""The last step of making a data set, whoever made its shards: labels, counts, percentiles, index, audit, card."""

from pathlib import Path

import numpy as np

from lwm.data.index import write_index
from lwm.data.manifest import MOST_COUNTED, Manifest, ordered_labels
from lwm.data.reader import ShardReader
from lwm.data.statistics import BINS, Histogram, percentiles
from lwm.data.storage import level_range


def finish_dataset(
    root: Path,
    manifest: Manifest,
    order: dict[str, list[str]] | None = None,
    card: bool = True,
    name: str | None = None,
) -> None:
    """Merge what the shards know, call the data set complete and save its manifest, index, audit and card.

    The pictures are not read again, except a few thousand for the audit and ten for the card.

    Args:
        root: the data set's folder.
        manifest: with every shard in its final order; changed and saved.
        order: label to names in the order of their codes; names not in it follow by number or name.
        card: make the shortcut audit and write the card, ``README.md`` and its pictures.
        name: of the data set on the card, its folder's by default.

    Raises:
        DatasetError: a shard is missing or damaged.
        OutputError: no space or permission.
    """
    _merge(root, manifest, order or {})
    write_index(root, manifest)
    if card:
        from lwm.data.audit import audit
        from lwm.data.card import write_card

        manifest.audit = audit(root, manifest, manifest.seed or 0)
        write_card(root, manifest, name)
    manifest.complete = True
    manifest.save(root)


def _merge(root: Path, manifest: Manifest, order: dict[str, list[str]]) -> None:
    """Labels, counts, percentiles and storage from the shards into the manifest."""
    found: dict[str, set[str]] = {}
    histograms: dict[str, Histogram] = {}
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for entry in manifest.shards:
        # One after the other and let go: the columns of millions of samples are not held together.
        shard, split = ShardReader(root / entry.name, entry), entry.split
        manifest.storage = shard.storage
        histograms[split] = histograms.get(split, np.zeros(BINS, np.int64)) + shard.histogram
        for label, (codes, names) in shard.labels.items():
            found.setdefault(label, set()).update(names)
            column = counts.setdefault(split, {}).setdefault(label, {})
            for name, count in zip(names, np.bincount(codes[codes >= 0], minlength=len(names)), strict=True):
                column[name] = column.get(name, 0) + int(count)
    low, high = level_range(manifest.read_recipe())
    manifest.labels = ordered_labels(found, order)
    manifest.percentiles = {split: percentiles(part, low, high) for split, part in histograms.items()}
    manifest.counts = {
        split: {
            label: {name: column[label].get(name, 0) for name in names}
            for label, names in manifest.labels.items()
            if label in column and len(names) <= MOST_COUNTED
        }
        for split, column in counts.items()
    }
