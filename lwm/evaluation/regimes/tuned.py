"""Encoders of which all, some or a few new weights are trained with a head: which weights, and at which rates."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from lwm.errors import ConfigError, ModelError
from lwm.evaluation.features import in_batches, layer_tokens, trainable_copy
from lwm.evaluation.probe import Probe
from lwm.evaluation.task import Budget
from lwm.models.head import Head, TokenShape
from lwm.models.lean import LeanTokens
from lwm.models.lora import add_lora
from lwm.registry import HEADS, load, names

Groups = list[dict[str, Any]]

LORA_TARGETS = r".*blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2))"
"""Linear layers that LoRA changes: all of a block (QLoRA, Dettmers et al. 2023), under the names of timm's blocks."""


class FineTuned(nn.Module):
    """An encoder up to one of its blocks and a head on that block's tokens.

    Parts of the encoder without a weight to train stay in evaluation mode.

    Args:
        encoder: an encoder of the contract, trained as far as its weights ask for gradients.
        head: takes tokens ``[B, L, D]``.
        layer: block whose tokens the head reads.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, layer: int) -> None:
        super().__init__()
        self.encoder, self.head, self.layer = encoder, head, layer
        self._lean = LeanTokens(encoder, [layer])

    def train(self, mode: bool = True) -> Self:
        """Training mode for what is trained."""
        super().train(mode)
        for module in self.encoder.modules():
            weights = list(module.parameters())
            if weights and not any(weight.requires_grad for weight in weights):
                module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """The head's output ``[B, outputs]`` of dB pictures ``[B, C, F, T]``."""
        encoder: Any = self.encoder
        return self.head(self._lean.tokens(x)[0][:, encoder.num_prefix_tokens :])


class HeadOnly(nn.Module):
    """A head fed with what was computed once: tokens ``[B, L, D]``, or pooled features ``[B, P]`` where it reads those.

    Args:
        head: the head.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """The head's output ``[B, outputs]``."""
        head: Any = self.head
        return _flat(head.forward_pooled(x) if x.ndim == 2 else head(x))


class _FlatHead(nn.Module):
    """A regression head's ``[B, 1, 1]`` as ``[B, 1]``."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, tokens: Tensor) -> Tensor:
        return _flat(self.head(tokens))


def new_head(name: str, kind: str, encoder: Any, targets: Sequence[str]) -> Head:
    """A registered head for one layer of an encoder's tokens.

    Raises:
        ConfigError: no such head, or one of another kind of task.
    """
    found: type[Head] = load(HEADS, name)
    if found.kind != kind:
        fit = [other for other in names(HEADS) if load(HEADS, other).kind == kind]
        raise ConfigError(f"head {name!r}, which is for {found.kind}", f"one for {kind}: {fit}")
    return found(TokenShape.of(encoder), targets)


def tuned_network(
    encoder: nn.Module, head: Head, start: Any, layer: int, regime: str, budget: Budget, first: Tensor, rate: float
) -> tuple[nn.Module, Groups]:
    """A network to be trained, and its optimizer groups.

    A linear head starts from a fitted probe (LP-FT, Kumar et al. 2022). Any other that pools its tokens takes the
    standardisation of its features from the training pictures.

    Args:
        encoder: stays as it is; a copy is trained.
        head: fresh.
        start: the fitted probe, or None.
        layer: block whose tokens the head reads; blocks above it are not used.
        regime: lora, partial, finetuned or scratch.
        budget: rank of LoRA, last blocks of partial, decay of finetuned.
        first: training pictures in dB ``[N, C, F, T]``.
        rate: peak learning rate of the head and of the last block.
    """
    if isinstance(start, Probe) and hasattr(head, "start_from"):
        begin: Any = head.start_from
        begin(*(torch.from_numpy(p).float() for p in (start.shift, start.scale, start.weight, start.bias)))
    else:
        fit_pooled(head, encoder, first, layer)
    twin: Any = trainable_copy(encoder)
    if regime == "lora":
        twin = with_lora(twin, budget.rank)
    network = FineTuned(twin, head if head.kind == "classification" else _FlatHead(head), layer)
    return network, _groups(network, regime, budget, rate)


def fit_pooled(head: Any, encoder: Any, pictures: Tensor, layer: int) -> None:
    """Statistics of a pooling head's features, from an encoder's tokens of some pictures."""
    if getattr(head, "reads", "tokens") != "pooled":
        return
    (features,) = in_batches(lambda x: [head.pool(layer_tokens(encoder, x, layer)[0].cpu())], pictures, encoder)
    head.fit_features(features)


def with_lora(encoder: Any, rank: int) -> Any:
    """The encoder with low-rank additions to its blocks' linear layers, the only weights that ask for gradients.

    Scaled by ``alpha / rank`` with alpha = 2 rank, no dropout; they start at zero, so that the encoder's output is what
    it was.

    Raises:
        ModelError: its blocks' layers have other names.
    """
    try:
        add_lora(encoder, {"rank": rank, "targets": LORA_TARGETS})
    except ConfigError as error:
        raise ModelError(f"LoRA on a {type(encoder).__name__}", f"layers named {LORA_TARGETS}") from error
    return encoder


def _groups(network: FineTuned, regime: str, budget: Budget, rate: float) -> Groups:
    encoder: Any = network.encoder
    head = {"params": list(network.head.parameters()), "lr": rate}
    if regime == "lora":
        return [head, {"params": [w for w in encoder.parameters() if w.requires_grad], "lr": rate}]
    layers = _layers(encoder, network.layer)
    if regime == "partial":
        layers = layers[max(1, len(layers) - budget.last) :]
    decay = budget.layer_decay if regime == "finetuned" else 1.0
    kept = {id(weight) for layer in layers for weight in layer}
    for weight in encoder.parameters():
        weight.requires_grad_(id(weight) in kept)
    depth = len(layers) - 1
    return [head] + [{"params": layer, "lr": rate * decay ** (depth - n)} for n, layer in enumerate(layers)]


def _layers(encoder: Any, layer: int) -> list[list[nn.Parameter]]:
    """Weights of the stem and of each block up to ``layer``, as the encoder's ``group_matcher`` names them."""
    from timm.models import group_parameters

    found = group_parameters(encoder, encoder.group_matcher())
    weights = dict(encoder.named_parameters())
    return [[weights[name] for name in found[number]] for number in range(layer + 2)]  # 0 is the stem


def _flat(output: Tensor) -> Tensor:
    return output.flatten(1)
