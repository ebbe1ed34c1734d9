"""Speed of RF-GPT on a CPU: tuning beside a plain padded loop with the same model, answers together beside one by one.

Tuning: ours has batches of like length, RF tokens computed once, and logits of answer tokens only; the peer's batches
come in random order, padded to their longest, with all logits, and the tower runs in every step (also shown: with RF
tokens computed once there too). A step is forward, backward and AdamW. Answers are forced to their full length. Both
sides take turns in one process. One JSON object a line, medians; ratio > 1 means ours is better.

    python benchmarks/rfgpt.py [--runs 5] [--threads 2] [--llms tiny smollm2-135m] [--batch 32] [--tokens 24]
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

QUESTION = "Which technology is this?"
POOL = 8
"""Batches of conversations that a tuning measurement goes through."""


def line(name: str, unit: str, ours: float, peer: float, peer_name: str, ratio: float, runs: int) -> None:
    """Print one result."""
    found = {"name": name, "unit": unit, "ours": round(ours, 2), "peer": round(peer, 2)}
    print(json.dumps(found | {"peer_name": peer_name, "ratio": round(ratio, 2), "runs": runs}), flush=True)


def alternately(sides: dict[str, Callable[[], Any]], runs: int) -> dict[str, float]:
    """Median seconds of each side, one call of each in turn after one to warm up."""
    for side in sides.values():
        side()
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def records(count: int) -> list[dict[str, Any]]:
    """Samples whose facts differ, so that their questions and answers do."""
    technologies, links = ("lte", "nr", "wlan"), ("downlink", "uplink")
    return [
        {"technology": technologies[i % 3], "link": links[i % 2], "mobility": "static", "snr_db": float(i % 7 * 5 - 5)}
        | {"sample_rate": 7.68e6, "bandwidth": 5e6, "duration": 0.016, "valid_columns": 64, "facts": {}}
        for i in range(count)
    ]


def build(llm: str) -> Any:
    """RF-GPT around a fresh tower; a shape from scratch gets a tokenizer of the pairs' texts."""
    import torch

    from lwm.language.instructions import all_pairs
    from lwm.language.rfgpt import RFGPT
    from lwm.language.tokenizer import ChatTokenizer
    from lwm.models.encoder import build_encoder
    from lwm.signal.recipe import recipe_named

    torch.manual_seed(0)
    loaded = RFGPT.base_llm(llm)
    if loaded:
        chat: Any = loaded.chat
    else:
        pairs = [pair for i, record in enumerate(records(64)) for pair in all_pairs(record, 64, 0, i)]
        chat = ChatTokenizer.train([text for pair in pairs for text in (pair.question, pair.answer)])
    shape = {"llm": llm, "labels": {}, "tokens": [4, 4], "merge": "mean_spread", "layer": None, "adapter": "linear"}
    tower = build_encoder("small", recipe_named("small"), seed=0)
    return RFGPT.build(tower, shape | {"chat": chat.get_config()}, loaded.llm if loaded else None)


