"""What every gradient training of the evaluation shares: order of samples, learning rate by step, precision."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lwm.tasks.base import best_precision

WARM_UP = 0.1
"""Share of the steps in which the learning rate rises linearly, before it falls as a half cosine."""


def batches(count: int, batch: int, steps: int, seed: int) -> Tensor:
    """Rows int64 ``[steps, min(batch, count)]``: one random order of all samples after another, in full batches."""
    batch = min(batch, count)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(count, generator=generator) for _ in range(-(-steps * batch // count))]
    return torch.cat(orders)[: steps * batch].reshape(steps, batch)


def warm_then_cosine(steps: int) -> Callable[[int], float]:
    """Factor on the learning rate by step."""
    warm = max(1, round(WARM_UP * steps))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))

    return factor


def mixed(device: torch.device) -> torch.autocast:
    """bfloat16 products where the processor has them; weights and losses stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=best_precision() == "bf16-mixed")
