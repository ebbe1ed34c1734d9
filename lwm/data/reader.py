"""Reading one shard: labels in memory, pictures mapped from the file or decompressed chunk by chunk."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from lwm.data.manifest import ShardEntry
from lwm.data.statistics import Histogram
from lwm.data.storage import Layout, require_plugin
from lwm.errors import DatasetError

RESERVED_LABELS = frozenset({"spectrogram", "clean", "mask", "valid", "index"})
"""What a batch holds beside its labels: no label may be called so."""

Rows = Sequence[int] | npt.NDArray[np.int64]


class Boxes(NamedTuple):
    """Boxes of a shard's samples: those of sample ``i`` are rows ``offset[i]`` to ``offset[i + 1]``.

    ``places``: float32 ``[M, 4]``: start s, stop s, low Hz, high Hz, from the picture's begin and centre.
    ``codes``: int64 ``[M]`` into ``names``. ``offset``: int64 ``[N + 1]``.
    """

    places: npt.NDArray[np.float32]
    codes: npt.NDArray[np.int64]
    names: list[str]
    offset: npt.NDArray[np.int64]


class ShardReader:
    """One shard opened for reading: labels in memory, pictures mapped from the file, nothing kept open.

    Picklable; a mapping is made again in every process that reads.

    Args:
        path: the file.
        entry: what the manifest says about it.

    Attributes:
        count: samples.
        layout: where each kind of picture lies: ``spectrogram`` and, where stored, ``clean`` ``[N, C, F, T]``,
            ``mask`` ``[N, F, T]`` and ``iq`` ``[N, S, 2]``.
        recipe: of the pictures, as a dict.
        storage: :meth:`lwm.data.storage.Storage.to_dict` of the writer.
        versions: of the packages that wrote it.
        seed: of the draws; None for recordings.
        licence: of the data.
        valid: bool ``[N, T]``.
        labels: label to int64 codes ``[N]`` and their names.
        values: name to float32 ``[N]``.
        has_boxes: whether :meth:`read_boxes` finds any.
        iq_length: int64 ``[N]``, samples of IQ before the filling; None without IQ.

    Raises:
        DatasetError: missing, truncated, not HDF5, or not what ``entry`` says.
        ConfigError: compressed, and hdf5plugin is not installed (when it is read).
    """

    def __init__(self, path: Path, entry: ShardEntry) -> None:
        self.path, self.entry = path, entry
        self._maps: dict[str, npt.NDArray[Any]] = {}
        check_size(path, entry)
        try:
            with h5py.File(path, "r") as file:
                self._read_header(file)
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise DatasetError(
                f"shard {path} cannot be read ({error})", "a whole HDF5 shard", f"run lwm doctor {path.parent}"
            ) from error
        if self.count != entry.count:
            raise DatasetError(
                f"shard {path} holds {self.count} samples",
                f"{entry.count} as its manifest says",
                f"run lwm doctor {path.parent}",
            )

    def _read_header(self, file: h5py.File) -> None:
        self.count: int = file["spectrogram"].shape[0]
        self.layout: dict[str, Layout] = {
            name: _layout(file[name]) for name in ("spectrogram", "clean", "mask", "iq") if name in file
        }
        self.recipe: dict[str, Any] = json.loads(file.attrs["recipe"])
        self.storage: dict[str, Any] = json.loads(file.attrs["storage"])
        self.versions: dict[str, str] = json.loads(file.attrs["versions"])
        seed = int(file.attrs["seed"])
        self.seed: int | None = None if seed < 0 else seed
        self.licence: str = str(file.attrs["licence"])
        self.histogram: Histogram = file["level_histogram"][:]
        self.valid: npt.NDArray[np.bool_] = file["valid"][:].astype(bool)
        self.labels: dict[str, tuple[npt.NDArray[np.int64], list[str]]] = {
            name: (dataset[:].astype(np.int64), [str(text) for text in dataset.attrs["names"]])
            for name, dataset in file.get("labels", {}).items()
        }
        self.values: dict[str, npt.NDArray[np.float32]] = {
            name: dataset[:] for name, dataset in file.get("values", {}).items()
        }
        self.has_boxes: bool = "boxes" in file
        self.iq_length: npt.NDArray[np.int64] | None = file["iq_length"][:] if "iq_length" in file else None

    @property
    def has_clean(self) -> bool:
        """Whether noise-free pictures are stored."""
        return "clean" in self.layout

    def read(self, rows: Rows, name: str = "spectrogram") -> npt.NDArray[np.float32]:
        """Pictures ``[len(rows), C, F, T]`` as float32 dB, however they are stored."""
        stored = self.read_stored(rows, name).astype(np.float32)
        layout = self.layout[name]
        if not layout.plain:
            stored *= layout.scale
            stored += layout.shift
        return stored

    def read_stored(self, rows: Rows, name: str = "spectrogram") -> npt.NDArray[Any]:
        """Rows of ``spectrogram``, ``clean``, ``mask`` or ``iq`` in their stored type.

        Mapped where they lie in one piece, else each chunk that holds one of them is decompressed once.
        """
        layout = self.layout[name]
        if layout.offset is None:
            return self._read_chunks(np.asarray(rows, np.int64), name)
        if name not in self._maps:
            self._maps[name] = np.memmap(self.path, layout.dtype, "r", layout.offset, layout.shape)
        return np.asarray(self._maps[name][rows])

    def _read_chunks(self, rows: npt.NDArray[np.int64], name: str) -> npt.NDArray[Any]:
        layout = self.layout[name]
        require_plugin()
        rows = np.where(rows < 0, rows + self.count, rows)
        out = np.empty((len(rows), *layout.shape[1:]), layout.dtype)
        chunks = rows // layout.chunk
        with h5py.File(self.path, "r") as file:
            for chunk in np.unique(chunks):
                first = int(chunk) * layout.chunk
                places = chunks == chunk
                out[places] = file[name][first : first + layout.chunk][rows[places] - first]
        return out

    def read_iq(self, row: int) -> npt.NDArray[np.complex64]:
        """IQ of one sample, complex64 ``[S]`` without filling.

        Raises:
            DatasetError: the shard holds no IQ.
        """
        if self.iq_length is None:
            raise DatasetError(
                f"shard {self.path} holds no IQ", remedy="make the data set again with storage: {iq: true} in its plan"
            )
        pairs = self.read_stored([row], "iq")[0, : self.iq_length[row]].astype(np.float32)
        return np.ascontiguousarray(pairs).view(np.complex64)[:, 0]

    def read_boxes(self) -> Boxes:
        """Boxes of all samples.

        Raises:
            DatasetError: the shard holds none.
        """
        if not self.has_boxes:
            raise DatasetError(f"shard {self.path} holds no boxes")
        with h5py.File(self.path, "r") as file:
            label = file["box_label"]
            names = [str(text) for text in label.attrs["names"]]
            return Boxes(file["boxes"][:], label[:].astype(np.int64), names, file["box_offset"][:])

    def records(self) -> list[str]:
        """The JSON records of all samples."""
        with h5py.File(self.path, "r") as file:
            return list(file["record"].asstr()[:])

    def origins(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """What samples were made of: a waveform or a recording; a name of their own where neither is known."""
        records = self.records()
        return [origin_of(json.loads(records[row])) or f"{self.path.name}/{row}" for row in rows]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}


def origin_of(record: dict[str, Any]) -> str:
    """Waveform or recording that a sample's record names, empty where it names none."""
    return str(record.get("waveform") or record.get("recording") or record.get("source") or "")


def _layout(dataset: h5py.Dataset) -> Layout:
    return Layout(
        dataset.id.get_offset(),
        dataset.shape,
        dataset.dtype.str,
        float(dataset.attrs.get("scale", 1.0)),
        float(dataset.attrs.get("shift", 0.0)),
        dataset.chunks[0] if dataset.chunks else 1,
    )


def check_size(path: Path, entry: ShardEntry) -> None:
    """Refuse a shard that is not there or not as long as the manifest says.

    Raises:
        DatasetError: missing, truncated or too long.
    """
    remedy = f"run lwm doctor {path.parent}, or make it again"
    if not path.is_file():
        raise DatasetError(f"shard {path} is missing", "a file that the manifest lists", remedy)
    size = path.stat().st_size
    if size != entry.bytes:
        what = "is truncated at" if size < entry.bytes else "has"
        raise DatasetError(f"shard {path} {what} {size} bytes", f"{entry.bytes} as its manifest says", remedy)
