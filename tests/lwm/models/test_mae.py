"""Masked modelling as a module: what it may see, what counts, and that it is the MAE that others have."""

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from lwm.errors import ConfigError, ModelError
from lwm.models.encoder import SpectrogramEncoder, patchify, unpatchify
from lwm.models.mae import MaskedAutoencoder, MaskedConfig, MaskedOutput
from lwm.models.masking import MaskKind, generator_for, masked_count
from lwm.models.precision import call_in
from lwm.models.sizes import DecoderConfig, EncoderConfig
from lwm.signal.recipe import recipe_named

RECIPE = replace(recipe_named("small"), size=(32, 48))
SHAPE = EncoderConfig(patch=8, width=32, depth=2, heads=4)
LIGHT = DecoderConfig(width=16, heads=2)
CROSS = replace(LIGHT, attention="cross")
GRID = (4, 6)


def model(decoder: DecoderConfig = LIGHT, shape: EncoderConfig = SHAPE, **options: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    encoder = SpectrogramEncoder(shape, RECIPE, mean=-10, std=8)
    return MaskedAutoencoder(encoder, decoder, MaskedConfig(**options)).eval()


def pictures(batch: int = 3, seed: int = 0, size: tuple[int, int] = (32, 48)) -> torch.Tensor:
    return torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(seed)) * 8 - 10


def changed(x: torch.Tensor, which: torch.Tensor, by: float = 30.0) -> torch.Tensor:
    return unpatchify(patchify(x, 8) + by * which[..., None], 8, GRID)


def run(net: MaskedAutoencoder, x: torch.Tensor, mask: torch.Tensor, **rest: Any) -> MaskedOutput:
    with torch.no_grad():
        return net(x, mask, **rest)


def seen_by_blocks(net: MaskedAutoencoder, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    hook = net.encoder.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    run(net, x, mask)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("kind", ["random", "block", "time", "frequency"])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75, 0.95])
def test_drop_lets_exactly_the_visible_share_into_the_encoder(kind: MaskKind, ratio: float) -> None:
    net = model(mask=kind, mask_ratio=ratio)
    mask = net.draw(3, generator_for(0))
    hidden = masked_count(24, ratio)
    assert abs(hidden - ratio * 24) <= 0.5
    assert mask.sum(1).tolist() == [hidden] * 3
    assert seen_by_blocks(net, pictures(), mask).shape == (3, 24 - hidden, 32)


@pytest.mark.parametrize(("decoder", "mode"), [(LIGHT, "drop"), (CROSS, "drop"), (LIGHT, "replace")])
def test_masked_cells_never_enter_the_encoder(decoder: DecoderConfig, mode: Literal["drop", "replace"]) -> None:
    net, x = model(decoder, mode=mode), pictures()
    mask = net.draw(3, generator_for(0))
    before = seen_by_blocks(net, x, mask)
    assert torch.equal(seen_by_blocks(net, changed(x, mask), mask), before)
    assert not torch.allclose(seen_by_blocks(net, changed(x, ~mask), mask), before)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("decoder", "mode"), [(LIGHT, "drop"), (CROSS, "drop"), (LIGHT, "replace")])
def test_visible_target_never_counts(decoder: DecoderConfig, mode: Literal["drop", "replace"], normalize: bool) -> None:
    net, x = model(decoder, mode=mode, normalize_target=normalize), pictures()
    mask, target, other = net.draw(3, generator_for(0)), pictures(seed=1), pictures(seed=2)
    before = run(net, x, mask, target=target).loss
    mixed = {
        name: unpatchify(torch.where(which[..., None], patchify(other, 8), patchify(target, 8)), 8, GRID)
        for name, which in (("visible", ~mask), ("hidden", mask))
    }
    assert run(net, x, mask, target=mixed["visible"]).loss == before
    assert run(net, x, mask, target=mixed["hidden"]).loss != before
    if decoder is LIGHT:
        everywhere = model(decoder, mode=mode, normalize_target=normalize, loss_on="all")
        assert run(everywhere, x, mask, target=mixed["visible"]).loss != run(everywhere, x, mask, target=target).loss


def test_loss_is_the_plain_mean_over_hidden_cells() -> None:
    for decoder in (LIGHT, CROSS):
        net, x = model(decoder), pictures()
        mask = net.draw(3, generator_for(0))
        loss, prediction, target, index = run(net, x, mask)
        patches = patchify((x + 10) / 8, 8)
        torch.testing.assert_close(target, patches.gather(1, index[..., None].expand(-1, -1, 64)))
        hidden = mask.gather(1, index)
        torch.testing.assert_close(loss, (prediction - target)[hidden].square().mean())


def test_padding_counts_nothing() -> None:
    net, x = model(), pictures()
    mask, valid = net.draw(3, generator_for(0)), (torch.arange(48) < 20).expand(3, -1)
    padded = torch.where(valid[:, None, None, :], x, 99.0)
    before = run(net, x, mask, target=x, valid=valid).loss
    assert run(net, x, mask, target=padded, valid=valid).loss == before
    assert run(net, x, mask, target=x).loss != before


