"""Tokens with lean casts and a part of the batch a thread, against autocast and against float32."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lwm.errors import ConfigError
from lwm.models.encoder import build_encoder
from lwm.models.lean import LeanTokens
from lwm.signal.recipe import recipe_named

LAYERS = [0, 1]


@pytest.fixture
def encoder(threads: Callable[[int], None]) -> Any:
    threads(2)
    return build_encoder("tiny", recipe_named("small"), seed=0)


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(9, 1, 64, 64, generator=torch.Generator().manual_seed(1))


def gradients(encoder: Any, run: Callable[[Any], list[Tensor]]) -> tuple[Tensor, Tensor]:
    """Tokens of all layers, and all gradients of their mean square."""
    twin = copy.deepcopy(encoder)
    tokens = torch.cat([found.float() for found in run(twin)])
    tokens.pow(2).mean().backward()
    return tokens.detach(), torch.cat([w.grad.flatten() for w in twin.parameters() if w.grad is not None])


def test_tokens_and_gradients_are_those_of_the_plain_call(encoder: Any, pictures: Tensor) -> None:
    def lean(twin: Any) -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = LeanTokens(twin, LAYERS)(pictures)
            assert torch.is_autocast_enabled("cpu")  # the head's
        assert all(tokens.dtype == torch.float32 for tokens in found)
        return found

    exact = gradients(encoder, lambda twin: twin.forward_intermediates(pictures, LAYERS))
    for found, wanted in zip(gradients(encoder, lean), exact, strict=True):
        error = (found - wanted).norm() / wanted.norm()
        assert 1e-5 < error < 0.03  # bfloat16 has eight bits, and was used


def test_it_applies_under_autocast_only(encoder: Any, pictures: Tensor) -> None:
    lean = LeanTokens(encoder, None)
    assert not lean.applies(pictures)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert lean.applies(pictures)
        torch.testing.assert_close(lean(pictures)[0], encoder.forward_features(pictures).float(), atol=0.1, rtol=0.1)
        encoder.grad_checkpointing = True
        assert not lean.applies(pictures)
        with pytest.raises(ConfigError, match="checkpointing"):
            lean(pictures[:4])


def test_frozen_weights_get_no_gradient(encoder: Any, pictures: Tensor) -> None:
    frozen = [w for name, w in encoder.named_parameters() if ".0." in name]
    for weight in frozen:
        weight.requires_grad_(False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        LeanTokens(encoder, [1])(pictures)[0].sum().backward()
    assert frozen
    assert all(weight.grad is None for weight in frozen)
    assert any(weight.grad is not None for weight in encoder.parameters())
