"""Models as plain graphs of tensors: what ONNX and ``torch.export`` are given to trace."""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from lwm.errors import CaptureError, ModelError
from lwm.models.dispatch import gates
from lwm.models.encoder import SpectrogramEncoder
from lwm.models.moe import MoEEncoder
from lwm.models.timm_encoder import TimmEncoder
from lwm.signal.recipe import Recipe

_LARGEST_MATRIX = 2**24
"""Numbers in the matrix of a Fourier transform: 64 MiB, an FFT of 2048 with a window as long."""


class EncoderGraph(nn.Module):
    """Tokens and pooled features of an encoder.

    Args:
        encoder: behind the encoder's contract.
    """

    outputs = ("tokens", "features")

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, spectrogram: Tensor) -> tuple[Tensor, ...]:
        """dB pictures ``[B, C, F, T]`` to tokens ``[B, P + L, D]`` and features ``[B, K]``."""
        tokens = self.encoder.forward_features(spectrogram)
        return tokens, self.encoder.forward_head(tokens)


class MixtureGraph(nn.Module):
    """A mixture without sorting the batch: every expert runs on every picture, and the router's choice is taken.

    The result is that of the mixture in its own mode; the cost is that of all experts, for a graph cannot leave out
    what its data decide.

    Args:
        mixture: with all its experts loaded.
    """

    def __init__(self, mixture: MoEEncoder) -> None:
        super().__init__()
        self.mixture = mixture
        novelty = () if mixture.detector is None else ("novelty_score",)
        self.outputs = ("tokens", "features", "probabilities", "expert_features", *novelty)

    def forward(self, spectrogram: Tensor) -> tuple[Tensor, ...]:
        """dB pictures ``[B, C, F, T]`` to the mixed tokens ``[B, P + L, D]`` and their features ``[B, K]``, the
        probability of each expert ``[B, E]``, every expert's features ``[B, E, K]`` and, with a detector, the novelty
        score ``[B]``."""
        mixture = self.mixture
        experts: Any = mixture.experts
        probabilities = mixture.route(spectrogram)
        each = [experts[name].forward_features(spectrogram) for name in mixture.expert_names]
        features = torch.stack([mixture.forward_head(part) for part in each], dim=1)
        tokens = self._mix(each, probabilities)
        novelty = () if mixture.detector is None else (mixture.novelty_score(spectrogram),)
        return tokens, mixture.forward_head(tokens), probabilities, features, *novelty

    def _mix(self, each: list[Tensor], probabilities: Tensor) -> Tensor:
        if self.mixture.mode == "top-1":
            chosen, tokens = probabilities.argmax(1), each[0]
            for number, other in enumerate(each[1:], start=1):
                tokens = torch.where((chosen == number)[:, None, None], other, tokens)
            return tokens
        gate = probabilities if self.mixture.mode == "soft" else gates(probabilities, self.mixture.top_k)
        return (torch.stack(each, dim=1) * gate[:, :, None, None]).sum(1)


