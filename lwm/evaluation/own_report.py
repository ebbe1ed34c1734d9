"""What a folder of recordings taught: accuracy by recording with its interval, beside what needs no encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwm.console import say
from lwm.data.dataset import SpectrogramDataset
from lwm.evaluation.metrics import Codes, confusion_matrix, macro_f1
from lwm.evaluation.own_splits import Folds, WindowTable
from lwm.output import atomic_file, write_json
from lwm.proportions import LEVEL, wilson

FORMAT_VERSION = 1

TITLES = {
    "encoder": "encoder, frozen",
    "random": "encoder, random weights",
    "statistics": "plain statistics of the picture",
}

_FEW = 20
"""Recordings under which an interval is wider than a third: that is said."""


@dataclass(frozen=True)
class Answers:
    """A contestant's probabilities ``[N, K]`` of all windows, NaN where untested, and its settings in each fold."""

    key: str
    probabilities: NDArray[np.float64]
    chosen: list[dict[str, Any]]


def summarise(
    answers: Sequence[Answers], table: WindowTable, folds: Folds, dataset: SpectrogramDataset, rows: Codes
) -> dict[str, Any]:
    """What results.json holds: JSON-able."""
    contestants = [_scores(one, table, folds) for one in answers]
    first = contestants[0]
    for other, one in zip(contestants[1:], answers[1:], strict=True):
        other["against_encoder"] = _paired(_votes(answers[0], table), _votes(one, table), table)
    rates = np.asarray(dataset.values["sample_rate"])[rows]
    return {
        "format_version": FORMAT_VERSION,
        "classes": table.classes,
        "recordings": _recordings(table),
        "windows": len(rows),
        "folds": len(folds.parts),
        "split": "by recording",
        "cut_in_time": folds.cut,
        "sample_rates": sorted({float(rate) for rate in rates}),
        "contestants": contestants,
        "warnings": _warnings(contestants, first, table, folds, dataset, rows),
    }


def _recordings(table: WindowTable) -> dict[str, int]:
    return {name: len(table.of_class(code)) for code, name in enumerate(table.classes)}


def _scores(answers: Answers, table: WindowTable, folds: Folds) -> dict[str, Any]:
    tested = np.flatnonzero(~np.isnan(answers.probabilities[:, 0]))
    whole = _part(answers, table, tested)
    said = answers.probabilities[tested].argmax(1)
    votes, truth = _votes(answers, table), _truth(table)
    known = votes >= 0
    return {
        "key": answers.key,
        "title": TITLES[answers.key],
        **whole,
        "macro_f1": macro_f1(table.codes[tested], said, len(table.classes)),
        "per_class": {
            name: float((votes[known & (truth == code)] == code).mean()) for code, name in enumerate(table.classes)
        },
        "confusion": confusion_matrix(truth[known], votes[known], len(table.classes)).tolist(),
        "first_fold": _part(answers, table, folds.parts[0]["test"]),
        "chosen": answers.chosen,
    }


def _part(answers: Answers, table: WindowTable, windows: Codes) -> dict[str, Any]:
    """Accuracies over the recordings of some windows, each with the interval of as many trials as recordings."""
    shares, right = [], []
    for number in np.unique(table.of[windows]):
        own = windows[table.of[windows] == number]
        truth = table.codes[own[0]]
        shares.append(float((answers.probabilities[own].argmax(1) == truth).mean()))
        right.append(float(answers.probabilities[own].mean(0).argmax() == truth))
    count = len(shares)
    return {
        "recordings": count,
        "recording_accuracy": sum(right) / count,
        "recording_interval": wilson(sum(right), count),
        "window_accuracy": sum(shares) / count,
        "window_interval": wilson(sum(shares), count),
    }


def _truth(table: WindowTable) -> Codes:
    """Class of each recording."""
    truth = np.zeros(len(table.recordings), np.int64)
    truth[table.of] = table.codes
    return truth


def _votes(answers: Answers, table: WindowTable) -> Codes:
    """Class that each recording is given by the mean of its tested windows' probabilities; -1 where none was tested."""
    votes = np.full(len(table.recordings), -1, np.int64)
    tested = ~np.isnan(answers.probabilities[:, 0])
    for number in np.unique(table.of[tested]):
        votes[number] = answers.probabilities[tested & (table.of == number)].mean(0).argmax()
    return votes


