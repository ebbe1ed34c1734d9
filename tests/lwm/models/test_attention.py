"""Attention kernels agree with each other and with timm's."""

import pytest
import torch
from timm.layers import Attention
from torch.nn.functional import scaled_dot_product_attention

from lwm.models import attention
from lwm.models.attention import SelfAttention, chunked_attention


def test_same_weights_same_output_as_timm() -> None:
    torch.manual_seed(0)
    ours, theirs = SelfAttention(32, 4, qkv_bias=True), Attention(32, 4, qkv_bias=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 7, 32)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("scores", [1, 300, 10**6])
def test_chunked_equals_fused(scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "CHUNK_SCORES", scores)
    torch.manual_seed(0)
    found = []
    given = torch.randn(3, 2, 3, 11, 4, dtype=torch.float64)
    weight = torch.randn(2, 3, 11, 4, dtype=torch.float64)
    for attend in (chunked_attention, scaled_dot_product_attention):
        parts = given.clone().requires_grad_()
        out = attend(*parts.unbind(0))
        (out * weight).sum().backward()
        found.append((out.detach(), parts.grad))
    torch.testing.assert_close(found[0], found[1])


def test_more_keys_than_queries_and_scores_beyond_powers() -> None:
    torch.manual_seed(0)
    key, value = torch.randn(2, 2, 3, 13, 4, dtype=torch.float64).unbind(0)
    short = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    # Scores of up to some 1e5: 2**score is infinite.
    for query in (short, 1e5 * short):
        found = chunked_attention(query, key, value)
        torch.testing.assert_close(found, scaled_dot_product_attention(query, key, value))


def test_bfloat16_training_is_chunked_and_close(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = SelfAttention(32, 4, qkv_bias=True), torch.randn(2, 50, 32)
    expected = layer(x)
    calls: list[torch.dtype] = []

    def watched(*parts: torch.Tensor) -> torch.Tensor:
        calls.append(parts[0].dtype)
        return chunked_attention(*parts)

    monkeypatch.setattr(attention, "chunked_attention", watched)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    found.float().sum().backward()
    assert calls == [torch.bfloat16]
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)


def test_masks_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="masks"):
        SelfAttention(32, 4)(torch.zeros(1, 3, 32), is_causal=True)
