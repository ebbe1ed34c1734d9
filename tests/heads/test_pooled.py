"""Heads on one vector a picture: residual CNN, attention, regression, several labels, activity sensing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, mean_absolute_error, r2_score
from torch import Tensor, nn

from heads.activity import ActivityHead, adapt_encoder
from heads.attention import AttentionHead
from heads.linear import LinearHead
from heads.multilabel import MultiLabelHead
from heads.pooled import PooledClassifier
from heads.regression import RegressionHead
from heads.residual_cnn import ResidualCNNHead
from lwm.errors import ConfigError, ModelError, RecipeMismatch
from lwm.hub import weights_sha256
from lwm.models.encoder import SpectrogramEncoder, build_encoder
from lwm.models.head import TokenShape
from lwm.models.sizes import EncoderConfig
from lwm.signal.csi_recipe import CSI_PRESETS
from lwm.signal.recipe import recipe_named

SHAPE = TokenShape(8, (4, 8), (16, 32))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def accuracy(head: PooledClassifier, tokens: Tensor, codes: Tensor, steps: int = 100) -> float:
    """Of the second half of the samples, after training on the first."""
    half = len(codes) // 2
    optimizer = torch.optim.AdamW(head.parameters(), 1e-2)
    if head.reads == "pooled":
        head.fit_features(head.pool(tokens[:half]))
    for _ in range(steps):
        optimizer.zero_grad()
        head.loss(head(tokens[:half]), codes[:half]).backward()
        optimizer.step()
    with torch.no_grad():
        return float((head.eval()(tokens[half:]).argmax(1) == codes[half:]).float().mean())


def test_residual_cnn_sees_spread_over_time_that_the_mean_loses() -> None:
    """Tokens of one mean; in class 1 they swing along time, as under a fast channel."""
    codes = torch.arange(200) % 2
    tokens = 0.1 * torch.randn(200, 4, 8, 8, generator=generator(0))
    swing = torch.tensor([1.0, -1.0]).repeat(4)
    tokens += 0.2 * codes[:, None, None, None] * swing[:, None]
    tokens = tokens.flatten(1, 2)
    torch.manual_seed(0)
    names = ("static", "vehicular")
    seen = accuracy(ResidualCNNHead(SHAPE, names, "mean_spread", (8, 16)), tokens, codes)
    lost = accuracy(ResidualCNNHead(SHAPE, names, "mean", (8, 16)), tokens, codes)
    assert seen > 0.99
    assert lost < 0.66  # chance within three standard errors: 0.5 + 3 sqrt(0.25 / 100)


def test_residual_cnn_is_pool_residual_convolutions_mean_and_linear() -> None:
    torch.manual_seed(0)
    head = ResidualCNNHead(SHAPE, ("a", "b"), "mean", channels=(8, 16)).eval()
    tokens = torch.randn(3, 32, 8, generator=generator(1))
    x = tokens.mean(1)[:, None]
    blocks: list[Any] = list(head.blocks)
    for block in blocks:
        inner = nn.functional.conv1d(x, block.first.weight, padding=1)
        inner = nn.functional.gelu(nn.functional.group_norm(inner, 1, block.norm1.weight, block.norm1.bias))
        inner = nn.functional.conv1d(inner, block.second.weight, padding=1)
        inner = nn.functional.group_norm(inner, 1, block.norm2.weight, block.norm2.bias)
        x = nn.functional.gelu(nn.functional.conv1d(x, block.around.weight, block.around.bias) + inner)
    expected = x.mean(2) @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(tokens), expected)
    with pytest.raises(ConfigError, match="one block or more"):
        ResidualCNNHead(SHAPE, ("a", "b"), channels=())


def test_features_computed_once_give_what_tokens_give() -> None:
    tokens = torch.randn(6, 32, 8, generator=generator(2))
    torch.manual_seed(0)
    for head in (LinearHead(SHAPE, ("a", "b")), ResidualCNNHead(SHAPE, ("a", "b")).eval()):
        assert head.reads == "pooled"
        head.fit_features(head.pool(tokens))
        torch.testing.assert_close(head.forward_pooled(head.pool(tokens)), head(tokens))
    attention = AttentionHead(SHAPE, ("a", "b"))
    assert attention.reads == "tokens"
    with pytest.raises(ConfigError, match="a fixed pooling"):
        attention.fit_features(torch.zeros(4, 8))


def test_attention_finds_the_one_token_that_counts() -> None:
    """One marked token in 32 carries the class; thirty-one others carry as much at random."""
    codes = torch.arange(512) % 2
    tokens = torch.randn(512, 32, 8, generator=generator(3))
    at = torch.randint(32, (512,), generator=generator(4))
    tokens[torch.arange(512), at, 0] = 6.0
    tokens[torch.arange(512), at, 1] = 4.0 * (2 * codes - 1)
    torch.manual_seed(0)
    names = ("idle", "busy")
    attentive = accuracy(AttentionHead(SHAPE, names, attention_heads=2), tokens, codes)
    pooled = accuracy(LinearHead(SHAPE, names), tokens, codes)
    assert attentive > 0.95
    assert pooled < 0.85  # one token of 32 moves the mean by 0.125, which has a deviation of 0.18


def test_regression_is_in_units_and_leaves_out_what_is_not_known() -> None:
    target = torch.tensor([[10.0, 1.0], [20.0, torch.nan], [30.0, 3.0], [torch.nan, 5.0]])
    head = RegressionHead(SHAPE, ("snr_db", "speed_mps"))
    head.fit_targets(target)
    torch.testing.assert_close(head.target_mean, torch.tensor([20.0, 3.0]))
    torch.testing.assert_close(head.target_std, torch.tensor([200 / 3, 8 / 3]).sqrt())
    output = torch.tensor([[[1.0], [0.5]], [[0.0], [9.0]], [[-3.0], [0.0]], [[7.0], [0.0]]], requires_grad=True)
    standard = (target - head.target_mean) / head.target_std
    off = (output[..., 0] - standard)[target.isfinite()].abs()
    expected = torch.where(off < 1, off.square() / 2, off - 0.5).mean()
    torch.testing.assert_close(head.loss(output, target), expected)
    head.loss(output, target).backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()
    assert output.grad[1, 1] == output.grad[3, 0] == 0
    predicted = head.predict(output.detach())
    torch.testing.assert_close(predicted, output.detach()[..., 0] * head.target_std + head.target_mean)
    metrics = head.metrics()
    for rows in (slice(0, 1), slice(1, 4)):
        metrics.update(predicted[rows], target[rows])
    found = metrics.compute()
    for column, name in enumerate(head.targets):
        known = target[:, column].isfinite()
        pair = target[known, column].numpy(), predicted[known, column].numpy()
        np.testing.assert_allclose(found[f"mae_{name}"], mean_absolute_error(*pair), rtol=1e-5)
        np.testing.assert_allclose(found[f"r2_{name}"], r2_score(*pair), rtol=1e-5)
    with pytest.raises(ConfigError, match="no sample with"):
        head.fit_targets(torch.tensor([[1.0, torch.nan]]))
    with pytest.raises(ConfigError, match="loss_kind gaussian"):
        head.deviation(output)


def test_a_metric_without_known_targets_is_not_a_number() -> None:
    metrics = RegressionHead(SHAPE, ("snr_db",)).metrics()
    metrics.update(torch.zeros(3, 1), torch.full((3, 1), torch.nan))
    assert all(value.isnan() for value in metrics.compute().values())


def test_gaussian_loss_is_the_likelihood_and_learns_the_noise() -> None:
    head = RegressionHead(SHAPE, ("snr_db",), loss_kind="gaussian")
    target = 20 + 4 * torch.randn(4000, 1, generator=generator(5))
    head.fit_targets(target)
    output = torch.randn(4000, 1, 2, generator=generator(6))
    normal = torch.distributions.Normal(head.predict(output), head.deviation(output))
    constant = head.target_std.log() + 0.5 * np.log(2 * np.pi)
    expected = -normal.log_prob(target).mean() - constant
    torch.testing.assert_close(head.loss(output, target), expected.squeeze(), rtol=1e-4, atol=1e-4)
    # Half the samples twice as noisy, which a feature tells: the deviations come out.
    features = torch.zeros(4000, 24)
    features[:2000, 0] = 1
    target[:2000] += 40 * torch.randn(2000, 1, generator=generator(7)) * 0.2
    head.fit_targets(target)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = head.loss(head.forward_pooled(features), target)
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        found = head.deviation(head.forward_pooled(features))
    # A deviation from 2,000 samples has a relative standard error of 1.6 %; sqrt(16 + 64) and 4.
    np.testing.assert_allclose([float(found[0]), float(found[-1])], [80**0.5, 4.0], rtol=0.06)


def test_several_labels_start_at_their_shares_and_are_scored_one_by_one() -> None:
    head = MultiLabelHead(SHAPE, ("lte", "nr", "wlan"))
    target = (torch.rand(60, 3, generator=generator(8)) < torch.tensor([0.5, 0.1, 0.3])).long()
    head.fit_targets(target)
    share = (target.sum(0) + 0.5) / (60 + 1)
    # The last layer's weights are zero: any token gives the start.
    torch.testing.assert_close(head.predict(head(torch.randn(1, 32, 8)))[0], share)
    output = torch.randn(60, 3, generator=generator(9))
    chance = output.sigmoid()
    expected = -(target * chance.log() + (1 - target) * (1 - chance).log()).mean()
    torch.testing.assert_close(head.loss(output, target), expected)
    metrics = head.metrics()
    metrics.update(head.predict(output), target)
    found = metrics.compute()
    precisions = [average_precision_score(target[:, k], chance[:, k]) for k in range(3)]
    np.testing.assert_allclose([float(found[f"ap_{name}"]) for name in head.targets], precisions, rtol=1e-5)
    np.testing.assert_allclose(float(found["mean_average_precision"]), np.mean(precisions), rtol=1e-5)


CSI = replace(CSI_PRESETS["csi-fm"], size=(64, 96))


@pytest.mark.parametrize("position", ["learned", "sinusoidal"])
def test_an_encoder_adapted_to_three_channels_embeds_the_same_picture_alike(position: str) -> None:
    torch.manual_seed(0)
    config = EncoderConfig(patch=16, width=32, depth=2, heads=4, position=position, cls_token=True)  # type: ignore[arg-type]
    encoder = SpectrogramEncoder(config, recipe_named("small"), mean=-40, std=9).eval()
    before = weights_sha256(encoder)
    adapted = adapt_encoder(encoder, CSI, (-5.0, 6.0))
    assert (adapted.in_chans, adapted.grid_size, adapted.recipe, adapted.training) == (3, (4, 6), CSI, False)
    normal = torch.randn(2, 1, 64, 96, generator=generator(10))
    with torch.no_grad():
        found = adapted.forward_features((normal * 6 - 5).expand(-1, 3, -1, -1))
        expected = encoder.forward_features(normal * 9 - 40)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert weights_sha256(encoder) == before
    assert not {w.data_ptr() for w in encoder.parameters()} & {w.data_ptr() for w in adapted.parameters()}


def test_adapting_refuses_what_it_cannot_do() -> None:
    encoder = build_encoder("tiny", recipe_named("small"), seed=1)
    with pytest.raises(ModelError, match="divides"):
        adapt_encoder(encoder, replace(CSI, size=(60, 60)), (0.0, 1.0))
    with pytest.raises(ModelError, match="spectrogram encoder"):
        adapt_encoder(nn.Linear(2, 2), CSI, (0.0, 1.0))
    with pytest.raises(ConfigError, match="deviation above 0"):
        adapt_encoder(encoder, CSI, (0.0, 0.0))


def test_only_activity_sensing_adapts_the_encoder() -> None:
    encoder = build_encoder("tiny", recipe_named("small"), mean=-10, std=8, seed=1)
    assert LinearHead.prepare_encoder(encoder, recipe_named("small"), (0.0, 1.0)) is encoder
    with pytest.raises(RecipeMismatch):
        LinearHead.prepare_encoder(encoder, CSI, (0.0, 1.0))
    adapted = ActivityHead.prepare_encoder(encoder, CSI, (-5.0, 6.0))
    head = ActivityHead(TokenShape.of(adapted), ("walk", "run", "sit"))
    assert head.smoothing == 0.1
    assert head(adapted.forward_features(torch.randn(2, 3, 64, 96) * 6 - 5)).shape == (2, 3)  # type: ignore[operator]
