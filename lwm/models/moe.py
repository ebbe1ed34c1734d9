"""The mixture of experts: each spectrogram goes through the one expert its router chooses."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lwm.errors import ModelError
from lwm.models.encoder import SpectrogramEncoder
from lwm.models.pooling import pool
from lwm.models.router import Router
from lwm.signal.recipe import Recipe


class MoEEncoder(nn.Module):
    """Top-1 mixture behind the encoder's contract.

    Args:
        experts: encoders by name, all of one recipe, width, grid, depth and pooling.
        router: chooses between exactly these names.

    Raises:
        ModelError: the experts do not fit together, or the router knows others.
        RecipeMismatch: two experts have different recipes.
    """

    model_type: ClassVar[str] = "moe"

    def __init__(self, experts: Mapping[str, SpectrogramEncoder], router: Router) -> None:
        super().__init__()
        require_alike(experts)
        if set(experts) != set(router.names):
            raise ModelError(f"experts {sorted(experts)} with a router for {sorted(router.names)}", "the same names")
        first = experts[router.names[0]]
        first.recipe.require_same(router.trunk.recipe, "the experts", "the router")
        self.experts = nn.ModuleDict({name: experts[name] for name in router.names})
        self.router = router
        self.recipe = first.recipe
        self.in_chans = first.in_chans
        self.num_features = first.num_features
        self.head_features = first.head_features
        self.num_prefix_tokens = first.num_prefix_tokens
        self.grid_size = first.grid_size
        self.depth = first.depth
        self.pooling = first.config.pooling

    @property
    def expert_names(self) -> tuple[str, ...]:
        """Experts in the order of :meth:`route`'s columns."""
        return self.router.names

    def route(self, x: Tensor) -> Tensor:
        """Probability of each expert, float32 ``[B, E]``, for dB pictures ``[B, C, F, T]``."""
        return self.router.probabilities(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens ``[B, P + L, D]`` of each picture's most probable expert."""
        return self._dispatch(x, lambda expert, part: [expert.forward_features(part)])[0]

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooled features ``[B, head_features]``; there is no classifier, so ``pre_logits`` changes nothing."""
        return pool(tokens[:, self.num_prefix_tokens :], self.grid_size, self.pooling)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features ``[B, head_features]`` of dB pictures ``[B, C, F, T]``."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self, x: Tensor, indices: int | Sequence[int] | None = None, norm: bool = False
    ) -> list[Tensor]:
        """Tokens ``[B, P + L, D]`` after chosen blocks of each picture's expert; see the encoder's."""
        return self._dispatch(x, lambda expert, part: expert.forward_intermediates(part, indices, norm))

    def _dispatch(self, x: Tensor, run: Callable[[SpectrogramEncoder, Tensor], list[Tensor]]) -> list[Tensor]:
        """Sort the batch by expert, run each expert once on its share, and put the results back in order."""
        with torch.no_grad():
            chosen = self.route(x).argmax(1)
        order = chosen.argsort(stable=True)
        shares = torch.bincount(chosen, minlength=len(self.expert_names)).tolist()
        pieces: list[list[Tensor]] = []
        for name, part in zip(self.expert_names, x[order].split(shares), strict=True):
            if part.shape[0]:
                pieces.append(run(self.experts[name], part))  # type: ignore[arg-type]
        back = order.argsort()
        return [torch.cat(parts)[back] for parts in zip(*pieces, strict=True)]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's parameter groups: the experts' blocks side by side, the router with the stem."""
        prefix = r"^experts\.[^.]+\."
        return {
            "stem": rf"^router|{prefix}(?:positions|prefix|patch_embed)",
            "blocks": [(rf"{prefix}blocks\.(\d+)", None), (rf"{prefix}norm", (99999,))],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        for expert in self.experts.values():
            expert.set_grad_checkpointing(enable)  # type: ignore[operator]

    def get_config(self) -> dict[str, Any]:
        """JSON-able dict for :meth:`from_config`."""
        experts = {name: expert.get_config() for name, expert in self.experts.items()}  # type: ignore[operator]
        return {"experts": experts, "router": self.router.get_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any], recipe: Recipe) -> Self:
        """A mixture of that shape with fresh weights."""
        experts = {name: SpectrogramEncoder.from_config(plain, recipe) for name, plain in config["experts"].items()}
        return cls(experts, Router.from_config(config["router"], recipe))

    def golden(self, x: Tensor) -> Tensor:
        """What a model folder keeps to be checked later: every expert's pooled features beside the routing.

        Every expert's, because those that the fixed input is not routed to could otherwise be changed unnoticed.
        """
        features = [expert(x) for expert in self.experts.values()]
        return torch.cat([*features, self.route(x)], dim=1)


def require_alike(experts: Mapping[str, SpectrogramEncoder]) -> None:
    """Raise ModelError or RecipeMismatch unless all experts share recipe, width, grid, depth and pooling."""
    if not experts:
        raise ModelError("a mixture of no experts", "two or more")
    (first_name, first), *others = experts.items()
    for name, other in others:
        first.recipe.require_same(other.recipe, f"expert {first_name!r}", f"expert {name!r}")
        for what in ("num_features", "num_prefix_tokens", "grid_size", "depth", "head_features"):
            mine, theirs = getattr(first, what), getattr(other, what)
            if mine != theirs:
                raise ModelError(
                    f"experts {first_name!r} and {name!r} with {what} {mine} and {theirs}",
                    "experts of one size",
                    "pretrain them with the same size",
                )
