"""Fully sharded training on two gloo processes against one process: loss, gradients, an AdamW step, a Lightning run."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from lwm.tasks.pretrain import MaskedModeling

RUNS = """
import os, sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from lwm.models.mae import MaskedConfig
from lwm.signal.recipe import recipe_named
from lwm.tasks.objectives import PretrainingModel, build_model, masked_loss
from lwm.tasks.options import Shape
from lwm.tasks.schedule import decay_groups
from lwm.tasks.sharding import shard, whole
from torch.distributed.tensor import DTensor


def one_step(mode, rank, world):
    torch.manual_seed(0)
    mae = build_model("tiny", "", Shape(registers=1), MaskedConfig(mode=mode), recipe_named("small"), -10.0, 9.0)
    model = PretrainingModel(mae, False, 16)
    x = 9 * torch.randn(8, 1, 64, 64) - 10
    # Half of the pictures, those of the first of two processes, are padded.
    valid = torch.arange(64) < torch.tensor([16] * 4 + [64] * 4)[:, None]
    mask = mae.draw(8, torch.Generator().manual_seed(3))
    part = slice(rank * 8 // world, (rank + 1) * 8 // world)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{os.getcwd()}/{mode}.lock", rank=rank, world_size=world)
        shard(model, init_device_mesh("cpu", (world,)))
        kept = sum(p.to_local().numel() for p in model.parameters())
        assert kept < 0.6 * sum(p.numel() for p in model.parameters())
        assert all(isinstance(p, DTensor) for p in model.parameters())
    groups = decay_groups([model], 0.05)
    optimizer = torch.optim.AdamW(groups, lr=1e-2, fused=True)
    step = model(x[part], mask[part])
    wanted, weight = mae.target_of(x[part]), mae.weight_of(mask[part], valid[part], (4, 4))
    # A mean over equal numbers of samples, so that it is the mean over processes.
    loss = masked_loss(step, wanted, weight) + step.embedding.square().mean()
    loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = {name: whole(p.grad) for name, p in trained.items()}
    optimizer.step()
    weights = {name: whole(p.detach()) for name, p in model.named_parameters()}
    pictures = mae.reconstruct(x[:2], mask[:2])
    features = mae.encoder(x[:2])
    loss = loss.detach()
    if world > 1:
        dist.all_reduce(loss)
        loss /= world
    if rank == 0:
        found = {"loss": loss, "gradients": gradients, "weights": weights, "pictures": pictures,
                 "features": features.detach(), "decayed": [len(group["params"]) for group in groups]}
        torch.save(found, f"{mode}-{world}.pt")
    if world > 1:
        dist.destroy_process_group()


children = []
for mode in ("drop", "replace"):
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        # Forked after the imports and before any computation, so that torch is loaded once.
        child = os.fork()
        if not child:
            one_step(mode, rank, world)
            os._exit(0)
        children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""

FIT = """
import os, sys
import pytorch_lightning as pl
import torch
from lwm.tasks.monitors import StepMonitor
from lwm.tasks.options import Terms, Training
from lwm.tasks.pretrain import MaskedModeling
from lwm.tasks.sharding import Sharded, is_sharded

sys.path.insert(0, sys.argv[1])
from conftest import ToyData

OPTIONS = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
           "enable_model_summary": False, "max_steps": 2, "log_every_n_steps": 1, "gradient_clip_val": 0.5}


def fit(rank, world, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "RANK": str(rank),
                   "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0",
                   "TORCHELASTIC_RUN_ID": "test"}
    pl.seed_everything(0, verbose=False)
    task = MaskedModeling(size="tiny", target="latent", training=Training(ema_decay=0.9, learning_rate=1e-3))
    trainer = pl.Trainer(strategy=Sharded(), devices=world, callbacks=[StepMonitor()], **OPTIONS)
    trainer.fit(task, datamodule=ToyData(16))
    assert is_sharded(task.model) and is_sharded(task.average.encoder) and is_sharded(task.teacher.encoder)
    assert float(trainer.callback_metrics["gradient_norm"]) > 0
    trainer.save_checkpoint("run.ckpt")


fit(int(sys.argv[2]), 2, int(sys.argv[3]))
# Threads of the process group would keep the process for a while.
os._exit(0)
"""


def test_lightning_run_in_shards_gives_a_whole_checkpoint(tmp_path: Path, free_port: Callable[[], int]) -> None:
    port = str(free_port())
    # Lightning has threads of its own by the time it is imported: not forked, but started twice.
    here = [sys.executable, "-c", FIT, str(Path(__file__).parent)]
    children = [subprocess.Popen([*here, str(rank), port], cwd=tmp_path) for rank in (0, 1)]
    try:
        assert [child.wait(timeout=90) for child in children] == [0, 0]
    finally:
        for child in children:
            child.kill()
    task = MaskedModeling.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=False)
    assert task.average is not None
    started, followed = (dict(model.named_parameters()) for model in (task.encoder, task.average.encoder))
    assert all(torch.isfinite(p).all() for p in started.values())
    # Two steps of 1e-3 on, the average with decay 0.9 is behind.
    moved = max((p - followed[name]).abs().max() for name, p in started.items())
    assert 1e-5 < moved < 4e-3


def test_two_shards_are_one_process(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", RUNS], check=True, cwd=tmp_path, timeout=100)
    for mode in ("drop", "replace"):
        one, two = (torch.load(tmp_path / f"{mode}-{world}.pt") for world in (1, 2))
        torch.testing.assert_close(two["loss"], one["loss"])
        assert one["decayed"] == two["decayed"]
        for kind in ("gradients", "weights"):
            assert one[kind].keys() == two[kind].keys()
        assert all(gradient.abs().max() > 0 for name, gradient in one["gradients"].items() if "bias" not in name)
        for name, gradient in one["gradients"].items():
            torch.testing.assert_close(two["gradients"][name], gradient, rtol=1e-4, atol=1e-5, msg=name)
        for kind in ("pictures", "features"):
            torch.testing.assert_close(two[kind], one[kind], rtol=1e-3, atol=1e-3)
        for name, weight in one["weights"].items():
            if name not in one["gradients"]:
                assert torch.equal(weight, two["weights"][name]), name
                continue
            # The first step of AdamW is one of the sign: where the gradient is rounding noise, it may go either way.
            clear = one["gradients"][name].abs() > 1e-4
            torch.testing.assert_close(two["weights"][name][clear], weight[clear], rtol=1e-4, atol=1e-4, msg=name)
