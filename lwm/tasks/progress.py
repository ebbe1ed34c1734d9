"""One progress bar for a whole fit, with samples a second, time left and the last loss."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar

from lwm.console import progress


class FitProgress(ProgressBar):
    """Counts training samples from the first step to the last, across epochs and resumed runs."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._enabled = True

    def disable(self) -> None:
        """Show nothing (other ranks than the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar again."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where a resumed run stands."""
        if not self._enabled:
            return
        batch = self._batch_size(trainer)
        steps = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
        total = int(steps * batch) if steps != float("inf") else None
        name = type(pl_module).__name__
        self._bar = progress(name, total, "samples", done=trainer.global_step * trainer.accumulate_grad_batches * batch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch."""
        if self._bar is not None:
            loss = trainer.callback_metrics.get("train_loss")
            if loss is not None:
                self._bar.set_postfix_str(f"loss {float(loss):.3f}", refresh=False)
            self._bar.update(self._batch_size(trainer))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @staticmethod
    def _batch_size(trainer: pl.Trainer) -> int:
        loader, data = trainer.train_dataloader, getattr(trainer, "datamodule", None)
        return int(getattr(loader, "batch_size", None) or getattr(data, "batch_size", None) or 1)
