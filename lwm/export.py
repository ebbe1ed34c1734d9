"""From a run's checkpoint to a model folder."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from lwm.console import say
from lwm.errors import ModelError
from lwm.hub import save_pretrained
from lwm.output import file_sha256, require_empty
from lwm.registry import load
from lwm.tasks.base import TASK_KEY, TASKS


def export(checkpoint: str, out: str, overwrite: bool = False) -> Path:
    """Turn a run's checkpoint into a model folder that is complete by itself.

    Args:
        checkpoint: file that `lwm fit` wrote, for example runs/pretrain/lte/checkpoints/last.ckpt.
        out: folder to write.
        overwrite: replace what is in the folder.

    Returns:
        The folder.
    """
    require_empty(Path(out), overwrite=overwrite)
    task = load_task(checkpoint)
    provenance = dict(task.provenance) | {"checkpoint_sha256": file_sha256(checkpoint)}
    folder = save_pretrained(task.export_model(), out, provenance, overwrite=overwrite)
    say(f"wrote {folder}; check it with `lwm doctor {folder}`")
    return folder


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
