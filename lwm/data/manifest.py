"""The manifest: what a data set holds, how it was made, and how to tell that it is whole.

``manifest.json`` stands beside the shards. It is saved anew, atomically, while shards are being made, with
``complete`` false until the last one is there.
"""

import json
import math
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from lwm.errors import DatasetError
from lwm.output import atomic_file
from lwm.signal.recipe import Recipe

FORMAT_VERSION = 2
"""Version of the data set's layout; raised when an older reader could not read it."""

FILE_NAME = "manifest.json"

SPLITS = ("train", "validation", "test")
"""Splits that are made for training; no channel draw, waveform or recording is in two of them."""

MOST_COUNTED = 100
"""Labels with more names than this (a channel draw's, a recording's) are identifiers: nobody reads their counts."""


class Statistics(NamedTuple):
    """Mean and standard deviation in dB (or colour units) over the valid cells."""

    mean: float
    std: float


@dataclass(frozen=True)
class ShardEntry:
    """One shard as the manifest knows it.

    Args:
        name: file name inside the data set's folder.
        split: train, validation, test or all.
        technology: registry name, or what the recordings are called.
        count: samples.
        bytes: size of the file.
        sha256: hash of the file.
        cells: valid cells of all spectrograms, over which ``mean`` and ``std`` were taken.
        mean: their mean.
        std: their standard deviation.
        rejected: draws that were thrown away and made again on the way.
    """

    name: str
    split: str
    technology: str
    count: int
    bytes: int
    sha256: str
    cells: int
    mean: float
    std: float
    rejected: int = 0


def merge_statistics(entries: Iterable[ShardEntry]) -> Statistics | None:
    """Statistics over all valid cells of several shards; None when they hold none."""
    chosen = [entry for entry in entries if entry.cells]
    cells = sum(entry.cells for entry in chosen)
    if not cells:
        return None
    mean = sum(entry.cells * entry.mean for entry in chosen) / cells
    variance = sum(entry.cells * (entry.std**2 + (entry.mean - mean) ** 2) for entry in chosen) / cells
    return Statistics(mean, math.sqrt(variance))


