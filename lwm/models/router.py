"""The router: a network a few per cent of an expert's size that says which expert a spectrogram belongs to."""

import math
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from lwm.errors import ModelError
from lwm.models.encoder import EncoderConfig, SpectrogramEncoder, init_linear
from lwm.models.pooling import pool
from lwm.signal.recipe import Recipe

RouterKind = Literal["transformer", "cnn"]

TEMPERATURES = (0.05, 20.0)
"""Range in which a temperature is looked for."""

_CNN_LEAST = 8
"""Fewest channels of a convolution."""


@dataclass(frozen=True)
class RouterConfig:
    """Shape of a router.

    Args:
        names: the experts, in the order of the outputs.
        kind: ``transformer`` as in LWM-Spectro, or ``cnn``, strided convolutions.
        grid: patches along each side of the picture; of a CNN, the side of its last map. Coarse by default: patches
            are pooled into 8 x 8 by the one linear layer that embeds them, before any attention, which keeps the
            router's cost at a few per cent of an expert's. LWM-Spectro's router works on the experts' own grid.
        width: token width; of a CNN, channels of its last map.
        depth: number of Transformer blocks; two in LWM-Spectro. A CNN has as many layers as it takes to get from the
            picture to the grid by halving.
        heads: attention heads a block of the Transformer.
        temperature: what logits are divided by before the softmax; 1 until it is fitted.
    """

    names: tuple[str, ...]
    kind: RouterKind = "transformer"
    grid: int = 8
    width: int = 64
    depth: int = 2
    heads: int = 4
    temperature: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if len(self.names) < 2 or len(set(self.names)) != len(self.names) or not all(self.names):
            raise ModelError(f"a router between experts named {list(self.names)}", "two or more different names")
        if self.kind not in get_args(RouterKind):
            raise ModelError(f"a router of kind {self.kind!r}", f"one of {list(get_args(RouterKind))}")
        if not (self.grid >= 1 and 0 < self.temperature < float("inf")):
            raise ModelError(
                f"a router with grid {self.grid} and temperature {self.temperature}", "a grid >= 1, a temperature > 0"
            )


