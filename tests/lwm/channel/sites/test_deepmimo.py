"""DeepMIMO folders, written here in the layouts that the DeepMIMO specification documents, read into tables."""

import json

import numpy as np
import pytest
from scipy.io import savemat

from lwm.channel.sites import SiteDraw, read_deepmimo, site_table
from lwm.errors import DatasetError

PLACES = np.array([[10.0, 0.0, 1.5], [20.0, 5.0, 1.5], [30.0, 5.0, 1.5]])
MAST = np.array([0.0, 0.0, 25.0])
DELAYS = [[1e-7, 3e-7], [], [2e-7]]
POWERS = [[-80.0, -95.0], [], [-101.0]]
PHASES = [[30.0, -90.0], [], [180.0]]
AZIMUTHS = [[180.0, 45.0], [], [-120.0]]
ZENITHS = [[60.0, 95.0], [], [90.0]]


def padded(rows: list[list[float]]) -> np.ndarray:
    full = np.full((3, 2), np.nan, np.float32)
    for row, values in zip(full, rows, strict=True):
        row[: len(values)] = values
    return full


def write_v4(folder, kind="mat", names=("rx_pos", "tx_pos", "delay")):
    receivers, transmitter, delay = names
    matrices = {receivers: PLACES, transmitter: MAST[None], delay: padded(DELAYS), "power": padded(POWERS)}
    matrices |= {"phase": padded(PHASES), "aoa_az": padded(AZIMUTHS), "aoa_el": padded(ZENITHS)}
    matrices["inter"] = padded([[0, 1], [], [21]])
    for key, matrix in matrices.items():
        path = folder / f"{key}_t001_tx000_r000.{kind}"
        savemat(path, {key: matrix}) if kind == "mat" else np.savez(path, **{key: matrix})
    sets = {
        "txrx_set_0": {"id": 0, "is_tx": False, "is_rx": True},
        "txrx_set_1": {"id": 1, "is_tx": True, "is_rx": True},
    }
    (folder / "params.json").write_text(json.dumps({"rt_params": {"frequency": 3.5e9}, "txrx_sets": sets}))


def write_v3(folder):
    users = np.empty((1, 3), object)
    for at in range(3):
        columns = [PHASES[at], DELAYS[at], POWERS[at], AZIMUTHS[at], ZENITHS[at]]
        count = len(DELAYS[at])
        rows = np.array([*columns, [0.0] * count, [0.0] * count, [1.0, 0.0][:count] if at == 0 else [0.0] * count])
        cell = np.empty((1, 1), object)
        cell[0, 0] = rows
        users[0, at] = cell
    distance = np.linalg.norm(PLACES - MAST, axis=1)
    locations = np.column_stack([PLACES, distance, [80.0, 250.0, 101.0]])
    content = {"tx_loc": MAST[None]}
    savemat(folder / "BS1_UE_0-2.mat", {"channels": users[:, :2], "rx_locs": locations[:2], **content})
    savemat(folder / "BS1_UE_2-3.mat", {"channels": users[:, 2:], "rx_locs": locations[2:], **content})
    params = {"carrier_freq": 3.5e9, "transmit_power": 0.0, "num_BS": 1, "dual_polar_available": 0}
    savemat(folder / "params.mat", params)


def write_v2(folder):
    flat = {"CIR": [3.0], "DoA": [3.0]}
    for user in range(3):
        count = len(DELAYS[user])
        for values in flat.values():
            values += [user + 1.0, float(count)]
        for path in range(count):
            flat["CIR"] += [path + 1.0, PHASES[user][path], DELAYS[user][path], POWERS[user][path] + 30.0]
            flat["DoA"] += [path + 1.0, AZIMUTHS[user][path], ZENITHS[user][path], 0.0]
    savemat(folder / "O9.1.CIR.mat", {"CIR_array_full": np.array(flat["CIR"])})
    savemat(folder / "O9.1.DoA.mat", {"DoA_array_full": np.array(flat["DoA"])})
    savemat(folder / "O9.1.LoS.mat", {"LOS_tag_array_full": np.array([3.0, 1.0, -1.0, 0.0])})
    savemat(folder / "O9.Loc.mat", {"Loc_array_full": np.column_stack([np.arange(1, 4), PLACES])})
    savemat(folder / "O9.TX_Loc.mat", {"TX_Loc_array_full": np.array([[1.0, *MAST]])})
    savemat(folder / "O9.params.mat", {"carrier_freq": 3.5e9, "transmit_power": 30.0, "num_BS": 1})


