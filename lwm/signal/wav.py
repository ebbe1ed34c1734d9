"""IQ in WAV files as receivers write them: two channels, I and Q; RIFF, RF64 and files whose size was never filled in.

Formats: 8-bit unsigned, 16-, 24- and 32-bit signed, 32- and 64-bit float. The centre frequency comes from the ``auxi``
chunk that SpectraVue introduced and HDSDR, SDR# and SDRuno write (or the XML that SDR Console puts there), else from
a file name such as ``SDRSharp_20240101_120000Z_868000000Hz_IQ.wav``.
"""

import re
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from lwm.errors import CaptureError
from lwm.signal.recording import Complex, Opened, decode

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_UNKNOWN_SIZE = (0, 0xFFFFFFFF)
_COMPONENTS = {(_PCM, 8): "|u1", (_PCM, 16): "<i2", (_PCM, 24): "|u1", (_PCM, 32): "<i4"} | {
    (_FLOAT, 32): "<f4",
    (_FLOAT, 64): "<f8",
}
_AUXI_CENTER = 32
"""Byte of the centre frequency (uint32, Hz) in a binary ``auxi`` chunk, behind two times of 16 bytes."""


class _Header(NamedTuple):
    """``format``: bytes of ``fmt``. ``auxi``: of ``auxi``. ``offset``, ``size``: of the samples (None: to the end)."""

    format: bytes
    auxi: bytes
    offset: int
    size: int | None


def open_wav(path: Path, variable: str | None = None) -> Opened:
    """Open a WAV file of IQ; see the module for the formats.

    Raises:
        CaptureError: no WAV, cut off, not two channels, or an unknown sample format.
    """
    length = path.stat().st_size
    with path.open("rb") as handle:
        header = _header(path, handle)
    if len(header.format) < 16:
        raise CaptureError(f"{path}: a WAV file without a format", "a whole WAV file", "copy it again")
    code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", header.format[:16])
    if code == _EXTENSIBLE and len(header.format) >= 26:
        code = struct.unpack("<H", header.format[24:26])[0]
    if channels != 2:
        raise CaptureError(f"{path}: a WAV file with {channels} channel(s)", "two, I and Q", "record IQ, not audio")
    if (code, bits) not in _COMPONENTS:
        raise CaptureError(f"{path}: WAV samples of format {code} with {bits} bits", "PCM of 8 to 32 bits, or float")
    size = length - header.offset if header.size is None else header.size
    if header.offset + size > length:
        raise CaptureError(
            f"{path} holds {length - header.offset} bytes of samples", f"{size} as it says", "it is truncated"
        )
    frame = 2 * bits // 8
    if size < frame:
        raise CaptureError(f"{path} holds no samples", "IQ samples", "record or copy it again")
    dtype = np.dtype(_COMPONENTS[code, bits])

    def load(first: int, count: int) -> Complex:
        place = header.offset + first * frame
        values = np.fromfile(path, dtype, count * frame // dtype.itemsize, offset=place)
        return decode((_widened(values) if bits == 24 else values).reshape(-1, 2))

    kind = f"wav {'float' if code == _FLOAT else 'pcm'}{bits}"
    return Opened(size // frame, load, kind, float(rate) or None, _center(path, header.auxi))


def _header(path: Path, handle: BinaryIO) -> _Header:
    start = handle.read(12)
    if len(start) < 12 or start[:4] not in (b"RIFF", b"RF64") or start[8:] != b"WAVE":
        raise CaptureError(f"{path} is no WAV file", "RIFF or RF64 with WAVE", "state --datatype if it is raw IQ")
    found: dict[bytes, bytes] = {}
    while len(head := handle.read(8)) == 8:
        name, size = head[:4], struct.unpack("<I", head[4:])[0]
        if name != b"data":
            found[name] = handle.read(size)
            handle.seek(size % 2, 1)
            continue
        offset = handle.tell()
        if size == 0xFFFFFFFF and b"ds64" in found:
            size = struct.unpack("<Q", found[b"ds64"][8:16])[0]
        known = size if size not in _UNKNOWN_SIZE else None
        if b"auxi" not in found and known is not None:
            handle.seek(offset + known + known % 2)
            found |= _trailing(handle)
        return _Header(found.get(b"fmt ", b""), found.get(b"auxi", b""), offset, known)
    raise CaptureError(f"{path}: a WAV file without samples", "a data chunk", "it is truncated: copy it again")


def _trailing(handle: BinaryIO) -> dict[bytes, bytes]:
    """Chunks behind the samples."""
    found = {}
    while len(head := handle.read(8)) == 8:
        size = struct.unpack("<I", head[4:])[0]
        found[head[:4]] = handle.read(size)
        handle.seek(size % 2, 1)
    return found


def _widened(raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """24-bit little-endian integers as the upper bits of 32-bit ones: the same full scale."""
    wide = np.zeros((raw.size // 3, 4), np.uint8)
    wide[:, 1:] = raw.reshape(-1, 3)
    return wide.view("<i4")[:, 0]


def _center(path: Path, auxi: bytes) -> float | None:
    """Centre frequency in Hz from the ``auxi`` chunk or the file name; None where neither says it."""
    text = auxi.decode("utf-16-le" if b"\0" in auxi[:4] else "utf-8", errors="ignore")
    if "<" in text[:8]:
        stated = re.search(r'CenterFreq="(\d+(?:\.\d+)?)"', text)
        return float(stated[1]) if stated else None
    if len(auxi) >= _AUXI_CENTER + 4:
        center = struct.unpack_from("<I", auxi, _AUXI_CENTER)[0]
        if center:
            return float(center)
    named = re.search(r"_(\d+)(k?)Hz", path.name)
    return float(named[1]) * (1e3 if named[2] else 1.0) if named else None
