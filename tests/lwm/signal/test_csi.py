"""Wi-Fi CSI: the recorded set, the text formats, arrays, and the recipe against closed forms."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from lwm.errors import CaptureError, ConfigError, RecipeMismatch
from lwm.signal.csi import USED, recording_of, used_subcarriers
from lwm.signal.csi_formats import open_csi
from lwm.signal.csi_recipe import CSI_PRESETS, CsiRecipe
from lwm.signal.recipe import PRESETS, Recipe

CSI = CSI_PRESETS["csi"]


def values(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape) + 3).astype(np.complex64)


def full_fft(points, guard):
    """CSI ``[20, 1, points]`` in centred order whose used subcarriers have amplitude k + points, k their index."""
    index = np.arange(-points // 2, points // 2)
    amplitude = (index + points).astype(np.float32)
    amplitude[(np.abs(index) > USED[points]) | (index == 0)] = guard
    return np.tile(amplitude, (20, 1, 1))


@pytest.mark.parametrize("points", list(USED))
@pytest.mark.parametrize("guard", [0.0, 1e5])
def test_both_orders_give_the_used_subcarriers_from_low_to_high(points, guard):
    centred = full_fft(points, guard)
    lowest = 1 if points == 64 else 2
    kept = [k for k in range(-USED[points], USED[points] + 1) if abs(k) >= lowest]
    for amplitude, order in ((centred, "centred"), (np.fft.ifftshift(centred, axes=2), "FFT")):
        found, said = used_subcarriers(amplitude)
        assert said == order
        assert (found[0, 0] - points).tolist() == kept
    assert len(kept) == {64: 56, 128: 114, 256: 242}[points]
    assert used_subcarriers(centred[..., :52])[1] == "as given"


def test_the_recorded_set(shared):
    """20 files of ten seconds of quiet or movement, five chips; see the set's own dataset_info.json."""
    folder = shared / "csi"
    info = json.loads((folder / "dataset_info.json").read_text())["files"]
    orders = {"c3": "FFT", "s3": "FFT", "esp32": "FFT", "c5": "centred", "c6": "centred"}
    count = 0
    for label, entries in info.items():
        for entry in entries:
            found = open_csi(folder / entry["filename"])
            chip = entry["chip"].lower()
            assert found.labels == ({"chip": chip} if label == "test" else {"activity": label, "chip": chip})
            assert found.amplitude.shape == (entry["num_packets"], 1, 56)
            assert found.duration == pytest.approx(entry["duration_ms"] / 1e3, rel=1e-3)
            assert found.facts["gain_locked"] is entry["gain_locked"]
            assert found.facts["description"] == entry["description"]
            assert found.facts["subcarrier_order"] == orders[chip]
            # A used subcarrier is silent in hardly any packet; guard and DC ones are in all.
            assert (found.amplitude == 0).mean() < 0.01
            count += 1
    assert count == 21


ESP_HEADER = (
    "type,role,mac,rssi,rate,sig_mode,mcs,bandwidth,smoothing,not_sounding,aggregation,stbc,fec_coding,sgi,noise_floor,"
    "ampdu_cnt,channel,secondary_channel,local_timestamp,ant,sig_len,rx_state,real_time_set,real_timestamp,len,CSI_DATA"
)


def esp_line(time_us, data, form="tool"):
    if form == "tool":
        head = f"CSI_DATA,AP,AA:BB:CC:DD:EE:FF,-57,11,1,7,0,1,1,1,0,0,0,-96,0,6,1,{time_us},0,101,0,0,0.5,{len(data)},"
        return head + "[" + " ".join(map(str, data)) + " ]"
    if form == "classic":
        head = f"CSI_DATA,12,aa:bb:cc:dd:ee:ff,-27,11,1,0,0,1,1,0,0,0,0,-99,0,12,2,{time_us},0,37,0,{len(data)},0,"
    else:
        head = (
            f"CSI_DATA,12,aa:bb:cc:dd:ee:ff,-27,11,-99,{40 + time_us // 10_000 % 2},38,12,{time_us},37,0,{len(data)},0,"
        )
    return head + '"[' + ",".join(map(str, data)) + ']"'


