"""Clients that read or send nothing for ever, preparation that hangs, one row that fails, an engine that dies."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest
import torch

from lwm.errors import ModelError
from lwm.language.chat import Turn
from lwm.serve import chat as chat_module
from lwm.serve import command
from lwm.serve.body import Budget, Reservation
from lwm.serve.chat import ChatCompletions
from lwm.serve.engine import PICTURES, Engine, Job, Shown
from lwm.serve.options import ServeOptions
from lwm.serve.prepare import context_length, prepare
from lwm.serve.rows import Row, Sampling

HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def wait_for(what: Any, seconds: float = 10.0) -> bool:
    """Whether it became true in time."""
    until = time.monotonic() + seconds
    while not what() and time.monotonic() < until:
        time.sleep(0.01)
    return bool(what())


def connected(served: Any) -> socket.socket:
    """A connection without HTTP's manners."""
    host, port = served.url.removeprefix("http://").removesuffix("/v1").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_reads_nothing_loses_its_place(stream: bool, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way back is stuck for good, as a connection is whose buffers are full."""
    monkeypatch.setattr(chat_module, "LAST_WORD_SECONDS", 0.1)
    engine = Engine(model, ServeOptions(max_tokens=4, timeout=0.6), context_length(model))
    application = ChatCompletions(engine, engine.options, lambda request: None)
    body = {"model": "rfgpt", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    arriving = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    stuck = 0

    async def receive() -> Any:
        return arriving.pop() if arriving else await chat_module.asyncio.Event().wait()

    async def send(message: Any) -> None:
        nonlocal stuck
        stuck += 1
        await chat_module.asyncio.Event().wait()

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    begun = time.monotonic()
    chat_module.asyncio.run(application(scope, receive, send))
    assert time.monotonic() - begun < 5
    assert stuck == (2 if stream else 1)
    assert engine._admitted == 0
    assert application.budget.left == 8 * engine.options.max_body
    application.close()
    engine.close()


def test_bodies_that_trickle_hold_what_has_arrived_and_nobodys_place(serve: Any) -> None:
    with serve(batch=1, queue=1, max_body_mb=1) as served:
        clients = [connected(served) for _ in range(10)]
        for client in clients:
            client.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n".encode())
        assert wait_for(lambda: served.budget.left == (8 << 20) - 10)
        assert served.engine._admitted == 0
        assert served.ask().choices
        for client in clients:
            client.close()
        assert wait_for(lambda: served.budget.left == 8 << 20)


def test_more_bodies_than_there_is_room_for(serve: Any) -> None:
    with serve(max_body_mb=0.01) as served:
        limit = served.engine.options.max_body
        clients = [connected(served) for _ in range(8)]
        for client in clients:
            client.sendall(f"{HEAD}Content-Length: {limit}\r\n\r\n".encode() + b" " * (limit - 1))
        assert wait_for(lambda: served.budget.left == 8)
        with pytest.raises(openai.RateLimitError) as caught:
            served.ask()
        assert caught.value.response.headers["retry-after"] == "1"
        for client in clients:
            client.close()
        assert wait_for(lambda: served.budget.left == 8 * limit)
        assert served.ask().choices


def test_a_reservation_is_given_back_once() -> None:
    budget = Budget(10)
    first, second = Reservation(budget), Reservation(budget)
    assert first.add(4)
    assert second.add(6)
    assert not first.add(1)
    first.release()
    first.release()
    assert budget.left == 4


def test_preparation_that_is_given_up_on_adds_no_thread_and_keeps_its_bytes(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[str] = []
    go = threading.Event()

    def hanging(*given: Any) -> Any:
        running.append(threading.current_thread().name)
        go.wait(20)
        return prepare(*given)

    monkeypatch.setattr(chat_module, "prepare", hanging)
    with serve(timeout=0.5) as served:
        whole = 8 * served.engine.options.max_body
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(served.ask) for _ in range(6)]
            codes = {each.exception().status_code for each in asked}  # type: ignore[union-attr]
        assert codes == {504}
        assert served.engine._admitted == 0
        assert len(running) == chat_module.PREPARING
        # Those that never ran gave their bytes back, the two that still run did not.
        held = whole - served.budget.left
        assert 0 < held < 1000
        go.set()
        assert wait_for(lambda: served.budget.left == whole)
        assert len(running) == chat_module.PREPARING
        assert served.ask().choices


def test_pictures_are_encoded_a_few_at_a_time_and_only_for_who_still_waits(model: Any) -> None:
    engine = Engine(model, ServeOptions(), context_length(model))
    engine.close()
    sizes: list[int] = []
    blank = torch.zeros(1, 1, 32, 32)
    pictures = [[Shown(f"{n}-{m}", None, blank) for m in range(6)] for n in range(3)]
    jobs = [Job([Turn("user", "Which?", 6)], 9, each, Sampling(4)) for each in pictures]

    def encode(pictures: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pictures))
        jobs[1].cancel()
        return torch.zeros(len(pictures), 4, 8)

    engine._closing.clear()
    engine.model = SimpleNamespace(encode=encode, rf_tokens=4)  # type: ignore[assignment]
    alive, rf, captures = engine._encode(jobs)
    # The second job goes away after 8 of 18: 4 of its pictures are never looked at.
    assert sizes == [PICTURES, 6]
    assert [job is one for job, one in zip(alive, (jobs[0], jobs[2]), strict=True)] == [True, True]
    assert all(len(set(shown)) == 6 and max(shown) < len(rf) for shown in captures)


def test_a_row_that_fails_fails_alone(serve: Any, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Row.choose

    def fragile(self: Row, tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.sampling.top_p == 0.25 and tokens.shape[1] == 3:
            raise ModelError("its grammar broke")
        return real(self, tokens, scores)

    monkeypatch.setattr(Row, "choose", fragile)
    with serve(wait_ms=300) as served, ThreadPoolExecutor(3) as pool:
        alone = served.ask().choices[0].message.content
        before = served.engine.batches
        good = [pool.submit(served.ask) for _ in range(2)]
        broken = pool.submit(served.ask, top_p=0.25)
        assert [each.result().choices[0].message.content for each in good] == [alone] * 2
        with pytest.raises(openai.InternalServerError, match="the model failed"):
            broken.result()
        assert served.engine.batches - before <= 2


class Panic(BaseException):
    """What pyo3 raises where Rust panics: no Exception."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_whose_engine_died_ends(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = kit.tiny_model()

    def panic(*_: Any) -> None:
        raise Panic("it said: secret")

    model.llm.register_forward_pre_hook(panic)
    monkeypatch.setattr(command, "load_rfgpt", lambda folder: model)
    said: list[str] = []
    monkeypatch.setattr(command, "say", said.append)
    replies: list[int] = []

    def ask() -> None:
        if not wait_for(lambda: said):
            return
        url = said[0].split()[1] + "/chat/completions"
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        with suppress(httpx2.HTTPError):
            replies.append(httpx2.post(url, json=body, timeout=10).status_code)

    client = threading.Thread(target=ask)
    client.start()
    with pytest.raises(ModelError, match="thread died"):
        command.serve("m", port=0)
    client.join()
    assert replies == [500]


def test_a_temperature_that_is_hardly_any_leaves_no_score_that_is_none() -> None:
    scores = torch.tensor([[3e3, -3e3, 1.0]])
    row = Row(None, Sampling(4, 1e-3), None, None, None, None)  # type: ignore[arg-type]
    row._rng = SimpleNamespace(gumbel=lambda size: torch.zeros(size).numpy())  # type: ignore[assignment]
    assert bool(torch.isfinite(row.choose(torch.zeros(1, 0), scores)).all())
