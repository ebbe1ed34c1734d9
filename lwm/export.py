"""From a run's checkpoint to a model folder, and from a model folder to graphs that run without LWM."""

import pickle
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lwm.console import say
from lwm.errors import ConfigError, ModelError, OutputError
from lwm.hub import check_model, from_pretrained, write_folder
from lwm.hub_check import ONNX
from lwm.hub_files import file_in, read_json
from lwm.hub_remote import locate
from lwm.models.moe import MoEEncoder
from lwm.output import atomic_file, atomic_folder, file_sha256, require_empty, write_json
from lwm.registry import load
from lwm.tasks.base import TASK_KEY, TASKS

_SECTION = "\n## Graphs\n"


@dataclass(frozen=True)
class _Wanted:
    """Which graphs: ONNX of pictures, of IQ at a sample rate (Hz), and a torch.export program."""

    onnx: bool
    sample_rate: float | None
    pt2: bool

    def names(self) -> list[str]:
        from lwm.export_onnx import ONNX_IQ
        from lwm.export_pt2 import PT2

        asked = {ONNX: self.onnx, ONNX_IQ: self.sample_rate is not None, PT2: self.pt2}
        return [name for name, wanted in asked.items() if wanted]


def export(
    checkpoint: str | None = None,
    out: str | None = None,
    model: str | None = None,
    onnx: bool = False,
    pt2: bool = False,
    sample_rate: float | None = None,
    overwrite: bool = False,
) -> Path:
    """Turn a run's checkpoint into a model folder that is complete by itself; add graphs for other runtimes.

    Args:
        checkpoint: file that `lwm fit` wrote, for example runs/pretrain/lte/checkpoints/last.ckpt.
        out: folder to write; without it the graphs go into the folder of --model.
        model: model folder or hub id to take instead of a checkpoint.
        onnx: add model.onnx (spectrogram in dB to tokens and features, any batch), checked by onnxruntime.
        pt2: add model.pt2, a torch.export program, loaded back and checked.
        sample_rate: Hz; with --onnx also add model-iq.onnx, which has the recipe inside and takes IQ of this rate.
        overwrite: replace what is in the folder.

    Returns:
        The folder.

    Raises:
        ConfigError: not one of checkpoint and model, or nothing to do.
        ModelError: a checkpoint or folder that is not sound, or a graph that does not give what the model gives.
        OutputError: there is something in the way.
    """
    wanted = _Wanted(onnx, sample_rate, pt2)
    if (checkpoint is None) == (model is None):
        raise ConfigError("lwm export", "one of --checkpoint and --model")
    if sample_rate is not None and not (onnx and sample_rate > 0):
        raise ConfigError(f"--sample_rate {sample_rate:g}", "a rate in Hz above 0, together with --onnx")
    if model is not None:
        folder = _export_model(model, out, wanted, overwrite)
    elif checkpoint is not None and out is not None:
        folder = _export_checkpoint(checkpoint, Path(out), wanted, overwrite)
    else:
        raise ConfigError("--checkpoint without --out", "the folder to write")
    say(f"wrote {folder}; check it with `lwm doctor {folder}`")
    return folder


def _export_checkpoint(checkpoint: str, out: Path, wanted: _Wanted, overwrite: bool) -> Path:
    require_empty(out, overwrite=overwrite)
    task = load_task(checkpoint)
    provenance = dict(task.provenance) | {"checkpoint_sha256": file_sha256(checkpoint)}
    with atomic_folder(out, overwrite=overwrite) as partial:
        whole = task.export_model()
        if isinstance(whole, MoEEncoder) and whole.detector is None:
            say(f"{checkpoint} has no novelty detector (fitted at a run's end): the mixture cannot tell the unknown")
        write_folder(whole, partial, out.name, provenance)
        if wanted.names():
            _add_graphs(from_pretrained(partial), partial, wanted)
    return out


