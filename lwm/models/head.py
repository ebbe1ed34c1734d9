"""The contract of downstream heads: what every ``lwm.heads`` entry offers, and what its targets look like.

A head reads the tokens of any encoder of the contract. Whoever trains one needs nothing but this:

    head = load(HEADS, "segmentation")(TokenShape.of(encoder), ("noise", "nr", "lte"))
    head.fit_targets(all_training_targets)                 # statistics of the targets; a no-op for most
    loss = head.loss(head(tokens), target)                 # tokens with or without their prefix tokens
    metrics = head.metrics()                               # a fresh MetricCollection
    metrics.update(head.predict(head(tokens)), target)

Tokens and targets join through :attr:`Head.kind`:

| kind | names in ``targets`` | target of a batch | from a shard | ``predict`` gives |
|---|---|---|---|---|
| classification | classes | int64 ``[B]``, -1: not known | codes of a label column | ``[B, K]`` probabilities |
| multilabel | labels | int64 ``[B, K]`` of 0 and 1 | label columns, labels of boxes | ``[B, K]`` probabilities |
| segmentation | classes | integers ``[B, F, T]``, :data:`VOID`: not known | ``mask`` | ``[B, K, F, T]`` probabilities |
| regression | quantities with unit | float ``[B, Q]``, NaN: not known | value columns | ``[B, Q]`` in units |
| detection | classes | :class:`lwm.models.boxes.Boxes` | ``boxes``, ``box_label`` | ``Boxes`` with scores |
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from inspect import signature
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lwm.errors import ConfigError, ModelError

TaskKind = Literal["classification", "multilabel", "segmentation", "regression", "detection"]
Reads = Literal["pooled", "tokens"]

VOID = 255
"""Class of a mask's pixels that count neither in the loss nor in a metric."""


@dataclass(frozen=True)
class TokenShape:
    """What a head is built for.

    Args:
        width: token width D.
        grid_size: rows (frequency) and columns (time) of the encoder's own token grid.
        picture_size: rows and columns of the recipe's picture, in cells; whole multiples of the grid's.
        prefix: prefix tokens (class token, registers) in front of the patches' tokens.
        layers: how many blocks' tokens the head is given; more than one are mixed with learned weights.

    Raises:
        ModelError: sizes below one, or a picture that the grid does not divide.
    """

    width: int
    grid_size: tuple[int, int]
    picture_size: tuple[int, int]
    prefix: int = 0
    layers: int = 1

    def __post_init__(self) -> None:
        for name in ("grid_size", "picture_size"):
            object.__setattr__(self, name, tuple(int(side) for side in getattr(self, name)))
        positive = min(self.width, self.layers, *self.grid_size, *self.picture_size) > 0 and self.prefix >= 0
        if not positive or any(p % g for p, g in zip(self.picture_size, self.grid_size, strict=True)):
            raise ModelError(f"a head for {self}", "positive sizes and a picture that the grid divides")

    @classmethod
    def of(cls, encoder: Any, layers: int = 1) -> "TokenShape":
        """Shape of an encoder's tokens, ``layers`` blocks of them."""
        size, prefix = encoder.recipe.size, encoder.num_prefix_tokens
        return cls(encoder.num_features, encoder.grid_size, size, prefix, layers)

    @property
    def cell(self) -> tuple[int, int]:
        """Rows and columns of the picture under one token."""
        return self.picture_size[0] // self.grid_size[0], self.picture_size[1] // self.grid_size[1]


