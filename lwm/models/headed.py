"""An encoder and a head on it as one model: pictures in, a task's output out, kept in one folder."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lwm.errors import ModelError
from lwm.models.head import Head, TokenShape
from lwm.models.lean import LeanTokens
from lwm.registry import HEADS, MODELS, load
from lwm.signal.recipe import Recipe


class HeadedModel(nn.Module):
    """A head on the tokens of an encoder.

    A frozen encoder gets no gradients and stays in evaluation mode whatever mode the model is put into; the head alone
    is trained.

    Args:
        encoder: any encoder of the contract; with ``frozen`` its parameters stop asking for gradients.
        head: built for the encoder's tokens.
        layers: blocks whose tokens the head reads, not normalised by the encoder's last norm; None for the output of
            ``forward_features``.
        frozen: keep the encoder as it is.

    Raises:
        ModelError: the head is built for other tokens.
    """

    model_type: ClassVar[str] = "headed"

    def __init__(self, encoder: Any, head: Head, layers: Sequence[int] | None = None, frozen: bool = True) -> None:
        super().__init__()
        expected = TokenShape.of(encoder, 1 if layers is None else len(layers))
        if head.shape != expected:
            raise ModelError(f"a head for {head.shape}", f"one for {expected}")
        self.encoder = encoder
        self.head = head
        self.layers = None if layers is None else tuple(layers)
        self.frozen = frozen
        self.recipe: Recipe = encoder.recipe
        self._lean = LeanTokens(encoder, self.layers)
        if frozen:
            encoder.requires_grad_(False)
            encoder.eval()

    def train(self, mode: bool = True) -> Self:
        """Put the head, and an encoder that is not frozen, into training mode or out of it."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def tokens(self, x: Tensor) -> Tensor | list[Tensor]:
        """What the head reads of dB pictures ``[B, C, F, T]``: tokens with prefix tokens, a list of several layers."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            found = self._lean.tokens(x)
            return found[0] if self.layers is None else found

    def forward(self, x: Tensor) -> Any:
        """The head's output for dB pictures ``[B, C, F, T]``."""
        size, grid = self.recipe.size, self.encoder.grid_size
        rows, columns = (n * g // s for n, g, s in zip(x.shape[2:], grid, size, strict=True))
        return self.head(self.tokens(x), (rows, columns))

    @torch.inference_mode()
    def predict(self, x: Tensor) -> Any:
        """The head's prediction in the user's terms; call :meth:`eval` first."""
        return self.head.predict(self(x))

    def get_config(self) -> dict[str, Any]:
        """JSON-able dict for :meth:`from_config`."""
        return {
            "encoder": {"type": self.encoder.model_type, "model": self.encoder.get_config()},
            "head": {"type": self.head.head_type, "model": self.head.get_config()},
            "layers": None if self.layers is None else list(self.layers),
            "frozen": self.frozen,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], recipe: Recipe) -> Self:
        """A model of that shape; its weights are loaded afterwards."""
        encoder = load(MODELS, config["encoder"]["type"]).from_config(config["encoder"]["model"], recipe)
        head = load(HEADS, config["head"]["type"]).from_config(config["head"]["model"])
        return cls(encoder, head, config["layers"], config["frozen"])

    def golden(self, x: Tensor) -> Tensor:
        """What a model folder keeps to be checked later: the head's output ``[2, ...]`` for ``x``."""
        return self.head.as_tensor(self(x)).flatten(1)
