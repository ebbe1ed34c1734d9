"""One pass for all terms: the same as the masked autoencoder alone, and no gradient where none belongs."""

from typing import Any

import pytest
import torch

from lwm.models.mae import MaskedAutoencoder, MaskedConfig
from lwm.models.masking import cell_weight
from lwm.signal.recipe import recipe_named
from lwm.tasks.objectives import PretrainingModel, build_model, masked_loss
from lwm.tasks.options import Shape
from lwm.tasks.teacher import MovingAverage, latent_target, rising_decay


def built(config: MaskedConfig, **shape: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return build_model("tiny", "", Shape(**shape), config, recipe_named("small"), -10.0, 9.0)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MaskedConfig(), {}),
        (MaskedConfig(mode="replace", loss_on="all"), {}),
        (MaskedConfig(normalize_target=True), {"decoder": "cross"}),
        (MaskedConfig(mask="time"), {"cls_token": True, "registers": 2, "patch": 8, "position": "learned"}),
    ],
)
def test_reconstruction_is_the_masked_autoencoders(config: MaskedConfig, shape: dict[str, Any]) -> None:
    mae = built(config, **shape)
    x = 9 * torch.randn(4, 1, 64, 64) - 10
    valid = torch.arange(64) < torch.tensor([64, 32, 64, 48])[:, None]
    mask = mae.draw(4, torch.Generator().manual_seed(1))
    model = PretrainingModel(mae, latent=False, projection=16)
    # The head is made anew, so the weights are compared by running the autoencoder again.
    expected = mae(x, mask, valid=valid)
    step = model(x, mask)
    weight = cell_weight(
        torch.ones_like(mask) if config.loss_on == "all" else mask,
        valid,
        mae.encoder.config.patch,
        1,
        mae.encoder.grid_size,
    )
    torch.testing.assert_close(step.prediction, expected.prediction)
    torch.testing.assert_close(masked_loss(step, mae.target_of(x), weight), expected.loss)
    assert step.embedding.shape == (4, 16)
    half = model(x, mask, 2)
    torch.testing.assert_close(half.prediction, step.prediction[:2])
    torch.testing.assert_close(half.embedding, step.embedding)


def test_embedding_and_prediction_never_see_hidden_patches() -> None:
    for mode in ("drop", "replace"):
        mae = built(MaskedConfig(mode=mode))  # type: ignore[arg-type]
        model, x = PretrainingModel(mae, False, 16).eval(), torch.randn(2, 1, 64, 64)
        mask = mae.draw(2, torch.Generator().manual_seed(1))
        hidden = mask.unflatten(1, (1, 4, 4)).repeat_interleave(16, 2).repeat_interleave(16, 3)
        before, after = model(x, mask), model(x + 30.0 * hidden, mask)
        torch.testing.assert_close(after.embedding, before.embedding)
        torch.testing.assert_close(after.prediction, before.prediction)


def test_average_follows_in_closed_form_and_gets_no_gradient() -> None:
    encoder = built(MaskedConfig()).encoder
    teacher = MovingAverage(encoder).train()
    assert not teacher.encoder.training
    start = teacher.encoder.patch_embed.weight.clone()
    values = []
    for decay in (0.9, 0.99, 0.5):
        with torch.no_grad():
            encoder.patch_embed.weight.add_(torch.randn_like(encoder.patch_embed.weight))
        values.append(encoder.patch_embed.weight.detach().clone())
        teacher.update(encoder, decay)
    a, b, c = values
    expected = 0.9 * 0.99 * 0.5 * start + 0.1 * 0.99 * 0.5 * a + 0.01 * 0.5 * b + 0.5 * c
    torch.testing.assert_close(teacher.encoder.patch_embed.weight.data, expected)
    wanted = latent_target(teacher.encoder.forward_features(torch.randn(2, 1, 64, 64)), 0)
    assert not wanted.requires_grad
    torch.testing.assert_close(wanted.mean(-1), torch.zeros(2, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(wanted.var(-1, correction=0), torch.ones(2, 16), atol=1e-3, rtol=0)
    assert [p for p in teacher.parameters() if p.requires_grad] == []
    assert [rising_decay(0.996, share) for share in (0.0, 0.5, 1.0, 2.0)] == pytest.approx([0.996, 0.998, 1.0, 1.0])
