"""What a mixture of experts costs beside one expert on the same mixed batch, and how fast it is there.

All experts are of one size and see one batch, shared out evenly by a router whose last layer is fitted to it. The one
expert and everything it is compared with take turns in one process. One JSON object a line: seconds, medians;
``peer`` is the one expert, or the bar where a name says so; ratio > 1 means ours is faster. Loading and importing run
in processes of their own.

    python benchmarks/moe.py [--runs 5] [--threads 2] [--size lwm] [--batch 256]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

EXPERTS = (3, 12)
LOAD_BAR = 2.0
"""Seconds in which a mixture of three experts is loaded, imports apart."""
IMPORT_BAR = 1.0
"""Seconds in which ``import lwm`` is done."""

LOADING = """
import sys, time
import lwm, lwm.hub, lwm.models.moe, safetensors.torch
start = time.perf_counter()
lwm.from_pretrained(sys.argv[1])
print(time.perf_counter() - start)
"""
IMPORTING = """
import time
start = time.perf_counter()
import lwm
print(time.perf_counter() - start)
"""


def mixed_batch(recipe: Any, batch: int, kinds: int) -> tuple[Any, Any]:
    """dB pictures ``[batch, 1, F, T]`` of so many kinds in random order, and the kind of each."""
    import torch

    generator = torch.Generator().manual_seed(0)
    kind = torch.arange(batch)[torch.randperm(batch, generator=generator)] % kinds
    pattern = torch.randn(kinds, 1, *recipe.size, generator=generator) * 8
    return pattern[kind] + torch.randn(batch, 1, *recipe.size, generator=generator), kind


def build_mixture(size: str, recipe: Any, count: int, x: Any, kind: Any) -> Any:
    """A mixture whose router sends each kind to an expert of its own."""
    import torch

    from lwm.models.encoder import build_encoder
    from lwm.models.moe import MoEEncoder
    from lwm.models.router import Router, RouterConfig

    names = tuple(f"expert{number}" for number in range(count))
    router = Router(RouterConfig(names), recipe, 0.0, 8.0)
    moe = MoEEncoder({name: build_encoder(size, recipe, 0.0, 8.0, name=name) for name in names}, router).eval()
    with torch.no_grad():
        features = torch.cat([router.features(part) for part in x.split(64)])
        design = torch.cat([features, torch.ones(len(features), 1)], 1)
        target = torch.nn.functional.one_hot(kind, count).float()
        fitted = torch.linalg.lstsq(design, target, driver="gelsd").solution
        router.head.weight.copy_(fitted[:-1].T)
        router.head.bias.copy_(fitted[-1])
        shares = moe.route(x).argmax(1).bincount(minlength=count)
    if shares.min() < 0.5 * len(x) / count:
        raise SystemExit(f"the batch is not mixed: shares {shares.tolist()}")
    return moe


def calls(size: str, batch: int) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; ``one expert`` is what all else is compared with."""
    from dataclasses import replace

    from lwm.models.router import Router, RouterConfig
    from lwm.models.sizes import size_named
    from lwm.signal.recipe import recipe_named

    shape = size_named(size)
    recipe = replace(recipe_named("lwm"), size=shape.picture)
    found: dict[str, Callable[[], Any]] = {}
    for count in EXPERTS:
        x, kind = mixed_batch(recipe, batch, count)
        moe = build_mixture(size, recipe, count, x, kind)
        if not found:
            alone = moe.experts[moe.expert_names[0]]
            found["one expert"] = partial(alone.forward_features, x)
            found["router, patches pooled first"] = partial(moe.router, x)
            encoder = shape.encoder
            on_grid = RouterConfig(
                moe.expert_names, grid=recipe.size[0] // encoder.patch, width=encoder.width, heads=encoder.heads
            )
            full = Router(on_grid, recipe).eval()
            found["router, 2 layers on the full grid"] = partial(full, x)
        found[f"top-1 of {count}"] = partial(run_in, moe, "top-1", x)
        if count == EXPERTS[0]:
            found[f"soft mixture of {count}"] = partial(run_in, moe, "soft", x)
    return found


def run_in(moe: Any, mode: str, x: Any) -> Any:
    """Tokens of a batch in a mode."""
    moe.set_mode(mode)
    return moe.forward_features(x)


def seconds_of(found: dict[str, Callable[[], Any]], runs: int) -> dict[str, float]:
    """Median seconds of each call, all taking turns after one warming round."""
    import torch

    taken: dict[str, list[float]] = {name: [] for name in found}
    with torch.inference_mode():
        for number in range(runs + 1):
            for name, call in found.items():
                start = time.perf_counter()
                call()
                if number:
                    taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def seconds_in_process(code: str, runs: int, *arguments: str) -> float:
    """Median of what a script prints, each time in a fresh process."""
    command = [sys.executable, "-c", code, *arguments]
    return statistics.median(
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(runs)
    )


def loading_seconds(size: str, runs: int) -> float:
    """Seconds of ``from_pretrained`` on a mixture of three experts, after imports, in a fresh process."""
    from dataclasses import replace

    from lwm.hub import save_pretrained
    from lwm.models.sizes import size_named
    from lwm.signal.recipe import recipe_named

    recipe = replace(recipe_named("lwm"), size=size_named(size).picture)
    x, kind = mixed_batch(recipe, 32, EXPERTS[0])
    with tempfile.TemporaryDirectory() as folder:
        saved = save_pretrained(build_mixture(size, recipe, EXPERTS[0], x, kind), Path(folder) / "moe")
        return seconds_in_process(LOADING, runs, str(saved))


def say(name: str, ours: float, peer: float, peer_name: str, runs: int) -> None:
    """One line."""
    line = {"name": name, "unit": "s", "ours": round(ours, 4), "peer": round(peer, 4), "peer_name": peer_name}
    print(json.dumps(line | {"ratio": round(peer / ours, 3), "runs": runs}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", default="lwm")
    parser.add_argument("--batch", type=int, default=256)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    seconds = seconds_of(calls(given.size, given.batch), given.runs)
    alone = seconds.pop("one expert")
    for name, taken in seconds.items():
        say(f"{name}, size {given.size}, batch {given.batch}", taken, alone, "one expert alone", given.runs)
    loading = loading_seconds(given.size, given.runs)
    say(f"from_pretrained of {EXPERTS[0]} experts, size {given.size}", loading, LOAD_BAR, "bar", given.runs)
    say("import lwm", seconds_in_process(IMPORTING, given.runs), IMPORT_BAR, "bar", given.runs)


if __name__ == "__main__":
    main()
