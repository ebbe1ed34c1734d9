"""RF-GPT: an encoder's tokens, merged and put through an adapter, among the words of a language model.

After Zou et al., "RF-GPT" (arXiv 2602.14833): a vision tower, a linear adapter and a decoder language model; RF
tokens take the places of ``<rf>`` in the embedded conversation.
"""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lwm.errors import ConfigError, ModelError
from lwm.hub import MODELS
from lwm.language.adapter import Adapter, RFAdapter
from lwm.language.chat import Chat, Turns, chat_from_config
from lwm.language.decoding import Decoding, Processor, Streamer, decode
from lwm.language.llm import Loaded, build_llm, is_pretrained, llm_config, load_llm
from lwm.language.merge import Merge, RFMerge
from lwm.models.cores import in_parts
from lwm.models.lora import add_lora, lora_options, merge_lora
from lwm.registry import load
from lwm.signal.recipe import Recipe

_SHAPE = ("labels", "tokens", "merge", "layer", "adapter", "lora")
GOLDEN_QUESTION = "Which technology is this?"


class Answers(NamedTuple):
    """What :meth:`RFGPT.generate` gives, one of each a prompt.

    ``texts``: the answer. ``complete``: whether it came to its end within the tokens it was given.
    ``log_probabilities``: sum over its tokens, end of turn included, of the natural logarithm of what the model gave
    them. ``tokens``: how many these are.
    """

    texts: list[str]
    complete: list[bool]
    log_probabilities: list[float]
    tokens: list[int]


