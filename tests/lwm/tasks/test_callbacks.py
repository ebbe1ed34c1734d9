"""Pictures and the record of a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from lwm.tasks.callbacks import FigureCallback, RunRecord
from lwm.tasks.pictures import picture_grid
from lwm.tasks.pretrain import MaskedModeling


def trainer_in(folder: Path, quiet: dict[str, Any], **options: Any) -> pl.Trainer:
    logger = TensorBoardLogger(str(folder), name="", version="tensorboard")
    callbacks = [FigureCallback(), RunRecord()]
    return pl.Trainer(default_root_dir=str(folder), callbacks=callbacks, **(quiet | {"logger": logger} | options))


def test_pictures_reach_tensorboard_and_the_folder(toy: Any, quiet: dict[str, Any], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    task = MaskedModeling(size="tiny", target="clean")
    trainer_in(tmp_path, quiet, max_epochs=2, log_every_n_steps=1).fit(task, datamodule=toy())
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert len(events.Images("reconstruction")) == 2
    assert {"train_loss", "val_loss"} <= set(events.Tags()["scalars"])
    assert (tmp_path / "figures" / "reconstruction.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize("options", [{}, {"normalize_target": True}, {"loss_on": "all"}])
@torch.no_grad()
def test_reconstruction_keeps_what_was_visible(toy: Any, options: dict[str, Any]) -> None:
    data = toy()
    task = MaskedModeling(size="tiny", **options).build(data.recipe, *data.statistics)
    batch, mask = data.batch(), task.draw(8, "figure")
    shown, predicted = task.reconstruct(batch, mask)
    hidden = shown.isnan()
    assert hidden.float().mean().item() == pytest.approx(0.75)
    torch.testing.assert_close(shown[~hidden], batch["spectrogram"][~hidden])
    seen = ~hidden & batch["valid"][:, None, None, :]
    kept = torch.allclose(predicted[seen], batch["spectrogram"][seen], atol=1e-4)
    assert kept == (options.get("loss_on") != "all")
    asked = hidden & batch["valid"][:, None, None, :]
    assert not torch.allclose(predicted[asked], batch["spectrogram"][asked], atol=1.0)
    padding = ~batch["valid"][:, None, None, :].expand_as(hidden)
    assert torch.equal(predicted[padding], batch["spectrogram"][padding])


def test_run_record_survives_an_interruption(toy: Any, quiet: dict[str, Any], tmp_path: Path) -> None:
    first = trainer_in(tmp_path, quiet, max_epochs=1)
    first.fit(MaskedModeling(size="tiny"), datamodule=toy())
    before = json.loads((tmp_path / "run.json").read_text())
    first.save_checkpoint(tmp_path / "run.ckpt")
    again = trainer_in(tmp_path, quiet, max_epochs=3)
    again.fit(MaskedModeling(size="tiny"), datamodule=toy(), ckpt_path=tmp_path / "run.ckpt", weights_only=True)
    after = json.loads((tmp_path / "run.json").read_text())
    assert (before["steps"], after["steps"], after["samples"]) == (2, 6, 24)
    assert after["first_loss"] == before["first_loss"]
    assert after["seconds"] > before["seconds"]
    assert after["last_loss"] != before["last_loss"]
    assert after["task"] == "pretrain"
    assert after["command"]


def test_resumed_run_is_the_uninterrupted_one(toy: Any, quiet: dict[str, Any], tmp_path: Path) -> None:
    def fresh() -> MaskedModeling:
        pl.seed_everything(0, verbose=False)
        return MaskedModeling(size="tiny")

    class Interrupt(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    whole, resumed = fresh(), fresh()
    pl.Trainer(max_epochs=2, callbacks=[Interrupt()], **quiet).fit(whole, datamodule=toy())
    trainer = pl.Trainer(max_epochs=2, **quiet)
    trainer.fit(resumed, datamodule=toy(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert trainer.global_step == 4
    torch.testing.assert_close(resumed.encoder.state_dict(), whole.encoder.state_dict())


def test_grid_puts_low_frequencies_at_the_bottom() -> None:
    values = torch.zeros(1, 4, 4)
    values[0, 0] = 1.0
    values[0, 3, 0] = torch.nan
    picture = picture_grid({"only": values}, 0.0, 1.0, scale=1)
    assert picture.shape == (8, 8, 3)
    bright = picture.astype(int).sum(-1)[2:-2, 2:-2]
    assert np.argmax(bright[:, 1]) == 3
    assert (picture[2, 2] == 40).all()
