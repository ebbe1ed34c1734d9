"""The recipe: the one way in which IQ becomes a model input.

A recipe fixes every choice between samples and picture. It is stored in every shard and every exported model, and two
recipes are the same only when all their fields are (the preset's name aside). Shards hold dB before normalisation;
mean and standard deviation belong to the model.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from lwm.errors import CaptureError, ConfigError
from lwm.signal.capture import Capture
from lwm.signal.csi_recipe import CsiRecipe
from lwm.signal.recipe_identity import RecipeIdentity
from lwm.signal.resample import resample

_CACHED_SAMPLES = 1 << 18
"""Samples of IQ of captures that are taken together on a processor core; beyond a few MB fresh memory is dear."""

_CACHED_BINS = 1 << 16
"""Bins whose frames, spectra and powers fit a processor core's second-level cache together."""


class Spectrogram(NamedTuple):
    """Pictures and which of their columns are real.

    ``db``: float32 ``[B, C, F, T]``, dB, rows from low to high frequency, columns in time.
    ``valid``: bool ``[B, T]``, False where a short capture was padded.
    """

    db: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Recipe(RecipeIdentity):
    """How a capture becomes a spectrogram.

    Args:
        name: preset name, for messages only; no part of the identity.
        sample_rate: Hz that captures are resampled to; None keeps each capture's own.
        duration: s of signal in one picture.
        short: what a shorter capture gets: padding at its end with a validity mask, or an error.
        n_fft: FFT size in samples; the window is zero-padded to it.
        window: window function (periodic).
        win_length: window length in samples.
        hop: samples between frames.
        center: frames centred on their time (reflection at the edges) or starting at it.
        fftshift: rows run from -fs/2 to fs/2, else from 0 to fs.
        axes: order of the picture's axes.
        power_reference: ``"mean"`` divides by the capture's mean power, ``"full_scale"`` leaves the level.
        epsilon: added to the power before the logarithm.
        floor_db: lower clip, also the level of padding.
        ceiling_db: upper clip.
        size: rows and columns of the picture.
        resize: ``"area"`` averages power over each cell; ``"none"`` requires the exact size.
        channels: one grey channel in dB, or the three of a colour map spread over floor..ceiling, in 0..255.
    """

    name: str
    sample_rate: float | None
    duration: float
    short: Literal["pad", "error"]
    n_fft: int
    window: Literal["hann", "blackman", "hamming", "boxcar"]
    win_length: int
    hop: int
    center: bool
    fftshift: bool
    axes: Literal["frequency-time", "time-frequency"]
    power_reference: Literal["mean", "full_scale"]
    epsilon: float
    floor_db: float
    ceiling_db: float
    size: tuple[int, int]
    resize: Literal["area", "none"]
    channels: Literal["grey", "viridis"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(int(n) for n in self.size))
        if self.win_length > self.n_fft or min(self.n_fft, self.win_length, self.hop, *self.size) < 1:
            raise ConfigError(
                f"recipe {self.name!r}: FFT {self.n_fft}, window {self.win_length}, hop {self.hop}, size {self.size}",
                "positive sizes and a window no longer than the FFT",
            )
        if not (self.duration > 0 and self.epsilon > 0 and self.ceiling_db > self.floor_db):
            raise ConfigError(f"recipe {self.name!r}", "duration > 0, epsilon > 0 and ceiling_db > floor_db")

    @property
    def in_chans(self) -> int:
        """Channels of the picture."""
        return 1 if self.channels == "grey" else 3

    @property
    def summary(self) -> str:
        """What is peculiar to it, in a few words."""
        return f"FFT {self.n_fft}, {self.window} window"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dict; :meth:`from_dict` reads it back."""
        return asdict(self) | {"size": list(self.size)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Recipe":
        """Recipe from :meth:`to_dict`; missing and unknown fields are errors.

        What says that it is of Wi-Fi CSI gives a :class:`~lwm.signal.csi_recipe.CsiRecipe`, which is a recipe to
        whoever reads shards and models; only IQ cannot be fed to it.
        """
        if plain.get("kind") == "csi":
            return cast("Recipe", CsiRecipe.from_dict(plain))
        known = {f.name for f in fields(cls)}
        if set(plain) != known:
            wrong = sorted(set(plain) ^ known)
            raise ConfigError(f"recipe with missing or unknown fields {wrong}", f"exactly {sorted(known)}")
        return cls(**plain)

    def rate_for(self, sample_rate: float) -> float:
        """Sample rate in Hz at which a capture of ``sample_rate`` enters the STFT."""
        return self.sample_rate or sample_rate

    def window_samples(self, sample_rate: float) -> int:
        """Samples at ``sample_rate`` (Hz) that one picture covers."""
        return round(self.duration * sample_rate)

    def __call__(self, iq: Tensor, sample_rate: float, lengths: Sequence[int] | Tensor | None = None) -> Spectrogram:
        """Spectrograms of a batch of captures of one sample rate, on the device of ``iq``.

        Args:
            iq: complex64 ``[B, S]``. Longer than one window: the first window is taken.
            sample_rate: Hz, already the recipe's own if it fixes one.
            lengths: valid samples of each row (the rest is filling); all of them by default.

        Raises:
            CaptureError: fewer valid samples than one STFT window, or than the duration when ``short`` is
                ``"error"``, or another sample rate than the recipe's.
        """
        wanted = self.window_samples(sample_rate)
        batch = len(iq)
        sizes = torch.full((batch,), iq.shape[1]) if lengths is None else torch.as_tensor(lengths)
        sizes = sizes.clamp(max=wanted).cpu()
        self._check(sample_rate, int(sizes.min()), wanted)
        # A few captures at a time stay in a processor's cache from the first step to the last.
        group = max(1, _CACHED_SAMPLES // wanted) if iq.device.type == "cpu" else batch
        parts = [self._group(iq[i : i + group, :wanted], sizes[i : i + group], wanted) for i in range(0, batch, group)]
        db, valid = (torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True))
        if self.axes == "time-frequency":
            db = db.transpose(1, 2)
        return Spectrogram(self._colour(db), valid)

    def _group(self, iq: Tensor, sizes: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
        """dB ``[B, F, T]`` and valid columns ``[B, T]`` of captures, filled up to ``wanted`` samples."""
        whole = int(sizes.min()) == wanted
        sizes = sizes.to(iq.device)
        if not whole:
            iq = torch.nn.functional.pad(iq[:, : int(sizes.max())], (0, wanted - int(sizes.max())))
            if len(sizes.unique()) > 1:
                iq = torch.where(torch.arange(wanted, device=iq.device) < sizes[:, None], iq, 0)
        picture, valid = self._resize(self._power(iq), None if whole else self._frames(sizes))
        if self.power_reference == "mean":
            picture = picture / (_mean_power(iq, sizes) + 1e-30)[:, None, None]
        db = _log10_(picture.add(self.epsilon)).mul_(10).clamp_(self.floor_db, self.ceiling_db)
        return db if whole else torch.where(valid[:, None, :], db, self.floor_db), valid

    def of_capture(self, capture: Capture, start: float = 0.0) -> Spectrogram:
        """Spectrogram ``[1, C, F, T]`` of one window of a capture from ``start`` (s), resampled where asked.

        Raises:
            CaptureError: the capture is empty, not finite, or shorter than the recipe takes.
        """
        part = capture.window(start, self.duration)
        part.require_finite()
        rate = self.rate_for(part.sample_rate)
        iq = part.iq if rate == part.sample_rate else resample(part.iq, part.sample_rate, rate)
        return self(torch.from_numpy(iq)[None], rate)

    def _check(self, sample_rate: float, shortest: int, wanted: int) -> None:
        if self.sample_rate is not None and sample_rate != self.sample_rate:
            raise CaptureError(f"IQ at {sample_rate} Hz", f"{self.sample_rate} Hz, the rate of recipe {self.name!r}")
        needed = self.win_length if self.short == "pad" else wanted
        if shortest < needed:
            remedy = "record longer" if self.short == "pad" else "record longer or use a recipe that pads"
            raise CaptureError(
                f"a capture of {shortest} samples ({shortest / sample_rate * 1e3:.4g} ms)",
                f"at least {needed} samples at {sample_rate:g} Hz for recipe {self.name!r}",
                remedy,
            )
        if self.resize == "none" and self._frame_count(wanted) != self.size[1]:
            raise CaptureError(
                f"{self._frame_count(wanted)} STFT frames at {sample_rate:g} Hz",
                f"exactly {self.size[1]} for recipe {self.name!r}, which does not resize",
            )

    def _frame_count(self, samples: int) -> int:
        if self.center:
            return samples // self.hop + 1
        return max(0, (samples - self.win_length) // self.hop + 1)

    def _frames(self, sizes: Tensor) -> Tensor:
        """STFT frames of captures of ``sizes`` samples."""
        return sizes // self.hop + 1 if self.center else (sizes - self.win_length) // self.hop + 1

    def _power(self, iq: Tensor) -> Tensor:
        """Power ``[B, frames, bins]`` of the STFT (1 = unit-power white noise).

        Where a row of the picture is a whole number of bins, their mean: ``bins`` is then the number of rows.
        """
        shift = self.fftshift and self.n_fft % 2 == 0
        window = _window(self.window, self.win_length, shift).to(iq.device)
        count = self._frame_count(iq.shape[-1])
        parts = torch.view_as_real(iq)
        if self.center:
            half = self.win_length // 2
            edges = (half, self.win_length - half)
            parts = torch.nn.functional.pad(parts.movedim(-1, 1), edges, mode="reflect").movedim(1, -1)
        pieces = parts.flatten(1).unfold(-1, 2 * self.win_length, 2 * self.hop)[:, :count]
        # Averaged before an odd FFT is shifted, a row would be of other bins.
        whole = self.resize == "area" and self.n_fft % self.size[0] == 0 and (shift or not self.fftshift)
        average = self.n_fft // self.size[0] if whole else 1
        if iq.device.type == "cpu":
            power = _power_on_cpu(pieces, window, self.n_fft, average)
        else:
            framed = torch.view_as_complex((pieces * window).unflatten(-1, (-1, 2)))
            squares = torch.view_as_real(torch.fft.fft(framed, n=self.n_fft)).flatten(-2).square_()
            power = squares.unflatten(-1, (-1, 2 * average)).sum(-1) / average
        return torch.fft.fftshift(power, dim=-1) if self.fftshift and not shift else power

    def _resize(self, power: Tensor, frames: Tensor | None) -> tuple[Tensor, Tensor]:
        """Picture ``[B, F, T]`` of mean power a cell over valid frames only, and valid columns ``[B, T]``.

        ``frames``: the valid ones of each row, the first so many; None where all are.
        """
        rows, columns = self.size
        batch, count, bins = power.shape
        if self.resize == "none":
            real = torch.arange(count, device=power.device) < (count if frames is None else frames[:, None])
            return (power * real[..., None]).transpose(1, 2), real.expand(batch, -1)
        index, share = (part.to(power.device) for part in _area(count, columns))
        valid = torch.ones(batch, columns, dtype=torch.bool, device=power.device)
        if frames is not None:
            share = share * (index < frames[:, None, None])
            weight = share.sum(-1, keepdim=True)
            share, valid = share / weight.clamp(min=1e-9), weight[..., 0] > 1e-6
        along = _weighted(power, index, share).transpose(1, 2)
        if bins != rows:
            along = _weighted(along, *(part.to(power.device) for part in _area(bins, rows)))
        return along, valid

    def _colour(self, db: Tensor) -> Tensor:
        if self.channels == "grey":
            return db[:, None]
        level = (db - self.floor_db) / (self.ceiling_db - self.floor_db)
        table = _colour_table(self.channels).to(db.device)
        return table[(level * 255).round().long()].movedim(-1, 1)


def _power_on_cpu(pieces: Tensor, window: Tensor, n_fft: int, average: int) -> Tensor:
    """Mean power ``[B, N, n_fft / average]`` of every ``average`` bins of frames ``[B, N, 2 win_length]``.

    Some frames at a time, which stay in the cache. numpy's product with a vector takes a third of the time of torch's
    and torch's FFT half of scipy's; the FFT's input is torch's, whose address is always a multiple of 64 bytes.
    """
    batch, count, length = pieces.shape
    step = min(count, max(1, _CACHED_BINS // (batch * n_fft)))
    framed = torch.empty(batch, step, 2 * n_fft)
    framed[..., length:] = 0
    complexes = torch.view_as_complex(framed.unflatten(-1, (-1, 2)))
    filled = framed[..., :length]
    power = np.empty((batch, count, n_fft // average), np.float32)
    weights = np.full(2 * average, 1 / average, np.float32)
    for first in range(0, count, step):
        here = min(step, count - first)
        torch.mul(pieces[:, first : first + here], window, out=filled[:, :here])
        squares = torch.view_as_real(torch.fft.fft(complexes[:, :here])).numpy().reshape(-1, 2 * average)
        np.multiply(squares, squares, out=squares)
        power[:, first : first + here] = (squares @ weights).reshape(batch, here, -1)
    return torch.from_numpy(power)


def _log10_(values: Tensor) -> Tensor:
    """Logarithm in place; on a CPU numpy's takes a fifth of the time of torch's."""
    if values.device.type != "cpu":
        return values.log10_()
    np.log10(values.numpy(), out=values.numpy())
    return values


def _mean_power(iq: Tensor, sizes: Tensor) -> Tensor:
    flat = torch.view_as_real(iq).flatten(1)
    if iq.device.type == "cpu":  # torch's would make an array of products
        return torch.from_numpy(np.vecdot(flat.numpy(), flat.numpy())) / sizes
    return torch.linalg.vecdot(flat, flat) / sizes


@lru_cache
def _window(name: str, length: int, shift: bool) -> Tensor:
    """Window ``[2 length]``, each value twice (for a real and an imaginary part), of unit energy.

    With alternating signs the spectrum of what it is applied to is shifted by half the FFT.
    """
    from scipy.signal import get_window

    window = get_window(name, length, fftbins=True)
    window = window / np.sqrt(np.square(window).sum())
    if shift:
        window[1::2] *= -1
    return torch.from_numpy(np.repeat(window, 2).astype(np.float32))


@lru_cache(maxsize=64)
def _area(source: int, target: int) -> tuple[Tensor, Tensor]:
    """Source cells ``[target, K]`` under each target cell and their shares of it; shares sum to 1."""
    edges = np.linspace(0, source, target + 1)
    first = np.floor(edges[:-1]).astype(np.int64)
    cell = first[:, None] + np.arange(int((np.ceil(edges[1:]) - first).max()))
    overlap = np.minimum(edges[1:, None], cell + 1) - np.maximum(edges[:-1, None], cell)
    share = np.clip(overlap, 0, None)
    share = (share / share.sum(1, keepdims=True)).astype(np.float32)
    return torch.from_numpy(np.minimum(cell, source - 1)), torch.from_numpy(share)


def _weighted(values: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums ``[B, T, X]`` of the rows ``index`` ``[T, K]`` of ``values`` ``[B, S, X]``.

    An embedding bag is exactly that, and reads each row once: eight times faster than the product with a matrix that
    is almost all zeros. ``weights``: ``[T, K]`` or ``[B, T, K]``.
    """
    batch, source, width = values.shape
    offset = torch.arange(batch, device=values.device)[:, None, None] * source
    bags = (index + offset).flatten(0, 1)
    weights = weights.expand(batch, *index.shape).flatten(0, 1)
    rows = values.reshape(-1, width)
    summed = torch.nn.functional.embedding_bag(bags, rows, per_sample_weights=weights, mode="sum")
    return summed.unflatten(0, (batch, -1))


