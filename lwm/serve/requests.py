"""A request of chat completions, read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from lwm.language.chat import Role, Turn
from lwm.serve.errors import RequestError, bad
from lwm.serve.options import ServeOptions
from lwm.serve.uploads import Upload, file_upload, image_upload

MOST_TURNS, MOST_CAPTURES, MOST_STOPS = 128, 16, 4

COLDEST = 1e-3
"""Temperatures below it count as 0: dividing by them would overflow, and nothing else than the most probable token
would be drawn."""

_INERT = {"user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "store": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
}
"""Fields that say nothing with these values, and are refused with any other."""


@dataclass(frozen=True)
class ChatRequest:
    """What a client asks.

    ``turns``: the conversation. ``uploads``: its captures in order. ``max_tokens``: None where not stated. ``schema``:
    JSON schema of the answer, if any.
    ``top_logprobs``: alternatives beside each token's log probability, None without log probabilities.
    """

    turns: list[Turn]
    uploads: list[Upload]
    max_tokens: int | None
    temperature: float
    top_p: float
    stops: tuple[str, ...]
    seed: int | None
    schema: dict[str, Any] | None
    top_logprobs: int | None
    stream: bool
    usage_in_stream: bool


def read_request(plain: Mapping[str, Any], options: ServeOptions) -> ChatRequest:
    """Check a request field by field; a field that would change nothing but is not known is refused too.

    Raises:
        RequestError: naming the field; 404 where the model is another.
    """
    rest = dict(plain)
    model = rest.pop("model", None)
    if model != options.name:
        raise RequestError(404, "no such model", f"{options.name!r}", param="model", code="model_not_found")
    turns, uploads = _messages(rest.pop("messages", None))
    for name, values in _NEUTRAL.items():
        value = rest.pop(name, None)
        if value is not None and (value not in values or isinstance(value, bool) != isinstance(values[0], bool)):
            raise bad(f"{name} with another value", f"{values[0]!r}", param=name, code="unsupported_value")
    top = _whole(rest.pop("top_logprobs", None), "top_logprobs", 0, 20)
    wanted = _flag(rest.pop("logprobs", None), "logprobs")
    if top is not None and not wanted:
        raise bad("top_logprobs without logprobs", '"logprobs": true', param="top_logprobs")
    stream = _flag(rest.pop("stream", None), "stream")
    temperature = _number(rest.pop("temperature", None), "temperature", 0.0, 2.0)
    top_p = _number(rest.pop("top_p", None), "top_p", 0.0, 1.0)
    request = ChatRequest(
        turns,
        uploads,
        _max_tokens(rest, options.max_tokens),
        # OpenAI's default is 1; a measurement is better answered by what is most probable.
        temperature=0.0 if temperature is None or temperature < COLDEST else temperature,
        top_p=1.0 if top_p is None else top_p,
        stops=_stops(rest.pop("stop", None)),
        seed=_whole(rest.pop("seed", None), "seed", -(2**63), 2**63 - 1),
        schema=_schema(rest.pop("response_format", None)),
        top_logprobs=(top or 0) if wanted else None,
        stream=stream,
        usage_in_stream=_stream_options(rest.pop("stream_options", None), stream),
    )
    unknown = sorted(name for name, value in rest.items() if name not in _INERT and value is not None)
    if unknown:
        # A name from outside is shown in part only.
        raise bad(f"field {unknown[0][:40]!r} is not supported", param=unknown[0][:40], code="unsupported_parameter")
    return request


def _messages(given: Any) -> tuple[list[Turn], list[Upload]]:
    if not isinstance(given, list) or not given:
        raise bad("no messages", "a list of at least one message", param="messages")
    if len(given) > MOST_TURNS:
        raise bad(f"{len(given)} messages", f"at most {MOST_TURNS}", param="messages")
    turns: list[Turn] = []
    uploads: list[Upload] = []
    for number, message in enumerate(given):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise bad("a message that is no object", '{"role": ..., "content": ...}', param=where)
        role = "system" if message.get("role") == "developer" else message.get("role")
        if role not in get_args(Role):
            raise bad("a message of another role", "system, user or assistant", param=f"{where}.role")
        text, found = _content(message.get("content"), f"{where}.content")
        if found and role != "user":
            raise bad("a capture in a message that is not the user's", "text", param=f"{where}.content")
        turns.append(Turn(cast(Role, role), text, len(found)))
        uploads += found
    if turns[-1].role != "user":
        raise bad("a conversation that does not end with a question", "a last message of the user", param="messages")
    if len(uploads) > MOST_CAPTURES:
        raise bad(f"{len(uploads)} captures", f"at most {MOST_CAPTURES}", param="messages")
    return turns, uploads


def _content(content: Any, where: str) -> tuple[str, list[Upload]]:
    """Text and captures of a message; captures stand before the text, whatever their order in the parts."""
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list) or not content:
        raise bad("content that is neither text nor parts", "a string or a list of parts", param=where)
    texts: list[str] = []
    uploads: list[Upload] = []
    for number, part in enumerate(content):
        at = f"{where}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image_url":
            uploads.append(image_upload(part, at))
        elif kind == "file":
            uploads.append(file_upload(part, at))
        else:
            raise bad("a part of another type", "text, image_url or file", param=at)
    return "\n".join(texts), uploads


def _max_tokens(rest: dict[str, Any], most: int) -> int | None:
    newer, older = rest.pop("max_completion_tokens", None), rest.pop("max_tokens", None)
    name = "max_tokens" if newer is None else "max_completion_tokens"
    return _whole(older if newer is None else newer, name, 1, most)


def _stops(given: Any) -> tuple[str, ...]:
    stops = [given] if isinstance(given, str) else [] if given is None else given
    if not isinstance(stops, list) or not all(isinstance(each, str) and 0 < len(each) <= 256 for each in stops):
        raise bad("stop of another kind", "a text or a list of texts of 1 to 256 characters", param="stop")
    if len(stops) > MOST_STOPS:
        raise bad(f"{len(stops)} stop texts", f"at most {MOST_STOPS}", param="stop")
    return tuple(stops)


def _stream_options(given: Any, stream: bool) -> bool:
    if given is None:
        return False
    if not isinstance(given, dict) or not stream:
        raise bad("stream_options without a stream", '"stream": true', param="stream_options")
    if not set(given) <= {"include_usage", "include_obfuscation"}:
        raise bad("an unknown stream option", "include_usage", param="stream_options")
    return _flag(given.get("include_usage"), "stream_options.include_usage")


def _schema(given: Any) -> dict[str, Any] | None:
    """JSON schema of a ``response_format``."""
    if given is None:
        return None
    kind = given.get("type") if isinstance(given, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    inside = given.get("json_schema") if kind == "json_schema" else None
    schema = inside.get("schema") if isinstance(inside, dict) else None
    if not isinstance(schema, dict):
        raise bad(
            "response_format of another kind",
            '"text", "json_object", or "json_schema" with {"name": ..., "schema": {...}}',
            param="response_format",
        )
    return schema


def _flag(value: Any, name: str) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise bad(f"{name} that is no boolean", "true or false", param=name)


def _whole(value: Any, name: str, low: int, high: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise bad(f"{name} out of range", f"a whole number from {low} to {high}", param=name)
    return value


def _number(value: Any, name: str, low: float, high: float) -> float | None:
    if value is None:
        return None
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not low <= value <= high:
        raise bad(f"{name} out of range", f"a number from {low:g} to {high:g}", param=name)
    return float(value)
