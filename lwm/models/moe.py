"""The mixture of experts: each spectrogram goes through the expert, or the experts, that its router chooses."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, get_args

import torch
from torch import Tensor, nn

from lwm.errors import ModelError
from lwm.models.dispatch import Mode, choose, gates, mix_all, mix_chosen
from lwm.models.encoder import SpectrogramEncoder
from lwm.models.lazy import LazyExperts
from lwm.models.novelty import NoveltyDetector
from lwm.models.pooling import pool
from lwm.models.router import Router
from lwm.signal.recipe import Recipe


class MoEEncoder(nn.Module):
    """Mixture behind the encoder's contract.

    ``top-1``, for deployment, gives each picture the tokens of its most probable expert, token for token, and touches
    no other expert. ``top-k`` sums the k most probable with their probabilities over the sum of these. ``soft``, for
    training, sums all with their probabilities. The last two are differentiable through the router.

    Where a graph is traced (``torch.export``, ONNX) every expert runs on every picture and the weights of those that
    were not chosen are zero: the same numbers, and no control flow that hangs on the data.

    Args:
        experts: encoders by name, all of one recipe, width, grid, depth and pooling.
        router: chooses between exactly these names.
        mode: see above.
        top_k: experts a picture in mode ``top-k``.
        detector: says how unlike the known protocols a picture is; see :func:`lwm.models.novelty.fit_novelty`.

    Raises:
        ModelError: the experts do not fit together, the router knows others, the detector was fitted to another
            router's shape, or there is no such mode.
        RecipeMismatch: two experts have different recipes.
    """

    model_type: ClassVar[str] = "moe"
    experts: nn.ModuleDict | LazyExperts

    def __init__(
        self,
        experts: Mapping[str, SpectrogramEncoder] | LazyExperts,
        router: Router,
        mode: Mode = "top-1",
        top_k: int = 2,
        detector: NoveltyDetector | None = None,
    ) -> None:
        super().__init__()
        outlines = experts.outlines if isinstance(experts, LazyExperts) else experts
        require_alike(outlines)
        if set(outlines) != set(router.names):
            raise ModelError(f"experts {sorted(outlines)} with a router for {sorted(router.names)}", "the same names")
        first = outlines[router.names[0]]
        first.recipe.require_same(router.trunk.recipe, "the experts", "the router")
        self.experts = (
            experts
            if isinstance(experts, LazyExperts)
            else nn.ModuleDict({name: experts[name] for name in router.names})
        )
        self.router = router
        self.recipe = first.recipe
        self.in_chans = first.in_chans
        self.num_features = first.num_features
        self.head_features = first.head_features
        self.num_prefix_tokens = first.num_prefix_tokens
        self.grid_size = first.grid_size
        self.depth = first.depth
        self.pooling = first.config.pooling
        self.set_mode(mode, top_k)
        self.detector: NoveltyDetector | None = None
        self.set_detector(detector)

    @property
    def expert_names(self) -> tuple[str, ...]:
        """Experts in the order of :meth:`route`'s columns."""
        return self.router.names

    def set_mode(self, mode: Mode, top_k: int = 2) -> None:
        """Change how experts are mixed; ModelError for an unknown mode or a ``top_k`` not in 1..E."""
        if mode not in get_args(Mode):
            raise ModelError(f"mode {mode!r} of a mixture", f"one of {list(get_args(Mode))}")
        if not 1 <= top_k <= len(self.expert_names):
            raise ModelError(f"top_k {top_k} of {len(self.expert_names)} experts", "1 up to the number of experts")
        self.mode, self.top_k = mode, top_k

    def route(self, x: Tensor) -> Tensor:
        """Probability of each expert, float32 ``[B, E]``, for dB pictures ``[B, C, F, T]``."""
        return self.router.probabilities(x)

    def set_detector(self, detector: NoveltyDetector | None) -> None:
        """Keep what :meth:`novelty` asks, its weights as part of the mixture's; None forgets it.

        Raises:
            ModelError: the detector was fitted to a router of another width or number of experts.
        """
        width, count = self.router.head.in_features, len(self.expert_names)
        if detector is not None and (detector.config.width, detector.config.protocols) != (width, count):
            raise ModelError(
                f"a detector for {detector.config.protocols} protocols and features of width {detector.config.width}",
                f"{count} and {width}",
                "fit it to this mixture",
            )
        self.detector = detector

    @torch.no_grad()
    def novelty(self, x: Tensor) -> Tensor:
        """How unlike the known protocols pictures are: float32 ``[B]`` in [0, 1].

        One minus the p-value of being known, among held-out captures of the known protocols: at most 5 % of known
        captures are at 0.95 or above. See :meth:`lwm.models.novelty.NoveltyDetector.novelty`.

        Raises:
            ModelError: no detector was fitted.
        """
        detector, features = self._fitted(), self.router.features(x)
        return detector.novelty(features, self.router.head(features))

    @torch.no_grad()
    def novelty_score(self, x: Tensor) -> Tensor:
        """The detector's score before calibration, float32 ``[B]``, higher is stranger; ModelError without one.

        What a graph gives, too. It knows nothing of white noise: only :meth:`novelty` tests for emptiness.
        """
        detector, features = self._fitted(), self.router.features(x)
        return detector.score(features, self.router.head(features))

    def known(self, x: Tensor, false_alarm: float = 0.05) -> Tensor:
        """Whether pictures look like a known protocol, bool ``[B]``.

        Args:
            x: dB pictures ``[B, C, F, T]``.
            false_alarm: share of known captures that may be called unknown.

        Raises:
            ModelError: no detector, or one fitted on too few captures for so few false alarms.
            ConfigError: a rate not in 0..1.
        """
        limit = self._fitted().threshold(false_alarm)
        return self.novelty(x) < limit

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens ``[B, P + L, D]`` of each picture's experts, mixed as the mode says."""
        return self._mix(x, lambda expert, part: [expert.forward_features(part)])[0]

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooled features ``[B, head_features]``; there is no classifier, so ``pre_logits`` changes nothing."""
        return pool(tokens[:, self.num_prefix_tokens :], self.grid_size, self.pooling)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features ``[B, head_features]`` of dB pictures ``[B, C, F, T]``."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self, x: Tensor, indices: int | Sequence[int] | None = None, norm: bool = False
    ) -> list[Tensor]:
        """Tokens ``[B, P + L, D]`` after chosen blocks of each picture's experts; see the encoder's."""
        return self._mix(x, lambda expert, part: expert.forward_intermediates(part, indices, norm))

    def _mix(self, x: Tensor, run: Callable[[SpectrogramEncoder, Tensor], list[Tensor]]) -> list[Tensor]:
        def run_number(number: int, part: Tensor) -> list[Tensor]:
            return run(self.experts[self.expert_names[number]], part)  # type: ignore[arg-type]

        if self.mode == "soft":
            return mix_all(x, self.route(x), run_number)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.mode == "top-k"):
            probabilities = self.route(x)
        k = 1 if self.mode == "top-1" else self.top_k
        if torch.compiler.is_exporting() or torch.jit.is_tracing():
            return mix_all(x, gates(probabilities, k), run_number)
        chosen, weights = choose(probabilities, k)
        return mix_chosen(x, chosen, None if self.mode == "top-1" else weights, run_number)

    def _fitted(self) -> NoveltyDetector:
        if self.detector is None:
            raise ModelError("a mixture without a novelty detector", "one", "fit it with lwm.models.novelty")
        return self.detector

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's parameter groups: the experts' blocks side by side, the router with the stem."""
        prefix = r"^experts\.[^.]+\."
        return {
            "stem": rf"^router|{prefix}(?:positions|prefix|patch_embed)",
            "blocks": [(rf"{prefix}blocks\.(\d+)", None), (rf"{prefix}norm", (99999,))],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        if isinstance(self.experts, LazyExperts):
            self.experts.set_grad_checkpointing(enable)
            return
        for expert in self.experts.values():
            expert.set_grad_checkpointing(enable)  # type: ignore[operator]

    def get_config(self) -> dict[str, Any]:
        """JSON-able dict for :meth:`from_config`."""
        if isinstance(self.experts, LazyExperts):
            experts = self.experts.configs
        else:
            experts = {name: expert.get_config() for name, expert in self.experts.items()}  # type: ignore[operator]
        return {
            "experts": experts,
            "router": self.router.get_config(),
            "mode": self.mode,
            "top_k": self.top_k,
            "novelty": None if self.detector is None else self.detector.get_config(),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], recipe: Recipe, lazy: bool = False, resident: int | None = None
    ) -> Self:
        """A mixture of that shape with fresh weights.

        Args:
            config: of :meth:`get_config`.
            recipe: the experts' and the router's.
            lazy: experts are built when they are first asked for, from the weights that are loaded; see
                :class:`~lwm.models.lazy.LazyExperts`. For use, not for training.
            resident: with ``lazy``, experts kept built at a time; None for all.
        """
        router = Router.from_config(config["router"], recipe)
        options: dict[str, Any] = {name: config[name] for name in ("mode", "top_k") if name in config}
        if config.get("novelty") is not None:
            options["detector"] = NoveltyDetector.from_config(config["novelty"])
        if lazy:
            return cls(LazyExperts(config["experts"], recipe, resident), router, **options)
        experts = {name: SpectrogramEncoder.from_config(plain, recipe) for name, plain in config["experts"].items()}
        return cls(experts, router, **options)

    def golden(self, x: Tensor) -> Tensor:
        """What a model folder keeps to be checked later: every expert's pooled features beside the routing.

        Every expert's, because those that the fixed input is not routed to could otherwise be changed unnoticed. With
        a detector, also its score and emptiness, whose logarithm keeps them from hiding the rest.
        """
        parts = [expert(x) for expert in self.experts.values()]
        parts.append(self.route(x))
        if self.detector is not None:
            parts.append(self.novelty_score(x).asinh()[:, None])
            if self.detector.config.silence:
                parts.append(self.detector.emptiness(self.router.features(x)).asinh()[:, None])
        return torch.cat(parts, dim=1)


def require_alike(experts: Mapping[str, SpectrogramEncoder]) -> None:
    """Raise ModelError or RecipeMismatch unless all experts share recipe, width, grid, depth and pooling."""
    if not experts:
        raise ModelError("a mixture of no experts", "two or more")
    (first_name, first), *others = experts.items()
    for name, other in others:
        first.recipe.require_same(other.recipe, f"expert {first_name!r}", f"expert {name!r}")
        alike = {
            what: (getattr(first, what), getattr(other, what))
            for what in ("num_features", "num_prefix_tokens", "grid_size", "depth")
        } | {"pooling": (first.config.pooling, other.config.pooling)}
        for what, (mine, theirs) in alike.items():
            if mine != theirs:
                raise ModelError(
                    f"experts {first_name!r} and {name!r} with {what} {mine} and {theirs}",
                    "experts of one size and pooling",
                    "pretrain them with the same size and pooling",
                )
