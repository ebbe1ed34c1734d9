"""The pyramid of a patch against convolutions, and what masked modelling and other channels ask of a stem."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import conv2d, gelu

from heads.activity import adapt_encoder
from lwm.errors import ConfigError
from lwm.models.encoder import SpectrogramEncoder, patchify
from lwm.models.sizes import EncoderConfig
from lwm.models.stem import PatchPyramid
from lwm.signal.recipe import recipe_named

RECIPE = recipe_named("small")
CONFIG = EncoderConfig(patch=8, width=32, depth=1, heads=4, stem="pyramid")


@pytest.mark.parametrize(("channels", "patch"), [(1, 2), (1, 4), (3, 8)])
def test_a_pyramid_is_strided_convolutions(channels: int, patch: int) -> None:
    torch.manual_seed(0)
    stem = PatchPyramid(channels, patch, 16)
    x = torch.randn(2, channels, 16, 16)
    wanted = x
    for level in stem.levels:
        kernel = level.weight.unflatten(1, (2, 2, -1)).movedim(-1, 1)
        wanted = gelu(conv2d(wanted, kernel, level.bias, stride=2))
    wanted = stem.top(wanted.flatten(2).transpose(1, 2))
    torch.testing.assert_close(stem(patchify(x, patch)), wanted)


def test_hidden_patches_are_not_looked_at() -> None:
    encoder = SpectrogramEncoder(CONFIG, RECIPE).eval()
    x = torch.randn(1, 1, 64, 64, requires_grad=True)
    encoder.encode_visible(x, torch.tensor([[0, 9]])).sum().backward()
    assert x.grad is not None
    seen = patchify(x.grad, 8).abs().sum(-1)[0] > 0
    assert seen.nonzero()[:, 0].tolist() == [0, 9]


@pytest.mark.parametrize("stem", ["linear", "pyramid"])
def test_the_same_picture_in_every_channel_embeds_as_it_did(stem: str) -> None:
    encoder = SpectrogramEncoder(replace(CONFIG, stem=stem), RECIPE).eval()  # type: ignore[arg-type]
    twin = adapt_encoder(encoder, replace(RECIPE, channels="rgb"), (0.0, 1.0))
    x = torch.randn(2, 1, 64, 64)
    assert twin.in_chans == 3
    torch.testing.assert_close(twin(x.expand(-1, 3, -1, -1)), encoder(x), atol=1e-5, rtol=1e-4)


def test_what_cannot_be_halved_down_to_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="patch 6; expected a power of two"):
        PatchPyramid(1, 6, 16)
    with pytest.raises(ConfigError, match="'conv'; expected linear or pyramid"):
        EncoderConfig(stem="conv")  # type: ignore[arg-type]
