"""A picture file of a spectrogram back to dB: colour map inverted, axes as `lwm inspect` draws them, doubt refused.

What is assumed of a picture: it is the bare spectrogram, without axes, margins or a colour bar; frequency rises from
its lower to its upper edge over the whole sampled band, time runs to the right over the recipe's duration, and its
colours are spread evenly in dB. A recipe whose power reference is the mean makes spectrograms whose mean power is
1 (0 dB), which is what tells a picture on the recipe's own scale from any other grey image.
"""

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lwm.errors import CaptureError, ConfigError
from lwm.signal.recipe import Recipe

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
COLOUR_MAPS = ("gray", "viridis", "plasma", "inferno", "magma", "cividis", "turbo", "jet", "hot")
"""Colour maps of matplotlib that are inverted; ``gray`` is white for the highest level."""
MOST_PIXELS = 2**24
"""Pixels of a picture (4096 x 4096), checked before it is decoded."""
LEAST_SIDE = 16
"""Pixels of the shorter side."""
MOST_STRETCH = 4.0
"""How often a picture may be wider or higher, for its height, than the recipe's own."""
FAR_COLOUR = 32.0
"""Distance in RGB (0..255 each) from the nearest colour of a map beyond which a pixel is none of it; a JPEG of quality
75 of a coloured noise floor stays below for nine pixels of ten (test)."""
MOST_FAR = 0.15
"""Share of such pixels in a picture that is still taken."""
FLAT = 2.0
"""Levels of 255 that the brightest and darkest hundredth of a picture must be apart."""
MEAN_POWER_DB = (-10.0, 4.0)
"""Mean power of a picture on the recipe's own scale: 0 dB but for 8-bit rounding and clipping, lower when padded."""

Floats = npt.NDArray[np.float32]


def picture_db(
    source: bytes | Path, recipe: Recipe, levels: Sequence[float] | None = None, name: str | None = None
) -> Tensor:
    """dB ``[1, C, F, T]`` of a recipe from a PNG or JPEG of a spectrogram (see the module for what is assumed).

    Args:
        source: file, or its bytes.
        recipe: the model's.
        levels: dB of the colour scale's lower and upper end. None: the recipe's floor and ceiling; then the picture's
            mean power must be the recipe's reference. With stated levels only their distance counts where the
            recipe's reference is the mean power: the picture is set to it.
        name: of the source in messages.

    Raises:
        CaptureError: no PNG or JPEG, damaged, too large or small, transparent, of another shape than a spectrogram,
            of one colour, in colours of no known map, or not on the stated scale.
        ConfigError: levels that are not two rising numbers.
    """
    named = name or (str(source) if isinstance(source, Path) else "the picture")
    low, high = _checked_levels(levels, recipe)
    image = _opened(source, named)
    _require_shape(image, recipe, named)
    share = _level(image, named)
    if float(np.quantile(share, 0.99) - np.quantile(share, 0.01)) * 255 < FLAT:
        raise CaptureError(f"{named} is of one colour", "a spectrogram", "check the picture")
    db = _fitted(low + (high - low) * share, recipe)
    if recipe.power_reference == "mean":
        mean = float(10 * np.log10(np.mean(10 ** (db / 10))))
        if levels is not None:
            db = np.clip(db - mean, recipe.floor_db, recipe.ceiling_db)
        elif not MEAN_POWER_DB[0] <= mean <= MEAN_POWER_DB[1]:
            raise CaptureError(
                f"{named} is no spectrogram on the scale {low:g} to {high:g} dB: its mean power would be {mean:.0f} dB",
                f"0 dB, the reference of recipe {recipe.name!r}",
                "state what the ends of its colour scale are (--levels LOW HIGH), or give the IQ",
            )
    return _as_recipe(torch.from_numpy(db.astype(np.float32)), recipe)


def is_image(data: bytes) -> bool:
    """Whether bytes begin as a PNG or a JPEG does."""
    return data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))


def _checked_levels(levels: Sequence[float] | None, recipe: Recipe) -> tuple[float, float]:
    if levels is None:
        return recipe.floor_db, recipe.ceiling_db
    if len(levels) != 2 or not np.isfinite(levels).all() or not 1 <= levels[1] - levels[0] <= 300:
        raise ConfigError(f"levels {list(levels)}", "two rising numbers of dB, 1 to 300 apart", "for example -40 40")
    return float(levels[0]), float(levels[1])


