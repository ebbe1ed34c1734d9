"""SigMF recordings of several capture segments, each with its own centre frequency."""

import json

import numpy as np
import pytest
import sigmf

from lwm.errors import CaptureError
from lwm.signal.capture import Capture, Emission
from lwm.signal.io import open_recording, open_segments, write_sigmf

RATE = 1e6


def signal(samples=5000):
    values = np.random.default_rng(7).uniform(-0.9, 0.9, (samples, 2)).astype(np.float32)
    return values.view(np.complex64)[:, 0]


@pytest.fixture
def hopping(tmp_path):
    """5,000 samples: 2,000 at 868 MHz, 1,000 at 915 MHz, 2,000 at an unknown frequency; a burst over the first hop."""
    meta = write_sigmf(
        Capture(signal(), RATE, 868e6, [Emission("LORA", "", "", 1e-3, 2.5e-3, 1e5, 2e5)]), tmp_path / "x"
    )
    plain = json.loads(meta.read_text())
    plain["captures"] = [
        {"core:sample_start": 0, "core:frequency": 868e6, "core:datetime": "2024-01-01T00:00:00Z"},
        {"core:sample_start": 2000, "core:frequency": 915e6},
        {"core:sample_start": 3000},
    ]
    plain["annotations"].append({"core:sample_start": 4000, "core:label": "late"})
    meta.write_text(json.dumps(plain))
    return meta


def test_segments_are_recordings_of_their_own(hopping):
    first, second, third = open_segments(hopping)
    assert [part.samples for part in (first, second, third)] == [2000, 1000, 2000]
    assert [part.center_frequency for part in (first, second, third)] == [868e6, 915e6, None]
    np.testing.assert_array_equal(second.read().iq, signal()[2000:3000])
    np.testing.assert_array_equal(third.read(1e-3, 5e-4).iq, signal()[4000:4500])
    assert [part.facts["segment_start_s"] for part in (first, second, third)] == [0.0, 2e-3, 3e-3]
    (box,) = first.emissions
    assert (box.start, box.stop, box.low, box.high) == pytest.approx((1e-3, 2e-3, 1e5, 2e5))
    (same,) = second.emissions
    assert (same.start, same.stop) == pytest.approx((0.0, 0.5e-3))
    assert same.low == pytest.approx(868.1e6 - 915e6)
    (late,) = third.emissions
    assert (late.technology, late.start, late.stop) == ("late", pytest.approx(1e-3), pytest.approx(2e-3))
    with pytest.raises(CaptureError, match=r"holds 3 capture segments.*lwm ingest"):
        open_recording(hopping)


def test_segments_with_headers_between_them(hopping):
    plain = json.loads(hopping.read_text())
    plain["global"]["core:dataset"] = "x.dat"
    for capture, size in zip(plain["captures"], (16, 7, 9), strict=True):
        capture["core:header_bytes"] = size
    hopping.write_text(json.dumps(plain))
    data = hopping.with_suffix(".sigmf-data").rename(hopping.with_suffix(".dat"))
    iq = signal()
    data.write_bytes(
        b"A" * 16 + iq[:2000].tobytes() + b"B" * 7 + iq[2000:3000].tobytes() + b"C" * 9 + iq[3000:].tobytes()
    )
    found = [part.read().iq for part in open_segments(hopping)]
    np.testing.assert_array_equal(np.concatenate(found), iq)


def test_segments_in_an_archive(hopping):
    archive = hopping.with_name("y.sigmf")
    sigmf.fromfile(hopping).tofile(archive)
    found = [part.read().iq for part in open_segments(archive)]
    assert [len(iq) for iq in found] == [2000, 1000, 2000]
    np.testing.assert_array_equal(np.concatenate(found), signal())


def test_core_offset_counts_from_the_original_stream(hopping):
    plain = json.loads(hopping.read_text())
    plain["global"]["core:offset"] = 700
    for part in (*plain["captures"], *plain["annotations"]):
        part["core:sample_start"] += 700
    hopping.write_text(json.dumps(plain))
    parts = open_segments(hopping)
    assert [part.samples for part in parts] == [2000, 1000, 2000]
    assert parts[0].emissions[0].start == pytest.approx(1e-3)
    np.testing.assert_array_equal(parts[2].read().iq, signal()[3000:])


@pytest.mark.parametrize(
    ("datatype", "said"),
    [
        ("ci12_le", r"x\.sigmf-meta: datatype 'ci12_le'; expected one of cu8"),
        ("rf32_le", "real-valued samples .*Hilbert"),
    ],
)
def test_formats_that_are_not_read(hopping, datatype, said):
    plain = json.loads(hopping.read_text())
    plain["global"]["core:datatype"] = datatype
    hopping.write_text(json.dumps(plain))
    with pytest.raises(CaptureError, match=said):
        open_segments(hopping)


WRONG = [None, -1, 7, 1e30, float("inf"), "x", [1], {"a": 1}, True, 1.5, 10**30]


@pytest.mark.parametrize(
    "place",
    [
        ("global", "core:offset"),
        ("global", "core:num_channels"),
        ("global", "core:trailing_bytes"),
        ("global", "lwm:facts"),
        ("captures",),
        ("captures", 1),
        ("captures", 1, "core:header_bytes"),
        ("captures", 1, "core:sample_start"),
        ("captures", 1, "core:frequency"),
        ("annotations", 0),
        ("annotations", 0, "core:sample_start"),
        ("annotations", 0, "core:freq_lower_edge"),
    ],
)
def test_any_wrong_value_is_an_error_of_one_line_or_harmless(hopping, place):
    whole = json.loads(hopping.read_text())
    said = []
    for value in WRONG:
        plain = json.loads(json.dumps(whole))
        part = plain
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = value
        hopping.write_text(json.dumps(plain))
        try:
            assert sum(segment.read().iq.size for segment in open_segments(hopping)) <= 5000
        except CaptureError as error:
            said.append(str(error))
    assert len(said) >= 4
    assert not any("\n" in message for message in said)
