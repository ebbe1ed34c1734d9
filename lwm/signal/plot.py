"""Pictures of spectrograms with their emissions boxed, for ``lwm inspect`` and the report.

Figures are made without pyplot, so that nothing global is touched and no display is needed.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lwm.errors import ConfigError
from lwm.signal.capture import Capture, Emission
from lwm.signal.csi_recipe import CsiRecipe
from lwm.signal.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#ff5d5d", "#ffd23f", "#5ec8ff", "#c792ff", "#ff9f45", "#ffffff")
_LABEL_SHARE = 0.12
"""Share of the picture's width above which every box is labelled; of smaller ones only the largest of a kind is."""


def spectrogram_figure(
    source: Capture | Tensor | npt.NDArray[Any],
    recipe: Recipe | CsiRecipe,
    emissions: Sequence[Emission] | None = None,
    sample_rate: float | None = None,
    valid: Tensor | npt.NDArray[np.bool_] | None = None,
    start: float = 0.0,
    title: str = "",
    size: tuple[float, float] = (8.0, 4.5),
) -> "Figure":
    """Spectrogram with time in ms, frequency in MHz, emissions boxed and labelled, padding hatched.

    Args:
        source: a capture, to which the recipe is applied, or a finished picture ``[C, F, T]`` of that recipe.
        recipe: how the picture is or was made.
        emissions: boxes to draw, seconds from the picture's first column; those of the capture by default.
        sample_rate: Hz of the capture behind a finished picture, unless the recipe fixes it.
        valid: ``[T]``, False where a finished picture was padded.
        start: s in the capture at which the picture begins.
        title: above the picture.
        size: inches.

    Returns:
        a matplotlib Figure; :func:`png_bytes` renders it.

    Raises:
        ConfigError: a finished picture whose sample rate is not known.
        CaptureError: the capture is empty, not finite, or shorter than the recipe takes.
    """
    from matplotlib.figure import Figure

    if isinstance(recipe, CsiRecipe):
        return _csi_figure(np.asarray(source), recipe, valid, title, size)
    if isinstance(source, Capture):
        made = recipe.of_capture(source, start)
        picture, valid, sample_rate = made.db[0].numpy(), made.valid[0].numpy(), source.sample_rate
        if emissions is None:
            emissions = source.window(start, recipe.duration).emissions
    else:
        picture = np.asarray(source)
    if sample_rate is None and recipe.sample_rate is None:
        raise ConfigError("a picture without a sample rate", "Hz", f"recipe {recipe.name!r} keeps each capture's own")
    rate = recipe.rate_for(sample_rate or 0.0)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    _draw_picture(figure, axes, upright(picture, recipe), recipe, rate)
    if valid is not None:
        _hatch(axes, np.asarray(valid, dtype=bool), recipe)
    _draw_boxes(axes, emissions or (), recipe, rate)
    axes.set(xlabel="time (ms)", ylabel="frequency from centre (MHz)", title=title)
    return figure