class RecipeGraph(nn.Module):
    """A recipe at one sample rate as products of matrices: IQ to dB.

    The Fourier transform is a product with its matrix, the window and the order of the bins in it; every runtime and
    opset has that, and complex numbers do not occur. It costs more operations than an FFT.

    Args:
        recipe: of IQ.
        sample_rate: Hz.

    Raises:
        CaptureError: another sample rate than the recipe's.
        ModelError: a recipe of CSI, or an FFT whose matrix is too large.
    """

    starts: Tensor
    offsets: Tensor
    fourier: Tensor
    rows: Tensor
    columns: Tensor
    table: Tensor

    def __init__(self, recipe: Recipe, sample_rate: float) -> None:
        super().__init__()
        if not isinstance(recipe, Recipe):
            raise ModelError(f"recipe {recipe.name!r} of CSI", "a recipe of IQ", "export without a sample rate")
        if recipe.sample_rate not in (None, sample_rate):
            raise CaptureError(f"a sample rate of {sample_rate:g} Hz", f"the recipe's {recipe.sample_rate:g} Hz")
        if 4 * recipe.win_length * recipe.n_fft > _LARGEST_MATRIX:
            raise ModelError(
                f"recipe {recipe.name!r} with a window of {recipe.win_length} and an FFT of {recipe.n_fft}",
                f"a matrix of at most {_LARGEST_MATRIX} numbers",
                "export without a sample rate: the recipe stays outside of the graph",
            )
        self.recipe = recipe
        self.samples = recipe.window_samples(sample_rate)
        span = self.samples if recipe.center else self.samples - recipe.win_length
        count = span // recipe.hop + 1
        if count < 1:
            raise CaptureError(f"{self.samples} samples at {sample_rate:g} Hz", f"a window of {recipe.win_length}")
        first = -(recipe.win_length // 2) if recipe.center else 0
        self.register_buffer("starts", torch.arange(count)[:, None] * recipe.hop + first)
        self.register_buffer("offsets", torch.arange(recipe.win_length)[None])
        self.register_buffer("fourier", _fourier(recipe))
        self.register_buffer("rows", _areas(recipe.n_fft, recipe.size[0]))
        self.register_buffer("columns", _areas(count, recipe.size[1]))
        self.register_buffer("table", _colours(recipe))

    def forward(self, iq: Tensor) -> Tensor:
        """IQ float32 ``[B, S, 2]``, real and imaginary part, to dB pictures ``[B, C, F, T]``."""
        recipe, places = self.recipe, self.starts + self.offsets
        if recipe.center:  # reflected at both ends
            places = places.abs()
            places = torch.where(places < self.samples, places, 2 * (self.samples - 1) - places)
        frames = iq[:, places.flatten()].reshape(iq.shape[0], places.shape[0], 2 * places.shape[1])
        power = (frames @ self.fourier).square().unflatten(-1, (-1, 2)).sum(-1)
        picture = power.transpose(1, 2)
        if recipe.resize == "area":
            picture = (power @ self.rows).transpose(1, 2) @ self.columns
        if recipe.power_reference == "mean":
            mean = iq.square().sum(2).mean(1)
            picture = picture / (mean + 1e-30)[:, None, None]
        db = 10 * (picture + recipe.epsilon).log10()
        db = db.clamp(recipe.floor_db, recipe.ceiling_db)
        if recipe.axes == "time-frequency":
            db = db.transpose(1, 2)
        if recipe.channels == "grey":
            return db[:, None]
        level = (db - recipe.floor_db) / (recipe.ceiling_db - recipe.floor_db)
        return self.table[(level * 255).round().long()].movedim(-1, 1)


class IQGraph(nn.Module):
    """A recipe and a model in one graph.

    Args:
        recipe: the model's at one sample rate.
        graph: takes its pictures.
    """

    def __init__(self, recipe: RecipeGraph, graph: nn.Module) -> None:
        super().__init__()
        self.recipe, self.network = recipe, graph  # torch.fx has its own `graph`
        self.outputs = ("spectrogram", *cast(tuple[str, ...], graph.outputs))

    def forward(self, iq: Tensor) -> tuple[Tensor, ...]:
        """IQ float32 ``[B, S, 2]`` to dB pictures and what the model makes of them."""
        spectrogram = self.recipe(iq)
        return (spectrogram, *self.network(spectrogram))


def graph_of(model: Any) -> nn.Module:
    """The graph of an expert, a timm encoder or a mixture, in evaluation mode; ModelError for any other model."""
    if isinstance(model, MoEEncoder):
        return MixtureGraph(model).eval()
    if isinstance(model, SpectrogramEncoder | TimmEncoder):
        return EncoderGraph(model).eval()
    raise ModelError(
        f"a model of type {getattr(model, 'model_type', type(model).__name__)!r}",
        "an expert or a mixture",
        "export the encoder that it stands on",
    )


def _fourier(recipe: Recipe) -> Tensor:
    """``[2 window, 2 n_fft]`` from interleaved samples to interleaved bins in the recipe's order."""
    from scipy.signal import get_window

    window = torch.from_numpy(get_window(recipe.window, recipe.win_length, fftbins=True)).double()
    window = window / window.square().sum().sqrt()
    bins = torch.arange(recipe.n_fft)
    if recipe.fftshift:
        bins = torch.fft.fftshift(bins)
    turns = torch.arange(recipe.win_length)[:, None] * bins % recipe.n_fft  # whole turns leave: exact angles
    angle = 2 * math.pi / recipe.n_fft * turns.double()
    cosine, sine = window[:, None] * angle.cos(), window[:, None] * angle.sin()
    real, imaginary = torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)
    return torch.stack([real, imaginary], 1).reshape(2 * recipe.win_length, 2 * recipe.n_fft).float()


def _areas(source: int, target: int) -> Tensor:
    """``[source, target]``: share of each source cell in each target cell; columns sum to 1."""
    edges = torch.linspace(0, source, target + 1, dtype=torch.float64)
    cell = torch.arange(source, dtype=torch.float64)[:, None]
    overlap = torch.minimum(edges[1:], cell + 1) - torch.maximum(edges[:-1], cell)
    return (overlap.clamp(min=0) * target / source).float()


def _colours(recipe: Recipe) -> Tensor:
    """Colour map ``[256, 3]`` in 0..255; empty for grey."""
    if recipe.channels == "grey":
        return torch.empty(0, 3)
    from matplotlib import colormaps

    return torch.tensor(colormaps[recipe.channels](range(256))[:, :3] * 255).float()
