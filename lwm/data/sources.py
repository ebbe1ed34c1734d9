"""Which recordings a command names, what labels them, and which split each belongs to."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from lwm.console import say
from lwm.data.manifest import SPLITS
from lwm.data.reader import RESERVED_LABELS
from lwm.errors import ConfigError
from lwm.seeding import rng_for
from lwm.signal.csi_formats import CSI_ONLY, CSI_SUFFIXES
from lwm.signal.io import RECORDING_SUFFIXES
from lwm.signal.recording import SUFFIXES

Kind = Literal["auto", "iq", "csi"]

_FILE, _START, _STOP = "file", "start", "stop"
_SIGMF_PAIR = (".sigmf-meta", ".sigmf-data")
_ENDINGS = sorted({*RECORDING_SUFFIXES, *CSI_SUFFIXES}, key=len, reverse=True)

_TEXTS = (".txt", ".md", ".rst", ".pdf", ".html", ".xml", ".json", ".yaml", ".yml", ".toml", ".ini", ".log", ".py")
_PICTURES = (".png", ".jpg", ".jpeg", ".svg", ".gif")
_PACKED = (".zip", ".gz", ".xz", ".bz2", ".tar", ".7z", ".mp3", ".flac", ".partial")
NOT_RAW = tuple(sorted({*_ENDINGS, *_TEXTS, *_PICTURES, *_PACKED} - set(SUFFIXES)))
"""File name endings that are no raw IQ whatever ``--datatype`` says: other formats of recordings, and what lies beside
recordings."""

_LABEL = re.compile(r"[A-Za-z][\w.-]*")


class Span(NamedTuple):
    """Labels of the part from ``start`` to ``stop`` (s; None: to the end) of a recording; ``line``: of the table."""

    start: float
    stop: float | None
    labels: dict[str, str]
    line: int


@dataclass(frozen=True)
class Source:
    """A recording's file and what its folder or a table says about it.

    Args:
        path: the file.
        labels: label to name, for all of it.
        spans: labels of parts.
        table: the table that the spans come from.
    """

    path: Path
    labels: dict[str, str] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    table: Path | None = None


def find_sources(paths: Sequence[str], kind: Kind = "auto", any_suffix: bool = False) -> list[Source]:
    """Recordings that are named, lie in named folders or stand in named tables, in order.

    A folder's subfolders are classes: their names become the label ``class``. A table is a CSV file with a column
    ``file`` (relative to the table), optional columns ``start`` and ``stop`` in seconds, and one column per label.
    What lies deeper than a folder's subfolders is passed over, and a recording that is named again is taken once; both
    are said.

    Args:
        paths: files, folders and tables.
        kind: what is looked for in folders.
        any_suffix: raw IQ of a stated datatype: take every file of a folder but those of :data:`NOT_RAW`.

    Raises:
        ConfigError: nothing named, a folder without any recording, a table with a wrong row, or a recording that is
            named twice with different labels.
    """
    sources: list[Source] = []
    for name in paths:
        path = Path(name)
        if is_table(path):
            sources += read_table(path)
        elif not path.is_dir():
            sources.append(Source(path))
        else:
            inside = [Source(file) for file in _recordings_in(path, kind, any_suffix)]
            for folder in _folders_in(path):
                inside += [Source(file, {"class": folder.name}) for file in _recordings_in(folder, kind, any_suffix)]
                _say_deeper(folder, kind, any_suffix)
            if not inside:
                known = ", ".join(_wanted(kind))
                raise ConfigError(
                    f"folder {path} holds no recording", f"files ending in {known}", "or state --datatype"
                )
            sources += inside
    if not sources:
        raise ConfigError("no recording named", "at least one path")
    return _once(sources)


def recording_name(path: Path) -> str:
    """File name without its ending, where that is one of a recording: ``2.4GHz_0`` of ``2.4GHz_0.cf32``."""
    lower = path.name.lower()
    ending = next((ending for ending in _ENDINGS if lower.endswith(ending) and lower != ending), "")
    return path.name[: len(path.name) - len(ending)]


def _once(sources: list[Source]) -> list[Source]:
    """Each recording once, the two files of a SigMF pair being one; ConfigError where its labels differ."""
    found: dict[Path, Source] = {}
    for source in sources:
        path = source.path.resolve()
        pair = path.name.lower().endswith(_SIGMF_PAIR)
        first = found.setdefault(path.with_name(recording_name(path)) if pair else path, source)
        if _said(first) != _said(source):
            raise ConfigError(
                f"{source.path} is named twice, with labels {_said(first)} and {_said(source)}",
                "each recording once, or with the same labels",
                "leave one of them out",
            )
    again = len(sources) - len(found)
    if again:
        say(f"note: {again} of {len(sources)} recordings were named before; each is taken once")
    return list(found.values())


def _said(source: Source) -> tuple[dict[str, str], list[tuple[float, float | None, dict[str, str]]]]:
    return source.labels, [(span.start, span.stop, span.labels) for span in source.spans]


def kind_of_sources(sources: Sequence[Source], kind: Kind) -> Literal["iq", "csi"]:
    """Whether these are IQ or CSI; ConfigError when they are some of each."""
    if kind != "auto":
        return kind
    csi = [source.path.suffix.lower() in CSI_ONLY for source in sources]
    if any(csi) and not all(csi):
        one, other = sources[csi.index(True)].path, sources[csi.index(False)].path
        raise ConfigError(
            f"{one} is CSI and {other} is not", "recordings of one kind", "ingest them apart, or add --kind"
        )
    return "csi" if all(csi) else "iq"


def is_table(path: Path) -> bool:
    """Whether a file is a CSV with a column ``file``."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as handle:
        return _FILE in [name.strip().lower() for name in handle.readline(100_000).split(",")]


