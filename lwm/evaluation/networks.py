"""Networks trained by gradient on an episode: a small CNN, ResNet-18 and the fine-tuned encoder, one training loop."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwm.errors import ConfigError
from lwm.evaluation.features import layer_tokens, trainable_copy
from lwm.evaluation.metrics import Codes, macro_f1
from lwm.evaluation.probe import Probe
from lwm.evaluation.task import Budget
from lwm.registry import HEADS, load
from lwm.tasks.base import best_precision

_WARM_UP = 0.1
"""Share of the steps in which the learning rate rises linearly, before it falls as a half cosine."""

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Labelled:
    """Pictures ``[N, C, F, T]`` in dB and their classes int64 ``[N]``, on one device."""

    pictures: Tensor
    codes: Tensor

    def part(self, indices: Codes) -> "Labelled":
        """The samples at ``indices``."""
        chosen = torch.from_numpy(indices).to(self.codes.device)
        return Labelled(self.pictures[chosen], self.codes[chosen])


class Standardised(nn.Module):
    """A network from scratch behind the standardisation that an encoder has inside: dB in, scores out.

    Args:
        network: takes standardised pictures ``[B, C, F, T]``.
        mean: dB, of the data set's training split.
        std: dB, > 0.
    """

    def __init__(self, network: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, mean, std

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[B, classes]`` of dB pictures ``[B, C, F, T]``."""
        return self.network((x - self.mean) / self.std)


class FineTuned(nn.Module):
    """An encoder up to one of its blocks and the linear head on that block's tokens.

    Args:
        encoder: an encoder of the contract, trained along.
        head: takes tokens ``[B, L, D]``.
        layer: block whose tokens the head reads.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, layer: int) -> None:
        super().__init__()
        self.encoder, self.head, self.layer = encoder, head, layer

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[B, classes]`` of dB pictures ``[B, C, F, T]``."""
        return self.head(layer_tokens(self.encoder, x, self.layer)[0])


def small_cnn(in_chans: int, classes: int) -> nn.Module:
    """Four 3x3 convolutions with batch norm and pooling, then mean and linear: about 100,000 weights."""
    widths = (in_chans, 16, 32, 64, 128)
    stages = [
        nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
        for a, b in pairwise(widths)
    ]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


def resnet18(in_chans: int, classes: int) -> nn.Module:
    """timm's ResNet-18 with random weights."""
    import timm

    return timm.create_model("resnet18", pretrained=False, in_chans=in_chans, num_classes=classes)


SCRATCH: dict[str, Callable[[int, int], nn.Module]] = {"cnn": small_cnn, "resnet18": resnet18}
"""Networks trained from scratch: ``(in_chans, classes) -> network``."""


