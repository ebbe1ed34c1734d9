"""What every task shares: four hooks, recipe and statistics from the data, checkpoints that stand alone."""

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lwm import __version__
from lwm.errors import LWMError, ModelError
from lwm.output import file_sha256
from lwm.signal.recipe import Recipe

TASKS = "lwm.tasks"
TASK_KEY = "lwm_task"
STATE_KEY = "lwm"


class TrainingError(LWMError):
    """A training run that cannot go on."""


class Task(pl.LightningModule):
    """Base of all tasks.

    A subclass takes plain numbers, strings and lists, calls :meth:`remember` with its ``locals()`` and fills four
    hooks: :meth:`configure_models`, :meth:`configure_losses`, :meth:`configure_metrics` and
    ``configure_optimizers``. Recipe and statistics come from the data module when a run is set up, or from
    :meth:`build`; they are stored in every checkpoint, so that ``load_from_checkpoint`` needs neither data nor
    command line.

    Attributes:
        recipe: what the pictures are made with, once built.
        mean: mean of the training data in dB.
        std: standard deviation of the training data in dB.
        provenance: command, seed, data and metrics of the run, for :mod:`lwm.export`.
    """

    task_name: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.recipe: Recipe | None = None
        self.mean = 0.0
        self.std = 1.0
        self.provenance: dict[str, Any] = {}

    def remember(self, options: Mapping[str, Any]) -> None:
        """Store constructor options as plain hyperparameters, alike whether the CLI or Python builds the task.

        Args:
            options: the constructor's ``locals()``.
        """
        hidden = ("self", "__class__")
        plain = {
            key: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
            for key, value in options.items()
            if key not in hidden
        }
        # By this key LightningCLI knows the class when a verb is given both --config and --ckpt_path.
        self.save_hyperparameters({"_class_path": f"{type(self).__module__}.{type(self).__qualname__}"} | plain)

    def configure_models(self, recipe: Recipe, mean: float, std: float) -> None:
        """Make the modules to be trained."""
        raise NotImplementedError

    def configure_losses(self) -> None:
        """Make the losses."""

    def configure_metrics(self) -> None:
        """Make the metrics: one ``MetricCollection``, cloned for every split."""

    def export_model(self) -> nn.Module:
        """The model that goes into a model folder."""
        raise NotImplementedError

    def figures(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """Pictures of a batch by name, uint8 ``[height, width, 3]``; the figure callback shows them."""
        return {}

    def build(self, recipe: Recipe, mean: float, std: float) -> Self:
        """Make models, losses and metrics without a trainer. Returns the task."""
        self.recipe, self.mean, self.std = recipe, float(mean), float(std)
        self.configure_models(recipe, self.mean, self.std)
        self.configure_losses()
        self.configure_metrics()
        return self

    def setup(self, stage: str) -> None:
        """Take recipe and statistics from the data module, or check that the data fit what was loaded.

        Raises:
            RecipeMismatch: a loaded task meets data of another recipe.
        """
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            if self.recipe is None:
                raise ModelError("a task without data", "a data module with recipe and statistics", "pass datamodule=")
            return
        if self.recipe is None:
            self.build(data.recipe, data.statistics.mean, data.statistics.std)
        else:
            self.recipe.require_same(data.recipe)
        if stage == "fit":
            options = {key: value for key, value in self.hparams.items() if not key.startswith("_")}
            self.provenance = run_provenance(data) | {"task": self.task_name, "options": options}

    def on_train_start(self) -> None:
        """Let a resumed run's loader go on where it stopped.

        A schedule by step makes Lightning set its loaders up before it has read where they stood; with an end in
        epochs it then forgets to tell them.
        """
        self.trainer.fit_loop._load_combined_loader_states()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a fresh process needs to build the task again."""
        if self.recipe is None:
            raise ModelError("a task that was never set up", "a built one", "fit it or call build() first")
        checkpoint[TASK_KEY] = self.task_name
        checkpoint[STATE_KEY] = {
            "version": __version__,
            "recipe": self.recipe.to_dict(),
            "mean": self.mean,
            "std": self.std,
            "provenance": self.provenance | {"metrics": self._metrics_now()},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build from what :meth:`on_save_checkpoint` kept; a resumed run must have the same recipe.

        Raises:
            ModelError: no checkpoint of this task.
            RecipeMismatch: the data of a resumed run are of another recipe.
        """
        found = checkpoint.get(TASK_KEY)
        if found != self.task_name:
            raise ModelError(f"a checkpoint of task {found!r}", f"{self.task_name!r}", "resume the run it is from")
        kept = checkpoint[STATE_KEY]
        recipe = Recipe.from_dict(kept["recipe"])
        self.provenance = dict(kept["provenance"])
        if self.recipe is None:
            self.build(recipe, kept["mean"], kept["std"])
        else:
            recipe.require_same(self.recipe, "the checkpoint", "the data")
            self.mean, self.std = kept["mean"], kept["std"]

    def require_finite(self, loss: Tensor) -> Tensor:
        """``loss`` if it is finite, else a TrainingError that names the step."""
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of step {self.global_step} is {loss.item()}",
                "a finite loss",
                "run lwm doctor on the data, lower the learning rate, or train in 32-bit precision",
            )
        return loss

    def _metrics_now(self) -> dict[str, float]:
        if self._trainer is None:
            return dict(self.provenance.get("metrics", {}))
        return {name: float(value) for name, value in self.trainer.callback_metrics.items() if value.numel() == 1}


def run_provenance(data: Any) -> dict[str, Any]:
    """Command, seed, commit and data of the run that is being set up, JSON-able.

    Args:
        data: the data module; the manifests of its ``data`` (a folder or several) are hashed.
    """
    seed = os.environ.get("PL_GLOBAL_SEED")
    record: dict[str, Any] = {
        "command": os.environ.get("LWM_COMMAND", shlex.join(sys.argv)),
        "seed": None if seed is None else int(seed),
    }
    given = getattr(data, "data", None) or []
    manifests = [Path(folder) / "manifest.json" for folder in ([given] if isinstance(given, str) else given)]
    used = [{"folder": str(m.parent), "manifest_sha256": file_sha256(m)} for m in manifests if m.is_file()]
    if used:
        record["data"] = used
    commit = source_commit()
    return record | ({"commit": commit} if commit else {})


def source_commit() -> str | None:
    """Commit of the checkout that LWM runs from, None where it is installed without one."""
    git = Path(__file__).resolve().parents[2] / ".git"
    head = git / "HEAD"
    if not head.is_file():
        return None
    said = head.read_text(encoding="utf-8").strip()
    if not said.startswith("ref: "):
        return said
    reference = git / said.removeprefix("ref: ")
    return reference.read_text(encoding="utf-8").strip() if reference.is_file() else None


def best_precision() -> Literal["bf16-mixed", "32-true"]:
    """Lightning's ``precision`` that is fastest here without loss of stability: bfloat16 where the hardware has it."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"
