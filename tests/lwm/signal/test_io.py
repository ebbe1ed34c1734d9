"""Recordings: what is read is what was written, and every broken one is refused in one line."""

import json
import shutil

import numpy as np
import pytest
import sigmf

from lwm.errors import CaptureError, OutputError
from lwm.signal.capture import Capture, Emission
from lwm.signal.io import open_recording, read_capture, write_sigmf
from lwm.signal.recording import DATATYPES, SUFFIXES, datatype_named, decode

RATE = 2e6


def signal(samples=4000, seed=0):
    values = np.random.default_rng(seed).uniform(-0.9, 0.9, (samples, 2)).astype(np.float32)
    return values.view(np.complex64)[:, 0]


def capture(**more):
    boxes = [
        Emission("LTE", "downlink", "QPSK", 1e-4, 8e-4, -4e5, 5e5, 12.5, {"pci": 3, "ports": [0, 1]}),
        Emission("WLAN", start=1e-3, stop=2e-3, low=-1e6, high=1e6),
    ]
    return Capture(signal(), RATE, 2.4e9, boxes, {"source": "made", "seed": 7, "nested": {"a": [1.5, None]}}, **more)


def near(found, wanted):
    assert [(e.technology, e.link, e.modulation, e.snr_db, e.attributes) for e in found] == [
        (e.technology, e.link, e.modulation, e.snr_db, e.attributes) for e in wanted
    ]
    for mine, theirs in zip(found, wanted, strict=True):
        for name in ("start", "stop", "low", "high"):
            assert getattr(mine, name) == pytest.approx(getattr(theirs, name), abs=1e-9, rel=1e-6)


@pytest.mark.parametrize("kind", list(DATATYPES))
def test_sigmf_round_trip_in_every_format(tmp_path, kind):
    wanted = capture()
    meta = write_sigmf(wanted, tmp_path / "a.b", kind)
    assert meta.name == "a.b.sigmf-meta"
    found = read_capture(meta, verify=True)
    step = {"8": 2**-7, "6": 2**-15}.get(kind.split("_")[0][-1], 1e-6)
    np.testing.assert_allclose(found.iq.view(np.float32), wanted.iq.view(np.float32), atol=step / 2 + 1e-7)
    assert (found.sample_rate, found.center_frequency, found.facts) == (RATE, 2.4e9, wanted.facts)
    near(found.emissions, wanted.emissions)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.b.sigmf-data", "a.b.sigmf-meta"]


def test_float_round_trip_is_exact_and_files_are_valid_sigmf(tmp_path):
    meta = write_sigmf(capture(), tmp_path / "x")
    np.testing.assert_array_equal(read_capture(tmp_path / "x").iq, capture().iq)
    read_by_library = sigmf.fromfile(meta)
    read_by_library.validate()
    np.testing.assert_array_equal(read_by_library[:], capture().iq)


@pytest.mark.parametrize("name", ["x", "x.sigmf-data", "x.sigmf-meta"])
def test_every_name_of_a_pair_reads_it(tmp_path, name):
    write_sigmf(capture(), tmp_path / "x")
    assert read_capture(tmp_path / name).iq.size == 4000


@pytest.mark.parametrize("ending", [".sigmf", ".sigmf.gz", ".sigmf.zip"])
def test_archives_are_read_and_verified(tmp_path, ending):
    meta = write_sigmf(capture(), tmp_path / "x", "ci16_le")
    archive = tmp_path / f"y{ending}"
    sigmf.fromfile(meta).tofile(archive)
    found = read_capture(archive, start=5e-4, duration=1e-4, verify=True)
    np.testing.assert_array_equal(found.iq, read_capture(meta).iq[1000:1200])
    archive.write_bytes(archive.read_bytes()[:600])
    with pytest.raises(CaptureError, match="SigMF archive"):
        read_capture(archive)


@pytest.mark.parametrize(("suffix", "kind"), list(SUFFIXES.items()))
def test_raw_files_read_by_their_ending(tmp_path, suffix, kind):
    write_sigmf(capture(), tmp_path / "x", kind)
    raw = (tmp_path / "x.sigmf-data").rename(tmp_path / f"raw{suffix}")
    found = read_capture(raw, sample_rate=RATE, center_frequency=1e9)
    np.testing.assert_allclose(found.iq, signal(), atol=0.01)
    assert found.facts == {"source": raw.name, "datatype": kind}
    assert found.center_frequency == 1e9


