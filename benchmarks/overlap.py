"""Does training wait for data, and do threads pay: rates of a whole `small` pretraining run on a CPU.

``end to end``: samples a second of Lightning's training loop on shards, beside the same loop on one resident batch; 0.9
is the bar. ``two processes``: two runs of one thread beside one run of two threads, in samples a second altogether.
The sides take turns, each run in a process of its own. One JSON object a line, medians; ratio > 1: ours is faster.

    python benchmarks/overlap.py [--runs 3] [--steps 60]
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

BATCH, SAMPLES, WARM = 32, 3000, 10


def rate(root: str, resident: bool, threads: int, steps: int, answer: Any) -> None:
    """Samples a second of a training loop, its first steps apart, to a queue."""
    import warnings

    import pytorch_lightning as pl
    import torch
    from torch.utils.data import DataLoader

    from lwm.cli import prepare_process
    from lwm.data.datamodule import ShardDataModule
    from lwm.tasks.base import best_precision
    from lwm.tasks.pretrain import MaskedModeling

    prepare_process()
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    data: Any = ShardDataModule(root, BATCH)
    marks: list[float] = []

    class Clock(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            marks.append(time.perf_counter())

    if resident:
        loaded = data.train_dataloader

        def same() -> Any:
            return DataLoader([next(iter(loaded()))] * steps, batch_size=None)  # a list would be loaders side by side

        data.train_dataloader = same
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_steps=steps,
        limit_val_batches=0,
        enable_model_summary=False,
        precision=best_precision(),
        accelerator="cpu",
        gradient_clip_val=1.0,
        callbacks=[Clock()],
        **quiet,
    )
    trainer.fit(MaskedModeling(size="small", target="clean", loss_on="all"), datamodule=data)
    answer.put(BATCH * (len(marks) - WARM - 1) / (marks[-1] - marks[WARM]))


def together(sides: list[tuple[str, bool, int, int]]) -> float:
    """Samples a second of runs at the same time, added up."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    processes = [context.Process(target=rate, args=(*side, answer)) for side in sides]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a run failed")
    return sum(answer.get() for _ in processes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lwm-overlap-") as folder:
        from lwm.data.generation import generate

        root = str(Path(folder) / "data")
        generate("generate/demo", root, samples=SAMPLES)
        sides: dict[str, list[tuple[str, bool, int, int]]] = {
            "shards": [(root, False, 1, given.steps)],
            "resident": [(root, True, 1, given.steps)],
            "two processes": [(root, False, 1, given.steps)] * 2,
            "two threads": [(root, False, 2, given.steps)],
        }
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(given.runs):
            for name, side in sides.items():
                taken[name].append(together(side))
    median = {name: statistics.median(values) for name, values in taken.items()}
    for name, ours, peer, said in (
        ("small end to end", "shards", "resident", "the same loop on a resident batch"),
        ("small two processes", "two processes", "two threads", "one process of two threads"),
    ):
        row = {"name": name, "unit": "samples/s", "ours": round(median[ours], 1), "peer": round(median[peer], 1)}
        ratio = round(median[ours] / median[peer], 3)
        print(json.dumps(row | {"peer_name": said, "ratio": ratio, "runs": given.runs}))


if __name__ == "__main__":
    main()
