"""IQ in array files: numpy, MATLAB (v5 to v7.3) and HDF5."""

import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lwm.errors import CaptureError
from lwm.signal.recording import Complex, Opened, decode

_RATES = ("sample_rate", "samplerate", "samp_rate", "sampling_rate", "fs")
_CENTERS = ("center_frequency", "centerfrequency", "center_freq", "fc")
"""Names under which array files state sample rate and centre frequency in Hz, in any case."""

NUMPY_DAMAGE = (ValueError, EOFError, OSError, KeyError, SyntaxError, TokenError, zipfile.BadZipFile, zlib.error)
"""What numpy raises on a damaged ``.npy`` or ``.npz``, depending on where the damage is."""

_MATLAB_HDF5 = b"MATLAB 7.3 MAT-file"


def open_numpy(path: Path, variable: str | None = None) -> Opened:
    """``.npy``, mapped: complex ``[S]``, or real ``[S, 2]`` or ``[2, S]`` (I and Q)."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except NUMPY_DAMAGE as error:
        raise CaptureError(f"{path} cannot be read as a numpy array ({error})", "a whole .npy file") from None
    where = f"{path}: array {array.dtype} {list(array.shape)}"
    if array.size == 0:
        raise CaptureError(f"{where} is empty", "IQ samples", "record or copy it again")
    if not is_iq(array.shape, array.dtype):
        raise CaptureError(where, "complex [S], or real [S, 2] or [2, S]", "of Wi-Fi CSI: add --kind csi")
    return _opened(array, array.shape, array.dtype)


def open_matlab(path: Path, variable: str | None = None) -> Opened:
    """``.mat``: v5 to v7.2 through scipy, which holds the variable in memory; v7.3 through h5py, read in part."""
    with path.open("rb") as handle:
        newer = handle.read(len(_MATLAB_HDF5)) == _MATLAB_HDF5
    if newer:
        return open_hdf5(path, variable)
    arrays = load_matlab(path)
    name = chosen(path, {name: (array.shape, array.dtype) for name, array in arrays.items()}, variable)
    array = arrays[name]
    numbers = {name: _number(array) for name, array in arrays.items()}
    return _opened(array, array.shape, array.dtype, numbers)


def load_matlab(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Numeric variables of a MATLAB file of version 5 to 7.2.

    Raises:
        CaptureError: damaged, or another format.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    # What scipy raises on a damaged file depends on where the damage is.
    damaged = (MatReadError, ValueError, TypeError, OSError, EOFError, LookupError, NotImplementedError, zlib.error)
    try:
        found = loadmat(path)
    except damaged as error:
        raise CaptureError(
            f"{path} cannot be read as a MATLAB file ({error})", "a whole .mat file", "copy it again"
        ) from None
    return {
        name: array for name, array in found.items() if isinstance(array, np.ndarray) and array.dtype.kind in "biufc"
    }


def open_hdf5(path: Path, variable: str | None = None) -> Opened:
    """HDF5 or MATLAB v7.3, read in part: a dataset as for ``.npy``; complex ones may be compounds of two numbers.

    Sample rate and centre frequency come from attributes of the dataset, its groups or the file, or from scalar
    datasets, of the names ``sample_rate``, ``samp_rate``, ``fs``, ``center_frequency``, ``fc``.
    """
    try:
        with h5py.File(path, "r") as file:
            shapes, numbers = hdf5_datasets(file)
            name = chosen(path, {n: (shape, _plain(dtype)) for n, (shape, dtype) in shapes.items()}, variable)
            shape, dtype = shapes[name]
            here: h5py.Dataset | h5py.Group = file[name]
            for level in (file, here.parent, here):
                numbers |= {key: _number(np.asarray(value)) for key, value in level.attrs.items()}
    except (OSError, RuntimeError) as error:
        raise CaptureError(f"{path} cannot be read as HDF5 ({error})", "a whole HDF5 file", "copy it again") from None

    def read(part: Any) -> npt.NDArray[Any]:
        try:
            with h5py.File(path, "r") as file:
                return as_complex(file[name][part])
        except (OSError, RuntimeError) as error:
            raise CaptureError(f"{path}: {name} cannot be read ({error})", "whole chunks", "copy it again") from None

    return _opened(_Sliced(read), shape, _plain(dtype), numbers)


def hdf5_datasets(file: h5py.File) -> tuple[dict[str, tuple[tuple[int, ...], np.dtype[Any]]], dict[str, float | None]]:
    """Shape and dtype of every dataset by its path, and the scalar ones' values."""
    shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    numbers: dict[str, float | None] = {}

    def visit(name: str, node: h5py.Dataset | h5py.Group) -> None:
        if isinstance(node, h5py.Dataset):
            shapes[name] = (node.shape or (), node.dtype)
            if node.size == 1 and node.dtype.kind in "iuf":
                numbers[name.rsplit("/", 1)[-1]] = float(node[()].reshape(-1)[0] if node.shape else node[()])

    file.visititems(visit)
    return shapes, numbers


