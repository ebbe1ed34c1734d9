"""Captures inside a request: data URLs of spectrogram pictures and of IQ files, checked before anything decodes them.

Nothing is fetched and no name from a request is ever opened: a file's name only says its format.
"""

import base64
import binascii
import hashlib
import math
import re
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lwm.errors import CaptureError
from lwm.serve.errors import RequestError, bad
from lwm.signal.recording import SUFFIXES, datatype_named

MOST_PIXELS = 1 << 22
"""Pixels of a picture; the largest recipe's has 2¹⁸."""

IMAGES = ("image/png", "image/jpeg")
FORMATS = {".png": "image", ".jpg": "image", ".jpeg": "image", ".npy": "npy", ".wav": "wav", ".sigmf": "sigmf"}
"""Endings of file names that are taken beside those of raw IQ (:data:`lwm.signal.recording.SUFFIXES`): neither formats
that can point at other files (HDF5, SigMF metadata without its data) nor compressed ones, whose true size shows only
after unpacking."""

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[^;,]*)*)(;base64)?,", re.ASCII)
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Upload:
    """A capture as it was sent.

    ``kind``: one of :data:`lwm.language.inputs.UPLOAD_KINDS`. ``data``: its bytes. ``sample_rate``: Hz, None where not
    stated. ``datatype``: sample format of raw IQ. ``levels``: dB of the ends of a picture's colours, where stated.
    """

    kind: str
    data: bytes
    sample_rate: float | None = None
    datatype: str | None = None
    levels: tuple[float, float] | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content and of what was said about it: equal digests are equal RF tokens."""
        said = repr((self.kind, self.sample_rate, self.datatype, self.levels)).encode()
        return hashlib.sha256(hashlib.sha256(self.data).digest() + said).hexdigest()


def image_upload(part: dict[str, Any], where: str) -> Upload:
    """The picture of an ``image_url`` part.

    The ends of its colour scale in dB, where they are not those of the model's recipe, stand in the data URL:
    ``data:image/png;low=-30;high=50;base64,...``.

    Raises:
        RequestError: no data URL of a PNG or JPEG, or a picture of too many pixels.
    """
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str):
        raise bad("an image_url part without a url", '{"image_url": {"url": "data:image/png;base64,..."}}', param=where)
    kind, said, data = _decode(url, where)
    if kind not in IMAGES:
        raise _unknown("an image of another type", " or ".join(IMAGES), where)
    return _picture(data, said, where)


def file_upload(part: dict[str, Any], where: str) -> Upload:
    """The IQ, or picture, of a ``file`` part.

    The name's ending is the format. The sample rate (Hz) stands in the data URL
    (``data:application/octet-stream;rate=7680000;base64,...``) or as ``sample_rate`` beside ``file_data``; the sample
    format of raw IQ, where the ending does not say it, as ``datatype`` in either place.

    Raises:
        RequestError: neither, an unknown format, or what is said twice differs.
    """
    given = part.get("file")
    if not isinstance(given, dict) or not isinstance(given.get("file_data"), str):
        raise bad("a file part without file_data", "a data URL; files are not stored by id", param=where)
    name = given.get("filename", "")
    if not isinstance(name, str):
        raise bad("a filename that is no text", "a name such as capture.cf32", param=where)
    suffix = "." + name.lower().rpartition(".")[2]
    _, said, data = _decode(given["file_data"], where)
    kind = FORMATS.get(suffix, "iq")
    if kind == "image":
        return _picture(data, said, where)
    rate = _number(_once("sample_rate", said.get("rate"), given.get("sample_rate"), where), "sample rate", where)
    if rate is not None and rate <= 0:
        raise bad("a sample rate that is not positive", "Hz", param=where, code="invalid_capture")
    datatype = _once("datatype", said.get("datatype"), given.get("datatype"), where) or SUFFIXES.get(suffix)
    if kind != "iq":
        return Upload(kind, data, rate)
    if datatype is None:
        known = ", ".join((*FORMATS, *SUFFIXES))
        raise _unknown("a file of an unknown format", f"a name ending with {known}, or the datatype of raw IQ", where)
    try:
        return Upload(kind, data, rate, datatype_named(str(datatype)))
    except CaptureError as error:
        raise bad(str(error), param=where, code="invalid_capture") from None


def _decode(url: str, where: str) -> tuple[str, dict[str, str], bytes]:
    """Type, parameters and content of a data URL (RFC 2397)."""
    head = _DATA_URL.match(url[:1024])
    if head is None or head[3] is None:
        raise bad(
            "something else than a base64 data URL",
            "data:TYPE;base64,...",
            "other URLs are never fetched: send the content itself",
            param=where,
            code="invalid_url",
        )
    try:
        data = base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise bad("a data URL whose base64 is broken", "RFC 4648 with padding", param=where) from None
    if not data:
        raise bad("an empty attachment", "its content", param=where, code="invalid_capture")
    said = dict(item.split("=", 1) for item in head[2].split(";") if item)
    return (head[1] or "text/plain").lower(), said, data


def _picture(data: bytes, said: dict[str, str], where: str) -> Upload:
    """A picture whose size is known to be bounded before anything unpacks it (a JPEG's is looked at by its reader)."""
    if data.startswith(_PNG):
        if data[12:16] != b"IHDR" or len(data) < 33:
            raise bad("a damaged PNG", "a whole one", param=where, code="invalid_image")
        width, height = struct.unpack(">II", data[16:24])
        if width * height > MOST_PIXELS:
            raise RequestError(
                413,
                f"a picture of {width} x {height} pixels",
                f"at most {MOST_PIXELS} pixels",
                "send the spectrogram at the model's own size",
                param=where,
                code="image_too_large",
            )
    low, high = (_number(said.get(name), name, where) for name in ("low", "high"))
    return Upload("image", data, levels=None if low is None or high is None else (low, high))


def _unknown(given: str, expected: str, where: str) -> RequestError:
    return RequestError(415, given, expected, param=where, code="unsupported_media_type")


def _once(name: str, first: Any, second: Any, where: str) -> Any:
    if first is not None and second is not None and str(first) != str(second):
        raise bad(f"two values of {name}", "one", param=where)
    return second if first is None else first


def _number(value: Any, name: str, where: str) -> float | None:
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise bad(f"a {name} that is no number", param=where, code="invalid_capture")
    return number
