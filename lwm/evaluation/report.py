"""What a few-shot sweep leaves behind: results.json, a table, pictures, and one page that holds them all."""

import base64
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lwm.evaluation.discriminant import SHRINKAGE
from lwm.evaluation.probe import GRID
from lwm.evaluation.regimes.names import FAMILIES, Contestant
from lwm.evaluation.regimes.neighbours import NEIGHBOURS
from lwm.evaluation.regimes.statistics import half_width
from lwm.evaluation.task import FewShotTask
from lwm.output import atomic_file, write_json

if TYPE_CHECKING:
    from lwm.evaluation.contestants import Contest
    from lwm.evaluation.episodes import EpisodeDraw

PAGE = "report.html"
FIGURES = {
    "curve.png": "Learning curves: mean and standard deviation over episodes.",
    "per_snr.png": "By SNR, at the largest k: mean over episodes.",
    "confusion.png": "Confusion at the largest k, all episodes; rows add up to 1.",
    "embedding.png": "t-SNE of the test part: frozen features beside the raw spectrograms.",
}
FILES = ("table.md", PAGE, *FIGURES)

METRICS = {"macro_f1": "macro-F1", "accuracy": "accuracy", "mae": "MAE"}

_SHORTCUT = (
    "plain statistics of the picture reach {title} at k = {k}: the label can be read off level, bandwidth or histogram,"
    " and this task says little about the encoder"
)
_LOCAL = "statistics of neighbouring cells reach {title} at k = {k}: here a line of algebra does what the encoder does"
_UNTRAINED = "random weights reach {title} at k = {k}: here pretraining has not been shown to help"
_SEEN = "pretraining saw the label {labels}: no few-shot result of the pretrained encoder"


def summarise(records: list[dict[str, Any]], task: FewShotTask) -> list[dict[str, Any]]:
    """By model and k over episodes: mean, standard deviation (of a sample, n - 1; 0 for one episode) and half of the
    95 % Student interval of the mean (None for one episode)."""
    rows = []
    for contestant in task.contestants:
        for k in task.k:
            chosen = [r for r in records if r["model"] == contestant.name and r["k"] == k]
            row: dict[str, Any] = {"model": contestant.name, "title": contestant.title, "k": k, "episodes": len(chosen)}
            for score in ("mae", "r2") if task.target else ("macro_f1", "accuracy"):
                values = np.array([r[score] for r in chosen if r[score] is not None], np.float64)
                row[f"{score}_mean"] = float(values.mean()) if len(values) else None
                row[f"{score}_std"] = float(values.std(ddof=1)) if len(values) > 1 else 0.0
                row[f"{score}_half_width"] = half_width(values)
            rows.append(row)
    return rows


def warnings(results: dict[str, Any]) -> list[str]:
    """What a reader has to know before believing the table: shortcuts, no gain from pretraining, labels seen."""
    task, summary = results["task"], results["summary"]
    named = {name: Contestant.parse(name) for name in task["models"]}
    metric = task["metric"]
    sign = -1 if metric == "mae" else 1
    found = []
    k = max(task["k"])
    rows = [row for row in summary if row["k"] == k]
    ours = [row for row in rows if named[row["model"]].pretrained]
    if ours:
        best = max(ours, key=lambda row: sign * row[f"{metric}_mean"])
        floor = sign * best[f"{metric}_mean"] - (best[f"{metric}_half_width"] or 0.0)
        for model, words in (("trivial", _SHORTCUT), ("local", _LOCAL), ("random", _UNTRAINED)):
            reached = any(named[r["model"]].model == model and sign * r[f"{metric}_mean"] >= floor for r in rows)
            found += [words.format(title=best["title"], k=k)] if reached else []
    seen = {label for record in results["records"] for label in record["labels_seen"] or []}
    known = sorted(seen & {*task["labels"], task["target"]})
    return found + ([_SEEN.format(labels=", ".join(known))] if known else [])


def write_report(folder: Path, results: dict[str, Any], contest: "Contest", draw: "EpisodeDraw") -> None:
    """Write every file but the journal, each atomically; results.json comes last and says that all is there."""
    from lwm.evaluation import plots

    with atomic_file(folder / "table.md") as partial:
        partial.write_text(markdown_table(results), encoding="utf-8")
    figures = {
        "curve.png": plots.curve(results),
        "per_snr.png": plots.per_snr(results),
        "confusion.png": None if results["task"]["target"] else plots.confusion(results),
        "embedding.png": plots.embedding(contest, draw),
    }
    for name, figure in figures.items():
        if figure is not None:
            plots.save(figure, folder / name)
    with atomic_file(folder / PAGE) as partial:
        partial.write_text(page(results, folder), encoding="utf-8")
    write_json(folder / "results.json", results)


def markdown_table(results: dict[str, Any]) -> str:
    """The table as Markdown: a row a model, a column a k, mean ± standard deviation and the interval of the mean."""
    task = results["task"]
    lines = [
        f"# {task['name']}: {metric_words(task)}, mean ± standard deviation over {task['episodes']} episodes,"
        " [95 % interval of the mean]",
        "",
        " ".join(notes(results)),
        "",
        *markdown_lines(*main_table(results)),
    ]
    lines += [f"\n**{warning[0].upper()}{warning[1:]}.**" for warning in results["warnings"]]
    if tested(results):
        lines += [
            "",
            "## Paired tests over episodes",
            "",
            tests_note(results),
            "",
            *markdown_lines(*test_table(results)),
        ]
    tuned = [r["chosen"]["step"] for r in results["records"] if r["regime"] in FAMILIES["tuned"]]
    if tuned:
        better = sum(step > 0 for step in tuned)
        lines += [
            "",
            f"Tuning an encoder did better on the validation part than its start in {better} of {len(tuned)} runs.",
        ]
    return "\n".join(lines) + "\n"


