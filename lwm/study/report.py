"""What a study leaves behind: results.json, a table and pictures."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lwm.output import atomic_file, write_json
from lwm.study.job import PLAIN, RANDOM
from lwm.study.plan import Study
from lwm.study.probes import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIDENCE = 0.95
SHOWN_K = 20


def write_report(folder: Path, study: Study, results: dict[str, Any]) -> None:
    """Write table.md and pictures, then results.json, each atomically."""
    records: list[Record] = results["records"]
    lines = [f"# Study {study.name}: {study.sample_steps:,} sample-steps a run", ""]
    probed = [record for record in records if record["task"] != "reconstruction"]
    rebuilt = [record for record in records if record["task"] == "reconstruction"]
    if probed:
        lines += probe_table(probed)
        _save(_bars(probed), folder / "probes.png")
    if rebuilt:
        lines += reconstruction_table(rebuilt)
        _save(_curves(rebuilt), folder / "reconstruction.png")
    with atomic_file(folder / "table.md") as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(folder / "results.json", results)


def probe_table(records: list[Record]) -> list[str]:
    """Markdown: for each k a row an arm and a column a task, macro-F1 in per cent.

    ``+`` and ``-`` mark arms whose episodes differ from those of random weights by more than the 95 % interval of the
    paired difference, ``*`` tasks whose labels the arm has seen.
    """
    tasks = _ordered(record["task"] for record in records)
    arms = _ordered(record["arm"] for record in records)
    seen = {arm: _seen(records, arm) for arm in arms}
    lines = []
    for layer, ks in (("chosen", sorted({r["k"] for r in records})), ("middle", [SHOWN_K]), ("last", [SHOWN_K])):
        for k in ks:
            chosen = [r for r in records if r["k"] == k and r["layer"] == layer]
            if not chosen:
                continue
            lines += [f"## k = {k}, {_LAYERS[layer]}: macro-F1 (%)", ""]
            lines += ["| arm | " + " | ".join(tasks) + " |", "|" + "---|" * (len(tasks) + 1)]
            by_arm = {arm: [_cell(chosen, arm, task, seen[arm]) for task in tasks] for arm in arms}
            lines += [f"| {arm} | " + " | ".join(cells) + " |" for arm, cells in by_arm.items() if any(cells)]
            lines.append("")
    lines += [
        "Mean over episodes and seeds. `+`/`-`: better or worse than random weights by more than the 95 % interval of",
        "the difference, episode by episode: of draws of the labelled samples, and of pretraining only as far as there",
        "are several seeds. `*`: pretraining has seen this label (for `occupancy`: the noise-free picture).",
        "",
    ]
    return lines


_LAYERS = {
    "chosen": "layer chosen on validation",
    "middle": "middle layer",
    "last": "last layer",
}


def reconstruction_table(records: list[Record]) -> list[str]:
    """Markdown: a row an arm, a column a ratio, balanced accuracy in per cent."""
    ratios = sorted({record["mask_ratio"] for record in records})
    lines = ["## Reconstruction: balanced accuracy (%) of occupied and vacant squares, by share hidden", ""]
    lines += ["| arm | " + " | ".join(f"{ratio:g}" for ratio in ratios) + " |", "|" + "---|" * (len(ratios) + 1)]
    for arm in _ordered(record["arm"] for record in records):
        cells = []
        for ratio in ratios:
            found = [r["balanced_accuracy"] for r in records if r["arm"] == arm and r["mask_ratio"] == ratio]
            cells.append(f"{100 * np.mean(found):.1f}" if found else "")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def paired_difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of the differences of paired scores ``[n]`` and half the width of its 95 % interval (Student's t)."""
    from scipy.stats import t

    difference = ours - theirs
    if len(difference) < 2:
        return float(difference.mean()), float("inf")
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return float(difference.mean()), float(t.ppf((1 + CONFIDENCE) / 2, len(difference) - 1) * error)


