"""Pictures of a few-shot sweep, drawn without a display."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lwm.evaluation.regimes.names import Contestant
from lwm.evaluation.report import metric_words
from lwm.output import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lwm.evaluation.contestants import Contest
    from lwm.evaluation.episodes import EpisodeDraw

_COLOURS = {
    "frozen": "#0072b2",
    "finetuned": "#d55e00",
    "random": "#56b4e9",
    "cnn": "#009e73",
    "resnet18": "#cc79a7",
    "trivial": "#7f7f7f",
    "local": "#b0b0b0",
}
"""Of contestants that most tables have; others take what matplotlib's ``tab20`` gives them."""

_MARKERS = "osD^vPX*"
_MOST_POINTS = 700
_COMPONENTS = 30
"""Principal components that t-SNE starts from."""


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110, bbox_inches="tight")


def curve(results: dict[str, Any]) -> "Figure":
    """The task's metric against k with one standard deviation over episodes, and chance."""
    figure, (axes,) = _figure(1, (6.5, 4.4))
    task = results["task"]
    metric, unit = task["metric"], _unit(task)
    middle = (len(task["models"]) - 1) / 2
    for number, model in enumerate(task["models"]):
        rows = [row for row in results["summary"] if row["model"] == model]
        # Beside each other where one k would put all in one place.
        apart = 1.1 ** (number - middle) if len(task["k"]) == 1 else 1.0
        axes.errorbar(
            [row["k"] * apart for row in rows],
            [unit * row[f"{metric}_mean"] for row in rows],
            [unit * row[f"{metric}_std"] for row in rows],
            capsize=3,
            **_style(task, model),
        )
    axes.set_xscale("log")
    axes.set_xticks(task["k"], [str(k) for k in task["k"]])
    axes.minorticks_off()
    axes.set(xlabel="k: labelled samples a class", title=task["name"])
    _finish(axes, results)
    return figure


def per_snr(results: dict[str, Any]) -> "Figure | None":
    """Accuracy (of a target: mean absolute error) against SNR at the largest k, mean over episodes; None where the data
    set has no SNR."""
    task, k = results["task"], max(results["task"]["k"])
    records = [record for record in results["records"] if record["k"] == k]
    if not records[0]["per_snr"]:
        return None
    figure, (axes,) = _figure(1, (6.5, 4.4))
    levels = list(records[0]["per_snr"])
    for model in task["models"]:
        mine = [[record["per_snr"][level] for level in levels] for record in records if record["model"] == model]
        axes.plot(range(len(levels)), _unit(task) * np.mean(mine, axis=0), **_style(task, model))
    axes.set_xticks(range(len(levels)), levels)
    axes.set(xlabel="SNR (dB)", title=f"{task['name']}, k = {k}")
    _finish(axes, results, ylabel=metric_words(task) if task["target"] else "accuracy (%)")
    return figure


def _finish(axes: "Axes", results: dict[str, Any], ylabel: str = "") -> None:
    task = results["task"]
    axes.set_ylabel(ylabel or metric_words(task))
    if results["chance"] is not None:
        axes.axhline(100 * results["chance"], color="black", linewidth=0.8, linestyle=":", label="chance")
        axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _unit(task: dict[str, Any]) -> float:
    """Shares are shown in percent."""
    return 1.0 if task["target"] else 100.0


def _style(task: dict[str, Any], model: str) -> dict[str, Any]:
    from matplotlib import colormaps

    number = task["models"].index(model)
    contestant = Contestant.parse(model)
    return {
        "label": contestant.title,
        "color": _COLOURS.get(model, colormaps["tab20"](number % 20)),
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": "-" if contestant.pretrained else "--",
    }


