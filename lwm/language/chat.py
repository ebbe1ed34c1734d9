"""Conversations as token numbers: what RF-GPT asks of a tokenizer with a chat template, whoever made it."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from lwm.errors import ConfigError, ModelError

IGNORED = -100
"""Label of a token that the loss leaves out (the convention of transformers and ``cross_entropy``)."""

RF = "<rf>"
"""Place that an RF token takes."""


Role = Literal["system", "user", "assistant"]


class Turn(NamedTuple):
    """What one side says.

    ``role``: who. ``text``: what, never empty. ``captures``: RF captures shown before the text; only a user shows any.
    """

    role: Role
    text: str
    captures: int = 0


Turns = str | Sequence[Turn]
"""A conversation; a plain string is one user turn about one capture."""


class Chat(Protocol):
    """What RF-GPT needs of a tokenizer.

    ``pad_id``: fills batches. ``rf_id``: place of an RF token; may lie beyond the language model's vocabulary.
    ``end_ids``: any of them ends an answer. ``vocab_size``: tokens that the language model must have, ``rf_id``
    left out where it lies beyond them.

    Text is data: one that holds a token of the template is refused, never read as that token.
    """

    @property
    def pad_id(self) -> int:
        """Fills batches."""
        ...

    @property
    def rf_id(self) -> int:
        """Place of an RF token."""
        ...

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ...

    @property
    def vocab_size(self) -> int:
        """Tokens that the language model must have."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text, special tokens recognised where they stand."""
        ...

    def prompt(self, turns: Turns, rf_tokens: int) -> list[int]:
        """Token numbers up to where the assistant's answer begins.

        Args:
            turns: a conversation that ends with the user.
            rf_tokens: ``<rf>`` places a capture, before the text of its turn; captures stand on lines of their own.

        Raises:
            ConfigError: an empty text, one with a token of the template, or turns in an order that is no conversation.
        """
        ...

    def pair(self, turns: Turns, answer: str, rf_tokens: int) -> tuple[list[int], list[int]]:
        """Token numbers and labels of a conversation with its answer.

        Labels are :data:`IGNORED` everywhere but on the answer and its end of turn.

        Raises:
            ConfigError: see :meth:`prompt`; or the tokens of the prompt are not the beginning of the tokens of the
                whole, so that no label can be aligned.
        """
        ...

    def conversation(self, turns: Sequence[Turn], rf_tokens: int) -> tuple[list[int], list[int]]:
        """Token numbers and labels of a whole conversation: labels on every assistant turn and its end.

        Raises:
            ConfigError: see :meth:`pair`; it does not end with the assistant.
        """
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token numbers up to the first end of turn, special tokens left out."""
        ...

    def get_config(self) -> dict[str, Any]:
        """JSON-able dict with ``kind``, for :func:`chat_from_config`."""
        ...


class TokenizedChat:
    """What chats on a tokenizer of the library tokenizers share: from text to numbers and back, and where labels go.

    A subclass sets ``_tokenizer`` and ``end_ids``, and says in ``_labelled`` how its template writes a conversation.
    """

    _tokenizer: Any
    end_ids: frozenset[int]

    def encode(self, text: str) -> list[int]:
        """Token numbers of ``text``, special tokens recognised where they stand."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token numbers up to the first end of turn, special tokens left out."""
        kept: list[int] = []
        for number in ids:
            if number in self.end_ids:
                break
            kept.append(int(number))
        return str(self._tokenizer.decode(kept, skip_special_tokens=True))

    def pair(self, turns: Turns, answer: str, rf_tokens: int) -> tuple[list[int], list[int]]:
        """Token numbers and labels of a conversation with its answer; see :meth:`Chat.pair`."""
        asked = as_turns(turns, "user")
        return self._labelled([*asked, Turn("assistant", answer)], rf_tokens, first=len(asked))

    def conversation(self, turns: Sequence[Turn], rf_tokens: int) -> tuple[list[int], list[int]]:
        """Token numbers and labels on every answer; see :meth:`Chat.conversation`."""
        return self._labelled(turns, rf_tokens, first=0)

    def _labelled(self, turns: Sequence[Turn], rf_tokens: int, first: int) -> tuple[list[int], list[int]]:
        """Token numbers, and labels on the answers from turn ``first`` on."""
        raise NotImplementedError