@lru_cache
def _colour_table(name: str) -> Tensor:
    from matplotlib import colormaps

    colours = colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255
    return torch.from_numpy(colours.astype(np.float32))


def _preset(name: str, **changes: Any) -> Recipe:
    """LWM's own choices where the papers are silent; each preset changes some."""
    ours: dict[str, Any] = {
        "sample_rate": None,
        "duration": 16e-3,
        "short": "pad",
        "n_fft": 256,
        "window": "hann",
        "win_length": 256,
        "hop": 256,
        "center": False,
        "fftshift": True,
        "axes": "frequency-time",
        "power_reference": "mean",
        "epsilon": 1e-6,
        "floor_db": -40.0,
        "ceiling_db": 40.0,
        "size": (64, 64),
        "resize": "area",
        "channels": "grey",
    }
    return Recipe(name=name, **(ours | changes))


# One bin a subcarrier and one column a symbol of normal cyclic prefix (TS 36.211 clause 6.12), for captures that begin
# at the end of a symbol's prefix: in 56 symbols the window slips from there to the prefix' beginning.
_OFDM_15KHZ = {"sample_rate": 1.92e6, "duration": 4e-3, "n_fft": 128, "win_length": 128, "hop": 137, "size": (128, 56)}

PRESETS: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _preset("small"),
        _preset("lwm", n_fft=512, win_length=512, hop=256, size=(128, 128)),
        _preset("radio-fm", n_fft=1024, win_length=512, hop=512, size=(224, 224)),
        _preset("ofdm-15khz", short="error", window="boxcar", resize="none", **_OFDM_15KHZ),
        _preset("rf-gpt", window="blackman", n_fft=512, win_length=512, hop=512, size=(512, 512), channels="viridis"),
    )
}


def recipe_named(name: str) -> Recipe:
    """The preset called ``name``; ConfigError lists those that exist."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigError(f"no recipe named {name!r}", f"one of {sorted(PRESETS)}") from None
