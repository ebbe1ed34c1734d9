"""What ``lwm doctor`` finds in a model folder: hashes, files that nobody listed, and the golden input replayed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lwm.errors import LWMError, ModelError
from lwm.hub_config import read_config, read_recipe
from lwm.hub_files import file_in, read_arrays, read_json
from lwm.output import file_sha256
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe

ONNX = "model.onnx"
_CARD = "README.md"
_OF_THE_HUB = {".gitattributes", ".huggingface", ".cache"}
"""Hidden names that the hub and its client leave in a folder."""
_LARGEST_OUTPUT = 64 * 2**20
"""Bytes; leaves room for a language model's next-token logits."""

Array = npt.NDArray[np.float32]


def check_model(folder: str | Path) -> list[str]:
    """Problems of a model folder, one line each; empty when it is sound.

    Compares every recorded SHA-256, loads strictly and replays the golden input in float32, in bfloat16 and, where
    the folder holds an ONNX graph, with onnxruntime; each has its own stated tolerance. A graph that is not listed, or
    was changed, is pointed out and never opened.
    """
    folder = Path(folder)
    try:
        recorded = read_json(folder, "provenance.json", finite=False).get("files")
        if not isinstance(recorded, dict):
            raise ModelError(f"{folder / 'provenance.json'} lists no files", "their SHA-256 by name")
        found = {name: _changed(folder, name, expected) for name, expected in recorded.items()}
        problems = list(_file_problems(folder, found))
    except LWMError as error:
        return [str(error)]
    try:
        problems += _replay_problems(folder, graph=ONNX in found and found[ONNX] is None)
    except LWMError as error:
        problems.append(str(error))
    return problems


def golden_input(recipe: Recipe) -> Array:
    """Fixed random pictures ``[2, C, F, T]`` float32 in the recipe's range: what golden outputs are of."""
    low, high = (recipe.floor_db, recipe.ceiling_db) if recipe.channels == "grey" else (0.0, 255.0)
    shape = (2, recipe.in_chans, *recipe.size)
    return rng_for(0, "golden").uniform(low, high, shape).astype(np.float32)


def golden_output(model: Any, given: Array, dtype: torch.dtype = torch.float32) -> Array:
    """The model's golden output as float32, in evaluation mode, its products computed in ``dtype``."""
    training = model.training
    model.eval()
    try:
        device = next(model.parameters()).device
        low = torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
        with torch.inference_mode(), low:
            return np.asarray(model.golden(torch.from_numpy(given).to(device)).float().cpu().numpy())
    finally:
        model.train(training)


def deviation(found: Array, expected: Array) -> float:
    """Largest difference over the largest magnitude expected; infinite where a value is not finite."""
    off = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12))
    return off if np.isfinite(off) else float("inf")


def _file_problems(folder: Path, recorded: dict[str, str | None]) -> Iterator[str]:
    from lwm.hub import CHECKED_FILES

    for name in CHECKED_FILES:
        if name not in recorded:
            yield f"{folder / name} is not in provenance.json"
    yield from filter(None, recorded.values())
    if (folder / _CARD).is_symlink() or (folder / _CARD).exists():
        try:
            file_in(folder, _CARD)
        except ModelError as error:
            yield str(error)
    for path in sorted(folder.iterdir()):
        if path.name not in {*recorded, "provenance.json", _CARD, *_OF_THE_HUB}:
            yield f"{path} is not listed in provenance.json; it is no part of the model, remove it"


def _changed(folder: Path, name: Any, expected: Any) -> str | None:
    """What is wrong with a recorded file; None when it has its hash."""
    try:
        path = file_in(folder, name)
    except ModelError as error:
        return str(error)
    if file_sha256(path) != expected:
        return f"{path} was changed since it was written (SHA-256 differs); copy the folder again"
    return None


def _replay_problems(folder: Path, graph: bool) -> Iterator[str]:
    from lwm.hub import from_pretrained

    config, recipe, path = read_config(folder), read_recipe(folder), folder / "golden.npz"
    size = 2 * recipe.in_chans * recipe.size[0] * recipe.size[1] * 4
    kept = read_arrays(folder, "golden.npz", {"input": size, "output": _LARGEST_OUTPUT})
    given, expected = kept["input"], kept["output"]
    if given.shape != (2, recipe.in_chans, *recipe.size):
        raise ModelError(f"{path} has an input of shape {given.shape}", f"two pictures of recipe {recipe.name!r}")
    model = from_pretrained(folder)
    for kind, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        found, most = golden_output(model, given, dtype), config["golden_tolerance"][kind]
        if found.shape != expected.shape:
            yield f"{path}: the model gives shape {found.shape}; expected {expected.shape}"
            return
        off = deviation(found, expected)
        if not off <= most:
            yield f"{path}: the model's output in {kind} is off by {off:.2g} of its range; expected at most {most:g}"
    if graph:
        from lwm.export_onnx import compare_onnx

        compare_onnx(folder, ONNX, model, given)
