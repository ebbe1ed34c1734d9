"""Self-attention that takes the kernel which is fastest for what comes."""

import math
from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

# Scores of so many query-key pairs are held at a time: 512 KiB in bfloat16, which stays in a core's cache.
CHUNK_SCORES = 2**18

# Largest |score| in bits, so that 2**score and sums of it are far from the ends of bfloat16 (float32's, 2**±126).
MOST_BITS = 60.0


class SelfAttention(Attention):
    """timm's attention with the same weights and mathematics; without masks, dropout and query norms.

    torch's fused kernel everywhere but in bfloat16 training on a CPU. There its backward pass is slower than in
    float32, and plain products write N x N scores to memory; :func:`chunked_attention` does neither.
    """

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Tokens ``[B, N, D]`` to ``[B, N, D]``; masks are not supported and must stay away."""
        if attn_mask is not None or is_causal:
            raise NotImplementedError("SelfAttention has no masks")
        batch, length, _ = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        chunked = qkv.device.type == "cpu" and qkv.dtype == torch.bfloat16 and qkv.requires_grad
        attend = chunked_attention if chunked else scaled_dot_product_attention
        return self.proj(attend(query, key, value).transpose(1, 2).reshape(batch, length, self.attn_dim))


def chunked_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention ``[B, H, N, d]`` to keys and values ``[B, H, M, d]``, a few heads at a time.

    softmax(Q K^T / sqrt(d)) V, as ``scaled_dot_product_attention``; differentiable once, from scores computed again in
    the backward pass. The softmax goes without its
    usual search for each row's largest score, which in bfloat16 costs as much as the exponentials: by Cauchy and
    Schwarz no score is beyond the product of the longest query and the longest key. Where that product is too large
    for it (over 40 nats), the fused kernel does the work.
    """
    longest = query.detach().norm(dim=-1).max() * key.detach().norm(dim=-1).max()
    if not longest * _bits(query) < MOST_BITS:
        return scaled_dot_product_attention(query, key, value)
    flat = (part.flatten(0, 1) for part in (query, key, value))
    return _Chunked.apply(*flat).unflatten(0, query.shape[:2])


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Output ``[B*H, N, d]``; keeps queries, keys, values, output and sums, not the scores."""
        with torch.autocast(query.device.type, enabled=False):
            query = query * _bits(query)
            out, buffer = torch.empty_like(query), _buffer(query, key)
            total = query.new_empty(*query.shape[:2], 1, dtype=torch.promote_types(query.dtype, torch.float32))
            for part in _chunks(query, key):
                power = _powers(query[part], key[part], buffer)
                torch.sum(power, -1, keepdim=True, dtype=total.dtype, out=total[part])
                torch.bmm(power, value[part], out=out[part])
            out = (out / total).to(query.dtype)
        ctx.save_for_backward(query, key, value, out, total)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, key and value, from scores computed again.

        With E = 2**(Q K^T), row sums t and G' = G / t: dV = E^T G', and the scores' gradient is E * (G' V^T - D),
        D = rows of sum(G' * O). D is subtracted inside the product, as two further columns (high and low half of it)
        that meet ones.
        """
        query, key, value, out, total = ctx.saved_tensors
        by_query, by_key, by_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        with torch.autocast(query.device.type, enabled=False):
            gradient = gradient / total
            drop = (gradient * out).sum(-1, keepdim=True)
            high = drop.to(query.dtype)
            gradient = gradient.to(query.dtype)
            left = torch.cat([gradient, -high, (high - drop).to(query.dtype)], -1)
            right = torch.cat([value, value.new_ones(*value.shape[:2], 2)], -1)
            first, second = _buffer(query, key), _buffer(query, key)
            for part in _chunks(query, key):
                power = _powers(query[part], key[part], first)
                torch.bmm(power.transpose(1, 2), gradient[part], out=by_value[part])
                by_score = second[: len(power)]
                torch.bmm(left[part], right[part].transpose(1, 2), out=by_score).mul_(power)
                torch.bmm(by_score, key[part], out=by_query[part])
                torch.bmm(by_score.transpose(1, 2), query[part], out=by_key[part])
        return by_query * query.shape[-1] ** -0.5, by_key * math.log(2), by_value


def _bits(query: Tensor) -> float:
    """From a product of query and key to a score in bits: powers of two are cheaper than powers of e."""
    return query.shape[-1] ** -0.5 * math.log2(math.e)


def _powers(query: Tensor, key: Tensor, buffer: Tensor) -> Tensor:
    return torch.bmm(query, key.transpose(1, 2), out=buffer[: len(query)]).exp2_()


def _step(query: Tensor, key: Tensor) -> int:
    return max(1, CHUNK_SCORES // (query.shape[1] * key.shape[1]))


def _buffer(query: Tensor, key: Tensor) -> Tensor:
    return query.new_empty(min(_step(query, key), len(query)), query.shape[1], key.shape[1])


def _chunks(query: Tensor, key: Tensor) -> list[slice]:
    step = _step(query, key)
    return [slice(start, start + step) for start in range(0, len(query), step)]
