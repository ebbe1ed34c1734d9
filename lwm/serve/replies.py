"""Answers as OpenAI's API writes them: whole, or chunk by chunk as server-sent events.

One field is ours, ``lwm``: ``{"confidence": ...}``, how likely the answer is right, null where it was cut off,
is a paragraph or was held to a schema.
"""

import json
import time
from collections.abc import Sequence
from secrets import token_hex
from typing import Any

from lwm.serve.engine import Piece
from lwm.serve.rows import UNFINISHED, TokenLogProb


class Reply:
    """One completion, whole or in chunks; all chunks have its id and time.

    Args:
        model: its name.
        prompt_tokens: how long the conversation was.
        logprobs: whether log probabilities were asked for.
        usage: whether a stream ends with its usage; every other chunk then says that it has none.
    """

    def __init__(self, model: str, prompt_tokens: int, logprobs: bool, usage: bool = False) -> None:
        self._model, self._prompt_tokens, self._logprobs = model, prompt_tokens, logprobs
        self._usage_asked = usage
        self._id, self._created = f"chatcmpl-{token_hex(12)}", int(time.time())

    def whole(self, text: str, tokens: Sequence[TokenLogProb], end: Piece) -> dict[str, Any]:
        """A ``chat.completion``; ``end``: the last piece of the answer."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": self._described(tokens),
            "finish_reason": end.reason,
        }
        more = {"usage": self._usage(end.completion_tokens), "lwm": {"confidence": end.confidence}}
        return self._object("chat.completion", [choice]) | more

    def first(self) -> bytes:
        """The event that says who speaks."""
        return self._chunk({"role": "assistant", "content": ""}, None, ())

    def piece(self, text: str, tokens: Sequence[TokenLogProb]) -> bytes:
        """The event of some more text."""
        return self._chunk({"content": text}, None, tokens)

    def last(self, end: Piece) -> bytes:
        """The events of the end: why, the confidence, the usage where asked for, and ``[DONE]``."""
        events = self._chunk({}, end.reason, (), lwm={"confidence": end.confidence})
        if self._usage_asked:
            told = {"usage": self._usage(end.completion_tokens)}
            events += event(self._object("chat.completion.chunk", []) | told)
        return events + b"data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], reason: str | None, tokens: Sequence[TokenLogProb], **more: Any) -> bytes:
        described = self._described(tokens) if tokens else None
        choice = {"index": 0, "delta": delta, "logprobs": described, "finish_reason": reason}
        none = {"usage": None} if self._usage_asked else {}
        return event(self._object("chat.completion.chunk", [choice]) | none | more)

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": self._id, "object": kind, "created": self._created, "model": self._model}
        return head | {"choices": choices}

    def _usage(self, count: int) -> dict[str, int]:
        whole = self._prompt_tokens + count
        return {"prompt_tokens": self._prompt_tokens, "completion_tokens": count, "total_tokens": whole}

    def _described(self, tokens: Sequence[TokenLogProb]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        content = [
            _described(each.token, each.logprob) | {"top_logprobs": [_described(*one) for one in each.top]}
            for each in tokens
        ]
        return {"content": content, "refusal": None}


def event(content: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


def _described(token: str, logprob: float) -> dict[str, Any]:
    # A token that is a part of a character has no text of its own.
    parts = None if UNFINISHED in token else list(token.encode())
    return {"token": token, "logprob": logprob, "bytes": parts}
