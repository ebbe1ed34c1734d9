"""Answers token by token from a language model that begins with embedded conversations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lwm.errors import ConfigError
from lwm.models.cores import one_thread

SHARED_WORK = 3e7
"""Weights times rows of a step below which threads wait for each other longer than they work."""


class Processor(Protocol):
    """As ``transformers.LogitsProcessor``: changes the scores of the next token."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``input_ids`` int64 ``[B, t]``: tokens generated so far, the prompt left out; ``scores [B, V]``."""
        ...


class Streamer(Protocol):
    """Gets every token as it is made."""

    def put(self, value: Tensor) -> None:
        """The next token of each row, int64 ``[B]`` on the CPU; ``pad_id`` for a row that has ended."""
        ...

    def end(self) -> None:
        """Called once, after the last token."""
        ...


@dataclass(frozen=True)
class Decoding:
    """How answers are made.

    ``max_new_tokens``: most tokens of one, its end included. ``end_ids``: tokens that end one. ``pad_id``: stands
    behind the end of a row. ``processors``: change the scores, in order. ``streamer``: gets tokens. ``temperature``:
    0 takes the likeliest token, more draws from the distribution at that temperature. ``generator``: draws; torch's
    own when None. ``stop``: asked before every step but the first; True ends all answers where they are.
    """

    max_new_tokens: int
    end_ids: frozenset[int]
    pad_id: int
    processors: Sequence[Processor] = ()
    streamer: Streamer | None = None
    temperature: float = 0.0
    generator: torch.Generator | None = None
    stop: Callable[[], bool] | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or not 0 <= self.temperature < float("inf"):
            raise ConfigError(
                f"max_new_tokens {self.max_new_tokens}, temperature {self.temperature}", "at least 1 and at least 0"
            )


class Decoded(NamedTuple):
    """``ids``: generated tokens of each row, its end token included. ``complete``: whether it came to an end.
    ``log_probabilities``: sum over these tokens of the natural logarithm of what the model itself gave them, before
    processors and temperature."""

    ids: list[list[int]]
    complete: list[bool]
    log_probabilities: list[float]


@torch.inference_mode()
def decode(llm: Any, embedded: Tensor, mask: Tensor, how: Decoding) -> Decoded:
    """Continue conversations with a key-value cache.

    Args:
        llm: causal language model of transformers.
        embedded: conversations ``[B, S, width]``, padded at the left.
        mask: int64 ``[B, S]``, 0 on padding.
        how: see there.

    Returns:
        The tokens of each row.
    """
    size = sum(weight.numel() for weight in llm.parameters())
    with one_thread(mask.device.type == "cpu" and size * len(mask) < SHARED_WORK):
        return _decode(llm, embedded, mask, how)


def _decode(llm: Any, embedded: Tensor, mask: Tensor, how: Decoding) -> Decoded:
    ends = torch.tensor(sorted(how.end_ids), device=mask.device)
    batch = len(mask)
    made = mask.new_zeros(batch, 0)
    total = torch.zeros(batch, dtype=torch.float64, device=mask.device)
    ended = torch.zeros(batch, dtype=torch.bool, device=mask.device)
    cache = None
    given: dict[str, Tensor] = {"inputs_embeds": embedded}
    position = (mask.cumsum(1) - 1).clamp(min=0)
    for step in range(how.max_new_tokens):
        if step and how.stop is not None and how.stop():
            break
        logits, cache = _step(llm, given, mask, position, cache)
        chosen = _choose(logits, made, how)
        likely = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        total += likely.double().masked_fill(ended, 0)
        chosen = chosen.masked_fill(ended, how.pad_id)
        made = torch.cat([made, chosen[:, None]], dim=1)
        ended = ended | torch.isin(chosen, ends)
        if how.streamer is not None:
            how.streamer.put(chosen.cpu())
        if bool(ended.all()):
            break
        given, position = {"input_ids": chosen[:, None]}, position[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(batch, 1)], dim=1)
    if how.streamer is not None:
        how.streamer.end()
    rows = [_until_end(row, how.end_ids) for row in made.tolist()]
    return Decoded(rows, ended.tolist(), total.tolist())


def _step(llm: Any, given: dict[str, Tensor], mask: Tensor, position: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """Next-token logits float32 ``[B, V]`` and the cache."""
    options: dict[str, Any] = {"position_ids": position, "logits_to_keep": 1}
    known = signature(llm.forward).parameters
    options = {key: value for key, value in options.items() if key in known}
    out = llm(**given, attention_mask=mask, past_key_values=cache, use_cache=True, **options)
    return out.logits[:, -1].float(), out.past_key_values


def _choose(logits: Tensor, made: Tensor, how: Decoding) -> Tensor:
    """Next token of every row, int64 ``[B]``."""
    scores = logits
    for process in how.processors:
        scores = process(made, scores)
    if how.temperature == 0:
        return scores.argmax(-1)
    return torch.multinomial((scores / how.temperature).softmax(-1), 1, generator=how.generator)[:, 0]


def _until_end(row: list[int], end_ids: frozenset[int]) -> list[int]:
    for number, token in enumerate(row):
        if token in end_ids:
            return row[: number + 1]
    return row
