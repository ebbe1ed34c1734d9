"""Start an encoder from the weights of a timm ImageNet ViT: a file, read without executing anything in it."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from lwm.errors import ModelError
from lwm.models.encoder import SpectrogramEncoder
from lwm.models.positions import resample_positions

_CLASSIFIER = ("head.", "head_dist.", "fc.", "pre_logits.")


@dataclass(frozen=True)
class WeightReport:
    """What became of a checkpoint's tensors, by their names in it.

    Args:
        taken: copied as they are.
        adapted: what was done to each tensor that did not fit as it is.
        left_out: has no place in the encoder: the classifier, positions of an encoder with sines, a class token of an
            encoder without.
        fresh: the encoder's own weights that the checkpoint does not hold.
    """

    taken: tuple[str, ...]
    adapted: dict[str, str]
    left_out: tuple[str, ...]
    fresh: tuple[str, ...]


def init_from_timm(encoder: SpectrogramEncoder, path: str | Path) -> WeightReport:
    """Copy a plain timm ViT's weights into an encoder of the same width, depth and heads.

    The patch embedding is resampled to the encoder's patch (so that a resized picture embeds alike) and brought to its
    channels: one channel gets the sum over the checkpoint's, C other ones each the sum divided by C, as many are kept.
    Learned positions are resampled to the encoder's grid.

    Args:
        encoder: changed in place; untouched when something does not fit.
        path: ``.safetensors``, or ``.pth``/``.pt``/``.bin`` read with ``weights_only=True``.

    Raises:
        ModelError: the file cannot be read, lacks a block's weight, has one of another shape, or holds weights that
            would change what a block computes (layer scale, query norms) and have no place here.
    """
    source = read_weights(path)
    own = dict(encoder.named_parameters())
    new: dict[str, Tensor] = {}
    adapted: dict[str, str] = {}
    left_out: list[str] = []
    for name, value in source.items():
        if name.startswith(_CLASSIFIER):
            left_out.append(name)
        elif name == "patch_embed.proj.weight":
            new["patch_embed.weight"] = _patch_weight(value, encoder, adapted)
        elif name == "patch_embed.proj.bias":
            new["patch_embed.bias"] = value
        elif name in ("cls_token", "reg_token", "pos_embed"):
            continue
        else:
            new[name] = value
    _positions(source, encoder, new, adapted, left_out)
    _require_fit(own, new, str(path))
    with torch.no_grad():
        for name, value in new.items():
            own[name].copy_(value)
    gone = {*adapted, *left_out}
    return WeightReport(
        taken=tuple(name for name in source if name not in gone),
        adapted=adapted,
        left_out=tuple(left_out),
        fresh=tuple(sorted(own.keys() - new.keys())),
    )


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from ``.safetensors`` or a torch file, unwrapped from ``state_dict`` or ``model``.

    Raises:
        ModelError: the file is missing, of another kind, or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"no checkpoint {path}", "a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            return _load_safetensors(path)
        plain: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path} cannot be read ({str(error).splitlines()[0]})", "a checkpoint that holds nothing but tensors"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(plain, dict) and isinstance(plain.get(key), dict):
            plain = plain[key]
    if not isinstance(plain, dict) or not all(isinstance(value, Tensor) for value in plain.values()):
        raise ModelError(f"{path} holds no weights by name", "a state dict, bare or under state_dict or model")
    return plain


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _patch_weight(value: Tensor, encoder: SpectrogramEncoder, adapted: dict[str, str]) -> Tensor:
    """Convolution ``[D, C0, p0, p0]`` as the encoder's matrix ``[D, C*p*p]``."""
    channels, side = value.shape[1], value.shape[-1]
    done = []
    if encoder.in_chans != channels:
        value = value.sum(1, keepdim=True).expand(-1, encoder.in_chans, -1, -1) / encoder.in_chans
        done.append(f"{channels} channels to {encoder.in_chans}")
    patch = encoder.config.patch
    if side != patch:
        value = resample_patch_embed(value.float(), [patch, patch])
        done.append(f"patch {side} to {patch}")
    if done:
        adapted["patch_embed.proj.weight"] = ", ".join(done)
    return value.reshape(value.shape[0], -1)


def _positions(
    source: dict[str, Tensor],
    encoder: SpectrogramEncoder,
    new: dict[str, Tensor],
    adapted: dict[str, str],
    left_out: list[str],
) -> None:
    """Position table, class token and registers; timm adds the class token's position to it at run time."""
    table = source.get("pos_embed")
    prefix = [source[name][0] for name in ("cls_token", "reg_token") if name in source]
    if table is not None:
        length = table.shape[1]
        before = next((n for n in (0, 1, sum(len(p) for p in prefix)) if _is_square(length - n)), None)
        if before is None:
            raise ModelError(f"a checkpoint with {length} positions", "a square grid of positions")
        if before and prefix:
            padded = torch.cat(prefix)
            padded[:before] += table[0, :before]
            prefix = list(padded.split([len(p) for p in prefix]))
        if isinstance(encoder.positions, nn.Parameter):
            side = round((length - before) ** 0.5)
            new["positions"] = resample_positions(table[0, before:], (side, side), encoder.grid_size)
            if (side, side) != encoder.grid_size:
                adapted["pos_embed"] = f"grid {side}x{side} to {encoder.grid_size[0]}x{encoder.grid_size[1]}"
        else:
            left_out.append("pos_embed")
    names = [name for name in ("cls_token", "reg_token") if name in source]
    wanted = encoder.config.cls_token, encoder.config.registers
    found = tuple(source[name].shape[1] if name in source else 0 for name in ("cls_token", "reg_token"))
    if encoder.num_prefix_tokens and found == (int(wanted[0]), wanted[1]):
        new["prefix"] = torch.cat(prefix)
        adapted |= dict.fromkeys(names, "joined into the prefix tokens, with their positions")
    else:
        left_out += names


def _is_square(number: int) -> bool:
    return number > 0 and round(number**0.5) ** 2 == number


def _require_fit(own: dict[str, nn.Parameter], new: dict[str, Tensor], source: str) -> None:
    """Everything of blocks, norm and patch embedding in both and of one shape, or ModelError."""
    optional = {"positions", "prefix"}
    said = {
        "missing": sorted(own.keys() - new.keys() - optional),
        "unexpected": sorted(new.keys() - own.keys()),
        "misshapen": [
            f"{name} {tuple(new[name].shape)} instead of {tuple(own[name].shape)}"
            for name in sorted(own.keys() & new.keys())
            if own[name].shape != new[name].shape
        ],
    }
    wrong = [f"{what} {names[:4]} ({len(names)} in all)" for what, names in said.items() if names]
    if wrong:
        raise ModelError(f"{source} does not fit the encoder: {', '.join(wrong)}", "a plain ViT of its width and depth")
