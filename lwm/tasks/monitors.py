"""What is watched while an encoder trains: rate and gradients, collapse of features, and what labels find in them."""

import math
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot
from torch.optim import Optimizer

from lwm.errors import ConfigError, DatasetError
from lwm.tasks.sharding import whole

RIDGE = 0.1
"""Weight of the probe's penalty, per sample, on standardised features."""


class StepMonitor(pl.Callback):
    """Logs ``learning_rate`` and ``gradient_norm`` (before clipping), as often as the trainer logs."""

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure before the step."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined] # set by its logger connector
        if (trainer.global_step + 1) % every:
            return
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        pl_module.log("gradient_norm", whole(torch.nn.utils.get_total_norm(gradients)))
        pl_module.log("learning_rate", max(group["lr"] for group in optimizer.param_groups))


class FeatureMonitor(pl.Callback):
    """Looks at the frozen features after each validation, on a few samples spread over the data sets.

    ``feature_spread`` is the standard deviation of L2-normalised features over samples, times sqrt(d): 1 for features
    in all directions alike, 0 where all samples got the same. With labels, ``knn_LABEL`` (cosine, k nearest) and
    ``probe_LABEL`` (linear, ridge) are balanced accuracies on the validation split of what was fitted on the train
    split; no channel draw, waveform or recording is in both.

    Args:
        labels: labels to look for; watching one does not train on it.
        samples: of each split, at most.
        neighbours: k.
        batch_size: samples a pass.
    """

    def __init__(
        self, labels: list[str] | None = None, samples: int = 256, neighbours: int = 10, batch_size: int = 64
    ) -> None:
        if min(samples, neighbours, batch_size) < 1:
            raise ConfigError(f"samples {samples}, neighbours {neighbours}, batch_size {batch_size}", "1 or more each")
        self.labels, self.samples = list(labels or []), samples
        self.neighbours, self.batch_size = neighbours, batch_size

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse labels that the data lack, before the first step."""
        names = getattr(getattr(trainer, "datamodule", None), "label_names", {})
        missing = [label for label in self.labels if label not in names]
        if missing:
            raise DatasetError(
                f"data without the labels {missing} that FeatureMonitor is to watch", f"some of {sorted(names)}"
            )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure and log; every process does the same work and gets the same figures."""
        data: Any = getattr(trainer, "datamodule", None)
        if trainer.sanity_checking or not hasattr(data, "datasets") or "train" not in data.datasets:
            return
        queries, asked = self._features(pl_module, data, "validation")
        pl_module.log("feature_spread", feature_spread(queries))
        if not self.labels:
            return
        references, known = self._features(pl_module, data, "train")
        for label in self.labels:
            classes = len(data.label_names[label])
            here, there = known[label] >= 0, asked[label] >= 0
            if not (here.any() and there.any()):
                continue
            given = references[here], known[label][here], queries[there]
            near = nearest_classes(*given, classes, self.neighbours)
            linear = ridge_classes(*given, classes)
            pl_module.log(f"knn_{label}", balanced_accuracy(near, asked[label][there]))
            pl_module.log(f"probe_{label}", balanced_accuracy(linear, asked[label][there]))

    @torch.no_grad()
    def _features(self, task: Any, data: Any, split: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Pooled features float32 ``[n, D]`` and codes of the labels."""
        dataset = data.datasets[split]
        chosen = np.unique(np.linspace(0, len(dataset) - 1, min(self.samples, len(dataset))).astype(np.int64))
        model, found, codes = task.export_model(), [], []
        for start in range(0, len(chosen), self.batch_size):
            batch = dataset.batch(chosen[start : start + self.batch_size])
            found.append(task.compute(model, batch["spectrogram"].float().to(task.device)).float())
            codes.append({label: batch[label] for label in self.labels})
        named = {label: torch.cat([part[label] for part in codes]).to(task.device) for label in self.labels}
        return torch.cat(found), named


def feature_spread(features: Tensor) -> Tensor:
    """Standard deviation of the L2-normalised rows of ``[n, d]``, mean over d, times sqrt(d); 0 where n is 1."""
    unit = normalize(features.float(), dim=-1)
    return unit.std(0, correction=0).mean() * math.sqrt(features.shape[1])


def nearest_classes(references: Tensor, codes: Tensor, queries: Tensor, classes: int, neighbours: int) -> Tensor:
    """Class int64 ``[m]`` with the largest summed similarity among the k nearest references by cosine."""
    alike = normalize(queries, dim=-1) @ normalize(references, dim=-1).T
    weight, place = alike.topk(min(neighbours, len(references)), dim=1)
    # Cosines lie between -1 and 1: shifted, so that a far neighbour never counts against its own class.
    votes = one_hot(codes[place], classes) * (weight + 1)[..., None]
    return votes.sum(1).argmax(1)


def ridge_classes(references: Tensor, codes: Tensor, queries: Tensor, classes: int) -> Tensor:
    """Class int64 ``[m]`` by ridge regression on one-hot classes over standardised features, in closed form."""
    mean, deviation = references.mean(0), references.std(0, correction=0).clamp(min=1e-6)
    known, asked = ((x - mean).double() / deviation for x in (references, queries))
    wanted = one_hot(codes, classes).double()
    offset = wanted.mean(0)
    # The dual form: as many unknowns as samples, which are few.
    kernel = known @ known.T + RIDGE * len(known) * torch.eye(len(known), dtype=known.dtype, device=known.device)
    weights = known.T @ torch.linalg.solve(kernel, wanted - offset)
    return (asked @ weights + offset).argmax(1)


def balanced_accuracy(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean over the classes that occur of the share that is found."""
    right = (predicted == truth).float()
    count = torch.bincount(truth)
    hits = torch.bincount(truth, weights=right)
    return (hits[count > 0] / count[count > 0]).mean()