def tuning(llm: str, batch: int, runs: int) -> None:
    """Samples a second of a tuning step."""
    import torch
    from torch.nn.functional import cross_entropy

    from lwm.language.batches import Encoded, collate, planned
    from lwm.language.instructions import draw_pair
    from lwm.tasks.instruct_loss import answer_loss
    from lwm.tasks.schedule import decay_groups

    model = build(llm).train()
    count = batch * POOL
    listed = records(count)

    def encoded(row: int) -> Encoded:
        pair = draw_pair(listed[row], 64, 0, row, 0)
        return Encoded(row, *model.chat.pair(pair.question, pair.answer, model.rf_tokens))

    pictures = torch.randn(count, 1, *model.recipe.size) * 10 - 20
    rf = torch.cat([model.encode(part) for part in pictures.split(64)])
    alike = planned(count, batch, 0, 0, True, encoded)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    mixed = [[encoded(row) for row in order[first : first + batch]] for first in range(0, count, batch)]

    def made(pairs: list[Encoded]) -> tuple[list[int], dict[str, torch.Tensor]]:
        ids, labels = [pair.ids for pair in pairs], [pair.labels for pair in pairs]
        return [pair.row for pair in pairs], collate(ids, labels, model.chat.pad_id)

    optimizer = torch.optim.AdamW(decay_groups([model.adapter, model.llm], 0.05), lr=1e-5, fused=True)

    def step(loss: torch.Tensor) -> None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def ours() -> None:
        # A pass over all batches: they differ in length.
        for pairs in alike:
            rows, tokens = made(pairs)
            step(answer_loss(model, rf[rows], tokens).mean)

    def plain(cached: bool) -> None:
        for pairs in mixed:
            rows, tokens = made(pairs)
            seen = rf[rows] if cached else model.encode(pictures[rows])
            logits = model(seen, tokens["input_ids"], tokens["attention_mask"])
            step(cross_entropy(logits[:, :-1].flatten(0, 1), tokens["labels"][:, 1:].flatten()))

    found = alternately({"ours": ours, "plain": lambda: plain(False), "cached": lambda: plain(True)}, runs)
    for side, what in (("plain", "plain padded loop"), ("cached", "plain padded loop, RF tokens computed once")):
        rates = count / found["ours"], count / found[side]
        line(f"tuning step {llm} batch {batch}", "samples/s", *rates, what, rates[0] / rates[1], runs)


def answering(llm: str, tokens: int, runs: int) -> None:
    """Ten answers about one capture, eight captures at once, and the first token."""
    import torch

    model = build(llm).eval()
    pictures = torch.randn(8, 1, *model.recipe.size) * 10 - 20
    rf = model.encode(pictures)

    def never_ends(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(1, torch.tensor(sorted(model.chat.end_ids)), float("-inf"))

    def generate(seen: torch.Tensor, count: int, captures: list[list[int]] | None = None, most: int = tokens) -> None:
        model.generate(seen, [QUESTION] * count, most, captures=captures, logits_processors=[never_ends])

    sides: dict[str, Callable[[], Any]] = {
        "ten": lambda: generate(model.encode(pictures[:1]), 10, [[0]] * 10),
        "ten single": lambda: [generate(model.encode(pictures[:1]), 1) for _ in range(10)],
        "eight": lambda: generate(rf, 8),
        "eight single": lambda: [generate(rf[row : row + 1], 1) for row in range(8)],
    }
    found = alternately(sides, runs)
    for name, what in (("ten", "10 answers about one capture"), ("eight", "8 captures, encoded before")):
        seconds = found[name], found[f"{name} single"]
        count = {"ten": 10, "eight": 8}[name]
        label = f"{what}, {llm}, {tokens} tokens"
        line(label, "answers/s", count / seconds[0], count / seconds[1], "one by one", seconds[1] / seconds[0], runs)
    ids = torch.tensor([model.chat.prompt(QUESTION, model.rf_tokens)])
    turns = cycle(range(8))

    @torch.inference_mode()
    def bare() -> None:
        model.llm(inputs_embeds=model.embed(rf[:1], ids), logits_to_keep=1)

    def first_token() -> None:
        row = next(turns)
        generate(model.encode(pictures[row : row + 1]), 1, most=1)

    found = alternately({"ours": first_token, "bare": bare}, runs)
    milliseconds = found["ours"] * 1e3, found["bare"] * 1e3
    what = "language model's pass over the prompt alone"
    label = f"time to first token with encoding, {llm}, prompt of {ids.shape[1]}"
    line(label, "ms", *milliseconds, what, milliseconds[1] / milliseconds[0], runs)


def main() -> None:
    import torch

    from lwm.language.smollm import SMOLLM, cached_smollm

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llms", nargs="+", default=["tiny"] + ([SMOLLM] if cached_smollm() else []))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=24, help="of an answer")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for llm in given.llms:
        tuning(llm, given.batch, given.runs)
        answering(llm, given.tokens, given.runs)


if __name__ == "__main__":
    main()
