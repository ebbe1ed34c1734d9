"""Instruction tuning: what the loss sees, what a checkpoint holds, what is refused."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from lwm.cli import main
from lwm.data.datamodule import ShardDataModule
from lwm.data.shard import write_dataset
from lwm.errors import ConfigError, ModelError, RecipeMismatch
from lwm.export import load_task
from lwm.hub import from_pretrained, save_pretrained
from lwm.language.datamodule import InstructionDataModule
from lwm.models.encoder import build_encoder
from lwm.signal.recipe import recipe_named
from lwm.tasks.instruct import InstructionTuning

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def write_data(folder: Path, recipe: str = "small") -> Path:
    """Twelve pictures of two technologies, in every split."""
    side = recipe_named(recipe).size[0]
    picture = np.random.Generator(np.random.PCG64(0)).normal(size=(24, 1, side, side))
    labels = {"technology": ["alpha", "beta"] * 12, "link": ["downlink"] * 24}
    split = ["train"] * 12 + ["validation"] * 6 + ["test"] * 6
    write_dataset(folder, picture, recipe_named(recipe), labels, split=split)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, tower, and a checkpoint of two epochs."""
    root = tmp_path_factory.mktemp("instruct")
    write_data(root / "data")
    save_pretrained(build_encoder("tiny", recipe_named("small"), seed=0), root / "tower")
    trainer = fit(root, 2)
    trainer.save_checkpoint(root / "last.ckpt")
    return root


def fit(root: Path, epochs: int, checkpoint: Path | None = None) -> pl.Trainer:
    """Train from scratch, or go on."""
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(max_epochs=epochs, default_root_dir=root, **QUIET)
    task = InstructionTuning(str(root / "tower"), llm="test", token_rows=2, token_columns=2)
    trainer.fit(task, datamodule=InstructionDataModule(str(root / "data"), batch_size=6), ckpt_path=checkpoint)
    return trainer


def test_the_loss_is_the_mean_over_answer_tokens_each_from_those_before(folder: Path) -> None:
    task = load_task(folder / "last.ckpt")
    tokenizer = task.model.chat
    texts = [("Which technology is this?", "alpha"), ("Describe the capture.", "a longer answer, in words")]
    total, count = 0.0, 0
    rf = torch.randn(2, 4, 64)
    rows = [tokenizer.pair(question, answer, 4) for question, answer in texts]
    with torch.no_grad():
        for row, (ids, _) in enumerate(rows):
            prompt = len(tokenizer.prompt(texts[row][0], 4))
            logits = task.model(rf[row : row + 1], torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))[0]
            for position in range(prompt, len(ids)):
                total -= float(logits[position - 1].log_softmax(0)[ids[position]])
                count += 1
        longest = max(len(ids) for ids, _ in rows)
        fill = [longest - len(ids) for ids, _ in rows]
        batch = {
            "rf": rf,
            "input_ids": torch.tensor([ids + [tokenizer.pad_id] * n for (ids, _), n in zip(rows, fill, strict=True)]),
            "labels": torch.tensor([labels + [-100] * n for (_, labels), n in zip(rows, fill, strict=True)]),
            "attention_mask": torch.tensor([[1] * len(i) + [0] * n for (i, _), n in zip(rows, fill, strict=True)]),
        }
        loss = float(task.answer_loss(batch).mean)
    assert loss == pytest.approx(total / count, rel=1e-5)
    assert count == sum(len(tokenizer.encode(answer)) + 1 for _, answer in texts)


def test_a_checkpoint_holds_what_was_trained_and_not_the_tower(folder: Path) -> None:
    kept = torch.load(folder / "last.ckpt", weights_only=True)
    assert kept["state_dict"]
    assert not [key for key in kept["state_dict"] if key.startswith("model.tower")]
    assert len(kept["lwm"]["base_sha256"]["tower"]) == 64


def test_a_fresh_process_loads_a_checkpoint_without_data_or_command_line(folder: Path, tmp_path: Path) -> None:
    data = folder / "data"
    hidden = tmp_path / "data"
    shutil.move(data, hidden)
    try:
        code = (
            "from lwm.tasks.instruct import InstructionTuning as T\n"
            "from lwm.hub import weights_sha256\n"
            f"task = T.load_from_checkpoint({str(folder / 'last.ckpt')!r}, weights_only=True)\n"
            "print(weights_sha256(task.export_model()))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    finally:
        shutil.move(hidden, data)
    from lwm.hub import weights_sha256

    assert done.stdout.split()[-1] == weights_sha256(load_task(folder / "last.ckpt").export_model())


def test_another_tower_is_refused(folder: Path, tmp_path: Path) -> None:
    other = save_pretrained(build_encoder("tiny", recipe_named("small"), seed=1), tmp_path / "other")
    with pytest.raises(ModelError, match=r"other.*SHA-256.*same tower"):
        InstructionTuning.load_from_checkpoint(folder / "last.ckpt", tower=str(other), weights_only=True)


def test_a_tower_that_changed_since_is_not_exported(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "tower", tmp_path / "tower")
    task = InstructionTuning.load_from_checkpoint(
        folder / "last.ckpt", tower=str(tmp_path / "tower"), weights_only=True
    )
    save_pretrained(build_encoder("tiny", recipe_named("small"), seed=1), tmp_path / "tower", overwrite=True)
    with pytest.raises(ModelError, match="changed since training"):
        task.export_model()


def test_data_of_another_recipe_are_refused(folder: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", "lwm")
    with pytest.raises(RecipeMismatch, match="tower"):
        pl.Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET).fit(
            InstructionTuning(str(folder / "tower"), llm="test"), datamodule=InstructionDataModule(str(data))
        )


def test_data_that_are_no_instructions_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="InstructionDataModule"):
        pl.Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET).fit(
            InstructionTuning(str(folder / "tower"), llm="test"), datamodule=ShardDataModule(str(folder / "data"))
        )


def test_the_shipped_config_trains_and_exports(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["fit", "--config", "rfgpt/demo", "--out", str(out), "--trainer.max_steps", "2"]
    words += ["--model.init_args.tower", str(folder / "tower"), "--data.init_args.data", str(folder / "data")]
    assert main([*words, "--model.init_args.llm", "test", "--data.init_args.batch_size", "6"]) == 0
    checkpoint = out / "checkpoints" / "last.ckpt"
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "model")]) == 0
    assert from_pretrained(tmp_path / "model").model_type == "rfgpt"