def test_raw_files_of_another_ending_read_by_datatype(tmp_path):
    path = tmp_path / "x.iq"
    np.array([1, -1, 32767, -32768], dtype="<i2").tofile(path)
    found = read_capture(path, sample_rate=RATE, datatype="cs16")
    np.testing.assert_array_equal(found.iq, np.array([1 - 1j, 32767 - 32768j], np.complex64) / 32768)


def test_full_scale_of_each_integer_format():
    assert decode(np.array([[0, 255], [128, 64]], np.uint8)).tolist() == [-1 + 127 / 128 * 1j, -0.5j]
    assert decode(np.array([[-128, 127]], np.int8)).tolist() == [-1 + 127 / 128 * 1j]
    assert decode(np.array([[-32768, 16384]], ">i2")).tolist() == [-1 + 0.5j]


@pytest.mark.parametrize("form", ["complex64", "complex128", "pairs", "rows", "int16"])
def test_numpy_arrays(tmp_path, form):
    pairs = signal().view(np.float32).reshape(-1, 2)
    array = {
        "complex64": signal(),
        "complex128": signal().astype(np.complex128),
        "pairs": pairs,
        "rows": pairs.T,
        "int16": np.round(pairs * 32768).astype(np.int16),
    }[form]
    np.save(tmp_path / "x.npy", array)
    np.testing.assert_allclose(read_capture(tmp_path / "x.npy", sample_rate=RATE).iq, signal(), atol=3e-5)


@pytest.mark.parametrize("array", [np.ones(5), np.ones((3, 4)), np.ones((2, 2, 2)), np.ones((0, 2))])
def test_numpy_arrays_that_are_no_iq_are_refused(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(CaptureError, match=r"x\.npy: array float64"):
        read_capture(tmp_path / "x.npy", sample_rate=RATE)


def test_truncated_numpy_file_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", signal())
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-100])
    with pytest.raises(CaptureError, match="cannot be read as a numpy array"):
        read_capture(tmp_path / "x.npy", sample_rate=RATE)


def test_part_of_a_recording_reads_only_it(tmp_path):
    write_sigmf(capture(), tmp_path / "x")
    whole = open_recording(tmp_path / "x")
    assert whole.samples == 4000
    assert whole.duration == pytest.approx(2e-3)
    loaded = []
    object.__setattr__(whole, "load", lambda first, count, load=whole.load: loaded.append(count) or load(first, count))
    part = whole.read(5e-4, 2e-4)
    assert loaded == [400]
    np.testing.assert_array_equal(part.iq, signal()[1000:1400])
    assert part.facts["start_s"] == pytest.approx(5e-4)
    (box,) = part.emissions
    assert (box.start, box.stop) == (0.0, pytest.approx(2e-4))
    assert whole.read(19e-4, 1.0).iq.size == 200


@pytest.mark.parametrize(("start", "duration"), [(-1e-3, 1e-3), (2e-3, 1e-3), (0, 0), (float("nan"), 1e-3)])
def test_part_outside_is_refused(tmp_path, start, duration):
    write_sigmf(capture(), tmp_path / "x")
    with pytest.raises(CaptureError, match=r"one inside 0 to 0\.002 s"):
        read_capture(tmp_path / "x", start=start, duration=duration)


def test_windows_cover_a_recording_once(tmp_path):
    write_sigmf(capture(), tmp_path / "x")
    recording = open_recording(tmp_path / "x")
    parts = list(recording.windows(3e-4))
    np.testing.assert_array_equal(np.concatenate([part.iq for part in parts]), signal()[:3600])
    assert [part.facts["start_s"] for part in parts] == pytest.approx([i * 3e-4 for i in range(6)])
    assert len(list(recording.windows(3e-4, hop=1e-4))) == 18
    (alone,) = recording.windows(1.0)
    assert alone.iq.size == 4000
    with pytest.raises(CaptureError, match="longer than one sample"):
        next(recording.windows(0.0))


def edit(meta, change):
    plain = json.loads(meta.read_text())
    change(plain)
    meta.write_text(json.dumps(plain))


