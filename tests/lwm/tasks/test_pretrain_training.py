"""Training options that must not change the mathematics, and runs that begin from given weights."""

from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from lwm.errors import ModelError, RecipeMismatch
from lwm.export import export
from lwm.signal.recipe import recipe_named
from lwm.tasks.objectives import PretrainingModel
from lwm.tasks.options import Shape, Terms, Training
from lwm.tasks.pretrain import MaskedModeling

SAME: dict[str, Any] = {"atol": 1e-6, "rtol": 1e-5}
VIT_SHAPE = Shape(position="learned", cls_token=True)


def gradients(task: MaskedModeling) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in task.model.named_parameters() if p.grad is not None}


def one_backward(toy: Any, training: Training, **options: Any) -> tuple[dict[str, Tensor], int]:
    """Gradients of one step, and how often its first block ran."""
    data, calls = toy(), []
    torch.manual_seed(0)
    task = MaskedModeling(size="tiny", training=training, **options).build(data.recipe, *data.statistics)
    task.encoder.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    task.losses(data.batch(), task.terms.final, "train", 0)[0]["loss"].backward()
    return gradients(task), len(calls)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "replace"},
        {"target": "latent"},
        {"terms": Terms(1.0, 0.3, "supervised", ["technology"]), "shape": Shape(cls_token=True, decoder="cross")},
    ],
    ids=["replace", "latent", "joint"],
)
def test_checkpointing_changes_no_gradient(toy: Any, options: dict[str, Any]) -> None:
    expected, once = one_backward(toy, Training(), **options)
    found, twice = one_backward(toy, Training(checkpointing=True), **options)
    assert (once, twice) == (1, 2)
    torch.testing.assert_close(found, expected, **SAME)


def test_checkpointing_goes_with_bfloat16(toy: Any, quiet: dict[str, Any]) -> None:
    task = MaskedModeling(size="tiny", training=Training(checkpointing=True))
    trainer = pl.Trainer(max_steps=1, limit_val_batches=0, precision="bf16-mixed", **quiet)
    trainer.fit(task, datamodule=toy())
    assert trainer.global_step == 1
    assert {p.dtype for p in task.parameters()} == {torch.float32}


def test_compiled_model_has_the_same_gradients(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters

    # What torch.compile traces and differentiates, run without the C++ code that takes a minute to be made.
    monkeypatch.setattr(PretrainingModel, "compile", partialmethod(torch.nn.Module.compile, backend="aot_eager"))
    expected, _ = one_backward(toy, Training())
    counters.clear()
    found, _ = one_backward(toy, Training(compile=True))
    assert counters["stats"]["unique_graphs"] >= 1
    torch.testing.assert_close(found, expected, **SAME)


class Halves(MaskedModeling):
    """A batch of eight is masked as two of four are, one after the other."""

    def draw(self, batch: int, *path: int | str) -> Tensor:
        if batch == 4:
            return super().draw(4, *path)
        split, _, *rest = path
        return torch.cat([super(Halves, self).draw(4, split, number, *rest) for number in (0, 1)])


class Gradients(pl.Callback):
    """Gradients that each optimizer step is about to use."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.kept.append(gradients(pl_module))


@pytest.mark.parametrize("options", [{}, {"mode": "replace"}, {"target": "latent"}], ids=["drop", "replace", "latent"])
def test_two_accumulated_halves_are_one_batch(toy: Any, quiet: dict[str, Any], options: dict[str, Any]) -> None:
    found = []
    for size in (8, 4):
        data, seen = toy(), Gradients()
        # Without padding both halves have the same number of cells that count.
        items = [item | {"valid": torch.ones(64, dtype=torch.bool)} for item in data.items()]
        data.train_dataloader = lambda size=size, items=items: DataLoader(items, batch_size=size)
        pl.seed_everything(0, verbose=False)
        task = Halves(size="tiny", **options)
        more = {"max_epochs": 1, "limit_val_batches": 0, "accumulate_grad_batches": 8 // size}
        trainer = pl.Trainer(callbacks=[seen], **(quiet | more))
        trainer.fit(task, datamodule=data)
        assert (trainer.global_step, task.batches_seen) == (1, 8 // size)
        found += seen.kept
    whole, halves = found
    torch.testing.assert_close(halves, whole, **SAME)


def started(toy: Any, quiet: dict[str, Any], weights: Path, data: Any = None, **options: Any) -> MaskedModeling:
    """A task as it stands before its first step."""
    torch.manual_seed(5)
    task = MaskedModeling(size="tiny", training=Training(weights=str(weights), ema_decay=0.9), **options)
    pl.Trainer(max_steps=0, limit_val_batches=0, **quiet).fit(task, datamodule=data or toy())
    return task


def test_run_starts_from_a_model_folder(toy: Any, quiet: dict[str, Any], tmp_path: Path) -> None:
    first = MaskedModeling(size="tiny", name="lte")
    trainer = pl.Trainer(max_steps=1, limit_val_batches=0, **quiet)
    trainer.fit(first, datamodule=toy())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    folder = export(str(tmp_path / "run.ckpt"), str(tmp_path / "model"))
    task = started(toy, quiet, folder, target="latent")
    assert task.teacher is not None
    for encoder in (task.encoder, task.export_model(), task.teacher.encoder):
        torch.testing.assert_close(encoder.state_dict(), first.encoder.state_dict(), rtol=0, atol=0)
    with pytest.raises(ModelError, match=r"model with patch 16; expected patch 8"):
        started(toy, quiet, folder, shape=Shape(patch=8))
    with pytest.raises(RecipeMismatch, match=r"'small'.*'lwm'"):
        started(toy, quiet, folder, toy(recipe=recipe_named("lwm")))


def vit_file(path: Path, **options: Any) -> tuple[Path, Any]:
    torch.manual_seed(3)
    shape = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    vit = timm.models.VisionTransformer(**(shape | options)).eval()
    save_file(vit.state_dict(), path)
    return path, vit


@torch.no_grad()
def test_run_starts_from_a_timm_checkpoint(toy: Any, quiet: dict[str, Any], tmp_path: Path) -> None:
    path, vit = vit_file(tmp_path / "vit.safetensors")
    task, data = started(toy, quiet, path, shape=VIT_SHAPE), toy()
    x = data.batch()["spectrogram"]
    # Such a file brings no statistics: the data's stay, and a grey picture looks as three equal channels did.
    expected = vit.forward_features(((x - data.statistics.mean) / data.statistics.std).expand(-1, 3, -1, -1))
    for encoder in (task.encoder.eval(), task.export_model().eval()):
        torch.testing.assert_close(encoder.forward_features(x), expected, atol=1e-4, rtol=1e-4)
    wide, _ = vit_file(tmp_path / "wide.safetensors", embed_dim=64)
    with pytest.raises(ModelError, match=r"misshapen.*64.*instead of.*32"):
        started(toy, quiet, wide, shape=VIT_SHAPE)