def _csi_figure(
    picture: npt.NDArray[Any], recipe: CsiRecipe, valid: Any, title: str, size: tuple[float, float]
) -> "Figure":
    """Antennas of a picture of CSI below each other, time to the right, subcarriers up."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    low = float(np.percentile(picture, 2))
    for number, antenna in enumerate(picture):
        axes = figure.add_subplot(len(picture), 1, number + 1)
        image = axes.imshow(
            antenna,
            origin="lower",
            aspect="auto",
            extent=(0.0, recipe.duration * 1e3, 0.0, 1.0),
            interpolation="nearest",
            vmin=low,
            vmax=max(float(picture.max()), low + 1),
        )
        if valid is not None:
            _hatch(axes, np.asarray(valid, dtype=bool), recipe)
        axes.set(xlabel="time (ms)", ylabel=f"antenna {number}: share of the used band", title="" if number else title)
        figure.colorbar(image, ax=axes, label=f"dB relative to the {recipe.power_reference}")
    return figure


def png_bytes(figure: "Figure", dpi: int = 110) -> bytes:
    """The figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def upright(picture: npt.NDArray[Any], recipe: Recipe) -> npt.NDArray[Any]:
    """``[F, T, C]`` of a picture ``[C, F, T]`` of a recipe: frequency from -fs/2 up, time to the right."""
    turned = picture.transpose(1, 2, 0) if recipe.axes == "frequency-time" else picture.transpose(2, 1, 0)
    return turned if recipe.fftshift else np.roll(turned, turned.shape[0] // 2, axis=0)


def _draw_picture(figure: "Figure", axes: "Axes", picture: npt.NDArray[Any], recipe: Recipe, rate: float) -> None:
    # A bin is centred on its frequency: the lowest begins half a bin below -fs/2.
    half_bin = rate / recipe.n_fft / 2
    extent = (0.0, recipe.duration * 1e3, (-rate / 2 - half_bin) / 1e6, (rate / 2 - half_bin) / 1e6)
    if picture.shape[2] == 3:
        axes.imshow(picture.astype(np.uint8), origin="lower", aspect="auto", extent=extent, interpolation="nearest")
        return
    grey = picture[..., 0]
    above = grey[grey > recipe.floor_db]
    low = float(np.percentile(above, 2)) if above.size else recipe.floor_db
    image = axes.imshow(
        grey,
        origin="lower",
        aspect="auto",
        extent=extent,
        interpolation="nearest",
        cmap="viridis",
        vmin=low,
        vmax=max(float(grey.max()), low + 1),
    )
    reference = "capture's mean power" if recipe.power_reference == "mean" else "full scale"
    figure.colorbar(image, ax=axes, label=f"dB relative to the {reference}", pad=0.01)


def _hatch(axes: "Axes", valid: npt.NDArray[np.bool_], recipe: Recipe | CsiRecipe) -> None:
    """Hatch the columns after the last valid one."""
    if valid.all():
        return
    from matplotlib.patches import Rectangle

    end = recipe.duration * 1e3
    begin = (int(np.flatnonzero(valid).max(initial=-1)) + 1) / len(valid) * end
    low, high = axes.get_ylim()
    place: dict[str, Any] = {"facecolor": "#303030", "edgecolor": "#8a8a8a", "hatch": "//", "linewidth": 0}
    axes.add_patch(Rectangle((begin, low), end - begin, high - low, **place))
    axes.text((begin + end) / 2, (low + high) / 2, "padded", color="white", ha="center", va="center")


def _draw_boxes(axes: "Axes", emissions: Sequence[Emission], recipe: Recipe, rate: float) -> None:
    from matplotlib.patches import Rectangle

    cut = [e.clipped(recipe.duration, rate / 2) for e in emissions]
    inside = sorted((e for e in cut if e), key=lambda e: (e.stop - e.start) * (e.high - e.low), reverse=True)
    technologies = list(dict.fromkeys(e.technology for e in inside))
    labelled: set[str] = set()
    lowest, highest = axes.get_ylim()
    for emission in inside:
        colour = _COLOURS[technologies.index(emission.technology) % len(_COLOURS)]
        left, width = emission.start * 1e3, (emission.stop - emission.start) * 1e3
        bottom, top = max(emission.low / 1e6, lowest), min(emission.high / 1e6, highest)
        # Over the frame and not clipped, so that a box along the picture's edge keeps its line.
        line: dict[str, Any] = {"fill": False, "edgecolor": colour, "linewidth": 1.5, "clip_on": False, "zorder": 3}
        axes.add_patch(Rectangle((left, bottom), width, top - bottom, **line))
        label = box_label(emission)
        if label in labelled and width < _LABEL_SHARE * recipe.duration * 1e3:
            continue
        labelled.add(label)
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1.0, "alpha": 0.85}
        place: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "va": "top"}
        axes.annotate(label, (left, top), xytext=(2.5, -2.5), color="black", bbox=box, annotation_clip=True, **place)


def box_label(emission: Emission) -> str:
    """What is written in a box: technology, link, modulation and SNR, as far as they are known."""
    snr = "" if emission.snr_db is None else f"{emission.snr_db:g} dB"
    return " ".join(part for part in (emission.technology, emission.link, emission.modulation, snr) if part) or "?"
