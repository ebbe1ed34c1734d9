"""The weights of a model folder: written once each, read strictly, never initialised only to be overwritten."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

from lwm.errors import ModelError
from lwm.hub_files import file_in

Shapes = dict[str, tuple[int, ...]]

# A model that is being built may make each weight more than once (tied ones, a ViT built to ask for its patch) and
# tables that no file holds; half-precision weights count double. Beyond it no file of that size can be the model's.
_SLACK_FACTOR, _SLACK_BYTES, _SLACK_TENSORS = 8, 64 * 2**20, 512


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of a module's weights and buffers, wherever they were loaded from."""
    return state_sha256(module.state_dict())


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """:func:`weights_sha256` of a state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def unshared(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
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


def require_finite(weights: Mapping[str, Tensor], where: str, remedy: str) -> None:
    """Raise ModelError naming the first weight that holds NaN or infinity."""
    for name, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelError(f"{where} {name} is not finite", "finite weights", remedy)


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file."""
    from safetensors.torch import save

    # Through Python's own write, so that a full disk is the OSError that it is.
    path.write_bytes(save(weights, metadata={"format": "pt"}))


def load_model(build: Callable[[], Any], folder: Path, name: str, shared: Mapping[str, str], mapped: bool) -> Any:
    """A model with the weights of a safetensors file.

    It is first built without memory, counted, and compared with what the file declares; only then anything is read.

    Args:
        build: makes the model, on whatever device is in force; must not look at a weight's value.
        folder: model folder.
        name: file in it.
        shared: names of weights that the file does not hold, each with the one it is the same as.
        mapped: leave the weights in the file until they are used: no copy, and no look whether they are finite.

    Raises:
        ModelError: no safetensors file, or one that does not fit the model.
    """
    path = file_in(folder, name)
    with _opened(path) as kept:
        model = _outline(build, kept, path, shared)
        tied = _tied(model)
        if any(value.is_meta for value in _unsaved(model)):
            # Tables that no file holds were made without memory too. The sizes are known to be sound by now.
            with _parameters_on_meta():
                model = build()
        weights = {key: kept.get_tensor(key) for key in kept.keys()}  # noqa: SIM118
    if not mapped:
        weights = {key: value.clone() for key, value in weights.items()}
        require_finite(weights, f"{path}: weight", "do not use this folder")
    weights |= {alias: weights[same] for alias, same in shared.items() if same in weights}
    load_strictly(model, weights, str(path))
    _tie(model, tied)
    return model


def read_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """All tensors of a safetensors file; ModelError when it is none, or one of them is not finite."""
    path = file_in(folder, name)
    with _opened(path) as kept:
        weights = {key: kept.get_tensor(key).clone() for key in kept.keys()}  # noqa: SIM118 -- no mapping
    require_finite(weights, f"{path}: weight", "do not use this folder")
    return weights


def require_fit(build: Callable[[], Any], folder: Path, name: str, shared: Mapping[str, str]) -> Any:
    """The model without memory (on ``meta``), after it was compared with what a safetensors file declares.

    Args:
        build, folder, name, shared: see :func:`load_model`.

    Raises:
        ModelError: see :func:`load_model`; no weight's value is looked at.
    """
    path = file_in(folder, name)
    with _opened(path) as kept:
        return _outline(build, kept, path, shared)


def require_finite_file(path: Path) -> None:
    """Raise ModelError naming the first weight of a safetensors file that holds NaN or infinity; one at a time."""
    with _opened(path) as kept:
        for key in kept.keys():  # noqa: SIM118 -- no mapping
            require_finite({key: kept.get_tensor(key)}, f"{path}: weight", "do not use this folder")