@pytest.mark.parametrize("form", ["tool", "classic", "c6"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("subcarriers", [52, 64, 128, 192])
def test_esp32_lines(tmp_path, form, header, subcarriers):
    rng = np.random.default_rng(0)
    data = rng.integers(20, 90, (30, 2 * subcarriers))
    start = 2**32 - 100_000
    lines = [esp_line((start + 10_000 * i) % 2**32, row, form) for i, row in enumerate(data)]
    lines.insert(4, "I (325) wifi:mode : sta")
    lines.insert(9, lines[9][:60])
    if header and form == "tool":
        lines.insert(0, ESP_HEADER)
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    found = open_csi(tmp_path / "x.csv")
    np.testing.assert_allclose(found.times, 0.01 * np.arange(30), atol=1e-9)
    assert found.facts["left_out_packets"] == 1
    assert found.facts["rssi"]["median"] == (-57 if form == "tool" else -27)
    if form == "c6":
        assert found.facts["gain_locked"] is False
    amplitude = np.hypot(data[:, 0::2], data[:, 1::2])
    taken = amplitude[:, 64:] if subcarriers in (128, 192) else amplitude
    expected = used_subcarriers(taken[:, None].astype(np.float32))[0]
    np.testing.assert_allclose(found.amplitude, expected, rtol=1e-6)


@pytest.mark.parametrize("form", ["complex", "brackets", "amplitude"])
def test_nexmon_tables(tmp_path, form):
    csi = values(12, 64)
    write = {
        "complex": lambda x: f"{x.real:.6f}{x.imag:+.6f}j",
        "brackets": lambda x: f"({x.real:.6f}{x.imag:+.6f}i)",
        "amplitude": lambda x: f"{abs(x):.6f}",
    }[form]
    header = "mac,time," + ",".join(f"_{i}" for i in range(64))
    rows = [f"dca632,{1e9 + 0.02 * i:.3f}," + ",".join(map(write, row)) for i, row in enumerate(csi)]
    (tmp_path / "x.csv").write_text("\n".join([header, *rows]))
    found = open_csi(tmp_path / "x.csv")
    expected, order = used_subcarriers(np.abs(csi)[:, None])
    assert found.facts["subcarrier_order"] == order
    np.testing.assert_allclose(found.amplitude, expected, atol=1e-5)
    np.testing.assert_allclose(found.times, 0.02 * np.arange(12), atol=1e-6)
    (tmp_path / "x.csv").write_text("\n".join([header, *rows[:5], rows[5][:200]]))
    with pytest.raises(CaptureError, match=r"x\.csv, line 7: .* not all 64 subcarriers"):
        open_csi(tmp_path / "x.csv")


@pytest.mark.parametrize("form", ["npy", "mat", "mat stacked", "mat 7.3", "npz", "h5"])
@pytest.mark.parametrize("real", [True, False])
def test_three_antennas_114_subcarriers_2000_packets(tmp_path, form, real):
    array = np.abs(values(3, 114, 2000)) if real else values(3, 114, 2000)
    path = tmp_path / ("x." + form.split()[0])
    if form == "npy":
        np.save(path, array)
    elif form == "npz":
        np.savez(path, csi=array, rate=500)
    elif form == "h5":
        with h5py.File(path, "w") as file:
            file["CSI"] = array
    elif form == "mat 7.3":
        with h5py.File(path, "w") as file:
            file["CSI"] = array.T
    else:
        savemat(path, {"CSIamp": array.reshape(342, 2000) if "stacked" in form else array, "user": 3.0})
    found = open_csi(path, packet_rate=500)
    assert found.duration == pytest.approx(4.0)
    np.testing.assert_allclose(found.amplitude, np.abs(array).transpose(2, 0, 1), rtol=1e-6)
    picture, valid = CSI_PRESETS["csi-fm"].picture(found)
    assert picture.shape == (3, 224, 224)
    assert valid.all()
    with pytest.raises(CaptureError, match="no packet rate; .*--sample_rate"):
        open_csi(path)
    with pytest.raises(CaptureError, match=r"CSI of 3 antenna\(s\); expected 1 for recipe 'csi'"):
        CSI.picture(found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"csi_data": np.zeros((0, 128), np.int8)}, r"int8 \[0, 128\]"),
        ({"csi_data": np.ones((1, 128), np.int8)}, r"1 packet\(s\)"),
        ({"csi_data": np.zeros((9, 128), np.int8)}, "0 everywhere"),
        ({"csi_data": np.ones((9, 100), np.int8)}, r"int8 \[9, 100\] with 64 subcarriers"),
        ({"csi_data": np.ones((9, 128), np.float32)}, "csi_data float32"),
        ({"duration_ms": 0.0}, "no duration_ms"),
    ],
)
def test_npz_that_are_refused(tmp_path, change, said):
    good = {"csi_data": np.ones((9, 128), np.int8), "num_subcarriers": 64, "duration_ms": 90.0, "label": "movement"}
    np.savez(tmp_path / "x.npz", **good)
    assert open_csi(tmp_path / "x.npz").labels == {"activity": "movement"}
    np.savez(tmp_path / "x.npz", **(good | change))
    with pytest.raises(CaptureError, match=said) as error:
        open_csi(tmp_path / "x.npz")
    assert "x.npz" in str(error.value)


