"""Several data sets of one recipe read as one."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from lwm.data.dataset import SpectrogramDataset
from lwm.data.expression import select
from lwm.data.manifest import MOST_COUNTED, Manifest, Statistics
from lwm.data.pictures import read_pictures
from lwm.errors import DatasetError

_UNLABELLED = -1


class MixedDataset(Dataset[dict[str, Any]]):
    """Data sets one after the other, their labels merged by name; what one lacks is -1 (NaN for values).

    An item is a whole batch: ``mixed[indices]``.

    Args:
        members: the data sets, of one recipe, their ``label_names`` those of :func:`distinct_labels`.
        label_names: merged names, of :func:`merged_labels`.
        where: selection over all of them (:mod:`lwm.data.expression`).

    Attributes:
        starts: int64 ``[len(members) + 1]``: index of each member's first sample.
        labels: label to int64 codes ``[len(self)]``.
        values: name to float32 ``[len(self)]``.
        has_clean: whether samples have ``"clean"``: where all members do.

    Raises:
        RecipeMismatch: two recipes; both are named.
        DatasetError: nothing is selected from one of them, or the selection is wrong.
    """

    def __init__(
        self, members: Sequence[SpectrogramDataset], label_names: dict[str, list[str]], where: str | None = None
    ) -> None:
        self.members, self.label_names = list(members), label_names
        for member in self.members[1:]:
            self.members[0].recipe.require_same(member.recipe, str(self.members[0].root), str(member.root))
        self.has_clean = all(member.has_clean for member in self.members)
        self._merge()
        if where is not None:
            kept = select(where, self.labels, label_names, self.values, len(self))
            for member, start, stop in zip(self.members, self.starts, self.starts[1:], strict=False):
                part = np.flatnonzero(kept[start:stop])
                if not len(part):
                    raise DatasetError(
                        f"nothing in {member.root} fulfils {where!r}", "at least one sample", "widen the selection"
                    )
                member.keep(part)
            self._merge()

    def _merge(self) -> None:
        """Columns of all members; int16 where the names allow it, so that millions of samples stay small."""
        self.starts = np.cumsum([0, *map(len, self.members)])
        self.labels: dict[str, npt.NDArray[Any]] = {}
        for label, names in self.label_names.items():
            dtype = np.int16 if len(names) <= np.iinfo(np.int16).max else np.int32
            self.labels[label] = np.concatenate([_recoded(m, label, names).astype(dtype) for m in self.members])
        found = sorted({name for member in self.members for name in member.values})
        self.values: dict[str, npt.NDArray[np.float32]] = {
            name: np.concatenate([m.values.get(name, np.full(len(m), np.nan, np.float32)) for m in self.members])
            for name in found
        }

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, indices: npt.NDArray[np.int64]) -> dict[str, Any]:
        """A batch, see :meth:`batch`, with pictures as stored, in half precision."""
        return self.batch(indices, torch.float16)

    def batch(
        self, indices: Sequence[int] | npt.NDArray[np.int64], dtype: torch.dtype = torch.float32
    ) -> dict[str, Any]:
        """Samples stacked: ``spectrogram [B, C, F, T]``, ``clean`` where all have it, ``valid [B, T]``, ``index`` and
        codes int64 ``[B]``."""
        chosen = np.asarray(indices, np.int64)
        numbers = np.searchsorted(self.starts, chosen, side="right") - 1
        parts = []
        valid = np.empty((len(chosen), self.members[0].columns), bool)
        for number in range(len(self.members)):
            member, places = self.members[number], np.flatnonzero(numbers == number)
            if len(places):
                inside = chosen[places] - self.starts[number]
                parts.append(member.part(inside, places))
                valid[places] = member.valid(inside)
        pictures = ("spectrogram", "clean") if self.has_clean else ("spectrogram",)
        out: dict[str, Any] = {name: read_pictures(parts, len(chosen), name, dtype) for name in pictures}
        out["valid"] = torch.from_numpy(valid)
        out["index"] = torch.from_numpy(chosen)
        labels = {label: torch.from_numpy(codes[chosen].astype(np.int64)) for label, codes in self.labels.items()}
        return out | labels

    def chunks(self, size: int) -> npt.NDArray[np.int64]:
        """Number of the chunk of each sample ``[len(self)]``, not decreasing: runs of ``size`` rows of a shard."""
        parts, first = [], 0
        for member in self.members:
            parts.append(member.chunks(size) + first)
            first = int(parts[-1][-1]) + 1
        return np.concatenate(parts)

    @property
    def member_of(self) -> npt.NDArray[np.int64]:
        """Number of the data set of each sample ``[len(self)]``."""
        return np.repeat(np.arange(len(self.members)), np.diff(self.starts))


def distinct_labels(manifests: Sequence[Manifest]) -> list[dict[str, list[str]]]:
    """Labels of each of several data sets, ready to be merged by name.

    A label with more than :data:`lwm.data.manifest.MOST_COUNTED` names in one of them is an identifier, and what is
    called ``train/3`` in two data sets are two things: its names get the data set's number in front (``0:train/3``).
    Those of a single data set stay as they are.
    """
    having = {label: [m.labels[label] for m in manifests if label in m.labels] for m in manifests for label in m.labels}
    apart = {
        label
        for label, columns in having.items()
        if len(columns) > 1 and max(len(names) for names in columns) > MOST_COUNTED
    }
    return [
        {
            label: [f"{number}:{name}" for name in names] if label in apart else names
            for label, names in manifest.labels.items()
        }
        for number, manifest in enumerate(manifests)
    ]


def merged_labels(labels: Sequence[dict[str, list[str]]]) -> dict[str, list[str]]:
    """Labels of several data sets (:func:`distinct_labels`) with the names of all: by number where all are numbers,
    else the first data set's names in their order, then what the next ones add. Those of a single data set stay as they
    are."""
    merged: dict[str, list[str]] = {}
    for label in sorted({label for each in labels for label in each}):
        columns = [each[label] for each in labels if label in each]
        merged[label] = list(dict.fromkeys(name for names in columns for name in names))
        if len(columns) > 1:
            merged[label] = _by_number(merged[label])
    return merged


def mixed_statistics(manifests: Sequence[Manifest], weights: Sequence[float] | None) -> Statistics:
    """Mean and standard deviation over what an epoch draws: each data set's training statistics, weighted.

    Args:
        manifests: of the data sets.
        weights: their shares of an epoch; None: by their number of valid cells in training.
    """
    parts = [manifest.training_statistics() for manifest in manifests]
    if len(parts) == 1:
        return parts[0]
    shares = np.array([_cells(manifest) for manifest in manifests] if weights is None else weights, float)
    shares /= shares.sum()
    mean = sum(share * part.mean for share, part in zip(shares, parts, strict=True))
    variance = sum(s * (p.std**2 + (p.mean - mean) ** 2) for s, p in zip(shares, parts, strict=True))
    return Statistics(float(mean), math.sqrt(variance))


def require_one_recipe(roots: Sequence[str], manifests: Sequence[Manifest]) -> None:
    """RecipeMismatch, naming both data sets, unless all are of one recipe."""
    first = manifests[0].read_recipe()
    for root, manifest in zip(roots[1:], manifests[1:], strict=True):
        first.require_same(manifest.read_recipe(), f"data set {roots[0]}", f"data set {root}")


def _cells(manifest: Manifest) -> int:
    train = [entry for entry in manifest.shards if entry.split == "train"] or manifest.shards
    return sum(entry.cells for entry in train)


def _by_number(names: list[str]) -> list[str]:
    try:
        return sorted(names, key=float)
    except ValueError:
        return names


def _recoded(member: SpectrogramDataset, label: str, names: list[str]) -> npt.NDArray[np.int64]:
    """A member's codes of a label in the merged names."""
    own = member.label_names.get(label)
    if own is None:
        return np.full(len(member), _UNLABELLED, np.int64)
    codes = member.labels[label]
    if own == names:
        return codes
    places = {name: code for code, name in enumerate(names)}
    return np.array([*(places[name] for name in own), _UNLABELLED], np.int64)[codes]