class RFGPT(nn.Module):
    """Answers questions about spectrograms.

    Args:
        tower: any encoder of LWM; it stays frozen unless :attr:`tower_trains` is set.
        llm: a causal language model of transformers.
        chat: tokenizer and chat template of that language model.
        labels: for each categorical kind of question the values that exist, for reading answers back.
        tokens: rows (frequency) and columns (time) of RF tokens.
        merge: how the tower's tokens become RF tokens.
        layer: block of the tower whose tokens are taken (from the end when negative); None for the tower's output.
        adapter: one linear layer, or two.
        lora: options of low-rank updates of the language model (see :func:`lwm.models.lora.lora_options`), which is
            frozen then; None for none.

    Raises:
        ModelError: the language model lacks tokens that the chat has.
        ConfigError: the tower's grid cannot be merged to ``tokens``, or an unknown option.
    """

    model_type: ClassVar[str] = "rfgpt"

    def __init__(
        self,
        tower: Any,
        llm: Any,
        chat: Chat,
        labels: Mapping[str, Sequence[str]],
        tokens: Sequence[int] = (4, 4),
        merge: Merge = "mean_spread",
        layer: int | None = None,
        adapter: Adapter = "linear",
        lora: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if llm.config.vocab_size < chat.vocab_size:
            raise ModelError(
                f"a language model of {llm.config.vocab_size} tokens and a chat of {chat.vocab_size}",
                "one vocabulary",
            )
        if "past_key_values" not in signature(llm.forward).parameters:
            raise ModelError(f"a language model {type(llm).__name__}", "a causal one with a key-value cache")
        self.tower = tower.requires_grad_(False).eval()
        self.merge = RFMerge(tower.grid_size, tokens, merge)
        self.adapter = RFAdapter(tower.num_features * self.merge.factor, llm.config.hidden_size, adapter)
        self.llm = llm
        self.lora = None if lora is None else lora_options(lora)
        if self.lora is not None:
            add_lora(llm, self.lora)
        self.chat = chat
        self.labels = {name: list(values) for name, values in labels.items()}
        self.layer = layer
        self.tower_trains = False
        # Curves by kind of question, as numbers; see lwm.language.confidence. Empty: not calibrated.
        self.confidence: dict[str, Any] = {}

    @property
    def recipe(self) -> Recipe:
        """Recipe of the pictures: the tower's."""
        return self.tower.recipe

    @property
    def rf_tokens(self) -> int:
        """RF tokens a picture."""
        return self.merge.count

    def train(self, mode: bool = True) -> Self:
        """Training mode for adapter and language model; a frozen tower stays in evaluation mode."""
        super().train(mode)
        self.tower.train(mode and self.tower_trains)
        return self

    def train_tower(self, trains: bool = True) -> None:
        """Let the tower learn with the rest, or freeze it."""
        self.tower_trains = trains
        self.tower.requires_grad_(trains)
        self.train(self.training)

    def merge_lora(self) -> None:
        """Make the low-rank updates part of the language model's own weights; ConfigError when there are none."""
        merge_lora(self.llm)
        self.lora = None

    def encode(self, x: Tensor) -> Tensor:
        """RF tokens ``[B, n, features]`` of dB pictures ``[B, C, F, T]``, before the adapter.

        No gradient is kept unless :attr:`tower_trains`.
        """
        if self.tower_trains and torch.is_grad_enabled():
            return self._merged(x)
        return in_parts(lambda part: [self._merged(part)], x, self.tower)[0]

    def _merged(self, x: Tensor) -> Tensor:
        if self.layer is None:
            tokens = self.tower.forward_features(x)[:, self.tower.num_prefix_tokens :]
        else:
            tokens = self.tower.forward_intermediates(x, [self.layer])[-1]
        return self.merge(tokens)

    def embed(self, rf: Tensor, input_ids: Tensor) -> Tensor:
        """Embedded conversations ``[B, S, width]``.

        Args:
            rf: RF tokens ``[captures, n, features]`` from :meth:`encode`, in the order of their places, row by row.
            input_ids: int64 ``[B, S]`` with n ``<rf>`` places a capture; a row may show several captures or none.

        Raises:
            ModelError: another number of places.
        """
        places = input_ids == self.chat.rf_id
        # The place's own number may lie beyond the language model's vocabulary.
        words = self.llm.get_input_embeddings()(input_ids.masked_fill(places, self.chat.pad_id))
        counts = places.sum(1)
        if bool((counts % self.rf_tokens).any()) or int(counts.sum()) != rf.shape[0] * rf.shape[1]:
            raise ModelError(
                f"conversations with {counts.tolist()} <rf> places for RF tokens {list(rf.shape)}",
                f"{self.rf_tokens} a capture",
            )
        if not len(rf):
            return words
        return words.masked_scatter(places[..., None], self.adapter(rf).to(words.dtype))

    def forward(
        self, rf: Tensor, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None = None
    ) -> Tensor:
        """Next-token logits ``[B, S, V]``.

        Args:
            rf: see :meth:`embed`.
            input_ids: int64 ``[B, S]``.
            attention_mask: int64 ``[B, S]``, 0 on padding; or what else the language model takes.
            position_ids: int64 ``[B, S]`` where conversations are packed into rows.
        """
        given = {} if position_ids is None else {"position_ids": position_ids}
        embedded = self.embed(rf, input_ids)
        return self.llm(inputs_embeds=embedded, attention_mask=attention_mask, use_cache=False, **given).logits

    @torch.inference_mode()
    def generate(
        self,
        rf: Tensor,
        prompts: Sequence[Turns],
        max_new_tokens: int = 64,
        *,
        captures: Sequence[Sequence[int]] | None = None,
        logits_processors: Sequence[Processor] = (),
        streamer: Streamer | None = None,
        temperature: float = 0.0,
        stop: Callable[[], bool] | None = None,
        generator: torch.Generator | None = None,
    ) -> Answers:
        """Answers to conversations, all at once.

        Conversations of different length are padded at the left, so that every answer begins at the same column and
        the key-value cache is shared; padding changes no answer.

        Args:
            rf: RF tokens ``[captures, n, features]`` from :meth:`encode`.
            prompts: conversations; a plain string is a question about one capture.
            max_new_tokens: most tokens of an answer, its end included.
            captures: for each prompt the rows of ``rf`` that it shows, in order; None shows row i to prompt i.
            logits_processors: as transformers has them; they see the tokens generated so far, the prompt left out.
            streamer: gets every token, see :class:`lwm.language.decoding.Streamer`.
            temperature: 0 takes the likeliest token.
            stop: asked between steps; True ends all answers where they are.
            generator: draws when the temperature is above 0; torch's own when None.

        Raises:
            ConfigError: an empty text, one with a token of the template, a prompt that shows another number of
                captures than it has, or one that does not leave ``max_new_tokens`` of the language model's context.
        """
        if not prompts:
            return Answers([], [], [], [])
        rows = [torch.tensor(self.chat.prompt(prompt, self.rf_tokens)) for prompt in prompts]
        self._require_context(max(map(len, rows)), max_new_tokens)
        chosen = self._captures(rows, captures, len(rf))
        pad = self.chat.pad_id
        ids = pad_sequence(rows, batch_first=True, padding_value=pad, padding_side="left").to(rf.device)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
        how = Decoding(
            max_new_tokens, self.chat.end_ids, pad, logits_processors, streamer, temperature, generator, stop
        )
        mask = mask.to(rf.device)
        made = decode(self.speaker(ids, mask), self.embed(rf[chosen], ids), mask, how)
        texts = [self.chat.decode(row) for row in made.ids]
        return Answers(texts, made.complete, made.log_probabilities, [len(row) for row in made.ids])

    def speaker(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """What continues these prompts: the language model, unless it must know where their captures stand."""
        return self.llm

    def answer(self, x: Tensor, prompts: Sequence[Turns], max_new_tokens: int = 64) -> Answers:
        """Answers to one prompt per dB picture of ``x [B, C, F, T]``."""
        return self.generate(self.encode(x), prompts, max_new_tokens)

    def _require_context(self, longest: int, more: int) -> None:
        most = getattr(self.llm.config, "max_position_embeddings", None)
        if most is not None and longest + more > most:
            raise ConfigError(
                f"a prompt of {longest} tokens with room for an answer of {more}",
                f"at most {most} together, the language model's context",
                "ask something shorter, show fewer captures or take fewer RF tokens",
            )

    def _captures(self, rows: Sequence[Tensor], captures: Sequence[Sequence[int]] | None, available: int) -> Tensor:
        """Rows of RF tokens in the order of their places, int64."""
        shown = [list(part) for part in captures] if captures is not None else [[row] for row in range(len(rows))]
        places = [int((row == self.chat.rf_id).sum()) // self.rf_tokens for row in rows]
        flat = [row for part in shown for row in part]
        if [len(part) for part in shown] != places or not all(0 <= row < available for row in flat):
            raise ConfigError(
                f"captures {shown} of {available} for prompts that show {places}", "the rows that each prompt shows"
            )
        return torch.tensor(flat, dtype=torch.long)

    def get_config(self) -> dict[str, Any]:
        """JSON-able dict for :meth:`from_config`; the tokenizer is in it."""
        return {
            "tower": {"type": self.tower.model_type, "config": self.tower.get_config()},
            "llm": llm_config(self.llm),
            "labels": self.labels,
            "tokens": list(self.merge.target),
            "merge": self.merge.kind,
            "layer": self.layer,
            "adapter": self.adapter.kind,
            "lora": self.lora,
            "chat": self.chat.get_config(),
            "confidence": self.confidence,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], recipe: Recipe) -> Self:
        """A model of that shape with fresh weights; ModelError when the config lacks or misspells a part."""
        known = {"tower", "llm", "chat", "confidence", *_SHAPE}
        if set(config) != known:
            raise ModelError(f"RF-GPT config with missing or unknown {sorted(set(config) ^ known)}", f"{sorted(known)}")
        tower = load(MODELS, config["tower"]["type"]).from_config(config["tower"]["config"], recipe)
        return cls.build(tower, config)

    @classmethod
    def build(cls, tower: Any, config: Mapping[str, Any], llm: Any = None) -> Self:
        """A model around ``tower`` from the rest of a config.

        Args:
            tower: an encoder with its weights.
            config: as :meth:`get_config` gives it.
            llm: a language model with its weights; None makes one from the config, with fresh weights.
        """
        chat = chat_from_config(config["chat"])
        llm = build_llm(config["llm"], chat.vocab_size) if llm is None else llm
        model = cls(tower, llm, chat, **{name: config[name] for name in _SHAPE if name in config})
        model.confidence = dict(config.get("confidence", {}))
        return model

    @classmethod
    def on_base(cls, folder: Path, config: dict[str, Any], recipe: Recipe, **options: Any) -> Any:
        """A model from a folder that names its base; see :func:`lwm.language.adapter_folder.load_adapter`."""
        from lwm.language.adapter_folder import load_adapter

        return load_adapter(folder, config, recipe, **options)

    @staticmethod
    def base_llm(llm: str | dict[str, Any]) -> Loaded | None:
        """The pretrained language model that a setting names, loaded; None for a shape to be trained from scratch."""
        return load_llm(llm) if isinstance(llm, str) and is_pretrained(llm) else None

    def golden(self, x: Tensor) -> Tensor:
        """What a model folder keeps to be checked later: the tower's own golden output beside the next-token logits
        after a fixed question, ``[2, K + V]``."""
        ids = torch.tensor(self.chat.prompt(GOLDEN_QUESTION, self.rf_tokens), device=x.device)
        ids = ids.expand(len(x), -1)
        logits = self(self.encode(x), ids, torch.ones_like(ids))[:, -1]
        return torch.cat([self.tower.golden(x).flatten(1), logits], dim=1)
