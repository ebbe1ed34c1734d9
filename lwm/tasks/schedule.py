"""Optimizer and learning-rate schedule that every task shares."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from lwm.errors import ConfigError

WARMUP_SHARE = 0.1
"""Share of the steps in which the rate rises: 40 of 400 epochs in arXiv 2411.09996."""

FINAL_SHARE = 1e-3
"""Where the cosine ends, as a share of the peak rate."""

_NO_DECAY = ("positions", "mask_token", "prefix")


def decay_groups(
    modules: Iterable[nn.Module], weight_decay: float, scales: Mapping[nn.Parameter, float] | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters in groups: matrices with decay; biases, norms, positions and learned tokens without.

    Args:
        modules: what is trained.
        weight_decay: decay of matrices.
        scales: factor on the learning rate of parameters, 1 where absent; each factor has groups of its own, with
            the factor under ``lr_scale``.
    """
    found: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, False): [], (1.0, True): []}
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                free = parameter.ndim < 2 or name.rsplit(".", 1)[-1] in _NO_DECAY
                scale = 1.0 if scales is None else scales.get(parameter, 1.0)
                found.setdefault((scale, free), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": 0.0 if free else weight_decay, "lr_scale": scale}
        for (scale, free), parameters in found.items()
        if parameters
    ]


def layer_scales(encoder: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Factors on the learning rate of an encoder's parameters: ``decay`` to the power of a block's distance to the end.

    The last block has 1, what comes before the first one (embedding, positions, prefix) ``decay ** depth``, as in BEiT
    and MAE fine-tuning with the head outside.

    Args:
        encoder: with timm's ``group_matcher``.
        decay: factor a block, at most 1.
    """
    block = re.compile(encoder.group_matcher()["blocks"][0][0])  # type: ignore[operator]
    stem = re.compile(encoder.group_matcher()["stem"])  # type: ignore[operator]
    depth = len(encoder.blocks)  # type: ignore[arg-type]
    scales = {}
    for name, parameter in encoder.named_parameters():
        inside = block.match(name)
        above = depth - 1 - int(inside[1]) if inside else depth if stem.match(name) else 0
        scales[parameter] = decay**above
    return scales


def warmup_cosine(
    total_steps: int, warmup_share: float = WARMUP_SHARE, final_share: float = FINAL_SHARE
) -> Callable[[int], float]:
    """Factor on the peak rate by step: linear rise over ``warmup_share``, then a cosine down to ``final_share``."""
    warmup = max(1, round(total_steps * warmup_share))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * done))

    return factor


def adamw_cosine(
    modules: Iterable[nn.Module],
    learning_rate: float,
    weight_decay: float,
    total_steps: float,
    *,
    warmup_share: float = WARMUP_SHARE,
    final_share: float = FINAL_SHARE,
    scales: Mapping[nn.Parameter, float] | None = None,
) -> dict[str, Any]:
    """Fused AdamW (betas 0.9 and 0.95, as in MAE) with warm-up and cosine by step, in Lightning's form.

    Args:
        modules: what is trained.
        learning_rate: peak rate.
        weight_decay: decay of matrices.
        total_steps: the trainer's ``estimated_stepping_batches``.
        warmup_share: share of the steps in which the rate rises.
        final_share: where the cosine ends, as a share of the peak rate.
        scales: factor on the rate of parameters, see :func:`layer_scales`.

    Raises:
        ConfigError: the trainer knows no end, so that no schedule can be drawn.
    """
    if not math.isfinite(total_steps):
        raise ConfigError("a trainer without an end", "max_epochs or max_steps", "set trainer.max_epochs")
    groups = decay_groups(modules, weight_decay, scales)
    for group in groups:
        group["lr"] = learning_rate * group["lr_scale"]
    optimizer = AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=_can_fuse(groups))
    # Fused AdamW could undo a gradient scaler's scaling itself, and Lightning then refuses to clip in any mixed
    # precision, bfloat16 too, which needs no scaler. Without this mark a scaler's gradients are unscaled before.
    optimizer._step_supports_amp_scaling = False
    scheduler = LambdaLR(optimizer, warmup_cosine(int(total_steps), warmup_share, final_share))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _can_fuse(groups: list[dict[str, Any]]) -> bool:
    """Whether torch has a fused kernel for where the parameters are."""
    kinds = {parameter.device.type for group in groups for parameter in group["params"]}
    return kinds <= {"cpu", "cuda"}
