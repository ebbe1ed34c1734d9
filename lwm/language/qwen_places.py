"""Three-axis rotary positions of Qwen2.5-VL, and its language model with them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Places(NamedTuple):
    """Where words and pictures stand: M-RoPE of Qwen2-VL (arXiv 2409.12191, section 2.1) for pictures of one size.

    A word takes one step on all three axes. A picture's tokens share their time; row and column count from it; what
    follows goes on behind the longer of the two.

    ``rf_id``: token whose places are pictures'. ``grid``: rows and columns of tokens a picture.
    """

    rf_id: int
    grid: tuple[int, int]

    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """Positions int64 ``[3, B, S]`` (time, row, column).

        Args:
            input_ids: int64 ``[B, S]``.
            attention_mask: int64 ``[B, S]``, 0 on padding, which takes no step; None, or what is no such mask: no
                padding.
            position_ids: int64 ``[B, S]`` of packed rows: 0 where a conversation begins, and there ours begin again.
        """
        rows, columns = self.grid
        inside = input_ids == self.rf_id
        real = torch.ones_like(inside)
        if attention_mask is not None and attention_mask.shape == input_ids.shape:
            real = attention_mask.bool()
        seen = inside.cumsum(1) - inside.long()
        words = (real & ~inside).long()
        start = words.cumsum(1) - words + seen // (rows * columns) * max(rows, columns)
        if position_ids is not None:
            start = start - torch.where(position_ids == 0, start, 0).cummax(1).values
        cell = seen % (rows * columns)
        row, column = (torch.where(inside, part, 0) for part in (cell // columns, cell % columns))
        return torch.stack([start, start + row, start + column])

    def behind(self, input_ids: Tensor) -> Tensor:
        """How much farther than its number of tokens a conversation reaches (less than 0), int64 ``[B, 1]``."""
        rows, columns = self.grid
        pictures = (input_ids == self.rf_id).sum(1, keepdim=True) // (rows * columns)
        return pictures * (max(rows, columns) - rows * columns)


class Speaker(nn.Module):
    """The language model of a Qwen2.5-VL as a causal one of its own; its parts are shared.

    Args:
        whole: ``Qwen2_5_VLForConditionalGeneration``.
    """

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.model, self.lm_head = whole.model.language_model, whole.lm_head
        self.config = whole.config.get_text_config()

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.lm_head.weight.dtype

    def get_input_embeddings(self) -> nn.Module:
        """Embedding of the words."""
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Layer to the logits."""
        return self.lm_head

    def get_decoder(self) -> nn.Module:
        """What has the ``layers``."""
        return self.model

    def activation_checkpointing_enable(self, options: dict[str, Any] | None = None) -> None:
        """Compute activations again in the backward pass; options are torch's own."""
        self.model.activation_checkpointing_enable(options)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
    ) -> Any:
        """Logits and cache as a causal model of transformers gives them; ``position_ids`` int64 ``[3, B, S]``."""
        from transformers.modeling_outputs import CausalLMOutputWithPast

        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
        )
        logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits, past_key_values=out.past_key_values)

    def placed(self, places: Places, input_ids: Tensor, attention_mask: Tensor) -> "Placed":
        """The same, with the positions of these prompts and of what is generated behind them."""
        return Placed(self, places(input_ids, attention_mask), places.behind(input_ids))


class Placed:
    """A :class:`Speaker` that continues given prompts; takes text positions and puts the pictures' into their place."""

    def __init__(self, speaker: Speaker, prompt: Tensor, behind: Tensor) -> None:
        self.speaker, self.prompt, self.behind = speaker, prompt, behind

    def parameters(self) -> Iterator[Tensor]:
        """The speaker's weights."""
        return self.speaker.parameters()

    def forward(
        self,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: Any = None,
        logits_to_keep: int = 0,
        **given: Any,
    ) -> Any:
        """As :meth:`Speaker.forward`; ``position_ids`` int64 ``[B, S]`` as for a model of text."""
        first = past_key_values is None
        places = self.prompt if first else (position_ids + self.behind).expand(3, -1, -1)
        return self.speaker(
            attention_mask=attention_mask,
            position_ids=places,
            past_key_values=past_key_values,
            logits_to_keep=logits_to_keep,
            **given,
        )

    __call__ = forward
