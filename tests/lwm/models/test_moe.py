"""The mixture of experts is the chosen expert, token for token."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from lwm.errors import ModelError, RecipeMismatch
from lwm.models.encoder import SpectrogramEncoder, build_encoder
from lwm.models.moe import MoEEncoder
from lwm.models.router import Router, RouterConfig
from lwm.signal.recipe import recipe_named

RECIPE = recipe_named("small")
NAMES = ("lte", "nr", "wlan")


def experts() -> dict[str, SpectrogramEncoder]:
    return {name: build_encoder("tiny", RECIPE, -10, 8, name=name, seed=i) for i, name in enumerate(NAMES)}


@pytest.fixture
def mixture() -> MoEEncoder:
    torch.manual_seed(0)
    return MoEEncoder(experts(), Router(RouterConfig(NAMES), RECIPE, -10, 8)).eval()


def bias_towards(mixture: MoEEncoder, name: str) -> None:
    with torch.no_grad():
        mixture.router.head.bias[NAMES.index(name)] += 100.0


def pictures(batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    level = torch.randn(batch, 1, 1, 1, generator=generator) * 20
    return level + torch.randn(batch, 1, 64, 64, generator=generator) * 8


@torch.no_grad()
def test_tokens_are_the_chosen_experts_in_any_order(mixture: MoEEncoder) -> None:
    x = pictures(24)
    chosen = mixture.route(x).argmax(1)
    assert len(chosen.unique()) > 1
    of: Any = mixture.experts
    alone = torch.cat([of[NAMES[e]].forward_features(one[None]) for e, one in zip(chosen.tolist(), x, strict=True)])
    for order in (torch.arange(24), torch.arange(24).flip(0), torch.randperm(24)):
        torch.testing.assert_close(mixture.forward_features(x[order]), alone[order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixture.forward_intermediates(x, [-1], norm=True)[0], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_probabilities_follow_the_names(mixture: MoEEncoder) -> None:
    x = pictures(6)
    probabilities = mixture.route(x)
    assert mixture.expert_names == NAMES
    torch.testing.assert_close(probabilities.sum(1), torch.ones(6))
    bias_towards(mixture, "nr")
    nr: Any = mixture.experts["nr"]
    torch.testing.assert_close(mixture.forward_features(x), nr.forward_features(x))


def test_gradient_reaches_only_the_experts_in_use(mixture: MoEEncoder) -> None:
    bias_towards(mixture, "lte")
    mixture(pictures(2)).sum().backward()
    used = {name.split(".")[1] for name, p in mixture.experts.named_parameters(prefix="e") if p.grad is not None}
    assert used == {"lte"}


def test_router_is_cheap() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    x = pictures(1)
    cost = []
    for model in (Router(RouterConfig(NAMES), RECIPE), build_encoder("small", RECIPE)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x)
        cost.append(counter.get_total_flops())
    assert cost[0] < 0.2 * cost[1]


def test_same_contract_as_an_expert(mixture: MoEEncoder) -> None:
    expert = mixture.experts["lte"]
    for what in ("num_features", "head_features", "grid_size", "in_chans", "num_prefix_tokens", "depth", "recipe"):
        assert getattr(mixture, what) == getattr(expert, what)
    mixture.set_grad_checkpointing()
    assert all(one.grad_checkpointing for one in mixture.experts.values())
    from timm.models import group_parameters

    layers = group_parameters(mixture, mixture.group_matcher(), reverse=True)
    assert layers["experts.nr.blocks.0.norm1.weight"] == layers["experts.lte.blocks.0.norm1.weight"]
    assert set(layers) == {name for name, _ in mixture.named_parameters()}


def test_experts_that_do_not_fit_are_refused() -> None:
    router = Router(RouterConfig(NAMES), RECIPE)
    other = replace(RECIPE, floor_db=-30.0)
    with pytest.raises(RecipeMismatch, match="floor_db"):
        MoEEncoder(experts() | {"nr": build_encoder("tiny", other, name="nr")}, router)
    wider = SpectrogramEncoder(replace(experts()["nr"].config, width=64), RECIPE)
    with pytest.raises(ModelError, match="num_features 32 and 64"):
        MoEEncoder(experts() | {"nr": wider}, router)
    with pytest.raises(ModelError, match="the same names"):
        MoEEncoder({name: one for name, one in experts().items() if name != "nr"}, router)
    with pytest.raises(ModelError, match="different names"):
        RouterConfig(("lte", "lte"))
