"""Begin with the weights of something trained before; unlike resuming a run, nothing else is taken."""

from dataclasses import asdict
from pathlib import Path

from lwm.errors import ModelError
from lwm.hub import from_pretrained
from lwm.models.encoder import SpectrogramEncoder
from lwm.models.timm_weights import init_from_timm
from lwm.signal.recipe import Recipe

ENCODER = "model.mae.encoder."
"""Where a pretraining checkpoint keeps its encoder."""

_NAMES_ONLY = ("name", "pooling")


def warm_start(encoder: SpectrogramEncoder, path: str) -> None:
    """Copy weights into an encoder.

    A model folder and a run's checkpoint bring their mean and deviation along: the weights expect pictures so
    standardised. A timm ViT's file brings none, and the data's stay.

    Args:
        encoder: changed in place.
        path: model folder, ``.ckpt`` of a pretraining run, or a timm ViT's ``.safetensors`` or ``.pth``.

    Raises:
        ModelError: nothing there, or an encoder of another architecture; both values are named.
        RecipeMismatch: the folder's or run's recipe is not the encoder's.
    """
    source = Path(path)
    if source.is_dir():
        found = from_pretrained(source)
        if not isinstance(found, SpectrogramEncoder):
            raise ModelError(f"{source} holds a {type(found).__name__}", "a spectrogram encoder to start from")
        require_same_shape(asdict(found.config), asdict(encoder.config), str(source))
        found.recipe.require_same(encoder.recipe, str(source), "the data")
        encoder.load_state_dict(found.state_dict())
    elif source.suffix == ".ckpt":
        _from_checkpoint(encoder, source)
    else:
        init_from_timm(encoder, source)


def require_same_shape(found: dict[str, object], wanted: dict[str, object], source: str) -> None:
    """ModelError that names every field in which two architectures differ, with both values."""
    names = [key for key in sorted(found.keys() | wanted.keys()) if key not in _NAMES_ONLY]
    differ = [key for key in names if found.get(key) != wanted.get(key)]
    if differ:
        raise ModelError(
            f"{source} with " + ", ".join(f"{key} {found.get(key)}" for key in differ),
            ", ".join(f"{key} {wanted.get(key)}" for key in differ) + " as this run has",
            "give this run the same size and shape, or start from other weights",
        )


def _from_checkpoint(encoder: SpectrogramEncoder, path: Path) -> None:
    import torch

    from lwm.tasks.base import STATE_KEY, TASK_KEY

    if not path.is_file():
        raise ModelError(f"no checkpoint {path}", "a .ckpt file that `lwm fit` wrote")
    kept = torch.load(path, map_location="cpu", weights_only=True)
    if kept.get(TASK_KEY) != "pretrain":
        raise ModelError(f"{path} is a checkpoint of task {kept.get(TASK_KEY)!r}", "one of 'pretrain'")
    require_same_shape(kept[STATE_KEY]["encoder"], asdict(encoder.config), str(path))
    Recipe.from_dict(kept[STATE_KEY]["recipe"]).require_same(encoder.recipe, str(path), "the data")
    weights = kept["state_dict"]
    encoder.load_state_dict({k.removeprefix(ENCODER): v for k, v in weights.items() if k.startswith(ENCODER)})
