"""Reports of `lwm fewshot` as one file of records and the tables of docs/results.md.

    python docs/fewshot_results.py REPORT [REPORT ...] --out fewshot.json

REPORT is a folder that `lwm fewshot` wrote: of a task with episodes, of segmentation, or of sensing. Its name is the
table's. What a report is about (task, model, data, seed) is kept once, with its records; their confusion matrices,
which are long, stay in the report.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lwm.evaluation.regimes.names import Contestant
from lwm.evaluation.regimes.statistics import half_width
from lwm.evaluation.report import markdown_lines
from lwm.output import write_json

Report = dict[str, Any]
LEFT_OUT = ("confusion", "seconds")
OURS = ("frozen", "finetuned")


def table(report: Report) -> list[str]:
    """Lines of Markdown for a report of any kind."""
    if "paired_tests" in report:
        return contest_table(report)
    if report["records"] and "protocol" in report["records"][0]:
        return sensing_table(report)
    return scenes_table(report)


def contest_table(report: Report) -> list[str]:
    """Mean ± standard deviation over episodes, and by how much our two regimes are ahead of each row."""
    task, tests = report["task"], by_pair(report)
    shots, ahead = task["k"], [name for name in OURS if name in task["models"]]
    head = ["model", *(f"k = {k}" for k in shots), *(f"{name} ahead by, k = {k}" for name in ahead for k in shots)]
    scale, metric = unit(task), task["metric"]
    rows = []
    for name in task["models"]:
        summary = [next(s for s in report["summary"] if (s["model"], s["k"]) == (name, k)) for k in shots]
        cells = [f"{scale * s[f'{metric}_mean']:.1f} ± {scale * s[f'{metric}_std']:.1f}" for s in summary]
        cells += [lead(tests, mine, name, k, scale) for mine in ahead for k in shots]
        rows.append([Contestant.parse(name).title, *cells])
    return markdown_lines(head, rows)


def overview(reports: dict[str, Report]) -> list[str]:
    """One line for each task and k: our regimes beside the best of the contestants without pretraining."""
    head = ["task", "k", *OURS, "best without pretraining", *(f"{name} ahead of it by" for name in OURS)]
    rows = []
    for title, report in reports.items():
        task, tests = report["task"], by_pair(report)
        scale, metric = unit(task), task["metric"]
        for k in task["k"]:
            means = {s["model"]: scale * s[f"{metric}_mean"] for s in report["summary"] if s["k"] == k}
            others = [name for name in means if not Contestant.parse(name).pretrained]
            if not others:
                continue
            best = min(others, key=lambda name: means[name] if task["target"] else -means[name])
            said = [f"{means[name]:.1f}" if name in means else "–" for name in OURS]
            leads = [lead(tests, name, best, k, scale) for name in OURS]
            rows.append([title, str(k), *said, f"{Contestant.parse(best).title} {means[best]:.1f}", *leads])
    return markdown_lines(head, rows)


def by_pair(report: Report) -> dict[tuple[str, str, int], Report]:
    """A report's paired tests by model, other and k."""
    return {(test["model"], test["other"], test["k"]): test for test in report["paired_tests"]}


def unit(task: Report) -> float:
    """Shares are shown in per cent, quantities in their own unit."""
    return 1 if task["target"] else 100


def lead(tests: dict[tuple[str, str, int], Report], mine: str, other: str, k: int, scale: float = 100) -> str:
    """By how much ``mine`` is better, with its 95 % interval, marked where the interval leaves out 0."""
    found, sign = tests.get((mine, other, k)), 1
    if found is None:
        found, sign = tests.get((other, mine, k)), -1
    if found is None or found["half_width"] is None:
        return "–"
    mean, half = sign * scale * found["difference"], scale * found["half_width"]
    return f"{mean:+.1f} ± {half:.1f}" + (" ✓" if mean > half else " ✗" if mean < -half else "")


def scenes_table(report: Report) -> list[str]:
    """Mean class accuracy of segmentation by regime and number of labelled scenes, mean ± interval over episodes."""
    records, classes = report["records"], report["classes"]
    rows = []
    for regime, k in dict.fromkeys((r["regime"], r["k"]) for r in records):
        mine = [r for r in records if (r["regime"], r["k"]) == (regime, k)]
        means = [np.array([r[key] for r in mine]) for key in ("mean_class_accuracy", "mean_iou")]
        each = [np.array([r["per_class"][name] for r in mine]) for name in classes]
        rows.append([regime, str(k), *(spread(values) for values in (means[0], *each, means[1]))])
    return markdown_lines(["regime", "k", "mean class accuracy", *classes, "mean IoU"], rows)


def spread(values: Any) -> str:
    """Mean in per cent; with half of its 95 % interval from three values on (of two it says next to nothing)."""
    half = half_width(values) if len(values) > 2 else None
    return f"{100 * values.mean():.1f}" + ("" if half is None else f" ± {100 * half:.1f}")


def sensing_table(report: Report) -> list[str]:
    """Accuracy over windows with its interval over recordings, by protocol and regime."""
    words = {"recording": "other recordings", "domain": "another chip"}
    rows = []
    for found in report["summary"]:
        said = f"{100 * found['accuracy']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
        right = f"{100 * found['recordings_right']:.1f} % of {found['recordings']}"
        rows.append([words[found["protocol"]], found["regime"], said, right])
    return markdown_lines(["tested on", "regime", "accuracy [95 % interval]", "recordings right"], rows)


def main(args: Sequence[str] | None = None) -> None:
    """Write the records and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path, help="folders that `lwm fewshot` wrote")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    given = parser.parse_args(args)
    names = [folder.resolve().name for folder in given.reports]
    unfinished = [str(folder) for folder in given.reports if not (folder / "results.json").is_file()]
    if len(set(names)) < len(names) or unfinished:
        parser.error(f"reports of one name, or unfinished ones (go on with --resume): {unfinished or names}")
    kept: dict[str, Report] = {}
    for name, folder in zip(names, given.reports, strict=True):
        report = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        print(f"{name}\n\n" + "\n".join(table(report)) + "\n")
        slim = [{key: value for key, value in r.items() if key not in LEFT_OUT} for r in report["records"]]
        kept[name] = report | {"records": slim}
    contests = {name: report for name, report in kept.items() if "paired_tests" in report}
    if len(contests) > 1:
        print("All tasks\n\n" + "\n".join(overview(contests)) + "\n")
    write_json(given.out, {"reports": kept})


if __name__ == "__main__":
    main()