def _cell(records: list[Record], arm: str, task: str, seen: set[str]) -> str:
    mine, base = _scores(records, arm, task), _scores(records, RANDOM, task)
    if not mine:
        return ""
    text = f"{100 * np.mean(list(mine.values())):.1f}"
    both = sorted(set(mine) & set(base))
    if both and arm != RANDOM:
        ours, theirs = (np.array([scores[key] for key in both]) for scores in (mine, base))
        mean, half = paired_difference(ours, theirs)
        text += " +" if mean > half else " -" if mean < -half else ""
    return text + (" *" if task in seen else "")


def _scores(records: list[Record], arm: str, task: str) -> dict[tuple[int, int], float]:
    """Macro-F1 by seed and episode; baselines have one layer only where there is nothing to choose."""
    return {(r["seed"], r["episode"]): r["macro_f1"] for r in records if r["arm"] == arm and r["task"] == task}


def _seen(records: list[Record], arm: str) -> set[str]:
    """Tasks whose answer, or a part of it, an arm was trained with."""
    mine = [record for record in records if record["arm"] == arm]
    found = {r["task"] for r in mine if set(r["labels"]) & set(r["labels_seen"] or [])}
    return found | ({"occupancy"} if any(r["clean_target"] for r in mine) else set())


def _ordered(names: Iterable[str]) -> list[str]:
    """Each once, in order, baselines last."""
    found = list(dict.fromkeys(names))
    return [name for name in found if name not in (RANDOM, PLAIN)] + [n for n in (RANDOM, PLAIN) if n in found]


def _bars(records: list[Record]) -> "Figure":
    """Macro-F1 at one k by task and arm, random weights as a line."""
    from matplotlib.figure import Figure

    k = SHOWN_K if any(r["k"] == SHOWN_K for r in records) else max(r["k"] for r in records)
    chosen = [r for r in records if r["k"] == k and r["layer"] == "chosen"]
    tasks, arms = _ordered(r["task"] for r in chosen), _ordered(r["arm"] for r in chosen)
    figure = Figure(figsize=(2.6 * len(tasks) + 1, 0.32 * len(arms) + 1.6), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    for axes, task in zip(panels, tasks, strict=True):
        scores = [100 * np.array(list(_scores(chosen, arm, task).values()) or [np.nan]) for arm in arms]
        errors = [value.std(ddof=1) if len(value) > 1 else 0.0 for value in scores]
        colours = ["#7f7f7f" if arm in (RANDOM, PLAIN) else "#0072b2" for arm in arms]
        axes.barh(arms, [value.mean() for value in scores], xerr=errors, color=colours, error_kw={"linewidth": 1})
        if RANDOM in arms:
            axes.axvline(float(scores[arms.index(RANDOM)].mean()), color="black", linewidth=0.8, linestyle=":")
        axes.set_title(task, fontsize=10)
        axes.set_xlabel("macro-F1 (%)")
        axes.invert_yaxis() if axes is panels[0] else None
    figure.suptitle(f"frozen probes, k = {k}; bars: standard deviation over episodes", fontsize=10)
    return figure


def _curves(records: list[Record]) -> "Figure":
    """Balanced accuracy against the share hidden, a curve an arm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, arm in enumerate(_ordered(record["arm"] for record in records)):
        by_ratio: dict[float, list[float]] = defaultdict(list)
        for record in records:
            if record["arm"] == arm:
                by_ratio[record["mask_ratio"]].append(100 * record["balanced_accuracy"])
        ratios = sorted(by_ratio)
        # Ten colours there are; the eleventh arm is the first one's, dashed.
        marker, line = "osD^vPX*<>"[number % 10], ("-", "--", ":")[number // 10 % 3]
        means = [np.mean(by_ratio[ratio]) for ratio in ratios]
        axes.plot(ratios, means, marker=marker, linestyle=line, label=arm, markersize=4)
    axes.set(xlabel="share of the patches hidden", ylabel="balanced accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _save(figure: "Figure", path: Path) -> None:
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