@pytest.mark.parametrize(
    ("version", "write"),
    [
        ("4", write_v4),
        ("4", lambda folder: write_v4(folder, "npz")),
        ("4", lambda folder: write_v4(folder, names=("rx_loc", "tx_loc", "toa"))),
        ("3", write_v3),
        ("2", write_v2),
    ],
)
def test_every_version_gives_the_same_table(tmp_path, version, write):
    write(tmp_path)
    table = read_deepmimo(tmp_path)
    assert table.provenance["tracer"] == f"DeepMIMO version {version}"
    assert table.provenance["receivers_without_path"] == 1
    assert table.carrier_hz == 3.5e9
    assert np.array_equal(table.transmitter_m, MAST)
    assert np.array_equal(table.receivers_m, PLACES[[0, 2]])
    assert table.path_counts.tolist() == [2, 1]
    assert table.delays_s == pytest.approx([1e-7, 3e-7, 2e-7])
    assert table.powers_db == pytest.approx([-80, -95, -101])
    assert np.rad2deg(table.phases_rad) == pytest.approx([30, -90, 180])
    assert np.rad2deg(table.azimuths_rad) == pytest.approx([180, 45, -120])
    assert np.rad2deg(table.zeniths_rad) == pytest.approx([60, 95, 90])
    assert table.los.tolist() == [True, False, False]


def test_a_folder_is_a_site_to_draw_from(tmp_path):
    write_v4(tmp_path)
    draw = SiteDraw(str(tmp_path), 0, "traced")
    assert site_table(str(tmp_path)) is draw.table
    assert draw.delays_s == pytest.approx([0.0, 2e-7])
    assert draw.facts["site"] == tmp_path.name


def test_folders_that_are_no_scenario_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="no DeepMIMO scenario in"):
        read_deepmimo(tmp_path)
    write_v4(tmp_path)
    (tmp_path / "power_t001_tx000_r000.mat").unlink()
    with pytest.raises(DatasetError, match="no power_t001_tx000_r000.mat"):
        read_deepmimo(tmp_path)
    (tmp_path / "power_t001_tx000_r000.mat").write_bytes(b"short")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_deepmimo(tmp_path)
    (tmp_path / "params.json").write_text("{}")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_deepmimo(tmp_path)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([], "no transmitting set"),
        ({}, "no transmitting set"),
        ({"txrx_set_0": {"id": 0, "is_tx": False, "is_rx": True}}, "no transmitting set"),
        ({"txrx_set_0": {"id": 0, "is_tx": True, "is_rx": False}}, "no receiving set"),
        ({"txrx_set_0": 3}, "cannot be read"),
    ],
)
def test_params_without_the_sets_are_refused(tmp_path, sets, message):
    write_v4(tmp_path)
    (tmp_path / "params.json").write_text(json.dumps({"rt_params": {"frequency": 3.5e9}, "txrx_sets": sets}))
    with pytest.raises(DatasetError, match=rf"{tmp_path.name}.*{message}.*expected a DeepMIMO"):
        read_deepmimo(tmp_path)


@pytest.mark.parametrize("kind", ["mat", "npz"])
@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"PK" + raw[:40]])
def test_damaged_matrices_are_named(tmp_path, kind, damage):
    write_v4(tmp_path, kind)
    path = tmp_path / f"phase_t001_tx000_r000.{kind}"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetError, match=rf"{path.name} cannot be read .*download the scenario again"):
        read_deepmimo(tmp_path)


def test_a_scenario_is_read_again_after_a_file_of_it_has_changed(tmp_path):
    write_v4(tmp_path)
    before = site_table(str(tmp_path))
    savemat(tmp_path / "power_t001_tx000_r000.mat", {"power": padded(POWERS) - 10, "more": np.zeros(9)})
    after = site_table(str(tmp_path))
    assert after.powers_db == pytest.approx(before.powers_db - 10)


def test_a_scenario_of_negative_delays_is_refused(tmp_path):
    write_v4(tmp_path)
    savemat(tmp_path / "delay_t001_tx000_r000.mat", {"delay": -padded(DELAYS)})
    with pytest.raises(DatasetError, match="give absolute delays"):
        read_deepmimo(tmp_path)
