"""Who computes what in a mixture: gates of the experts, and a batch shared out among those that are asked."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Mode = Literal["top-1", "top-k", "soft"]

Run = Callable[[int, Tensor], Sequence[Tensor]]
"""Tokens (one tensor or more, batch first) that an expert, by number, makes of pictures."""


def choose(probabilities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k most probable experts of each picture and their weights.

    Args:
        probabilities: float ``[B, E]``.
        k: 1..E.

    Returns:
        Numbers int64 ``[B, k]``, most probable first, and weights ``[B, k]``: the probabilities divided by their sum,
        so that they sum to one (all ones for k = 1).
    """
    weights, chosen = probabilities.topk(k, dim=1)
    return chosen, weights / weights.sum(1, keepdim=True)


def gates(probabilities: Tensor, k: int) -> Tensor:
    """Weight of every expert ``[B, E]`` when k of them are asked: zero for the others; see :func:`choose`."""
    chosen, weights = choose(probabilities, k)
    return torch.zeros_like(probabilities).scatter(1, chosen, weights)


def mix_chosen(x: Tensor, chosen: Tensor, weights: Tensor | None, run: Run) -> list[Tensor]:
    """Sort the batch by expert, run each expert once on its contiguous part, and put the results back in order.

    Experts that no picture chose are not run. Each picture appears at most once in an expert's part, so sums are taken
    in the order of the experts' numbers and do not depend on the order of the batch.

    Args:
        x: pictures ``[B, C, F, T]``, B >= 1.
        chosen: experts' numbers int64 ``[B, k]``, different ones in a row.
        weights: ``[B, k]``; None for k = 1, which gives what the expert gives, bit for bit.
        run: an expert on its part.
    """
    count, k = chosen.shape
    flat = chosen.flatten()
    order = flat.argsort(stable=True)
    numbers, shares = flat.unique(return_counts=True)
    # One transfer from the device, and the only one.
    plan = torch.stack([numbers, shares]).tolist()
    if weights is None and len(plan[0]) == 1:
        return list(run(plan[0][0], x))
    rows = order // k
    found: list[Tensor] = []
    for number, own, places in zip(plan[0], rows.split(plan[1]), order.split(plan[1]), strict=True):
        pieces = run(number, x[own])
        if not found:
            # Every row of a copy is written; a sum starts at zero.
            start = torch.empty if weights is None else torch.zeros
            found = [start(count, *p.shape[1:], dtype=p.dtype, device=p.device) for p in pieces]
        for out, piece in zip(found, pieces, strict=True):
            if weights is None:
                out.index_copy_(0, own, piece)
            else:
                out.index_add_(0, own, piece * _beside(weights.flatten()[places], piece))
    return found


def mix_all(x: Tensor, gate: Tensor, run: Run) -> list[Tensor]:
    """Every expert on every picture, summed with the weights ``gate [B, E]``: soft mixture, and what graphs trace."""
    total: list[Tensor] = []
    for number in range(gate.shape[1]):
        weighted = [piece * _beside(gate[:, number], piece) for piece in run(number, x)]
        total = [a + b for a, b in zip(total, weighted, strict=True)] if total else weighted
    return total


def _beside(weight: Tensor, tokens: Tensor) -> Tensor:
    """Weights ``[B]`` in the type and the number of dimensions of tokens ``[B, ...]``."""
    return weight.to(tokens.dtype).reshape(-1, *[1] * (tokens.ndim - 1))
