"""timm's own ViTs: behind our contract, and as the start of our encoder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from lwm.errors import ConfigError, ModelError
from lwm.models.encoder import SpectrogramEncoder
from lwm.models.sizes import EncoderConfig
from lwm.models.timm_encoder import TimmConfig, TimmEncoder
from lwm.models.timm_weights import init_from_timm
from lwm.signal.recipe import Recipe, recipe_named

RECIPE = recipe_named("small")
SHAPE = EncoderConfig(patch=16, width=32, depth=2, heads=4, position="learned", cls_token=True)
CONFIG = TimmConfig("test_vit", name="lte")


def small_vit(**options: Any) -> torch.nn.Module:
    torch.manual_seed(3)
    shape = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    return timm.models.VisionTransformer(**(shape | options)).eval()


def saved(tmp_path: Path, vit: torch.nn.Module) -> Path:
    path = tmp_path / "vit.safetensors"
    save_file(vit.state_dict(), path)
    return path


def colour(**options: Any) -> Recipe:
    return replace(RECIPE, channels="viridis", **options)


def test_same_shape_gives_timms_own_tokens(tmp_path: Path) -> None:
    vit = small_vit()
    encoder = SpectrogramEncoder(SHAPE, colour()).eval()
    report = init_from_timm(encoder, saved(tmp_path, vit))
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(encoder.forward_features(x), vit.forward_features(x), atol=1e-5, rtol=1e-5)
    assert set(report.left_out) == {"head.weight", "head.bias"}
    assert set(report.adapted) == {"cls_token"}
    assert {"pos_embed", "blocks.1.attn.qkv.weight", "patch_embed.proj.weight"} <= set(report.taken)
    assert {*report.taken, *report.adapted, *report.left_out} == vit.state_dict().keys()
    assert report.fresh == ()


def test_one_channel_sees_a_grey_picture_as_three_do(tmp_path: Path) -> None:
    vit = small_vit()
    encoder = SpectrogramEncoder(SHAPE, RECIPE).eval()
    report = init_from_timm(encoder, saved(tmp_path, vit))
    grey = torch.randn(2, 1, 64, 64)
    expected = vit.forward_features(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(encoder.forward_features(grey), expected, atol=1e-5, rtol=1e-5)
    assert report.adapted["patch_embed.proj.weight"] == "3 channels to 1"


def test_patch_and_positions_are_resampled(tmp_path: Path) -> None:
    vit = small_vit()
    encoder = SpectrogramEncoder(replace(SHAPE, patch=32), colour(size=(64, 128))).eval()
    report = init_from_timm(encoder, saved(tmp_path, vit))
    assert report.adapted["patch_embed.proj.weight"] == "patch 16 to 32"
    assert report.adapted["pos_embed"] == "grid 4x4 to 2x4"
    # FlexiViT's resize: a patch made larger embeds as it did before.
    small = torch.randn(1, 3, 16, 16)
    large = torch.nn.functional.interpolate(small, size=(32, 32), mode="bicubic", antialias=True)
    before = vit.patch_embed.proj(small).flatten(1)
    torch.testing.assert_close(encoder.patch_embed(large.flatten(1)), before, atol=1e-3, rtol=1e-3)


def test_sines_and_no_class_token_leave_theirs_out(tmp_path: Path) -> None:
    encoder = SpectrogramEncoder(replace(SHAPE, position="sinusoidal", cls_token=False), colour())
    report = init_from_timm(encoder, saved(tmp_path, small_vit()))
    assert {"pos_embed", "cls_token"} <= set(report.left_out)


def test_torch_files_are_read_without_running_them(tmp_path: Path) -> None:
    path, vit = tmp_path / "vit.pth", small_vit()
    torch.save({"model": vit.state_dict(), "epoch": 3}, path)
    encoder = SpectrogramEncoder(SHAPE, colour())
    init_from_timm(encoder, path)
    torch.testing.assert_close(encoder.blocks[1].mlp.fc1.weight, vit.blocks[1].mlp.fc1.weight)
    torch.save(vit, path)
    with pytest.raises(ModelError, match="nothing but tensors"):
        init_from_timm(encoder, path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"depth": 1}, r"missing.*blocks\.1"),
        ({"depth": 3}, r"unexpected.*blocks\.2"),
        ({"embed_dim": 64}, r"misshapen.*64.*instead of.*32"),
        ({"init_values": 1e-5}, r"unexpected.*ls1"),
    ],
)
def test_another_architecture_is_refused_and_changes_nothing(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    encoder = SpectrogramEncoder(SHAPE, colour())
    before: dict[str, Tensor] = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(ModelError, match=said):
        init_from_timm(encoder, saved(tmp_path, small_vit(**options)))
    torch.testing.assert_close(dict(encoder.state_dict()), before)


def test_unreadable_checkpoints_are_refused(tmp_path: Path) -> None:
    encoder = SpectrogramEncoder(SHAPE, colour())
    with pytest.raises(ModelError, match="no checkpoint"):
        init_from_timm(encoder, tmp_path / "none.pth")
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"not a checkpoint")
        with pytest.raises(ModelError, match="cannot be read"):
            init_from_timm(encoder, tmp_path / name)


def test_timm_encoder_keeps_the_contract() -> None:
    torch.manual_seed(0)
    encoder = TimmEncoder(CONFIG, RECIPE, mean=-10, std=8).eval()
    x = torch.randn(2, 1, 64, 64) * 8 - 10
    tokens = encoder.forward_features(x)
    rows, columns = encoder.grid_size
    assert tokens.shape == (2, encoder.num_prefix_tokens + rows * columns, encoder.num_features)
    torch.testing.assert_close(tokens, encoder.vit.forward_features((x + 10) / 8))
    assert encoder(x).shape == (2, encoder.head_features)
    found = encoder.forward_intermediates(x, norm=True)
    assert len(found) == encoder.depth
    torch.testing.assert_close(found[-1], tokens)
    torch.testing.assert_close(encoder.forward_intermediates(x, [0], norm=True)[0], found[0])
    assert (encoder.in_chans, encoder.recipe, encoder.name) == (1, RECIPE, "lte")


def test_timm_encoder_is_rebuilt_from_its_config() -> None:
    encoder = TimmEncoder(CONFIG, RECIPE, mean=-10, std=8).eval()
    twin = TimmEncoder.from_config(encoder.get_config(), RECIPE).eval()
    twin.load_state_dict(encoder.state_dict(), strict=True)
    x = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(twin.golden(x), encoder.golden(x))


def test_timm_groups_every_parameter() -> None:
    from timm.models import group_parameters

    encoder = TimmEncoder(CONFIG, RECIPE)
    layers = group_parameters(encoder, encoder.group_matcher(), reverse=True)
    assert set(layers) == {name for name, _ in encoder.named_parameters()}
    assert layers["vit.patch_embed.proj.weight"] < layers["vit.blocks.0.mlp.fc1.weight"]


def test_timm_checkpointing_changes_no_gradient() -> None:
    encoder, x = TimmEncoder(CONFIG, RECIPE), torch.randn(2, 1, 64, 64)
    gradients = []
    for enable in (False, True):
        encoder.zero_grad()
        encoder.set_grad_checkpointing(enable)
        encoder(x).square().sum().backward()
        gradients.append(encoder.vit.patch_embed.proj.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_timm_refusals() -> None:
    with pytest.raises(ConfigError, match="'vit_imaginary'"):
        TimmEncoder(TimmConfig("vit_imaginary"), RECIPE)
    with pytest.raises(ModelError, match="ResNet"):
        TimmEncoder(TimmConfig("resnet18"), RECIPE)
    with pytest.raises(ModelError, match=r"\(64, 64\).*patch \(24\)"):
        TimmEncoder(replace(CONFIG, patch=24), RECIPE)
    with pytest.raises(ModelError, match=r"\(3, 64, 64\).*\(1, 64, 64\)"):
        TimmEncoder(CONFIG, RECIPE)(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ModelError, match="colour"):
        TimmEncoder.from_config({"architecture": "test_vit", "colour": 1}, RECIPE)
