"""The encoder's contract, its pooling, and what masked modelling may see."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from lwm.errors import ConfigError, ModelError
from lwm.models.decoder import build_decoder
from lwm.models.encoder import SpectrogramEncoder, build_encoder, patchify, unpatchify
from lwm.models.pooling import pool
from lwm.models.positions import resample_positions, sinusoidal_positions
from lwm.models.sizes import SIZES, EncoderConfig, encoder_size, size_named
from lwm.signal.recipe import recipe_named

RECIPE = recipe_named("small")


@pytest.fixture
def encoder() -> SpectrogramEncoder:
    return build_encoder("tiny", RECIPE, mean=-10, std=8, name="lte", seed=1).eval()


def pictures(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 1, 64, 64, generator=torch.Generator().manual_seed(seed)) * 8 - 10


def test_contract(encoder: SpectrogramEncoder) -> None:
    x = pictures(3)
    tokens = encoder.forward_features(x)
    assert tokens.shape == (3, 16, 32)
    assert (encoder.grid_size, encoder.in_chans, encoder.num_prefix_tokens) == ((4, 4), 1, 0)
    assert encoder.forward_head(tokens).shape == (3, encoder.head_features) == (3, 96)
    torch.testing.assert_close(encoder(x), encoder.forward_head(tokens, pre_logits=True))


def test_last_intermediate_with_norm_is_the_output(encoder: SpectrogramEncoder) -> None:
    x = pictures(2)
    first, last = encoder.forward_intermediates(x, [-1, 0], norm=True)
    torch.testing.assert_close(last, encoder.forward_features(x))
    assert not torch.allclose(first, last)
    torch.testing.assert_close(encoder.forward_intermediates(x, 1, norm=True)[0], last)
    with pytest.raises(ModelError, match="between -2 and 1"):
        encoder.forward_intermediates(x, [2])


def test_statistics_are_applied_inside(encoder: SpectrogramEncoder) -> None:
    plain = build_encoder("tiny", RECIPE, seed=1).eval()
    x = pictures(2)
    torch.testing.assert_close(encoder(x), plain((x + 10) / 8))
    assert not torch.allclose(encoder(x), plain(x), atol=1e-2)


def test_sizes_have_the_published_number_of_weights() -> None:
    # LWM-Spectro (arXiv 2601.08780): about 2.5 M weights an expert.
    expert = build_encoder("lwm", recipe_named("lwm"))
    assert sum(p.numel() for p in expert.parameters()) == pytest.approx(2.5e6, rel=0.1)
    assert expert.grid_size == (32, 32)


def test_visible_encoding_never_looks_at_the_rest(encoder: SpectrogramEncoder) -> None:
    x = pictures(2)
    keep = torch.tensor([[0, 5, 7], [1, 2, 15]])
    hidden = torch.ones(2, 16, dtype=torch.bool).scatter(1, keep, False)
    other = unpatchify(patchify(x, 16).masked_fill(hidden[..., None], torch.nan), 16, (4, 4))
    torch.testing.assert_close(encoder.encode_visible(other, keep), encoder.encode_visible(x, keep))


def test_all_visible_is_the_whole_encoding(encoder: SpectrogramEncoder) -> None:
    x = pictures(2)
    everything = torch.arange(16).expand(2, -1)
    torch.testing.assert_close(encoder.encode_visible(x, everything), encoder.forward_features(x))
    nothing = torch.zeros(2, 16, dtype=torch.bool)
    torch.testing.assert_close(encoder.encode_masked(x, nothing, torch.ones(32)), encoder.forward_features(x))


def test_mask_token_replaces_hidden_patches(encoder: SpectrogramEncoder) -> None:
    x, hidden = pictures(1), torch.arange(16)[None] % 2 == 0
    other = unpatchify(patchify(x, 16) + 30 * hidden[..., None], 16, (4, 4))
    token = torch.ones(32)
    torch.testing.assert_close(encoder.encode_masked(other, hidden, token), encoder.encode_masked(x, hidden, token))


def test_patches_run_row_by_row_and_back() -> None:
    x = torch.arange(2 * 3 * 8 * 12.0).reshape(2, 3, 8, 12)
    patches = patchify(x, 4)
    assert patches.shape == (2, 6, 48)
    torch.testing.assert_close(patches[1, 4], x[1, :, 4:8, 4:8].flatten())
    torch.testing.assert_close(unpatchify(patches, 4, (2, 3)), x)


def test_positions_are_sines_of_row_and_column() -> None:
    table = sinusoidal_positions((4, 6), 16)
    row, column, fastest = 2, 5, 1.0
    token = table[row * 6 + column]
    assert token[0].item() == pytest.approx(np.sin(row * fastest), abs=1e-6)
    assert token[8].item() == pytest.approx(np.sin(column * fastest), abs=1e-6)
    assert len(torch.unique(table, dim=0)) == 24


def test_learned_positions_start_small() -> None:
    shape = replace(encoder_size("tiny"), position="learned")
    encoder = SpectrogramEncoder(shape, RECIPE)
    assert encoder.positions.requires_grad
    assert encoder.positions.std().item() == pytest.approx(0.02, rel=0.2)


def test_spread_is_along_time_then_frequency() -> None:
    grid = torch.zeros(1, 4, 6, 1)
    grid[:, :, ::2] = 2.0
    mean, over_time, over_frequency = pool(grid.flatten(1, 2), (4, 6))[0].tolist()
    assert mean == pytest.approx(1.0)
    assert over_time == pytest.approx(1.0, abs=1e-3)
    assert over_frequency == pytest.approx(0.0, abs=1e-3)
    assert pool(grid.flatten(1, 2), (4, 6), "mean").tolist() == [[1.0]]


def test_gradient_is_finite_where_nothing_varies() -> None:
    tokens = torch.ones(1, 16, 4, requires_grad=True)
    pool(tokens, (4, 4)).sum().backward()
    assert tokens.grad is not None
    assert torch.isfinite(tokens.grad).all()


def test_checkpointing_changes_no_gradient(encoder: SpectrogramEncoder) -> None:
    x = pictures(2)
    gradients = []
    for enable in (False, True):
        encoder.zero_grad()
        encoder.set_grad_checkpointing(enable)
        encoder(x).square().sum().backward()
        gradients.append(encoder.patch_embed.weight.grad.clone())  # type: ignore[union-attr]
    torch.testing.assert_close(*gradients)


def test_timm_groups_every_parameter(encoder: SpectrogramEncoder) -> None:
    from timm.models import group_parameters

    layers = group_parameters(encoder, encoder.group_matcher(), reverse=True)
    assert set(layers) == {name for name, _ in encoder.named_parameters()}
    assert layers["patch_embed.weight"] < layers["blocks.0.mlp.fc1.weight"] < layers["blocks.1.mlp.fc1.weight"]


def test_seed_alone_decides_the_weights() -> None:
    torch.manual_seed(5)
    one = build_encoder("tiny", RECIPE, seed=3)
    after = torch.rand(1)
    torch.manual_seed(5)
    two = build_encoder("tiny", RECIPE, seed=3)
    assert after == torch.rand(1)
    torch.testing.assert_close(dict(one.named_parameters()), dict(two.named_parameters()))


def test_refusals(encoder: SpectrogramEncoder) -> None:
    with pytest.raises(ModelError, match=r"\(1, 40, 64\).*patch \(16\)"):
        encoder(torch.zeros(1, 1, 40, 64))
    with pytest.raises(ModelError, match=r"\(3, 64, 64\).*1 channels"):
        encoder(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ConfigError, match="no encoder size named 'large'.*small"):
        encoder_size("large")
    with pytest.raises(ModelError, match=r"\(64, 64\).*patch \(24\) divides"):
        SpectrogramEncoder(replace(encoder_size("tiny"), patch=24), RECIPE)
    with pytest.raises(ModelError, match="colour"):
        SpectrogramEncoder.from_config(encoder.get_config() | {"colour": 1}, RECIPE)
    with pytest.raises(ConfigError, match="width 32, depth 2, heads 3"):
        replace(encoder_size("tiny"), heads=3)


def encoder_weights(shape: EncoderConfig, channels: int) -> int:
    """Closed form: patch embedding, depth x (attention 4D^2+4D, MLP 8D^2+5D, two norms 4D), last norm."""
    d = shape.width
    block = 12 * d**2 + 13 * d
    return (channels * shape.patch**2 + 1) * d + shape.depth * block + 2 * d


@pytest.mark.parametrize("name", SIZES)
def test_every_size_builds_with_its_number_of_weights(name: str) -> None:
    size = SIZES[name]
    recipe = replace(RECIPE, size=size.picture)
    with torch.device("meta"):
        encoder = SpectrogramEncoder(size.encoder, recipe)
        decoder = build_decoder(encoder, size.decoder)
    assert all(p.is_meta for p in (*encoder.parameters(), *decoder.parameters()))
    assert sum(p.numel() for p in encoder.parameters()) == encoder_weights(size.encoder, 1)
    w, light = size.decoder.width, size_named(name).decoder
    hidden = int(w * light.mlp_ratio)
    block = 4 * w**2 + 4 * w + 2 * w * hidden + hidden + w + 4 * w
    ends = (size.encoder.width + 1) * w + w + 2 * w + (w + 1) * size.encoder.patch**2
    assert sum(p.numel() for p in decoder.parameters()) == light.depth * block + ends


def test_sizes_have_the_papers_figures() -> None:
    # arXiv 2411.09996: S 512-d 12 layers 8 heads / 256-d 8 layers 16 heads; M 768-12-12, L 1024-24-16 / 512-8-16.
    for name, shape, light in (
        ("s", (512, 12, 8), (256, 8, 16)),
        ("m", (768, 12, 12), (512, 8, 16)),
        ("l", (1024, 24, 16), (512, 8, 16)),
    ):
        e, d = encoder_size(name), size_named(name).decoder
        assert ((e.width, e.depth, e.heads), (d.width, d.depth, d.heads)) == (shape, light)
        assert (SIZES[name].picture, e.patch) == ((224, 224), 16)
    e = encoder_size("rf")
    assert (SIZES["rf"].picture, e.patch, e.width, e.depth) == ((256, 256), 16, 192, 12)


def test_prefix_tokens_lead_and_are_not_pooled() -> None:
    shape = replace(encoder_size("tiny"), cls_token=True, registers=3)
    encoder = SpectrogramEncoder(shape, RECIPE).eval()
    x = pictures(2)
    tokens = encoder.forward_features(x)
    assert encoder.num_prefix_tokens == 4
    assert tokens.shape == (2, 20, 32)
    torch.testing.assert_close(encoder(x), pool(tokens[:, 4:], (4, 4)))
    assert encoder.encode_visible(x, torch.tensor([[1], [2]])).shape == (2, 5, 32)
    before = encoder(x)
    with torch.no_grad():
        encoder.prefix += torch.randn_like(encoder.prefix)
    assert not torch.allclose(encoder(x), before)


@pytest.mark.parametrize("position", ["sinusoidal", "learned"])
def test_other_sizes_go_through_the_same_weights(position: Literal["sinusoidal", "learned"]) -> None:
    torch.manual_seed(0)
    encoder = SpectrogramEncoder(replace(encoder_size("tiny"), position=position), RECIPE).eval()
    wide = torch.randn(2, 1, 32, 96)
    assert encoder.forward_features(wide).shape == (2, 12, 32)
    assert encoder(wide).shape == (2, 96)
    torch.testing.assert_close(encoder(wide), encoder.forward_head(encoder.forward_features(wide), grid_size=(2, 6)))
    if position == "sinusoidal":
        # The same weights in an encoder made for that size.
        other = SpectrogramEncoder(encoder.config, replace(RECIPE, size=(32, 96))).eval()
        other.load_state_dict(encoder.state_dict())
        torch.testing.assert_close(other(wide), encoder(wide))


def test_resampled_positions_keep_a_plane() -> None:
    row, column = torch.meshgrid(torch.arange(8.0), torch.arange(6.0), indexing="ij")
    table = torch.stack([row, column], -1).reshape(48, 2)
    twice = resample_positions(table, (8, 6), (16, 12)).reshape(16, 12, 2)
    # Away from the edges half a cell finer sampling of a plane stays on it.
    expected = (torch.arange(16.0) + 0.5) / 2 - 0.5
    torch.testing.assert_close(twice[4:-4, 5, 0], expected[4:-4], atol=1e-4, rtol=0)
    torch.testing.assert_close(resample_positions(table, (8, 6), (8, 6)), table)


def test_three_channels() -> None:
    encoder = build_encoder("tiny", replace(RECIPE, channels="viridis"), seed=1)
    assert encoder.patch_embed.in_features == 3 * 256
    assert encoder(torch.randn(2, 3, 64, 64)).shape == (2, 96)
