"""``lwm serve`` under load: sixteen clients beside one at a time, time to the first token, memory over many requests.

The server runs in a process of its own, the clients are threads with the official client; every request carries IQ of
one of 32 captures. One JSON object a line, ratio > 1 means ours is better: answers a second of concurrent clients
beside the same requests one after the other; seconds to the first token of a stream beside those to the whole answer;
MiB of the server's memory after all requests beside those after a tenth of them.

    python benchmarks/serving.py [--requests 1000] [--clients 16] [--model FOLDER]
"""

import argparse
import base64
import io
import json
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

CAPTURES, RATE = 32, 7.68e6


def server(pipe: Connection, folder: str | None, threads: int, tokens: int) -> None:
    """Serve until told to end; says the address first."""
    import torch

    from lwm.serve.command import serving
    from lwm.serve.options import ServeOptions

    torch.set_num_threads(threads)
    with serving(fresh_model() if folder is None else stored_model(folder), ServeOptions(max_tokens=tokens)) as address:
        pipe.send(address.url)
        pipe.recv()


def fresh_model() -> Any:
    """RF-GPT of the size that the demo trains, with fresh weights."""
    import torch

    from lwm.language.llm import build_llm
    from lwm.language.rfgpt import RFGPT
    from lwm.language.tokenizer import ChatTokenizer
    from lwm.models.encoder import build_encoder
    from lwm.signal.recipe import recipe_named

    torch.manual_seed(0)
    chat = ChatTokenizer.train(["Which technology is this?"], 512)
    tower = build_encoder("tiny", recipe_named("small"), -3.0, 10.0, seed=0)
    return RFGPT(tower, build_llm("tiny", chat.vocab_size), chat, {})


def stored_model(folder: str) -> Any:
    """RF-GPT of a model folder."""
    from lwm.language.converse import load_rfgpt

    return load_rfgpt(folder)


def contents() -> list[list[dict[str, Any]]]:
    """A question about each of the captures: noise of 16 ms."""
    from lwm.seeding import rng_for

    found = []
    for number in range(CAPTURES):
        parts = rng_for(number, "serving").normal(0, 0.3, (2, round(RATE * 16e-3)))
        buffer = io.BytesIO()
        np.save(buffer, (parts[0] + 1j * parts[1]).astype(np.complex64))
        data = base64.b64encode(buffer.getvalue()).decode()
        url = f"data:application/octet-stream;rate={RATE:g};base64,{data}"
        file = {"type": "file", "file": {"filename": "capture.npy", "file_data": url}}
        found.append([{"type": "text", "text": "Which technology is this?"}, file])
    return found


class Client:
    """Asks the server; ``seconds`` a request."""

    def __init__(self, url: str) -> None:
        import openai

        self._client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        self._contents = contents()

    def _ask(self, number: int, **more: Any) -> Any:
        messages = [{"role": "user", "content": self._contents[number % CAPTURES]}]
        return self._client.chat.completions.create(model="rfgpt", messages=messages, **more)

    def many(self, requests: int, clients: int) -> float:
        """Answers a second."""
        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(self._ask, range(requests)))
        return requests / (time.perf_counter() - start)

    def stream(self, number: int) -> tuple[float, float]:
        """Seconds to the first token and to the end of one streamed answer."""
        start = time.perf_counter()
        first = 0.0
        for chunk in self._ask(number, stream=True):
            if not first and chunk.choices and chunk.choices[0].delta.content:
                first = time.perf_counter() - start
        return first, time.perf_counter() - start


def resident(process: int) -> float:
    """MiB that a process holds in memory (Linux)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def report(name: str, unit: str, ours: float, peer: float, peer_name: str, ratio: float, runs: int) -> None:
    line = {"name": name, "unit": unit, "ours": round(ours, 4), "peer": round(peer, 4), "peer_name": peer_name}
    print(json.dumps(line | {"ratio": round(ratio, 3), "runs": runs}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000, help="of the memory's course; a tenth for the others")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=24, help="of an answer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default=None, help="model folder; fresh weights without it")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=server, args=(there, given.model, given.threads, given.tokens), daemon=True)
    process.start()
    client = Client(here.recv())
    part = max(given.clients, given.requests // 10)
    client.many(part, given.clients)
    before = resident(process.pid or 0)
    alone, together = client.many(part, 1), client.many(part, given.clients)
    name = f"{given.clients} clients, {given.tokens} tokens"
    report(name, "answers/s", together, alone, "one at a time", together / alone, part)
    firsts, wholes = zip(*(client.stream(number) for number in range(min(part, 20))), strict=True)
    first, whole = statistics.median(firsts), statistics.median(wholes)
    report("first token of a stream", "s", first, whole, "the whole answer", whole / first, len(firsts))
    client.many(max(1, given.requests - 3 * part), given.clients)
    after = resident(process.pid or 0)
    report(f"memory over {given.requests} requests", "MiB", after, before, "after a tenth", before / after, 1)
    here.send("end")
    process.join()


if __name__ == "__main__":
    main()
