"""A small byte-level BPE tokenizer with ChatML turns, made from the instruction texts themselves."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Self

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lwm.errors import ConfigError, ModelError
from lwm.language.chat import RF, TokenizedChat, Turn, Turns, align, as_turns, read_tokenizer, shown

PAD, START, END = "<pad>", "<|im_start|>", "<|im_end|>"
SPECIAL = (PAD, RF, START, END)


class ChatTokenizer(TokenizedChat):
    """Text to token numbers and back, with one chat template.

    A conversation is ``<|im_start|>user\\n<rf>...<rf>QUESTION<|im_end|>\\n<|im_start|>assistant\\nANSWER<|im_end|>``,
    and so on with further turns; each ``<rf>`` is a place that an RF token takes. It is a
    :class:`~lwm.language.chat.Chat`. Bytes are the base alphabet, so any text can be encoded; digits
    are single tokens, so that numbers never seen in training are still read digit by digit.

    Args:
        tokenizer: a ``tokenizers.Tokenizer`` that knows the four special tokens.

    Raises:
        ModelError: a special token is missing.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        missing = [token for token in SPECIAL if tokenizer.token_to_id(token) is None]
        if missing:
            raise ModelError(f"a tokenizer without {missing}", f"the special tokens {list(SPECIAL)}")
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self.pad_id, self.rf_id, self.start_id, self.end_id = (vocabulary[token] for token in SPECIAL)
        self.end_ids = frozenset({self.end_id})

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 1024) -> Self:
        """A tokenizer of at most ``vocab_size`` tokens from ``texts``; the same texts give the same tokenizer.

        Raises:
            ConfigError: ``vocab_size`` cannot hold the 256 bytes and the special tokens.
        """
        smallest = 256 + len(SPECIAL)
        if vocab_size < smallest:
            raise ConfigError(f"vocab_size {vocab_size}", f"at least {smallest} (all bytes and the special tokens)")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=1,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        # Sorted and counted once each: neither the order of the data nor its repetition decides a merge. The
        # template's own words come first, or every conversation would spell them.
        tokenizer.train_from_iterator(["user", "assistant", *sorted(set(texts))], trainer)
        return cls(tokenizer)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The tokenizer that :meth:`to_json` wrote; ModelError when the text is none."""
        return cls(read_tokenizer(text))

    def to_json(self) -> str:
        """Content of a ``tokenizer.json``, on one line."""
        return json.dumps(json.loads(self._tokenizer.to_str()), ensure_ascii=False)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return int(self._tokenizer.get_vocab_size())

    def prompt(self, turns: Turns, rf_tokens: int) -> list[int]:
        """Token numbers up to where the answer begins; see :meth:`lwm.language.chat.Chat.prompt`."""
        return self.encode(_opened(_checked(as_turns(turns, "user")), rf_tokens))

    def _labelled(self, turns: Sequence[Turn], rf_tokens: int, first: int) -> tuple[list[int], list[int]]:
        """Labels on the answers from turn ``first`` on."""
        said = _checked(as_turns(turns, "assistant"))
        parts: list[tuple[list[int], list[int]]] = []
        for number, turn in enumerate(said):
            if turn.role == "assistant" and number >= first:
                before = _opened(said[:number], rf_tokens)
                parts.append((self.encode(before), self.encode(before + turn.text + END)))
        whole = self.encode(_opened(said[:-1], rf_tokens) + said[-1].text + END)
        return whole, align(whole, parts, said[-1].text)

    def get_config(self) -> dict[str, Any]:
        """JSON-able dict for :func:`lwm.language.chat.chat_from_config`."""
        return {"kind": "bpe", "tokenizer": self.to_json()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The tokenizer that :meth:`get_config` described; ModelError when it is none."""
        if set(config) != {"kind", "tokenizer"} or not isinstance(config["tokenizer"], str):
            raise ModelError(f"a chat config of {sorted(config)}", "kind and tokenizer")
        return cls.from_json(config["tokenizer"])


def _opened(turns: Sequence[Turn], rf_tokens: int) -> str:
    """The turns, and the beginning of the assistant's next one."""
    return "".join(f"{START}{t.role}\n{shown(t, rf_tokens)}{END}\n" for t in turns) + f"{START}assistant\n"


def _checked(turns: list[Turn]) -> list[Turn]:
    for turn in turns:
        inside = [token for token in SPECIAL if token in turn.text]
        if inside:
            what = "answer" if turn.role == "assistant" else "question"
            raise ConfigError(f"{what} {turn.text!r} holds {inside}", f"a {what} without the template's own tokens")
    return turns
