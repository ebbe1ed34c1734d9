"""Config of an RF-GPT folder as ``transformers`` wants it."""

import json
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, Self

from transformers import AutoConfig, PreTrainedConfig

from lwm.errors import ModelError
from lwm.hf.config import HUB_OPTIONS, folder_config, model_folder
from lwm.hub import FORMAT_VERSION
from lwm.hub_config import RFGPT_KEYS, checked_recipe, require_inert
from lwm.signal.recipe import Recipe


class RFGPTConfig(PreTrainedConfig):
    """Shape, chat and recipe of an RF-GPT.

    Args:
        type: of the model, as registered under ``lwm.models``.
        format_version: of the model folder.
        model: what :meth:`lwm.language.rfgpt.RFGPT.from_config` takes.
        shared: names of weights that are others under a second name.
        golden_tolerance: see :mod:`lwm.hub`.
        recipe: every field of the recipe of the pictures; in a model folder it is ``recipe.json``.

    Raises:
        ModelError: it names code or a file to fetch.
    """

    model_type = RFGPT_KEYS["model_type"]

    type: str = "rfgpt"
    format_version: int = FORMAT_VERSION
    model: dict[str, Any] | None = None
    shared: dict[str, str] | None = None
    golden_tolerance: dict[str, float] | None = None
    recipe: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        require_inert({"model": (self.model or {}).get("llm", {})}, "a config")
        super().__post_init__(**kwargs)

    @classmethod
    def of(cls, model: Any) -> Self:
        """Config of an RF-GPT."""
        return cls(model=model.get_config(), recipe=model.recipe.to_dict(), shared={}, architectures=_ARCHITECTURES)

    def require_recipe(self) -> Recipe:
        """The recipe; ModelError when the config came without."""
        if self.recipe is None:
            raise ModelError("a config without its recipe", "config.json and recipe.json of one model folder")
        return checked_recipe(self.recipe, "a config's recipe")

    @property
    def rf_tokens(self) -> int:
        """Places that a capture takes in the conversation."""
        return prod((self.model or {}).get("tokens", ()))

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Any:
        """The language model's config, which says how large a key-value cache is."""
        plain = (self.model or {}).get("llm")
        return self if not isinstance(plain, dict) else _text_config(json.dumps(plain, sort_keys=True))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Config of a model folder or an id on the hub; arguments are ``transformers``' own."""
        options = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        folder = model_folder(pretrained_model_name_or_path, options)
        return cls.from_dict(folder_config(folder), **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Config of a dict; one that names the folder it is of is read from there."""
        name = kwargs.get("name_or_path")
        if name is not None and (Path(name) / "recipe.json").is_file():
            config_dict = folder_config(Path(name))
        return super().from_dict(dict(config_dict), **kwargs)


_ARCHITECTURES = RFGPT_KEYS["architectures"]


@lru_cache(maxsize=16)
def _text_config(text: str) -> Any:
    plain = json.loads(text)
    return AutoConfig.for_model(plain.pop("model_type"), **plain)
