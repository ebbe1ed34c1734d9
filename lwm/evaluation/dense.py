"""One trainer for a head on an encoder: frozen, last blocks, all blocks or from scratch, each with the same budget.

Made for heads whose target is one tensor a picture (masks, classes, labels, quantities). Every regime sees the same
pictures in the same order for the same number of steps; only which weights move differs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lwm.errors import ConfigError
from lwm.evaluation.features import random_twin, require_encoder, trainable_copy
from lwm.evaluation.steps import batches, mixed, warm_then_cosine
from lwm.hub import from_pretrained
from lwm.models.encoder import build_encoder
from lwm.models.head import Head, TokenShape
from lwm.models.headed import HeadedModel
from lwm.registry import HEADS, load

Regime = Literal["frozen", "partial", "finetuned", "scratch", "random"]
"""What is trained beside the head: nothing; the last blocks; all blocks; all blocks from random weights; nothing, the
encoder's weights being random."""

REGIMES: tuple[Regime, ...] = get_args(Regime)

PRETRAINED: tuple[Regime, ...] = ("frozen", "partial", "finetuned")
"""Regimes that start from pretrained weights."""

_SCORED = 32
"""Pictures predicted together."""


@dataclass(frozen=True)
class Training:
    """Budget of every regime.

    Args:
        steps: optimizer steps.
        batch_size: pictures a step.
        rates: peak learning rates of head and random weights that are tried; the validation part chooses.
        encoder_share: peak rate of a pretrained encoder's last block as a share of the head's.
        layer_decay: factor on that from each block to the one before it.
        weight_decay: AdamW's.
        blocks: last blocks that ``partial`` trains, with the norm behind them.
    """

    steps: int = 300
    batch_size: int = 16
    rates: tuple[float, ...] = (1e-3,)
    encoder_share: float = 0.3
    layer_decay: float = 0.75
    weight_decay: float = 0.05
    blocks: int = 2

    def __post_init__(self) -> None:
        numbers = (self.steps, self.batch_size, self.encoder_share, self.layer_decay, self.blocks, *self.rates)
        if not self.rates or min(numbers) <= 0 or self.weight_decay < 0:
            raise ConfigError(f"training {self}", "positive numbers and at least one rate")


@dataclass(frozen=True)
class Examples:
    """Pictures float ``[N, C, F, T]`` in dB and a target a picture ``[N, ...]``, on one device."""

    pictures: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.pictures)

    def part(self, rows: npt.NDArray[np.int64]) -> "Examples":
        """The examples at ``rows``."""
        chosen = torch.from_numpy(rows).to(self.target.device)
        return Examples(self.pictures[chosen], self.target[chosen])


@dataclass(frozen=True)
class HeadSpec:
    """Which head is built: its ``lwm.heads`` entry, its targets, its options, and what its pictures are."""

    head: str
    targets: tuple[str, ...]
    recipe: Any
    statistics: tuple[float, float]
    options: dict[str, Any]


def chosen_encoder(
    model: str | None, regimes: Sequence[Regime], size: str, recipe: Any, statistics: tuple[float, float], seed: int
) -> tuple[Any, list[Regime]]:
    """The encoder of a model folder with all regimes, or a fresh one with those that need no pretrained weights.

    Args:
        model: model folder, or None.
        regimes: wanted.
        size: named size of a fresh encoder.
        recipe: of the pictures, for a fresh encoder.
        statistics: their mean and standard deviation in dB, likewise.
        seed: of its weights.

    Raises:
        ConfigError: no regime is left.
        ModelError: the folder holds no encoder.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if model is not None:
        return require_encoder(from_pretrained(model), model).to(device), list(regimes)
    left = [regime for regime in regimes if regime not in PRETRAINED]
    if not left:
        raise ConfigError(f"{list(regimes)} without a model", "a pretrained encoder", "give one (--model)")
    return build_encoder(size, recipe, *statistics, seed=seed).to(device), left


def headed_model(encoder: Any, spec: HeadSpec, regime: Regime, blocks: int, seed: int) -> HeadedModel:
    """A copy of the encoder, as the regime wants it, with a fresh head; weights depend on ``seed`` alone.

    Raises:
        ConfigError: no such regime, or ``partial`` of an encoder without blocks.
        RecipeMismatch: pictures of another recipe than the encoder's, where the head does not adapt it.
    """
    if regime not in REGIMES:
        raise ConfigError(f"regime {regime!r}", f"one of {list(REGIMES)}")
    kind: type[Head] = load(HEADS, spec.head)
    # Adapting comes first: random weights are drawn for the pictures that they will see.
    adapted: Any = kind.prepare_encoder(encoder, spec.recipe, spec.statistics)
    base: Any = random_twin(adapted, seed) if regime in ("scratch", "random") else trainable_copy(adapted)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = kind(TokenShape.of(base), spec.targets, **spec.options)
    frozen = regime in ("frozen", "random")
    model = HeadedModel(base, head, frozen=frozen)
    if regime == "partial":
        _freeze_below(base, blocks)
    return model.to(next(encoder.parameters()).device)


def _freeze_below(encoder: Any, blocks: int) -> None:
    """Only the last blocks and what follows them keep asking for gradients."""
    layers = _layers(encoder)
    kept = {name for names in layers[max(1, len(layers) - blocks) :] for name in names}
    for name, weight in encoder.named_parameters():
        weight.requires_grad_(name in kept)


def _layers(encoder: Any) -> list[list[str]]:
    """Names of the encoder's weights by layer: the stem, then each block, the last one with the norm."""
    from timm.models import group_parameters

    groups: dict[int, list[str]] = group_parameters(encoder, encoder.group_matcher())
    ordered = [groups[number] for number in sorted(groups)]
    if len(ordered) < 2:
        raise ConfigError(f"a {type(encoder).__name__} of {len(ordered)} layer(s)", "a stem and blocks")
    return ordered


