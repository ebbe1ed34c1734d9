"""Networks trained by gradient on an episode: from scratch, tuned encoders and heads alone, with one training loop."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lwm.errors import ConfigError
from lwm.evaluation.metrics import Codes
from lwm.evaluation.regimes.objective import Classification, Objective
from lwm.evaluation.regimes.scratch import SCRATCH, Standardised
from lwm.evaluation.regimes.tuned import Groups, HeadOnly, new_head, tuned_network
from lwm.evaluation.steps import batches, mixed, warm_then_cosine
from lwm.evaluation.task import Budget
from lwm.models.head import Head

_LEAST_STEPS = 4
"""Steps between two looks at the validation part where an epoch of few samples has fewer: batch norms need some."""

Chosen = dict[str, Any]
"""What a record says about the choices of the validation part; JSON-able."""


@dataclass(frozen=True)
class Labelled:
    """Pictures ``[N, C, F, T]`` in dB (or what stands in for them) and what is to be learnt of each: classes int64
    ``[N]`` or values float32 ``[N]``; on one device."""

    pictures: Tensor
    codes: Tensor

    def part(self, indices: Codes) -> "Labelled":
        """The samples at ``indices``."""
        chosen = torch.from_numpy(indices).to(self.codes.device)
        return Labelled(self.pictures[chosen], self.codes[chosen])


def train_scratch(
    name: str,
    statistics: tuple[float, float],
    train: Labelled,
    validation: Labelled,
    budget: Budget,
    seed: int,
    objective: Objective,
) -> tuple[nn.Module, Chosen]:
    """A network from scratch, in evaluation mode, and what the record says about it."""

    def build(rate: float) -> tuple[nn.Module, Groups]:
        network = Standardised(SCRATCH[name](train.pictures.shape[1], objective.outputs), *statistics)
        return network, [{"params": list(network.parameters()), "lr": rate}]

    return _best_rate(build, train, validation, budget, seed, objective)


def fine_tune(
    encoder: Any,
    probe: Any,
    head: str,
    train: Labelled,
    validation: Labelled,
    budget: Budget,
    seed: int,
    regime: str = "finetuned",
    objective: Objective | None = None,
) -> tuple[nn.Module, Chosen]:
    """A copy of the encoder trained with a head on the tokens of the probe's layer.

    A linear head starts from the probe, which then counts as epoch 0 of early stopping. Blocks above the probe's layer
    are not used.

    Args:
        encoder: stays as it is.
        probe: what was fitted to its frozen features, a classifier's or a quantity's.
        head: name of the head.
        train: what to learn from.
        validation: what chooses the learning rate and stops training.
        budget: how much training.
        seed: of the head's weights and the batches' order.
        regime: lora, partial, finetuned, or scratch (of an encoder with random weights, without a start).
        objective: what is learnt; the probe's classes by default.

    Returns:
        The network in evaluation mode, and what the record says about it.
    """
    objective = objective or Classification([str(code) for code in range(len(probe.bias))])
    start = probe if regime != "scratch" else None

    def build(rate: float) -> tuple[nn.Module, Groups]:
        fresh = new_head(head, objective.kind, encoder, objective.names)
        return tuned_network(encoder, fresh, start, probe.layer, regime, budget, train.pictures, rate)

    network, chosen = _best_rate(build, train, validation, budget, seed, objective)
    return network, probe.chosen | chosen


def train_head(
    build_head: Callable[[], Head],
    train: Labelled,
    validation: Labelled,
    budget: Budget,
    seed: int,
    objective: Objective,
) -> tuple[nn.Module, Chosen]:
    """A head trained on inputs computed once: its tokens ``[N, L, D]``, or its pooled features ``[N, P]``."""

    def build(rate: float) -> tuple[nn.Module, Groups]:
        head: Any = build_head()
        if head.reads == "pooled":
            known = train.pictures.cpu()
            head.fit_features(known if known.ndim == 2 else head.pool(known))
        return HeadOnly(head), [{"params": list(head.parameters()), "lr": rate}]

    return _best_rate(build, train, validation, budget, seed, objective)


def _best_rate(
    build: Callable[[float], tuple[nn.Module, Groups]],
    train: Labelled,
    validation: Labelled,
    budget: Budget,
    seed: int,
    objective: Objective,
) -> tuple[nn.Module, Chosen]:
    """Train once with each learning rate of the budget, from the same weights; the validation part chooses."""
    best: tuple[tuple[float, float], nn.Module, Chosen] | None = None
    for rate in budget.rates:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network, groups = build(rate)
            network.to(train.pictures.device).to(memory_format=torch.channels_last)  # convolutions: half the time
            rank, step = train_network(network, groups, train, validation, budget, seed, objective)
        if best is None or rank > best[0]:
            best = (rank, network, {"rate": rate, "step": step})
    if best is None:
        raise ConfigError("no learning rate to train with", "at least one")
    return best[1:]


def train_network(
    network: nn.Module,
    groups: Groups,
    train: Labelled,
    validation: Labelled,
    budget: Budget,
    seed: int,
    objective: Objective,
) -> tuple[tuple[float, float], int]:
    """The objective's loss with AdamW; the state of the best epoch on the validation part is kept.

    Args:
        network: pictures to outputs; its best state is left in it, in evaluation mode.
        groups: optimizer groups with their peak learning rates.
        train: what to learn from.
        validation: what stops training.
        budget: samples, batch size, weight decay, patience.
        seed: seed of the batches' order.
        objective: what is learnt.

    Returns:
        The objective's rank of the kept state on the validation part, and the step it is from (0: the start).
    """
    count = len(train.codes)
    batch = min(budget.batch_size, count)
    steps = budget.steps(count)
    optimizer = torch.optim.AdamW(groups, weight_decay=budget.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_then_cosine(steps))
    order = batches(count, batch, steps, seed)
    epoch = max(-(-count // batch), _LEAST_STEPS)
    best, kept, at, waited = _validate(network, validation, objective), copy.deepcopy(network.state_dict()), 0, 0
    network.train()
    for step in range(steps):
        chosen = order[step].to(train.codes.device)
        with mixed(chosen.device):
            output = network(train.pictures[chosen])
        loss = objective.loss(output, train.codes[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % epoch == 0 or step + 1 == steps:
            rank = _validate(network, validation, objective)
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
def network_outputs(network: nn.Module, pictures: Tensor, batch_size: int = 64) -> Tensor:
    """Outputs float32 ``[N, outputs]`` of pictures in evaluation mode."""
    network.eval()
    with mixed(pictures.device):
        return torch.cat([network(batch).float() for batch in pictures.split(batch_size)])


def _validate(network: nn.Module, part: Labelled, objective: Objective) -> tuple[float, float]:
    return objective.rank(network_outputs(network, part.pictures), part.codes)