def test_cross_decoder_predicts_each_hidden_patch_by_itself() -> None:
    net, x = model(CROSS), pictures(1)
    mask = net.draw(1, generator_for(0))
    index = mask.nonzero()[:, 1][None]
    with torch.no_grad():
        tokens = net.encoder.encode_visible(x, (~mask).nonzero()[:, 1][None])
        together = net.decoder(tokens, index)
        alone = net.decoder(tokens, index[:, 3:4])
    torch.testing.assert_close(together[:, 3:4], alone)


@pytest.mark.parametrize(("decoder", "mode"), [(LIGHT, "drop"), (CROSS, "drop"), (LIGHT, "replace")])
def test_other_sizes_go_through_the_same_weights(decoder: DecoderConfig, mode: Literal["drop", "replace"]) -> None:
    net = model(decoder, replace(SHAPE, cls_token=True, registers=2, position="learned"), mode=mode)
    mask = net.draw(2, generator_for(0), (8, 3))
    x = pictures(2, size=(64, 24))
    found = run(net, x, mask)
    assert torch.isfinite(found.loss)
    assert found.prediction.shape[1] == (18 if decoder is CROSS else 24)
    assert net.reconstruct(x, mask).shape == x.shape


def test_reconstruction_keeps_what_is_visible() -> None:
    net, x = model(CROSS, normalize_target=True), pictures()
    mask = net.draw(3, generator_for(0))
    made = patchify(net.reconstruct(x, mask), 8)
    torch.testing.assert_close(made[~mask], patchify(x, 8)[~mask], atol=1e-4, rtol=0)
    # A standardised target is undone: a predicted patch has about its own mean, not the encoder's zero.
    assert not torch.allclose(made[mask], patchify(x, 8)[mask], atol=1.0)


@pytest.mark.parametrize(("decoder", "mode"), [(LIGHT, "drop"), (CROSS, "drop"), (LIGHT, "replace")])
def test_overfits_eight_samples(decoder: DecoderConfig, mode: Literal["drop", "replace"]) -> None:
    torch.manual_seed(0)
    # Each of the eight has stripes of its own: period and phase.
    column, which = torch.arange(48.0), torch.arange(8.0)[:, None]
    x = torch.sin(2 * torch.pi * (which + 1) * column / 48 + which)[:, None, None, :].expand(-1, 1, 32, -1)
    encoder = SpectrogramEncoder(SHAPE, RECIPE)
    net = MaskedAutoencoder(encoder, replace(decoder, width=32), MaskedConfig(mode=mode, mask_ratio=0.5))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    mask = net.draw(8, generator_for(0))
    for _ in range(150):
        optimizer.zero_grad()
        net(x, mask).loss.backward()
        optimizer.step()
    # The mean as a prediction would leave the target's variance, 0.5.
    assert run(net, x, mask).loss < 0.1 * x.var()


def test_refusals_name_both_values() -> None:
    with pytest.raises(ConfigError, match=r"0\.99 hides 24 of 24.*one visible"):
        model(mask_ratio=0.99)
    with pytest.raises(ConfigError, match=r"0\.01 hides 0 of 24"):
        model(mask_ratio=0.01)
    with pytest.raises(ConfigError, match=r"cross.*'replace'.*'drop'"):
        model(CROSS, mode="replace")
    with pytest.raises(ConfigError, match="'token'.*replace"):
        MaskedConfig(mode="token")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="width 30, depth 1, heads 2"):
        DecoderConfig(width=30)
    net = model()
    with pytest.raises(ModelError, match=r"\(3, 16\).*\(3, 24\)"):
        net(pictures(), torch.zeros(3, 16, dtype=torch.bool))
    uneven = net.draw(2, generator_for(0))
    uneven[0] = True
    with pytest.raises(ModelError, match="18 and 24"):
        net(pictures(2), uneven)


def test_bfloat16_with_float32_weights_stays_close() -> None:
    net, x = model().train(), pictures()
    mask = net.draw(3, generator_for(0))
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        net.zero_grad()
        output = call_in(dtype, net, x, mask)
        output.loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in net.parameters()])  # type: ignore[union-attr]
        assert (output.loss.dtype, gradient.dtype) == (torch.float32, torch.float32)
        found[dtype] = output.loss, gradient
    (loss, gradient), (rough, rough_gradient) = found[torch.float32], found[torch.bfloat16]
    torch.testing.assert_close(rough, loss, rtol=2e-2, atol=0)
    assert rough != loss
    # Bfloat16 has eight bits: 0.4 % an operation.
    assert torch.nn.functional.cosine_similarity(rough_gradient, gradient, dim=0) > 0.999
    net.encoder.set_grad_checkpointing()
    with pytest.raises(ConfigError, match="checkpointing.*bfloat16"):
        call_in(torch.bfloat16, net, x, mask)
