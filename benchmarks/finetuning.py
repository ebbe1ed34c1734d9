"""Fine-tuning beside pretraining, in samples/s of one training step (forward, backward, AdamW) on a resident batch.

Fine-tuned are all blocks, or the first half of them, under a linear head, every patch seen. Peers, in turn with it in
one process: the pretraining step at ratio 0.75, whose encoder sees a quarter of the patches, and at the least ratio,
where it sees all but one as fine-tuning does. One JSON object a line, medians; ratio > 1: fine-tuning is faster.

    python benchmarks/finetuning.py [--size small] [--batch 32] [--runs 7] [--threads 2]
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

CLASSES = [str(number) for number in range(14)]


def sides(size: str, batch: int) -> dict[str, Callable[[], None]]:
    """A training step of each contender."""
    import torch

    from lwm.evaluation.regimes.tuned import FineTuned, new_head
    from lwm.evaluation.steps import mixed
    from lwm.models.cores import Cores, cores_for
    from lwm.models.encoder import SpectrogramEncoder
    from lwm.models.mae import MaskedAutoencoder, MaskedConfig
    from lwm.models.masking import generator_for
    from lwm.models.sizes import size_named
    from lwm.signal.recipe import recipe_named
    from lwm.tasks.base import best_precision

    torch.manual_seed(0)
    shape = size_named(size)
    recipe = replace(recipe_named("small"), size=shape.picture)
    x = torch.randn(batch, 1, *shape.picture)
    y = torch.arange(batch) % len(CLASSES)
    dtype = torch.bfloat16 if best_precision() == "bf16-mixed" else torch.float32

    def tuning(blocks: int) -> Callable[[], None]:
        encoder = SpectrogramEncoder(shape.encoder, recipe)
        network = FineTuned(encoder, new_head("linear", "classification", encoder, CLASSES), blocks - 1).train()

        def loss() -> Any:
            with mixed(x.device):
                output = network(x)
            return torch.nn.functional.cross_entropy(output.float(), y)

        return stepping(network, loss)

    def pretraining(ratio: float) -> Callable[[], None]:
        encoder = SpectrogramEncoder(shape.encoder, recipe)
        model = MaskedAutoencoder(encoder, shape.decoder, MaskedConfig(mask_ratio=ratio))
        generator, cores, parts = generator_for(0), Cores(model), cores_for(batch)

        def loss() -> Any:
            mask = model.draw(batch, generator)
            found = cores(dtype, list(zip(x.chunk(parts), mask.chunk(parts), strict=True)))
            return torch.stack([part[0] for part in found if part[0] is not None]).mean()

        return stepping(model, loss)

    depth, patches = shape.encoder.depth, (shape.picture[0] // shape.encoder.patch) ** 2
    return {
        "all blocks": tuning(depth),
        "half the blocks": tuning(depth // 2),
        "pretraining, ratio 0.75": pretraining(0.75),
        "pretraining, one patch hidden": pretraining(1 / patches),
    }


def stepping(model: Any, loss: Callable[[], Any]) -> Callable[[], None]:
    """A training step of a model."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def main() -> None:
    """Print one JSON line for each pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    steps = sides(args.size, args.batch)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for run in range(args.runs + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if run:  # the first warms up
                taken[name].append(time.perf_counter() - start)
    rates = {name: args.batch / statistics.median(seconds) for name, seconds in taken.items()}
    for ours in list(rates)[:2]:
        for peer in list(rates)[2:]:
            line = {"name": f"fine_tuning[{args.size}, {ours}]", "unit": "samples/s", "ours": rates[ours]}
            peers = {"peer": rates[peer], "peer_name": peer, "ratio": rates[ours] / rates[peer]}
            print(json.dumps(line | peers | {"runs": args.runs, "threads": args.threads}))


if __name__ == "__main__":
    main()
