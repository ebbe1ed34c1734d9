"""Tokens with lean casts and a part of the batch a thread, against autocast and against float32."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lwm.errors import ConfigError
from lwm.evaluation.regimes.tuned import FineTuned, new_head
from lwm.models.encoder import EncoderConfig, SpectrogramEncoder, build_encoder
from lwm.models.head import TokenShape
from lwm.models.headed import HeadedModel
from lwm.models.lean import LeanTokens
from lwm.models.moe import MoEEncoder
from lwm.models.router import Router, RouterConfig
from lwm.registry import HEADS, load
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


def test_modes_and_settings_hold_in_every_part_of_a_batch(encoder: Any, pictures: Tensor) -> None:
    encoder.blocks[0].mlp = torch.nn.Sequential(encoder.blocks[0].mlp, torch.nn.Dropout(0.5))
    lean = LeanTokens(encoder, [1])

    def call() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            return lean(pictures)[0]

    moved = (call() - call()).flatten(1).norm(dim=1)
    assert moved.min() > 0  # in training mode, both parts
    encoder.eval()
    torch.testing.assert_close(call(), call(), rtol=0, atol=0)


def test_a_mixture_is_asked_in_its_present_mode(pictures: Tensor, threads: Callable[[int], None]) -> None:
    threads(2)
    recipe = recipe_named("small")
    shape: dict[str, Any] = {"patch": 16, "width": 32, "depth": 2, "heads": 2}
    experts = {name: SpectrogramEncoder(EncoderConfig(name=name, **shape), recipe).eval() for name in ("lte", "nr")}
    mixture: Any = MoEEncoder(experts, Router(RouterConfig(("lte", "nr")), recipe)).eval()
    lean = LeanTokens(mixture, None)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for mode in ("top-1", "soft"):
            mixture.set_mode(mode)
            wanted = mixture.forward_features(pictures).float()
            error = (lean(pictures)[0] - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)
            assert error.max() < 0.05


def test_pictures_that_are_to_get_gradients_get_them(encoder: Any, pictures: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not LeanTokens(encoder, None).applies(pictures.requires_grad_())
        with torch.no_grad():
            assert LeanTokens(encoder, None).applies(pictures)


@pytest.mark.parametrize("layers", [None, [0], [0, 1]])
def test_models_with_heads_say_the_same(
    layers: list[int] | None, pictures: Tensor, threads: Callable[[int], None]
) -> None:
    threads(2)
    shape = EncoderConfig(patch=16, width=32, depth=2, heads=2, registers=2)
    encoder: Any = SpectrogramEncoder(shape, recipe_named("small")).eval()
    kind: Any = load(HEADS, "linear")
    model = HeadedModel(encoder, kind(TokenShape.of(encoder, len(layers or [0])), ["a", "b"]), layers).eval()
    tuned = FineTuned(encoder, new_head("linear", "classification", encoder, ["a", "b"]), 0).eval()
    with torch.no_grad():
        for network in (model, tuned):
            for weight in network.head.parameters():  # those of a fresh linear head are zero
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)))
            exact = network(pictures)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = network(pictures).float()
            assert found.shape == exact.shape
            assert 0 < (found - exact).norm() / exact.norm() < 0.03
