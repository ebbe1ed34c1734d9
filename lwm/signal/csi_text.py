"""CSI as lines of text: ESP32-CSI-Tool and Espressif's esp-csi, and tables of Nexmon.

An ESP32 line is ``CSI_DATA,`` then the fields of ``wifi_pkt_rx_ctrl_t``, then ``[...]``: signed bytes, imaginary and
real part of each subcarrier in turn, separated by blanks (ESP32-CSI-Tool) or commas and quoted (esp-csi). A Nexmon
table has a header, perhaps columns with time, MAC and the like, and one column a subcarrier: ``12+34j`` or amplitude.
"""

import csv
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lwm.errors import CaptureError
from lwm.signal.csi import USED, CsiRecording, recording_of
from lwm.signal.recording import checked_rate

_ESP = "CSI_DATA"
_ESP_FIELDS: dict[int, tuple[str, ...]] = {
    count: tuple(text.split())
    for count, text in {
        25: "type role mac rssi rate sig_mode mcs bandwidth smoothing not_sounding aggregation stbc fec_coding sgi"
        " noise_floor ampdu_cnt channel secondary_channel local_timestamp ant sig_len rx_state real_time_set"
        " real_timestamp len",
        24: "type seq mac rssi rate sig_mode mcs bandwidth smoothing not_sounding aggregation stbc fec_coding sgi"
        " noise_floor ampdu_cnt channel secondary_channel local_timestamp ant sig_len rx_state len first_word",
        14: "type seq mac rssi rate noise_floor fft_gain agc_gain channel local_timestamp sig_len rx_state len"
        " first_word",
    }.items()
}
"""Fields before the bytes where no header names them, by how many there are: ESP32-CSI-Tool, esp-csi on the classic
ESP32, S2, S3 and C3, esp-csi on the C5 and C6."""

_LEGACY_FIRST = (128, 192)
"""Subcarriers of lines that begin with the 64 of the legacy training field, the HT one's 64 or 128 following (ESP-IDF
programming guide, Wi-Fi channel state information); the HT ones are taken."""

_KEPT = ("rssi", "noise_floor", "agc_gain", "fft_gain")
_KEPT_ONCE = ("mac", "channel", "bandwidth", "secondary_channel", "sig_mode")
_TIMES = ("time", "timestamp", "ts", "frame.time_epoch", "time_epoch", "datetime")
_SHARE_DAMAGED = 0.5


def open_csv(path: Path, packet_rate: float | None = None) -> CsiRecording:
    """CSI from a CSV file of an ESP32 or of Nexmon.

    Raises:
        CaptureError: neither of them, or damaged: the line is named.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CaptureError(f"{path} cannot be read ({error})", "CSI as CSV") from None
    lines = text.splitlines()
    if any(line.lstrip().startswith(_ESP) for line in lines):
        return _esp(path, lines, packet_rate)
    return _nexmon(path, lines, packet_rate)


class _EspLine(NamedTuple):
    fields: dict[str, str]
    values: list[int]


def _esp(path: Path, lines: list[str], packet_rate: float | None) -> CsiRecording:
    header = next((line for line in lines if line.startswith("type,")), None)
    names = None if header is None else tuple(header.strip().split(","))[:-1]
    found, damaged = [], []
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith(_ESP):
            parsed = _esp_line(line, names)
            found.append(parsed) if parsed else damaged.append(number)
    if len(damaged) > _SHARE_DAMAGED * (len(found) + len(damaged)):
        raise CaptureError(
            f"{path}, line {damaged[0]} and {len(damaged) - 1} others: {_ESP} of unknown form",
            f"{_ESP}, {' or '.join(map(str, sorted(_ESP_FIELDS)))} fields, [bytes]",
        )
    length = Counter(len(line.values) for line in found).most_common(1)[0][0]
    kept = [line for line in found if len(line.values) == length]
    data = np.array([line.values for line in kept], np.float32).reshape(len(kept), -1, 2)
    csi = (data[..., 1] + 1j * data[..., 0]).astype(np.complex64)
    first = 64 if csi.shape[1] in _LEGACY_FIRST else 0
    facts: dict[str, Any] = {"left_out_packets": len(damaged) + len(found) - len(kept)}
    for name in _KEPT:
        numbers = _numbers([line.fields.get(name, "") for line in kept])
        if numbers is not None:
            facts[name] = {
                "median": float(np.median(numbers)),
                "min": float(numbers.min()),
                "max": float(numbers.max()),
            }
    facts |= {name: kept[0].fields[name] for name in _KEPT_ONCE if name in kept[0].fields}
    gains = [facts[name] for name in ("agc_gain", "fft_gain") if name in facts]
    if gains:
        facts["gain_locked"] = all(gain["min"] == gain["max"] for gain in gains)
    stamps = _numbers([line.fields.get("local_timestamp", "") for line in kept])
    times = _given_times(path, len(kept), packet_rate) if stamps is None else unwrapped(stamps) / 1e6
    return recording_of(path, csi[:, None, first:], times, facts=facts)


def _esp_line(line: str, names: tuple[str, ...] | None) -> _EspLine | None:
    """Fields and bytes of a line; None where it is damaged, as serial logs are now and then."""
    match = re.search(r"\[([-\d,\s]*)\]", line)
    if match is None:
        return None
    fields = line[: match.start()].lstrip().rstrip('," ').split(",")
    known = names if names is not None and len(names) == len(fields) else _ESP_FIELDS.get(len(fields))
    values = [int(word) for word in re.split(r"[,\s]+", match[1].strip()) if re.fullmatch(r"-?\d{1,4}", word)]
    if known is None or not values or len(values) % 2:
        return None
    given = dict(zip(known, fields, strict=True))
    if given.get("len", "").isdigit() and int(given["len"]) != len(values):
        return None
    return _EspLine(given, values)


def unwrapped(stamps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Microseconds of a 32-bit counter, which begins again after 71.6 minutes, from its first value on."""
    steps = np.diff(stamps)
    return np.concatenate([[0.0], np.cumsum(np.where(steps < -(2**31), steps + 2**32, steps))])


