"""The mixture of experts is the chosen expert, token for token."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from lwm.errors import ModelError, RecipeMismatch
from lwm.models.dispatch import Mode
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
    rows = torch.arange(24)
    alone = torch.stack([of[name].forward_features(x) for name in NAMES])[chosen, rows]
    for order in (rows, rows.flip(0), torch.randperm(24, generator=torch.Generator().manual_seed(0)), chosen.argsort()):
        torch.testing.assert_close(mixture.forward_features(x[order]), alone[order], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(mixture.forward_intermediates(x, [-1], norm=True)[0], alone, atol=1e-6, rtol=1e-6)
    for one in rows[:4]:
        single = of[NAMES[chosen[one]]].forward_features(x[one : one + 1])
        assert torch.equal(mixture.forward_features(x[one : one + 1]), single)


@torch.no_grad()
def test_only_the_chosen_experts_weights_are_used(mixture: MoEEncoder) -> None:
    x = pictures(24)
    chosen = mixture.route(x).argmax(1)
    clean = mixture.forward_features(x)
    for number, name in enumerate(NAMES):
        poisoned = copy.deepcopy(mixture)
        for weight in poisoned.experts[name].parameters():
            weight.fill_(float("nan"))
        tokens = poisoned.forward_features(x)
        assert torch.equal(tokens.isnan().any(2).any(1), chosen == number)
        assert torch.equal(tokens[chosen != number], clean[chosen != number])
        # A batch without its pictures never meets it.
        assert poisoned.forward_features(x[chosen != number]).isfinite().all()


@torch.no_grad()
def test_each_expert_runs_once_on_its_own_share(mixture: MoEEncoder) -> None:
    x, ran = pictures(24), {name: [] for name in NAMES}
    for name, expert in mixture.experts.items():
        expert.blocks[0].register_forward_pre_hook(lambda _, given, name=name: ran[name].append(len(given[0])))
    shares = mixture.route(x).argmax(1).bincount(minlength=3).tolist()
    mixture(x)
    assert ran == {name: [share] if share else [] for name, share in zip(NAMES, shares, strict=True)}


def by_hand(mixture: MoEEncoder, x: torch.Tensor, k: int) -> torch.Tensor:
    """Picture by picture: the k most probable experts, weighted by their probabilities over the sum of these."""
    made = []
    for one, probabilities in zip(x, mixture.route(x), strict=True):
        best = probabilities.argsort(descending=True)[:k].tolist()
        share = probabilities[best] / probabilities[best].sum()
        tokens: list[Any] = [mixture.experts[NAMES[e]].forward_features(one[None])[0] for e in best]
        made.append(sum(weight * part for weight, part in zip(share, tokens, strict=True)))
    return torch.stack(made)


@torch.no_grad()
@pytest.mark.parametrize(("mode", "top_k", "k"), [("top-k", 1, 1), ("top-k", 2, 2), ("top-k", 3, 3), ("soft", 2, 3)])
def test_mixtures_are_weighted_sums(mixture: MoEEncoder, mode: Mode, top_k: int, k: int) -> None:
    x, order = pictures(12), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    # Spread the probabilities, so that no weight is nearly one.
    mixture.router.head.weight.mul_(0.2)
    expected = by_hand(mixture, x, k)
    mixture.set_mode(mode, top_k)
    torch.testing.assert_close(mixture.forward_features(x), expected, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(mixture.forward_features(x[order]), expected[order], atol=2e-6, rtol=1e-5)
    if mode == "top-k" and top_k == 1:
        mixture.set_mode("top-1")
        torch.testing.assert_close(mixture.forward_features(x), expected, atol=2e-6, rtol=1e-5)


def test_soft_mixture_trains_the_router(mixture: MoEEncoder) -> None:
    x = pictures(4)
    for mode, reached in (("top-1", False), ("top-k", True), ("soft", True)):
        mixture.zero_grad(set_to_none=True)
        mixture.set_mode(mode)
        mixture(x).square().sum().backward()
        gradient = mixture.router.head.weight.grad
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) is reached
    assert all(weight.grad is not None for weight in mixture.experts.parameters())


@torch.no_grad()
@pytest.mark.parametrize("mode", ["top-1", "top-k"])
def test_exported_graph_has_no_control_flow_and_the_same_tokens(mixture: MoEEncoder, mode: Mode) -> None:
    mixture.set_mode(mode)
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    program = torch.export.export(mixture, (pictures(8),), dynamic_shapes=(batch,))
    x = pictures(24)
    assert len(mixture.route(x).argmax(1).unique()) > 1
    torch.testing.assert_close(program.module()(x), mixture(x), atol=1e-5, rtol=1e-5)


def test_mode_is_kept_in_the_config(mixture: MoEEncoder) -> None:
    assert mixture.mode == "top-1"
    mixture.set_mode("top-k", 3)
    again = MoEEncoder.from_config(json.loads(json.dumps(mixture.get_config())), RECIPE)
    assert (again.mode, again.top_k, again.expert_names) == ("top-k", 3, NAMES)
    assert again.state_dict().keys() == mixture.state_dict().keys()
    wrong: Any = "best"
    with pytest.raises(ModelError, match="'best'"):
        mixture.set_mode(wrong)
    with pytest.raises(ModelError, match="top_k 4 of 3"):
        mixture.set_mode("top-k", 4)


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
    pooled = SpectrogramEncoder(replace(experts()["nr"].config, pooling="mean"), RECIPE)
    with pytest.raises(ModelError, match="pooling mean_spread and mean"):
        MoEEncoder(experts() | {"nr": pooled}, router)
    with pytest.raises(ModelError, match="the same names"):
        MoEEncoder({name: one for name, one in experts().items() if name != "nr"}, router)
    with pytest.raises(ModelError, match="different names"):
        RouterConfig(("lte", "lte"))