def test_annotation_without_count_or_edges_lasts_and_fills(tmp_path):
    meta = write_sigmf(capture(), tmp_path / "x")
    bare = {"core:sample_start": 1000, "core:label": "GSM", "core:comment": '{"arfcn": 5}'}
    edit(meta, lambda plain: plain.update(annotations=[bare, bare | {"core:comment": "loud"}]))
    first, second = read_capture(meta).emissions
    assert (first.start, first.stop, first.low, first.high) == (pytest.approx(5e-4), pytest.approx(2e-3), -1e6, 1e6)
    assert first.attributes == {"arfcn": 5}
    assert second.attributes == {"comment": "loud"}


def test_big_endian_and_header_bytes(tmp_path):
    meta = write_sigmf(capture(), tmp_path / "x", "ci16_be")
    data = (tmp_path / "x.sigmf-data").rename(tmp_path / "x.dat")
    data.write_bytes(b"H" * 64 + data.read_bytes())

    def change(plain):
        plain["global"] |= {"core:dataset": "x.dat"}
        plain["captures"][0]["core:header_bytes"] = 64

    edit(meta, change)
    np.testing.assert_allclose(read_capture(meta).iq, signal(), atol=1e-4)


BROKEN = {
    "bad JSON": (lambda plain: None, "is not JSON"),
    "no global": (lambda plain: plain.pop("global"), "has no 'global' object"),
    "captures no list": (lambda plain: plain.update(captures=3), "is no list"),
    "no datatype": (lambda plain: plain["global"].pop("core:datatype"), "has no core:datatype"),
    "real": (lambda plain: plain["global"].update({"core:datatype": "ri8"}), "real-valued samples of datatype 'ri8'"),
    "odd type": (lambda plain: plain["global"].update({"core:datatype": "cx4"}), "datatype 'cx4'; expected one of cu8"),
    "no rate": (lambda plain: plain["global"].pop("core:sample_rate"), r"state it \(--sample_rate\)"),
    "rate 0": (lambda plain: plain["global"].update({"core:sample_rate": 0}), "sample rate 0.0; expected a positive"),
    "rate text": (lambda plain: plain["global"].update({"core:sample_rate": "2M"}), "sample rate '2M'"),
    "two channels": (lambda plain: plain["global"].update({"core:num_channels": 2}), "interleaves 2 channels"),
    "long": (lambda plain: plain["annotations"][0].update({"core:sample_count": 9999}), "speak of 10199"),
    "box": (lambda plain: plain["annotations"][0].update({"core:freq_lower_edge": 9e9}), "annotation at sample 200"),
    "attributes": (lambda plain: plain["annotations"][0].update({"lwm:attributes": [1]}), "annotation at sample 200"),
    "count": (lambda plain: plain["annotations"][0].update({"core:sample_count": "a"}), "metadata|whole number"),
}


@pytest.mark.parametrize("case", list(BROKEN))
def test_broken_metadata_are_one_line_errors(tmp_path, case):
    meta = write_sigmf(capture(), tmp_path / "x")
    change, said = BROKEN[case]
    edit(meta, change)
    if case == "bad JSON":
        meta.write_text(meta.read_text()[:-20])
    with pytest.raises(CaptureError, match=said) as error:
        read_capture(meta)
    assert "\n" not in str(error.value)


def test_missing_empty_and_cut_sigmf(tmp_path):
    with pytest.raises(CaptureError, match=r"no file .*x\.sigmf-meta"):
        read_capture(tmp_path / "x.sigmf-meta")
    meta = write_sigmf(capture(), tmp_path / "x")
    data = tmp_path / "x.sigmf-data"
    whole = data.read_bytes()
    data.write_bytes(whole[:-3])
    with pytest.raises(CaptureError, match="holds 31997 bytes; expected a multiple of 8"):
        read_capture(meta)
    data.write_bytes(whole[:800])
    with pytest.raises(CaptureError, match=r"holds 100 samples, .* truncated"):
        read_capture(meta)
    data.write_bytes(whole[:-8] + whole[:8])
    assert read_capture(meta).iq.size == 4000
    with pytest.raises(CaptureError, match="SHA-512"):
        read_capture(meta, verify=True)
    data.write_bytes(b"")
    with pytest.raises(CaptureError, match="is empty"):
        read_capture(meta)
    data.unlink()
    with pytest.raises(CaptureError, match=r"no data file .*x\.sigmf-data"):
        read_capture(meta)
    meta.unlink()
    data.write_bytes(whole)
    with pytest.raises(CaptureError, match="--datatype and --sample_rate"):
        read_capture(data)
    np.testing.assert_array_equal(read_capture(data, sample_rate=RATE, datatype="cf32").iq, signal())


