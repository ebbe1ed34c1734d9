"""The router: kinds and grids, calibration by temperature, one more column, configs that go round."""

import json
from itertools import product
from typing import Any

import pytest
import torch
from torch.nn import functional

from lwm.errors import ModelError
from lwm.models.encoder import build_encoder
from lwm.models.router import TEMPERATURES, Router, RouterConfig, fit_temperature
from lwm.signal.recipe import recipe_named

RECIPE = recipe_named("small")
NAMES = ("lte", "nr", "wlan")
KINDS: list[dict[str, Any]] = [{}, {"grid": 16, "width": 32}, {"kind": "cnn"}, {"kind": "cnn", "grid": 32, "width": 16}]


def router(**options: Any) -> Router:
    torch.manual_seed(0)
    return Router(RouterConfig(NAMES, **options), RECIPE, -10, 8).eval()


def pictures(batch: int) -> torch.Tensor:
    return torch.randn(batch, 1, 64, 64, generator=torch.Generator().manual_seed(1)) * 8 - 10


@torch.no_grad()
@pytest.mark.parametrize("options", KINDS)
def test_features_and_head_are_the_logits(options: dict[str, Any]) -> None:
    made, x = router(**options), pictures(3)
    features = made.features(x)
    assert features.shape == (3, options.get("width", 64))
    torch.testing.assert_close(made.head(features), made(x))
    torch.testing.assert_close(made.probabilities(x), made(x).softmax(1))
    # Its own statistics are inside: the same picture in other units and statistics of these units are one thing.
    made.trunk.mean.fill_(-10 * 3.0 + 1)
    made.trunk.std.fill_(8 * 3.0)
    torch.testing.assert_close(made.features(3 * x + 1), features, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", KINDS)
def test_config_goes_round_through_json(options: dict[str, Any]) -> None:
    made = router(**options)
    made.calibrate(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 9, torch.arange(50) % 3)
    plain = json.loads(json.dumps(made.get_config()))
    again = Router.from_config(plain, RECIPE)
    assert again.get_config() == made.get_config()
    assert again.temperature == made.temperature != 1
    again.load_state_dict(made.state_dict())
    torch.testing.assert_close(again.eval().probabilities(pictures(2)), made.probabilities(pictures(2)))


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 4.0])
def test_temperature_is_found_again(true_temperature: float) -> None:
    # Labels drawn from softmax(z); the router claims softmax(T z). 20,000 draws: the estimate's standard error is
    # under 2 % here, 10 % is five of them.
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 4, generator=generator)
    truth = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    found = fit_temperature(true_temperature * logits, truth)
    assert found == pytest.approx(true_temperature, rel=0.1)
    losses = [functional.cross_entropy(true_temperature * logits / (found * f), truth) for f in (0.9, 1, 1.1)]
    assert min(losses) == losses[1]


def test_few_right_samples_do_not_promise_certainty() -> None:
    # All N right by a wide margin: the best mean probability of the truth is (N + 1) / (N + E) by construction.
    for count, experts in product((10, 1000), (2, 5)):
        truth = torch.arange(count) % experts
        logits = 6.0 * functional.one_hot(truth, experts)
        found = fit_temperature(logits, truth)
        assert TEMPERATURES[0] < found < TEMPERATURES[1]
        claimed = (logits / found).softmax(1)[torch.arange(count), truth].mean()
        assert claimed == pytest.approx((count + 1) / (count + experts), abs=1e-3)


def test_weights_of_samples_count_in_the_temperature() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(400, 3, generator=generator)
    truth = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    logits[:100] *= 5  # overconfident
    whole, part = fit_temperature(logits, truth), fit_temperature(logits[:100], truth[:100])
    assert abs(part - whole) > 0.5
    assert fit_temperature(logits, truth, torch.full((400,), 7.0)) == pytest.approx(whole, rel=1e-3)
    assert fit_temperature(logits, truth, (torch.arange(400) < 100).float()) == pytest.approx(part, rel=1e-3)


@torch.no_grad()
def test_calibration_moves_no_choice() -> None:
    made, x = router(), pictures(32)
    before = made.probabilities(x).argmax(1)
    made.calibrate(made(x), torch.arange(32) % 3)
    assert torch.equal(made.probabilities(x).argmax(1), before)
    torch.testing.assert_close(made.probabilities(x), (made(x) / made.temperature).softmax(1))


@torch.no_grad()
@pytest.mark.parametrize("options", KINDS)
def test_one_more_expert_changes_no_other_bit(options: dict[str, Any]) -> None:
    made, x = router(temperature=2.5, **options), pictures(4)
    kept = {name: value.clone() for name, value in made.state_dict().items()}
    wider = made.with_expert("bluetooth")
    assert wider.names == (*NAMES, "bluetooth")
    assert made.names == NAMES
    now = wider.state_dict()
    for name, value in kept.items():
        part = now[name][:3] if name.startswith("head.") else now[name]
        assert torch.equal(part, value), name
    assert torch.equal(wider.features(x), made.features(x))
    torch.testing.assert_close(wider(x)[:, :3], made(x))
    wider.head.bias.fill_(0)
    assert torch.equal(made.head.bias, kept["head.bias"])
    with pytest.raises(ModelError, match="different names"):
        made.with_expert("nr")


def test_cost_of_router_and_expert() -> None:
    # Multiplications and additions of one picture; the speed itself is the benchmark's.
    from torch.utils.flop_counter import FlopCounterMode

    def cost(model: torch.nn.Module) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 1, 128, 128))
        return int(counter.get_total_flops())

    recipe = recipe_named("lwm")
    expert = cost(build_encoder("lwm", recipe))
    assert cost(Router(RouterConfig(NAMES), recipe)) < 0.1 * expert
    assert cost(Router(RouterConfig(NAMES, kind="cnn"), recipe)) < 0.1 * expert
    assert cost(Router(RouterConfig(NAMES, grid=32, width=128, heads=8), recipe)) < 0.2 * expert


def test_refusals() -> None:
    with pytest.raises(ModelError, match="7 divides"):
        router(grid=7)
    with pytest.raises(ModelError, match="kind 'mlp'"):
        router(kind="mlp")
    with pytest.raises(ModelError, match="temperature > 0"):
        router(temperature=0.0)
    with pytest.raises(ModelError, match="times the grid"):
        router(kind="cnn", grid=64)
