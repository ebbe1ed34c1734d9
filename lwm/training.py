"""``lwm fit / validate / test``: LightningCLI with one output folder per run.

A run's folder (``--out``) holds ``config.yaml``, ``checkpoints/last.ckpt``, ``metrics.csv`` and TensorBoard events. A
folder that is not empty is refused unless ``--resume`` goes on from its last checkpoint or ``--overwrite`` starts anew.
``--estimate`` runs a few steps, says what the whole run would cost, and writes nothing.
"""

import shutil
import signal
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jsonargparse.typing import PositiveInt
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lwm.config_errors import explain
from lwm.console import say
from lwm.errors import ConfigError, LWMError, OutputError
from lwm.output import require_empty
from lwm.shipped import config_path
from lwm.tasks.base import best_precision
from lwm.tasks.callbacks import StopBetweenSteps
from lwm.tasks.estimate import TRIAL_STEPS, Trial
from lwm.tasks.progress import FitProgress


def last_checkpoint(out: Path) -> Path:
    """Where a run in ``out`` keeps its newest checkpoint."""
    return out / "checkpoints" / "last.ckpt"


_BEFORE_A_STEP = {"config.yaml", "tensorboard"}
"""What Lightning puts into a run's folder before it looks at the data."""


class TrainingCLI(LightningCLI):
    """LightningCLI whose run lives in one folder; see the module's docstring."""

    trial: Trial
    fresh = False

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Flags that every training verb shares."""
        parser.add_argument("--out", type=str, default="runs/fit", help="folder of this run")
        parser.add_argument("--resume", action="store_true", help="go on from the folder's last checkpoint")
        parser.add_argument("--overwrite", action="store_true", help="delete what the folder holds first")
        parser.add_argument("--estimate", action="store_true", help="of fit: say what the run would cost, and stop")
        parser.add_argument("--estimate_samples", type=PositiveInt | None, default=None, help="of a longer run")
        parser.add_argument("--estimate_devices", type=PositiveInt, default=8, help="most devices to say a time for")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """As in Lightning, without its warning about arguments that come from a caller."""
        self.config = parser.parse_args(args)

    @property
    def _run(self) -> Any:
        return self.config[self.subcommand]

    @property
    def out(self) -> Path:
        """This run's folder."""
        return Path(self._run.out)

    def before_instantiate_classes(self) -> None:
        """Decide about the output folder before anything is built."""
        if self.subcommand != "fit":
            return
        if self._run.estimate:
            # A trial writes nothing, and starts from the first step.
            self.save_config_callback, self._run.ckpt_path = None, None
            return
        require_empty(self.out, resume=self._run.resume, overwrite=self._run.overwrite)
        if self._run.overwrite and self.out.exists():
            _delete_run(self.out)
        self.fresh = not (self.out.is_dir() and any(self.out.iterdir()))
        if self._run.resume and last_checkpoint(self.out).is_file():
            self._run.ckpt_path = str(last_checkpoint(self.out))

    def _run_subcommand(self, subcommand: str) -> None:
        """As in Lightning; a run that is refused before its first step leaves nothing that would bar the next try."""
        try:
            super()._run_subcommand(subcommand)
        except LWMError:
            if self.fresh and self.out.is_dir() and {path.name for path in self.out.iterdir()} <= _BEFORE_A_STEP:
                shutil.rmtree(self.out)
            raise

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """A trainer whose logs and checkpoints are in the run's folder."""
        kwargs["default_root_dir"] = str(self.out)
        kwargs["enable_model_summary"] = False
        if self._run.trainer.precision is None:
            kwargs["precision"] = best_precision()
        if self.subcommand == "fit" and self._run.estimate:
            self.trial = Trial()
            kwargs |= {"callbacks": [self.trial], "logger": False, "enable_checkpointing": False}
            kwargs |= {"enable_progress_bar": False, "max_epochs": -1, "max_steps": TRIAL_STEPS}
            kwargs |= {"limit_val_batches": 0, "num_sanity_val_steps": 0}
        elif self.subcommand == "fit":
            tensorboard = TensorBoardLogger(save_dir=str(self.out), name="", version="tensorboard")
            table = CSVLogger(save_dir=str(self.out), name="", version="", flush_logs_every_n_steps=50)
            kwargs["logger"] = [table, tensorboard]
            keep = ModelCheckpoint(
                dirpath=self.out / "checkpoints",
                filename="last",
                every_n_epochs=1,
                # At the end of training too, whether or not that epoch was validated.
                save_on_train_epoch_end=True,
                save_on_exception=True,
                enable_version_counter=False,
            )
            self.trainer_defaults = {**self.trainer_defaults, "callbacks": [keep, FitProgress(), StopBetweenSteps()]}
        else:
            kwargs["logger"] = False
        return super().instantiate_trainer(**kwargs)

    def after_fit(self) -> None:
        """Say what was written and what comes next, or what the run would cost."""
        if self._run.estimate:
            if self.trainer.is_global_zero:
                for line in self.trial.result().lines(self._planned_samples(), self._run.estimate_devices):
                    say(line)
            return
        checkpoint = last_checkpoint(self.out)
        say(f"wrote {self.out}: {checkpoint.relative_to(self.out)}, metrics.csv, tensorboard/, config.yaml")
        say(f"next: lwm export --checkpoint {checkpoint} --out {self.out}-model")

    def _planned_samples(self) -> int:
        """Samples of the run that the trial stands for."""
        if self._run.estimate_samples:
            return int(self._run.estimate_samples)
        planned, trainer = self._run.trainer, self.trainer
        batches = [float(trainer.num_training_batches) * planned.max_epochs] if (planned.max_epochs or -1) > 0 else []
        if planned.max_steps > 0:
            batches.append(planned.max_steps * trainer.accumulate_grad_batches)
        if not batches or min(batches) == float("inf"):
            raise ConfigError("a run without an end", "trainer.max_epochs or max_steps", "give --estimate_samples")
        batch = self.trial.samples / self.trial.batches
        return round(min(batches) * batch * trainer.world_size)


