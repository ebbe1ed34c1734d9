"""Exponential moving averages of weights: the teacher of latent targets, and the average that is exported."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from lwm.models.encoder import SpectrogramEncoder


class MovingAverage(nn.Module):
    """A copy of an encoder that follows it: ``average = decay * average + (1 - decay) * weights``.

    It gets no gradient, is no part of the optimizer, and travels in the checkpoint.

    Args:
        encoder: what is followed; the copy starts equal.
    """

    def __init__(self, encoder: SpectrogramEncoder) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, encoder: SpectrogramEncoder, decay: float) -> None:
        """Move towards the weights of ``encoder``."""
        own: list[Tensor] = [*self.encoder.parameters()]
        new: list[Tensor] = [*encoder.parameters()]
        torch._foreach_lerp_(own, new, 1.0 - decay)

    @torch.no_grad()
    def copy_from(self, encoder: SpectrogramEncoder) -> None:
        """Be equal to ``encoder`` again."""
        self.encoder.load_state_dict(encoder.state_dict())

    def train(self, mode: bool = True) -> "MovingAverage":
        """Stays as it is: an average has no training of its own."""
        return super().train(False)


def rising_decay(start: float, progress: float) -> float:
    """Decay of a teacher at a share of the run: from ``start`` to 1 in a straight line (I-JEPA, Assran et al. 2023)."""
    return start + (1.0 - start) * min(max(progress, 0.0), 1.0)


def latent_target(tokens: Tensor, num_prefix_tokens: int) -> Tensor:
    """Patch tokens ``[B, L, D]`` of a teacher, each standardised over its features, float32 without gradient."""
    wanted = tokens[:, num_prefix_tokens:].detach().float()
    return layer_norm(wanted, wanted.shape[-1:])
