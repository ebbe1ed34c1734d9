"""The pictures of docs/channels.md: every shipped site, and every impairment at five levels on one capture.

``python docs/draw_channels.py`` writes them to docs/img and prints the page's table of sites.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from lwm.channel.impairments import FAMILIES, impair
from lwm.channel.sites import SITES, SiteTable, site_table
from lwm.seeding import rng_for
from lwm.signal.capture import Capture
from lwm.signal.recipe import Recipe, recipe_named
from lwm.signal.resample import tune
from lwm.technology import technology

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
OFFSET = 2.6e6
"""Hz: the signal stands beside the centre, so that its image, the carrier's leakage and spurs are seen."""


def site_figure(table: SiteTable) -> Figure:
    """Map of the receivers coloured by power, and the histogram of their delay spreads."""
    figure = Figure((11, 4.6), layout="constrained")
    plan, spreads = figure.subplots(1, 2, width_ratios=(1.25, 1))
    x, y = table.receivers_m[:, 0], table.receivers_m[:, 1]
    dots = plan.scatter(x, y, c=table.received_power_db, s=5, cmap="viridis")
    plan.plot(*table.transmitter_m[:2], marker="^", color="#d62728", markersize=11, linestyle="none")
    white = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    label = {"xytext": (9, 4), "textcoords": "offset points", "color": "#d62728", "bbox": white}
    plan.annotate(f"{table.transmitter_m[2]:.0f} m high", table.transmitter_m[:2], **label)
    plan.set(xlabel="x (m)", ylabel="y (m)", aspect="equal")
    share = table.line_of_sight.mean()
    plan.set_title(f"{table.name}: {table.receivers} receivers, {share:.0%} in line of sight", fontsize=10)
    figure.colorbar(dots, ax=plan, label="received over transmitted power (dB)")
    nanoseconds = table.delay_spreads_s * 1e9
    top = float(np.percentile(nanoseconds, 99))
    kinds = {"line of sight": table.line_of_sight, "no line of sight": ~table.line_of_sight}
    spreads.hist([nanoseconds[rows] for rows in kinds.values()], bins=np.linspace(0, top, 41), stacked=True)
    spreads.legend(list(kinds))
    spreads.set(xlabel="RMS delay spread (ns), up to the 99th percentile", ylabel="receivers")
    spreads.set_title(f"median {np.median(nanoseconds):.0f} ns, {np.median(table.path_counts):.0f} paths", fontsize=10)
    return figure


def site_row(table: SiteTable) -> str:
    """One line of the page's table of sites."""
    spreads = np.percentile(table.delay_spreads_s * 1e9, (10, 50, 90))
    cells = [
        table.name,
        f"{table.receivers}",
        f"{table.line_of_sight.mean():.0%}",
        f"{table.path_counts.mean():.1f}",
        " / ".join(f"{spread:.0f}" for spread in spreads),
        f"{table.distances_m.max():.0f}",
        f"{table.provenance['share_of_places_reached']:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def example() -> Capture:
    """One clean LTE downlink of 5 MHz at 15.36 Msamples/s, beside the centre."""
    lte, rng = technology("lte"), rng_for(0, "docs")
    config = lte.sample(rng, bandwidth=5e6, duration=16e-3, activity=0.6, duplex="TDD")
    return tune(lte.synthesize(config, rng), OFFSET, 15.36e6)


def impairments_figure(capture: Capture, names: Sequence[str], levels: Sequence[float] = LEVELS) -> Figure:
    """Spectrograms ``[names, levels]``; within a row only the level differs."""
    recipe = replace(recipe_named("small"), floor_db=-70.0, size=(128, 96))
    figure = Figure((2.15 * len(levels), 1.55 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), len(levels), squeeze=False)
    for name, row in zip(names, axes, strict=True):
        pictures = spectrograms(capture, name, levels, recipe)
        for level, picture, axis in zip(levels, pictures, row, strict=True):
            axis.imshow(picture, origin="lower", aspect="auto", vmin=-60, vmax=20, cmap="viridis")
            axis.set(xticks=[], yticks=[])
            if level == levels[0]:
                axis.set_ylabel(name.replace("_", "\n"), fontsize=8)
            if name == names[0]:
                axis.set_title(f"level {level:g}", fontsize=9)
    return figure


def spectrograms(capture: Capture, name: str, levels: Sequence[float], recipe: Recipe) -> np.ndarray:
    """Pictures ``[levels, F, T]`` in dB of one capture behind one family; the random draws are the same for all."""
    rows = [[FAMILIES[name].at_level(level, rng_for(1, name), capture.sample_rate)] for level in levels]
    iq, _ = impair(np.tile(capture.iq, (len(levels), 1)), capture.sample_rate, rows, [rng_for(2, name) for _ in levels])
    return recipe(torch.from_numpy(iq), capture.sample_rate).db[:, 0].numpy()


def main(out: Path) -> list[Path]:
    """Write every picture to ``out`` and say where."""
    out.mkdir(parents=True, exist_ok=True)
    figures = {f"site_{name}.png": site_figure(site_table(name)) for name in SITES}
    figures["impairments.png"] = impairments_figure(example(), list(FAMILIES))
    for name, figure in figures.items():
        figure.savefig(out / name, dpi=75)
        # A palette of 128 colours is a third of the size and looks the same.
        Image.open(out / name).convert("RGB").quantize(128).save(out / name, optimize=True)
    return [out / name for name in figures]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "img")
    main(parser.parse_args().out)
    print("\n".join(site_row(site_table(name)) for name in SITES))
