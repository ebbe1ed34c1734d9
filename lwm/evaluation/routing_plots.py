"""Pictures of a router's report, drawn without a display."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OURS = "#0072b2"
_RAW = "#d55e00"
_GREY = "#7f7f7f"


def reliability_figure(report: dict[str, Any]) -> "Figure":
    """Accuracy against confidence, before and after the temperature, over how many samples each bin holds."""
    figure, (above, below) = _figure((5.0, 5.6), rows=2, heights=(3, 1))
    above.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":", label="calibrated")
    shown = (("uncalibrated", "temperature 1", _RAW), ("calibrated", f"temperature {report['temperature']:.2f}", _OURS))
    for key, said, colour in shown:
        table = {name: np.asarray(column) for name, column in report[key]["reliability"].items()}
        used = table["count"] > 0
        label = f"{said}, ECE {100 * report[key]['ece']:.1f} %"
        above.plot(table["confidence"][used], table["accuracy"][used], "o-", color=colour, markersize=4, label=label)
        edges = np.linspace(0, 1, len(used) + 1)
        below.stairs(table["count"], edges, color=colour)
    above.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy", title="Reliability of the router")
    below.set(xlim=(0, 1), xlabel="confidence: probability of the chosen expert", ylabel="samples", yscale="symlog")
    above.legend(fontsize=8)
    for axes in (above, below):
        axes.grid(alpha=0.3)
    return figure


def confusion_figure(report: dict[str, Any]) -> "Figure":
    """Confusion of the protocols over all samples and in every group of SNR, rows scaled to 1."""
    panels = {"all": report["confusion"]} | {
        f"SNR {name} dB": counts for name, counts in report["confusion_by_snr"].items()
    }
    names = report["experts"]
    side = max(2.0, 0.45 * len(names) + 0.9)
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, places = _figure((side * columns + 0.6, side * rows + 0.4), rows, columns)
    for axes, (title, counts) in zip(places, panels.items(), strict=False):
        _draw_counts(axes, np.asarray(counts), names)
        axes.set_title(title, fontsize=9)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel("chosen expert", fontsize=9)
    figure.supylabel("protocol", fontsize=9)
    return figure


def accuracy_figure(report: dict[str, Any]) -> "Figure":
    """Accuracy against SNR, beside that of trivial features and chance over all SNRs."""
    figure, (axes,) = _figure((5.6, 3.6))
    names = list(report["accuracy_by_snr"])
    axes.plot(range(len(names)), [100 * report["accuracy_by_snr"][name] for name in names], "o-", color=_OURS)
    axes.axhline(100 * report["accuracy"], color=_OURS, linewidth=0.8, label="router, all")
    axes.axhline(100 * report["trivial_accuracy"], color=_GREY, linestyle="--", label="trivial features, all")
    axes.axhline(100 * report["chance"], color="black", linewidth=0.8, linestyle=":", label="most frequent protocol")
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel="SNR (dB)", ylabel="accuracy (%)", ylim=(0, 102))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    return figure


def _draw_counts(axes: "Axes", counts: Any, names: list[str]) -> None:
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)


def _figure(
    size: tuple[float, float], rows: int = 1, columns: int = 1, heights: tuple[float, ...] | None = None
) -> tuple["Figure", list["Axes"]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    return figure, list(places.ravel())
