"""All frozen sweeps of one task, embedding included: 5 k x 5 episodes x (linear, nearest neighbours, residual CNN).

The peer is a bound: two minutes on two cores. ``--tiny`` is a check that it runs; its figures mean nothing.
"""

import argparse
import json
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch

from lwm.evaluation.contestants import Bench, Contest
from lwm.evaluation.episodes import EpisodeDraw, Samples
from lwm.evaluation.sweep import finished_runs
from lwm.evaluation.task import FewShotTask
from lwm.models.encoder import build_encoder
from lwm.seeding import rng_for
from lwm.signal.recipe import recipe_named

CLASSES, CHANNELS = 14, 10
BOUND_S = 120.0
MODELS = ("frozen", "knn", "head/residual_cnn")


def sweep(task: FewShotTask, size: str, each: int) -> tuple[Contest, EpisodeDraw]:
    """A contest on ``each`` pictures of every class and channel, drawn from noise with a level of its class."""
    recipe: Any = recipe_named("small")
    rng = rng_for(0, "benchmark", "fewshot")
    codes = np.tile(np.arange(CLASSES), CHANNELS * each)
    noise = rng.standard_normal((len(codes), 1, *recipe.size), dtype=np.float32)
    channels = np.repeat(np.arange(CHANNELS), CLASSES * each).astype(str)
    names = [str(code) for code in range(CLASSES)]
    samples = Samples(names, codes, channels, np.arange(len(codes)).astype(str))
    bench = Bench(
        pictures=torch.from_numpy(noise + codes[:, None, None, None].astype(np.float32) / 8),
        valid=torch.ones(len(codes), recipe.size[1], dtype=torch.bool),
        codes=codes,
        classes=names,
        columns=[codes.astype(str)],
        snr=None,
        place=np.arange(len(codes)),
        recipe=recipe,
        statistics=(0.0, 1.0),
    )
    return Contest(build_encoder(size, recipe, seed=0).eval(), bench, task, 0), EpisodeDraw(samples, task, 0)


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    shots, episodes, size, each = ((1, 2), 1, "tiny", 2) if args.tiny else ((5, 10, 20, 50, 100), 5, "small", 24)
    task = FewShotTask("sweep", labels=("kind",), k=shots, episodes=episodes, test_per_class=50, models=MODELS)
    seconds = []
    for _ in range(args.runs):
        contest, draw = sweep(task, size, each)
        wanted = [(model, episode) for episode in draw for model in task.models]
        with TemporaryDirectory() as place:
            start = perf_counter()
            found = list(finished_runs(contest, wanted, None, Path(place)))
            seconds.append(perf_counter() - start)
        assert len(found) == len(shots) * episodes * len(MODELS)
    ours = statistics.median(seconds)
    line = {"name": "fewshot_frozen_sweep", "unit": "s", "ours": ours, "peer": BOUND_S}
    print(json.dumps(line | {"peer_name": "two minutes", "ratio": BOUND_S / ours, "runs": args.runs}))


if __name__ == "__main__":
    main()
