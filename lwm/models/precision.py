"""Compute in a low precision while the weights, their gradients and the optimizer stay in float32."""

from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from lwm.errors import ConfigError


def call_in(dtype: torch.dtype, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """``module(*args, **kwargs)`` with its parameters cast to ``dtype`` for this call.

    The cast is part of the graph, so that gradients arrive at the float32 master weights in float32. Unlike autocast
    it casts each weight once and leaves no activation in float32 between layers. Buffers keep their type.

    Args:
        dtype: for example ``torch.bfloat16``; ``torch.float32`` is a plain call.
        module: its parameters are float32.
        *args: passed on.
        **kwargs: passed on.

    Raises:
        ConfigError: the module recomputes activations, which would happen with the weights' own type.
    """
    if dtype == torch.float32:
        return module(*args, **kwargs)
    if any(getattr(part, "grad_checkpointing", False) for part in module.modules()):
        raise ConfigError(
            f"activation checkpointing with weights cast to {dtype}", "one of the two", "use precision bf16-mixed"
        )
    cast = {name: value.to(dtype) for name, value in module.named_parameters()}
    return functional_call(module, cast, args, kwargs)
