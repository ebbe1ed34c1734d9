"""Training the router: which expert a spectrogram belongs to, with the experts frozen."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from lwm.errors import ConfigError, DatasetError, ModelError
from lwm.hub import from_pretrained, weights_sha256
from lwm.models.encoder import SpectrogramEncoder
from lwm.models.masking import generator_for
from lwm.models.moe import MoEEncoder, require_alike
from lwm.models.router import Router, RouterConfig
from lwm.signal.recipe import Recipe
from lwm.tasks.augment import shifted_views
from lwm.tasks.base import Task
from lwm.tasks.schedule import adamw_cosine


class RouterTraining(Task):
    """Classify spectrograms by expert; the result with the experts is a top-1 mixture.

    The experts are loaded to check that they fit together and are not touched by training. A checkpoint holds the
    router and the SHA-256 of every expert's weights; exporting it with other experts is refused.

    Args:
        experts: model folders of two or more encoders with different names.
        label: label whose names are the experts' names.
        learning_rate: peak rate of AdamW.
        weight_decay: decay of matrices.
        augment: train on shifted and mirrored views, so that a few hundred waveforms are not learned by heart.
        seed: of the views.
    """

    task_name: ClassVar[str] = "router"
    router: Router
    codes: Tensor

    def __init__(
        self,
        experts: list[str],
        label: str = "technology",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        augment: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.remember(locals())
        if len(experts) < 2:
            raise ConfigError(f"experts {experts}", "model folders of two or more experts", "set model.experts")
        self.expert_sha256: dict[str, str] = {}

    def load_experts(self) -> dict[str, SpectrogramEncoder]:
        """The experts by name, frozen.

        Raises:
            ModelError: a folder holds no named encoder, two have one name, or they differ in recipe, width or grid.
        """
        found: dict[str, SpectrogramEncoder] = {}
        for folder in self.hparams["experts"]:
            expert = from_pretrained(folder)
            if not isinstance(expert, SpectrogramEncoder) or not expert.name or expert.name in found:
                name = getattr(expert, "name", "")
                raise ModelError(
                    f"{folder} holds a {type(expert).__name__} named {name!r}",
                    "an encoder with a name of its own",
                    "pretrain it with model.name",
                )
            found[expert.name] = expert.requires_grad_(False)
        require_alike(found)
        return found

    def configure_models(self, recipe: Recipe, mean: float, std: float) -> None:
        """The router."""
        experts = self.load_experts()
        next(iter(experts.values())).recipe.require_same(recipe, "the experts", "the data")
        self.expert_sha256 = {name: weights_sha256(expert) for name, expert in experts.items()}
        self.router = Router(RouterConfig(tuple(experts)), recipe, mean, std)

    def configure_losses(self) -> None:
        """Cross entropy over experts."""
        self.loss = nn.CrossEntropyLoss()

    def configure_metrics(self) -> None:
        """Accuracy and confusion (rows are the truth), cloned for every split."""
        count = len(self.router.names)
        metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(count, average="micro"),
                "confusion": MulticlassConfusionMatrix(count),
            }
        )
        self.val_metrics = metrics.clone(prefix="val_")
        self.test_metrics = metrics.clone(prefix="test_")

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine by step."""
        return adamw_cosine(
            [self.router],
            self.hparams["learning_rate"],
            self.hparams["weight_decay"],
            self.trainer.estimated_stepping_batches,
        )

    def setup(self, stage: str) -> None:
        """Build, and map the data's codes of the label to experts.

        Raises:
            DatasetError: the data lack the label.
        """
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.codes = self._expert_of_code(data.label_names)

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """Index of the right expert, int64 ``[B]``.

        Raises:
            DatasetError: a sample has no label, or one that no expert has.
        """
        label = self.hparams["label"]
        given = batch[label]
        found = torch.where(given < 0, -1, self.codes.to(self.device)[given])
        if (found < 0).any():
            raise DatasetError(
                f"samples with a {label} that no expert has",
                f"only {sorted(self.router.names)}",
                "select them with data.where, or add the expert to model.experts",
            )
        return found

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One step."""
        x = batch["spectrogram"].float()
        if self.hparams["augment"] and self.router.trunk.recipe.axes == "frequency-time":
            x = shifted_views(x, batch["valid"], generator_for(self.hparams["seed"], "views", self.global_step))
        logits = self.router(x)
        loss = self.require_finite(self.loss(logits.float(), self.targets(batch)))
        self.log("train_loss", loss, prog_bar=True, batch_size=len(logits))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Count right and wrong."""
        self._evaluate(batch, "val", self.val_metrics)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Count right and wrong on the test split."""
        self._evaluate(batch, "test", self.test_metrics)

    def on_validation_epoch_end(self) -> None:
        """Log accuracy."""
        self._conclude(self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log accuracy; the confusion matrix stays in ``confusion`` and in the provenance."""
        self._conclude(self.test_metrics)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the experts' SHA-256."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["lwm"]["expert_sha256"] = self.expert_sha256

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build with the same experts.

        Raises:
            ModelError: an expert's weights are not those that the router was trained with.
        """
        super().on_load_checkpoint(checkpoint)
        kept = checkpoint["lwm"]["expert_sha256"]
        changed = sorted({name for name, _ in kept.items() ^ self.expert_sha256.items()})
        if changed:
            raise ModelError(
                f"experts {changed} are not those that the router was trained with (SHA-256 differs)",
                "the same experts",
                "give their folders or train the router again",
            )

    def export_model(self) -> MoEEncoder:
        """The mixture: the experts' weights as they are on disk, and the router."""
        return MoEEncoder(self.load_experts(), self.router)

    def _evaluate(self, batch: dict[str, Tensor], split: str, metrics: MetricCollection) -> None:
        logits, truth = self.router(batch["spectrogram"].float()).float(), self.targets(batch)
        self.log(f"{split}_loss", self.loss(logits, truth), prog_bar=True, batch_size=len(logits))
        metrics.update(logits, truth)

    def _conclude(self, metrics: MetricCollection) -> None:
        values = metrics.compute()
        metrics.reset()
        confusion = next(value for name, value in values.items() if name.endswith("confusion"))
        self.confusion = {"names": list(self.router.names), "counts": confusion.int().tolist()}
        self.provenance["confusion"] = self.confusion
        self.log_dict({name: value for name, value in values.items() if value.numel() == 1}, prog_bar=True)

    def _expert_of_code(self, label_names: dict[str, list[str]]) -> Tensor:
        label, experts = self.hparams["label"], self.router.names
        if label not in label_names:
            raise DatasetError(f"no label {label!r} in the data", f"one of {sorted(label_names)}")
        # A name without an expert may stand in the manifest as long as no selected sample has it.
        return torch.tensor([experts.index(name) if name in experts else -1 for name in label_names[label]])
