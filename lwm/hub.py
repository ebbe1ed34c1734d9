"""Model folders: complete by themselves, written atomically, loaded strictly, checked by replaying a golden output."""

from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from lwm import __version__
from lwm.errors import ModelError
from lwm.hub_check import check_model, deviation, golden_input, golden_output
from lwm.hub_config import (
    FORMAT_VERSION,
    GOLDEN_TOLERANCE,
    LEAST_BFLOAT16,
    RFGPT_KEYS,
    TRANSFORMERS_KEYS,
    build_checked,
    read_config,
    read_recipe,
)
from lwm.hub_files import require_plain
from lwm.hub_remote import locate, upload
from lwm.hub_weights import load_model, load_strictly, require_finite, save_weights, unshared, weights_sha256
from lwm.models.card import model_card
from lwm.output import atomic_folder, file_sha256, write_json
from lwm.registry import MODELS, load
from lwm.signal.recipe import Recipe

WEIGHTS = "model.safetensors"
WHOLE = "rfgpt.json"
"""Beside the files of a vision-language model that another library reads: labels and provenance."""
CHECKED_FILES = ("config.json", WEIGHTS, "recipe.json", "golden.npz")
"""Files whose SHA-256 ``provenance.json`` records. The card may be edited afterwards and is not among them."""

__all__ = [
    "CHECKED_FILES",
    "FORMAT_VERSION",
    "GOLDEN_TOLERANCE",
    "MODELS",
    "WEIGHTS",
    "WHOLE",
    "HubModel",
    "check_model",
    "from_pretrained",
    "golden_input",
    "load_strictly",
    "push_to_hub",
    "read_config",
    "read_recipe",
    "save_pretrained",
    "weights_sha256",
    "write_folder",
]


@runtime_checkable
class HubModel(Protocol):
    """What a model offers to be kept in a folder; its type is registered as an ``lwm.models`` entry point.

    Its constructor runs on torch's ``meta`` device too, so it must not look at the value of a weight.
    """

    model_type: ClassVar[str]

    @property
    def recipe(self) -> Recipe:
        """What its pictures are made with."""
        ...

    def get_config(self) -> dict[str, Any]:
        """JSON-able dict from which :meth:`from_config` builds the same shape."""
        ...

    @classmethod
    def from_config(cls, config: dict[str, Any], recipe: Recipe) -> Self:
        """A model of that shape; its weights are loaded afterwards."""
        ...

    def golden(self, x: Tensor) -> Tensor:
        """A small output for the dB pictures ``x [2, C, F, T]``, deterministic in evaluation mode."""
        ...


def save_pretrained(
    model: HubModel, folder: str | Path, provenance: dict[str, Any] | None = None, overwrite: bool = False
) -> Path:
    """Write a model folder: config, weights, recipe, golden input and output, provenance and card.

    Args:
        model: a registered model.
        folder: where to; must be empty or new unless ``overwrite``.
        provenance: JSON-able: command, seed, commit, data manifest hash, metrics, whatever is known.
        overwrite: replace what is there.

    Returns:
        The folder.

    Raises:
        OutputError: the folder is not empty or cannot be written.
        ModelError: the weights hold a value that is not finite, or config or provenance cannot be kept as JSON.
    """
    target = Path(folder)
    with atomic_folder(target, overwrite=overwrite) as partial:
        write_folder(model, partial, target.name, provenance)
    return target


