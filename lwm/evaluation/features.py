"""Features of a frozen encoder, by layer, and the two encoders every comparison needs: the trained and the random."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwm.errors import ModelError
from lwm.evaluation.probe import Features
from lwm.models.cores import in_parts
from lwm.models.pooling import pool

_CONTRACT = ("forward_features", "forward_intermediates", "num_features", "num_prefix_tokens", "grid_size", "recipe")


def require_encoder(model: Any, source: str) -> nn.Module:
    """The model if it keeps the encoder contract; ModelError names what it lacks."""
    lacks = [name for name in _CONTRACT if not hasattr(model, name)]
    if lacks or not isinstance(model, nn.Module):
        raise ModelError(f"{source} is a {type(model).__name__} without {lacks}", "an encoder or a mixture of experts")
    return model


def layer_tokens(encoder: Any, pictures: Tensor, layer: int | None = None) -> list[Tensor]:
    """Tokens ``[B, L, D]`` after every block, or after block ``layer`` only, without prefix tokens."""
    indices = None if layer is None else [layer]
    return [tokens[:, encoder.num_prefix_tokens :] for tokens in encoder.forward_intermediates(pictures, indices)]


def in_batches(
    run: Callable[[Tensor], list[Tensor]],
    pictures: Tensor,
    encoder: Any,
    batch_size: int = 64,
    tick: Callable[[int], Any] | None = None,
) -> list[Tensor]:
    """Results of ``run`` without gradient on many pictures, some at a time on the encoder's device.

    Args:
        run: of pictures ``[n, C, F, T]`` on that device, tensors with as many rows; it calls ``encoder``.
        pictures: dB ``[N, C, F, T]``, N > 0.
        encoder: any encoder of the contract.
        batch_size: pictures at a time.
        tick: told how many pictures are done since it was last told.
    """
    device = next(encoder.parameters()).device
    found: list[list[Tensor]] = []
    for batch in pictures.split(batch_size):
        found.append(in_parts(run, batch.to(device), encoder))
        if tick is not None:
            tick(len(batch))
    return [torch.cat(pieces) for pieces in zip(*found, strict=True)]


@torch.inference_mode()
def frozen_features(
    encoder: Any, pictures: Tensor, batch_size: int = 64, tick: Callable[[int], Any] | None = None
) -> list[Features]:
    """Pooled tokens (mean and spread) of each layer; the encoder is not changed and left in evaluation mode.

    Args:
        encoder: any encoder of the contract.
        pictures: dB ``[N, C, F, T]``.
        batch_size: pictures at a time.
        tick: told how many pictures are done since it was last told.

    Returns:
        float32 ``[N, 3 D]`` for every block, first to last.
    """
    encoder.eval()

    def pooled(part: Tensor) -> list[Tensor]:
        return [pool(tokens, encoder.grid_size, "mean_spread").float().cpu() for tokens in layer_tokens(encoder, part)]

    return [np.asarray(layer.numpy()) for layer in in_batches(pooled, pictures, encoder, batch_size, tick)]


def random_twin(encoder: Any, seed: int) -> nn.Module:
    """The same architecture with fresh weights; statistics (buffers) are those of ``encoder``.

    Of a mixture of experts it is one expert: a random router would send samples of one kind through encoders that
    differ at random, and make the baseline weaker than it is.
    """
    source = encoder if not hasattr(encoder, "experts") else _first_expert(encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = type(source).from_config(source.get_config(), source.recipe)
    for name, values in source.named_buffers():
        twin.get_buffer(name).copy_(values)
    return twin.to(next(source.parameters()).device).eval()


def trainable_copy(encoder: nn.Module) -> nn.Module:
    """A copy to be fine-tuned; the original stays as it is."""
    twin = copy.deepcopy(encoder)
    for weight in twin.parameters():
        weight.requires_grad_(True)
    return twin


def _first_expert(mixture: Any) -> Any:
    experts = mixture.experts
    return next(iter(experts.values() if hasattr(experts, "values") else experts))
