"""``POST /v1/chat/completions``: one request from its first byte to its last."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from lwm.serve.body import Budget, Reservation, parse_json, read_body
from lwm.serve.engine import Engine, Job, Piece
from lwm.serve.errors import RequestError
from lwm.serve.options import ServeOptions
from lwm.serve.prepare import prepare
from lwm.serve.replies import Reply, event
from lwm.serve.requests import ChatRequest, read_request

PREPARING = 2
"""Requests whose captures are decoded at the same time; the model's own thread is beside them."""

BODY_SECONDS = 10.0
"""Longest time for the body of a request, or half of the request's whole time where that is less (s)."""

LAST_WORD_SECONDS = 2.0
"""How long a client that has had its time may take to read that it is over (s)."""

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
        # One of its own: what is given up on goes on in its thread to its end, and must not add to the others.
        self._pool = ThreadPoolExecutor(PREPARING, "lwm-serve-prepare")
        self.budget = Budget(8 * options.max_body)
        """Of the bodies in memory."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        self._admit(request)
        answer = _Answer(self._engine, self._options, receive, send)
        try:
            async with asyncio.timeout(self._options.timeout):
                await self._serve(request, answer)
        except TimeoutError:
            late = RequestError(504, f"no answer within {self._options.timeout:g} s", code="timeout")
            # Whoever reads nothing at all is not waited for.
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORD_SECONDS):
                    await answer.fail(late)
        except ClientGone:
            return
        finally:
            answer.close()

    async def _serve(self, request: Request, answer: "_Answer") -> None:
        deadline = time.monotonic() + self._options.timeout
        held = Reservation(self.budget)
        with ExitStack() as stack:
            stack.callback(held.release)
            seconds = min(BODY_SECONDS, self._options.timeout / 2)
            body = await read_body(request, self._options.max_body, seconds, held)
            answer.watch()
            # A client has no place before its whole body is here: one that sends slowly takes nobody else's.
            with self._engine.admitted():
                future = self._pool.submit(self._prepared, body)
                del body
                # The thread holds the body now, also where nobody waits for it any more.
                stack.pop_all()
                future.add_done_callback(lambda _: held.release())
                asked, job = await asyncio.wrap_future(future)
                job.deadline = deadline
                await answer.send(asked, job)

    def close(self) -> None:
        """Prepare nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

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
        self._started = self._whole_begun = False

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
        reply = Reply(self._options.name, job.prompt_tokens, asked.top_logprobs is not None, asked.usage_in_stream)
        if asked.stream:
            await self._stream(reply)
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

    async def _stream(self, reply: Reply) -> None:
        piece = await self._next()
        await self._send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        self._started = True
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
        await self._event(reply.last(piece), more=False)

    async def fail(self, error: RequestError) -> None:
        """Say what went wrong: as an answer, or as the last event of a stream that has begun; nothing where a whole
        answer is on its way."""
        if self._whole_begun:
            return
        if self._started:
            await self._event(event(error.body()), more=False)
        else:
            await self._send_json(error.status, error.body(), error.headers)

    async def _event(self, content: bytes, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": content, "more_body": more})

    async def _send_json(self, status: int, content: dict[str, Any], headers: dict[str, str]) -> None:
        self._whole_begun = True
        response = JSONResponse(content, status, headers)
        await self._send({"type": "http.response.start", "status": status, "headers": response.raw_headers})
        await self._send({"type": "http.response.body", "body": bytes(response.body)})
