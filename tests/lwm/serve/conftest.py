"""A tiny RF-GPT with fresh weights, a server around it, and captures as requests carry them."""

import base64
import io
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import openai
import pytest
import torch

from lwm.language.llm import build_llm
from lwm.language.rfgpt import RFGPT
from lwm.language.tokenizer import ChatTokenizer
from lwm.models.encoder import EncoderConfig, SpectrogramEncoder
from lwm.seeding import rng_for
from lwm.serve.body import Budget
from lwm.serve.command import serving
from lwm.serve.engine import Engine
from lwm.serve.options import ServeOptions
from lwm.signal.recipe import recipe_named

RATE = 1e6


@dataclass
class Served:
    """A running server: its URL, an official client, its engine."""

    url: str
    client: openai.OpenAI
    engine: Engine
    budget: Budget

    def ask(self, content: Any = "Which technology is this?", **more: Any) -> Any:
        """One completion of one user message."""
        given = {"model": "rfgpt", "messages": [{"role": "user", "content": content}]} | more
        return self.client.chat.completions.create(**given)


def tiny_model(seed: int = 0) -> RFGPT:
    """Fresh weights; it answers nonsense, always the same."""
    recipe = replace(recipe_named("small"), name="tiny", size=(32, 32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = SpectrogramEncoder(EncoderConfig(patch=8, width=32, depth=2, heads=2), recipe, -3.0, 6.0)
        chat = ChatTokenizer.train(["Which technology is this?", "An LTE downlink."], 300)
        model = RFGPT(tower, build_llm("test", chat.vocab_size), chat, {}, tokens=(2, 2)).eval()
        model.adapter.fit(model.encode(torch.randn(8, 1, 32, 32) * 6 - 3))
    return model


def client_of(url: str) -> openai.OpenAI:
    """An official client that tries once."""
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=30)


@pytest.fixture
def serve() -> Callable[..., AbstractContextManager[Served]]:
    """A server of its own: ``with serve(model, batch=2, ...) as served``."""

    @contextmanager
    def start(model: RFGPT | None = None, **options: Any) -> Iterator[Served]:
        chosen = ServeOptions(**({"max_tokens": 16} | options))
        with serving(model or tiny_model(), chosen) as address, client_of(address.url) as client:
            yield Served(address.url, client, address.app.state.engine, address.app.state.budget)

    return start


@pytest.fixture(scope="session")
def model() -> RFGPT:
    """The model of ``served``."""
    return tiny_model()


@pytest.fixture(scope="session")
def served(model: RFGPT) -> Iterator[Served]:
    """One server for every test that needs nothing special."""
    options = ServeOptions(max_tokens=16, max_body_mb=2, wait_ms=30)
    with serving(model, options) as address, client_of(address.url) as client:
        yield Served(address.url, client, address.app.state.engine, address.app.state.budget)


def slow(model: RFGPT, seconds: float) -> list[float]:
    """Let every step of the language model take ``seconds``; the list grows by one a step."""
    steps: list[float] = []

    def wait(*_: Any) -> None:
        time.sleep(seconds)
        steps.append(time.monotonic())

    model.llm.register_forward_pre_hook(wait)
    return steps


def tone(seed: int = 0) -> np.ndarray:
    """16 ms of a tone in noise, complex64."""
    rng = rng_for(seed, "serve-test")
    n = np.arange(16_000)
    noise = rng.normal(0, 0.1, (2, n.size))
    return (0.5 * np.exp(2j * np.pi * rng.uniform(-0.4, 0.4) * n) + noise[0] + 1j * noise[1]).astype(np.complex64)


def data_url(data: bytes, kind: str = "application/octet-stream") -> str:
    """Bytes as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def npy(array: np.ndarray) -> bytes:
    """Content of a ``.npy``."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def iq_part(iq: np.ndarray, **more: Any) -> dict[str, Any]:
    """A file part of IQ at :data:`RATE`."""
    url = data_url(npy(iq), f"application/octet-stream;rate={RATE:g}")
    return {"type": "file", "file": {"filename": "capture.npy", "file_data": url} | more}


def text_part(text: str = "Which technology is this?") -> dict[str, Any]:
    """A part of text."""
    return {"type": "text", "text": text}


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The functions of this file that tests call."""
    parts = (tiny_model, slow, tone, data_url, npy, iq_part, text_part)
    return SimpleNamespace(**{each.__name__: each for each in parts}, RATE=RATE)
