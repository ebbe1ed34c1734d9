"""Self-attention that takes the kernel which is fastest for what comes."""

from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

# Scores of so many query-key pairs are held at a time: 512 KiB in bfloat16, which stays in a core's cache.
CHUNK_SCORES = 2**18


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
    """Attention ``[B, H, N, d]`` of equal-length queries and keys, a few heads at a time, scores recomputed backward.

    softmax(Q K^T / sqrt(d)) V, as ``scaled_dot_product_attention``; differentiable once.
    """
    flat = (part.flatten(0, 1) for part in (query, key, value))
    return _Chunked.apply(*flat).unflatten(0, query.shape[:2])


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Output ``[B*H, N, d]``; keeps queries, keys and values, not the scores."""
        with torch.autocast(query.device.type, enabled=False):
            query = query * query.shape[-1] ** -0.5
            ctx.save_for_backward(query, key, value)
            out = torch.empty_like(value)
            for part in _chunks(query):
                torch.bmm(_scores(query[part], key[part]), value[part], out=out[part])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, key and value, from scores computed again."""
        query, key, value = ctx.saved_tensors
        by_query, by_key, by_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        with torch.autocast(query.device.type, enabled=False):
            for part in _chunks(query):
                share = _scores(query[part], key[part])
                torch.bmm(share.transpose(1, 2), gradient[part], out=by_value[part])
                by_share = torch.bmm(gradient[part], value[part].transpose(1, 2))
                by_score = torch._softmax_backward_data(by_share, share, -1, share.dtype)
                torch.bmm(by_score, key[part], out=by_query[part])
                torch.bmm(by_score.transpose(1, 2), query[part], out=by_key[part])
        return by_query * query.shape[-1] ** -0.5, by_key, by_value


def _scores(query: Tensor, key: Tensor) -> Tensor:
    return torch.bmm(query, key.transpose(1, 2)).softmax(-1)


def _chunks(query: Tensor) -> list[slice]:
    rows, length, _ = query.shape
    step = max(1, CHUNK_SCORES // length**2)
    return [slice(start, start + step) for start in range(0, rows, step)]
