"""Multipath tables of one site: every path from one transmitter to receivers on the streets, and their file."""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm.errors import DatasetError
from lwm.output import atomic_file, require_empty

FORMAT_VERSION = 1

STEPS: dict[str, float] = {
    "receivers_m": 0.01,
    "delays_s": 1e-10,
    "powers_db": 0.1,
    "phases_rad": 2 * np.pi / 256,
    "azimuths_rad": 2 * np.pi / 256,
    "zeniths_rad": np.pi / 255,
}
"""Resolution of each array in a saved table; an array in a file times its step is in the unit of its name."""

MAX_DELAY_S = 100e-6
"""Longest delay taken (ours): 30 km of path, three times the largest urban macro cell of TR 38.901."""

MAX_PATHS = 10_000_000
"""Most paths in one table (ours)."""

MAX_RECEIVERS = 2_000_000
"""Most receivers in one table (ours)."""

MAX_BYTES = 600_000_000
"""Largest unpacked file read (ours): a bound on what a damaged file can make us allocate."""

DAMAGE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
"""What numpy and zipfile raise on an ``.npz`` that is damaged, encrypted, or packed in a way that they do not know."""

_INDEXES = ("offsets", "los")
_MEND = "trace it again with `lwm trace-site`, or write the arrays as lwm/channel/sites/data/README.md says"


@dataclass(frozen=True, eq=False)
class SiteTable:
    """Paths of a site, ragged: those of receiver ``r`` are ``offsets[r]`` up to ``offsets[r + 1]``.

    Args:
        name: name of the site.
        carrier_hz: carrier at which the paths were traced, Hz.
        transmitter_m: float64 ``[3]``: position of the transmitter in m, z upwards.
        receivers_m: float64 ``[receivers, 3]``: positions of the receivers in m.
        offsets: int64 ``[receivers + 1]``: first path of each receiver, then the number of paths.
        delays_s: float64 ``[paths]``: delay from transmitter to receiver in s, > 0.
        powers_db: float64 ``[paths]``: received over transmitted power in dB, isotropic antennas.
        phases_rad: float64 ``[paths]``: phase at the carrier in rad.
        azimuths_rad: float64 ``[paths]``: azimuth of the direction that the path arrives from, rad from x towards y.
        zeniths_rad: float64 ``[paths]``: angle between that direction and the z axis, rad in ``[0, pi]``.
        los: bool ``[paths]``: True for the direct path.
        provenance: where the table comes from: scene, tracer and version, settings, licence, attribution.

    Raises:
        DatasetError: shapes that do not fit, a receiver without a path, delays that are not positive or longer than
            ``MAX_DELAY_S``, NaN or infinity anywhere, zenith out of range, two direct paths to one receiver.
    """

    name: str
    carrier_hz: float
    transmitter_m: npt.NDArray[np.float64]
    receivers_m: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.int64]
    delays_s: npt.NDArray[np.float64]
    powers_db: npt.NDArray[np.float64]
    phases_rad: npt.NDArray[np.float64]
    azimuths_rad: npt.NDArray[np.float64]
    zeniths_rad: npt.NDArray[np.float64]
    los: npt.NDArray[np.bool_]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            _check(self)
        except DatasetError as error:
            raise DatasetError(f"site {self.name}: {error}") from error
        for key in (*STEPS, *_INDEXES, "transmitter_m"):
            getattr(self, key).flags.writeable = False

    @property
    def receivers(self) -> int:
        """Number of receivers."""
        return len(self.receivers_m)

    @cached_property
    def path_counts(self) -> npt.NDArray[np.int64]:
        """Paths of each receiver ``[receivers]``."""
        return np.diff(self.offsets)

    @cached_property
    def distances_m(self) -> npt.NDArray[np.float64]:
        """Straight distance of each receiver from the transmitter in m ``[receivers]``."""
        return np.linalg.norm(self.receivers_m - self.transmitter_m, axis=1)

    @cached_property
    def line_of_sight(self) -> npt.NDArray[np.bool_]:
        """True for each receiver with a direct path ``[receivers]``."""
        return np.logical_or.reduceat(self.los, self.offsets[:-1])

    @cached_property
    def received_power_db(self) -> npt.NDArray[np.float64]:
        """Power of all paths together over the transmitted, dB ``[receivers]``."""
        return 10 * np.log10(np.add.reduceat(self._powers, self.offsets[:-1]))

    @cached_property
    def first_arrivals_s(self) -> npt.NDArray[np.float64]:
        """Delay of each receiver's first arrival in s ``[receivers]``."""
        return np.minimum.reduceat(self.delays_s, self.offsets[:-1])

    @cached_property
    def delay_spreads_s(self) -> npt.NDArray[np.float64]:
        """RMS delay spread of each receiver in s ``[receivers]``."""
        starts = self.offsets[:-1]
        # Excess delays: the variance of absolute ones would lose its digits.
        excess = self.delays_s - np.repeat(self.first_arrivals_s, self.path_counts)
        total = np.add.reduceat(self._powers, starts)
        mean = np.add.reduceat(self._powers * excess, starts) / total
        square = np.add.reduceat(self._powers * excess**2, starts) / total
        return np.sqrt(np.maximum(square - mean**2, 0.0))

    @property
    def _powers(self) -> npt.NDArray[np.float64]:
        return 10 ** (self.powers_db / 10)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the arrays as a file would hold them: the same for one table under two names, read or saved.

        The header has no part in it: with another name, carrier or provenance the receivers are still the same.
        """
        codes = {key: _codes(key, getattr(self, key)).astype(np.int64) for key in STEPS}
        parts = {**codes, "offsets": self.offsets.astype(np.int64), "los": self.los}
        digest = hashlib.sha256()
        for key in sorted(parts):
            digest.update(np.ascontiguousarray(parts[key]).tobytes())
        return digest.hexdigest()

    def paths(self, receiver: int) -> slice:
        """Where the paths of one receiver are in the arrays of paths."""
        return slice(int(self.offsets[receiver]), int(self.offsets[receiver + 1]))

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the table, rounded to :data:`STEPS`, as an ``.npz`` without pickles, at once or not at all.

        A delay below half a step becomes one step: no delay is 0.

        Raises:
            OutputError: the file exists and ``overwrite`` is False, or the place cannot be written.
        """
        path = Path(path)
        require_empty(path, overwrite=overwrite)
        header = {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "carrier_hz": self.carrier_hz,
            "transmitter_m": [float(value) for value in self.transmitter_m],
            "steps": STEPS,
            "provenance": dict(self.provenance),
        }
        arrays: dict[str, npt.NDArray[Any]] = {key: _codes(key, getattr(self, key)) for key in STEPS}
        arrays["counts"] = _smallest(self.path_counts)
        arrays["los"] = np.packbits(self.los)
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        with atomic_file(path) as temporary, temporary.open("wb") as handle:
            _write_npz(handle, arrays)
        return path