def test_files_that_are_no_csi(tmp_path):
    np.savez(tmp_path / "x.npz", csi_data=np.ones((90, 128), np.int8))
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(whole[: len(whole) // 2])
    cases = {"x.npz": None, "empty.csv": "", "one.csv": "a,b\n", "t.csv": "a,b\n1,2\n3,4\n", "x.txt": "x"}
    said = [
        "cannot be read as .npz",
        "is empty",
        r"holds 1 line",
        "of which 0 are subcarriers",
        "unknown format '.txt'",
    ]
    for (name, text), message in zip(cases.items(), said, strict=True):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(CaptureError, match=message) as error:
            open_csi(tmp_path / name)
        assert name in str(error.value)
    (tmp_path / "esp.csv").write_text("CSI_DATA,1,2,3\nCSI_DATA,AP\n")
    with pytest.raises(CaptureError, match=r"esp\.csv, line 1 and 1 others"):
        open_csi(tmp_path / "esp.csv")
    with pytest.raises(CaptureError, match="packet 3 is not finite"):
        broken = values(9, 1, 52)
        broken[3, 0, 7] = np.nan
        recording_of(tmp_path, broken, np.arange(9.0))
    with pytest.raises(CaptureError, match="times that do not increase"):
        recording_of(tmp_path, values(3, 1, 52), np.array([0.0, 2.0, 1.0]))


def made(amplitude, rate=100.0, times=None):
    times = np.arange(len(amplitude)) / rate if times is None else times
    return recording_of(Path("made"), amplitude.astype(np.float32), times)


def test_level_of_the_picture_against_its_closed_form():
    """A channel twice as strong in the upper half of the band: 10 log10(4 / 2.5) and 10 log10(1 / 2.5) dB."""
    amplitude = np.where(np.arange(52) < 26, 1.0, 2.0) * np.ones((100, 1, 52))
    picture, valid = CSI.picture(made(amplitude * 37))
    assert valid.all()
    np.testing.assert_allclose(picture[0, :31], 10 * np.log10(1 / 2.5 + CSI.epsilon), atol=1e-4)
    np.testing.assert_allclose(picture[0, 33:], 10 * np.log10(4 / 2.5 + CSI.epsilon), atol=1e-4)


def test_a_gain_step_is_seen_by_the_window_and_taken_away_by_the_packet():
    amplitude = np.ones((100, 1, 52))
    amplitude[50:] *= 10 ** (6 / 20)
    picture, _ = CSI.picture(made(amplitude))
    assert picture[0, :, -1].mean() - picture[0, :, 0].mean() == pytest.approx(6.0, abs=1e-3)
    by_packet = CsiRecipe(**(CSI.to_dict() | {"power_reference": "packet"}))
    assert np.ptp(by_packet.picture(made(amplitude))[0]) < 1e-4


def test_packets_stand_until_the_next_and_gaps_are_not_valid():
    times = np.r_[np.arange(0, 0.25, 0.01), np.arange(0.75, 1.0, 0.01)]
    picture, valid = CSI.picture(made(np.ones((50, 1, 52)), times=times))
    edges = np.arange(64) / 64
    assert (~valid[(edges > 0.24 + 0.04) & (edges < 0.73)]).all()
    assert valid[(edges < 0.26) | (edges > 0.75)].all()
    np.testing.assert_array_equal(picture[0][:, ~valid], CSI.floor_db)
    with pytest.raises(CaptureError, match="no packet from 5 s on"):
        CSI.picture(made(np.ones((50, 1, 52)), times=times), 5.0)


def test_times_in_whole_seconds_are_spread():
    found = made(np.ones((31, 1, 52)), times=np.floor(np.arange(31) / 10))
    np.testing.assert_allclose(found.times, np.arange(31) / 10)
    assert "too coarsely" in found.facts["times"]
    assert CSI.picture(found)[1].all()


def test_recipe_is_kept_and_compared_like_one_of_iq():
    assert Recipe.from_dict(json.loads(json.dumps(CSI.to_dict()))) == CSI
    with pytest.raises(RecipeMismatch, match="'csi' and the data recipe 'csi-fm'.*antennas 1 against 3"):
        CSI.require_same(CSI_PRESETS["csi-fm"])
    with pytest.raises(RecipeMismatch, match="'csi' and the data recipe 'small'"):
        CSI.require_same(PRESETS["small"])
    CSI.require_same(CsiRecipe(**(CSI.to_dict() | {"name": "other"})))
    with pytest.raises(ConfigError, match="missing or unknown fields \\['size'\\]"):
        Recipe.from_dict({key: value for key, value in CSI.to_dict().items() if key != "size"})