class Router(nn.Module):
    """A small trunk, mean pooling, one logit an expert (arXiv 2601.08780, gating network).

    The temperature that makes its probabilities calibrated is a buffer: it travels with the weights.

    Args:
        config: shape and expert names.
        recipe: what the pictures are made with.
        mean: mean of the training data in dB.
        std: standard deviation of the training data in dB.

    Raises:
        ModelError: the recipe's picture cannot be cut into the config's grid.
    """

    temperature: Tensor

    def __init__(self, config: RouterConfig, recipe: Recipe, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        if recipe.size[0] != recipe.size[1] or recipe.size[0] % config.grid:
            raise ModelError(
                f"recipe {recipe.name!r} with pictures of {recipe.size}", f"a square that {config.grid} divides"
            )
        self.config = config
        self.trunk: SpectrogramEncoder | ConvTrunk
        if config.kind == "cnn":
            self.trunk = ConvTrunk(config.grid, config.width, recipe, mean, std)
        else:
            patch = recipe.size[0] // config.grid
            shape = EncoderConfig(patch=patch, width=config.width, depth=config.depth, heads=config.heads)
            self.trunk = SpectrogramEncoder(shape, recipe, mean, std)
        self.head = nn.Linear(config.width, len(config.names))
        self.register_buffer("temperature", torch.tensor(float(config.temperature)))

    @property
    def names(self) -> tuple[str, ...]:
        """Experts in the order of the outputs."""
        return self.config.names

    def features(self, x: Tensor) -> Tensor:
        """Pooled features ``[B, width]`` of dB pictures ``[B, C, F, T]``, which ``head`` turns into logits."""
        return pool(self.trunk.forward_features(x), self.trunk.grid_size, "mean")

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, E]`` of dB pictures ``[B, C, F, T]``, before the temperature."""
        return self.head(self.features(x))

    def probabilities(self, x: Tensor) -> Tensor:
        """Calibrated probability of each expert, float32 ``[B, E]``."""
        return self.calibrated(self(x))

    def calibrated(self, logits: Tensor) -> Tensor:
        """Softmax of logits ``[B, E]`` over the temperature, float32."""
        return torch.softmax(logits.float() / self.temperature.float(), dim=-1)

    @torch.no_grad()
    def calibrate(self, logits: Tensor, truth: Tensor, weight: Tensor | None = None) -> float:
        """Fit the temperature to held-out logits ``[N, E]`` and the right experts int64 ``[N]``, and keep it.

        Args:
            logits: before any temperature.
            truth: the right experts.
            weight: of each sample ``[N]``; None: all count alike.

        Returns:
            The temperature; see :func:`fit_temperature`.
        """
        fitted = fit_temperature(logits, truth, weight)
        self.temperature.fill_(fitted)
        return fitted

    def with_expert(self, name: str) -> "Router":
        """A router with one more output, the last, at weight and bias 0; everything else is copied bit for bit.

        Raises:
            ModelError: there is an expert of that name, or the name is empty.
        """
        wider = Router(replace(self.config, names=(*self.names, name)), self.trunk.recipe)
        weights = {key: value.detach().clone() for key, value in self.state_dict().items()}
        for key in ("head.weight", "head.bias"):
            weights[key] = torch.cat([weights[key], torch.zeros_like(weights[key][:1])])
        wider.load_state_dict(weights)
        return wider.to(self.temperature.device).train(self.training)

    def get_config(self) -> dict[str, Any]:
        """JSON-able dict for :meth:`from_config`, with the temperature as it is now."""
        return asdict(self.config) | {"names": list(self.names), "temperature": float(self.temperature)}

    @classmethod
    def from_config(cls, config: dict[str, Any], recipe: Recipe) -> Self:
        """A router of that shape and temperature with fresh weights."""
        return cls(RouterConfig(**config), recipe)


class ConvTrunk(nn.Module):
    """Strided convolutions, each with group norm and GELU, behind the part of the encoder's contract a router needs.

    Args:
        grid: side of the last map; the picture's side is this times a power of two.
        width: channels of the last map; each layer before it has half as many.
        recipe: what the pictures are made with.
        mean: mean of the training data in dB.
        std: standard deviation of the training data in dB.

    Raises:
        ModelError: no number of halvings gets from the picture to the grid.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, grid: int, width: int, recipe: Recipe, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        halvings = (recipe.size[0] // grid).bit_length() - 1
        if halvings < 1 or grid << halvings != recipe.size[0]:
            raise ModelError(
                f"a convolutional router with grid {grid} on pictures of {recipe.size}",
                "a side that is 2, 4, 8, ... times the grid",
            )
        self.recipe = recipe
        self.grid_size = (grid, grid)
        self.num_features = width
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("std", torch.tensor(float(std)))
        channels = [recipe.in_chans, *(max(_CNN_LEAST, width >> left) for left in range(halvings - 1, 0, -1)), width]
        layers: list[nn.Module] = []
        for given, made in pairwise(channels):
            layers += [nn.Conv2d(given, made, 3, stride=2, padding=1), nn.GroupNorm(1, made), nn.GELU()]
        self.layers = nn.Sequential(*layers)
        self.apply(init_linear)

    def forward_features(self, x: Tensor) -> Tensor:
        """Cells of the last map as tokens ``[B, L, D]``, of dB pictures ``[B, C, F, T]``."""
        dtype = next(self.parameters()).dtype
        return self.layers(((x - self.mean) / self.std).to(dtype)).flatten(2).transpose(1, 2)


def fit_temperature(logits: Tensor, truth: Tensor, weight: Tensor | None = None) -> float:
    """Temperature that minimises the cross entropy of held-out logits (Guo et al. 2017).

    The truth counts as (N + 1) / (N + E) and each other expert as 1 / (N + E), Platt's (1999) correction for having
    seen N samples only: where every sample is right the plain cross entropy falls for ever as the temperature does,
    and would promise certainty that N samples do not show. With weights N is (sum w)^2 / sum w^2, Kish's effective
    sample size.

    Args:
        logits: ``[N, E]``, N >= 1.
        truth: int64 ``[N]``.
        weight: of each sample ``[N]``, not negative; None: all count alike.

    Returns:
        A number in :data:`TEMPERATURES`.
    """
    from scipy.optimize import minimize_scalar

    experts = logits.shape[1]
    shares = torch.ones(len(logits)) if weight is None else weight.cpu()
    shares = shares.double() / shares.double().sum()
    count = 1 / shares.square().sum()
    given = logits.double().cpu()
    target = (functional.one_hot(truth.cpu(), experts).double() * count + 1) / (count + experts)

    def cross_entropy(log_temperature: float) -> float:
        scaled = torch.log_softmax(given * math.exp(-log_temperature), 1)
        return float(-(shares * (target * scaled).sum(1)).sum())

    bounds = (math.log(TEMPERATURES[0]), math.log(TEMPERATURES[1]))
    found = minimize_scalar(cross_entropy, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return math.exp(found.x)
