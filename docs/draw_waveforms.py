"""The pictures of docs/waveforms.md: ten random draws of each technology, every emission boxed on its spectrogram.

``python docs/draw_waveforms.py`` writes them to docs/img and prints the page's table of rejected draws.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from lwm.errors import RejectedConfig
from lwm.seeding import rng_for
from lwm.signal.capture import Capture
from lwm.technology import Technology, technology, technology_names

DRAWS = 10
COLUMNS = 2
COUNTED = 200
DURATION = 8e-3
ROWS = 160
"""Bins of frequency at least; the window is the carrier's sample rate over as many, a power of two."""
COLOURS = {
    "PDSCH": "white",
    "PUSCH": "white",
    "SSB": "#ff30ff",
    "CSI-RS": "#ffa000",
    "SRS": "#ffa000",
    "PUCCH": "#00ffff",
    "PRACH": "#ff30ff",
}
"""Of the boxes by channel; other technologies have white ones."""


def drawn(maker: Technology, number: int, duration: float = DURATION) -> Capture:
    """Capture ``number`` of the page; a rejected draw is drawn again from the next state."""
    rng = rng_for(0, "docs", maker.name, number)
    while True:
        try:
            return maker.synthesize(maker.sample(rng, duration=duration), rng)
        except RejectedConfig:
            continue


def spectrogram(capture: Capture) -> np.ndarray:
    """Power in dB below the strongest cell, float ``[frequency, time]``, lowest frequency first, at most 480 wide."""
    size = 1 << int(np.log2(max(ROWS, capture.sample_rate / 60e3)))
    hop = max(size // 2, capture.iq.size // 1600)
    window = torch.blackman_window(size, periodic=True)
    bins = torch.stft(
        torch.from_numpy(capture.iq), size, hop, size, window, center=True, pad_mode="constant", return_complex=True
    )
    power = np.fft.fftshift(bins.abs().square().numpy(), axes=0)
    return 10 * np.log10(power / power.max() + 1e-7)


def draw_capture(axis: Axes, capture: Capture) -> None:
    """Spectrogram and boxes of one capture, its axes in ms and MHz."""
    half = capture.sample_rate / 2e6
    extent = (0.0, 1e3 * capture.duration, -half, half)
    axis.imshow(
        spectrogram(capture), origin="lower", aspect="auto", extent=extent, vmin=-45, vmax=0, interpolation="nearest"
    )
    for box in capture.emissions:
        colour = COLOURS.get(box.attributes.get("channel", ""), "white")
        corner = (1e3 * box.start, box.low / 1e6)
        size = (1e3 * (box.stop - box.start), (box.high - box.low) / 1e6)
        axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=0.8))
    axis.set(xlim=extent[:2], ylim=extent[2:])
    axis.tick_params(labelsize=6)
    axis.set_title(title(capture), fontsize=7)


def title(capture: Capture) -> str:
    """What was drawn, in one line."""
    facts = capture.facts
    known = [f"{facts['bandwidth'] / 1e6:g} MHz"]
    if "subcarrier_spacing" in facts:
        known.append(f"{facts['subcarrier_spacing'] / 1e3:g} kHz")
    known += [str(facts[name]) for name in ("link", "duplex", "tdd_pattern", "modulation") if facts.get(name)]
    if "number_of_ues" in facts:
        known.append(f"{facts['number_of_ues']} UE{'s' if facts['number_of_ues'] > 1 else ''}")
    return ", ".join(known)


def gallery(maker: Technology, draws: int = DRAWS) -> Figure:
    """The first draws of a technology."""
    rows = -(-draws // COLUMNS)
    figure = Figure((5.2 * COLUMNS, 1.9 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).reshape(-1)
    channels: set[str] = set()
    for number, axis in enumerate(axes[:draws]):
        capture = drawn(maker, number)
        draw_capture(axis, capture)
        channels |= {box.attributes["channel"] for box in capture.emissions if "channel" in box.attributes}
    named = [name for name in COLOURS if name in channels]
    if named:
        lines = [Line2D([], [], color=COLOURS[name]) for name in named]
        style = {"fontsize": 7, "facecolor": "#440154", "labelcolor": "white"}
        figure.legend(lines, named, loc="outside upper center", ncols=len(named), **style)
    figure.supxlabel("time (ms)", fontsize=7)
    figure.supylabel("frequency (MHz)", fontsize=7)
    return figure


def rejected(maker: Technology, draws: int = COUNTED) -> int:
    """How many of the first default draws of 16 ms the technology rejects."""
    count = 0
    for number in range(draws):
        try:
            maker.sample(rng_for(1, "rejected", number))
        except RejectedConfig:
            count += 1
    return count


def main(out: Path) -> None:
    """Write a picture of each technology to ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    for name in technology_names():
        path = out / f"waveforms-{name}.png"
        gallery(technology(name)).savefig(path, dpi=110)
        # A palette is a third of the size and looks the same.
        Image.open(path).convert("RGB").quantize(200, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "img")
    main(parser.parse_args().out)
    for each in map(technology, technology_names()):
        print(f"| {each.title} | {rejected(each)} of {COUNTED} |")
