"""Clients that go away, requests that take too long or are too many, a model that fails, a server that is stopped."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch

from lwm.errors import ConfigError
from lwm.hub import save_pretrained
from lwm.serve import command
from lwm.serve.cache import Encoded, TokenCache
from lwm.serve.rows import _held_back

HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def wait_for(what: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether it became true in time."""
    until = time.monotonic() + seconds
    while not what() and time.monotonic() < until:
        time.sleep(0.01)
    return what()


def test_a_client_that_goes_away_stops_its_generation(serve: Any, kit: Any) -> None:
    model = kit.tiny_model()
    with serve(model, max_tokens=400) as served:
        steps = kit.slow(model, 0.02)
        stream = served.ask(stream=True)
        next(iter(stream))
        stream.close()
        assert wait_for(lambda: served.engine._admitted == 0)
        body = json.dumps({"model": "rfgpt", "messages": [{"role": "user", "content": "hi"}]})
        host, port = served.url.removeprefix("http://").removesuffix("/v1").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            assert wait_for(lambda: served.engine._admitted == 1)
            done = len(steps)
            assert wait_for(lambda: len(steps) > done)
        assert wait_for(lambda: served.engine._admitted == 0)
        time.sleep(0.1)
        done = len(steps)
        time.sleep(0.2)
        assert len(steps) == done < 200


def test_a_client_that_stops_in_the_middle_of_its_body(served: Any) -> None:
    host, port = served.url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"{HEAD}Content-Length: 999\r\n\r\n{{".encode())
        assert wait_for(lambda: served.budget.left == 8 * served.engine.options.max_body - 1)
        # Who has not sent everything has no place yet.
        assert served.engine._admitted == 0
    assert wait_for(lambda: served.budget.left == 8 * served.engine.options.max_body)
    assert served.ask().choices


def test_too_slow(serve: Any, kit: Any) -> None:
    model = kit.tiny_model()
    with serve(model, max_tokens=400, timeout=0.5) as served:
        kit.slow(model, 0.05)
        with pytest.raises(openai.InternalServerError) as caught:
            served.ask()
        assert caught.value.status_code == 504
        assert caught.value.code == "timeout"
        with pytest.raises(openai.APIError, match="no answer within"):
            list(served.ask(stream=True))
        host, port = served.url.removeprefix("http://").removesuffix("/v1").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.sendall(f"{HEAD}Content-Length: 9\r\n\r\n{{".encode())
            assert client.recv(4096).split(b"\r\n")[0].split()[1] == b"408"
        assert wait_for(lambda: served.engine._admitted == 0)


def test_too_many(serve: Any, kit: Any) -> None:
    model = kit.tiny_model()
    with serve(model, batch=1, queue=2, max_tokens=20) as served:
        kit.slow(model, 0.02)

        def status(_: int) -> tuple[int, str | None]:
            try:
                served.ask()
            except openai.RateLimitError as error:
                return 429, error.response.headers.get("retry-after")
            return 200, None

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(status, range(8)))
        assert set(found) == {(200, None), (429, "1")}
        assert found.count((200, None)) >= 3
        assert wait_for(lambda: served.engine._admitted == 0)
        assert status(0) == (200, None)


