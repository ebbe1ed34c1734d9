"""Callbacks of every task: pictures while training, a record of the run, Ctrl-C between steps."""

import math
import os
import signal
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from lwm.console import say
from lwm.output import atomic_file, write_json
from lwm.tasks.pictures import save_picture

_LAST_STEPS = 20


class FigureCallback(pl.Callback):
    """Shows what a task's ``figures(batch)`` draws of the first validation batch, after every validation.

    Pictures go to TensorBoard and, the newest of each name, to ``figures/NAME.png`` in the trainer's default root.
    """

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first batch."""
        if batch_idx or dataloader_idx or trainer.sanity_checking or not trainer.is_global_zero:
            return
        with torch.no_grad():
            figures = pl_module.figures(batch)  # type: ignore[operator]
        for name, picture in figures.items():
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(name, picture, trainer.global_step, dataformats="HWC")
            with atomic_file(Path(trainer.default_root_dir) / "figures" / f"{name}.png") as path:
                save_picture(path, picture)


class RunRecord(pl.Callback):
    """Writes ``run.json`` into the trainer's default root when a fit ends.

    It holds the task's provenance, ``first_loss`` (of the run's very first step), ``last_loss`` (mean over its last 20
    steps: one step's masks and batch are luck), steps, samples, seconds and samples per second of training (without
    validation), the last metrics, and the last and best checkpoint. The losses survive an interruption.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._last: deque[float] = deque(maxlen=_LAST_STEPS)
        self._seconds = 0.0
        self._samples = 0
        self._begun = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What an interrupted run goes on with."""
        return {"first": self._first, "last": list(self._last), "seconds": self._seconds, "samples": self._samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with an interrupted run."""
        self._first = state_dict["first"]
        self._last.extend(state_dict["last"])
        self._seconds, self._samples = state_dict["seconds"], state_dict["samples"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock of a step."""
        self._begun = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the step's loss and time."""
        loss = float(outputs["loss"])
        self._first = loss if self._first is None else self._first
        self._last.append(loss)
        self._seconds += time.perf_counter() - self._begun
        self._samples += len(next(iter(batch.values())))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the record."""
        if not trainer.is_global_zero or self._first is None:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if value.numel() == 1}
        saver = trainer.checkpoint_callback
        record = dict(getattr(pl_module, "provenance", {})) | {
            "first_loss": self._first,
            "last_loss": math.fsum(self._last) / len(self._last),
            "steps": trainer.global_step,
            "samples": self._samples,
            "seconds": round(self._seconds, 2),
            "samples_per_second": round(self._samples / max(self._seconds, 1e-9), 1),
            "precision": str(trainer.precision),
            "metrics": metrics,
            "last_checkpoint": str(getattr(saver, "last_model_path", "")),
            "best_checkpoint": str(getattr(saver, "best_model_path", "")),
        }
        write_json(Path(trainer.default_root_dir) / "run.json", record)


class StopBetweenSteps(pl.Callback):
    """Ctrl-C stops a run of one process after the optimizer step that it is in, so that the checkpoint of a stopped run
    is exact: no batch half done, no gradient of an accumulation lost. After an epoch's last step the validation that
    is due then comes first. A second Ctrl-C stops at once.

    Several processes would stop at different steps and wait for each other: there Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self._asked = self._told = False
        self._process = 0

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen, once Lightning has looked at who listened before."""
        self._listen(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen, where no sanity check came before."""
        self._listen(trainer)

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop before the first step."""
        if self._asked:
            raise KeyboardInterrupt

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop where a step ends, unless an epoch does with it."""
        if self._asked and (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not trainer.is_last_batch:
            raise KeyboardInterrupt
        self._tell("step")

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """Say that the run is about to stop."""
        self._tell("validation")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop behind the epoch and its checkpoint."""
        if self._asked:
            trainer.should_stop = True

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop listening; who asked to stop does not want what comes after the run either."""
        self._leave()
        if self._asked:
            raise KeyboardInterrupt

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stop listening; Lightning has its own way with what comes while it shuts down."""
        self._leave()

    def _listen(self, trainer: pl.Trainer) -> None:
        self._asked = self._told = False
        mine = threading.current_thread() is threading.main_thread() and trainer.world_size == 1
        # A Ctrl-C that is ignored, as in the background of a shell, stays so.
        if mine and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._process = os.getpid()
            signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_: Any) -> None:
        """Nothing is said here: what is being written may be what was interrupted."""
        if os.getpid() != self._process:
            return  # a forked worker of the loader, whose parent is asked too
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def _tell(self, what: str) -> None:
        if self._asked and not self._told:
            say(f"stopping after this {what}; Ctrl-C again stops at once, and the run may then not go on exactly")
            self._told = True

    def _leave(self) -> None:
        if signal.getsignal(signal.SIGINT) == self._ask:
            signal.signal(signal.SIGINT, signal.default_int_handler)
