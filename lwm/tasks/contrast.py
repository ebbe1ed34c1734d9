"""The contrastive term, over the samples of all processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize


def supervised_contrast(embeddings: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, eq. 2, the sum outside the logarithm), a scalar.

    For each anchor i with positives P(i), the other samples of its code::

        -1/|P(i)| sum_{p in P(i)} log( exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t) )

    averaged over the anchors that have positives. With two samples a code it is NT-Xent (Chen et al. 2020). Samples
    are gathered from all processes with their gradients, so that the average of the processes' gradients is that of
    one process with all the samples.

    Args:
        embeddings: ``[N, D]`` of this process, scaled to unit length here; every process has as many.
        codes: int64 ``[N]``; below 0: not known, then neither anchor, positive nor negative.
        temperature: t.

    Returns:
        float32; 0 where nothing in the batch has a positive.
    """
    z = normalize(embeddings.float(), dim=-1)
    everyone, all_codes = gathered(z), gathered(codes)
    own = torch.arange(len(z), device=z.device) + len(z) * rank()
    other = torch.arange(len(everyone), device=z.device) != own[:, None]
    candidate = other & (all_codes >= 0)
    logits = (z @ everyone.T / temperature).masked_fill(~candidate, -torch.inf)
    positive = candidate & (codes[:, None] == all_codes) & (codes[:, None] >= 0)
    count = positive.sum(1)
    anchors = count > 0
    chosen, positive = logits[anchors], positive[anchors]
    likelihood = chosen - chosen.logsumexp(1, keepdim=True)
    each = -torch.where(positive, likelihood, 0.0).sum(1) / count[anchors]
    # Without an anchor the sum is 0 and still hangs on the graph, as other processes' gradients need it to.
    return each.sum() / mean_over_ranks(anchors.sum().float()).clamp(min=1 / world()) + 0.0 * z.sum()


def rank() -> int:
    """Number of this process."""
    return dist.get_rank() if _many() else 0


def world() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if _many() else 1


def gathered(x: Tensor) -> Tensor:
    """``x [N, ...]`` of all processes one after the other, ``[W * N, ...]``; gradients find their way back."""
    return _Gather.apply(x) if _many() else x


def mean_over_ranks(x: Tensor) -> Tensor:
    """Mean of a tensor over processes, without gradient."""
    if not _many():
        return x.detach()
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / world()


def _many() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """All processes' ``x``."""
        ctx.size = len(x)
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """What all processes' losses have to say about this one's ``x``."""
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = ctx.size * dist.get_rank()
        return total[start : start + ctx.size]
