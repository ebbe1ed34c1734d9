"""Speed and memory of masked pretraining on a CPU beside transformers' ViTMAEForPreTraining of the same dimensions.

One training step is forward, backward and AdamW on one resident batch. Both sides run in processes of their own, taking
turns step by step, with the same threads and memory allocator. One JSON object a line: samples a second, or MiB of peak
memory, medians; ratio > 1 means ours is better. ``[bf16]`` is bfloat16 with float32 weights, gradients and optimizer;
the peer is as it comes (float32), and once more under bfloat16 autocast.

    python benchmarks/pretrain.py [--runs 5] [--threads 2]
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

CASES = (("lwm", 32), ("s", 4))
PEER_NAME = "transformers ViTMAEForPreTraining"
OURS = {"ours float32": "float32", "ours bf16": "bfloat16", "ours bf16 cross": "bfloat16"}
PAIRS = (
    ("float32", "ours float32", "peer float32"),
    ("bf16", "ours bf16", "peer float32"),
    ("bf16, peer under autocast", "ours bf16", "peer autocast"),
    ("bf16, cross-attention decoder", "ours bf16 cross", "peer float32"),
)


def worker(pipe: Connection, side: str, size: str, batch: int, threads: int) -> None:
    """Answer each message with the seconds of one step; last with the peak memory in MiB."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    step = our_step(side, size, batch) if side in OURS else peer_step(side, size, batch)
    step()
    pipe.send("ready")
    while pipe.recv() == "step":
        start = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - start)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def our_step(side: str, size: str, batch: int) -> Any:
    """One step of :class:`MaskedAutoencoder` with a fresh mask, a part of the batch on each core."""
    from dataclasses import replace

    import torch

    from lwm.models.cores import Cores, cores_for
    from lwm.models.encoder import SpectrogramEncoder
    from lwm.models.mae import MaskedAutoencoder
    from lwm.models.masking import generator_for
    from lwm.models.sizes import size_named
    from lwm.signal.recipe import recipe_named

    shape = size_named(size)
    recipe = replace(recipe_named("lwm"), size=shape.picture)
    decoder = replace(shape.decoder, attention="cross") if side.endswith("cross") else shape.decoder
    model = MaskedAutoencoder(SpectrogramEncoder(shape.encoder, recipe), decoder)
    x = torch.randn(batch, 1, *shape.picture)
    generator, dtype = generator_for(0), getattr(torch, OURS[side])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    cores, parts = Cores(model), cores_for(batch)
    if batch % parts:
        raise ValueError(f"a batch of {batch} cannot be cut into {parts} equal parts")

    def step() -> None:
        mask = model.draw(batch, generator)
        found = cores(dtype, list(zip(x.chunk(parts), mask.chunk(parts), strict=True)))
        # Parts of like size hide alike: the mean of their losses is the batch's.
        torch.stack([part[0] for part in found if part[0] is not None]).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peer_step(side: str, size: str, batch: int) -> Any:
    """One step of the peer with its defaults."""
    import torch
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    from lwm.models.sizes import size_named

    shape = size_named(size)
    encoder, decoder = shape.encoder, shape.decoder
    config = ViTMAEConfig(
        hidden_size=encoder.width,
        num_hidden_layers=encoder.depth,
        num_attention_heads=encoder.heads,
        intermediate_size=int(encoder.width * encoder.mlp_ratio),
        image_size=shape.picture[0],
        patch_size=encoder.patch,
        num_channels=1,
        decoder_hidden_size=decoder.width,
        decoder_num_hidden_layers=decoder.depth,
        decoder_num_attention_heads=decoder.heads,
        decoder_intermediate_size=int(decoder.width * decoder.mlp_ratio),
        mask_ratio=0.75,
    )
    model = ViTMAEForPreTraining(config).train()
    x = torch.randn(batch, 1, *shape.picture)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=side == "peer autocast"):
            loss = model(x).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(
    size: str, batch: int, runs: int, threads: int, sides: list[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Samples a second and peak MiB of every side, one step of each in turn."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for side in sides:
        here, there = context.Pipe()
        process = context.Process(target=worker, args=(there, side, size, batch, threads), daemon=True)
        process.start()
        there.close()
        here.recv()
        pipes[side] = here
        processes.append(process)
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(runs):
        for side, pipe in pipes.items():
            pipe.send("step")
            taken[side].append(pipe.recv())
    memory = {}
    for side, pipe in pipes.items():
        pipe.send("end")
        memory[side] = pipe.recv()
    for process in processes:
        process.join()
    return {side: batch / statistics.median(seconds) for side, seconds in taken.items()}, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", nargs="+", default=[size for size, _ in CASES])
    parser.add_argument("--pairs", nargs="+", default=[pair[0] for pair in PAIRS], help="which comparisons")
    given = parser.parse_args()
    pairs = [pair for pair in PAIRS if pair[0] in given.pairs]
    sides = sorted({side for pair in pairs for side in pair[1:]})
    for size, batch in CASES:
        if size not in given.sizes:
            continue
        rate, memory = measure(size, batch, given.runs, given.threads, sides)
        for what, ours, peer in pairs:
            for unit, found in (("samples/s", rate), ("MiB peak", memory)):
                ratio = found[ours] / found[peer]
                line = {
                    "name": f"masked pretraining {size} batch {batch} [{what}]",
                    "unit": unit,
                    "ours": round(found[ours], 2),
                    "peer": round(found[peer], 2),
                    "peer_name": PEER_NAME + (", bf16 autocast" if peer == "peer autocast" else ""),
                    "ratio": round(ratio if unit == "samples/s" else 1 / ratio, 2),
                    "runs": given.runs,
                }
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