def train_best(
    build: Callable[[], HeadedModel],
    train: Examples,
    validation: Examples,
    training: Training,
    seed: int,
    pretrained: bool,
) -> tuple[HeadedModel, dict[str, Any]]:
    """A model trained once with each rate of the budget; the loss on the validation part chooses.

    Args:
        build: makes the same untrained model each time.
        train: what to learn from.
        validation: what chooses; not looked at where there is one rate only.
        training: the budget.
        seed: of the batches' order.
        pretrained: whether the encoder's weights get their share of the rate, or all of it.

    Returns:
        The model in evaluation mode, and ``rate``, ``steps``, ``trained`` (number of weights that moved).
    """
    best: tuple[float, HeadedModel, float] | None = None
    for rate in training.rates:
        model = build()
        train_headed(model, train, training, rate, seed, pretrained)
        loss = mean_loss(model, validation) if len(training.rates) > 1 else 0.0
        if best is None or loss < best[0]:
            best = (loss, model, rate)
    if best is None:
        raise ConfigError("no learning rate to train with", "at least one")
    _, model, rate = best
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return model, {"rate": rate, "steps": training.steps, "trained": trained}


def train_headed(
    model: HeadedModel, train: Examples, training: Training, rate: float, seed: int, pretrained: bool
) -> list[float]:
    """AdamW with warm-up and half cosine for ``training.steps``; the loss of every step.

    The tokens of a frozen encoder are computed once, in half precision. The model is left in evaluation mode.
    """
    model.eval()
    tokens = _all_tokens(model, train.pictures) if model.frozen else None
    model.head.fit_targets(train.target)
    _fit_features(model, train, tokens)
    optimizer = torch.optim.AdamW(
        _groups(model, rate, training, pretrained), lr=rate, weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_then_cosine(training.steps))
    model.train()
    losses = []
    for rows in batches(len(train), training.batch_size, training.steps, seed):
        chosen = rows.to(train.target.device)
        with mixed(chosen.device):
            output = model(train.pictures[chosen]) if tokens is None else model.head(tokens[chosen])
        loss = model.head.loss(output, train.target[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses


@torch.inference_mode()
def mean_loss(model: HeadedModel, examples: Examples) -> float:
    """Mean loss over pictures, in evaluation mode."""
    model.eval()
    total = 0.0
    for pictures, target in _pairs(examples):
        with mixed(target.device):
            output = model(pictures)
        total += float(model.head.loss(output, target)) * len(target)
    return total / len(examples)


@torch.inference_mode()
def predicted_classes(model: HeadedModel, examples: Examples) -> Tensor:
    """The likeliest class: int64 ``[N]`` of pictures, ``[N, F, T]`` of cells."""
    model.eval()
    found = []
    for pictures, target in _pairs(examples):
        with mixed(target.device):
            output = model(pictures)
        found.append(model.head.predict(output).argmax(1).cpu())
    return torch.cat(found)


def _pairs(examples: Examples) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(examples.pictures.split(_SCORED), examples.target.split(_SCORED), strict=True)


@torch.no_grad()
def _all_tokens(model: HeadedModel, pictures: Tensor) -> Tensor:
    return torch.cat([_one(model.tokens(part)).half() for part in pictures.split(_SCORED)])


def _one(tokens: Tensor | list[Tensor]) -> Tensor:
    if not isinstance(tokens, Tensor):
        raise ConfigError(f"a head on {len(tokens)} layers", "a head on the encoder's last tokens")
    return tokens


@torch.no_grad()
def _fit_features(model: HeadedModel, train: Examples, tokens: Tensor | None) -> None:
    """Standardise the features of a head on pooled ones by those of the training pictures."""
    head: Any = model.head
    if head.reads != "pooled":
        return
    parts = train.pictures.split(_SCORED) if tokens is None else tokens.split(_SCORED)
    features = [head.pool(_one(model.tokens(part)) if tokens is None else part.float()) for part in parts]
    head.fit_features(torch.cat(features))


def _groups(model: HeadedModel, rate: float, training: Training, pretrained: bool) -> list[dict[str, Any]]:
    """Trained weights with their peak rates: the head's, and the encoder's falling towards the input."""
    groups: list[dict[str, Any]] = [{"params": list(model.head.parameters()), "lr": rate}]
    weights = {name: w for name, w in model.encoder.named_parameters() if w.requires_grad}
    if not weights:
        return groups
    if not pretrained:
        return [*groups, {"params": list(weights.values()), "lr": rate}]
    layers = _layers(model.encoder)
    for number, names in enumerate(layers):
        own = [weights[name] for name in names if name in weights]
        factor = training.encoder_share * training.layer_decay ** (len(layers) - 1 - number)
        groups += [{"params": own, "lr": rate * factor}] if own else []
    return groups
