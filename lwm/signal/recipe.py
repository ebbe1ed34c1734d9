"""The recipe: the one way in which IQ becomes a model input.

A recipe fixes every choice between samples and picture. It is stored in every shard and every exported model, and two
recipes are the same only when all their fields are (the preset's name aside). Shards hold dB before normalisation;
mean and standard deviation belong to the model.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lwm.errors import CaptureError, ConfigError, RecipeMismatch
from lwm.signal.capture import Capture
from lwm.signal.resample import resample


class Spectrogram(NamedTuple):
    """Pictures and which of their columns are real.

    ``db``: float32 ``[B, C, F, T]``, dB, rows from low to high frequency, columns in time.
    ``valid``: bool ``[B, T]``, False where a short capture was padded.
    """

    db: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Recipe:
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
    def identity(self) -> dict[str, Any]:
        """Every field that changes the picture, JSON-able."""
        plain = asdict(self) | {"size": list(self.size)}
        plain.pop("name")
        return plain

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able dict; :meth:`from_dict` reads it back."""
        return {"name": self.name} | self.identity

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Recipe":
        """Recipe from :meth:`to_dict`; missing and unknown fields are errors."""
        known = {f.name for f in fields(cls)}
        if set(plain) != known:
            wrong = sorted(set(plain) ^ known)
            raise ConfigError(f"recipe with missing or unknown fields {wrong}", f"exactly {sorted(known)}")
        return cls(**plain)

    def require_same(self, other: "Recipe", here: str = "the model", there: str = "the data") -> None:
        """Raise RecipeMismatch naming both recipes and their first differences."""
        mine, theirs = self.identity, other.identity
        differ = [key for key in mine if mine[key] != theirs[key]]
        if differ:
            said = ", ".join(f"{key} {mine[key]!r} against {theirs[key]!r}" for key in differ[:4])
            raise RecipeMismatch(
                f"{here} has recipe {self.name!r} and {there} recipe {other.name!r} ({said})",
                "one recipe",
                "make the data again with the model's recipe",
            )

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
        batch, given = iq.shape
        sizes = torch.full((batch,), given) if lengths is None else torch.as_tensor(lengths)
        sizes = sizes.clamp(max=wanted).to(iq.device)
        self._check(sample_rate, int(sizes.min()), wanted)
        iq = torch.nn.functional.pad(iq[:, :wanted], (0, max(0, wanted - given)))
        inside = torch.arange(wanted, device=iq.device) < sizes[:, None]
        iq = torch.where(inside, iq, 0)
        power, frames = self._power(iq, sizes)
        picture, valid = self._resize(power, frames)
        if self.power_reference == "mean":
            picture = picture / (_mean_power(iq, sizes) + 1e-30)[:, None, None]
        db = (10 * torch.log10(picture + self.epsilon)).clamp(self.floor_db, self.ceiling_db)
        db = torch.where(valid[:, None, :], db, self.floor_db)
        if self.axes == "time-frequency":
            db = db.transpose(1, 2)
        return Spectrogram(self._colour(db), valid)

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

    def _power(self, iq: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """STFT power ``[B, frames, n_fft]`` (1 = unit-power white noise) and the valid frames of each row."""
        window = _window(self.window, self.win_length).to(iq.device)
        samples = iq.shape[-1]
        if self.center:
            half = self.win_length // 2
            edge = torch.view_as_real(iq).movedim(-1, 1)
            edge = torch.nn.functional.pad(edge, (half, self.win_length - half), mode="reflect")
            iq = torch.complex(edge[:, 0], edge[:, 1])
            frames = sizes // self.hop + 1
        else:
            frames = (sizes - self.win_length) // self.hop + 1
        pieces = iq.unfold(-1, self.win_length, self.hop) * window
        spectrum = torch.view_as_real(torch.fft.fft(pieces, n=self.n_fft))
        power = spectrum.square().sum(-1) / window.square().sum()
        if self.fftshift:
            power = torch.fft.fftshift(power, dim=-1)
        count = self._frame_count(samples)
        return power[:, :count], frames.clamp(max=count)

    def _resize(self, power: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Picture ``[B, F, T]`` of mean power a cell over valid frames only, and valid columns ``[B, T]``."""
        rows, columns = self.size
        count = power.shape[1]
        real = (torch.arange(count, device=power.device) < frames[:, None]).to(power.dtype)
        if self.resize == "none":
            return (power * real[..., None]).transpose(1, 2), real.bool()
        across = _area(power.shape[2], rows).to(power.device)
        along = _area(count, columns).to(power.device)
        weight = real @ along.T
        mean = along @ ((power @ across.T) * real[..., None])
        return (mean / weight.clamp(min=1e-9)[..., None]).transpose(1, 2), weight > 1e-6

    def _colour(self, db: Tensor) -> Tensor:
        if self.channels == "grey":
            return db[:, None]
        level = (db - self.floor_db) / (self.ceiling_db - self.floor_db)
        table = _colour_table(self.channels).to(db.device)
        return table[(level * 255).round().long()].movedim(-1, 1)


def _mean_power(iq: Tensor, sizes: Tensor) -> Tensor:
    return torch.view_as_real(iq).square().sum((-1, -2)) / sizes


@lru_cache
def _window(name: str, length: int) -> Tensor:
    from scipy.signal import get_window

    return torch.from_numpy(get_window(name, length, fftbins=True).astype(np.float32))


@lru_cache(maxsize=64)
def _area(source: int, target: int) -> Tensor:
    """Matrix ``[target, source]`` that averages over each target cell's share of the source; rows sum to 1."""
    edges = np.linspace(0, source, target + 1)
    cell = np.arange(source)
    overlap = np.minimum(edges[1:, None], cell + 1) - np.maximum(edges[:-1, None], cell)
    weight = np.clip(overlap, 0, None)
    return torch.from_numpy((weight / weight.sum(1, keepdims=True)).astype(np.float32))


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


PRESETS: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _preset("small"),
        _preset("lwm", n_fft=512, win_length=512, hop=256, size=(128, 128)),
        _preset("radio-fm", n_fft=1024, win_length=512, hop=512, size=(224, 224)),
        _preset("rf-gpt", window="blackman", n_fft=512, win_length=512, hop=512, size=(512, 512), channels="viridis"),
    )
}


def recipe_named(name: str) -> Recipe:
    """The preset called ``name``; ConfigError lists those that exist."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigError(f"no recipe named {name!r}", f"one of {sorted(PRESETS)}") from None
