"""How pictures lie in a shard: number format, scale and compression."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lwm.errors import ConfigError
from lwm.signal.recipe import Recipe

STEPS = 255
"""Steps of uint8 between the recipe's floor and ceiling."""


class Layout(NamedTuple):
    """Where the pictures of a shard lie and what their numbers mean: ``stored * scale + shift`` is dB.

    ``offset``: byte in the file at which they begin in one piece; None where they are chunked (and compressed).
    ``shape``: ``[N, C, F, T]``. ``dtype``: numpy's name of the stored numbers. ``chunk``: samples in one chunk.
    """

    offset: int | None
    shape: tuple[int, ...]
    dtype: str
    scale: float = 1.0
    shift: float = 0.0
    chunk: int = 1

    @property
    def plain(self) -> bool:
        """Whether stored numbers are dB as they are."""
        return self.scale == 1.0 and self.shift == 0.0


@dataclass(frozen=True)
class Storage:
    """How a shard's pictures are stored.

    Args:
        dtype: ``"float16"`` keeps dB as they are, 0.03 dB at worst between -64 and 64 dB. ``"uint8"`` spreads the
            recipe's floor to ceiling over 0 to 255 and clips what is outside: half the bytes, an error of at most half
            a step, ``(ceiling - floor) / 510`` dB (see :meth:`largest_error`).
        compression: None leaves the pictures in one piece, which a reader maps: the fastest to read. ``"zstd"`` and
            ``"blosc"`` (bit shuffle, then zstd) compress chunks of ``chunk`` samples through hdf5plugin.
        iq: keep the IQ of each sample beside its picture.
        iq_dtype: of the stored IQ; ``"float16"`` keeps 11 bits of numbers between 6e-5 and 65504.
        chunk: samples compressed together, hence read together.
    """

    dtype: Literal["float16", "uint8"] = "float16"
    compression: Literal["zstd", "blosc"] | None = None
    iq: bool = False
    iq_dtype: Literal["float16", "float32"] = "float16"
    chunk: int = 16

    def __post_init__(self) -> None:
        known = (
            self.dtype in ("float16", "uint8")
            and self.compression in (None, "zstd", "blosc")
            and self.iq_dtype in ("float16", "float32")
        )
        if not known or self.chunk < 1:
            raise ConfigError(
                f"storage {self.to_dict()}",
                "dtype float16 or uint8, compression zstd, blosc or none, iq_dtype float16 or float32, chunk >= 1",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dict."""
        return asdict(self)

    @property
    def stored(self) -> np.dtype[Any]:
        """numpy type of the stored pictures."""
        return np.dtype("<f2" if self.dtype == "float16" else "u1")

    def scale(self, recipe: Recipe) -> tuple[float, float]:
        """Scale and shift from stored numbers to dB (or colour units)."""
        if self.dtype == "float16":
            return 1.0, 0.0
        low, high = level_range(recipe)
        return (high - low) / STEPS, low

    def largest_error(self, recipe: Recipe) -> float:
        """dB by which a value inside floor to ceiling can differ after storing it."""
        if self.dtype == "uint8":
            return self.scale(recipe)[0] / 2
        return float(np.spacing(np.float16(max(map(abs, level_range(recipe)))))) / 2

    def encode(self, picture: npt.NDArray[Any], recipe: Recipe) -> npt.NDArray[Any]:
        """dB as stored numbers."""
        if self.dtype == "float16":
            return picture.astype(self.stored)
        scale, shift = self.scale(recipe)
        return np.rint((picture.astype(np.float32) - shift) / scale).clip(0, STEPS).astype(self.stored)

    def filters(self) -> dict[str, Any]:
        """What ``h5py.create_dataset`` needs to compress.

        Raises:
            ConfigError: hdf5plugin is not installed.
        """
        if self.compression is None:
            return {}
        plugin = require_plugin()
        if self.compression == "zstd":
            return dict(plugin.Zstd(clevel=3))
        return dict(plugin.Blosc(cname="zstd", clevel=3, shuffle=plugin.Blosc.BITSHUFFLE))


def level_range(recipe: Recipe) -> tuple[float, float]:
    """Lowest and highest value a picture of the recipe holds: dB, or 0 to 255 of a colour map."""
    return (recipe.floor_db, recipe.ceiling_db) if recipe.channels == "grey" else (0.0, 255.0)


def require_plugin() -> Any:
    """hdf5plugin, whose import registers its filters with HDF5.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import hdf5plugin
    except ImportError as error:
        raise ConfigError(
            "compressed shards need hdf5plugin, which is not installed", remedy="pip install hdf5plugin"
        ) from error
    return hdf5plugin
