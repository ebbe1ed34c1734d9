"""A small byte-level BPE tokenizer with ChatML turns, made from the instruction texts themselves."""

import json
from collections.abc import Iterable
from typing import Self

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lwm.errors import ConfigError, ModelError

PAD, RF, START, END = "<pad>", "<rf>", "<|im_start|>", "<|im_end|>"
SPECIAL = (PAD, RF, START, END)
IGNORED = -100
"""Label of a token that the loss leaves out (the convention of transformers and ``cross_entropy``)."""


class ChatTokenizer:
    """Text to token numbers and back, with one chat template.

    A conversation is ``<|im_start|>user\\n<rf>...<rf>QUESTION<|im_end|>\\n<|im_start|>assistant\\nANSWER<|im_end|>``;
    each ``<rf>`` is a place that an RF token takes. Bytes are the base alphabet, so any text can be encoded; digits
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
        try:
            return cls(Tokenizer.from_str(text))
        # tokenizers raises nothing narrower than Exception for text that it cannot read.
        except Exception as error:
            raise ModelError(f"a tokenizer that cannot be read ({error})", "the content of a tokenizer.json") from error

    def to_json(self) -> str:
        """Content of a ``tokenizer.json``, on one line."""
        return json.dumps(json.loads(self._tokenizer.to_str()), ensure_ascii=False)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Token numbers of ``text``, special tokens recognised where they stand."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token numbers up to the first end of turn, special tokens left out."""
        kept: list[int] = []
        for number in ids:
            if number == self.end_id:
                break
            kept.append(int(number))
        return str(self._tokenizer.decode(kept, skip_special_tokens=True))

    def prompt(self, question: str, rf_tokens: int) -> list[int]:
        """Token numbers up to where the answer begins.

        Args:
            question: what is asked; not empty, without special tokens.
            rf_tokens: number of ``<rf>`` places, before the question.

        Raises:
            ConfigError: the question is empty or holds a special token.
        """
        return self.encode(_prompt_text(_checked(question, "question"), rf_tokens))

    def pair(self, question: str, answer: str, rf_tokens: int) -> tuple[list[int], list[int]]:
        """Token numbers and labels of one question with its answer.

        Labels are :data:`IGNORED` everywhere but on the answer and its end of turn.

        Raises:
            ConfigError: question or answer is empty or holds a special token, or the tokens of the prompt are not
                the beginning of the tokens of the whole, so that no label can be aligned.
        """
        before = self.prompt(question, rf_tokens)
        text = _prompt_text(question, rf_tokens) + _checked(answer, "answer") + END
        whole = self.encode(text)
        if whole[: len(before)] != before:
            raise ConfigError(
                f"answer {answer!r} to {question!r} cannot be aligned with the template",
                "tokens that begin where the answer begins",
                "remove white space at its beginning",
            )
        return whole, [IGNORED] * len(before) + whole[len(before) :]


def _prompt_text(question: str, rf_tokens: int) -> str:
    return f"{START}user\n{RF * rf_tokens}{question}{END}\n{START}assistant\n"


def _checked(text: str, what: str) -> str:
    if not text.strip():
        raise ConfigError(f"an empty {what}", f"some text as {what}", "ask something, for example: Which technology?")
    inside = [token for token in SPECIAL if token in text]
    if inside:
        raise ConfigError(f"{what} {text!r} holds {inside}", f"a {what} without the template's own tokens")
    return text
