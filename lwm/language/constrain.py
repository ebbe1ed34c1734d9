"""Answers in a form that was asked for: JSON by schema or one of given labels, token by token; and the check of both.

Constrained decoding is llguidance's: at every step the tokens that cannot lead to a permitted answer get a logit of
minus infinity, and the end of the turn is permitted only where the answer is whole. The library and jsonschema come
with the extra ``json``.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lwm.errors import ConfigError, ModelError
from lwm.language.chat import Chat

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MOST_SCHEMA_BYTES = 65_536
"""Bytes of a schema as JSON; a server takes them from anybody."""
_SEPARATORS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as ``json.dumps`` writes it and as the tuning data have it: no other white space, which a model would have to
choose between, and could repeat without end."""


class Parsed(NamedTuple):
    """A text read as JSON. ``value``: the JSON, None where it failed. ``problem``: why it failed, empty otherwise."""

    value: Any
    problem: str = ""

    @property
    def failed(self) -> bool:
        """Whether the text is no JSON, or not of its schema."""
        return bool(self.problem)


class GrammarProcessor:
    """Lets each row of a batch say only what its grammar permits; a logits processor as transformers has them.

    For one generation at a time; a new one begins by itself where the token columns do not go on. Rows are followed
    through greedy decoding and sampling, not through beams that change places. Of the tokens that are there when it
    is first called none counts: they are the prompt.

    Args:
        grammars: one for all rows, or one a row, of :func:`json_grammar` or :func:`choice_grammar`; None leaves a row
            free.
        chat: whose tokens the logits are of.

    Raises:
        ConfigError: a grammar that the tokenizer cannot follow, or the extra ``json`` is missing.
    """

    def __init__(self, grammars: str | Sequence[str | None], chat: Chat) -> None:
        self._tokenizer = _ll_tokenizer(_tokenizer_json(chat), tuple(sorted(chat.end_ids)))
        self._end_ids = sorted(chat.end_ids)
        self._grammars = grammars
        for grammar in {grammars} if isinstance(grammars, str) else set(grammars) - {None}:
            _require_sound(str(grammar), self._tokenizer)
        self._matchers: list[LLMatcher | None] = []
        self._columns = -1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits ``[B, V]`` after the tokens ``input_ids [B, S]``, minus infinity where a token is not permitted.

        Raises:
            ModelError: a row was given a token that its grammar does not permit, or its grammar broke down, for example
                because it grew too large.
            ConfigError: another number of rows than grammars.
        """
        rows, columns = input_ids.shape
        if columns != self._columns + 1 or rows != len(self._matchers):
            self._begin(rows)
        else:
            self._follow(input_ids[:, -1].tolist())
        self._columns = columns
        return scores.masked_fill(~self._allowed(scores.shape[1]).to(scores.device), -torch.inf)

    def _begin(self, rows: int) -> None:
        from llguidance import LLMatcher

        grammars = [self._grammars] * rows if isinstance(self._grammars, str) else self._grammars
        if len(grammars) != rows:
            raise ConfigError(f"{len(grammars)} grammars for {rows} answers", "one each")
        self._matchers = [None if one is None else LLMatcher(self._tokenizer, one, log_level=0) for one in grammars]

    def _follow(self, tokens: Sequence[int]) -> None:
        for matcher, token in zip(self._matchers, tokens, strict=True):
            # A row that is done is filled up with padding.
            if matcher is None or (matcher.is_stopped() and not matcher.is_error()):
                continue
            if not matcher.consume_token(token):
                raise ModelError(f"a token that the answer's form does not permit ({matcher.get_error()})")

    def _allowed(self, width: int) -> Tensor:
        """bool ``[B, width]``; a row that is done may only end."""
        import llguidance.numpy as masks

        filled = masks.allocate_token_bitmask(len(self._matchers), self._tokenizer.vocab_size)
        for row, matcher in enumerate(self._matchers):
            if matcher is not None and not matcher.is_stopped():
                masks.fill_next_token_bitmask(matcher, filled, row)
            # An error stops a matcher too, which must not pass for an answer that is whole.
            if matcher is not None and matcher.is_error():
                raise ModelError(f"an answer that can no longer be held to its form ({matcher.get_error():.300})")
        bits = np.unpackbits(filled.view(np.uint8), axis=1, count=self._tokenizer.vocab_size, bitorder="little")
        allowed = np.zeros((len(bits), width), bool)
        shared = min(width, bits.shape[1])
        allowed[:, :shared] = bits[:, :shared]
        for row, matcher in enumerate(self._matchers):
            if matcher is None:
                allowed[row] = True
            elif matcher.is_stopped():
                allowed[row] = False
                allowed[row, self._end_ids] = True
        return torch.from_numpy(allowed)


def json_processor(schema: Mapping[str, Any], chat: Chat) -> GrammarProcessor:
    """What lets an answer be nothing but JSON of a schema; errors of :func:`json_grammar` and of the processor."""
    return GrammarProcessor(json_grammar(schema), chat)


def choice_processor(labels: Sequence[str], chat: Chat) -> GrammarProcessor:
    """What lets an answer be nothing but one of ``labels``; errors of :func:`choice_grammar` and of the processor."""
    return GrammarProcessor(choice_grammar(labels), chat)


def json_grammar(schema: Mapping[str, Any]) -> str:
    """Grammar of JSON by a schema; properties come in the schema's order.

    Raises:
        ConfigError: no JSON Schema, a larger one than :data:`MOST_SCHEMA_BYTES`, or one with references
            elsewhere; the extra ``json`` is missing.
    """
    check_schema(schema)
    return str(_llguidance().LLMatcher.grammar_from_json_schema(dict(schema), overrides=_SEPARATORS))


def choice_grammar(labels: Sequence[str]) -> str:
    """Grammar of one of ``labels``, letter by letter.

    Raises:
        ConfigError: no label, or an empty one; the extra ``json`` is missing.
    """
    if not labels or not all(isinstance(label, str) and label.strip() for label in labels):
        raise ConfigError(f"labels {list(labels)}", "one or more, none empty")
    # A JSON string is a string of Lark too.
    choices = " | ".join(json.dumps(label, ensure_ascii=False) for label in dict.fromkeys(labels))
    return str(_llguidance().LLMatcher.grammar_from_lark(f"start: {choices}"))


def validate(text: str, schema: Mapping[str, Any]) -> Parsed:
    """An answer read as JSON and held against a schema; nothing is repaired but white space around it.

    Raises:
        ConfigError: see :func:`check_schema`.
    """
    validator = check_schema(schema)
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        return Parsed(None, f"no JSON: {error}")
    wrong = next(iter(validator.iter_errors(value)), None)
    if wrong is not None:
        where = "".join(f"[{part!r}]" for part in wrong.absolute_path)
        return Parsed(None, f"not of the schema: {where}{': ' if where else ''}{wrong.message:.200}")
    return Parsed(value)


def check_schema(schema: Mapping[str, Any]) -> Any:
    """A jsonschema validator of a schema (draft 2020-12 where it names none) that fetches nothing.

    Raises:
        ConfigError: no JSON Schema, a larger one than :data:`MOST_SCHEMA_BYTES`, or one with references
            elsewhere; the extra ``json`` is missing.
    """
    if not isinstance(schema, Mapping):
        raise ConfigError(f"a schema of type {type(schema).__name__}", "a JSON object")
    try:
        text = json.dumps(schema, default=_no_json)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"a schema that is no JSON ({error})", "a JSON object") from None
    if len(text) > MOST_SCHEMA_BYTES:
        raise ConfigError(f"a schema of {len(text)} bytes", f"at most {MOST_SCHEMA_BYTES}")
    return _validator(text)


@lru_cache(maxsize=32)
def _validator(text: str) -> Any:
    try:
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import Draft202012Validator, validator_for
        from referencing import Registry
    except ImportError as error:
        raise _missing(error) from error
    plain = json.loads(text)
    for reference in _references(plain):
        if not reference.startswith("#"):
            raise ConfigError(f"a schema that refers to {reference!r:.100}", "references inside the schema (#/...)")
    kind = validator_for(plain, default=Draft202012Validator)
    try:
        kind.check_schema(plain)
    except SchemaError as error:
        raise ConfigError(f"a schema that is none ({error.message:.200})", "a JSON Schema") from None
    return kind(plain, registry=Registry())


def _references(plain: Any) -> list[str]:
    """What every ``$ref`` and ``$dynamicRef`` at any depth names."""
    found, waiting = [], [plain]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            found += [str(part[key]) for key in ("$ref", "$dynamicRef") if key in part]
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return found


def _no_json(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} is no JSON")


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _require_sound(grammar: str, tokenizer: "LLTokenizer") -> None:
    problem = _llguidance().LLMatcher.validate_grammar(grammar, tokenizer)
    if problem and not problem.startswith("WARNING"):
        raise ConfigError(f"a form that answers cannot be held to ({problem:.300})", "a simpler schema")


def _tokenizer_json(chat: Chat) -> str:
    """Content of the chat's ``tokenizer.json``."""
    return str(chat.get_config()["tokenizer"])


@lru_cache(maxsize=4)
def _ll_tokenizer(tokenizer_json: str, end_ids: tuple[int, ...]) -> "LLTokenizer":
    """llguidance's view of a tokenizer; about a second for a large one, hence kept."""
    found: LLTokenizer = _llguidance().LLTokenizer(tokenizer_json, eos_token=list(end_ids))
    return found


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise _missing(error) from error
    return llguidance


def _missing(error: ImportError) -> ConfigError:
    return ConfigError(f"answers as JSON need {error.name}", "the extra json", "pip install 'lwm[json]'")
