"""Every registered head keeps the contract: grids, prefix tokens, precisions, gradients, folders, eight samples."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lwm.errors import ConfigError, ModelError
from lwm.hub import check_model, from_pretrained, save_pretrained, weights_sha256
from lwm.models.boxes import Boxes, pad_boxes
from lwm.models.encoder import build_encoder
from lwm.models.head import Head, TokenShape
from lwm.models.headed import HeadedModel
from lwm.registry import HEADS, load, names
from lwm.signal.recipe import recipe_named

RECIPE = recipe_named("small")
SHAPE = TokenShape(16, (3, 4), (6, 8), prefix=1)
NAMES = ("a", "b", "c")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def boxes(count: int) -> Boxes:
    """One box in each even sample and two in each odd one, at random."""
    rng = generator(3)
    sizes = [1 + number % 2 for number in range(count)]
    places = [torch.rand(n, 4, generator=rng) * 0.3 + torch.tensor([0.2, 0.2, 0.1, 0.1]) for n in sizes]
    return pad_boxes(places, [torch.arange(n) + number % 2 for number, n in enumerate(sizes)])


TARGETS: dict[str, Callable[[int, tuple[int, int]], Any]] = {
    "classification": lambda count, size: torch.arange(count) % 3,
    "multilabel": lambda count, size: torch.randint(2, (count, 3), generator=generator(4)),
    "segmentation": lambda count, size: torch.randint(3, (count, *size), generator=generator(5)).to(torch.uint8),
    "regression": lambda count, size: torch.randn(count, 3, generator=generator(6)) * 10 + 5,
    "detection": lambda count, size: boxes(count),
}
"""Targets of a number of samples with pictures of a size, by kind."""


def build(name: str, shape: TokenShape = SHAPE, seed: int = 0) -> Head:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load(HEADS, name)(shape, NAMES)


def stirred(head: Head) -> Head:
    """The same with random weights everywhere: a layer that starts at zero hides what is before it."""
    for number, weight in enumerate(head.parameters()):
        noise = torch.randn(weight.shape, generator=generator(number), dtype=weight.dtype)
        weight.data.add_(0.3 * noise)
    return head


def tokens(count: int = 4, length: int = 12, width: int = 16, seed: int = 1) -> Tensor:
    return torch.randn(count, length, width, generator=generator(seed))


every_head = pytest.mark.parametrize("name", names(HEADS))


def test_all_of_them_are_registered() -> None:
    expected = {"activity", "attention", "detection", "linear", "multilabel", "regression", "residual_cnn"}
    assert expected | {"segmentation"} <= set(names(HEADS))
    assert all(load(HEADS, name).head_type == name for name in names(HEADS))


@every_head
def test_prefix_tokens_are_ignored(name: str) -> None:
    head = stirred(build(name)).eval()
    with_prefix = torch.cat([tokens(length=1, seed=9) * 100, tokens()], dim=1)
    found, expected = (head.as_tensor(head(part)) for part in (with_prefix, tokens()))
    assert torch.equal(found, expected)


@every_head
def test_works_on_another_grid_and_refuses_a_wrong_one(name: str) -> None:
    head = stirred(build(name))
    output = head(tokens(length=30), (5, 6))
    target = TARGETS[head.kind](4, (10, 12))
    assert torch.isfinite(head.loss(output, target))
    if head.kind == "segmentation":
        assert output.shape == (4, 3, 10, 12)
    for wrong in (tokens(length=14), tokens(width=8), [tokens(), tokens()]):
        with pytest.raises(ModelError, match="tokens of"):
            head(wrong)


@every_head
def test_reads_several_layers(name: str) -> None:
    head = stirred(build(name, TokenShape(16, (3, 4), (6, 8), prefix=1, layers=2))).eval()
    first, second = tokens(seed=1), tokens(seed=2)
    assert head.mix is not None
    assert head.reads == "tokens"
    head.mix.data = torch.tensor([30.0, -30.0])
    # The first layer alone decides, whatever its scale.
    found, again = (head.as_tensor(head([part, second])) for part in (first, 5 * first))
    torch.testing.assert_close(found, again, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found, head.as_tensor(head([first, tokens(seed=3)])))


@every_head
@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_bfloat16_agrees_with_float32(name: str, how: str) -> None:
    head = stirred(build(name)).eval()
    target = TARGETS[head.kind](4, (6, 8))
    expected = head.as_tensor(head(tokens())).detach()
    if how == "weights":
        output = head.to(torch.bfloat16)(tokens().bfloat16())
    else:
        with torch.autocast("cpu", torch.bfloat16):
            output = head(tokens())
    loss = head.loss(output, target)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in head.parameters() if weight.grad is not None)
    off = (head.as_tensor(output).detach().float() - expected).abs().max() / expected.abs().max()
    assert 0 < off < 0.08  # eight bits, a handful of layers


@every_head
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    head = stirred(build(name)).double().eval()
    head.requires_grad_(False)
    x = tokens(2).double().requires_grad_()

    def output(x: Tensor) -> Tensor:
        # Boxes are float32 on purpose: only the scores can be compared with a step of 1e-6.
        found = head(x)
        return found.scores if head.kind == "detection" else found

    # Features pooled in float32 leave seven digits: a larger step.
    assert torch.autograd.gradcheck(
        output, x, fast_mode=True, eps=1e-2 if hasattr(head, "pooling") else 1e-6, atol=5e-3, rtol=5e-3
    )


@every_head
def test_learns_eight_samples(name: str) -> None:
    head = build(name)
    x = tokens(8)
    target = TARGETS[head.kind](8, (6, 8))
    head.fit_targets(target)
    if head.reads == "pooled":
        head.fit_features(head.pool(x))  # type: ignore[operator]
    rate, steps = (0.005, 200) if head.kind == "detection" else (0.01, 150)
    optimizer = torch.optim.AdamW(head.parameters(), rate, weight_decay=0.0)
    first: float | None = None
    for _ in range(steps):
        optimizer.zero_grad()
        loss = head.loss(head(x), target)
        loss.backward()
        optimizer.step()
        first = first or float(loss.detach())
    metrics = head.metrics()
    head.eval()
    with torch.inference_mode():
        metrics.update(head.predict(head(x)), target)
    found = {key: float(value) for key, value in metrics.compute().items()}
    least = {
        "classification": ("accuracy", 0.999),
        "multilabel": ("mean_average_precision", 0.999),
        "segmentation": ("accuracy", 0.99),
        "regression": ("r2_a", 0.99),
        "detection": ("map_50", 0.99),
    }
    key, bar = least[head.kind]
    assert found[key] > bar, (first, found)
    assert first is not None
    assert float(loss.detach()) < first


@every_head
def test_a_frozen_encoder_stays_as_it_is(name: str) -> None:
    encoder = build_encoder("tiny", RECIPE, mean=-10, std=8, seed=1)
    head = stirred(build(name, TokenShape.of(encoder)))
    model = HeadedModel(encoder, head).train()
    before, untrained = weights_sha256(encoder), weights_sha256(head)
    x = torch.randn(4, 1, 64, 64, generator=generator(2)) * 8 - 10
    target = TARGETS[head.kind](4, (64, 64))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        head.loss(model(x), target).backward()
        optimizer.step()
    assert not any(module.training for module in encoder.modules())
    assert head.training
    assert all(weight.grad is None for weight in encoder.parameters())
    assert weights_sha256(encoder) == before
    assert weights_sha256(head) != untrained


@every_head
def test_a_folder_of_it_gives_the_same_output(name: str, tmp_path: Path) -> None:
    encoder = build_encoder("tiny", RECIPE, mean=-10, std=8, seed=1)
    head = stirred(build(name, TokenShape.of(encoder, 2)))
    config = json.loads(json.dumps(head.get_config()))
    assert json.loads(json.dumps(type(head).from_config(config).get_config())) == config
    model = HeadedModel(encoder, head, layers=[0, 1]).eval()
    save_pretrained(model, tmp_path / "model")
    assert check_model(tmp_path / "model") == []
    again = from_pretrained(tmp_path / "model")
    assert (again.head.targets, again.layers) == (NAMES, (0, 1))
    x = torch.randn(2, 1, 64, 64, generator=generator(2)) * 8 - 10
    assert torch.equal(head.as_tensor(again(x)), head.as_tensor(model(x)))


def test_an_encoder_that_is_not_frozen_learns() -> None:
    encoder = build_encoder("tiny", RECIPE, seed=1)
    model = HeadedModel(encoder, stirred(build("linear", TokenShape.of(encoder))), frozen=False).train()
    assert encoder.training
    model.head.loss(model(torch.randn(3, 1, 64, 64)), torch.arange(3)).backward()
    assert all(weight.grad is not None for weight in encoder.blocks.parameters())


def test_pictures_of_another_size() -> None:
    encoder = build_encoder("tiny", RECIPE, seed=1)
    model = HeadedModel(encoder, stirred(build("segmentation", TokenShape.of(encoder)))).eval()
    assert model.predict(torch.randn(2, 1, 32, 96)).shape == (2, 3, 32, 96)


def test_wrong_heads_are_refused() -> None:
    encoder = build_encoder("tiny", RECIPE, seed=1)
    with pytest.raises(ModelError, match="a head for TokenShape"):
        HeadedModel(encoder, build("linear"))
    with pytest.raises(ConfigError, match="none of them twice"):
        load(HEADS, "linear")(SHAPE, ("a", "a"))
    with pytest.raises(ConfigError, match="two classes or more"):
        load(HEADS, "attention")(SHAPE, ("a",))
    with pytest.raises(ConfigError, match="divides the width"):
        load(HEADS, "segmentation")(SHAPE, NAMES, attention_heads=3)
    with pytest.raises(ModelError, match="the grid divides"):
        TokenShape(16, (3, 4), (7, 8))
    with pytest.raises(ModelError, match="a config of LinearHead"):
        load(HEADS, "linear").from_config({"targets": NAMES})
