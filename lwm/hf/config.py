"""A model folder's config as ``transformers`` wants it."""

import json
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import cached_file

from lwm.errors import ModelError
from lwm.hub import FORMAT_VERSION, MODELS, WEIGHTS, read_config, read_recipe
from lwm.hub_config import TRANSFORMERS_KEYS, build_checked, checked_recipe, require_inert
from lwm.hub_weights import Budget, require_fit
from lwm.registry import load
from lwm.signal.recipe import Recipe

HUB_OPTIONS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
"""Arguments of ``from_pretrained`` that say where a file is fetched from."""

_CHOSEN = ("attn_implementation", "experts_implementation")
_KNOWN = {*TRANSFORMERS_KEYS, "golden_tolerance", "_name_or_path", "output_attentions"}
"""Keys of a config that are no fields of it: those of a model folder, and what ``transformers`` writes."""

# What a config may ask for whose weights are not there to be compared with: on torch's meta device, where neither takes
# memory, only time. The largest mixture of eight experts of 24 blocks makes some 3000 tensors.
_UNSEEN = (2**40, 8192, "and no weights are there to compare it with")


class LWMConfig(PreTrainedConfig):
    """Shape and recipe of an encoder or a mixture of experts.

    The first five fields are those of the model folder; the others follow from them and are None without them.

    Args:
        type: of the model, as registered under ``lwm.models``: encoder, timm, moe.
        format_version: of the model folder.
        model: what the type builds itself from.
        shared: names of weights that are others under a second name.
        recipe: every field of the recipe that its pictures are made with; in a model folder it is ``recipe.json``.
        hidden_size: width D of a token.
        num_hidden_layers: blocks a token goes through.
        num_channels: channels C of a picture.
        image_size: rows (frequency) and columns (time) of a picture.
        patch_size: rows and columns of a patch.
        grid_size: rows and columns of tokens; their product is L.
        head_features: width of the pooled output.

    Raises:
        ModelError: the type is no encoder, or cannot be built so.
    """

    model_type = "lwm_encoder"

    type: str | None = None
    format_version: int = FORMAT_VERSION
    model: dict[str, Any] | None = None
    shared: dict[str, str] | None = None
    recipe: dict[str, Any] | None = None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_channels: int | None = None
    image_size: list[int] | None = None
    patch_size: list[int] | None = None
    grid_size: list[int] | None = None
    head_features: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # No attention of transformers is ours; other models that set their own kind on their towers may go on so.
        chosen = {key: value for key, value in kwargs.items() if key in _CHOSEN and "/" not in str(value)}
        require_inert({key: value for key, value in kwargs.items() if key not in chosen}, "a config")
        super().__post_init__(**kwargs)
        if self.model is not None and self.recipe is not None:
            for name, value in _described(self).items():
                setattr(self, name, value)

    @property
    def sequence_length(self) -> int:
        """Tokens L of a picture: how many placeholders a language model keeps for it."""
        if self.grid_size is None:
            raise ModelError("a config without a model or without its recipe", "one of a model folder")
        return self.grid_size[0] * self.grid_size[1]

    def require_recipe(self) -> Recipe:
        """The recipe; ModelError when the config came without."""
        if self.recipe is None:
            raise ModelError(
                "a config without its recipe", "config.json and recipe.json of one model folder", "download both"
            )
        return checked_recipe(self.recipe, "a config's recipe")

    @classmethod
    def of(cls, encoder: Any) -> Self:
        """Config of an encoder or a mixture."""
        return cls(type=encoder.model_type, model=encoder.get_config(), recipe=encoder.recipe.to_dict(), shared={})

    @classmethod
    def from_pretrained(  # type: ignore[override] # the other parameters are passed on
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> Any:
        """Config of a model folder or an id on the hub; arguments are ``transformers``' own."""
        options = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        folder = model_folder(pretrained_model_name_or_path, options)
        found = folder_config(folder)
        require_fit_once(found, folder)
        return cls.from_dict(found, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Config of a dict; one that names the model folder it is of is read from there.

        Raises:
            ModelError: a key that no config of ours has, or see :func:`folder_config`.
        """
        name = kwargs.get("name_or_path")
        if name and (Path(name) / "recipe.json").is_file():
            found = folder_config(Path(name))
            require_fit_once(found, Path(name))
        else:
            found = dict(config_dict)
        strange = sorted(found.keys() - _KNOWN - {each.name for each in fields(cls)})
        if strange:
            raise ModelError(f"a config with unknown keys {strange[:8]}", "one that LWM wrote", "do not use it")
        return super().from_dict(found, **kwargs)


def build(config: LWMConfig) -> nn.Module:
    """The encoder or mixture of a config, with fresh weights on the current device.

    Raises:
        ModelError: the type is none that makes tokens of pictures, or cannot be built so.
    """
    return _build(config.type, config.format_version, config.model, config.require_recipe())


def _build(kind: Any, version: Any, model: Any, recipe: Recipe) -> nn.Module:
    if not isinstance(kind, str) or not isinstance(model, dict):
        raise ModelError("a config that names no model", "type and model, as config.json of a model folder")
    if type(version) is not int or version > FORMAT_VERSION:
        raise ModelError(f"a config of format_version {version!r:.40}", f"{FORMAT_VERSION}", "update LWM")
    found = load(MODELS, kind)
    if not hasattr(found, "forward_features"):
        raise ModelError(f"a model of type {kind!r}", "an encoder or a mixture of experts")
    encoder: nn.Module = build_checked(found, model, recipe, "a config")
    return encoder


_DESCRIBED: dict[str, dict[str, Any]] = {}
"""Shapes by what a model is built of, so that each is built to be looked at only once."""


def _described(config: LWMConfig) -> dict[str, Any]:
    """Fields that follow from the others."""
    key = _key(config.type, config.format_version, config.model, config.recipe)
    if key not in _DESCRIBED:
        with torch.device("meta"), Budget(*_UNSEEN):
            _describe(key, build(config))
    return _DESCRIBED[key]


def _key(*parts: Any) -> str:
    return json.dumps(parts, sort_keys=True, default=repr)


def _describe(key: str, encoder: Any) -> None:
    rows, columns = encoder.grid_size
    height, width = encoder.recipe.size
    if len(_DESCRIBED) >= 64:
        _DESCRIBED.clear()
    _DESCRIBED[key] = {
        "hidden_size": int(encoder.num_features),
        "num_hidden_layers": int(encoder.depth),
        "num_channels": int(encoder.in_chans),
        "image_size": [height, width],
        "patch_size": [height // rows, width // columns],
        "grid_size": [rows, columns],
        "head_features": int(encoder.head_features),
    }


def require_fit_once(config: dict[str, Any], folder: Path) -> None:
    """Compare names, shapes and types before any weight gets memory: a config may ask for any amount of it.

    Does nothing where the folder has no weights, and nothing twice for the same file and config.

    Raises:
        ModelError: missing, unexpected, misshapen or mistyped keys, far more memory asked for than the file has, or no
            safetensors file.
    """
    path = folder / WEIGHTS
    if path.exists():
        found = path.stat()
        parts = [config.get(name) for name in ("type", "format_version", "model", "recipe")]
        _require_fit(
            json.dumps(parts), json.dumps(config.get("shared") or {}), folder, found.st_size, found.st_mtime_ns
        )


@lru_cache(maxsize=16)
def _require_fit(parts: str, shared: str, folder: Path, size: int, changed: int) -> None:
    kind, version, model, plain = json.loads(parts)
    recipe = checked_recipe(plain, str(folder / "recipe.json"))
    encoder = require_fit(lambda: _build(kind, version, model, recipe), folder, WEIGHTS, json.loads(shared))
    _describe(_key(kind, version, model, plain), encoder)


def model_folder(name: Any, options: dict[str, Any], files: tuple[str, ...] = ()) -> Path:
    """The local folder of a model: ``name`` itself, or where ``transformers`` keeps its files of that id.

    Args:
        name: folder or id.
        options: those of :data:`HUB_OPTIONS`.
        files: needed beside config and recipe.

    Raises:
        OSError: no such folder and no such id (``transformers``' own message).
    """
    folder = Path(name) / (options.get("subfolder") or "")
    if folder.is_dir():
        return folder
    found = [cached_file(str(name), file, **options) for file in ("config.json", "recipe.json", *files)]
    return Path(str(found[0])).parent


def folder_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model folder, checked, with its recipe."""
    return read_config(folder) | {"recipe": read_recipe(folder).to_dict()}
