"""Shapes of encoders and decoders, by name."""

from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from lwm.errors import ConfigError, ModelError
from lwm.models.pooling import Pooling


def _require_shape(what: str, width: int, depth: int, heads: int) -> None:
    if min(width, depth, heads) < 1 or width % 4 or width % heads:
        raise ConfigError(
            f"{what} with width {width}, depth {depth}, heads {heads}",
            "positive sizes and a width that 4 and the number of heads divide",
        )


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of an encoder; the picture's size and channels are the recipe's.

    Args:
        name: what the encoder is an expert of, for example ``"lte"``; empty when of nothing in particular.
        patch: side of a square patch in cells; divides both sides of the recipe's picture.
        width: token width D; a multiple of 4 and of ``heads``.
        depth: number of Transformer blocks.
        heads: attention heads a block.
        mlp_ratio: hidden width of the feed-forward part in token widths.
        position: fixed 2-D sines, or a learned table that starts at standard deviation 0.02.
        pooling: what :meth:`SpectrogramEncoder.forward_head` gives.
        cls_token: a learned token before the patches', as MAE and ImageNet ViTs have it.
        registers: further learned tokens before the patches' (Darcet et al. 2024), scratch space for attention.
        stem: how a patch becomes a token: one linear layer, or :class:`~lwm.models.stem.PatchPyramid`.
    """

    name: str = ""
    patch: int = 4
    width: int = 128
    depth: int = 6
    heads: int = 8
    mlp_ratio: float = 4.0
    position: Literal["sinusoidal", "learned"] = "sinusoidal"
    pooling: Pooling = "mean_spread"
    cls_token: bool = False
    registers: int = 0
    stem: Literal["linear", "pyramid"] = "linear"

    def __post_init__(self) -> None:
        _require_shape("encoder", self.width, self.depth, self.heads)
        if self.stem not in ("linear", "pyramid"):
            raise ConfigError(f"encoder with stem {self.stem!r}", "linear or pyramid")
        if self.patch < 1 or self.registers < 0:
            raise ConfigError(
                f"encoder with patch {self.patch} and {self.registers} registers", "patch >= 1 and registers >= 0"
            )

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches': class token first, then registers."""
        return int(self.cls_token) + self.registers

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """Config from ``asdict``; an unknown field is a ModelError that names it."""
        unknown = sorted(set(plain) - {f.name for f in fields(cls)})
        if unknown:
            raise ModelError(f"encoder config with unknown fields {unknown}", "a config of this version of LWM")
        return cls(**plain)


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of the decoder of masked modelling.

    Args:
        width: token width; a multiple of 4 and of ``heads``.
        depth: number of blocks.
        heads: attention heads a block.
        mlp_ratio: hidden width of the feed-forward part in token widths.
        attention: ``"self"`` lets all tokens see all (MAE, He et al. 2022); ``"cross"`` lets hidden patches look at
            visible ones only, and not at each other (CrossMAE, Fu et al. 2024).
    """

    width: int = 64
    depth: int = 1
    heads: int = 2
    mlp_ratio: float = 2.0
    attention: Literal["self", "cross"] = "self"

    def __post_init__(self) -> None:
        _require_shape("decoder", self.width, self.depth, self.heads)
        if self.attention not in ("self", "cross"):
            raise ConfigError(f"decoder with attention {self.attention!r}", "self or cross")


@dataclass(frozen=True)
class Size:
    """A named size.

    Args:
        picture: rows and columns that the size was made for; the encoder takes others too.
        encoder: its encoder.
        decoder: its decoder; light where the paper gives none, for what a decoder learns is thrown away.
    """

    picture: tuple[int, int]
    encoder: EncoderConfig
    decoder: DecoderConfig


# `lwm` has the published LWM-Spectro expert's figures (arXiv 2601.08780), `small` half its depth; `s`, `m` and `l` are
# those of arXiv 2411.09996 with their decoders; `rf` serves the language stage; `tiny` is for tests.
SIZES: dict[str, Size] = {
    "tiny": Size((64, 64), EncoderConfig(patch=16, width=32, depth=2, heads=4), DecoderConfig()),
    "small": Size((64, 64), EncoderConfig(patch=4, width=128, depth=6, heads=8), DecoderConfig()),
    "lwm": Size((128, 128), EncoderConfig(patch=4, width=128, depth=12, heads=8), DecoderConfig()),
    "rf": Size((256, 256), EncoderConfig(patch=16, width=192, depth=12, heads=3), DecoderConfig(96, 2, 3, 4.0)),
    "s": Size((224, 224), EncoderConfig(patch=16, width=512, depth=12, heads=8), DecoderConfig(256, 8, 16, 4.0)),
    "m": Size((224, 224), EncoderConfig(patch=16, width=768, depth=12, heads=12), DecoderConfig(512, 8, 16, 4.0)),
    "l": Size((224, 224), EncoderConfig(patch=16, width=1024, depth=24, heads=16), DecoderConfig(512, 8, 16, 4.0)),
}


def size_named(name: str) -> Size:
    """The size called ``name``; ConfigError lists those that exist."""
    try:
        return SIZES[name]
    except KeyError:
        raise ConfigError(f"no encoder size named {name!r}", f"one of {sorted(SIZES)}") from None


def encoder_size(name: str) -> EncoderConfig:
    """The encoder of a named size."""
    return size_named(name).encoder