def train_scratch(
    name: str, statistics: tuple[float, float], train: Labelled, validation: Labelled, budget: Budget, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """A network from scratch, in evaluation mode, and what the record says about it."""
    classes = int(train.codes.max()) + 1

    def build(rate: float) -> tuple[nn.Module, Groups]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Standardised(SCRATCH[name](train.pictures.shape[1], classes), *statistics)
        return network, [{"params": list(network.parameters()), "lr": rate}]

    return _best_rate(build, train, validation, budget, seed)


def fine_tune(
    encoder: Any, probe: Probe, head: str, train: Labelled, validation: Labelled, budget: Budget, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """A copy of the encoder trained with a head that starts from the probe (LP-FT, Kumar et al. 2022).

    Blocks above the probe's layer are not used. Learning rates fall by ``layer_decay`` from block to block towards
    the input, as the encoder's ``group_matcher`` names them. The probe itself counts as epoch 0 of early stopping.

    Returns:
        The network in evaluation mode, and what the record says about it.
    """
    fitted = (probe.shift, probe.scale, probe.weight, probe.bias)

    def build(rate: float) -> tuple[nn.Module, Groups]:
        linear = load(HEADS, head)(encoder.num_features, encoder.grid_size, len(probe.bias))
        linear.start_from(*(torch.from_numpy(part).float() for part in fitted))
        network = FineTuned(trainable_copy(encoder), linear, probe.layer)
        return network, _decayed_groups(network, rate, budget.layer_decay)

    network, chosen = _best_rate(build, train, validation, budget, seed)
    return network, {"layer": probe.layer, "strength": probe.strength} | chosen


def _best_rate(
    build: Callable[[float], tuple[nn.Module, Groups]],
    train: Labelled,
    validation: Labelled,
    budget: Budget,
    seed: int,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train once with each learning rate of the budget; the validation part chooses."""
    best: tuple[tuple[float, float], nn.Module, dict[str, Any]] | None = None
    for rate in budget.rates:
        network, groups = build(rate)
        network.to(train.pictures.device).to(memory_format=torch.channels_last)  # convolutions: half the time
        rank, step = train_classifier(network, groups, train, validation, budget, seed)
        if best is None or rank > best[0]:
            best = (rank, network, {"rate": rate, "step": step})
    if best is None:
        raise ConfigError("no learning rate to train with", "at least one")
    return best[1:]


def train_classifier(
    network: nn.Module,
    groups: Groups,
    train: Labelled,
    validation: Labelled,
    budget: Budget,
    seed: int,
) -> tuple[tuple[float, float], int]:
    """Cross-entropy with AdamW; the state of the best epoch on the validation part is kept.

    Args:
        network: dB pictures to scores; its best state is left in it, in evaluation mode.
        groups: optimizer groups with their peak learning rates.
        train: what to learn from.
        validation: what stops training.
        budget: samples, batch size, weight decay, patience.
        seed: seed of the batches' order.

    Returns:
        Validation macro-F1 and minus the validation loss of the kept state, and the step it is from (0: the start).
    """
    count = len(train.codes)
    batch = min(budget.batch_size, count)
    steps = max(1, budget.samples // batch)
    optimizer = torch.optim.AdamW(groups, weight_decay=budget.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_then_cosine(steps))
    order = _batches(count, batch, steps, seed)
    epoch = -(-count // batch)
    best, kept, at, waited = _validate(network, validation), copy.deepcopy(network.state_dict()), 0, 0
    network.train()
    for step in range(steps):
        chosen = order[step].to(train.codes.device)
        with _mixed(chosen.device):
            scores = network(train.pictures[chosen])
        loss = nn.functional.cross_entropy(scores.float(), train.codes[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % epoch == 0 or step + 1 == steps:
            rank = _validate(network, validation)
            network.train()
            waited = 0 if rank > best else waited + 1
            if rank > best:
                best, kept, at = rank, copy.deepcopy(network.state_dict()), step + 1
            elif waited >= budget.patience:
                break
    network.load_state_dict(kept)
    network.eval()
    return best, at


@torch.inference_mode()
def class_scores(network: nn.Module, pictures: Tensor, batch_size: int = 64) -> Tensor:
    """Scores ``[N, classes]`` of dB pictures in evaluation mode."""
    network.eval()
    with _mixed(pictures.device):
        return torch.cat([network(batch).float() for batch in pictures.split(batch_size)])


def _mixed(device: torch.device) -> torch.autocast:
    """bfloat16 products where the processor has them: half the time of a convolution; weights stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=best_precision() == "bf16-mixed")


def _validate(network: nn.Module, part: Labelled) -> tuple[float, float]:
    scores = class_scores(network, part.pictures)
    truth = part.codes.cpu().numpy()
    f1 = macro_f1(truth, scores.argmax(1).cpu().numpy(), scores.shape[1])
    return f1, -float(nn.functional.cross_entropy(scores, part.codes))


def _batches(count: int, batch: int, steps: int, seed: int) -> Tensor:
    """Indices ``[steps, batch]``: one random order of all samples after another, cut into full batches."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(count, generator=generator) for _ in range(-(-steps * batch // count))]
    return torch.cat(orders)[: steps * batch].reshape(steps, batch)


def _warm_then_cosine(steps: int) -> Callable[[int], float]:
    warm = max(1, round(_WARM_UP * steps))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))

    return factor


def _decayed_groups(network: FineTuned, rate: float, decay: float) -> Groups:
    """Parameters by layer with their peak learning rates; parts above the head's layer are left out."""
    from timm.models import group_parameters

    encoder: Any = network.encoder
    names = group_parameters(encoder, encoder.group_matcher())
    depth = network.layer + 1
    weights = dict(encoder.named_parameters())
    groups: Groups = [{"params": list(network.head.parameters()), "lr": rate}]
    for number in range(depth + 1):  # 0 is the stem, n + 1 block n
        groups.append({"params": [weights[name] for name in names[number]], "lr": rate * decay ** (depth - number)})
    return groups
