"""``config.json`` and ``recipe.json`` of a model folder: their version, its migration, and what they may ask for."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lwm.errors import LWMError, ModelError
from lwm.hub_files import read_json
from lwm.signal.recipe import Recipe

FORMAT_VERSION = 2

# Relative to the golden output's largest magnitude: far above what another CPU's order of summation changes
# (1e-6 measured), far below what a changed weight or another normalisation does.
GOLDEN_TOLERANCE = 1e-3

# bfloat16 keeps 8 bits of mantissa: 0.4 % a rounding, of which a network adds up dozens. A folder states four times
# what was measured when it was written (another processor sums in another order), at least the first figure; one of
# version 1 did not measure and gets the second.
LEAST_BFLOAT16, UNMEASURED_BFLOAT16 = 0.02, 0.1

LARGEST_PICTURE = 2**22
"""Cells of a recipe's picture: 2048 x 2048; the largest preset has 512 x 512."""

LARGEST_TABLE = 2**27
"""Numbers in a table of positions (tokens times width), which is made outside of what torch counts."""

LARGEST_COUNT = 10_000
"""Layers or labels that a config of transformers may state: it makes lists of them before a weight is counted."""

TRANSFORMERS_KEYS: dict[str, Any] = {"model_type": "lwm_encoder", "architectures": ["LWMModel"]}
"""What transformers looks up in the folder of an encoder or a mixture, so that `lwm.hf` reads it."""

RFGPT_KEYS: dict[str, Any] = {"model_type": "rfgpt", "architectures": ["RFGPTForConditionalGeneration"]}
"""The same for RF-GPT."""

_KNOWN = {"format_version", "type", "model", "shared", "golden_tolerance", *TRANSFORMERS_KEYS}

# transformers fetches what a string under such a key names (a kernel's repository, a module, a backbone's weights), or
# reads another file than the one that was checked.
_FETCHES = re.compile(
    r"_implementation|auto_map|quantization_config|kernel|remote_code|code_revision|commit_hash"
    r"|pretrained_backbone|transformers_weights|configuration_files"
)
_COUNTS = re.compile(r"num_labels|layers$|n_layer$|depths?$")

Migration = Callable[[dict[str, Any]], dict[str, Any]]


def _state_tolerances(config: dict[str, Any]) -> dict[str, Any]:
    """Version 2 states how far a golden output may be off under each type of numbers."""
    stated = {"float32": GOLDEN_TOLERANCE, "bfloat16": UNMEASURED_BFLOAT16}
    return config | {"format_version": 2, "golden_tolerance": stated, "shared": config.get("shared", {})}


MIGRATIONS: dict[int, Migration] = {1: _state_tolerances}
"""From each older version to the next; a function of the config alone, so that a folder is never written to."""


def migrate(config: dict[str, Any], where: str) -> dict[str, Any]:
    """A config of any version up to ours as one of :data:`FORMAT_VERSION`; ModelError when it is none of them."""
    version = config.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        newer = type(version) is int and version > FORMAT_VERSION
        raise ModelError(
            f"{where} has format_version {version!r:.40}",
            f"1 to {FORMAT_VERSION}",
            "install a newer LWM" if newer else "load it with the version of LWM that wrote it",
        )
    for step in range(version, FORMAT_VERSION):
        config = MIGRATIONS[step](config)
    return config


def read_config(folder: str | Path) -> dict[str, Any]:
    """``config.json`` of a model folder, migrated and its format checked.

    Raises:
        ModelError: there is none, it is of an unknown version, it lacks a part or has one that is not known.
    """
    path = Path(folder) / "config.json"
    config = migrate(read_json(Path(folder), "config.json"), str(path))
    strange = sorted(config.keys() - _KNOWN)
    if strange:
        raise ModelError(f"{path} has unknown keys {strange[:8]}", f"{sorted(_KNOWN)}", "do not use this folder")
    stated = {key: config[key] for key in TRANSFORMERS_KEYS if key in config}
    if stated not in ({}, TRANSFORMERS_KEYS, RFGPT_KEYS):
        raise ModelError(f"{path} tells transformers {stated!r:.80}", f"{TRANSFORMERS_KEYS} or {RFGPT_KEYS}")
    if not isinstance(config.get("type"), str) or not isinstance(config.get("model"), dict):
        raise ModelError(f"{path} names no model", "keys type and model")
    shared, tolerance = config.get("shared"), config.get("golden_tolerance")
    if not isinstance(shared, dict) or not all(isinstance(kept, str) for kept in shared.values()):
        raise ModelError(f"{path} has shared weights {shared!r:.40}", "names by name")
    kinds = ("float32", "bfloat16")
    if not isinstance(tolerance, dict) or not all(isinstance(tolerance.get(kind), float) for kind in kinds):
        raise ModelError(f"{path} has golden_tolerance {tolerance!r:.40}", f"a number for each of {list(kinds)}")
    return config


