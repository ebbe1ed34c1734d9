"""Masked modelling in ``drop`` mode equals transformers' ViTMAE with the same weights and mask."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from lwm.models.encoder import SpectrogramEncoder
from lwm.models.mae import MaskedAutoencoder, MaskedConfig
from lwm.models.masking import generator_for, masked_count
from lwm.models.sizes import DecoderConfig, EncoderConfig
from lwm.signal.recipe import recipe_named

PATCH, SIDE = 8, 32


def peer_for(net: MaskedAutoencoder, ratio: float, normalize: bool) -> ViTMAEForPreTraining:
    shape, light = net.encoder.config, net.decoder.config
    config = ViTMAEConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        intermediate_size=int(shape.width * shape.mlp_ratio),
        image_size=SIDE,
        patch_size=PATCH,
        num_channels=net.encoder.in_chans,
        decoder_hidden_size=light.width,
        decoder_num_hidden_layers=light.depth,
        decoder_num_attention_heads=light.heads,
        decoder_intermediate_size=int(light.width * light.mlp_ratio),
        mask_ratio=ratio,
        norm_pix_loss=normalize,
        layer_norm_eps=1e-6,
    )
    return ViTMAEForPreTraining(config)


def peer_weights(net: MaskedAutoencoder, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors (weights or gradients) under the peer's names and in its layout."""
    found = {
        "vit.embeddings.cls_token": own["encoder.prefix"][None],
        "vit.embeddings.patch_embeddings.projection.weight": own["encoder.patch_embed.weight"].unflatten(
            1, (-1, PATCH, PATCH)
        ),
        "vit.embeddings.patch_embeddings.projection.bias": own["encoder.patch_embed.bias"],
        "decoder.mask_token": own["decoder.mask_token"][None, None],
    }
    pairs = {
        "vit.layernorm": "encoder.norm",
        "decoder.decoder_embed": "decoder.embed",
        "decoder.decoder_norm": "decoder.norm",
    }
    for there, here in (("vit.layers", "encoder.blocks"), ("decoder.decoder_layers", "decoder.blocks")):
        for number in range(len(net.get_submodule(here))):  # type: ignore[arg-type]
            theirs, ours = f"{there}.{number}", f"{here}.{number}"
            pairs |= {f"{theirs}.layernorm_before": f"{ours}.norm1", f"{theirs}.layernorm_after": f"{ours}.norm2"}
            pairs |= {f"{theirs}.mlp.{part}": f"{ours}.mlp.{part}" for part in ("fc1", "fc2")}
            pairs[f"{theirs}.attention.o_proj"] = f"{ours}.attn.proj"
            for part in ("weight", "bias"):
                thirds = own[f"{ours}.attn.qkv.{part}"].chunk(3)
                for letter, third in zip("qkv", thirds, strict=True):
                    found[f"{theirs}.attention.{letter}_proj.{part}"] = third
    for theirs, ours in pairs.items():
        found |= {f"{theirs}.{part}": own[f"{ours}.{part}"] for part in ("weight", "bias")}
    # The peer's patches have the channel last.
    for part in ("weight", "bias"):
        head = own[f"decoder.head.{part}"].unflatten(0, (-1, PATCH, PATCH))
        found[f"decoder.decoder_pred.{part}"] = head.movedim(0, 2).flatten(0, 2)
    return found


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("channels", ["grey", "viridis"])
def test_equal_outputs_and_gradients(channels: Any, normalize: bool) -> None:
    torch.manual_seed(0)
    recipe = replace(recipe_named("small"), size=(SIDE, SIDE), channels=channels)
    shape = EncoderConfig(patch=PATCH, width=32, depth=2, heads=4, cls_token=True)
    encoder = SpectrogramEncoder(shape, recipe)
    ratio = 0.75
    net = MaskedAutoencoder(
        encoder, DecoderConfig(16, 2, 2, 4.0), MaskedConfig(mask_ratio=ratio, normalize_target=normalize)
    )
    peer = peer_for(net, ratio, normalize)
    weights = peer_weights(net, dict(net.named_parameters()))
    for table, ours in (("vit.embeddings.position_embeddings", encoder), ("decoder.decoder_pos_embed", net.decoder)):
        positions = ours.positions
        weights[table] = torch.cat([torch.zeros(1, positions.shape[1]), positions])[None]
    peer.load_state_dict(weights, strict=True)
    x = torch.randn(3, recipe.in_chans, SIDE, SIDE)
    mask = net.draw(3, generator_for(0))
    assert int(16 * (1 - ratio)) == 16 - masked_count(16, ratio)
    # The peer keeps what has the least noise.
    theirs = peer(x, noise=mask.float() + torch.arange(16) / 100)
    assert torch.equal(theirs.mask.bool(), mask)
    ours = net(x, mask)
    torch.testing.assert_close(ours.loss, theirs.loss, atol=1e-5, rtol=1e-5)
    logits = theirs.logits.unflatten(-1, (PATCH, PATCH, -1)).movedim(-1, 2).flatten(2)
    torch.testing.assert_close(ours.prediction, logits, atol=1e-4, rtol=1e-4)
    ours.loss.backward()
    theirs.loss.backward()
    gradients = peer_weights(net, {name: value.grad for name, value in net.named_parameters()})  # type: ignore[misc]
    named = dict(peer.named_parameters())
    assert {name for name, value in named.items() if value.requires_grad} == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(named[name].grad, gradient, atol=1e-4, rtol=1e-4, msg=name)
        assert gradient.abs().max() > 1e-6 or "k_proj.bias" in name
