"""A model folder's config as ``transformers`` wants it."""

from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import cached_file

from lwm.errors import ModelError
from lwm.hub import FORMAT_VERSION, MODELS, read_config, read_recipe
from lwm.hub_config import require_sane_tables
from lwm.registry import load
from lwm.signal.recipe import Recipe

HUB_OPTIONS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
"""Arguments of ``from_pretrained`` that say where a file is fetched from."""


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
        super().__post_init__(**kwargs)
        if self.model is not None and self.recipe is not None:
            with torch.device("meta"):
                self._describe(build(self))

    def _describe(self, encoder: Any) -> None:
        rows, columns = encoder.grid_size
        height, width = encoder.recipe.size
        self.hidden_size = int(encoder.num_features)
        self.num_hidden_layers = int(encoder.depth)
        self.num_channels = int(encoder.in_chans)
        self.image_size = [height, width]
        self.patch_size = [height // rows, width // columns]
        self.grid_size = [rows, columns]
        self.head_features = int(encoder.head_features)

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
        return Recipe.from_dict(self.recipe)

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
        return cls.from_dict(folder_config(model_folder(pretrained_model_name_or_path, options)), **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Config of a dict; one that names the folder it is of gets its recipe from there."""
        name = kwargs.get("name_or_path")
        if config_dict.get("recipe") is None and name and Path(name).is_dir():
            config_dict = config_dict | folder_config(Path(name))
        return super().from_dict(config_dict, **kwargs)


def build(config: LWMConfig) -> nn.Module:
    """The encoder or mixture of a config, with fresh weights on the current device.

    Raises:
        ModelError: the type is none that makes tokens of pictures.
    """
    recipe = config.require_recipe()
    if config.type is None or config.model is None:
        raise ModelError("a config that names no model", "type and model, as config.json of a model folder")
    if config.format_version > FORMAT_VERSION:
        raise ModelError(f"a config of format_version {config.format_version}", f"{FORMAT_VERSION}", "update LWM")
    require_sane_tables(config.model, recipe, "a config")
    kind = load(MODELS, config.type)
    if not hasattr(kind, "forward_features"):
        raise ModelError(f"a model of type {config.type!r}", "an encoder or a mixture of experts")
    encoder: nn.Module = kind.from_config(config.model, recipe)
    return encoder


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