def _nexmon(path: Path, lines: list[str], packet_rate: float | None) -> CsiRecording:
    rows = [row for row in csv.reader(lines) if row]
    if len(rows) < 2:
        raise CaptureError(f"{path} holds {len(rows)} line(s)", "CSI of an ESP32 or of Nexmon", "record longer")
    header, body = rows[0], rows[1:]
    columns = [
        place
        for place, name in enumerate(header)
        if re.fullmatch(r"(sc|csi|subcarrier|_)?[ _-]*-?\d+", name.strip().lower())
    ]
    if len(columns) not in USED and len(columns) not in (52, 56, 114, 234, 242):
        raise CaptureError(
            f"{path}: a table with columns {', '.join(header[:6])} ... of which {len(columns)} are subcarriers",
            f"{_ESP} lines of an ESP32, or Nexmon's columns of {', '.join(map(str, USED))} subcarriers",
            "a table of labels has a column named file",
        )
    csi = np.empty((len(body), len(columns)), np.complex64)
    for number, row in enumerate(body):
        try:
            csi[number] = [complex(_plain(row[place])) for place in columns]
        except (ValueError, IndexError):
            raise CaptureError(
                f"{path}, line {number + 2}: {len(row)} columns, not all {len(columns)} subcarriers are numbers",
                "12+34j or an amplitude in each",
                "it is cut off or damaged: take the line out",
            ) from None
    time = next((place for place, name in enumerate(header) if name.strip().lower() in _TIMES), None)
    stamps = None if time is None else _numbers([row[time] for row in body])
    if stamps is None or packet_rate is not None:
        times = _given_times(path, len(body), packet_rate)
    else:
        times = stamps - stamps[0]
    return recording_of(path, csi[:, None], times)


def _plain(text: str) -> str:
    """A complex number as Python reads it: ``(1 + 2i)`` as ``1+2j``."""
    return text.strip().strip("()").replace(" ", "").replace("i", "j").replace("+-", "-")


def _given_times(path: Path, count: int, packet_rate: float | None) -> npt.NDArray[np.float64]:
    if packet_rate is None:
        raise CaptureError(f"{path}: no packet times", "a time column", "state packets per second (--sample_rate)")
    return np.arange(count) / checked_rate(path, packet_rate)


def _numbers(texts: list[str]) -> npt.NDArray[np.float64] | None:
    """Numbers, or None where not all are."""
    try:
        return np.array(texts, np.float64)
    except ValueError:
        return None
