"""Pictures of scenes with their masks, drawn without a display."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lwm.data.masks import PADDED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lwm.data.dataset import SpectrogramDataset

_COLOURS = ("#1a1a2e", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#0072b2")
_PADDING = "#bbbbbb"


def scene_gallery(dataset: "SpectrogramDataset", count: int = 10) -> "Figure":
    """The first scenes of a data set, spread evenly over it, each above its mask.

    Raises:
        IndexError: the data set is empty.
    """
    rows = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(np.int64))
    batch = dataset.batch(rows)
    titles = [f"{dataset.values['snr_db'][row]:g} dB" for row in rows] if "snr_db" in dataset.values else None
    return mask_figure(batch["spectrogram"].numpy(), {"mask": batch["mask"].numpy()}, dataset.mask_names, titles)


def mask_figure(
    pictures: npt.NDArray[Any],
    masks: Mapping[str, npt.NDArray[Any]],
    names: Sequence[str],
    titles: Sequence[str] | None = None,
) -> "Figure":
    """One column a scene: the picture, then a row for each kind of mask.

    Args:
        pictures: dB ``[N, C, F, T]``, rows from low to high frequency.
        masks: row's title to masks ``[N, F, T]``.
        names: of the classes, in the order of their codes.
        titles: of the scenes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colours = [_COLOURS[code % len(_COLOURS)] for code in range(len(names))]
    table = ListedColormap([*colours, _PADDING])
    norm = BoundaryNorm(np.arange(len(names) + 2) - 0.5, len(names) + 1)
    figure = Figure(figsize=(1.9 * len(pictures) + 0.6, 1.8 * (1 + len(masks)) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1 + len(masks), len(pictures), squeeze=False)
    style: dict[str, Any] = {"origin": "lower", "aspect": "auto", "interpolation": "nearest"}
    for column, picture in enumerate(pictures):
        grid[0, column].imshow(picture.mean(0), cmap="magma", **style)
        for row, found in enumerate(masks.values(), start=1):
            codes = np.where(found[column] == PADDED, len(names), found[column])
            grid[row, column].imshow(codes, cmap=table, norm=norm, **style)
        if titles is not None:
            grid[0, column].set_title(titles[column], fontsize=9)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
    for row, title in enumerate(["spectrogram", *masks]):
        grid[row, 0].set_ylabel(title)
    shown = [Patch(color=colour, label=name) for name, colour in zip(names, colours, strict=True)]
    figure.legend(handles=shown, loc="outside lower center", ncols=len(names), fontsize=9)
    return figure