@dataclass
class Manifest:
    """What a data set holds and how it was made.

    Args:
        recipe: :meth:`lwm.signal.recipe.Recipe.to_dict` of every spectrogram in it.
        plan: what was asked for: a generation plan or the list of recordings, JSON-able.
        seed: of the draws; None for recordings.
        licence: SPDX name, or what the recordings say.
        versions: of the packages that decide about the bytes.
        labels: every label with its names, in the order of the codes that readers give out.
        shards: in the order of their samples.
        complete: whether everything that was planned is there.
        storage: :meth:`lwm.data.storage.Storage.to_dict` of the shards; empty until complete.
        percentiles: of the valid cells of every split, dB: ``{"train": {"1": -39.2, ...}}``; to within one bin of
            :data:`lwm.data.statistics.BINS`.
        counts: samples of every split, label and name: ``{"train": {"modulation": {"QPSK": 512}}}``; labels with more
            than :data:`MOST_COUNTED` names are left out.
        audit: what :mod:`lwm.data.audit` found out about each label; empty where none was made.
        format_version: of the layout.
    """

    recipe: dict[str, Any]
    plan: dict[str, Any]
    seed: int | None
    licence: str
    versions: dict[str, str] = field(default_factory=dict)
    labels: dict[str, list[str]] = field(default_factory=dict)
    shards: list[ShardEntry] = field(default_factory=list)
    complete: bool = False
    storage: dict[str, Any] = field(default_factory=dict)
    percentiles: dict[str, dict[str, float]] = field(default_factory=dict)
    counts: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    audit: dict[str, dict[str, Any]] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def count(self) -> int:
        """Samples in all shards."""
        return sum(shard.count for shard in self.shards)

    @property
    def statistics(self) -> dict[str, Statistics]:
        """Statistics of every split (``"train"``) and every split of a technology (``"train/lte"``)."""
        parts: dict[str, list[ShardEntry]] = {}
        for shard in self.shards:
            for key in (shard.split, f"{shard.split}/{shard.technology}"):
                parts.setdefault(key, []).append(shard)
        merged = {key: merge_statistics(part) for key, part in sorted(parts.items())}
        return {key: found for key, found in merged.items() if found is not None}

    @property
    def splits(self) -> dict[str, int]:
        """Samples of every split, in the order of the shards."""
        found: dict[str, int] = {}
        for shard in self.shards:
            found[shard.split] = found.get(shard.split, 0) + shard.count
        return found

    def training_statistics(self) -> Statistics:
        """Statistics of the train split, or of everything where there is no train split (recordings).

        Raises:
            DatasetError: there is no valid cell at all.
        """
        train = [shard for shard in self.shards if shard.split == "train"]
        found = merge_statistics(train or self.shards)
        if found is None:
            raise DatasetError("the data set holds no valid cell", "at least one sample", "make it again")
        return found

    def save(self, root: Path) -> Path:
        """Write ``root/manifest.json`` atomically; ``statistics`` go with it for readers that are not LWM.

        Shards stand at the end, one a line: what a person looks for is on the first screens however many there are.
        """
        path = root / FILE_NAME
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "shards"}
        plain["statistics"] = {key: found._asdict() for key, found in self.statistics.items()}
        head = json.dumps(plain, indent=1, ensure_ascii=False)
        rows = ",\n".join("  " + json.dumps(shard.__dict__, ensure_ascii=False) for shard in self.shards)
        with atomic_file(path) as temporary:
            temporary.write_text(f'{head[:-2]},\n "shards": [\n{rows}\n ]\n}}\n', encoding="utf-8")
        return path

    @classmethod
    def load(cls, root: Path, *, incomplete: bool = False) -> "Manifest":
        """The manifest of the data set in ``root``.

        Args:
            root: the data set's folder.
            incomplete: accept one whose making was interrupted.

        Raises:
            DatasetError: there is none, it is damaged, of another format version, or not complete.
        """
        path = root / FILE_NAME
        if not path.is_file():
            raise DatasetError(
                f"{root} holds no {FILE_NAME}", "a data set's folder", "make one with lwm generate or lwm ingest"
            )
        manifest = cls._parse(path)
        if not (manifest.complete or incomplete):
            raise DatasetError(
                f"data set {root} is not complete ({manifest.count} samples so far)",
                "one whose making ended",
                f"run the command that made it again with --resume, for example lwm generate --out {root} --resume",
            )
        return manifest

    @classmethod
    def _parse(cls, path: Path) -> "Manifest":
        try:
            plain = json.loads(path.read_text())
            found = plain.get("format_version")
        except (ValueError, AttributeError) as error:
            raise DatasetError(
                f"{path} is not readable ({error})", "a JSON manifest", "make the data set again"
            ) from error
        if found != FORMAT_VERSION:
            raise DatasetError(
                f"{path} has format version {found}", str(FORMAT_VERSION), "make the data set again with this version"
            )
        known = {f.name for f in fields(cls)}
        try:
            plain["shards"] = [ShardEntry(**shard) for shard in plain["shards"]]
            return cls(**{key: value for key, value in plain.items() if key in known})
        except (KeyError, TypeError) as error:
            raise DatasetError(
                f"{path} misses or misspells a field ({error})",
                f"the fields {sorted(known)}",
                "make the data set again",
            ) from error

    def read_recipe(self) -> Recipe:
        """The recipe of every spectrogram in the data set."""
        return Recipe.from_dict(self.recipe)


def ordered_labels(found: dict[str, set[str]], order: dict[str, list[str]]) -> dict[str, list[str]]:
    """Names of every label in a stable order: as given, then by number where all are numbers, else by name."""
    return {
        label: [name for name in order.get(label, []) if name in names]
        + _sorted_names(names - set(order.get(label, [])))
        for label, names in sorted(found.items())
    }


def _sorted_names(names: set[str]) -> list[str]:
    try:
        return sorted(names, key=float)
    except ValueError:
        return sorted(names)


def package_versions() -> dict[str, str]:
    """Versions of what decides about a data set's bytes."""
    packages = ("lwm", "numpy", "scipy", "torch", "h5py")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
