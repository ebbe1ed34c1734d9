"""The encoder's contract, its pooling, and what masked modelling may see."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lwm.errors import ConfigError, ModelError
from lwm.models.encoder import (
    SpectrogramEncoder,
    build_encoder,
    encoder_size,
    patchify,
    sinusoidal_positions,
    unpatchify,
)
from lwm.models.pooling import pool
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
    with pytest.raises(ModelError, match=r"\(1, 32, 64\).*\(1, 64, 64\)"):
        encoder(torch.zeros(1, 1, 32, 64))
    with pytest.raises(ConfigError, match="no encoder size named 'large'.*small"):
        encoder_size("large")
    with pytest.raises(ModelError, match="divides"):
        SpectrogramEncoder(replace(encoder_size("tiny"), patch=24), RECIPE)
    with pytest.raises(ModelError, match="colour"):
        SpectrogramEncoder.from_config(encoder.get_config() | {"colour": 1}, RECIPE)
    with pytest.raises(ConfigError, match="heads"):
        replace(encoder_size("tiny"), heads=3)
