"""Optimizer and learning-rate schedule that every task shares."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from lwm.errors import ConfigError

WARMUP_SHARE = 0.1
"""Share of the steps in which the rate rises: 40 of 400 epochs in arXiv 2411.09996."""

FINAL_SHARE = 1e-3
"""Where the cosine ends, as a share of the peak rate."""

_NO_DECAY = ("positions", "mask_token")


def decay_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices with decay; biases, norms, positions and mask tokens without."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                free = parameter.ndim < 2 or name.rsplit(".", 1)[-1] in _NO_DECAY
                (plain if free else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def warmup_cosine(total_steps: int) -> Callable[[int], float]:
    """Factor on the peak rate by step: linear rise over ``WARMUP_SHARE``, then a cosine down to ``FINAL_SHARE``."""
    warmup = max(1, round(total_steps * WARMUP_SHARE))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * done))

    return factor


def adamw_cosine(
    modules: Iterable[nn.Module], learning_rate: float, weight_decay: float, total_steps: float
) -> dict[str, Any]:
    """AdamW (betas 0.9 and 0.95, as in MAE) with warm-up and cosine by step, in Lightning's form.

    Args:
        modules: what is trained.
        learning_rate: peak rate.
        weight_decay: decay of matrices.
        total_steps: the trainer's ``estimated_stepping_batches``.

    Raises:
        ConfigError: the trainer knows no end, so that no schedule can be drawn.
    """
    if not math.isfinite(total_steps):
        raise ConfigError("a trainer without an end", "max_epochs or max_steps", "set trainer.max_epochs")
    optimizer = AdamW(decay_groups(modules, weight_decay), lr=learning_rate, betas=(0.9, 0.95))
    scheduler = LambdaLR(optimizer, warmup_cosine(int(total_steps)))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
