"""Pictures of many shards: mapped or decompressed where they are first needed, gathered a batch at a time.

Nothing here is opened before a sample of its shard is asked for, and nothing is carried from one process to another.
"""

import math
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
import torch

from lwm.data.index import Index
from lwm.data.manifest import ShardEntry
from lwm.data.reader import check_size
from lwm.data.storage import require_plugin
from lwm.errors import DatasetError

_MAPS = 16_384
"""Shards mapped at a time in one process; Linux allows 65,530 mappings."""

_FILES = 32
"""Compressed shards open at a time in one process."""

_DECODED_BYTES = 256 << 20
"""Decompressed chunks kept in one process."""

_BLOCK = 16
"""Pictures converted together, few enough to stay in the processor's cache between the steps."""

_NAMES = {torch.float16: "<f2", torch.float32: "<f4"}

Samples = npt.NDArray[np.int64]


class Kind(NamedTuple):
    """Stored type, and scale and shift from stored numbers to dB."""

    dtype: str
    scale: float
    shift: float


class Part(NamedTuple):
    """Samples of one data set in a batch: ``samples [n]`` (numbers in the whole data set) go to ``places [n]``."""

    files: "PictureFiles"
    samples: Samples
    places: Samples


class PictureFiles:
    """The pictures of one data set. Picklable; each process maps for itself.

    Args:
        root: the data set's folder.
        entries: its shards, in order.
        index: its index.
    """

    def __init__(self, root: Path, entries: list[ShardEntry], index: Index) -> None:
        self.root, self.entries, self.index = root, entries, index
        self._kinds: dict[str, list[Kind]] = {}
        self._kind_of: dict[str, npt.NDArray[np.int64]] = {}
        for name, place in index.places.items():
            kinds, numbers = np.unique(place[["dtype", "scale", "shift"]], return_inverse=True)
            self._kinds[name] = [Kind(k["dtype"].decode(), float(k["scale"]), float(k["shift"])) for k in kinds]
            self._kind_of[name] = numbers
        self._forget()

    def _forget(self) -> None:
        self._maps: OrderedDict[tuple[int, str], memoryview] = OrderedDict()
        self._decoded: OrderedDict[tuple[int, str, int], npt.NDArray[Any]] = OrderedDict()
        self._decoded_bytes = 0
        self._open: OrderedDict[int, h5py.File] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        ours = ("_maps", "_decoded", "_decoded_bytes", "_open", "_process")
        return {key: value for key, value in self.__dict__.items() if key not in ours}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def split_kinds(self, samples: Samples, name: str) -> list[tuple[Kind, npt.NDArray[Any] | slice]]:
        """Kinds of the pictures of ``samples``, each with the places in ``samples`` that have it."""
        kinds = self._kinds[name]
        if len(kinds) == 1:
            return [(kinds[0], slice(None))]
        numbers = self._kind_of[name][self.index.locate(samples)[0]]
        return [(kinds[number], np.flatnonzero(numbers == number)) for number in np.unique(numbers)]

    def gather(self, samples: Samples, places: Samples, name: str, out: npt.NDArray[Any]) -> None:
        """Stored pictures of ``samples [n]`` into ``out[places]``, which must be contiguous.

        Neighbours in a shard that stay neighbours are copied in one piece. Copies go between memoryviews, whose checked
        slices cost a third of numpy's: a batch of pictures is as fast as a sequential read of them (measured).

        Raises:
            DatasetError: a shard is missing or not of the manifest's size.
        """
        if self._process != os.getpid():  # a forked worker shares no HDF5 handle with its parent
            self._forget()
        if not len(samples):
            return
        shards, rows = self.index.locate(samples)
        breaks = np.flatnonzero((np.diff(shards) != 0) | (np.diff(rows) != 1) | (np.diff(places) != 1)) + 1
        first = np.concatenate([[0], breaks])
        lengths = np.diff(np.concatenate([first, [len(samples)]]))
        size = out[:1].nbytes
        source, place = rows[first] * size, places[first] * size
        bounds = (shards[first], source, source + lengths * size, place, place + lengths * size)
        target = out.data.cast("B")
        maps = self._maps
        for shard, start, stop, to, end in zip(*(bound.tolist() for bound in bounds), strict=True):
            stored = maps.get((shard, name))
            if stored is None:
                stored = self._map(shard, name)
            if stored is not None:
                target[to:end] = stored[start:stop]
            else:
                self._decompress(shard, name, start // size, out[to // size : end // size])

    def _map(self, shard: int, name: str) -> memoryview | None:
        """Bytes of a shard's pictures mapped, None where they are compressed."""
        place = self.index.places[name][shard]
        if place["offset"] < 0:
            return None
        entry = self.entries[shard]
        path = self.root / entry.name
        check_size(path, entry)
        size = math.prod(self.index.shapes[name]) * np.dtype(place["dtype"].decode()).itemsize
        mapped = np.memmap(path, np.uint8, "r", int(place["offset"]), (entry.count * size,))
        if len(self._maps) >= _MAPS:
            self._maps.popitem(last=False)
        self._maps[shard, name] = mapped.data
        return self._maps[shard, name]

    def _decompress(self, shard: int, name: str, row: int, out: npt.NDArray[Any]) -> None:
        size = int(self.index.places[name][shard]["chunk"])
        done = 0
        while done < len(out):
            number, inside = divmod(row + done, size)
            chunk = self._chunk(shard, name, number, size)
            length = min(len(chunk) - inside, len(out) - done)
            out[done : done + length] = chunk[inside : inside + length]
            done += length

    def _chunk(self, shard: int, name: str, number: int, size: int) -> npt.NDArray[Any]:
        key = (shard, name, number)
        if key in self._decoded:
            self._decoded.move_to_end(key)
            return self._decoded[key]
        try:
            chunk: npt.NDArray[Any] = self._file(shard)[name][number * size : (number + 1) * size]
        except (OSError, KeyError) as error:
            raise DatasetError(
                f"shard {self.root / self.entries[shard].name} cannot be decompressed ({error})",
                "whole chunks",
                f"run lwm doctor {self.root}",
            ) from error
        self._decoded[key] = chunk
        self._decoded_bytes += chunk.nbytes
        while self._decoded_bytes > _DECODED_BYTES and len(self._decoded) > 1:
            self._decoded_bytes -= self._decoded.popitem(last=False)[1].nbytes
        return chunk

    def _file(self, shard: int) -> h5py.File:
        if shard not in self._open:
            entry = self.entries[shard]
            require_plugin()
            check_size(self.root / entry.name, entry)
            if len(self._open) >= _FILES:
                self._open.popitem(last=False)[1].close()
            self._open[shard] = h5py.File(self.root / entry.name, "r")
        self._open.move_to_end(shard)
        return self._open[shard]


def read_pictures(parts: Sequence[Part], count: int, name: str, dtype: torch.dtype) -> torch.Tensor:
    """Pictures of a batch, dB ``[count, C, F, T]``.

    Args:
        parts: where each place of the batch comes from; together they fill all of them.
        count: samples in the batch.
        name: kind of picture.
        dtype: float32, or float16, which copies what is stored as float16 without a conversion.
    """
    kinds: dict[Kind, list[Part]] = {}
    for part in parts:
        for kind, chosen in part.files.split_kinds(part.samples, name):
            kinds.setdefault(kind, []).append(Part(part.files, part.samples[chosen], part.places[chosen]))
    shape = parts[0].files.index.shapes[name]
    if len(kinds) == 1:
        ((kind, members),) = kinds.items()
        return _read_kind(members, kind, (count, *shape), name, dtype)
    out = torch.empty((count, *shape), dtype=dtype)
    for kind, members in kinds.items():
        places = np.concatenate([part.places for part in members])
        ends = np.cumsum([len(part.places) for part in members])
        ranges = [np.arange(end - len(part.places), end) for part, end in zip(members, ends, strict=True)]
        packed = [part._replace(places=inside) for part, inside in zip(members, ranges, strict=True)]
        out[torch.from_numpy(places)] = _read_kind(packed, kind, (len(places), *shape), name, dtype)
    return out


def _read_kind(
    parts: Sequence[Part], kind: Kind, shape: tuple[int, ...], name: str, dtype: torch.dtype
) -> torch.Tensor:
    stored = _BUFFERS.take(shape, kind.dtype)
    for part in parts:
        part.files.gather(part.samples, part.places, name, stored)
    return _decoded(torch.from_numpy(stored), kind, dtype)


def _decoded(stored: torch.Tensor, kind: Kind, dtype: torch.dtype) -> torch.Tensor:
    """Stored numbers as dB of a type; ``stored`` itself where it is that already."""
    plain = (kind.scale, kind.shift) == (1.0, 0.0)
    if plain and stored.dtype == dtype:
        return stored
    # torch converts half precision ten times as fast as numpy.
    out = torch.from_numpy(_BUFFERS.take(tuple(stored.shape), _NAMES[dtype]))
    if plain:
        return out.copy_(stored)
    for given, made in zip(stored.split(_BLOCK), out.split(_BLOCK), strict=True):
        made.copy_(given.to(torch.float32).mul_(kind.scale).add_(kind.shift))
    return out


class _Buffers:
    """Memory of batches that nobody holds any more, used again: fresh pages would cost as much as the copy itself.

    An array is free when nothing but this list refers to it. A tensor, a view or a slice of it refers to it, so what
    someone still holds is never written to, however many batches that are; then new memory is taken.

    Args:
        most: arrays kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[npt.NDArray[Any]] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        """An array that nothing else refers to, its content arbitrary; the last one used, which caches still hold."""
        with self._lock:
            for number in reversed(range(len(self._kept))):
                array = self._kept[number]
                if array.shape == shape and array.dtype == dtype and sys.getrefcount(array) <= _UNUSED:
                    self._kept.append(self._kept.pop(number))
                    return array
            array = np.empty(shape, dtype)
            self._kept = [*self._kept[-self._most + 1 :], array]
            return array


def _references(kept: list[Any]) -> int:
    """References to an object that only ``kept``, a name and a call hold, as in :meth:`_Buffers.take`."""
    item = kept[0]
    return sys.getrefcount(item)


_UNUSED = _references([object()])
_BUFFERS = _Buffers(6)
