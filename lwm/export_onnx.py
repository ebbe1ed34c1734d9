"""ONNX graphs of a model folder: written, and compared with torch by onnxruntime before they count."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lwm.errors import ConfigError, ModelError
from lwm.export_graph import IQGraph, RecipeGraph, graph_of
from lwm.hub_check import ONNX, deviation, golden_input
from lwm.hub_config import GOLDEN_TOLERANCE
from lwm.hub_files import file_in
from lwm.output import atomic_file
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe

ONNX_IQ = "model-iq.onnx"
OPSET = 18
_LARGEST = 2**31 - 2**20
"""Bytes of one protobuf message, with room for the graph itself."""

_PICTURE_DB = 0.01
"""How far, in dB, a grey picture of the graph may be off."""

_COLOUR_STEP = 5.0
"""Of 255: one step of the colour map, where rounding falls the other way."""


def write_onnx(model: Any, folder: Path) -> dict[str, Any]:
    """Write ``model.onnx`` with dynamic batch: dB pictures in; compare it with torch.

    Args:
        model: an expert or a mixture, in evaluation mode on the CPU.
        folder: where to.

    Returns:
        What provenance keeps: input, outputs, opset, deviation and its tolerance.

    Raises:
        ModelError: a model that cannot be exported, larger than ONNX takes, or off by more than the tolerance.
        ConfigError: onnx, onnxscript or onnxruntime is not installed.
    """
    graph, given = graph_of(model), golden_input(model.recipe)
    with atomic_file(folder / ONNX) as temporary:
        _export(graph, torch.from_numpy(given), "spectrogram", temporary, model.recipe, {})
        off = _compare(temporary, graph, given)
    return _said(graph, "spectrogram", given, off)


def write_onnx_iq(model: Any, folder: Path, sample_rate: float) -> dict[str, Any]:
    """Write ``model-iq.onnx`` with the recipe inside: IQ ``[B, S, 2]`` of one sample rate (Hz) in; as above.

    A capture must have the full duration of the recipe; padding shorter ones stays outside.

    Raises:
        ModelError: as :func:`write_onnx`; a recipe that cannot be a graph.
        CaptureError: a sample rate that the recipe does not take.
    """
    recipe: Recipe = model.recipe
    part = RecipeGraph(recipe, sample_rate)
    graph = IQGraph(part, graph_of(model)).eval()
    given = _noise_and_tone(part.samples)
    expected = recipe(torch.view_as_complex(torch.from_numpy(given)), sample_rate).db
    with torch.inference_mode():
        made = part(torch.from_numpy(given))
    off, most = float((made - expected).abs().max()), _PICTURE_DB if recipe.channels == "grey" else _COLOUR_STEP
    if not off <= most:
        raise ModelError(f"the recipe's graph is off by {off:.2g}", f"at most {most:g}", "report it with the recipe")
    with atomic_file(folder / ONNX_IQ) as temporary:
        extra = {"lwm.sample_rate": repr(sample_rate), "lwm.samples": str(part.samples)}
        _export(graph, torch.from_numpy(given), "iq", temporary, recipe, extra)
        # Pictures are compared in dB above; here every output by its range.
        worst = _compare(temporary, graph, given)
    return _said(graph, "iq", given, worst) | {"sample_rate": sample_rate, "recipe_off": off, "recipe_tolerance": most}


def compare_onnx(folder: Path, name: str, model: Any, given: npt.NDArray[np.float32]) -> float:
    """Largest deviation of a folder's graph from its model over all outputs, by its output's range.

    Args:
        folder: model folder.
        name: the graph in it.
        model: the folder's model.
        given: pictures ``[B, C, F, T]``.

    Raises:
        ModelError: more than the tolerance, or no graph that onnxruntime runs.
        ConfigError: onnxruntime is not installed.
    """
    return _compare(file_in(folder, name), graph_of(model), given)


def run_onnx(path: Path, given: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    """Outputs of a graph for its one input, by onnxruntime on the CPU.

    Raises:
        ModelError: damage, weights outside of the file, or another input.
        ConfigError: onnxruntime is not installed.
    """
    runtime, state = _runtime()
    _require_whole(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    kinds = [each for each in vars(state).values() if isinstance(each, type) and issubclass(each, Exception)]
    failures: tuple[type[Exception], ...] = (*kinds, ValueError, RuntimeError)
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (entry,) = session.get_inputs()
        found: list[npt.NDArray[np.float32]] = session.run(None, {entry.name: given})
    except failures as error:
        said = [*str(error).splitlines(), ""][0]
        raise ModelError(
            f"{path} is no graph that runs ({said:.200})", "a graph that LWM wrote", "export again"
        ) from error
    return found


def _compare(path: Path, graph: nn.Module, given: npt.NDArray[np.float32]) -> float:
    """Over batches of one, two and three: the batch must be free."""
    worst = 0.0
    for batch in (given, given[:1], np.concatenate([given, given[::-1][:1]])):
        with torch.inference_mode():
            expected: tuple[Tensor, ...] = graph(torch.from_numpy(np.ascontiguousarray(batch)))
        found = run_onnx(path, np.ascontiguousarray(batch))
        if [one.shape for one in found] != [tuple(one.shape) for one in expected]:
            raise ModelError(f"{path} gives shapes {[one.shape for one in found]}", "the model's", "export again")
        offs = [deviation(one, other.numpy()) for one, other in zip(found, expected, strict=True)]
        worst = max(worst, *offs)
    if not worst <= GOLDEN_TOLERANCE:
        raise ModelError(
            f"{path}: onnxruntime is off by {worst:.2g} of the output's range", f"at most {GOLDEN_TOLERANCE:g}"
        )
    return worst


def _export(graph: nn.Module, given: Tensor, entry: str, path: Path, recipe: Recipe, extra: dict[str, str]) -> None:
    _runtime()
    size = sum(value.numel() * value.element_size() for value in graph.state_dict().values())
    if size > _LARGEST:
        raise ModelError(f"a model of {size} bytes", f"at most {_LARGEST} in one ONNX file", "use --pt2")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                graph,
                (given,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[entry],
                output_names=list(graph.outputs),  # type: ignore[arg-type]
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except torch.onnx.OnnxExporterError as error:
        said = [*str(error.__cause__ or error).splitlines(), ""][0]
        raise ModelError(f"torch cannot export the model ({said:.200})", "a graph of tensors", "use --pt2") from error
    program.model.metadata_props.update({"lwm.recipe": json.dumps(recipe.to_dict())} | extra)
    program.save(str(path), external_data=False)


def _runtime() -> tuple[Any, Any]:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
        from onnxruntime.capi import onnxruntime_pybind11_state
    except ImportError as error:
        raise ConfigError(f"ONNX needs {error.name}", "the extra onnx", "pip install 'lwm[onnx]'") from error
    return onnxruntime, onnxruntime_pybind11_state


def _require_whole(path: Path) -> None:
    """No tensor of the graph may lie in another file: its name would be the folder's author's choice."""
    import onnx
    from google.protobuf.message import DecodeError

    if path.stat().st_size > _LARGEST:
        raise ModelError(f"{path} has {path.stat().st_size} bytes", f"at most {_LARGEST}")
    try:
        loaded = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no ONNX file ({error})", "a graph that LWM wrote", "export again") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(loaded)):
        raise ModelError(f"{path} has weights in other files", "a graph with all its weights", "do not use this folder")


def _tensors(loaded: Any) -> Iterator[Any]:
    """Every tensor of a graph, its functions and the graphs inside of nodes."""
    waiting = [loaded.graph, *loaded.functions]
    while waiting:
        place = waiting.pop()
        yield from getattr(place, "initializer", ())
        for sparse in getattr(place, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for attribute in (attribute for node in place.node for attribute in node.attribute):
            yield from (attribute.t, *attribute.tensors)
            waiting += [inner for inner in (attribute.g, *attribute.graphs) if inner.node or inner.initializer]


def _noise_and_tone(samples: int) -> npt.NDArray[np.float32]:
    """Two captures ``[2, S, 2]``: white noise, and a strong tone in some of it."""
    rng = rng_for(0, "golden", "iq")
    iq = rng.standard_normal((2, samples, 2)).astype(np.float32)
    phase = 2 * np.pi * 0.2 * np.arange(samples)
    iq[1] = 10 * np.stack([np.cos(phase), np.sin(phase)], axis=1) + 0.1 * iq[1]
    return iq


def _said(graph: nn.Module, entry: str, given: npt.NDArray[np.float32], off: float) -> dict[str, Any]:
    import onnxruntime

    return {
        "input": {entry: ["batch", *given.shape[1:]]},
        "outputs": list(graph.outputs),  # type: ignore[arg-type]
        "opset": OPSET,
        "off": off,
        "tolerance": GOLDEN_TOLERANCE,
        "checked_with": f"onnxruntime {onnxruntime.__version__}",
    }