def _delete_run(out: Path) -> None:
    """Delete a run's folder, but never one that no run has made."""
    if not (out / "config.yaml").is_file():
        raise OutputError(f"{out} holds no config.yaml of a run", "a folder made by lwm fit", "delete it yourself")
    shutil.rmtree(out)


def _with_shipped_configs(args: list[str]) -> list[str]:
    """Let ``--config pretrain/lte`` name a file that ships with the package."""
    joined = [part for word in args for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    return [
        str(config_path(word)) if before == "--config" else word
        for before, word in zip(["", *joined], joined, strict=False)
    ]


def train(verb: str, args: list[str]) -> int:
    """Run one of Lightning's verbs; Ctrl-C becomes KeyboardInterrupt again so that the caller can say what to do.

    Raises:
        ConfigError: a flag or YAML key that does not exist, or a value of the wrong type.
    """
    torch.set_float32_matmul_precision("high")
    handler = signal.getsignal(signal.SIGINT)
    strict = {name: {"exit_on_error": False, "allow_abbrev": False} for name in LightningCLI.subcommands()}
    try:
        TrainingCLI(
            args=[verb, *_with_shipped_configs(args)],
            subclass_mode_model=True,
            subclass_mode_data=True,
            model_class=pl.LightningModule,
            datamodule_class=pl.LightningDataModule,
            save_config_callback=SaveConfigCallback,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False, **strict},
        )
    except ArgumentError as error:
        raise explain(error, f"lwm {verb}") from error
    except SystemExit as stop:
        if stop.code == 1:
            raise KeyboardInterrupt from stop
        return int(stop.code or 0)
    finally:
        # Lightning leaves Ctrl-C ignored after it has shut a run down.
        signal.signal(signal.SIGINT, handler)
    return 0