def read_tokenizer(text: str) -> Any:
    """The ``tokenizers.Tokenizer`` of a ``tokenizer.json``; ModelError when the text is none."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(text)
    # tokenizers raises nothing narrower than Exception for text that it cannot read.
    except Exception as error:
        raise ModelError(f"a tokenizer that cannot be read ({error})", "the content of a tokenizer.json") from error


def chat_from_config(config: Any) -> Chat:
    """The chat that ``get_config`` described.

    Raises:
        ModelError: no such kind, or its tokenizer cannot be read.
    """
    kind = config.get("kind") if isinstance(config, dict) else None
    if kind == "bpe":
        from lwm.language.tokenizer import ChatTokenizer

        return ChatTokenizer.from_config(config)
    if kind == "pretrained":
        from lwm.language.pretrained_chat import PretrainedChat

        return PretrainedChat.from_config(config)
    if kind == "vision":
        from lwm.language.qwen_vl import VisionChat

        return VisionChat.from_config(config)
    raise ModelError(
        f"a chat of kind {kind!r}", "'bpe', 'pretrained' or 'vision'", "use a config that get_config() gave"
    )


def as_turns(turns: Turns, ends: Literal["user", "assistant"]) -> list[Turn]:
    """The turns of a conversation: perhaps a system turn, then user and assistant in alternation.

    Args:
        turns: the conversation.
        ends: who must have the last word.

    Raises:
        ConfigError: another order, an empty text, or captures that the user does not show.
    """
    said = [Turn("user", turns, 1)] if isinstance(turns, str) else [Turn(*turn) for turn in turns]
    spoken = said[1:] if said and said[0].role == "system" else said
    wanted = [("user", "assistant")[number % 2] for number in range(len(spoken))]
    if [turn.role for turn in spoken] != wanted or not spoken or spoken[-1].role != ends:
        raise ConfigError(
            f"a conversation of {[turn.role for turn in said]}",
            f"user and assistant in alternation, the {ends} last, perhaps after one system turn",
        )
    for turn in said:
        what = "question" if turn.role == "user" else "answer" if turn.role == "assistant" else "system turn"
        if not turn.text.strip():
            raise ConfigError(f"an empty {what}", f"some text as {what}", "for example: Which technology is this?")
        if turn.captures < 0 or (turn.captures and turn.role != "user"):
            raise ConfigError(f"a {turn.role} turn with {turn.captures} captures", "captures in user turns only")
    return said


def shown(turn: Turn, rf_tokens: int) -> str:
    """Text of a turn behind the ``<rf>`` places of its captures; several captures stand on lines of their own."""
    return "\n".join([RF * rf_tokens] * turn.captures) + turn.text


def align(whole: list[int], parts: Iterable[tuple[list[int], list[int]]], said: str) -> list[int]:
    """Labels of a whole conversation: :data:`IGNORED` but between each beginning and the longer one beside it.

    Args:
        whole: token numbers of the conversation ``[S]``.
        parts: for every answer the token numbers up to where it begins, and up to its end of turn.
        said: the conversation in words, for the error.

    Returns:
        Labels ``[S]``.

    Raises:
        ConfigError: one of them is no beginning of the whole: a token spans the border of an answer.
    """
    labels = [IGNORED] * len(whole)
    for before, through in parts:
        first, stop = len(before), len(through)
        if whole[:first] != before or whole[:stop] != through or first >= stop:
            raise ConfigError(
                f"{said!r:.200} cannot be aligned with the template",
                "tokens that begin where the answer begins and end where it ends",
                "remove white space at its beginning and end",
            )
        labels[first:stop] = whole[first:stop]
    return labels
