"""The comparison as a table, a picture and one file of records."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lwm.language.instructions import KINDS
from lwm.output import atomic_file, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = dict[str, Any]

# Okabe and Ito's colours, told apart by the colour-blind; greys for who sees no picture.
_COLOURS = (
    "#bbbbbb",
    "#888888",
    "#555555",
    "#e69f00",
    "#f0e442",
    "#0072b2",
    "#56b4e9",
    "#009e73",
    "#cc79a7",
    "#d55e00",
)
_ROWS = 2
_MISSING = "–"


def write_results(out: Path, records: Sequence[Record]) -> list[Path]:
    """Write ``rfgpt.json``, ``rfgpt.md`` and ``rfgpt.png`` into ``out``; returns their paths."""
    paths = [out / f"rfgpt.{kind}" for kind in ("json", "md", "png")]
    write_json(paths[0], {"records": list(records)})
    with atomic_file(paths[1]) as partial:
        partial.write_text(markdown(records), encoding="utf-8")
    with atomic_file(paths[2]) as partial:
        kinds_figure(records).savefig(partial, format="png", dpi=110, bbox_inches="tight")
    return paths


def markdown(records: Sequence[Record]) -> str:
    """Tables of all contestants: accuracy by kind, what else the issue asks for, recordings, general questions."""
    parts = [_accuracy_table(records), _other_table(records)]
    parts += [_snr_table(records), _recordings_table(records), _general_table(records)]
    return "\n".join(part for part in parts if part)


def kinds_of(records: Sequence[Record]) -> list[str]:
    """Kinds that any contestant was asked, in the library's order."""
    asked = {kind for record in records for kind in record["summary"]["kinds"]}
    return [kind for kind in KINDS if kind in asked]


def kinds_figure(records: Sequence[Record]) -> "Figure":
    """Bars of every contestant by kind of question, with Wilson intervals; a dotted line at the commonest answer."""
    from matplotlib.figure import Figure

    kinds = kinds_of(records)
    columns = -(-len(kinds) // _ROWS)
    figure = Figure(figsize=(max(6.0, 1.75 * columns), 3.4 * _ROWS + 0.9), layout="constrained")
    width = 0.86 / len(records)
    for number, axes in enumerate(np.ravel(figure.subplots(_ROWS, 1))):
        mine = kinds[number * columns : (number + 1) * columns]
        if not mine:
            axes.set_axis_off()
            continue
        for place, record in enumerate(records):
            _bars(axes, record, mine, (place - (len(records) - 1) / 2) * width, width, _COLOURS[place % len(_COLOURS)])
        axes.set_xticks(range(len(mine)), mine)
        axes.set(xlim=(-0.5, columns - 0.5), ylim=(0, 102), ylabel="right answers (%)")
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(records)), fontsize=8)
    return figure


def _bars(axes: Any, record: Record, kinds: Sequence[str], offset: float, width: float, colour: str) -> None:
    tables = record["summary"]["kinds"]
    places = [number for number, kind in enumerate(kinds) if kind in tables]
    mine = [tables[kinds[number]] for number in places]
    heights = 100 * np.array([table["accuracy"] for table in mine])
    edges = 100 * np.array([table["interval"] for table in mine]).reshape(-1, 2)
    errors = np.abs(edges.T - heights)
    style = {"color": colour, "error_kw": {"elinewidth": 0.7}, "label": record["title"]}
    axes.bar(np.array(places, float) + offset, heights, width, yerr=errors, **style)


def _percent(share: float | None, digits: int = 1) -> str:
    return _MISSING if share is None else f"{100 * share:.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _accuracy_table(records: Sequence[Record]) -> str:
    kinds = kinds_of(records)
    rows = []
    for record in records:
        tables = record["summary"]["kinds"]
        counts = [_captures(record), f"{record['summary']['questions']:,}"]
        rows.append([record["title"], *counts, *[_cell(tables.get(kind)) for kind in kinds]])
    said = (
        "Right answers in percent (Wilson interval of 95 %) about the test split. Captures: that a contestant was"
        " trained on; questions: that it was asked. Rows with other numbers of either are no even comparison.\n"
    )
    return f"{said}\n{_table(['contestant', 'captures', 'questions', *kinds], rows)}"


def _captures(record: Record) -> str:
    """Captures that a contestant was trained on: what its record says, else its budget's limit."""
    if "captures_trained" in record:
        return f"{record['captures_trained']:,}"
    limits = record.get("settings", {}).get("limits", {})
    # Records of before this was stated; those of a pretrained language model have a limit of their own.
    named = "pretrained_captures" if record.get("name", "").startswith("smollm") else "captures"
    return ("all" if limits[named] is None else f"{limits[named]:,}") if named in limits else _MISSING


