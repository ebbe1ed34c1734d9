"""Model folders: complete by themselves, written atomically, loaded strictly, checked by replaying a golden output."""

import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from lwm import __version__
from lwm.errors import LWMError, ModelError
from lwm.models.card import model_card
from lwm.output import atomic_folder, file_sha256, write_json
from lwm.registry import load
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe

MODELS = "lwm.models"
FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
CHECKED_FILES = ("config.json", WEIGHTS, "recipe.json", "golden.npz")
"""Files whose SHA-256 ``provenance.json`` records. The card may be edited afterwards and is not among them."""

# Relative to the golden output's largest magnitude: far above what another CPU's order of summation changes
# (1e-6 measured), far below what a changed weight or another normalisation does.
GOLDEN_TOLERANCE = 1e-3


@runtime_checkable
class HubModel(Protocol):
    """What a model offers to be kept in a folder; its type is registered as an ``lwm.models`` entry point."""

    model_type: ClassVar[str]
    recipe: Recipe

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
        ModelError: the weights hold a value that is not finite.
    """
    module = _module(model)
    weights, shared = _unshared(module)
    _require_finite(weights)
    config = {"format_version": FORMAT_VERSION, "type": model.model_type, "model": model.get_config()}
    target = Path(folder)
    with atomic_folder(target, overwrite=overwrite) as partial:
        write_json(partial / "config.json", config | {"shared": shared})
        write_json(partial / "recipe.json", model.recipe.to_dict())
        _save_weights(weights, partial / WEIGHTS)
        given = golden_input(model.recipe)
        np.savez(partial / "golden.npz", input=given, output=_golden_output(model, given))
        files = {name: file_sha256(partial / name) for name in CHECKED_FILES}
        record = {"lwm_version": __version__} | (provenance or {}) | {"files": files}
        write_json(partial / "provenance.json", record)
        parameters = sum(p.numel() for p in module.parameters())
        card = model_card(target.name, config, model.recipe, record, parameters)
        (partial / "README.md").write_text(card, encoding="utf-8")
    return target


def from_pretrained(
    folder_or_hub_id: str | Path, *, device: str | torch.device = "cpu", revision: str | None = None
) -> Any:
    """Load a model folder, or download one from the Hugging Face Hub, in evaluation mode.

    Args:
        folder_or_hub_id: a folder, or ``owner/name`` on the hub when no such folder exists.
        device: where to put the model.
        revision: branch, tag or commit on the hub.

    Raises:
        ModelError: not a model folder, of an unknown format, or its weights do not fit: missing, unexpected and
            misshapen keys are listed.
    """
    folder = _locate(folder_or_hub_id, revision)
    config = read_config(folder)
    model = load(MODELS, config["type"]).from_config(config["model"], read_recipe(folder))
    weights = _read_weights(folder / WEIGHTS)
    for alias, kept in config.get("shared", {}).items():
        if kept in weights:
            weights[alias] = weights[kept]
    load_strictly(model, weights, str(folder / WEIGHTS))
    return model.to(device).eval()


def check_model(folder: str | Path) -> list[str]:
    """Problems of a model folder, one line each; empty when it is sound.

    Compares every recorded SHA-256, loads strictly and replays the golden input.
    """
    folder = Path(folder)
    try:
        provenance = _read_json(folder / "provenance.json")
    except ModelError as error:
        return [str(error)]
    recorded = provenance.get("files", {})
    problems = [f"{folder / name} is not in provenance.json" for name in CHECKED_FILES if name not in recorded]
    for name, expected in recorded.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path} is missing; copy the folder again")
        elif file_sha256(path) != expected:
            problems.append(f"{path} was changed since it was written (SHA-256 differs); copy the folder again")
    try:
        problems += _golden_problems(folder)
    except LWMError as error:
        problems.append(str(error))
    return problems


def push_to_hub(folder: str | Path, repo_id: str, private: bool = False) -> str:
    """Upload a sound model folder to the Hugging Face Hub with the user's own login; returns its address.

    Raises:
        ModelError: the folder has problems, or the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    problems = check_model(folder)
    if problems:
        raise ModelError(f"{folder} is not sound: {problems[0]}", remedy="run `lwm doctor` on it")
    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=str(folder))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(f"the hub refused {repo_id}: {error}", remedy="log in with `hf auth login`") from error
    return str(url)


