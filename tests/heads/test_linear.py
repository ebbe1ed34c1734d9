"""The linear head: starts undecided or from a logistic regression, takes features computed before."""

import pytest
import torch

from heads.linear import LinearHead
from lwm.errors import ConfigError
from lwm.models.head import TokenShape
from lwm.models.pooling import pool

SHAPE = TokenShape(8, (3, 4), (12, 16))
CLASSES = ("bpsk", "qpsk", "16qam", "64qam", "256qam")


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 12, 8, generator=torch.Generator().manual_seed(seed))


def test_starts_undecided() -> None:
    assert torch.equal(LinearHead(SHAPE, CLASSES)(tokens()), torch.zeros(3, 5))


def test_starts_from_a_linear_classifier_of_standardised_features() -> None:
    generator = torch.Generator().manual_seed(1)
    shift, scale = torch.randn(24, generator=generator), torch.rand(24, generator=generator) + 0.5
    weight, bias = torch.randn(5, 24, generator=generator), torch.randn(5, generator=generator)
    head = LinearHead(SHAPE, CLASSES)
    head.start_from(shift, scale, weight, bias)
    expected = (pool(tokens(), (3, 4)) - shift) / scale @ weight.T + bias
    assert torch.allclose(head(tokens()), expected, atol=1e-5)
    assert head.linear.weight.requires_grad


def test_gradient_reaches_the_tokens_and_pooling_changes_the_width() -> None:
    x = tokens(2).requires_grad_()
    head = LinearHead(SHAPE, ("a", "b"), pooling="mean")
    assert head.linear.in_features == 8
    head.start_from(torch.zeros(8), torch.ones(8), torch.ones(2, 8), torch.zeros(2))
    head(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min() > 0


def test_standardisation_leaves_a_feature_that_does_not_vary() -> None:
    features = torch.randn(50, 24, generator=torch.Generator().manual_seed(3)) * 7 + 2
    features[:, 5] = 4
    head = LinearHead(SHAPE, CLASSES)
    head.fit_features(features)
    found = head.standardise(features)
    torch.testing.assert_close(found.mean(0), torch.zeros(24), atol=1e-5, rtol=0)
    expected = torch.ones(24)
    expected[5] = 0
    torch.testing.assert_close(found.std(0, correction=0), expected)


def test_smoothing_is_that_of_the_definition_and_unknown_classes_do_not_count() -> None:
    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(4))
    head = LinearHead(SHAPE, CLASSES, smoothing=0.1)
    wanted = 0.9 * torch.eye(5)[[1, 4]] + 0.1 / 5
    expected = -(wanted * scores[:2].log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(head.loss(scores, torch.tensor([1, 4, -1])), expected)
    metrics = head.metrics()
    metrics.update(head.predict(scores), torch.tensor([int(scores[0].argmax()), int(scores[1].argmin()), -1]))
    assert metrics["accuracy"].compute() == 0.5
    with pytest.raises(ConfigError, match="smoothing"):
        LinearHead(SHAPE, CLASSES, smoothing=1.0)