def page(results: dict[str, Any], folder: Path) -> str:
    """The page ``report.html``: everything in one file, pictures too.

    Args:
        results: what results.json holds.
        folder: where the pictures are.
    """
    from jinja2 import Environment

    pictures = [
        {"data": base64.b64encode((folder / name).read_bytes()).decode(), "text": text, "name": name}
        for name, text in FIGURES.items()
        if (folder / name).is_file()
    ]
    template = Environment(autoescape=True, trim_blocks=True).from_string(
        (files("lwm.evaluation") / PAGE).read_text(encoding="utf-8")
    )
    tables = [("Paired tests over episodes", tests_note(results), *test_table(results))] if tested(results) else []
    return template.render(
        results=results, metric=metric_words(results["task"]), notes=notes(results), pictures=pictures,
        tables=[("", "", *main_table(results)), *tables],
    )  # fmt: skip


def main_table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table."""
    task, records = results["task"], results["records"]
    head = ["model", "regime", "labels seen in pretraining", *(f"k = {k}" for k in task["k"])]
    rows = []
    for name in task["models"]:
        one = next(record for record in records if record["model"] == name)
        cells = [cell(row, task) for row in results["summary"] if row["model"] == name]
        regime = f"{one['regime']} ({one['head']})" if one["head"] else one["regime"]
        rows.append([Contestant.parse(name).title, regime, _seen(one), *cells])
    return head, rows


def tested(results: dict[str, Any]) -> bool:
    """Whether there are two models and two episodes to compare."""
    return results["task"]["episodes"] > 1 and bool(results["paired_tests"])


def test_table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the paired tests."""
    task = results["task"]
    head = [
        "k",
        "model",
        "against",
        "better by",
        "p, sign flips",
        "p, t test",
        "p, t test, Holm",
        "found with power 80 %",
    ]
    rows = []
    for row in results["paired_tests"]:
        names = [Contestant.parse(row[key]).title for key in ("model", "other")]
        better = _number(row["difference"], task, "+") + " ± " + _number(row["half_width"], task)
        p_values = [_p(row[key]) for key in ("p_sign_flip", "p_t", "p_holm")]
        rows.append([str(row["k"]), *names, better, *p_values, _number(row["detectable"], task)])
    return head, rows


def tests_note(results: dict[str, Any]) -> str:
    """What the paired tests are, and what they can and cannot find."""
    least = results["paired_tests"][0]["least_p"]
    return (
        "Both models of a row learn from the same samples in each episode. Sign flips: exact test of the mean"
        f" difference over all choices of signs; with {results['task']['episodes']} episodes its p cannot fall"
        f" below {least:.3g}. t test: paired, assumes normal differences; Holm: adjusted for all rows of its k."
        " The last column is the difference that the t test would find four times out of five at the spread seen"
        " here. The test part is the same in all episodes: this speaks of other draws of labelled samples, not of"
        " another place."
    )


def notes(results: dict[str, Any]) -> list[str]:
    """How the figures came about, a sentence each."""
    task = results["task"]
    what = f"Values of {task['target']}" if task["target"] else (
        f"{len(results['classes'])} classes of {' × '.join(task['labels']) or ' / '.join(task['label'])},"
        f" chance {100 * results['chance']:.1f} %"
    )  # fmt: skip
    said = [
        f"{what}; {results['test_samples']} test samples from {results['test_channels']} channel draws that no"
        f" contestant saw; seed {results['seed']}.",
        f"All contestants have the same labels: k a class to learn from and {task['validation_share']:g} k (at least 2)"
        " to choose settings with.",
        "One tuning grid a family, chosen from on the validation part: linear models: logistic regression with C in"
        f" {_span(GRID)} (factors of 10), a discriminant with a shrinkage in {_span(SHRINKAGE)}, and every block;"
        f" nearest neighbours {', '.join(map(str, NEIGHBOURS))} of them and every block;",
    ]
    named = [Contestant.parse(name) for name in task["models"]]
    for family, words in {
        "head": "heads on frozen tokens",
        "tuned": "tuned encoders",
        "scratch": "from scratch",
    }.items():
        if any(contestant.family == family for contestant in named):
            budget = task["training"][family]
            rates = ", ".join(f"{rate:g}" for rate in budget["rates"])
            least = f", at least {budget['passes']} passes" if budget["passes"] else ""
            said.append(f"{words}: peak learning rates {rates}, {budget['samples']} samples each{least};")
    said[-1] = said[-1].rstrip(";") + "."
    return said


def metric_words(task: dict[str, Any]) -> str:
    """The metric with its unit."""
    return f"{METRICS[task['metric']]} ({task['target'] if task['target'] else '%'})"


def cell(row: dict[str, Any], task: dict[str, Any]) -> str:
    """Mean ± standard deviation and the interval of the mean, in percent or the target's units."""
    metric = task["metric"]
    mean, half = row[f"{metric}_mean"], row[f"{metric}_half_width"]
    said = f"{_number(mean, task)} ± {_number(row[f'{metric}_std'], task)}"
    return said if half is None else f"{said} [{_number(mean - half, task)}, {_number(mean + half, task)}]"


def _number(value: float | None, task: dict[str, Any], sign: str = "") -> str:
    if value is None:
        return "–"
    return f"{value:{sign}.3g}" if task["target"] else f"{100 * value:{sign}.1f}"


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _span(grid: tuple[float, ...]) -> str:
    return f"{min(grid):g} to {max(grid):g}"


def markdown_lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)]


def _seen(record: dict[str, Any]) -> str:
    labels = record["labels_seen"]
    said = "not recorded" if labels is None else ", ".join(labels) or "none"
    return f"{said} (noise-free target)" if record["clean_target"] else said