def read_table(path: Path) -> list[Source]:
    """Recordings of a table of labels, in the order of their first rows.

    Raises:
        ConfigError: a column of a reserved name, a row with another number of columns, a file that does not exist,
            times that are no numbers or end before they begin, two rows that contradict each other; the line is named.
    """
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as handle:
        rows = csv.reader(handle)
        header = [name.strip() for name in next(rows)]
        header = [name.lower() if name.lower() in (_FILE, _START, _STOP) else name for name in header]
        reserved = sorted(RESERVED_LABELS & set(header))
        if reserved:
            raise ConfigError(
                f"{path}, line 1: columns {reserved}",
                f"labels that are not called as one of {sorted(RESERVED_LABELS)}, which a batch holds itself",
                "rename the column",
            )
        wrong = [name for name in header if not _LABEL.fullmatch(name)]
        if wrong or len(set(header)) != len(header) or set(header) <= {_FILE, _START, _STOP}:
            raise ConfigError(
                f"{path}: columns {header}", "file, perhaps start and stop, and at least one label, each once"
            )
        found: dict[Path, list[Span]] = {}
        for row in rows:
            if any(cell.strip() for cell in row):
                file, span = _row(path, header, row, rows.line_num)
                found.setdefault(file, []).append(span)
    if not found:
        raise ConfigError(f"{path} holds no row", "a recording a row")
    return [_labelled(path, file, spans) for file, spans in found.items()]


def _row(table: Path, header: list[str], row: list[str], line: int) -> tuple[Path, Span]:
    where = f"{table}, line {line}"
    if len(row) != len(header):
        raise ConfigError(f"{where}: {len(row)} columns", f"{len(header)}: {', '.join(header)}")
    cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
    file = table.parent / cells[_FILE]
    if not cells[_FILE] or not (file.is_file() or file.with_name(file.name + ".sigmf-meta").is_file()):
        raise ConfigError(f"{where}: no file {cells[_FILE]!r}", f"a recording relative to {table.parent}")
    try:
        start = float(cells.get(_START) or 0.0)
        stop = float(cells[_STOP]) if cells.get(_STOP) else None
    except ValueError:
        start, stop = 0.0, -1.0
    if not 0 <= start < (float("inf") if stop is None else stop):
        said = f"start {cells.get(_START)!r}, stop {cells.get(_STOP)!r}"
        raise ConfigError(f"{where}: {said}", "seconds with 0 <= start < stop")
    labels = {name: cell for name, cell in cells.items() if cell and name not in (_FILE, _START, _STOP)}
    return file, Span(start, stop, labels, line)


