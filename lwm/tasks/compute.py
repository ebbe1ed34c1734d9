"""How a pretraining step is computed: in which precision, and on how many cores."""

from typing import Any

import torch
from torch import Tensor, nn

from lwm.models.cores import Cores, cores_for
from lwm.models.precision import call_in
from lwm.tasks.objectives import Step
from lwm.tasks.sharding import is_sharded

_LEAN = {"bf16-mixed": torch.bfloat16, "32-true": torch.float32}


class Compute:
    """Runs the models of a task in the trainer's precision.

    On a CPU each weight is cast once a step instead of by autocast at every use, and the batch is cut into a part for
    each thread (:mod:`lwm.models.cores`). Compiled models, recomputed activations and shards are called as they are.

    Args:
        plain: whether models are to be called as they are anyway.
    """

    def __init__(self, plain: bool) -> None:
        self.plain = plain
        self._cores: Cores | None = None

    def call(self, task: Any, module: nn.Module, *args: Any) -> Any:
        """``module(*args)``."""
        dtype = self._dtype(task, module)
        if dtype is None:
            return module(*args)
        with torch.autocast("cpu", enabled=False):
            return call_in(dtype, module, *args)

    def step(self, task: Any, x: Tensor, mask: Tensor, predicted: int) -> Step:
        """``task.model(x, mask, predicted)``: predictions of the first pictures, embeddings of all."""
        dtype, model = self._dtype(task, task.model), task.model
        parts = min(cores_for(len(x)), predicted or len(x))
        if dtype is None or parts == 1:
            return self.call(task, model, x, mask, predicted)
        if self._cores is None or self._cores.module is not model:
            self._cores = Cores(model)
        # Every part has its share of both: what is decoded takes longer.
        first = torch.arange(predicted).tensor_split(parts)
        rest = torch.arange(predicted, len(x)).tensor_split(parts)
        rows = [torch.cat([a, b]) for a, b in zip(first, reversed(rest), strict=True)]
        calls = [(x[chosen], mask[chosen], len(a)) for chosen, a in zip(rows, first, strict=True)]
        with torch.autocast("cpu", enabled=False):
            prediction, places, embedding = (_cat(part) for part in zip(*self._cores(dtype, calls), strict=True))
        back = torch.cat(rows).argsort()
        return Step(prediction, places, None if embedding is None else embedding[back])

    def _dtype(self, task: Any, module: nn.Module) -> torch.dtype | None:
        """Precision of a lean call; None when the module is to be called as it is."""
        if self.plain or task.device.type != "cpu" or task._trainer is None or is_sharded(module):
            return None
        return _LEAN.get(task.trainer.precision)


def _cat(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None