def as_complex(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array of compounds (real, imaginary) as complex; others as they are."""
    if array.dtype.names is None:
        return array
    real, imaginary = array.dtype.names
    return array[real] + 1j * array[imaginary]


def chosen(
    path: Path,
    arrays: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]],
    variable: str | None,
    fits: Callable[[tuple[int, ...], np.dtype[Any]], bool] | None = None,
) -> str:
    """The array that is named, or the only one that fits; CaptureError lists what is there.

    Args:
        path: for messages.
        arrays: name to shape and dtype.
        variable: the name that the user gave.
        fits: whether shape and dtype could be what is wanted; IQ by default.
    """
    suits = fits or is_iq
    there = (
        ", ".join(f"{name} {dtype} {list(shape)}" for name, (shape, dtype) in list(arrays.items())[:20]) or "nothing"
    )
    if variable is not None:
        name = variable.strip("/")
        if name not in arrays:
            raise CaptureError(f"{path} holds no {variable!r} but {there}", "one of them", "see --variable")
        if not suits(*arrays[name]):
            shape, dtype = arrays[name]
            raise CaptureError(
                f"{path}: {name} is {dtype} {list(shape)}; the file holds {there}",
                "complex [S], or real [S, 2] or [2, S]" if fits is None else "CSI",
                "name another with --variable",
            )
        return name
    fitting = [name for name, array in arrays.items() if suits(*array)]
    if len(fitting) != 1:
        said = "no IQ" if fits is None else "no CSI"
        found = f"{len(fitting)} arrays that could be meant" if fitting else said
        expected = "one: complex [S], or real [S, 2] or [2, S]" if fits is None else "one CSI array"
        raise CaptureError(f"{path} holds {found}: {there}", expected, "name it with --variable, or check --kind")
    return fitting[0]


def is_iq(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether an array can be IQ: complex with one long dimension, or real with a second one of two."""
    longer = [side for side in shape if side != 1]
    if dtype.kind == "c":
        return len(longer) == 1
    return dtype.kind in "iuf" and len(longer) == 2 and 2 in longer and len(shape) == 2


def _plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """complex64 or complex128 for a compound of two equal floats, as h5py and MATLAB store complex numbers."""
    if dtype.names is None or len(dtype.names) != 2:
        return dtype
    return np.result_type(*(dtype[name] for name in dtype.names), np.complex64)


class _Sliced:
    """Something that is read by slicing it, as an array is."""

    def __init__(self, read: Callable[[Any], npt.NDArray[Any]]) -> None:
        self.read = read

    def __getitem__(self, part: Any) -> npt.NDArray[Any]:
        return self.read(part)


def _opened(
    array: Any, shape: tuple[int, ...], dtype: np.dtype[Any], numbers: Mapping[str, float | None] | None = None
) -> Opened:
    """IQ of an array that :func:`is_iq`; its long dimension is time."""
    axis = int(np.argmax(shape))
    if dtype.kind != "c" and shape == (2, 2):
        axis = 0
    samples = shape[axis]

    def load(first: int, count: int) -> Complex:
        part = tuple(slice(first, first + count) if number == axis else slice(None) for number in range(len(shape)))
        values = np.asarray(array[part])
        if dtype.kind == "c":
            return values.reshape(-1).astype(np.complex64)
        return decode(values if axis == 0 else values.T)

    stated = {name.casefold(): value for name, value in (numbers or {}).items() if value is not None}
    rate = next((stated[name] for name in _RATES if name in stated), None)
    center = next((stated[name] for name in _CENTERS if name in stated), None)
    return Opened(samples, load, str(dtype), rate, center)


def _number(array: npt.NDArray[Any]) -> float | None:
    """The one finite number in an array, or None."""
    if array.size != 1 or array.dtype.kind not in "iuf":
        return None
    value = float(array.reshape(-1)[0])
    return value if math.isfinite(value) else None
