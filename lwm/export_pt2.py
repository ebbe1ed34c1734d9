"""A model as a ``torch.export`` program: runs in torch without any of LWM's code."""

import json
import zipfile
from pathlib import Path
from typing import Any

import torch

from lwm.errors import ModelError
from lwm.export_graph import graph_of
from lwm.hub_check import deviation, golden_input
from lwm.hub_config import GOLDEN_TOLERANCE
from lwm.output import atomic_file

PT2 = "model.pt2"


def write_pt2(model: Any, folder: Path) -> dict[str, Any]:
    """Write ``model.pt2`` with dynamic batch, load it back and compare it with the model.

    Args:
        model: an expert or a mixture, in evaluation mode on the CPU.
        folder: where to.

    Returns:
        What provenance keeps: input, outputs, torch's version, deviation and its tolerance.

    Raises:
        ModelError: a model that cannot be exported, or a program that is off by more than the tolerance.
    """
    graph, given = graph_of(model), golden_input(model.recipe)
    x = torch.from_numpy(given)
    with torch.no_grad():
        program: Any = torch.export.export(graph, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    # torch pickles the example with the program; a model folder holds no pickles.
    program._example_inputs = None
    with atomic_file(folder / PT2) as temporary:
        with temporary.open("wb") as handle:
            torch.export.save(program, handle)
        _require_no_pickle(temporary)
        with temporary.open("rb") as handle:
            again: Any = torch.export.load(handle).module()
        worst = 0.0
        with torch.inference_mode():
            for batch in (x, x[:1], torch.cat([x, x[:1]])):
                pairs = zip(again(batch), graph(batch), strict=True)
                worst = max(worst, *(deviation(one.numpy(), other.numpy()) for one, other in pairs))
        if not worst <= GOLDEN_TOLERANCE:
            raise ModelError(f"{folder / PT2} is off by {worst:.2g} of its range", f"at most {GOLDEN_TOLERANCE:g}")
    shape = ["batch", *given.shape[1:]]
    return {
        "input": {"spectrogram": shape},
        "outputs": list(graph.outputs),  # type: ignore[arg-type]
        "off": worst,
        "tolerance": GOLDEN_TOLERANCE,
        "checked_with": f"torch {torch.__version__}",
    }


def _require_no_pickle(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            content = archive.read(member) if member.filename.endswith((".pt", "_config.json")) else b""
            pickled = content if member.filename.endswith(".pt") else _pickled(content)
            if pickled:
                raise ModelError(f"{member.filename} in the exported program is a pickle", "none", "use --onnx")


def _pickled(content: bytes) -> list[str]:
    entries = json.loads(content)["config"] if content else {}
    return [name for name, entry in entries.items() if entry.get("use_pickle")]
