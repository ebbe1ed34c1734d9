"""RF-GPT: an encoder's tokens, merged and put through a linear adapter, among the words of a language model.

After Zou et al., "RF-GPT" (arXiv 2602.14833): a vision tower, a linear adapter and a decoder language model; RF
tokens take the places of ``<rf>`` in the embedded conversation.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lwm.errors import ConfigError, ModelError
from lwm.hub import MODELS
from lwm.language.llm import build_llm, llm_config
from lwm.language.tokenizer import ChatTokenizer
from lwm.registry import load
from lwm.signal.recipe import Recipe

Merge = Literal["mean", "mean_spread"]
GOLDEN_QUESTION = "Which technology is this?"


class Answers(NamedTuple):
    """What :meth:`RFGPT.generate` gives.

    ``texts``: one answer a question. ``complete``: whether it came to its end within the tokens it was given.
    """

    texts: list[str]
    complete: list[bool]


class RFMerge(nn.Module):
    """Averages an encoder's token grid over equal cells of a coarser grid.

    Args:
        source: rows (frequency) and columns (time) of the encoder's grid.
        target: rows and columns of the merged grid; each divides its source.
        kind: ``"mean"``, or ``"mean_spread"`` with the standard deviation over time in each cell beside it.

    Raises:
        ConfigError: the grid cannot be cut so.
    """

    def __init__(self, source: Sequence[int], target: Sequence[int], kind: Merge = "mean") -> None:
        super().__init__()
        self.source, self.target, self.kind = tuple(source), tuple(target), kind
        if len(self.target) != 2 or min(self.target) < 1 or any(s % t for s, t in zip(source, target, strict=True)):
            raise ConfigError(f"RF tokens {list(target)}", f"two divisors of the tower's token grid {list(source)}")
        if kind not in ("mean", "mean_spread"):
            raise ConfigError(f"merge {kind!r}", "'mean' or 'mean_spread'")

    @property
    def count(self) -> int:
        """Merged tokens."""
        return self.target[0] * self.target[1]

    @property
    def factor(self) -> int:
        """Width of a merged token in widths of the encoder's."""
        return 2 if self.kind == "mean_spread" else 1

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, L, D]`` without prefix tokens to ``[B, count, factor * D]``."""
        (rows, columns), (up, along) = self.source, self.target
        cells = tokens.unflatten(1, (up, rows // up, along, columns // along))
        mean = cells.mean((2, 4))
        if self.kind == "mean_spread":
            spread = (cells.var(4, correction=0) + 1e-8).sqrt().mean(2)
            mean = torch.cat([mean, spread], dim=-1)
        return mean.flatten(1, 2)


class RFAdapter(nn.Module):
    """RF tokens to the language model's width: standardised feature by feature, then one linear layer.

    Mean and standard deviation are those of the training data's RF tokens; they are buffers and travel with the
    weights. Without them a token's constant part drowns what differs between captures: after 200 steps of 32 pairs
    from scratch, three made-up classes were told apart at chance (0.35, 0.37) instead of 0.81 and 0.82 (two seeds).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.linear = nn.Linear(features, width)

    def fit(self, tokens: Tensor) -> None:
        """Take mean and standard deviation from RF tokens ``[N, n, features]``."""
        self.mean.copy_(tokens.mean((0, 1)))
        self.std.copy_(tokens.std((0, 1), correction=0).clamp(min=1e-4))

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, n, features]`` to ``[B, n, width]``."""
        return self.linear((tokens - self.mean) / self.std)


class RFGPT(nn.Module):
    """Answers questions about spectrograms.

    Args:
        tower: any encoder of LWM; it stays frozen.
        llm: a causal language model of transformers with the tokenizer's vocabulary.
        tokenizer: with the template's special tokens.
        labels: for each categorical kind of question the values that exist, for reading answers back.
        tokens: rows (frequency) and columns (time) of RF tokens.
        merge: how the tower's tokens become RF tokens.
        layer: block of the tower whose tokens are taken (from the end when negative); None for the tower's output.

    Raises:
        ModelError: tokenizer and language model differ in their vocabulary.
        ConfigError: the tower's grid cannot be merged to ``tokens``.
    """

    model_type: ClassVar[str] = "rfgpt"

    def __init__(
        self,
        tower: Any,
        llm: Any,
        tokenizer: ChatTokenizer,
        labels: Mapping[str, Sequence[str]],
        tokens: Sequence[int] = (4, 4),
        merge: Merge = "mean_spread",
        layer: int | None = None,
    ) -> None:
        super().__init__()
        if llm.config.vocab_size != tokenizer.vocab_size:
            raise ModelError(
                f"a language model of {llm.config.vocab_size} tokens and a tokenizer of {tokenizer.vocab_size}",
                "one vocabulary",
            )
        self.tower = tower.requires_grad_(False).eval()
        self.merge = RFMerge(tower.grid_size, tokens, merge)
        self.adapter = RFAdapter(tower.num_features * self.merge.factor, llm.config.hidden_size)
        self.llm = llm
        self.tokenizer = tokenizer
        self.labels = {name: list(values) for name, values in labels.items()}
        self.layer = layer

    @property
    def recipe(self) -> Recipe:
        """Recipe of the pictures: the tower's."""
        return self.tower.recipe

    @property
    def rf_tokens(self) -> int:
        """RF tokens a picture."""
        return self.merge.count

    def train(self, mode: bool = True) -> Self:
        """Training mode for adapter and language model; the frozen tower stays in evaluation mode."""
        super().train(mode)
        self.tower.eval()
        return self

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """RF tokens ``[B, n, features]`` of dB pictures ``[B, C, F, T]``, before the adapter; without gradient."""
        if self.layer is None:
            tokens = self.tower.forward_features(x)[:, self.tower.num_prefix_tokens :]
        else:
            tokens = self.tower.forward_intermediates(x, [self.layer])[-1]
        return self.merge(tokens)

    def embed(self, rf: Tensor, input_ids: Tensor) -> Tensor:
        """Embedded conversation ``[B, S, width]``.

        Args:
            rf: RF tokens ``[B, n, features]`` from :meth:`encode`.
            input_ids: int64 ``[B, S]`` with n ``<rf>`` places in every row.

        Raises:
            ModelError: a row has another number of places.
        """
        words = self.llm.get_input_embeddings()(input_ids)
        places = input_ids == self.tokenizer.rf_id
        if not bool((places.sum(1) == rf.shape[1]).all()):
            raise ModelError(f"a conversation with {places.sum(1).tolist()} <rf> places", f"{rf.shape[1]} in every row")
        return words.masked_scatter(places[..., None], self.adapter(rf).to(words.dtype))

    def forward(self, rf: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Next-token logits ``[B, S, V]``; ``attention_mask`` int64 ``[B, S]``, 0 on padding."""
        return self.llm(inputs_embeds=self.embed(rf, input_ids), attention_mask=attention_mask, use_cache=False).logits

    @torch.inference_mode()
    def generate(self, rf: Tensor, questions: Sequence[str], max_new_tokens: int = 64) -> Answers:
        """Greedy answers to one question per row of ``rf [B, n, features]``.

        Questions of different length are padded at the left, so that every answer begins at the same column and the
        key-value cache is shared; padding changes no answer.

        Raises:
            ConfigError: a question is empty or holds a token of the template.
        """
        device = rf.device
        rows = [torch.tensor(self.tokenizer.prompt(question, self.rf_tokens)) for question in questions]
        pad = self.tokenizer.pad_id
        ids = pad_sequence(rows, batch_first=True, padding_value=pad, padding_side="left").to(device)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left").to(device)
        new = self.llm.generate(
            inputs_embeds=self.embed(rf, ids),
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self.tokenizer.end_id,
            pad_token_id=pad,
        ).tolist()
        ended = [self.tokenizer.end_id in row for row in new]
        return Answers([self.tokenizer.decode(row) for row in new], ended)

    def answer(self, x: Tensor, questions: Sequence[str], max_new_tokens: int = 64) -> Answers:
        """Answers to one question per dB picture of ``x [B, C, F, T]``."""
        return self.generate(self.encode(x), questions, max_new_tokens)

    def get_config(self) -> dict[str, Any]:
        """JSON-able dict for :meth:`from_config`; the tokenizer is in it as the text of a tokenizer.json."""
        return {
            "tower": {"type": self.tower.model_type, "config": self.tower.get_config()},
            "llm": llm_config(self.llm),
            "labels": self.labels,
            "tokens": list(self.merge.target),
            "merge": self.merge.kind,
            "layer": self.layer,
            "tokenizer": self.tokenizer.to_json(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], recipe: Recipe) -> Self:
        """A model of that shape with fresh weights; ModelError when the config lacks or misspells a part."""
        known = {"tower", "llm", "labels", "tokens", "merge", "layer", "tokenizer"}
        if set(config) != known:
            raise ModelError(f"RF-GPT config with missing or unknown {sorted(set(config) ^ known)}", f"{sorted(known)}")
        tower = load(MODELS, config["tower"]["type"]).from_config(config["tower"]["config"], recipe)
        return cls.build(tower, config)

    @classmethod
    def build(cls, tower: Any, config: Mapping[str, Any]) -> Self:
        """A model around ``tower`` from the rest of a config; adapter and language model have fresh weights."""
        tokenizer = ChatTokenizer.from_json(config["tokenizer"])
        llm = build_llm(config["llm"], tokenizer.vocab_size)
        return cls(tower, llm, tokenizer, config["labels"], config["tokens"], config["merge"], config["layer"])

    def golden(self, x: Tensor) -> Tensor:
        """What a model folder keeps to be checked later: the tower's own golden output beside the next-token logits
        after a fixed question, ``[2, K + V]``."""
        ids = torch.tensor(self.tokenizer.prompt(GOLDEN_QUESTION, self.rf_tokens), device=x.device)
        ids = ids.expand(len(x), -1)
        logits = self(self.encode(x), ids, torch.ones_like(ids))[:, -1]
        return torch.cat([self.tower.golden(x).flatten(1), logits], dim=1)