class Head(nn.Module, ABC):
    """Base of all heads; see the module's table for what goes in and out.

    A subclass takes ``shape``, ``targets`` and options that are JSON-able, keeps every option as an attribute of its
    name, from which :meth:`get_config` reads it, and fills :meth:`forward`, :meth:`loss`, :meth:`predict` and
    :meth:`metrics`. It computes in the type of its own weights and its loss in float32.

    Args:
        shape: tokens that it is built for; it works on every other grid too.
        targets: names of classes, labels or quantities, in the order of the outputs.

    Attributes:
        kind: which kind of task, and so which targets.
        head_type: name of its ``lwm.heads`` entry.
        reads: ``"pooled"`` where ``forward_pooled`` of features ``[B, P]`` computed once gives what :meth:`forward`
            gives of tokens; else ``"tokens"``.

    Raises:
        ConfigError: no target, or one twice.
    """

    kind: ClassVar[TaskKind]
    head_type: ClassVar[str]
    reads: Reads = "tokens"

    def __init__(self, shape: TokenShape, targets: Sequence[str]) -> None:
        super().__init__()
        if isinstance(targets, str) or not targets or len(set(targets)) != len(targets):
            raise ConfigError(f"a head for targets {targets!r}", "one name or more, none of them twice")
        self.shape = shape
        self.targets = tuple(targets)
        self.mix = nn.Parameter(torch.zeros(shape.layers)) if shape.layers > 1 else None

    @abstractmethod
    def forward(self, tokens: Tensor | Sequence[Tensor], grid_size: tuple[int, int] | None = None) -> Any:
        """Output of tokens ``[B, L, D]`` or ``[B, P + L, D]``, or of as many as ``shape.layers`` in a list.

        Args:
            tokens: of one block, or of several in a list.
            grid_size: rows and columns of the tokens when they are not those of :attr:`shape`.

        Raises:
            ModelError: tokens of another number, width or number of layers.
        """

    @abstractmethod
    def loss(self, output: Any, target: Any) -> Tensor:
        """Mean loss float32 ``[]`` of a batch's output against its target."""

    @abstractmethod
    def predict(self, output: Any) -> Any:
        """The output in the user's terms: probabilities, units, boxes; what :meth:`metrics` take."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Fresh metrics whose ``update`` takes ``(predict(output), target)``."""

    def fit_targets(self, target: Any) -> None:
        """Take statistics from all training targets, before the first step; most heads need none."""
        return

    def as_tensor(self, output: Any) -> Tensor:
        """The output as one tensor ``[B, ...]``: what a model folder's golden output is made of."""
        return output

    @classmethod
    def prepare_encoder(cls, encoder: Any, recipe: Any, statistics: tuple[float, float]) -> nn.Module:
        """The encoder that this head's data go through: the same one, unless the head's task adapts it.

        Args:
            encoder: a pretrained encoder.
            recipe: what the task's pictures are made with.
            statistics: mean and standard deviation of the task's training pictures in dB.

        Raises:
            RecipeMismatch: the pictures are of another recipe than the encoder's.
        """
        encoder.recipe.require_same(recipe)
        return encoder

    def get_config(self) -> dict[str, Any]:
        """JSON-able dict for :meth:`from_config`."""
        options = [name for name in signature(type(self)).parameters if name not in ("shape", "targets")]
        plain = {name: getattr(self, name) for name in options}
        return {"shape": asdict(self.shape), "targets": list(self.targets)} | plain

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """A head of that shape with fresh weights; ModelError when the dict does not fit the constructor."""
        plain = dict(config)
        try:
            shape = TokenShape(**plain.pop("shape"))
            return cls(shape, tuple(plain.pop("targets")), **plain)
        except (KeyError, TypeError) as error:
            raise ModelError(f"head config {config} ({error})", f"a config of {cls.__name__}") from error

    def grid_of(self, grid_size: tuple[int, int] | None) -> tuple[int, int]:
        """``grid_size``, or the grid that the head was built for."""
        return grid_size or self.shape.grid_size

    def patch_tokens(self, tokens: Tensor | Sequence[Tensor], grid_size: tuple[int, int] | None = None) -> Tensor:
        """Tokens ``[B, L, D]`` of the patches alone, several layers mixed, in the weights' type.

        Layers are normalised (without learned scale) before they are mixed with softmax weights, as in ELMo
        (Peters et al. 2018): their scales differ and would decide otherwise.

        Raises:
            ModelError: see :meth:`forward`.
        """
        layers = [tokens] if isinstance(tokens, Tensor) else list(tokens)
        rows, columns = self.grid_of(grid_size)
        length, shape = rows * columns, self.shape
        fits = all(
            part.ndim == 3 and part.shape[1] in (length, length + shape.prefix) and part.shape[2] == shape.width
            for part in layers
        )
        if not fits or len(layers) != shape.layers:
            raise ModelError(
                f"tokens of {[tuple(part.shape) for part in layers]}",
                f"{shape.layers} layer(s) of {length} tokens (and {shape.prefix} before them) of width {shape.width}",
            )
        dtype = next(self.parameters()).dtype
        patches = [part[:, part.shape[1] - length :].to(dtype) for part in layers]
        if self.mix is None:
            return patches[0]
        normal = [nn.functional.layer_norm(part, (shape.width,)) for part in patches]
        return torch.einsum("n,nbld->bld", self.mix.softmax(0), torch.stack(normal))
