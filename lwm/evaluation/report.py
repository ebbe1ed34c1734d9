"""What a few-shot sweep leaves behind: results.json, a table and pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lwm.evaluation.task import TITLES, FewShotTask
from lwm.output import atomic_file, write_json

if TYPE_CHECKING:
    from lwm.evaluation.contestants import Contest
    from lwm.evaluation.episodes import EpisodeDraw


def summarise(records: list[dict[str, Any]], task: FewShotTask) -> list[dict[str, Any]]:
    """Mean and standard deviation (of a sample, n - 1; 0 for one episode) over episodes, by model and k."""
    rows = []
    for model in task.models:
        for k in task.k:
            chosen = [r for r in records if r["model"] == model and r["k"] == k]
            row: dict[str, Any] = {"model": model, "title": TITLES[model], "k": k, "episodes": len(chosen)}
            for score in ("macro_f1", "accuracy"):
                values = np.array([record[score] for record in chosen])
                row[f"{score}_mean"] = float(values.mean())
                row[f"{score}_std"] = float(values.std(ddof=1)) if len(values) > 1 else 0.0
            rows.append(row)
    return rows


def write_report(folder: Path, results: dict[str, Any], contest: "Contest", draw: "EpisodeDraw") -> None:
    """Write every file but the journal, each atomically; results.json comes last and says that all is there."""
    from lwm.evaluation import plots

    with atomic_file(folder / "table.md") as partial:
        partial.write_text(markdown_table(results), encoding="utf-8")
    plots.save(plots.curve(results), folder / "curve.png")
    plots.save(plots.confusion(results), folder / "confusion.png")
    plots.save(plots.embedding(contest, draw), folder / "embedding.png")
    write_json(folder / "results.json", results)


def markdown_table(results: dict[str, Any]) -> str:
    """The table as Markdown: a row a model, a column a k, macro-F1 in percent as mean ± standard deviation."""
    task, summary, records = results["task"], results["summary"], results["records"]
    head = ["model", "regime", "labels seen in pretraining", *(f"k = {k}" for k in task["k"])]
    lines = [
        f"# {task['name']}: macro-F1 (%), mean ± standard deviation over {task['episodes']} episodes",
        "",
        f"{len(results['classes'])} classes of {' × '.join(task['labels'])}, chance {100 * results['chance']:.1f} %; "
        f"{results['test_samples']} test samples from {results['test_channels']} channel draws that no contestant saw; "
        f"seed {results['seed']}. All contestants have the same labels: k a class to learn from and "
        f"{task['validation_share']:g} k (at least 2) to choose settings with. {_budgets(task)}",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for model in task["models"]:
        one = next(record for record in records if record["model"] == model)
        cells = [
            f"{100 * row['macro_f1_mean']:.1f} ± {100 * row['macro_f1_std']:.1f}"
            for row in summary
            if row["model"] == model
        ]
        lines.append("| " + " | ".join([TITLES[model], one["regime"], _seen(one), *cells]) + " |")
    tuned = [record["chosen"]["step"] for record in records if record["model"] == "finetuned"]
    if tuned:
        better = sum(step > 0 for step in tuned)
        lines += ["", f"Fine-tuning did better on the validation part than its start in {better} of {len(tuned)} runs."]
    return "\n".join(lines) + "\n"


def _budgets(task: dict[str, Any]) -> str:
    """How long each network was trained: a short training is no verdict on an architecture."""
    networks = {name: budget["samples"] for name, budget in task["training"].items() if name in task["models"]}
    said = ", ".join(f"{TITLES[name]} {samples}" for name, samples in networks.items())
    return f"Samples in gradient training, repeats counted: {said}." if said else ""


def _seen(record: dict[str, Any]) -> str:
    labels = record["labels_seen"]
    said = "not recorded" if labels is None else ", ".join(labels) or "none"
    return f"{said} (noise-free target)" if record["clean_target"] else said