def test_raw_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "x.cf32"
    with pytest.raises(CaptureError, match=r"no file .*x\.cf32"):
        read_capture(path, sample_rate=RATE)
    path.touch()
    with pytest.raises(CaptureError, match="is empty"):
        read_capture(path, sample_rate=RATE)
    with pytest.raises(CaptureError, match="is a folder"):
        read_capture(tmp_path, sample_rate=RATE)
    signal().tofile(path)
    for rate in (None, 0, -1e6, float("nan")):
        with pytest.raises(CaptureError, match=r"state it \(--sample_rate\)"):
            read_capture(path, sample_rate=rate)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CaptureError, match=r"a multiple of 8.*truncated"):
        read_capture(path, sample_rate=RATE)
    unknown = path.rename(tmp_path / "x.mp3")
    with pytest.raises(CaptureError, match=r"unknown format '\.mp3'; expected one of \.cu8.*\.npy.*--datatype"):
        read_capture(unknown, sample_rate=RATE)


def test_nan_names_the_file_and_the_sample(tmp_path):
    iq = signal()
    iq[17] = np.nan
    iq.tofile(tmp_path / "x.cf32")
    with pytest.raises(CaptureError, match=r"x\.cf32: IQ sample 17 is not finite"):
        read_capture(tmp_path / "x.cf32", sample_rate=RATE)


def test_given_rate_may_not_contradict_the_file(tmp_path):
    meta = write_sigmf(capture(), tmp_path / "x")
    assert read_capture(meta, sample_rate=RATE).sample_rate == RATE
    with pytest.raises(CaptureError, match="1e\\+06 Hz was given; expected 2e\\+06 Hz"):
        read_capture(meta, sample_rate=1e6)


def test_writing_refuses_what_it_cannot_hold_and_leaves_nothing(tmp_path):
    loud = Capture(2 * signal(), RATE)
    with pytest.raises(CaptureError, match="at most 1.0 for ci8"):
        write_sigmf(loud, tmp_path / "x", "ci8")
    with pytest.raises(CaptureError, match="an empty capture"):
        write_sigmf(Capture(np.zeros(0, np.complex64), RATE), tmp_path / "x")
    with pytest.raises(CaptureError, match="real-valued"):
        write_sigmf(loud, tmp_path / "x", "rf32_le")
    with pytest.raises(TypeError):
        write_sigmf(Capture(signal(), RATE, facts={"bad": object()}), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
    write_sigmf(loud, tmp_path / "x")
    with pytest.raises(OutputError, match="exists"):
        write_sigmf(loud, tmp_path / "x")
    write_sigmf(capture(), tmp_path / "x", overwrite=True)
    np.testing.assert_array_equal(read_capture(tmp_path / "x").iq, signal())


def test_names_of_formats():
    assert datatype_named("CS16") == "ci16_le"
    with pytest.raises(CaptureError, match="--datatype"):
        datatype_named("q15")


def test_all_recordings_read_whole_and_in_part(shared, tmp_path):
    files = sorted([*shared.glob("captures/*.sigmf-meta"), *shared.glob("golden/*.sigmf-meta")])
    assert len(files) >= 16
    seen = set()
    for meta in files:
        recording = open_recording(meta, verify=True)
        whole = recording.read()
        seen.add(recording.facts["datatype"])
        assert whole.iq.size == json.loads(meta.read_text())["annotations"][0]["core:sample_count"]
        assert whole.emissions[0].technology
        assert 0 < np.abs(whole.iq.view(np.float32)).max() <= 1.5
        part = recording.read(whole.duration / 2, 1e-4)
        first = round(whole.duration / 2 * whole.sample_rate)
        np.testing.assert_array_equal(part.iq, whole.iq[first : first + part.iq.size])
    assert seen == {"cu8", "ci16_le", "cf32_le"}
    copy = shutil.copy(files[0].with_suffix(".sigmf-data"), tmp_path / "plain.bin")
    raw = read_capture(copy, sample_rate=2e6, datatype=open_recording(files[0]).facts["datatype"])
    np.testing.assert_array_equal(raw.iq, read_capture(files[0]).iq)
