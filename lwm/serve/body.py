"""The body of a request: never more of it in memory than allowed, and JSON that cannot hurt the parser."""

import asyncio
import json
import re
from threading import Lock
from typing import Any

from starlette.requests import ClientDisconnect, Request

from lwm.serve.errors import RequestError, bad

DEEPEST, MOST_VALUES = 32, 20_000
"""Levels of nesting and number of values that a request's JSON may have; a conversation needs a few dozen."""

LINGER_BYTES, LINGER_SECONDS = 256 << 20, 2.0
"""How much of a refused body is thrown away, and for how long, so that the client reads the refusal: closing a
connection with unread data resets it, and the answer is lost on the way."""

# A string without its end counts to the end of the text; possessive, so the time is linear.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)', re.DOTALL)


# What may be half of a surrogate pair.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class Budget:
    """Bytes of bodies that are in memory at the same time; any thread may give some back.

    Args:
        limit: most bytes.
    """

    def __init__(self, limit: int) -> None:
        self.left = limit
        """Bytes that are free."""
        self._lock = Lock()

    def move(self, size: int) -> bool:
        """Take ``size`` bytes, or give them back where negative; whether there was room."""
        with self._lock:
            if size > self.left:
                return False
            self.left -= size
            return True


class Reservation:
    """What one body has of a budget: as much as has arrived, so that a client that sends slowly holds little.

    Args:
        budget: whose bytes.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget, self._size = budget, 0

    def add(self, size: int) -> bool:
        """Room for that many more bytes; False where there is none."""
        found = self._budget.move(size)
        self._size += size if found else 0
        return found

    def release(self) -> None:
        """Give everything back, once."""
        size, self._size = self._size, 0
        self._budget.move(-size)


async def read_body(request: Request, limit: int, seconds: float, held: Reservation) -> bytes:
    """The whole body, counted while it arrives.

    Args:
        request: not read yet.
        limit: most bytes.
        seconds: how long it may take.
        held: grows with what has arrived.

    Raises:
        RequestError: 413 above the limit, 429 too much of other bodies in memory, 408 too slow, 415 another type than
            JSON, 400 the client went away.
    """
    _require_json(request)
    stated = request.headers.get("content-length", "0")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            stream = request.stream()
            if stated.isdigit() and (len(stated) > 18 or int(stated) > limit):
                await _discard(stream)
                raise _too_large(limit)
            async for part in stream:
                size += len(part)
                if size > limit:
                    parts.clear()
                    await _discard(stream)
                    raise _too_large(limit)
                if not held.add(len(part)):
                    parts.clear()
                    await _discard(stream)
                    raise _too_many()
                parts.append(part)
    except TimeoutError:
        raise RequestError(
            408,
            f"a body that took more than {seconds:g} s",
            code="request_timeout",
            headers={"Connection": "close"},
        ) from None
    except ClientDisconnect:
        raise bad("the client went away while sending", code="client_closed_request") from None
    return b"".join(parts)


async def _discard(stream: Any) -> None:
    left = LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            async for part in stream:
                left -= len(part)
                if left < 0:
                    return
    except TimeoutError:
        return


def _too_large(limit: int) -> RequestError:
    return RequestError(
        413,
        f"a body of more than {limit} bytes",
        f"at most {limit}",
        "send the part of the capture that the model looks at",
        code="request_too_large",
        headers={"Connection": "close"},
    )


def _too_many() -> RequestError:
    headers = {"Retry-After": "1", "Connection": "close"}
    return RequestError(429, "too many large requests at once", code="queue_full", headers=headers)


def _require_json(request: Request) -> None:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(415, "a body of another content type", "application/json", code="unsupported_media_type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(415, "a compressed body", "an uncompressed one", code="unsupported_media_type")


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    What stands outside of strings is looked at before anything is parsed: neither deep nesting nor millions of tiny
    values reach the parser.

    Raises:
        RequestError: 400, no JSON object, nested deeper than :data:`DEEPEST`, of more than :data:`MOST_VALUES` values,
            or with half a surrogate pair, which is no text of any encoding.
    """
    bare = _STRING.sub(b"", body)
    if sum(bare.count(sign) for sign in (b",", b"[", b"{", b":")) > MOST_VALUES:
        raise bad("JSON of too many values", f"at most {MOST_VALUES}", code="invalid_json")
    depth = deepest = 0
    for sign in re.findall(rb"[\[\]{}]", bare):
        depth += 1 if sign in b"[{" else -1
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise bad(f"JSON nested {deepest} levels deep", f"at most {DEEPEST}", code="invalid_json")
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except ValueError as error:
        where = f" at byte {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise bad(f"a body that is no JSON{where}", "a JSON object in UTF-8", code="invalid_json") from None
    if not isinstance(found, dict):
        raise bad("JSON that is no object", "a JSON object", code="invalid_json")
    if _SURROGATE.search(body):
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise bad("text with half a surrogate pair", "Unicode text", code="invalid_json") from None
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
