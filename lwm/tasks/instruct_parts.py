"""Parts of RF-GPT that learn at rates of their own, and which of their weights a checkpoint holds."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from lwm.models.lora import is_lora
from lwm.tasks.instruct_options import PARTS, Part, Schedule, Stage
from lwm.tasks.schedule import decay_groups


def trained_parts(stages: Iterable[Stage]) -> list[Part]:
    """Parts that some stage trains."""
    listed = list(stages)
    return [part for part in PARTS if any(stage.rate(part) > 0 for stage in listed)]


def part_of(model: Any, part: Part) -> nn.Module:
    """The module of a part."""
    return getattr(model, part)


def let_learn(model: Any, parts: Iterable[Part], lora: bool) -> None:
    """Let exactly these parts have gradients; of a language model with LoRA only the updates.

    Args:
        model: an RF-GPT.
        parts: which.
        lora: whether the language model has LoRA.
    """
    chosen = set(parts)
    model.train_tower("tower" in chosen)
    model.adapter.requires_grad_("adapter" in chosen)
    for name, parameter in model.llm.named_parameters():
        parameter.requires_grad_("llm" in chosen and (is_lora(name) or not lora))


def optimizer_of(model: Any, schedule: Schedule, weight_decay: float, fused: bool) -> dict[str, Any]:
    """AdamW (betas 0.9 and 0.95) over the parts that learn, in Lightning's form.

    Matrices decay; biases and norms do not. Every part's rate follows the schedule; the moments of a part that learns
    in two stages go on over the border, and one that rests has no gradient and is not touched, nor its moments.

    Args:
        model: an RF-GPT; what has ``requires_grad`` is trained.
        schedule: rates by step.
        weight_decay: decay of matrices.
        fused: use torch's fused kernel.
    """
    groups: list[dict[str, Any]] = []
    rates: list[Any] = []
    for part in trained_parts(schedule.stages):
        for group in decay_groups([part_of(model, part)], weight_decay):
            groups.append(group | {"part": part})
            rates.append(lambda step, part=part: schedule.rate(part, step))
    # Rates are absolute: the scheduler multiplies this 1 by them.
    optimizer = AdamW(groups, lr=1.0, betas=(0.9, 0.95), fused=fused)
    # See lwm.tasks.schedule: without this mark Lightning refuses to clip in mixed precision.
    optimizer._step_supports_amp_scaling = False
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": LambdaLR(optimizer, rates), "interval": "step"},
    }


def is_kept(name: str, trained: Iterable[Part], base: bool, lora: bool) -> bool:
    """Whether a checkpoint holds a weight: what comes from a base's folder as it is there is left out.

    Args:
        name: in the task's state dict, for example ``model.llm.lm_head.weight``.
        trained: parts that the run trains.
        base: whether the language model began with pretrained weights.
        lora: whether it has LoRA.
    """
    if name.startswith("model.tower."):
        return "tower" in trained
    if name.startswith("model.llm.") and base:
        return "llm" in trained and (is_lora(name) or not lora)
    return True


def kept_weights(state: Mapping[str, Any], trained: Iterable[Part], base: bool, lora: bool) -> dict[str, Any]:
    """Weights of a state dict that :func:`is_kept`."""
    parts = list(trained)
    return {name: value for name, value in state.items() if is_kept(name, parts, base, lora)}
