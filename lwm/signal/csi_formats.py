"""Files of Wi-Fi CSI: ``.npz`` of ESP32 boards, ESP32 and Nexmon CSV, arrays of antennas x subcarriers x packets."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lwm.errors import CaptureError
from lwm.signal.arrays import NUMPY_DAMAGE, as_complex, chosen, hdf5_datasets, load_matlab
from lwm.signal.csi import USED, CsiRecording, recording_of
from lwm.signal.csi_text import open_csv
from lwm.signal.recording import checked_rate, require_file

DESCRIPTION = "dataset_info.json"

CSI_ONLY = (".npz", ".csv")
"""Endings that mean CSI without being told."""

MIXED = "test"
"""Label that the ESP32 collector gives a recording of several activities: no activity by itself."""

MOST_ANTENNAS = 8
STACKED = (114, 56, 52, 30, *USED)
"""Subcarriers of one antenna where a matrix stacks the antennas of each packet: 342 rows are 3 x 114."""


def open_csi(path: str | Path, packet_rate: float | None = None, variable: str | None = None) -> CsiRecording:
    """Read a file of CSI.

    Args:
        path: ``.npz`` with ``csi_data`` int8 ``[P, 2 S]`` (imaginary and real part of each subcarrier) as the ESP32
            collectors write it, or with an array; ``.csv`` of ESP32-CSI-Tool, esp-csi or Nexmon; ``.npy``, ``.mat``,
            ``.h5`` with an array ``[C, S, P]``, complex or linear amplitude: at most eight antennas first, then
            subcarriers, then packets; or ``[P, S]``, or a matrix ``[C S, P]``.
        packet_rate: packets per second, for a file that does not state times.
        variable: which array of a file with several.

    Raises:
        CaptureError: missing, empty, damaged, or not CSI; no packet rate.
    """
    path = Path(path)
    require_file(path, "CSI")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise CaptureError(f"{path}: unknown format {path.suffix!r} of CSI", f"one of {', '.join(_READERS)}")
    return _described(reader(path, packet_rate, variable))


def _described(recording: CsiRecording) -> CsiRecording:
    """With what a ``dataset_info.json`` beside the file says about it and the file does not: label, chip, gain lock."""
    place = recording.path.with_name(DESCRIPTION)
    if not place.is_file():
        return recording
    try:
        described = json.loads(place.read_text(encoding="utf-8"))["files"]
        entries = {entry["filename"]: (label, entry) for label, group in described.items() for entry in group}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaptureError(f"{place} cannot be read ({error!r})", "files by label", "mend or remove it") from None
    if recording.path.name not in entries:
        return recording
    label, entry = entries[recording.path.name]
    labels = {"activity": label, "chip": str(entry.get("chip", "")).lower()}
    known = {name: value for name, value in labels.items() if value and value != MIXED}
    facts = {name: entry[name] for name in ("description", "gain_locked", "collected_at") if name in entry}
    return replace(recording, labels=known | recording.labels, facts=facts | recording.facts)


def is_csi(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether an array can be CSI: three dimensions, or a matrix of packets and (stacked) subcarriers."""
    if dtype.kind not in "iufc" and not (dtype.names and len(dtype.names) == 2):
        return False
    return len(shape) in (2, 3) and max(shape) > 2 and sum(side >= 30 for side in shape) >= 1 and min(shape) >= 1


def from_array(
    path: Path, array: npt.NDArray[Any], packet_rate: float | None, facts: dict[str, Any] | None = None
) -> CsiRecording:
    """CSI of an array ``[C, S, P]``, ``[C S, P]`` or ``[P, S]`` at a stated packet rate."""
    csi = _packets_first(path, array)
    if packet_rate is None:
        raise CaptureError(f"{path}: no packet rate", "packets per second", "state it (--sample_rate)")
    rate = checked_rate(path, packet_rate)
    return recording_of(path, csi, np.arange(len(csi)) / rate, facts=facts)