def read_recipe(folder: str | Path) -> Recipe:
    """``recipe.json`` of a model folder.

    Raises:
        ModelError: no recipe, or one of absurd size.
        ConfigError: a recipe with missing, unknown or impossible fields.
    """
    folder = Path(folder)
    return checked_recipe(read_json(folder, "recipe.json"), str(folder / "recipe.json"))


def checked_recipe(plain: dict[str, Any], where: str) -> Recipe:
    """A recipe of its dict; errors as :func:`read_recipe`, naming ``where``."""
    try:
        recipe = Recipe.from_dict(plain)
        rows, columns = recipe.size
        cells = int(recipe.in_chans) * int(rows) * int(columns)
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"{where} is no recipe ({error})", "a recipe written by LWM") from error
    longest = max([0, *(plain[key] for key in ("n_fft", "win_length", "hop") if type(plain.get(key)) is int)])
    if not 0 < cells <= 3 * LARGEST_PICTURE or longest > LARGEST_PICTURE:
        raise ModelError(f"{where} asks for {cells} cells and frames of {longest}", f"at most {LARGEST_PICTURE} each")
    return recipe


def require_sane_tables(config: dict[str, Any], recipe: Recipe, where: str) -> None:
    """Raise ModelError where a part of a config would make a table of positions larger than :data:`LARGEST_TABLE`."""
    cells = recipe.size[0] * recipe.size[1]
    for part in _parts(config):
        patch, width = part.get("patch", 1), part.get("width", 0)
        grid = part.get("grid")
        if type(patch) is not int or type(width) is not int or patch < 1:
            continue
        tokens = grid * grid if type(grid) is int else cells // patch**2
        if tokens * width > LARGEST_TABLE:
            raise ModelError(
                f"{where} asks for {tokens} tokens of width {width}", f"at most {LARGEST_TABLE} numbers in a table"
            )


def require_inert(config: Any, where: str) -> None:
    """Refuse what makes transformers fetch code, read another file or make long lists, at any depth of a config.

    A number under such a key is a size (``conv_kernel: 4``) and passes.

    Raises:
        ModelError: a key that names code or a file, or more than :data:`LARGEST_COUNT` layers or labels.
    """
    for part in _parts(config):
        for key, value in part.items():
            if _FETCHES.search(str(key)) and not _is_size(value):
                raise ModelError(f"{where} has {key!r:.60}: {value!r:.60}", "no key that names code or a file to fetch")
            counted = isinstance(value, int | float) and value > LARGEST_COUNT
            if counted and _COUNTS.search(str(key)):
                raise ModelError(f"{where} asks for {key!r:.60}: {value}", f"at most {LARGEST_COUNT}")


def build_checked(kind: Any, config: Any, recipe: Recipe, where: str, **options: Any) -> Any:
    """``kind.from_config``, whose failure at a config that is none becomes one line.

    Args:
        kind: a registered model type.
        config: for its ``from_config``.
        recipe: the model's.
        where: what holds the config.
        **options: for ``from_config`` too.

    Raises:
        ModelError: the config has another shape or impossible values.
    """
    require_sane_tables(config, recipe, where)
    try:
        return kind.from_config(config, recipe, **options)
    except LWMError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        said = f"{type(error).__name__}: {error}"
        raise ModelError(f"{where} describes no {kind.model_type} ({said:.300})", "a config that LWM wrote") from error


def _is_size(value: Any) -> bool:
    """None, False, a number or a list of numbers: nothing that could name anything."""
    if isinstance(value, list):
        return all(_is_size(each) for each in value)
    return value is None or value is False or (isinstance(value, int | float) and value is not True)


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