def confusion(results: dict[str, Any]) -> "Figure":
    """Confusion of the best pretrained contestant and of the best other one at the largest k, rows scaled to 1."""
    k, metric = max(results["task"]["k"]), results["task"]["metric"]
    rows = sorted((r for r in results["summary"] if r["k"] == k), key=lambda r: -r[f"{metric}_mean"])
    ours = [row["model"] for row in rows if Contestant.parse(row["model"]).pretrained][:1]
    others = [row["model"] for row in rows if row["model"] not in ours]
    shown = (ours + others)[:2]
    classes = results["classes"]
    size = max(3.5, 0.33 * len(classes))
    figure, panels = _figure(len(shown), (size * len(shown) + 1.5, size + 0.8))
    for axes, model in zip(panels, shown, strict=True):
        counts = np.sum([r["confusion"] for r in results["records"] if r["model"] == model and r["k"] == k], axis=0)
        axes.imshow(counts / counts.sum(1, keepdims=True).clip(min=1), cmap="Blues", vmin=0, vmax=1)
        axes.set(title=f"{Contestant.parse(model).title}, k = {k}", xlabel="predicted")
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
        axes.set_yticks(range(len(classes)), classes if axes is panels[0] else [""] * len(classes), fontsize=7)
    panels[0].set_ylabel("truth")
    return figure


def embedding(contest: "Contest", draw: "EpisodeDraw") -> "Figure":
    """t-SNE of the test part: the frozen encoder's features beside the raw spectrograms."""
    bench = contest.bench
    layer = contest.probe("encoder", draw.episode(max(draw.task.k), 0)).layer
    at = bench.place[draw.test]
    at = at[np.linspace(0, len(at) - 1, min(len(at), _MOST_POINTS)).round().astype(int)]
    raw = bench.pictures[at].flatten(1).numpy()
    maps = {
        f"frozen encoder, block {layer + 1}": _standardised(contest.frozen[layer][at]),
        "raw spectrogram": raw - raw.mean(0),
    }
    figure, panels = _figure(2, (11, 4.8))
    columns = [column[at] for column in bench.columns]
    for axes, (title, features) in zip(panels, maps.items(), strict=True):
        _scatter(axes, _flat_map(features, contest.seed), columns)
        axes.set_title(f"{title} (t-SNE)", fontsize=10)
    panels[1].legend(
        fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), title=" / ".join(draw.task.labels) or draw.task.name
    )
    return figure


def _standardised(features: NDArray[Any]) -> NDArray[Any]:
    return (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)


def _flat_map(features: NDArray[Any], seed: int) -> NDArray[Any]:
    """t-SNE in two dimensions ``[N, 2]`` of the first principal components."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    reduced = PCA(min(_COMPONENTS, *features.shape), random_state=seed).fit_transform(features)
    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)


def _scatter(axes: "Axes", points: NDArray[Any], columns: list[NDArray[np.str_]]) -> None:
    """Points coloured by the first label; the marker is the remaining labels'."""
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    from lwm.evaluation.episodes import join_labels

    names, codes = join_labels(columns[:1])
    others, kinds = join_labels(columns[1:]) if columns[1:] else ([""], np.zeros(len(codes), np.int64))
    colours = colormaps["viridis"](np.linspace(0, 0.95, len(names)))
    for kind in range(len(others)):
        mine = kinds == kind
        marker = _MARKERS[kind % len(_MARKERS)]
        axes.scatter(points[mine, 0], points[mine, 1], c=colours[codes[mine]], marker=marker, s=16, linewidths=0)
    axes.set_xticks([])
    axes.set_yticks([])
    dot: dict[str, Any] = {"linestyle": "", "markersize": 5}
    for name, colour in zip(names, colours, strict=True):
        axes.add_line(Line2D([], [], color=colour, marker="s", label=name, **dot))
    for number, name in enumerate(others if len(others) > 1 else []):
        axes.add_line(Line2D([], [], color="black", marker=_MARKERS[number % len(_MARKERS)], label=name, **dot))


def _figure(panels: int, size: tuple[float, float]) -> tuple["Figure", list["Axes"]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])
