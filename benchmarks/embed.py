"""Speed of ``lwm embed`` beside its bare encoder: the same pictures, already in memory, through the same network.

One JSON object a line: samples a second, medians of interleaved runs; ratio > 1 means ours is faster. Ours is the
whole command: opening the model, reading float16 shards (or opening a recording, cutting windows, making pictures),
and writing the HDF5 file with labels and records. The bare encoder gets float32 batches and pools them. The last line
is memory: largest over a run against that over a run on an eighth of the samples.
"""

import argparse
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lwm.data.shard import write_dataset
from lwm.evaluation.embed import POOLING, embed
from lwm.hub import save_pretrained
from lwm.models.encoder import build_encoder
from lwm.models.pooling import pool
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe, recipe_named

RUNS = 3
BATCH = 64
RATE = 7.68e6
"""Hz of the recording."""


@torch.inference_mode()
def bare(encoder: Any, pictures: torch.Tensor) -> None:
    """Every picture through the encoder, batch by batch."""
    device = next(encoder.parameters()).device
    for batch in pictures.split(BATCH):
        tokens = encoder.forward_features(batch.to(device))
        pool(tokens[:, encoder.num_prefix_tokens :], encoder.grid_size, POOLING).cpu()


def make_data(root: Path, pictures: np.ndarray, recipe: Recipe) -> str:
    count = len(pictures)
    labels = {"technology": ["lte"] * count, "snr": [str(number % 7) for number in range(count)]}
    write_dataset(root, pictures, recipe, labels, split="test")
    return str(root)


def peak_kib(model: str, data: str, out: str) -> int:
    """Largest resident memory, in KiB, of a process that embeds."""
    code = f"from lwm.evaluation.embed import embed; embed({model!r}, {data!r}, {out!r}, overwrite=True)"
    report = "; import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    run = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return int(run.stdout.split()[-1])


def medians(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median wall time in s of each, taken in turns after one call to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(RUNS + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if run:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def say(name: str, unit: str, ours: float, peer: float, peer_name: str, lower: bool = False) -> None:
    ratio = peer / ours if lower else ours / peer
    figures = {"ours": round(ours, 1), "peer": round(peer, 1), "peer_name": peer_name, "ratio": round(ratio, 3)}
    sys.stdout.write(json.dumps({"name": name, "unit": unit, **figures, "runs": RUNS}) + "\n")


def main(count: int, size: str) -> None:
    torch.set_num_threads(1)
    recipe = recipe_named(size)
    encoder = build_encoder(size, recipe, -10.0, 8.0, seed=0).eval()
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    pictures = rng_for(0, "pictures").normal(-10, 8, (count, recipe.in_chans, *recipe.size)).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="lwm-embed-") as name:
        root = Path(name)
        model = str(save_pretrained(encoder, root / "model"))
        data = make_data(root / "data", pictures, recipe)
        few = make_data(root / "few", pictures[: max(1, count // 8)], recipe)
        recording, out = root / "long.cf32", str(root / "out.h5")
        noise = rng_for(0, "iq").standard_normal((count * recipe.window_samples(RATE), 2), dtype=np.float32)
        noise.tofile(recording)
        found = medians(
            {
                "shards": lambda: embed(model, data, out, BATCH, overwrite=True),
                "recording": lambda: embed(model, str(recording), out, BATCH, overwrite=True, sample_rate=RATE),
                "bare": lambda: bare(encoder, torch.from_numpy(pictures)),
            }
        )
        rates = {what: count / seconds for what, seconds in found.items()}
        say("embedding from shards", "samples/s", rates["shards"], rates["bare"], "bare encoder")
        say("embedding from a recording", "samples/s", rates["recording"], rates["bare"], "bare encoder")
        most, least = (peak_kib(model, given, out) / 1024 for given in (data, few))
        say("memory of embedding", "MiB", most, least, "an eighth of the samples", lower=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--size", choices=("small", "lwm"), default="lwm", help="of encoder and recipe")
    given = parser.parse_args()
    main(given.samples, given.size)
