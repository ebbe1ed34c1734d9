"""``lwm serve``, and the same server in a thread for whoever has a model in memory."""

import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch

from lwm.console import say
from lwm.errors import ConfigError, ModelError
from lwm.language.converse import load_rfgpt
from lwm.language.rfgpt import RFGPT
from lwm.serve.options import ServeOptions, read_keys

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    model: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    batch: int = 8,
    wait_ms: float = 10.0,
    max_body_mb: float = 32.0,
    max_tokens: int = 256,
    timeout: float = 60.0,
    queue: int = 64,
    api_key_file: str | None = None,
    name: str | None = None,
) -> None:
    """Serve RF-GPT through OpenAI's chat completions API until SIGINT or SIGTERM.

    Args:
        model: RF-GPT's model folder.
        host: address to listen on; other machines reach the server only on one that is not the default.
        port: TCP port; 0 takes a free one and says which.
        batch: most requests that are answered together.
        wait_ms: how long the first of a batch waits for others, ms.
        max_body_mb: largest body of a request, MiB.
        max_tokens: most tokens of an answer.
        timeout: s from a request's arrival to the end of its answer.
        queue: requests that may wait beside those being answered.
        api_key_file: file with one API key a line; without it everybody who reaches the port is let in.
        name: what requests call the model; the folder's name by default.

    Raises:
        ModelError: the folder holds no RF-GPT, or the model's thread died while it served: start the server again.
        ConfigError: an impossible limit, an address that cannot be listened on, or the extra ``serve`` is missing.
    """
    _require_extra()
    keys = () if api_key_file is None else read_keys(api_key_file)
    called = name or Path(model).resolve().name
    options = ServeOptions(called, batch, wait_ms, max_body_mb, max_tokens, timeout, queue, keys=keys)
    rfgpt = load_rfgpt(model).to("cuda" if torch.cuda.is_available() else "cpu")
    with _listening(host, port) as sock:
        server = _server(rfgpt, options)
        _log_to_stderr()
        shown = f"[{host}]" if ":" in host else host
        say(f"{called}: http://{shown}:{sock.getsockname()[1]}/v1 (stop with Ctrl-C)")
        if not keys and host not in _LOOPBACK:
            say("everybody who reaches this address may ask: add --api_key_file to let in only some")
        with _quiet_signals():
            server.run(sockets=[sock])
    if server.config.app.state.engine.died.is_set():
        raise ModelError("the model's thread died", "one that answers", "start the server again; the log says where")
    say("stopped")


class Address(NamedTuple):
    """A server that runs: its base URL for clients (ending in ``/v1``) and its ASGI application."""

    url: str
    app: Any


@contextmanager
def serving(model: RFGPT, options: ServeOptions | None = None, port: int = 0) -> Iterator[Address]:
    """A server in a thread of this process, on the loopback address, that ends with the block.

    Args:
        model: answers; nobody else may use it meanwhile.
        options: limits.
        port: TCP port; 0 takes a free one.

    Raises:
        ConfigError: the port is taken, or the extra ``serve`` is missing.
    """
    _require_extra()
    with _listening("127.0.0.1", port) as sock:
        server = _server(model, options or ServeOptions())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, name="lwm-serve", daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        try:
            yield Address(f"http://127.0.0.1:{sock.getsockname()[1]}/v1", server.config.app)
        finally:
            server.should_exit = True
            thread.join()


def _server(model: RFGPT, options: ServeOptions) -> Any:
    import uvicorn

    from lwm.serve.app import create_app

    app = create_app(model, options)
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # Answers under way may end; what is not done by then is cut off.
        timeout_graceful_shutdown=max(1, int(min(options.timeout, 30))),
    )
    server = uvicorn.Server(config)

    def end() -> None:
        server.should_exit = True

    # A server that can answer nothing any more ends, so that whoever looks after it starts another.
    app.state.engine.on_death = end
    return server


def _require_extra() -> None:
    try:
        for name in ("starlette", "uvicorn"):
            import_module(name)
    except ImportError as error:
        raise ConfigError(f"serving needs {error.name}", "the extra serve", "pip install 'lwm[serve]'") from error


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port}", "0 to 65535")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        raise ConfigError(
            f"{host}:{port} cannot be listened on ({error.strerror})", "a free port of this machine", "choose --port"
        ) from None
    with sock:
        yield sock


@contextmanager
def _quiet_signals() -> Iterator[None]:
    """Uvicorn ends gracefully on SIGINT and SIGTERM and then raises the signal again; that second one means nothing."""

    def ignored(number: int, frame: FrameType | None) -> None:
        pass

    before = {number: signal.signal(number, ignored) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    for name, level in (("lwm.serve", logging.INFO), ("uvicorn", logging.WARNING)):
        log = logging.getLogger(name)
        log.addHandler(handler)
        log.setLevel(level)
        log.propagate = False
