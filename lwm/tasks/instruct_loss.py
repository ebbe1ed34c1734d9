"""Loss on answer tokens, for which no other token's logits are computed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lwm.errors import DatasetError, ModelError

_IGNORED = -100


class AnswerLoss(NamedTuple):
    """``total``: cross entropy summed over a batch's answer tokens (nats), with gradient. ``tokens``: how many."""

    total: Tensor
    tokens: int

    @property
    def mean(self) -> Tensor:
        """Cross entropy a token."""
        return self.total / self.tokens


def answer_loss(model: Any, rf: Tensor, batch: Mapping[str, Tensor]) -> AnswerLoss:
    """Cross entropy of the labelled tokens, each predicted from the tokens before it.

    Args:
        model: an RF-GPT.
        rf: RF tokens ``[captures, n, features]`` in the order of their places.
        batch: of :mod:`lwm.language.batches`.

    Raises:
        DatasetError: no token has a label: the mean would be 0 / 0, and the step would teach nothing.
    """
    wanted = batch["labels"][:, 1:]
    places = wanted != _IGNORED
    tokens = int(places.sum())
    if not tokens:
        raise DatasetError("a batch without a single answer token", "labels on the answers", "check the chat template")
    logits = logits_at(model, rf, batch, places)
    return AnswerLoss(cross_entropy(logits.float(), wanted[places], reduction="sum"), tokens)


def logits_at(model: Any, rf: Tensor, batch: Mapping[str, Tensor], places: Tensor) -> Tensor:
    """Next-token logits ``[N, V]`` behind the tokens at ``places`` only.

    The output layer is handed these tokens' hidden states alone, whatever the family does around it; at 49 k tokens
    of vocabulary and 20 % answer tokens all logits would be the largest tensors of a step by far.

    Args:
        model: an RF-GPT.
        rf: see :func:`answer_loss`.
        batch: ``input_ids`` int64 ``[B, S]`` padded at the right; with ``segments`` and ``position_ids`` if packed.
        places: bool ``[B, S - 1]``, N of them.

    Raises:
        ModelError: the language model has no output layer.
    """
    head = model.llm.get_output_embeddings()
    if head is None:
        raise ModelError(f"a {type(model.llm).__name__} without an output layer", "a causal language model")

    def choose(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (given[0][:, :-1][places][None], *given[1:])

    hook = head.register_forward_pre_hook(choose)
    try:
        return model(rf, batch["input_ids"], attention(model, batch), batch.get("position_ids"))[0]
    finally:
        hook.remove()


def attention(model: Any, batch: Mapping[str, Tensor]) -> Tensor | None:
    """What a batch's tokens may look at, as the language model takes it.

    Padding at the right lies behind every token that counts, so causal attention never sees it and no mask is needed
    (None); torch then has its fastest kernels. Packed conversations look at their own tokens only.

    Raises:
        ModelError: packed conversations for attention that takes no mask ``[B, 1, S, S]``.
    """
    if "segments" not in batch:
        return None
    allowed = block_causal(batch["segments"])
    kind = model.llm.config._attn_implementation
    if kind == "sdpa":
        return allowed
    if kind != "eager":
        raise ModelError(f"packed conversations for {kind!r} attention", "'sdpa' or 'eager'", "set data.packed to 0")
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, torch.finfo(torch.float32).min)


def block_causal(segments: Tensor) -> Tensor:
    """Bool ``[B, 1, S, S]``: row token looks at column token of its own segment, itself or before it.

    Args:
        segments: int64 ``[B, S]``: number of a token's conversation; padding has one of its own.
    """
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return same & torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool, device=segments.device).tril()
