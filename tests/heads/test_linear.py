"""The linear head: registered, starts undecided or from a logistic regression, learns."""

import torch

from heads.linear import LinearHead
from lwm.models.pooling import pool
from lwm.registry import HEADS, load, names


def test_is_registered() -> None:
    assert "linear" in names(HEADS)
    assert load(HEADS, "linear") is LinearHead


def test_starts_undecided() -> None:
    tokens = torch.randn(3, 12, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(LinearHead(8, (3, 4), 5)(tokens), torch.zeros(3, 5))


def test_starts_from_a_linear_classifier_of_standardised_features() -> None:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(3, 12, 8, generator=generator)
    shift, scale = torch.randn(24, generator=generator), torch.rand(24, generator=generator) + 0.5
    weight, bias = torch.randn(5, 24, generator=generator), torch.randn(5, generator=generator)
    head = LinearHead(8, (3, 4), 5)
    head.start_from(shift, scale, weight, bias)
    expected = (pool(tokens, (3, 4)) - shift) / scale @ weight.T + bias
    assert torch.allclose(head(tokens), expected, atol=1e-5)
    assert head.linear.weight.requires_grad


def test_gradient_reaches_the_tokens_and_pooling_changes_the_width() -> None:
    tokens = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(2), requires_grad=True)
    head = LinearHead(8, (3, 4), 2, pooling="mean")
    assert head.linear.in_features == 8
    head.start_from(torch.zeros(8), torch.ones(8), torch.ones(2, 8), torch.zeros(2))
    head(tokens).sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.abs().min() > 0
