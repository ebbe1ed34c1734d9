"""Experts that stay where they were read from until a picture asks for them."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from lwm.errors import ModelError
from lwm.models.encoder import SpectrogramEncoder
from lwm.models.weights import without_initialisation
from lwm.signal.recipe import Recipe


class LazyExperts(nn.Module):
    """Frozen experts by name, in the place of the ``nn.ModuleDict`` of a mixture.

    ``load_state_dict`` checks every name and shape as strictly as ever and, with ``assign=True``, keeps the tensors as
    they are given; safetensors gives them mapped from the file, so an expert that is never asked for is never read. An
    expert is built when it is first asked for, on the device and in the type that the mixture was moved to, and may be
    dropped for another; its weights as they were given stay. The state dict has the names, shapes and values of
    experts loaded at once. ``parameters()`` is empty: these experts are not for training.

    Args:
        configs: experts' configs by name.
        recipe: the experts' recipe.
        resident: experts kept built at a time, the least recently used dropped first; None for all.

    Raises:
        ModelError: fewer than one resident expert.
    """

    place: Tensor

    def __init__(self, configs: Mapping[str, dict[str, Any]], recipe: Recipe, resident: int | None = None) -> None:
        super().__init__()
        if resident is not None and resident < 1:
            raise ModelError(f"{resident} resident experts", "1 or more, or None for all")
        self.configs = dict(configs)
        self.recipe = recipe
        self.resident = resident
        self.grad_checkpointing = False
        # On the meta device: everything about the experts but their weights.
        self.outlines: dict[str, SpectrogramEncoder] = {name: self._blank(name).to("meta") for name in self.configs}
        self._weights: dict[str, dict[str, Tensor]] = {}
        self._built: OrderedDict[str, SpectrogramEncoder] = OrderedDict()
        # Empty; it follows ``to`` and tells where experts are wanted.
        self.register_buffer("place", torch.empty(0), persistent=False)

    @property
    def built(self) -> tuple[str, ...]:
        """Names of the experts that are built now, the least recently used first."""
        return tuple(self._built)

    def __getitem__(self, name: str) -> SpectrogramEncoder:
        """The expert of that name, built if it is not; ModelError before weights are loaded."""
        if name not in self._built:
            self._make_room()
            self._built[name] = self._build(name)
        self._built.move_to_end(name)
        return self._built[name]

    def __len__(self) -> int:
        return len(self.configs)

    def __iter__(self) -> Iterator[str]:
        return iter(self.configs)

    def __contains__(self, name: str) -> bool:
        return name in self.configs

    def keys(self) -> Iterator[str]:
        """Names."""
        return iter(self)

    def values(self) -> Iterator[SpectrogramEncoder]:
        """Experts, each built when its turn comes."""
        return (self[name] for name in self)

    def items(self) -> Iterator[tuple[str, SpectrogramEncoder]]:
        """Names and experts, each built when its turn comes."""
        return ((name, self[name]) for name in self)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As an encoder's, for experts built already and later."""
        self.grad_checkpointing = enable
        for expert in self._built.values():
            expert.set_grad_checkpointing(enable)

    def _blank(self, name: str) -> SpectrogramEncoder:
        with without_initialisation():
            return SpectrogramEncoder.from_config(self.configs[name], self.recipe)

    def _build(self, name: str) -> SpectrogramEncoder:
        if name not in self._weights:
            raise ModelError(f"expert {name!r} without weights", "load_state_dict first")
        # It outlives the block it is built in: its tensors must be ordinary ones.
        with torch.inference_mode(False):
            expert = self._blank(name)
            expert.load_state_dict(self._weights[name], strict=True, assign=True)
            expert.set_grad_checkpointing(self.grad_checkpointing)
            return expert.to(self.place.device, self.place.dtype).requires_grad_(False).eval()

    def _make_room(self) -> None:
        while self.resident is not None and len(self._built) >= self.resident:
            self._built.popitem(last=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._built.clear()
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, outline in self.outlines.items():
            for key, value in (self._weights.get(name) or outline.state_dict()).items():
                destination[f"{prefix}{name}.{key}"] = value

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Keep the weights of all experts if every name and shape is right; torch reports what is not."""
        known = {f"{prefix}{name}.{key}" for name, one in self.outlines.items() for key in one.state_dict()}
        missing_keys += sorted(known - state_dict.keys())
        unexpected_keys += sorted(key for key in state_dict if key.startswith(prefix) and key not in known)
        kept: dict[str, dict[str, Tensor]] = {}
        for name, outline in self.outlines.items():
            own = outline.state_dict()
            given = {key: state_dict[f"{prefix}{name}.{key}"] for key in own if f"{prefix}{name}.{key}" in state_dict}
            error_msgs += [
                f"size mismatch for {prefix}{name}.{key}: {tuple(value.shape)} instead of {tuple(own[key].shape)}"
                for key, value in given.items()
                if value.shape != own[key].shape
            ]
            copy = not local_metadata.get("assign_to_params_buffers", False)
            kept[name] = {key: value.detach().clone() if copy else value.detach() for key, value in given.items()}
        if known <= state_dict.keys() and not error_msgs:
            self._weights = kept
            self._built.clear()