def test_one_request_that_breaks_the_model_breaks_no_other(
    serve: Any, kit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = kit.tiny_model()
    real = model.chat.prompt

    def fragile(turns: Any, rf_tokens: int) -> list[int]:
        # Where the conversation is prepared, it is fine; only the engine's thread stumbles.
        if "poison" in turns[0].text and threading.current_thread().name == "lwm-serve-engine":
            raise RuntimeError("it said: poison")
        return real(turns, rf_tokens)

    model.chat.prompt = fragile
    with serve(model, wait_ms=300) as served, caplog.at_level(logging.INFO), ThreadPoolExecutor(3) as pool:
        good = [pool.submit(served.ask, f"number {n}") for n in range(2)]
        poisoned = pool.submit(served.ask, "poison")
        assert all(each.result().choices[0].message.content for each in good)
        with pytest.raises(openai.InternalServerError, match="the model failed"):
            poisoned.result()
        assert served.ask().choices
    said = [record.getMessage() for record in caplog.records if record.name.startswith("lwm.serve")]
    assert any("RuntimeError" in line for line in said)
    assert not any("poison" in line or "number" in line for line in said)
    assert sum(bool(re.fullmatch(r"POST /v1/chat/completions \d+ \d+ ms", line)) for line in said) == 4


def test_a_server_that_is_closed_gives_up_what_it_generates(serve: Any, kit: Any) -> None:
    model = kit.tiny_model()
    with serve(model, max_tokens=400, timeout=1) as served:
        kit.slow(model, 0.05)
        stream = iter(served.ask(stream=True))
        next(stream)
        served.engine.close()
        assert not served.engine.alive
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        with pytest.raises(openai.InternalServerError) as caught:
            served.ask()
        assert caught.value.status_code == 503
        assert httpx2.get(served.url.replace("/v1", "/healthz")).status_code == 503


def test_the_command_serves_a_folder_until_it_is_told_to_stop(kit: Any, tmp_path: Path) -> None:
    folder = save_pretrained(kit.tiny_model(), tmp_path / "my-model")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "lwm.cli", "serve", "--model", str(folder), "--port", "0", "--max-tokens", "4"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        found = re.search(r"my-model: (http://127.0.0.1:\d+/v1)", run.stdout.readline())
        assert found is not None, run.stderr.read() if run.stderr and run.poll() is not None else "no address"
        with openai.OpenAI(base_url=found[1], api_key="none", max_retries=5) as client:
            reply = client.chat.completions.create(model="my-model", messages=[{"role": "user", "content": "secret"}])
        assert reply.usage is not None
        run.send_signal(signal.SIGTERM)
        said, errors = run.communicate(timeout=30)
    assert run.returncode == 0, errors
    assert said.strip() == "stopped"
    assert "POST /v1/chat/completions 200" in errors
    assert "secret" not in errors
    assert "Traceback" not in errors


def test_a_port_that_is_taken_and_a_missing_extra(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port, said in ((taken.getsockname()[1], "cannot be listened on"), (99999, "port 99999")):
            with pytest.raises(ConfigError, match=said), command.serving(model, port=port):
                pass
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigError, match=r"lwm\[serve\]"):
        command.serve("nowhere")


def test_the_cache_is_bounded_and_lets_the_oldest_go() -> None:
    rf = torch.zeros(10, 10)
    cache = TokenCache(3 * rf.nbytes)
    for name in "abc":
        cache.put(name, Encoded(rf, None))
    assert cache.get("a") is not None
    cache.put("d", Encoded(torch.zeros(40, 10, 10)[0], 1e6))
    assert [cache.get(name) is not None for name in "abcd"] == [True, False, True, True]
    assert cache.size == 3 * rf.nbytes
    kept = cache.get("d")
    assert kept is not None
    assert kept.rf.untyped_storage().nbytes() == rf.nbytes
    cache.put("e", Encoded(torch.zeros(1000, 10), None))
    assert len(cache) == cache.size == 0


def test_nothing_is_handed_on_that_may_be_taken_back() -> None:
    """Beside a search over every way that a text can go on."""
    stops = ("aba", "bb")
    for text in ("", "a", "ab", "cab", "b", "xa", "ccc", "ba", "bab\ufffd", "\ufffd\ufffd"):
        whole = text.rstrip("\ufffd")
        starts = [n for n in range(len(whole)) for stop in stops if stop != whole[n:] and stop.startswith(whole[n:])]
        assert len(text) - _held_back(text, stops) == min(starts, default=len(whole))
    assert all(_held_back(a, ()) <= _held_back(b, ()) for a, b in pairwise(["x", "x\ufffd", "x\ufffd\ufffd"]))
