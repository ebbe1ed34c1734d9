"""Tokens of an encoder that is trained or asked with a head, computed as a pretraining step is.

Under autocast on a CPU the encoder is called as pretraining calls it: in autocast's type throughout, each weight cast
once, a part of the batch in each thread (:mod:`lwm.models.cores`); it is the threads that save time. The head, which is
small and likes its statistics exact, stays under autocast.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lwm.models.cores import Cores, cores_for
from lwm.models.lazy import LazyExperts


class LeanTokens:
    """Calls one encoder for its tokens.

    Args:
        encoder: any encoder of the contract; not copied.
        layers: blocks whose tokens are wanted, not normalised; None for the output of ``forward_features``.
    """

    def __init__(self, encoder: nn.Module, layers: Sequence[int] | None) -> None:
        self._cores = Cores(EncoderTokens(encoder, layers))

    def tokens(self, x: Tensor) -> list[Tensor]:
        """Tokens of dB pictures, a tensor a layer: as below where that applies, else as the encoder gives them."""
        return self(x) if self.applies(x) else list(self._cores.module(x))

    def applies(self, x: Tensor) -> bool:
        """Whether autocast is on, on a CPU, for an encoder that can be called so.

        Not for one that is compiled, recomputes activations or fetches weights as it needs them, nor where pictures
        are to get gradients: threads give none to their parts.
        """
        on = x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
        if not on or (x.requires_grad and torch.is_grad_enabled()):
            return False
        parts = list(self._cores.module.modules())
        return not any(getattr(part, "grad_checkpointing", False) or isinstance(part, LazyExperts) for part in parts)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Tokens float32 ``[B, P + L, D]`` of dB pictures ``[B, C, F, T]``, a tensor a layer, in autocast's type."""
        dtype = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            parts = self._cores(dtype, [(part,) for part in x.tensor_split(cores_for(len(x)))])
        return [torch.cat(found).float() for found in zip(*parts, strict=True)]


class EncoderTokens(nn.Module):
    """An encoder whose call gives tokens, for :func:`lwm.models.precision.call_in` and :class:`lwm.models.cores.Cores`.

    Args:
        encoder: any encoder of the contract.
        layers: as of :class:`LeanTokens`.
    """

    def __init__(self, encoder: Any, layers: Sequence[int] | None) -> None:
        super().__init__()
        self.encoder, self.layers = encoder, layers

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Tokens ``[B, P + L, D]`` of dB pictures ``[B, C, F, T]``, of each layer."""
        if self.layers is None:
            return (self.encoder.forward_features(x),)
        return tuple(self.encoder.forward_intermediates(x, list(self.layers)))