def _labelled(table: Path, file: Path, spans: list[Span]) -> Source:
    """One recording's rows: those without times label all of it."""
    labels: dict[str, str] = {}
    parts = []
    for span in spans:
        if span.start > 0 or span.stop is not None:
            parts.append(span)
            continue
        for label, name in span.labels.items():
            if labels.setdefault(label, name) != name:
                raise ConfigError(
                    f"{table}, line {span.line}: {label} of {file.name} is {name!r} here and {labels[label]!r} above",
                    "one name, or start and stop",
                )
    return Source(file, labels, tuple(parts), table)


def _wanted(kind: Kind) -> tuple[str, ...]:
    if kind == "csi":
        return CSI_SUFFIXES
    return RECORDING_SUFFIXES if kind == "iq" else (*RECORDING_SUFFIXES, *CSI_ONLY)


def _recordings_in(folder: Path, kind: Kind, any_suffix: bool) -> list[Path]:
    """Recordings directly in a folder; of a SigMF pair the metadata file."""
    present = [file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith(".")]
    files = [file for file in present if _is_wanted(file, kind, any_suffix)]
    if any_suffix and len(files) < len(present):
        endings = sorted({file.suffix for file in present if file not in files})
        say(f"note: {len(present) - len(files)} files of {folder} are no raw IQ ({', '.join(endings)}); passed over")
    tables = [file for file in present if is_table(file)]
    for table in tables:
        say(f"note: {table} is a table of labels; name it in place of its folder to use it")
    return [file for file in files if file not in tables]


def _is_wanted(file: Path, kind: Kind, any_suffix: bool) -> bool:
    name = file.name.lower()
    if any_suffix:
        return not name.endswith(NOT_RAW)
    return name.endswith(_wanted(kind)) and not name.endswith(".sigmf-data")


def _folders_in(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _say_deeper(folder: Path, kind: Kind, any_suffix: bool) -> None:
    """Say how many recordings lie in the folders of a class's folder."""
    deeper = sum(
        file.is_file() and _is_wanted(file, kind, any_suffix)
        for child in _folders_in(folder)
        for file in child.rglob("*")
    )
    if deeper:
        say(f"note: {deeper} recordings in folders under {folder} were passed over; name those folders to take them")


def assign_splits(groups: Sequence[tuple[str, str]], shares: Sequence[float], seed: int = 0) -> list[str]:
    """A split for each recording, so that each class is shared out as asked as nearly as its count allows.

    Recordings are ordered by class and, within it, by a draw from their name; each goes to the split that is furthest
    behind its share. Recordings of one name (the segments or the formats of one) stay together.

    Args:
        groups: name and class of each recording.
        shares: of train, validation and test; non-negative, their sum is 1.
        seed: of the draws.

    Raises:
        ConfigError: other shares.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ConfigError(f"split {list(shares)}", "three shares (train, validation, test) whose sum is 1")
    first_class: dict[str, str] = {}
    for name, label in groups:
        first_class.setdefault(name, label)
    order = sorted(first_class, key=lambda name: (first_class[name], rng_for(seed, "split", name).random(), name))
    counts = dict.fromkeys(SPLITS, 0)
    chosen: dict[str, str] = {}
    for number, name in enumerate(order, 1):
        behind = {split: share * number - counts[split] for split, share in zip(SPLITS, shares, strict=True)}
        best = max(SPLITS, key=lambda split: behind[split])
        counts[best] += 1
        chosen[name] = best
    for split, share in zip(SPLITS, shares, strict=True):
        if share and not counts[split]:
            say(f"note: no recording went to {split}: there are only {len(order)}")
    return [chosen[name] for name, _ in groups]
