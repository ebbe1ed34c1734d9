"""``POST /v1/chat/completions``: one request from its first byte to its last."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from lwm.serve.body import Budget, parse_json, read_body
from lwm.serve.engine import Engine, Job, Piece
from lwm.serve.errors import RequestError
from lwm.serve.options import ServeOptions
from lwm.serve.prepare import prepare
from lwm.serve.replies import Reply, event
from lwm.serve.requests import ChatRequest, read_request

PREPARING = 2
"""Requests whose captures are decoded at the same time; the model's own thread is beside them."""

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class ClientGone(Exception):
    """The client closed the connection: there is nobody to answer."""


class ChatCompletions:
    """An ASGI application; RequestErrors before the first byte of the answer are its caller's to send.

    Args:
        engine: answers.
        options: limits.
        admit: refuses who has no key.
    """

    def __init__(self, engine: Engine, options: ServeOptions, admit: Callable[[Request], None]) -> None:
        self._engine, self._options, self._admit = engine, options, admit
        self._limiter = CapacityLimiter(PREPARING)
        self._budget = Budget(8 * options.max_body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        self._admit(request)
        with self._engine.admitted():
            answer = _Answer(self._engine, self._options, receive, send)
            try:
                async with asyncio.timeout(self._options.timeout):
                    await self._serve(request, answer)
            except TimeoutError:
                late = RequestError(504, f"no answer within {self._options.timeout:g} s", code="timeout")
                await answer.fail(late)
            except ClientGone:
                return
            finally:
                answer.close()

    async def _serve(self, request: Request, answer: "_Answer") -> None:
        deadline = time.monotonic() + self._options.timeout
        with self._budget.reserved(request, self._options.max_body):
            body = await read_body(request, self._options.max_body, self._options.timeout)
            answer.watch()
            asked, job = await to_thread.run_sync(
                partial(self._prepared, body), limiter=self._limiter, abandon_on_cancel=True
            )
            del body
        job.deadline = deadline
        await answer.send(asked, job)

    def _prepared(self, body: bytes) -> tuple[ChatRequest, Job]:
        asked = read_request(parse_json(body), self._options)
        return asked, prepare(asked, self._engine.model, self._engine.cache, self._options)


class _Answer:
    """The way back to one client."""

    def __init__(self, engine: Engine, options: ServeOptions, receive: Receive, send: Send) -> None:
        self._engine, self._options, self._receive, self._send = engine, options, receive, send
        self._pieces: asyncio.Queue[Piece | RequestError | ClientGone] = asyncio.Queue()
        self._watcher: asyncio.Task[None] | None = None
        self._job: Job | None = None
        self._started = False

    def watch(self) -> None:
        """Notice when the client goes away; after its whole body was read."""
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._job is not None:
            self._job.cancel()
        self._pieces.put_nowait(ClientGone())

    def close(self) -> None:
        """Nobody waits any more."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._job is not None:
            self._job.cancel()

    async def send(self, asked: ChatRequest, job: Job) -> None:
        """Let the engine answer and pass the answer on.

        Raises:
            RequestError: the engine's, before anything was sent.
            ClientGone: the client went away.
        """
        loop = asyncio.get_running_loop()

        def emit(piece: Piece | RequestError) -> None:
            # The loop is closed where the server stopped before the engine did.
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

        self._job, job.emit = job, emit
        self._engine.submit(job)
        reply = Reply(self._options.name, job.prompt_tokens, asked.top_logprobs is not None)
        if asked.stream:
            await self._stream(asked, reply)
        else:
            await self._whole(reply)

    async def _next(self) -> Piece:
        piece = await self._pieces.get()
        if isinstance(piece, Piece):
            return piece
        raise piece

    async def _whole(self, reply: Reply) -> None:
        texts, tokens = [], []
        while True:
            piece = await self._next()
            texts.append(piece.text)
            tokens += piece.tokens
            if piece.reason is not None:
                break
        content = reply.whole("".join(texts), tokens, piece)
        await self._send_json(200, content, {})

    async def _stream(self, asked: ChatRequest, reply: Reply) -> None:
        piece = await self._next()
        self._started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        await self._event(reply.first())
        try:
            while True:
                if piece.text or piece.tokens:
                    await self._event(reply.piece(piece.text, piece.tokens))
                if piece.reason is not None:
                    break
                piece = await self._next()
        except RequestError as error:
            await self.fail(error)
            return
        await self._event(reply.last(piece, asked.usage_in_stream), more=False)

    async def fail(self, error: RequestError) -> None:
        """Say what went wrong: as an answer, or as the last event of a stream that has begun."""
        if self._started:
            await self._event(event(error.body()), more=False)
        else:
            await self._send_json(error.status, error.body(), error.headers)

    async def _event(self, content: bytes, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": content, "more_body": more})

    async def _send_json(self, status: int, content: dict[str, Any], headers: dict[str, str]) -> None:
        self._started = True
        response = JSONResponse(content, status, headers)
        await self._send({"type": "http.response.start", "status": status, "headers": response.raw_headers})
        await self._send({"type": "http.response.body", "body": bytes(response.body)})