def load_table(path: str | Path) -> SiteTable:
    """Read a table written by :meth:`SiteTable.save` or by hand in the same format.

    Raises:
        DatasetError: not such a file, arrays missing or misshapen, or content that :class:`SiteTable` refuses.
    """
    path = Path(path)
    arrays = _read_npz(path)
    missing = sorted({*STEPS, "counts", "los", "header"} - set(arrays))
    if missing:
        raise DatasetError(f"{path} lacks the arrays {missing}", "every array of a site table", _MEND)
    try:
        return _from_arrays(arrays)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DatasetError(f"{path}: header or arrays unreadable ({error})", "a site table", _MEND) from error
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error


def _read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    if not path.is_file():
        raise DatasetError(f"no site table at {path}", "a file written by `lwm trace-site`")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise DatasetError(f"{path} unpacks to {size} bytes", f"at most {MAX_BYTES}", _MEND)
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except DAMAGE as error:
        raise DatasetError(f"{path} cannot be read ({error})", "an .npz site table without pickles", _MEND) from error


def _from_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> SiteTable:
    header_array = arrays["header"]
    text = str(header_array) if header_array.dtype.kind == "U" else header_array.astype(np.uint8).tobytes().decode()
    header = json.loads(text)
    if header["format_version"] != FORMAT_VERSION:
        raise DatasetError(f"format version {header['format_version']}", f"version {FORMAT_VERSION}", _MEND)
    counts = arrays["counts"].astype(np.int64)
    steps, provenance = header.get("steps", {}), header.get("provenance", {})
    if not isinstance(steps, dict) or not isinstance(provenance, dict):
        raise DatasetError("steps or provenance that is no mapping", "names with their values", _MEND)
    values = {key: arrays[key].astype(np.float64) * float(steps.get(key, 1.0)) for key in STEPS}
    los = arrays["los"]
    if los.dtype != bool:
        # Where bits lack, unpackbits would go on with zeros.
        if los.shape != (wanted := -(-values["delays_s"].size // 8),):
            raise DatasetError(f"los of shape {los.shape}", f"({wanted},), one bit a path", _MEND)
        los = np.unpackbits(los.astype(np.uint8), count=values["delays_s"].size).astype(bool)
    return SiteTable(
        name=str(header["name"]),
        carrier_hz=float(header["carrier_hz"]),
        transmitter_m=np.array(header["transmitter_m"], np.float64),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        los=los,
        provenance=provenance,
        **values,
    )


def _check(table: SiteTable) -> None:
    paths = table.delays_s.size
    receivers = len(table.receivers_m)
    if table.receivers_m.shape != (receivers, 3) or table.transmitter_m.shape != (3,):
        shapes = f"receivers {table.receivers_m.shape}, transmitter {table.transmitter_m.shape}"
        raise DatasetError(f"positions of {shapes}", "[receivers, 3] and [3], in m", _MEND)
    if not 0 < receivers <= MAX_RECEIVERS or not 0 < paths <= MAX_PATHS:
        limits = f"1 to {MAX_RECEIVERS} receivers and 1 to {MAX_PATHS} paths"
        raise DatasetError(f"site table of {receivers} receivers and {paths} paths", limits, _MEND)
    for key in (*STEPS, "los"):
        if key != "receivers_m" and getattr(table, key).shape != (paths,):
            raise DatasetError(f"{key} of shape {getattr(table, key).shape}", f"({paths},), one a path", _MEND)
    if table.offsets.shape != (receivers + 1,) or table.offsets[0] != 0 or table.offsets[-1] != paths:
        raise DatasetError("offsets that do not cover the paths", f"{receivers + 1} from 0 to {paths}", _MEND)
    empty = np.flatnonzero(np.diff(table.offsets) < 1)
    if empty.size:
        raise DatasetError(f"{empty.size} receivers without a path, the first {empty[0]}", "a path each", "drop them")
    _check_values(table)


def _check_values(table: SiteTable) -> None:
    for key in (*STEPS, "transmitter_m"):
        if not np.isfinite(getattr(table, key)).all():
            raise DatasetError(f"{key} with NaN or infinity", "finite numbers", "drop the paths without a value")
    if not (np.isfinite(table.carrier_hz) and 0 < table.carrier_hz <= 1e12):
        raise DatasetError(f"carrier {table.carrier_hz} Hz", "0 to 1e12 Hz")
    if table.delays_s.min() <= 0 or table.delays_s.max() > MAX_DELAY_S:
        span = f"delays from {table.delays_s.min():g} to {table.delays_s.max():g} s"
        raise DatasetError(span, f"more than 0, at most {MAX_DELAY_S:g} s", "give absolute delays in seconds")
    if np.abs(table.powers_db).max() > 400:
        raise DatasetError(f"a power of {table.powers_db[np.abs(table.powers_db).argmax()]:g} dB", "-400 to 400 dB")
    if table.zeniths_rad.min() < 0 or table.zeniths_rad.max() > np.pi + 1e-6:
        raise DatasetError("zenith angles out of range", "0 to pi rad, 0 pointing up", "convert elevations or degrees")
    if np.abs(table.azimuths_rad).max() > 4 * np.pi or np.abs(table.phases_rad).max() > 4 * np.pi:
        raise DatasetError("azimuths or phases out of range", "-4 pi to 4 pi rad", "convert degrees to radians")
    direct = np.add.reduceat(table.los.astype(int), table.offsets[:-1])
    if direct.max() > 1:
        raise DatasetError(f"receiver {direct.argmax()} with {direct.max()} direct paths", "one at most", _MEND)


def _codes(key: str, values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Integers that times the step of ``key`` are the values of a file."""
    codes = np.round(values / STEPS[key])
    if key in ("phases_rad", "azimuths_rad"):
        return (codes % 256).astype(np.uint8)
    return _smallest(np.maximum(codes, 1 if key == "delays_s" else -np.inf).astype(np.int64))


def _smallest(values: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """``values`` in the smallest integer type that holds them all."""
    return values.astype(np.promote_types(np.min_scalar_type(values.min()), np.min_scalar_type(values.max())))


def _write_npz(handle: io.BufferedWriter, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Like ``np.savez_compressed``, but the same bytes for the same arrays: no time of day in the archive."""
    with zipfile.ZipFile(handle, "w") as archive:
        for key, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            member = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.external_attr = 0o644 << 16
            archive.writestr(member, buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
