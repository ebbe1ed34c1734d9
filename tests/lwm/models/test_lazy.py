"""Experts built when they are asked for give what experts loaded at once give, and are loaded as strictly."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lwm.errors import ModelError
from lwm.hub import check_model, from_pretrained, load_strictly, save_pretrained
from lwm.models.encoder import build_encoder
from lwm.models.lazy import LazyExperts
from lwm.models.moe import MoEEncoder
from lwm.models.router import Router, RouterConfig
from lwm.models.weights import without_initialisation
from lwm.signal.recipe import recipe_named

RECIPE = recipe_named("small")
NAMES = ("lte", "nr", "wlan")


@pytest.fixture(scope="module")
def whole() -> MoEEncoder:
    torch.manual_seed(0)
    experts = {name: build_encoder("tiny", RECIPE, -10, 8, name=name, seed=i) for i, name in enumerate(NAMES)}
    return MoEEncoder(experts, Router(RouterConfig(NAMES), RECIPE, -10, 8)).eval()


@pytest.fixture
def file(whole: MoEEncoder, tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in whole.state_dict().items()}, path)
    return path


def lazily(whole: MoEEncoder, file: Path, resident: int | None = None) -> MoEEncoder:
    mixture = MoEEncoder.from_config(whole.get_config(), RECIPE, lazy=True, resident=resident)
    mixture.load_state_dict(load_file(file), strict=True, assign=True)
    return mixture.eval()


def built(mixture: MoEEncoder) -> set[str]:
    assert isinstance(mixture.experts, LazyExperts)
    return set(mixture.experts.built)


def pictures(batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    level = torch.randn(batch, 1, 1, 1, generator=generator) * 20
    return level + torch.randn(batch, 1, 64, 64, generator=generator) * 8


@torch.no_grad()
def test_experts_are_built_when_a_picture_asks(whole: MoEEncoder, file: Path) -> None:
    mixture = lazily(whole, file)
    assert built(mixture) == set()
    x = pictures(24)
    chosen = whole.route(x).argmax(1)
    for number in chosen.unique().tolist():
        part = x[chosen == number]
        assert torch.equal(mixture.forward_features(part), whole.forward_features(part))
    assert built(mixture) == {NAMES[number] for number in chosen.unique().tolist()}
    assert torch.equal(mixture.forward_features(x), whole.forward_features(x))


@torch.no_grad()
def test_a_limit_of_resident_experts_holds(whole: MoEEncoder, file: Path) -> None:
    mixture, x = lazily(whole, file, resident=1), pictures(24)
    assert len(whole.route(x).argmax(1).unique()) > 1
    assert torch.equal(mixture.forward_features(x), whole.forward_features(x))
    assert len(built(mixture)) == 1
    torch.testing.assert_close(mixture.golden(x[:2]), whole.golden(x[:2]), atol=0, rtol=0)
    assert built(mixture) == {NAMES[-1]}
    with pytest.raises(ModelError, match="0 resident"):
        MoEEncoder.from_config(whole.get_config(), RECIPE, lazy=True, resident=0)


def test_least_recently_used_goes_first(whole: MoEEncoder, file: Path) -> None:
    experts = lazily(whole, file, resident=2).experts
    assert isinstance(experts, LazyExperts)
    first = experts["lte"]
    assert [experts[name] for name in ("nr", "lte")][1] is first
    assert experts["wlan"].name == "wlan"
    assert experts.built == ("lte", "wlan")


def test_state_dict_is_that_of_the_whole(whole: MoEEncoder, file: Path) -> None:
    fresh = MoEEncoder.from_config(whole.get_config(), RECIPE, lazy=True)
    shapes = {key: value.shape for key, value in whole.state_dict().items()}
    assert {key: value.shape for key, value in fresh.state_dict().items()} == shapes
    with pytest.raises(ModelError, match="without weights"):
        fresh.experts["lte"]
    mixture = lazily(whole, file)
    torch.testing.assert_close(dict(mixture.state_dict()), dict(whole.state_dict()), atol=0, rtol=0)
    assert built(mixture) == set()
    assert mixture.get_config() == whole.get_config()


def test_loading_is_as_strict_as_ever(whole: MoEEncoder) -> None:
    weights = dict(whole.state_dict())
    weights["experts.lte.extra"] = weights.pop("experts.lte.norm.bias")
    weights["experts.nr.norm.weight"] = torch.ones(7)
    weights["experts.gsm.norm.weight"] = torch.ones(32)
    lazy, eager = (MoEEncoder.from_config(whole.get_config(), RECIPE, lazy=one) for one in (True, False))
    for model in (lazy, eager):
        with pytest.raises(ModelError) as said:
            load_strictly(model, weights, "here")
        for part in (
            "missing [experts.lte.norm.bias]",
            "unexpected [experts.gsm.norm.weight, experts.lte.extra]",
            "experts.nr.norm.weight (7,) instead of (32,)",
        ):
            assert part in str(said.value)
        with pytest.raises(RuntimeError) as raised:
            model.load_state_dict(weights, strict=True)
        for key in ("experts.lte.norm.bias", "experts.lte.extra", "experts.gsm", "experts.nr.norm.weight"):
            assert key in str(raised.value)
    with pytest.raises(ModelError, match="without weights"):
        lazy.experts["wlan"]


def test_weights_given_without_assign_are_copied(whole: MoEEncoder) -> None:
    mixture = MoEEncoder.from_config(whole.get_config(), RECIPE, lazy=True)
    weights = {key: value.clone() for key, value in whole.state_dict().items()}
    mixture.load_state_dict(weights)
    weights["experts.lte.norm.bias"].fill_(7.0)
    assert not (mixture.experts["lte"].norm.bias == 7.0).any()


@torch.no_grad()
def test_built_experts_follow_the_type_of_the_mixture(whole: MoEEncoder, file: Path) -> None:
    mixture = lazily(whole, file)
    mixture(pictures(4))
    mixture.to(torch.bfloat16)
    expert = mixture.experts["lte"]
    assert {value.dtype for value in expert.state_dict().values()} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in expert.parameters())
    mixture.set_grad_checkpointing()
    assert mixture.experts["lte"].grad_checkpointing
    assert mixture.experts["nr"].grad_checkpointing


def test_an_expert_built_without_gradients_lets_them_through_later(whole: MoEEncoder, file: Path) -> None:
    mixture, x = lazily(whole, file), pictures(4)
    with torch.inference_mode():
        mixture(x)
    x.requires_grad_(True)
    mixture(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_from_a_folder(whole: MoEEncoder, tmp_path: Path) -> None:
    folder, x = save_pretrained(whole, tmp_path / "moe"), pictures(24)
    with torch.no_grad():
        for options in ({}, {"mapped": True}):
            mixture = from_pretrained(folder, lazy=True, resident=2, **options)
            assert built(mixture) == set()
            torch.testing.assert_close(mixture(x), whole(x), atol=1e-6, rtol=1e-6)
    again = save_pretrained(mixture, tmp_path / "again")
    assert check_model(again) == []
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_nothing_is_drawn_without_initialisation(whole: MoEEncoder) -> None:
    state = torch.get_rng_state()
    with without_initialisation():
        blank = MoEEncoder.from_config(whole.get_config(), RECIPE)
        kept = torch.nn.Linear(2, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert kept.weight.requires_grad
    blank.load_state_dict(whole.state_dict(), assign=True)
    x = pictures(4)
    with torch.no_grad():
        assert torch.equal(blank.eval()(x), whole(x))
    MoEEncoder.from_config(whole.get_config(), RECIPE)
    assert not torch.equal(torch.get_rng_state(), state)