def _export_model(model: str, out: str | None, wanted: _Wanted, overwrite: bool) -> Path:
    if not wanted.names():
        raise ConfigError("--model without a graph to add", "--onnx or --pt2")
    source = locate(model, None)
    if out is None and not Path(model).is_dir():
        raise ConfigError(f"{model} is on the hub", "--out with a folder to write")
    if out is not None:
        require_empty(Path(out), overwrite=overwrite)
    problems = check_model(source)
    if problems:
        raise ModelError(f"{source} is not sound: {problems[0]}", remedy="run `lwm doctor` on it")
    if out is None:
        there = [name for name in wanted.names() if (source / name).exists()]
        if there and not overwrite:
            raise OutputError(f"{source / there[0]} exists", "a folder without it", "add --overwrite")
        _add_graphs(from_pretrained(source), source, wanted)
        return source
    listed = read_json(source, "provenance.json", finite=False)["files"]
    with atomic_folder(Path(out), overwrite=overwrite) as partial:
        for name in (*listed, "provenance.json", "README.md"):
            if (source / name).exists():
                shutil.copyfile(file_in(source, name), partial / name)
        _add_graphs(from_pretrained(partial), partial, wanted)
    return Path(out)


def _add_graphs(model: Any, folder: Path, wanted: _Wanted) -> None:
    """Write the graphs; the card and, last of all, provenance say what they are."""
    from lwm.export_onnx import ONNX_IQ, write_onnx, write_onnx_iq
    from lwm.export_pt2 import PT2, write_pt2

    made: dict[str, Any] = {}
    if wanted.onnx:
        made[ONNX] = write_onnx(model, folder)
    if wanted.sample_rate is not None:
        made[ONNX_IQ] = write_onnx_iq(model, folder, wanted.sample_rate)
    if wanted.pt2:
        made[PT2] = write_pt2(model, folder)
    record = read_json(folder, "provenance.json", finite=False)
    graphs = record.get("graphs", {}) | made
    files = record["files"] | {name: file_sha256(folder / name) for name in made}
    _describe(folder / "README.md", graphs, isinstance(model, MoEEncoder))
    write_json(folder / "provenance.json", record | {"graphs": graphs, "files": files})


def _describe(card: Path, graphs: dict[str, Any], mixture: bool) -> None:
    """Put the section about graphs at the end of the card, in the place of an older one."""
    kept = card.read_text(encoding="utf-8", errors="replace").split(_SECTION)[0] if card.is_file() else ""
    lines = ["| file | input | outputs | off | tolerance | checked with |", "|---|---|---|---|---|---|"]
    for name, said in graphs.items():
        entry = ", ".join(f"{key} {shape}" for key, shape in said["input"].items())
        cells = (name, entry, ", ".join(said["outputs"]), f"{said['off']:.1e}", f"{said['tolerance']:g}")
        lines.append(f"| {' | '.join(cells)} | {said['checked_with']} |")
    for name, said in graphs.items():
        if "sample_rate" in said:
            inside = f"has the recipe inside: IQ at {said['sample_rate']:g} Hz, real and imaginary part last,"
            lines += ["", f"`{name}` {inside} the recipe's whole duration; shorter captures are padded outside."]
        else:
            lines += ["", f"`{name}` takes spectrograms in dB: the recipe (`recipe.json`) is outside of the graph."]
    if mixture:
        lines += [
            "",
            "A graph runs every expert on every picture and takes the one that the router chooses: the result",
        ]
        lines += ["of the mixture, at the cost of all its experts. Loaded with LWM, only the chosen one runs."]
    with atomic_file(card) as temporary:
        temporary.write_text(kept + _SECTION + "\n" + "\n".join(lines) + "\n", encoding="utf-8")


def load_task(checkpoint: str | Path) -> Any:
    """The task of a checkpoint on the CPU, whatever its class; its name in the checkpoint is looked up in the registry.

    Raises:
        ModelError: no such file, no checkpoint of an LWM task, or weights that do not fit.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise ModelError(f"no checkpoint {path}", "a .ckpt file that `lwm fit` wrote")
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path} is cut short or no checkpoint", "a .ckpt file that `lwm fit` wrote")
    try:
        # Plain tensors and containers only: loading runs no code of the file's.
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} cannot be read ({said})", "a .ckpt file that `lwm fit` wrote") from error
    name = kept.get(TASK_KEY) if isinstance(kept, dict) else None
    if not isinstance(name, str):
        raise ModelError(f"{path} is no checkpoint of an LWM task", "a .ckpt file that `lwm fit` wrote")
    del kept
    return load(TASKS, name).load_from_checkpoint(path, map_location="cpu", weights_only=True).eval()