def _paired(encoder: Codes, other: Codes, table: WindowTable) -> dict[str, Any]:
    """Recordings that only one of two got right, and McNemar's exact two-sided p."""
    from scipy.stats import binomtest

    truth = _truth(table)
    only = int(((encoder == truth) & (other != truth)).sum()), int(((encoder != truth) & (other == truth)).sum())
    p = float(binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0
    return {"encoder_only": only[0], "other_only": only[1], "p": p}


def _warnings(
    contestants: list[dict[str, Any]],
    first: dict[str, Any],
    table: WindowTable,
    folds: Folds,
    dataset: SpectrogramDataset,
    rows: Codes,
) -> list[str]:
    found = []
    if folds.cut:
        found.append(
            f"OPTIMISTIC: {', '.join(folds.cut)} had fewer than 3 recordings and was cut in time: its training and "
            "test windows come from the same recording, receiver and place. Expect worse on new recordings."
        )
    for other in contestants[1:]:
        if other["window_accuracy"] >= first["window_accuracy"]:
            found.append(f"The encoder does no better than {other['title']}: it adds nothing to this task so far.")
    for name, unit in (("sample_rate", "Hz"), ("center_frequency", "Hz")):
        if name in dataset.values and (said := _tells_apart(np.asarray(dataset.values[name])[rows], table)):
            found.append(
                f"The recordings' {name.replace('_', ' ')} alone tells classes apart ({said} {unit}): the head may "
                "have learnt the receiver's settings and not the signal."
            )
    if first["recordings"] < _FEW:
        found.append(f"{first['recordings']} recordings leave a wide interval; more recordings narrow it, not longer.")
    return found


def _tells_apart(values: NDArray[np.float32], table: WindowTable) -> str:
    """The values of each class, where each class has its own and no other's; else nothing."""
    of_class = [set(np.unique(values[table.codes == code]).tolist()) for code in range(len(table.classes))]
    every = set().union(*of_class)
    if any(value != value for value in every) or len(every) < 2 or sum(map(len, of_class)) > len(every):
        return ""
    named = zip(table.classes, of_class, strict=True)
    return "; ".join(f"{name} {', '.join(f'{value:g}' for value in sorted(own))}" for name, own in named)


def write_report(folder: Path, results: dict[str, Any], encoder: Answers, table: WindowTable) -> None:
    """``report.md``, then ``results.json``, which says that all is there."""
    with atomic_file(folder / "report.md") as partial:
        partial.write_text(_markdown(results, encoder, table), encoding="utf-8")
    write_json(folder / "results.json", results)


def _markdown(results: dict[str, Any], encoder: Answers, table: WindowTable) -> str:
    counts = results["recordings"]
    lines = ["# A head for own recordings", ""]
    lines += [f"> **{text}**" if text.startswith("OPTIMISTIC") else f"> {text}" for text in results["warnings"]]
    lines += [
        "",
        f"{sum(counts.values())} recordings ({', '.join(f'{name} {count}' for name, count in counts.items())}), "
        f"{results['windows']} windows, in {results['folds']} folds: every recording is tested once, by a model that "
        f"saw none of it{' (but for those cut in time)' if results['cut_in_time'] else ''}. Intervals are Wilson's at "
        f"{LEVEL:.0%}, with the recordings as trials.",
        "",
        "| contestant | recordings right | windows right, mean of recordings | macro-F1 | encoder : it, alone right |",
        "|---|---|---|---|---|",
    ]
    for one in results["contestants"]:
        lines.append(
            f"| {one['title']} | {_percent(one, 'recording')} | {_percent(one, 'window')} | "
            f"{100 * one['macro_f1']:.1f} % | {_said(one.get('against_encoder'))} |"
        )
    own = results["contestants"][0]["first_fold"]
    lines += [
        "",
        f"`head` is the model of the first fold; of its own {own['recordings']} test recordings it got "
        f"{_percent(own, 'recording')} right, of their windows {_percent(own, 'window')}.",
        "",
        "Recordings of each class (rows) taken for each class (columns), by the encoder:",
        "",
        "| | " + " | ".join(results["classes"]) + " |",
        "|" + "---|" * (len(results["classes"]) + 1),
    ]
    for name, row in zip(results["classes"], results["contestants"][0]["confusion"], strict=True):
        lines.append(f"| {name} | " + " | ".join(map(str, row)) + " |")
    votes, truth = _votes(encoder, table), _truth(table)
    wrong = [number for number in range(len(votes)) if votes[number] not in (-1, truth[number])]
    if wrong:
        named = (f"`{table.recordings[number]}` (as {table.classes[votes[number]]})" for number in wrong)
        lines += ["", "Taken for another class: " + ", ".join(named) + "."]
    return "\n".join(lines) + "\n"


def _percent(part: dict[str, Any], what: str) -> str:
    low, high = part[f"{what}_interval"]
    return f"{100 * part[f'{what}_accuracy']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _said(paired: dict[str, Any] | None) -> str:
    if paired is None:
        return ""
    return f"{paired['encoder_only']} : {paired['other_only']} (p = {paired['p']:.2g})"


def tell(results: dict[str, Any]) -> None:
    """The table and every warning on standard output."""
    for one in results["contestants"]:
        said = f"recordings {_percent(one, 'recording')}, windows {_percent(one, 'window')}"
        say(f"  {one['title']:<32} {said}")
    for text in results["warnings"]:
        say(f"note: {text}")
