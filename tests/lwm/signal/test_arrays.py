"""IQ in MATLAB and HDF5 files against the writers of scipy and h5py."""

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from lwm.errors import CaptureError
from lwm.signal.io import open_recording, read_capture

RATE = 2e6


def signal(samples=3000):
    values = np.random.default_rng(3).uniform(-0.9, 0.9, (samples, 2)).astype(np.float32)
    return values.view(np.complex64)[:, 0]


def save_v73(path, name, array):
    """As MATLAB writes v7.3: a user block with its text, dimensions turned round, complex numbers as compounds."""
    with h5py.File(path, "w", userblock_size=512) as file:
        turned = array.T
        if array.dtype.kind == "c":
            pairs = np.empty(turned.shape, [("real", "<f8"), ("imag", "<f8")])
            pairs["real"], pairs["imag"] = turned.real, turned.imag
            turned = pairs
        file[name] = turned
        file["Fs"] = np.array([[RATE]])
    with path.open("r+b") as handle:
        handle.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")


@pytest.mark.parametrize("version", ["4", "5", "7.3"])
@pytest.mark.parametrize("form", ["column", "row", "pairs"])
def test_matlab_files(tmp_path, version, form):
    pairs = signal().view(np.float32).reshape(-1, 2).astype(np.float64)
    array = {"column": signal()[:, None], "row": signal()[None].astype(np.complex128), "pairs": pairs}[form]
    path = tmp_path / "x.mat"
    if version == "7.3":
        save_v73(path, "iq", array)
    else:
        savemat(path, {"iq": array, "Fs": RATE}, format=version, do_compression=version == "5")
    recording = open_recording(path)
    assert (recording.samples, recording.sample_rate) == (3000, RATE)
    np.testing.assert_allclose(recording.read(5e-4, 1e-4).iq, signal()[1000:1200], atol=1e-7)


def test_variable_of_several_is_named_or_listed(tmp_path):
    path = tmp_path / "x.mat"
    savemat(path, {"a": signal(), "b": 2 * signal(), "gain": 3.0, "name": "text", "taps": np.ones((4, 4))})
    with pytest.raises(CaptureError, match=r"2 arrays that could be meant: a complex64 \[1, 3000\], b .*--variable"):
        open_recording(path, RATE)
    np.testing.assert_allclose(open_recording(path, RATE, variable="b").read().iq, 2 * signal())
    with pytest.raises(CaptureError, match=r"holds no 'c' but a complex64"):
        open_recording(path, RATE, variable="c")
    with pytest.raises(CaptureError, match=r"taps is float64 \[4, 4\]; the file holds a complex64"):
        open_recording(path, RATE, variable="taps")
    savemat(path, {"gain": 3.0})
    with pytest.raises(CaptureError, match=r"no IQ: gain .*\[1, 1\]"):
        open_recording(path, RATE)


@pytest.mark.parametrize("form", ["complex", "pairs", "int16", "compound"])
def test_hdf5_datasets(tmp_path, form):
    pairs = signal().view(np.float32).reshape(-1, 2)
    compound = np.empty(3000, [("r", "<f4"), ("i", "<f4")])
    compound["r"], compound["i"] = pairs.T
    array = {
        "complex": signal(),
        "pairs": pairs,
        "int16": np.round(pairs * 32768).astype(np.int16),
        "compound": compound,
    }[form]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("radio/iq", data=array, chunks=(500, *array.shape[1:]), compression="gzip")
        data.attrs["center_frequency"] = 868e6
        file.attrs["samp_rate"] = 1.0
        file["radio"].attrs["samp_rate"] = RATE
    recording = open_recording(tmp_path / "x.h5")
    assert (recording.sample_rate, recording.center_frequency) == (RATE, 868e6)
    np.testing.assert_allclose(recording.read(5e-4, 1e-4).iq, signal()[1000:1200], atol=3e-5)


def test_hdf5_of_several_and_of_none(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["one/iq"], file["two/iq"], file["text"] = signal(), signal()[::-1], "no"
    with pytest.raises(CaptureError, match=r"2 arrays.*one/iq complex64 \[3000\], .*two/iq"):
        open_recording(tmp_path / "x.h5", RATE)
    found = open_recording(tmp_path / "x.h5", RATE, variable="/two/iq").read()
    np.testing.assert_array_equal(found.iq, signal()[::-1])
    with pytest.raises(CaptureError, match="no sample rate"):
        open_recording(tmp_path / "x.h5", variable="one/iq")
    h5py.File(tmp_path / "empty.h5", "w").close()
    with pytest.raises(CaptureError, match="holds no IQ: nothing"):
        open_recording(tmp_path / "empty.h5", RATE)


@pytest.mark.parametrize("name", ["x.mat", "x.h5", "x.hdf5"])
@pytest.mark.parametrize("content", [b"\x89HDF\r\n\x1a\n" + b"\0" * 40, b"no file of this kind" * 20, b"M"])
def test_files_that_are_something_else(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CaptureError, match=rf"{name} (cannot be read|holds no)") as error:
        read_capture(tmp_path / name, RATE)
    assert "\n" not in str(error.value)


def test_truncated_matlab_file(tmp_path):
    savemat(tmp_path / "x.mat", {"iq": signal()})
    whole = (tmp_path / "x.mat").read_bytes()
    (tmp_path / "x.mat").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CaptureError, match="x.mat cannot be read"):
        open_recording(tmp_path / "x.mat", RATE)


def test_damaged_chunks_are_named_when_they_are_read(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        place = file.create_dataset("iq", data=signal(), chunks=(3000,), compression="gzip").id.get_chunk_info(0)
    with (tmp_path / "x.h5").open("r+b") as handle:
        handle.seek(place.byte_offset)
        handle.write(b"damaged")
    with pytest.raises(CaptureError, match=r"x\.h5: iq cannot be read"):
        open_recording(tmp_path / "x.h5", RATE).read()