def _packets_first(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``[P, C, S]``. Of a matrix, the side of a known number of subcarriers (or a multiple: antennas) is theirs."""
    if array.ndim == 3:
        if array.shape[0] <= MOST_ANTENNAS:
            return array.transpose(2, 0, 1)
        if array.shape[2] <= MOST_ANTENNAS:
            return array.transpose(0, 2, 1) if array.shape[1] < array.shape[0] else array.transpose(1, 2, 0)
    elif array.ndim == 2:
        for subcarriers in STACKED:
            for side, matrix in enumerate((array.T, array)):
                antennas, rest = divmod(array.shape[side], subcarriers)
                if rest == 0 and 1 <= antennas <= MOST_ANTENNAS:
                    return matrix.reshape(len(matrix), antennas, subcarriers)
    raise CaptureError(
        f"{path}: CSI {array.dtype} {list(array.shape)}",
        f"[antennas (at most {MOST_ANTENNAS}), subcarriers, packets], or a matrix of packets and subcarriers",
    )


def _open_npz(path: Path, packet_rate: float | None, variable: str | None) -> CsiRecording:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except NUMPY_DAMAGE as error:
        raise CaptureError(f"{path} cannot be read as .npz ({error})", "a whole file", "copy it again") from None
    plain = {name: array[()].item() for name, array in arrays.items() if array.ndim == 0}
    if variable is not None or "csi_data" not in arrays:
        name = chosen(path, {n: (a.shape, a.dtype) for n, a in arrays.items() if a.ndim}, variable, is_csi)
        return from_array(path, arrays[name], packet_rate, plain)
    data, count = arrays["csi_data"], plain.get("num_subcarriers")
    if data.ndim != 2 or not len(data) or data.dtype != np.int8 or data.shape[1] != 2 * (count or data.shape[1] // 2):
        raise CaptureError(
            f"{path}: csi_data {data.dtype} {list(data.shape)} with {count} subcarriers",
            "int8 [packets, 2 x subcarriers]",
        )
    if packet_rate is None:
        duration = plain.get("duration_ms")
        if not (isinstance(duration, int | float) and duration > 0):
            raise CaptureError(f"{path}: no duration_ms", "packet times", "state packets per second (--sample_rate)")
        packet_rate = len(data) / (duration / 1e3)
    rate = checked_rate(path, packet_rate)
    stated = {"activity": plain.get("label"), "chip": plain.get("chip")}
    labels = {name: str(value) for name, value in stated.items() if value and value != MIXED}
    facts = {name: value for name, value in plain.items() if name not in ("chip", "num_subcarriers")}
    return recording_of(
        path, from_bytes(data)[:, None], np.arange(len(data)) / rate, labels, facts | {"packet_rate": rate}
    )


def from_bytes(data: npt.NDArray[np.int8]) -> npt.NDArray[np.complex64]:
    """complex64 ``[P, S]`` of int8 ``[P, 2 S]``: imaginary, then real part (ESP-IDF, ``wifi_csi_info_t::buf``)."""
    pairs = data.reshape(len(data), -1, 2).astype(np.float32)
    return np.ascontiguousarray(pairs[..., ::-1]).view(np.complex64)[..., 0]


def _open_npy(path: Path, packet_rate: float | None, variable: str | None) -> CsiRecording:
    try:
        array = np.load(path, allow_pickle=False)
    except NUMPY_DAMAGE as error:
        raise CaptureError(f"{path} cannot be read as a numpy array ({error})", "a whole .npy file") from None
    return from_array(path, array, packet_rate)


def _open_mat(path: Path, packet_rate: float | None, variable: str | None) -> CsiRecording:
    if h5py.is_hdf5(path):
        return _open_hdf5(path, packet_rate, variable)
    arrays = load_matlab(path)
    name = chosen(path, {n: (a.shape, a.dtype) for n, a in arrays.items()}, variable, is_csi)
    return from_array(path, arrays[name], packet_rate)


def _open_hdf5(path: Path, packet_rate: float | None, variable: str | None) -> CsiRecording:
    try:
        with h5py.File(path, "r") as file:
            name = chosen(path, hdf5_datasets(file)[0], variable, is_csi)
            array = as_complex(file[name][()])
    except (OSError, RuntimeError) as error:
        raise CaptureError(f"{path} cannot be read as HDF5 ({error})", "a whole file", "copy it again") from None
    # MATLAB writes its arrays with the order of their dimensions turned round.
    return from_array(path, array.T if path.suffix.lower() == ".mat" else array, packet_rate)


def _open_csv(path: Path, packet_rate: float | None, variable: str | None) -> CsiRecording:
    return open_csv(path, packet_rate)


_READERS: dict[str, Callable[[Path, float | None, str | None], CsiRecording]] = {
    ".npz": _open_npz,
    ".csv": _open_csv,
    ".npy": _open_npy,
    ".mat": _open_mat,
    ".h5": _open_hdf5,
    ".hdf5": _open_hdf5,
}

CSI_SUFFIXES = tuple(_READERS)
"""File name endings that can hold CSI."""
