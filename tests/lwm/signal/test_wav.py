"""WAV IQ against scipy's and Python's own writers, and headers put together by hand."""

import struct
import wave

import numpy as np
import pytest
from scipy.io import wavfile

from lwm.errors import CaptureError
from lwm.signal.io import open_recording

RATE = 250_000


def pairs(samples=2000):
    return np.random.default_rng(5).uniform(-0.95, 0.95, (samples, 2))


def riff(chunks, name=b"RIFF"):
    body = b"".join(head + struct.pack("<I", size) + data for head, size, data in chunks)
    return name + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def fmt(code=1, bits=16, channels=2):
    frame = channels * bits // 8
    return (b"fmt ", 16, struct.pack("<HHIIHH", code, channels, RATE, RATE * frame, frame, bits))


@pytest.mark.parametrize(
    ("dtype", "scale", "shift"),
    [("u1", 128, 128), ("<i2", 2**15, 0), ("<i4", 2**31, 0), ("<f4", 1, 0), ("<f8", 1, 0)],
)
def test_formats_that_scipy_writes(tmp_path, dtype, scale, shift):
    values = pairs() * scale + shift
    stored = values.astype(dtype) if scale == 1 else np.floor(values).astype(dtype)
    wavfile.write(tmp_path / "x.wav", RATE, stored)
    recording = open_recording(tmp_path / "x.wav")
    assert (recording.samples, recording.sample_rate, recording.center_frequency) == (2000, RATE, None)
    part = recording.read(1e-3, 2e-3)
    np.testing.assert_allclose(part.iq.view(np.float32).reshape(-1, 2), pairs()[250:750], atol=1.01 / scale)


def test_24_bits_as_the_wave_module_writes_them(tmp_path):
    stored = np.round(pairs() * 2**23).astype("<i4")
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(3)
        file.setframerate(RATE)
        file.writeframes(stored.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
    found = open_recording(tmp_path / "x.wav").read(1e-3, 2e-3).iq
    np.testing.assert_allclose(found.view(np.float32).reshape(-1, 2), pairs()[250:750], atol=2e-7)


def test_center_frequency_of_the_auxi_chunk_or_the_name(tmp_path):
    data = (pairs(100) * 2**15).astype("<i2").tobytes()
    auxi = bytes(32) + struct.pack("<IIIIII", 868_300_000, RATE, 0, 0, 0, 0) + bytes(20)
    (tmp_path / "x.wav").write_bytes(riff([fmt(), (b"auxi", len(auxi), auxi), (b"data", len(data), data)]))
    assert open_recording(tmp_path / "x.wav").center_frequency == 868.3e6
    (tmp_path / "after.wav").write_bytes(riff([fmt(), (b"data", len(data), data), (b"auxi", len(auxi), auxi)]))
    assert open_recording(tmp_path / "after.wav").center_frequency == 868.3e6
    xml = '<?xml version="1.0"?><SDR-XML-Root><Definition RadioCenterFreq="5890000000"/></SDR-XML-Root>'.encode(
        "utf-16-le"
    )
    (tmp_path / "console.wav").write_bytes(riff([fmt(), (b"auxi", len(xml), xml), (b"data", len(data), data)]))
    assert open_recording(tmp_path / "console.wav").center_frequency == 5.89e9
    plain = riff([fmt(), (b"data", len(data), data)])
    for name, center in {
        "SDRSharp_20240101_120000Z_433920000Hz_IQ.wav": 433.92e6,
        "HDSDR_1_7100kHz_RF.wav": 7.1e6,
    }.items():
        (tmp_path / name).write_bytes(plain)
        assert open_recording(tmp_path / name).center_frequency == center


def test_files_over_4_gb_and_files_never_closed(tmp_path):
    data = (pairs(100) * 2**15).astype("<i2").tobytes()
    ds64 = struct.pack("<QQQI", 0, len(data), 100, 0)
    big = riff([(b"ds64", 28, ds64), fmt(), (b"data", 0xFFFFFFFF, data)], b"RF64")
    (tmp_path / "big.wav").write_bytes(big + b"LIST\4\0\0\0abcd")
    assert open_recording(tmp_path / "big.wav").samples == 100
    for size in (0, 0xFFFFFFFF):
        (tmp_path / "open.wav").write_bytes(riff([fmt(), (b"data", size, data[:-2])]))
        assert open_recording(tmp_path / "open.wav").samples == 99


def test_extensible_format(tmp_path):
    data = pairs(100).astype("<f4").tobytes()
    head = struct.pack("<HHIIHHHHIH", 0xFFFE, 2, RATE, RATE * 8, 8, 32, 22, 32, 3, 3) + bytes(14)
    (tmp_path / "x.wav").write_bytes(riff([(b"fmt ", len(head), head), (b"data", len(data), data)]))
    found = open_recording(tmp_path / "x.wav").read().iq
    np.testing.assert_allclose(found.view(np.float32).reshape(-1, 2), pairs(100), atol=1e-7)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (riff([fmt(channels=1), (b"data", 8, bytes(8))]), r"1 channel\(s\); expected two, I and Q"),
        (riff([fmt(bits=12), (b"data", 8, bytes(8))]), "format 1 with 12 bits"),
        (riff([fmt(code=85), (b"data", 8, bytes(8))]), "format 85"),
        (
            riff([fmt(), (b"data", 800, bytes(80))]),
            "holds 80 bytes of samples; expected 800 as it says; it is truncated",
        ),
        (riff([fmt()]), "without samples"),
        (riff([(b"data", 8, bytes(8))]), "without a format"),
        (riff([fmt(), (b"data", 2, bytes(2))]), "holds no samples"),
        (b"OggS" + bytes(40), "is no WAV file"),
        (b"RIFF", "is no WAV file"),
    ],
)
def test_what_is_refused(tmp_path, content, said):
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(CaptureError, match=said) as error:
        open_recording(tmp_path / "x.wav")
    assert "x.wav" in str(error.value)
    assert "\n" not in str(error.value)
