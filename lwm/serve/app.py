"""The server's routes, who is let in, errors as objects of OpenAI's API, and a log without content."""

import hmac
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lwm.language.rfgpt import RFGPT
from lwm.serve.chat import ChatCompletions
from lwm.serve.engine import Engine
from lwm.serve.errors import RequestError, error_body
from lwm.serve.options import ServeOptions
from lwm.serve.prepare import context_length

logger = logging.getLogger(__name__)


def create_app(model: RFGPT, options: ServeOptions) -> Starlette:
    """An ASGI application that owns the model; ``app.state.engine`` is its :class:`Engine`, ``app.state.budget`` the
    :class:`~lwm.serve.body.Budget` of the bodies in memory.

    The engine's thread starts here and ends with the application's lifespan.
    """
    engine = Engine(model, options, context_length(model))
    created = int(time.time())
    card = {"id": options.name, "object": "model", "created": created, "owned_by": "lwm"}

    def admit(request: Request) -> None:
        if options.keys and not _known(request.headers.get("authorization", ""), options.keys):
            headers = {"WWW-Authenticate": "Bearer"}
            raise RequestError(
                401, "no valid API key", "Authorization: Bearer KEY", code="invalid_api_key", headers=headers
            )

    async def models(request: Request) -> Response:
        admit(request)
        return JSONResponse({"object": "list", "data": [card]})

    async def one_model(request: Request) -> Response:
        admit(request)
        if request.path_params["name"] != options.name:
            raise RequestError(404, "no such model", f"{options.name!r}", param="model", code="model_not_found")
        return JSONResponse(card)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok" if engine.alive else "stopped"}, 200 if engine.alive else 503)

    chat = ChatCompletions(engine, options, admit)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        chat.close()
        engine.close()

    app = Starlette(
        routes=[
            Route("/healthz", health),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", one_model),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ],
        exception_handlers={RequestError: _refused, HTTPException: _unrouted, Exception: _failed},
        lifespan=lifespan,
    )
    app.state.engine, app.state.budget = engine, chat.budget
    app.add_middleware(RequestLog)
    return app


def _known(header: str, keys: tuple[str, ...]) -> bool:
    scheme, _, given = header.partition(" ")
    # Every key is compared, in a time that does not tell how much of it was right.
    found = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in keys]
    return scheme.lower() == "bearer" and any(found)


async def _refused(request: Request, error: Any) -> Response:
    return JSONResponse(error.body(), error.status, error.headers)


async def _unrouted(request: Request, error: Any) -> Response:
    return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse(error_body(500, "the server failed on this request", None, "internal_error"), 500)


class RequestLog:
    """One line a request: method, path of a known route, status, time; nothing of what was asked or answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on and note the status."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 499

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            known = scope["path"] if "endpoint" in scope else "(unknown path)"
            took = 1e3 * (time.monotonic() - begun)
            logger.info("%s %.60s %d %.0f ms", scope["method"], ascii(known)[1:-1], status, took)