def _opened(source: bytes | Path, named: str) -> "Image":
    from PIL import Image as images

    try:
        image = images.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=("PNG", "JPEG"))
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise CaptureError(f"{named} has {width} x {height} pixels", f"at most {MOST_PIXELS}", "make it smaller")
        image.load()
    # What Pillow raises on a damaged file depends on where the damage is; DecompressionBombError is none of these.
    except (OSError, ValueError, SyntaxError, EOFError, images.DecompressionBombError) as error:
        raise CaptureError(f"{named} cannot be read as a PNG or JPEG ({error})", "a whole picture") from None
    if getattr(image, "n_frames", 1) > 1:
        raise CaptureError(f"{named} has several frames", "one picture")
    return image


def _require_shape(image: "Image", recipe: Recipe, named: str) -> None:
    width, height = image.size
    if min(width, height) < LEAST_SIDE:
        raise CaptureError(f"{named} has {width} x {height} pixels", f"{LEAST_SIDE} or more on each side")
    rows, columns = recipe.size
    stretch = (width / height) / (columns / rows)
    if not 1 / MOST_STRETCH <= stretch <= MOST_STRETCH:
        raise CaptureError(
            f"{named} has {width} x {height} pixels",
            f"about the shape {columns} x {rows} (time x frequency) of recipe {recipe.name!r}",
            "cut it to one window of the recipe",
        )


def _level(image: "Image", named: str) -> Floats:
    """Share of the colour scale, 0 to 1 ``[H, W]``, of each pixel."""
    if image.mode.startswith("I;16") or image.mode == "I":
        return np.asarray(image, np.float32) / np.float32(65535)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"), np.float32) / np.float32(255)
    if "A" in image.getbands() or "transparency" in image.info:
        whole = image.convert("RGBA")
        if whole.getchannel("A").getextrema() != (255, 255):
            raise CaptureError(f"{named} is transparent in places", "an opaque picture", "save it without alpha")
        image = whole
    return _inverted(np.asarray(image.convert("RGB")), named)


def _inverted(rgb: npt.NDArray[np.uint8], named: str) -> Floats:
    """Level of each pixel on the colour map that fits best.

    Raises:
        CaptureError: too many pixels are of no map.
    """
    from scipy.spatial import KDTree

    packed = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours, place, count = np.unique(packed, return_inverse=True, return_counts=True)
    points = np.stack([colours >> 16 & 255, colours >> 8 & 255, colours & 255], axis=-1).astype(np.float32)
    best: tuple[float, str, Any, Any] = (np.inf, "", None, None)
    for name in COLOUR_MAPS:
        distance, nearest = KDTree(_colours(name)).query(points)
        mean = float(np.average(distance, weights=count))
        if mean < best[0]:
            best = (mean, name, distance, nearest)
    far = float(np.average(best[2] > FAR_COLOUR, weights=count))
    if far > MOST_FAR:
        raise CaptureError(
            f"{named} is no picture of a spectrogram: {100 * far:.0f} % of its pixels are of no known colour map",
            f"the bare spectrogram in one of {', '.join(COLOUR_MAPS)}",
            "cut axes, margins and the colour bar off, or give the IQ",
        )
    return (best[3].astype(np.float32) / 255)[place].reshape(rgb.shape[:2])


@lru_cache
def _colours(name: str) -> Floats:
    """Colours ``[256, 3]`` of a map of matplotlib, 0..255."""
    from matplotlib import colormaps

    return (colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.float32)


def _fitted(db: Floats, recipe: Recipe) -> Floats:
    """dB ``[F, T]`` with the recipe's rows and columns, low frequencies first.

    Made smaller, a cell is the mean power of its pixels, as the recipe's own are; made larger, neighbours are
    interpolated in dB.
    """
    from torch.nn.functional import adaptive_avg_pool2d, interpolate

    rows, columns = recipe.size
    power = torch.from_numpy(10 ** (db[::-1].astype(np.float64) / 10))[None, None]
    smaller = (min(rows, power.shape[2]), min(columns, power.shape[3]))
    level = 10 * torch.log10(adaptive_avg_pool2d(power, smaller))
    if smaller != (rows, columns):
        level = interpolate(level, (rows, columns), mode="bilinear", align_corners=False)
    fitted: Floats = level[0, 0].numpy()
    return fitted


def _as_recipe(db: Tensor, recipe: Recipe) -> Tensor:
    """``[1, C, F, T]`` in the recipe's order of rows, axes and channels of dB ``[F, T]`` with rising frequency."""
    if not recipe.fftshift:
        db = db.roll(-(db.shape[0] // 2), 0)
    if recipe.axes == "time-frequency":
        db = db.T
    if recipe.channels == "grey":
        return db[None, None].contiguous()
    level = (db - recipe.floor_db) / (recipe.ceiling_db - recipe.floor_db)
    table = torch.from_numpy(_colours(recipe.channels))
    return table[(level.clamp(0, 1) * 255).round().long()].movedim(-1, 0)[None].contiguous()