def _cell(table: Record | None) -> str:
    if table is None:
        return _MISSING
    low, high = table["interval"]
    return f"{_percent(table['accuracy'])} ({_percent(low, 0)}–{_percent(high, 0)})"


_OTHER: dict[str, Callable[[Record], str]] = {
    "not readable %": lambda record: _percent(record["summary"]["parse_failure_share"]),
    "cannot tell, on noise %": lambda record: _percent(_told(record, "said_on_noise")),
    "of noise captures %": lambda record: _told_captures(record, "said_on_noise"),
    "cannot tell, falsely %": lambda record: _percent(_told(record, "said_falsely")),
    "of other captures %": lambda record: _told_captures(record, "said_falsely"),
    "SNR within a bucket %": lambda record: _percent(_snr(record)),
    "description F1 %": lambda record: _percent(record["summary"]["kinds"].get("description", {}).get("credit")),
    "ECE %": lambda record: _percent(record["summary"].get("ece")),
    "ECE calibrated %": lambda record: _percent(record.get("calibration", {}).get("ece_after")),
    "parameters": lambda record: f"{record['parameters']:,}" if "parameters" in record else _MISSING,
    "s to make": lambda record: f"{record['seconds_to_make']:.0f}",
    "s to score": lambda record: f"{record['seconds_to_score']:.0f}",
}


def _told(record: Record, name: str) -> float | None:
    return record["summary"]["cannot_tell"].get(name, {}).get("share")


def _told_captures(record: Record, name: str) -> str:
    """Of captures, with their interval; records from before captures were counted have none."""
    captures = record["summary"]["cannot_tell"].get(name, {}).get("captures")
    return _cell(None if captures is None else captures | {"accuracy": captures["share"]})


def _snr(record: Record) -> float | None:
    return record["summary"]["kinds"].get("snr", {}).get("within_one", {}).get("accuracy")


def _other_table(records: Sequence[Record]) -> str:
    rows = [[record["title"], *[read(record) for read in _OTHER.values()]] for record in records]
    said = (
        'Cannot tell: share of answers; of captures: share of those on which more than half of the answers are "cannot'
        ' tell" (Wilson interval of 95 % over captures, as the answers about one capture depend on each other).\n'
    )
    return f"{said}\n" + _table(["contestant", *_OTHER], rows)


def _snr_table(records: Sequence[Record]) -> str:
    """Technology by SNR."""
    mine = [(record["title"], record["summary"]["kinds"].get("technology", {}).get("by_snr")) for record in records]
    found = [(title, table) for title, table in mine if table]
    levels = sorted({level for _, table in found for level in table}, key=float)
    if not levels:
        return ""
    rows = [[title, *[_percent(table.get(at, {}).get("accuracy")) for at in levels]] for title, table in found]
    return f"Technology in percent by SNR (dB).\n\n{_table(['contestant', *levels], rows)}"


def _recordings_table(records: Sequence[Record]) -> str:
    """One row a recording and contestant; answers with a known truth are marked."""
    rows = []
    for record in records:
        by_file: dict[str, list[Record]] = {}
        for one in record.get("recordings", []):
            by_file.setdefault(one["file"], []).append(one)
        for file, mine in by_file.items():
            cells = {one["kind"]: _said(one) for one in mine if "kind" in one}
            truth = next((one["truth"] for one in mine if one.get("kind") == "technology"), None)
            rows.append((file, record["title"], truth or _MISSING, cells))
    kinds = list(dict.fromkeys(kind for *_, cells in rows for kind in cells))
    if not rows:
        return ""
    ordered = sorted(rows, key=lambda row: row[0])
    lines = [[*head, *[cells.get(kind, _MISSING) for kind in kinds]] for *head, cells in ordered]
    said = "Recordings: answers that the metadata prove are marked right or wrong.\n"
    return f"{said}\n{_table(['recording', 'contestant', 'is', *kinds], lines)}"


def _said(one: Record) -> str:
    mark = {True: " (right)", False: " (wrong)", None: ""}[one["right"]]
    return " ".join(one["said"].split()).replace("|", "\\|")[:60] + mark


def _general_table(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        for one in record.get("general", []):
            said = " ".join(one["said"].split()).replace("|", "\\|")
            rows.append([record["title"], one["question"], said, "yes" if one["sensible"] else "no"])
    head = ["contestant", "question", "answer", "sensible"]
    return f"General questions.\n\n{_table(head, rows)}" if rows else ""
