"""Instruction tuning on two gloo processes, replicated and fully sharded, against one that takes the same batches."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lwm.data.shard import write_dataset
from lwm.hub import save_pretrained
from lwm.models.encoder import build_encoder
from lwm.signal.recipe import recipe_named

FIT = """
import os, sys
import pytorch_lightning as pl
from lwm.language.datamodule import InstructionDataModule
from lwm.tasks.instruct import InstructionTuning
from lwm.tasks.sharding import Sharded, is_sharded

kind, rank, port = sys.argv[1:]
world = 1 if kind == "one" else 2
if world == 2:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank,
                   "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
pl.seed_everything(0, verbose=False)
task = InstructionTuning("tower", llm="test", token_rows=2, token_columns=2)
strategy = {"one": "auto", "ddp": "ddp", "sharded": Sharded()}[kind]
trainer = pl.Trainer(
    strategy=strategy, devices=world, accumulate_grad_batches=2 // world, max_steps=3, gradient_clip_val=1.0,
    accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(task, datamodule=InstructionDataModule("data", batch_size=2))
assert is_sharded(task.model) == (kind == "sharded")
trainer.save_checkpoint(f"{kind}.ckpt")
# Threads of the process group would keep the process for a while.
os._exit(0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a tower, and the checkpoint of three steps of one process that takes two batches a step."""
    root = tmp_path_factory.mktemp("processes")
    picture = np.random.Generator(np.random.PCG64(0)).normal(size=(20, 1, 64, 64))
    split = ["train"] * 12 + ["validation"] * 4 + ["test"] * 4
    labels = {"technology": ["alpha", "beta"] * 10, "link": ["downlink"] * 20}
    write_dataset(root / "data", picture, recipe_named("small"), labels, split=split)
    save_pretrained(build_encoder("tiny", recipe_named("small"), seed=0), root / "tower")
    run(root, "one", 1, "")
    return root


def run(root: Path, kind: str, world: int, port: str) -> None:
    here = [sys.executable, "-c", FIT, kind]
    children = [subprocess.Popen([*here, str(rank), port], cwd=root) for rank in range(world)]
    try:
        assert [child.wait(timeout=90) for child in children] == [0] * world
    finally:
        for child in children:
            child.kill()


def weights(root: Path, kind: str) -> dict[str, Any]:
    return torch.load(root / f"{kind}.ckpt", weights_only=False)["state_dict"]


@pytest.mark.parametrize("kind", ["ddp", "sharded"])
def test_two_processes_are_one_with_twice_the_batches(folder: Path, kind: str, free_port: Callable[[], int]) -> None:
    run(folder, kind, 2, str(free_port()))
    one, two = weights(folder, "one"), weights(folder, kind)
    assert one.keys() == two.keys()
    assert all(name.startswith(("model.adapter.", "model.llm.")) for name in one)  # the frozen tower stays out of it
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-5, msg=name)