def golden_input(recipe: Recipe) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Fixed random pictures ``[2, C, F, T]`` float32 in the recipe's range: what golden outputs are of."""
    low, high = (recipe.floor_db, recipe.ceiling_db) if recipe.channels == "grey" else (0.0, 255.0)
    shape = (2, recipe.in_chans, *recipe.size)
    return rng_for(0, "golden").uniform(low, high, shape).astype(np.float32)


def load_strictly(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load ``weights``, or raise ModelError listing missing, unexpected and misshapen keys."""
    own = model.state_dict()
    missing = sorted(own.keys() - weights.keys())
    unexpected = sorted(weights.keys() - own.keys())
    misshapen = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(own.keys() & weights.keys())
        if own[key].shape != weights[key].shape
    ]
    said = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    wrong = [f"{what} {_shortened(keys)}" for what, keys in said.items() if keys]
    if wrong:
        raise ModelError(f"{source} does not fit the model: {', '.join(wrong)}", "exactly the model's keys and shapes")
    model.load_state_dict(weights, strict=True)


def read_config(folder: str | Path) -> dict[str, Any]:
    """``config.json`` of a model folder, its format checked; ModelError when there is none or it is unknown."""
    path = Path(folder) / "config.json"
    config = _read_json(path)
    if config.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{path} has format_version {config.get('format_version')}",
            f"{FORMAT_VERSION}",
            "load it with the version of LWM that wrote it",
        )
    if not isinstance(config.get("type"), str) or not isinstance(config.get("model"), dict):
        raise ModelError(f"{path} names no model", "keys type and model")
    return config


def read_recipe(folder: str | Path) -> Recipe:
    """``recipe.json`` of a model folder."""
    return Recipe.from_dict(_read_json(Path(folder) / "recipe.json"))


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of a module's weights and buffers, wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _module(model: HubModel) -> nn.Module:
    if not isinstance(model, nn.Module) or not isinstance(model, HubModel):
        raise ModelError(f"a {type(model).__name__}", "a model registered under lwm.models")
    return model


def _shortened(keys: list[str], most: int = 8) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return "[" + ", ".join(keys[:most]) + "]" + more


def _unshared(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State dict with each shared tensor once, and which left-out name is which kept one."""
    kept: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, value in module.state_dict().items():
        key = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and key in first:
            shared[name] = first[key]
        else:
            first[key] = name
            # A copy: safetensors refuses views of one storage.
            kept[name] = value.detach().cpu().clone().contiguous()
    return kept, shared


def _require_finite(weights: dict[str, Tensor]) -> None:
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise ModelError(f"weight {name} is not finite", "finite weights", "train again with a lower learning rate")


def _save_weights(weights: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save

    # Through Python's own write, so that a full disk is the OSError that it is.
    path.write_bytes(save(weights, metadata={"format": "pt"}))


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise ModelError(f"{path} is missing", "a complete model folder") from None
    except SafetensorError as error:
        raise ModelError(f"{path} cannot be read ({error})", "a safetensors file", "copy the folder again") from error


def _golden_output(model: Any, given: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            device = next(model.parameters()).device
            return np.asarray(model.golden(torch.from_numpy(given).to(device)).float().cpu().numpy())
    finally:
        model.train(training)


def _golden_problems(folder: Path) -> list[str]:
    path = folder / "golden.npz"
    try:
        with np.load(path, allow_pickle=False) as kept:
            given, expected = kept["input"], kept["output"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        return [f"{path} cannot be read ({error}); copy the folder again"]
    found = _golden_output(from_pretrained(folder), given)
    if found.shape != expected.shape:
        return [f"{path}: the model gives shape {found.shape}; expected {expected.shape}"]
    off = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12))
    if not off <= GOLDEN_TOLERANCE:
        return [f"{path}: the model's output is off by {off:.2g} of its range; expected at most {GOLDEN_TOLERANCE:g}"]
    return []


def _locate(folder_or_hub_id: str | Path, revision: str | None) -> Path:
    folder = Path(folder_or_hub_id)
    if folder.is_dir():
        return folder
    name = str(folder_or_hub_id)
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ModelError(f"no model folder {name}", "a folder with config.json, or owner/name on the hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"no model folder {name}, and the hub does not give it ({str(error).splitlines()[0]})",
            "a folder with config.json, or owner/name on the hub",
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{path} is missing", "a model folder written by LWM") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} is not JSON ({error})", "a model folder written by LWM") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__}", "a JSON object")
    return value