def write_folder(model: HubModel, folder: Path, name: str, provenance: dict[str, Any] | None = None) -> None:
    """Write the files of a model folder into an existing one; who calls sees to it that it appears as a whole.

    Args:
        model: a registered model.
        folder: an empty folder.
        name: what the card calls the model.
        provenance: see :func:`save_pretrained`.

    Raises:
        ModelError: see :func:`save_pretrained`.
    """
    if hasattr(model, "write_files"):
        # Its folder is another library's, with what we know beside.
        model.write_files(folder, provenance)
        return
    module = _module(model)
    weights, shared = unshared(module)
    require_finite(weights, "weight", "train again with a lower learning rate")
    given = golden_input(model.recipe)
    golden = golden_output(model, given)
    off = deviation(golden_output(model, given, torch.bfloat16), golden)
    tolerance = {"float32": GOLDEN_TOLERANCE, "bfloat16": max(LEAST_BFLOAT16, round(4 * off, 4))}
    config = {
        "format_version": FORMAT_VERSION,
        "type": model.model_type,
        "model": model.get_config(),
        "shared": shared,
        "golden_tolerance": tolerance,
    }
    if hasattr(model, "forward_features"):
        config |= TRANSFORMERS_KEYS
    elif model.model_type == RFGPT_KEYS["model_type"]:
        config |= RFGPT_KEYS
    record = {"lwm_version": __version__} | (provenance or {})
    require_plain(config, "the model's config")
    require_plain(record, "provenance")
    write_json(folder / "config.json", config)
    write_json(folder / "recipe.json", model.recipe.to_dict())
    save_weights(weights, folder / WEIGHTS)
    np.savez(folder / "golden.npz", input=given, output=golden)
    record["files"] = {name: file_sha256(folder / name) for name in CHECKED_FILES}
    write_json(folder / "provenance.json", record)
    parameters = sum(p.numel() for p in module.parameters())
    (folder / "README.md").write_text(model_card(name, config, model.recipe, record, parameters), encoding="utf-8")


def from_pretrained(
    folder_or_hub_id: str | Path,
    *,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    mapped: bool = False,
    **options: Any,
) -> Any:
    """Load a model folder, or download one from the Hugging Face Hub, in evaluation mode.

    Args:
        folder_or_hub_id: a folder, or ``owner/name`` on the hub when no such folder exists.
        device: where to put the model.
        revision: branch, tag or commit on the hub.
        mapped: leave the weights in their file until they are used, instead of reading and checking all of them now;
            the file must then stay as it is while the model is in use.
        **options: how the model's type is to be built, for its ``from_config``; most types have none.

    Raises:
        ModelError: not a model folder, of an unknown format, or its weights do not fit: missing, unexpected and
            misshapen keys are listed. Nothing is taken from a folder that names files outside of it, whose weights
            are a pickle, or whose sizes are absurd.
        ConfigError: its recipe, or a type that is not registered.
    """
    folder = locate(folder_or_hub_id, revision)
    if (folder / WHOLE).is_file():
        return load(MODELS, "qwen_vl").from_pretrained(folder, **options).to(device)
    config, recipe = read_config(folder), read_recipe(folder)
    where, kind = str(folder / "config.json"), load(MODELS, config["type"])
    if "base" in config["model"] and hasattr(kind, "on_base"):
        # The folder holds a part of the model and names the folders of the rest.
        return kind.on_base(folder, config["model"], recipe, **options).to(device).eval()

    def build() -> Any:
        return build_checked(kind, config["model"], recipe, where, **options)

    return load_model(build, folder, WEIGHTS, config["shared"], mapped).to(device).eval()


def push_to_hub(folder: str | Path, repo_id: str, private: bool = False) -> str:
    """Upload a sound model folder to the Hugging Face Hub with the user's own login; returns its address.

    Only the files that ``provenance.json`` lists, itself and the card are sent.

    Raises:
        ModelError: the folder has problems, or the hub refuses.
    """
    problems = check_model(folder)
    if problems:
        raise ModelError(f"{folder} is not sound: {problems[0]}", remedy="run `lwm doctor` on it")
    return upload(Path(folder), repo_id, private)


def _module(model: HubModel) -> nn.Module:
    if not isinstance(model, nn.Module) or not isinstance(model, HubModel):
        raise ModelError(f"a {type(model).__name__}", "a model registered under lwm.models")
    return model