def _outline(build: Callable[[], Any], kept: Any, path: Path, shared: Mapping[str, str]) -> Any:
    parts = {key: kept.get_slice(key) for key in kept.keys()}  # noqa: SIM118 -- no mapping
    parts |= {alias: parts[same] for alias, same in shared.items() if same in parts}
    said = f"{path} has {path.stat().st_size} in {len(parts)}"
    most = _SLACK_FACTOR * path.stat().st_size + _SLACK_BYTES, _SLACK_FACTOR * len(parts) + _SLACK_TENSORS
    with torch.device("meta"), Budget(*most, said):
        model = build()
    own = model.state_dict()
    _require_shapes(_shapes(own), {key: tuple(part.get_shape()) for key, part in parts.items()}, str(path))
    floating = {key: part.get_dtype().startswith(("F", "BF")) for key, part in parts.items()}
    _require_kinds(own, floating, str(path))
    return model


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load ``weights``, or raise ModelError listing missing, unexpected and misshapen keys.

    A model built without memory takes the tensors over as they are, converted to its own types of numbers.
    """
    own = model.state_dict()
    _require_shapes(_shapes(own), _shapes(weights), source)
    _require_kinds(own, {key: value.is_floating_point() for key, value in weights.items()}, source)
    given = {key: value.to(own[key].dtype) for key, value in weights.items()}
    model.load_state_dict(given, strict=True, assign=any(value.is_meta for value in own.values()))


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items()}


def _require_shapes(own: Shapes, found: Shapes, source: str) -> None:
    misshapen = [
        f"{key} {found[key]} instead of {own[key]}" for key in sorted(own) if own[key] != found.get(key, own[key])
    ]
    said = {"missing": sorted(own.keys() - found), "unexpected": sorted(found.keys() - own), "misshapen": misshapen}
    wrong = [f"{what} {_shortened(keys)}" for what, keys in said.items() if keys]
    if wrong:
        raise ModelError(f"{source} does not fit the model: {', '.join(wrong)}", "exactly the model's keys and shapes")


def _require_kinds(own: Mapping[str, Tensor], floating: Mapping[str, bool], source: str) -> None:
    wrong = [key for key, value in floating.items() if value != own[key].is_floating_point()]
    if wrong:
        raise ModelError(f"{source} does not fit the model: {_shortened(wrong)} of another type", "the model's types")


def _shortened(keys: list[str], most: int = 8) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return "[" + ", ".join(f"{key:.120}" for key in keys[:most]) + "]" + more


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file whose header was compared with its size (the library does) before anything else."""
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as handle:
        start = handle.read(9)
    # A header begins with its length, whose first byte may be a pickle's 0x80 too, and goes on with a brace.
    if start[8:] != b"{" and (start[:1] == b"\x80" or start[:4] == b"PK\x03\x04"):
        raise ModelError(
            f"{path} is a pickle", "a safetensors file", "do not use this folder: loading it runs its code"
        )
    try:
        with safe_open(path, framework="pt") as kept:
            yield kept
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({error})", "a safetensors file", "copy the folder again") from error


class Budget(TorchDispatchMode):
    """Refuses a model that asks for more memory than it may, while it is being built.

    Args:
        size: bytes.
        count: tensors.
        said: what the limits come from.
    """

    def __init__(self, size: int, count: int, said: str) -> None:
        super().__init__()
        self.size, self.count, self.said = size, count, said
        self.used, self.made = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and not any(isinstance(arg, Tensor) for arg in args):
            self.used += made.numel() * made.element_size()
            self.made += 1
            if self.used > self.size or self.made > self.count:
                raise ModelError(
                    f"config.json asks for a model of {self.used} bytes in {self.made} tensors or more, {self.said}",
                    "a config of these weights",
                    "do not use this folder; ask its author for a whole one",
                )
        return made


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Buffers are made as ever; parameters lose their memory as soon as a module gets them. For this thread only."""
    owner = get_ident()

    def strip(module: nn.Module, name: str, parameter: Any) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta or get_ident() != owner:
            return None
        return nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)

    hook: Any = strip  # may return a parameter, which torch's annotation does not know
    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _unsaved(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers that a state dict does not hold."""
    saved = model.state_dict()
    named = chain(model.named_parameters(), model.named_buffers())
    return [value for name, value in named if name not in saved]


def _tied(model: nn.Module) -> list[list[str]]:
    """Names of parameters that are one and the same."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return [group for group in names.values() if len(group) > 1]


def _tie(model: nn.Module, groups: list[list[str]]) -> None:
    """Make each group one parameter again, of which taking tensors over has made several."""
    for first, *others in groups:
        parameter = model.get_parameter(first)
        for name in others:
            place, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(place), leaf, parameter)
