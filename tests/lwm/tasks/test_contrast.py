"""Supervised contrast against the formula in loops, and two processes against one."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lwm.tasks.contrast import supervised_contrast

RUNS = """
import os, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from lwm.models.mae import MaskedConfig
from lwm.models.masking import cell_weight
from lwm.signal.recipe import recipe_named
from lwm.tasks.contrast import supervised_contrast
from lwm.tasks.objectives import PretrainingModel, build_model, masked_loss
from lwm.tasks.options import Shape


def gradients(mode, rank, world):
    torch.manual_seed(0)
    mae = build_model("tiny", "", Shape(), MaskedConfig(mode=mode), recipe_named("small"), -10.0, 9.0)
    model = PretrainingModel(mae, False, 16)
    x = 9 * torch.randn(8, 1, 64, 64) - 10
    codes = torch.tensor([0, 1, 2, -1, 0, 1, 1, 3])
    # Half of the pictures, those of the first of two processes, are padded.
    valid = torch.arange(64) < torch.tensor([16] * 4 + [64] * 4)[:, None]
    mask = mae.draw(8, torch.Generator().manual_seed(3))
    part = slice(rank * 8 // world, (rank + 1) * 8 // world)
    call = model
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{os.getcwd()}/{mode}.lock", rank=rank, world_size=world)
        call = DistributedDataParallel(model)
    step = call(x[part], mask[part])
    wanted, weight = mae.target_of(x[part]), cell_weight(mask[part], valid[part], 16, 1, (4, 4))
    loss = masked_loss(step, wanted, weight) + 0.7 * supervised_contrast(step.embedding, codes[part], 0.2)
    loss.backward()
    if rank == 0:
        found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        torch.save(found, f"{mode}-{world}.pt")
    if world > 1:
        dist.destroy_process_group()


children = []
for mode in ("drop", "replace"):
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        # Forked after the imports and before any computation, so that torch is loaded once.
        child = os.fork()
        if not child:
            gradients(mode, rank, world)
            os._exit(0)
        children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def naive(embeddings: torch.Tensor, codes: list[int], temperature: float) -> float:
    z = (embeddings / embeddings.norm(dim=1, keepdim=True)).double().tolist()
    known = [i for i in range(len(codes)) if codes[i] >= 0]
    losses = []
    for i in known:
        like = {a: math.exp(sum(p * q for p, q in zip(z[i], z[a], strict=True)) / temperature) for a in known if a != i}
        positives = [a for a in like if codes[a] == codes[i]]
        if positives:
            losses.append(-sum(math.log(like[p] / sum(like.values())) for p in positives) / len(positives))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_supervised_contrast_is_the_formula(temperature: float) -> None:
    embeddings = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    codes = [0, 1, 0, -1, 2, 1, 0, 3, -1]
    found = supervised_contrast(embeddings, torch.tensor(codes), temperature)
    assert float(found) == pytest.approx(naive(embeddings, codes, temperature), rel=1e-5)


def test_gradient_is_finite_where_codes_are_unknown_or_alone() -> None:
    embeddings = torch.randn(6, 4, requires_grad=True)
    supervised_contrast(embeddings, torch.tensor([0, -1, 0, 1, -1, 2]), 0.2).backward()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()
    assert embeddings.grad[[0, 2, 3, 5]].abs().sum(1).min() > 0
    assert embeddings.grad[[1, 4]].abs().max() == 0
    nothing = torch.randn(3, 4, requires_grad=True)
    loss = supervised_contrast(nothing, torch.tensor([0, 1, 2]), 0.2)
    loss.backward()
    assert float(loss.detach()) == 0
    assert nothing.grad is not None
    assert nothing.grad.abs().max() == 0


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", RUNS], check=True, cwd=tmp_path, timeout=100)
    for mode in ("drop", "replace"):
        one, two = (torch.load(tmp_path / f"{mode}-{world}.pt") for world in (1, 2))
        assert one.keys() == two.keys()
        assert all(gradient.abs().max() > 0 for name, gradient in one.items() if "bias" not in name)
        for name, gradient in one.items():
            torch.testing.assert_close(two[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
