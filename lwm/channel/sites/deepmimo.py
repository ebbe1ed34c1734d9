"""Reading DeepMIMO scenario folders of versions 4, 3 and 2 into a site table.

The formats are those of the public DeepMIMO documentation ("DeepMIMO Specs", "Conventions"): angles in degrees,
"elevation" counted from the z axis, delays in s, powers in dB over the transmitted power.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm.channel.sites.table import DAMAGE, SiteTable
from lwm.errors import DatasetError

_LAYOUT = "a DeepMIMO scenario folder (v4: params.json and power_t000_tx000_r000.mat ...; v3: params.mat, BS1_UE_*.mat;"
_LAYOUT += " v2: NAME.params.mat, NAME.1.CIR.mat ...)"

_AGAIN = "download the scenario again"

_V4 = {
    "receivers_m": ("rx_pos", "rx_loc"),
    "transmitter_m": ("tx_pos", "tx_loc"),
    "delays_s": ("delay", "toa"),
    "powers_db": ("power",),
    "phases_deg": ("phase",),
    "azimuths_deg": ("aoa_az",),
    "zeniths_deg": ("aoa_el",),
    "interactions": ("inter",),
}
"""Matrices of version 4 that are read, each under the names it has had."""

_PATHS = ("delays_s", "powers_db", "phases_deg", "azimuths_deg", "zeniths_deg")


def read_deepmimo(folder: str | Path) -> SiteTable:
    """Table of the first transmitter of a DeepMIMO scenario and the first set of receivers.

    Receivers without a path are left out; their number is in the table's provenance.

    Raises:
        DatasetError: no DeepMIMO folder, files missing or unreadable, shapes that do not fit, or values that
            :class:`SiteTable` refuses.
    """
    folder = Path(folder)
    try:
        if (folder / "params.json").is_file():
            return _read_v4(folder)
        if (folder / "params.mat").is_file():
            return _read_v3(folder)
        old = sorted(folder.glob("*.params.mat"))
        if old:
            return _read_v2(folder, old[0].name.removesuffix(".params.mat"))
    except (KeyError, IndexError, TypeError, OverflowError, RecursionError, *DAMAGE) as error:
        raise DatasetError(f"DeepMIMO folder {folder} cannot be read ({error!r})", _LAYOUT) from error
    raise DatasetError(f"no DeepMIMO scenario in {folder}", _LAYOUT, "give the folder that holds the params file")


def _read_v4(folder: Path) -> SiteTable:
    params = json.loads((folder / "params.json").read_text(encoding="utf-8"))
    sets = params["txrx_sets"]
    if not isinstance(sets, dict) or not any(one["is_tx"] for one in sets.values()):
        raise DatasetError(f"{folder / 'params.json'} names no transmitting set in txrx_sets", _LAYOUT, _AGAIN)
    if not any(one["is_rx"] for one in sets.values()):
        raise DatasetError(f"{folder / 'params.json'} names no receiving set in txrx_sets", _LAYOUT, _AGAIN)
    transmit = min(one["id"] for one in sets.values() if one["is_tx"])
    # A base station's own set may receive too; the users are the set that only receives.
    receive = min((one["is_tx"], one["id"]) for one in sets.values() if one["is_rx"])[1]
    code = f"t{transmit:03}_tx000_r{receive:03}"
    read = {key: _matrix(folder, names, code) for key, names in _V4.items()}
    position = read["transmitter_m"].reshape(-1, 3)[0]
    matrices = {key: np.atleast_2d(read[key]).astype(np.float64) for key in (*_PATHS, "interactions")}
    valid = np.isfinite(matrices["delays_s"]) & np.isfinite(matrices["powers_db"])
    return _table(
        folder,
        "4",
        float(params["rt_params"]["frequency"]),
        position,
        read["receivers_m"].reshape(-1, 3),
        valid.sum(axis=1),
        {key: matrices[key][valid] for key in _PATHS},
        matrices["interactions"][valid] == 0,
    )


def _matrix(folder: Path, names: tuple[str, ...], code: str) -> npt.NDArray[Any]:
    for name in names:
        stem = folder / f"{name}_{code}"
        if stem.with_suffix(".mat").is_file():
            return np.asarray(_mat(stem.with_suffix(".mat"))[name])
        for path in (stem.with_suffix(".npz"), stem.with_suffix(".npy")):
            if path.is_file():
                return _numpy(path, name)
    raise DatasetError(f"{folder} has no {names[0]}_{code}.mat, .npz or .npy", _LAYOUT)


def _numpy(path: Path, name: str) -> npt.NDArray[Any]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return np.asarray(loaded[name])
    except (KeyError, *DAMAGE) as error:
        raise DatasetError(f"{path} cannot be read ({error})", _LAYOUT, _AGAIN) from error


def _mat(path: Path) -> Mapping[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return dict(loadmat(path))
    except (MatReadError, KeyError, TypeError, IndexError, *DAMAGE) as error:
        raise DatasetError(f"{path} cannot be read ({error})", _LAYOUT, _AGAIN) from error


def _read_v3(folder: Path) -> SiteTable:
    params = _mat(folder / "params.mat")
    found = [(re.fullmatch(r"BS(\d+)_UE_(\d+)-(\d+)\.mat", path.name), path) for path in folder.glob("BS*_UE_*.mat")]
    parts = sorted((int(name[1]), int(name[2]), path) for name, path in found if name)
    if not parts:
        raise DatasetError(f"{folder} has no BS1_UE_*.mat", _LAYOUT)
    first = parts[0][0]
    key = "channels_VV" if int(np.squeeze(params.get("dual_polar_available", 0))) else "channels"
    users: list[npt.NDArray[np.float64]] = []
    places: list[npt.NDArray[np.float64]] = []
    position = None
    for _, _, path in (part for part in parts if part[0] == first):
        content = _mat(path)
        users += [np.asarray(user[0][0], np.float64) for user in content[key][0]]
        places.append(np.asarray(content["rx_locs"], np.float64)[:, :3])
        position = content.get("tx_loc", position)
    if position is None:
        position = _mat(folder / f"BS{first}_BS.mat")["rx_locs"][first - 1][:3]
    # Rows of a user: phase, delay, power, arrival azimuth and zenith, departure azimuth and zenith, direct path.
    rows = np.concatenate([user for user in users if user.size], axis=1)
    columns = dict(zip(("phases_deg", "delays_s", "powers_db", "azimuths_deg", "zeniths_deg"), rows, strict=False))
    counts = np.array([user.shape[1] if user.size else 0 for user in users])
    carrier = float(np.squeeze(params["carrier_freq"]))
    return _table(folder, "3", carrier, np.ravel(position)[:3], np.concatenate(places), counts, columns, rows[7] == 1)


def _read_v2(folder: Path, name: str) -> SiteTable:
    params = _mat(folder / f"{name}.params.mat")
    flat = {key: _only(folder / f"{name}.1.{key}.mat").ravel() for key in ("CIR", "DoA", "LoS")}
    places = _only(folder / f"{name}.Loc.mat")[:, 1:4]
    starts, counts = [], []
    at = 1
    for _ in range(len(places)):
        # A user is its number, its number of paths, then four numbers a path.
        counts.append(int(flat["CIR"][at + 1]))
        starts.append(at + 2)
        at += 2 + 4 * counts[-1]
    count = np.array(counts)
    inside = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    index = np.repeat(starts, count) + 4 * inside
    # Powers are dBm received; dB over the transmitted power takes that away.
    sent = float(np.squeeze(params["transmit_power"]))
    columns = {
        "phases_deg": flat["CIR"][index + 1],
        "delays_s": flat["CIR"][index + 2],
        "powers_db": flat["CIR"][index + 3] - sent,
        "azimuths_deg": flat["DoA"][index + 1],
        "zeniths_deg": flat["DoA"][index + 2],
    }
    # One flag a user, and the direct path is its first.
    direct = (inside == 0) & (np.repeat(flat["LoS"][1 : len(places) + 1], count) == 1)
    transmitter = _only(folder / f"{name}.TX_Loc.mat")[0, 1:4]
    carrier = float(np.squeeze(params["carrier_freq"]))
    return _table(folder, "2", carrier, transmitter, places, count, columns, direct)


def _only(path: Path) -> npt.NDArray[np.float64]:
    """The one variable of a version 2 file, whatever its name."""
    content = [value for key, value in _mat(path).items() if not key.startswith("__")]
    return np.asarray(content[0], np.float64)


def _table(
    folder: Path,
    version: str,
    carrier_hz: float,
    transmitter_m: npt.NDArray[Any],
    receivers_m: npt.NDArray[Any],
    counts: npt.NDArray[np.int64],
    columns: Mapping[str, npt.NDArray[np.float64]],
    los: npt.NDArray[np.bool_],
) -> SiteTable:
    reached = counts > 0
    if not reached.any():
        raise DatasetError(f"{folder}: no receiver has a path", "a scenario with paths")
    provenance = {
        "scene": folder.name,
        "tracer": f"DeepMIMO version {version}",
        "receivers_without_path": int((~reached).sum()),
        "licence": "that of the scenario, see where it was downloaded",
    }
    radians = {key: np.deg2rad(columns[f"{key}_deg"]) for key in ("phases", "azimuths", "zeniths")}
    return SiteTable(
        name=folder.name,
        carrier_hz=carrier_hz,
        transmitter_m=np.array(transmitter_m, np.float64),
        receivers_m=np.array(receivers_m, np.float64)[reached],
        offsets=np.concatenate([[0], np.cumsum(counts[reached])]).astype(np.int64),
        delays_s=np.array(columns["delays_s"], np.float64),
        powers_db=np.array(columns["powers_db"], np.float64),
        phases_rad=radians["phases"],
        azimuths_rad=radians["azimuths"],
        zeniths_rad=radians["zeniths"],
        los=np.array(los, bool),
        provenance=provenance,
    )
