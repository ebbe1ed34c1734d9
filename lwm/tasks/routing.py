"""Training the router: which expert a spectrogram belongs to, with the experts frozen."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassConfusionMatrix

from lwm.console import say
from lwm.errors import ConfigError, DatasetError, ModelError
from lwm.hub import from_pretrained, weights_sha256
from lwm.models.encoder import SpectrogramEncoder
from lwm.models.masking import generator_for
from lwm.models.moe import MoEEncoder, require_alike
from lwm.models.novelty import NoveltyDetector, NoveltyScore
from lwm.models.router import Router, RouterConfig, RouterKind
from lwm.models.router_view import experts_by_code, experts_of
from lwm.signal.recipe import Recipe
from lwm.tasks.augment import shifted_views
from lwm.tasks.base import Task
from lwm.tasks.detecting import fit_known
from lwm.tasks.options import group_of
from lwm.tasks.schedule import adamw_cosine

CALIBRATION_BINS = 15
"""Bins of the expected calibration error (Guo et al. 2017)."""

_MOST_UNEVEN = 1.2
"""Ratio of the most to the least frequent expert in training from which on a run says so."""


@dataclass(frozen=True)
class RouterShape:
    """Shape of the router; see :class:`lwm.models.router.RouterConfig`.

    Args:
        kind: ``transformer`` or ``cnn``.
        grid: patches along each side, or ``full``: the experts' own grid, as in LWM-Spectro, some ten times dearer.
        width: token width.
        depth: Transformer blocks.
        heads: attention heads a block.
    """

    kind: RouterKind = "transformer"
    grid: int | Literal["full"] = 8
    width: int = 64
    depth: int = 2
    heads: int = 4

    def config(self, names: tuple[str, ...], experts_grid: int) -> RouterConfig:
        """The model's config for experts of these names and patches a side."""
        grid = experts_grid if self.grid == "full" else self.grid
        return RouterConfig(names, **asdict(self) | {"grid": grid})


@dataclass(frozen=True)
class Gate:
    """What training does to the logits, and a term beside the cross entropy; all off by default.

    The paper (arXiv 2601.08780) names no values; what they are and where they come from is the literature's.

    Args:
        load_balance: weight of E * sum over experts of (share of the batch sent there) * (mean probability), which is
            1 where the load is even (Fedus et al. 2021, eq. 4). On balanced batches with known experts the cross
            entropy asks for the same; the term matters where batches are uneven.
        noise: standard deviation of Gaussian noise on the logits in training (Shazeer et al. 2017, eq. 4, with a
            fixed instead of a learned deviation).
        temperature: what the logits are divided by in training. Above 1 the router learns larger logits. What it is
            divided by afterwards is fitted on the validation split.
    """

    load_balance: float = 0.0
    noise: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not (self.load_balance >= 0 and self.noise >= 0 and self.temperature > 0):
            raise ConfigError(
                f"gate with load_balance {self.load_balance}, noise {self.noise}, temperature {self.temperature}",
                "weight and noise of 0 or more, a temperature above 0",
            )


class RouterTraining(Task):
    """Classify spectrograms by expert; the result with the experts is a top-1 mixture.

    The experts are loaded to check that they fit together and are not touched by training. A checkpoint holds the
    router and the SHA-256 of every expert's weights; exporting it with other experts is refused. After every
    validation the router's temperature is fitted to that split, so that its probabilities are calibrated;
    ``val_ece`` is of the same samples, ``test_ece`` of unseen ones.

    Args:
        experts: model folders of two or more encoders with different names.
        label: label whose names are the experts' names.
        learning_rate: peak rate of AdamW.
        weight_decay: decay of matrices.
        augment: train on shifted and mirrored views, so that a few hundred waveforms are not learned by heart.
        seed: of the views and the noise.
        shape: of the router.
        gate: noise, temperature and load balance in training.
        novelty: score by which the mixture tells what it was not trained on (:mod:`lwm.models.novelty`), fitted after
            the last epoch; ``none``: it does not.
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
        shape: RouterShape | None = None,
        gate: Gate | None = None,
        novelty: NoveltyScore | Literal["none"] = "energy",
    ) -> None:
        super().__init__()
        shape, gate = group_of(RouterShape, shape), group_of(Gate, gate)
        self.remember(locals())
        self.shape_options, self.gate = shape, gate
        self.seen: list[tuple[Tensor, Tensor]] = []
        if len(experts) < 2:
            raise ConfigError(f"experts {experts}", "model folders of two or more experts", "set model.experts")
        self.expert_sha256: dict[str, str] = {}
        self.detector: NoveltyDetector | None = None

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
        first = next(iter(experts.values()))
        first.recipe.require_same(recipe, "the experts", "the data")
        self.expert_sha256 = {name: weights_sha256(expert) for name, expert in experts.items()}
        config = self.shape_options.config(tuple(experts), first.grid_size[0])
        self.router = Router(config, recipe, mean, std)

    def configure_losses(self) -> None:
        """Cross entropy over experts."""
        self.loss = nn.CrossEntropyLoss()

    def configure_metrics(self) -> None:
        """Accuracy, confusion (rows are the truth) and calibration error, cloned for every split."""
        count = len(self.router.names)
        metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(count, average="micro"),
                "confusion": MulticlassConfusionMatrix(count),
                "ece": MulticlassCalibrationError(count, n_bins=CALIBRATION_BINS),
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
            # Its last place answers for the code -1.
            self.codes = torch.from_numpy(experts_by_code(data.label_names, self.router.names, self.hparams["label"]))
            if stage == "fit":
                self._say_if_uneven(data)

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """Index of the right expert, int64 ``[B]``.

        Raises:
            DatasetError: a sample has no label, or one that no expert has.
        """
        label = self.hparams["label"]
        found = self.codes.to(self.device)[batch[label]]
        if (found < 0).any():
            raise DatasetError(
                f"samples with a {label} that no expert has",
                f"only {sorted(self.router.names)}",
                "select them with data.where, or add the expert to model.experts",
            )
        return found

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One step: cross entropy of tempered, noisy logits and, where asked for, the load's balance."""
        x = batch["spectrogram"].float()
        if self.hparams["augment"] and self.router.trunk.recipe.axes == "frequency-time":
            x = shifted_views(x, batch["valid"], generator_for(self.hparams["seed"], "views", self.global_step))
        logits = self.router(x).float()
        if self.gate.noise:
            generator = generator_for(self.hparams["seed"], "gate noise", self.global_step)
            logits = logits + self.gate.noise * torch.randn(logits.shape, generator=generator).to(logits)
        logits = logits / self.gate.temperature
        loss = self.loss(logits, self.targets(batch))
        if self.gate.load_balance:
            balance = load_balance(logits)
            self.log("train_load_balance", balance, batch_size=len(logits))
            loss = loss + self.gate.load_balance * balance
        self.require_finite(loss)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(logits))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Keep logits and truth for the end of the split."""
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Keep logits and truth for the end of the split."""
        self._evaluate(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Fit the temperature, in a fit; log accuracy and calibration."""
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            logits, truth = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
            self.router.calibrate(logits, truth)
            # Several processes see a part of the split each: the geometric mean of what they find.
            found = self.all_gather(self.router.temperature.log())
            assert isinstance(found, Tensor)
            self.router.temperature.copy_(found.mean().exp())
        self._conclude("val", self.val_metrics)

    def on_train_epoch_end(self) -> None:
        """After the last epoch, learn what the known protocols look like."""
        loop, score = self.trainer.fit_loop, self.hparams["novelty"]
        last = loop.epoch_progress.current.completed + 1 == self.trainer.max_epochs
        if score != "none" and (last or self.trainer.should_stop or loop.epoch_loop._is_training_done):
            data = getattr(self.trainer, "datamodule", None)
            self.detector = fit_known(self.router, data, self.hparams["label"], score)

    def on_test_epoch_end(self) -> None:
        """Log accuracy and calibration; the confusion matrix stays in ``confusion`` and in the provenance."""
        self._conclude("test", self.test_metrics)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the experts' SHA-256."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["lwm"]["expert_sha256"] = self.expert_sha256
        checkpoint["lwm"]["novelty"] = None if self.detector is None else self.detector.get_config()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build with the same experts.

        Raises:
            ModelError: an expert's weights are not those that the router was trained with.
        """
        super().on_load_checkpoint(checkpoint)
        novelty = checkpoint["lwm"]["novelty"]
        self.detector = None if novelty is None else NoveltyDetector.from_config(novelty)
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
        mixture = MoEEncoder(self.load_experts(), self.router)
        if self.detector is not None:
            mixture.set_detector(self.detector)
        return mixture

    def _evaluate(self, batch: dict[str, Tensor], split: str) -> None:
        logits, truth = self.router(batch["spectrogram"].float()).float(), self.targets(batch)
        self.log(f"{split}_loss", self.loss(logits, truth), prog_bar=True, batch_size=len(logits))
        self.seen.append((logits, truth))

    def _conclude(self, split: str, metrics: MetricCollection) -> None:
        for logits, truth in self.seen:
            metrics.update(self.router.calibrated(logits), truth)
        self.seen.clear()
        values = metrics.compute()
        metrics.reset()
        counts = values[f"{split}_confusion"].int().tolist()
        self.confusion = {"names": list(self.router.names), "counts": counts}
        self.provenance["confusion"] = self.confusion
        self.provenance["temperature"] = float(self.router.temperature)
        self.log_dict({name: value for name, value in values.items() if value.numel() == 1}, prog_bar=True)

    def _say_if_uneven(self, data: Any) -> None:
        """One line where training data hold one expert's samples far more often than another's."""
        label, datasets = self.hparams["label"], getattr(data, "datasets", None)
        if not datasets or getattr(data, "balance", None) == label:
            return
        of_expert = experts_of(datasets["train"], self.router.names, label)
        counts = np.bincount(of_expert[of_expert >= 0], minlength=len(self.router.names))
        if counts.max() > _MOST_UNEVEN * counts.min():
            said = ", ".join(f"{name} {count}" for name, count in zip(self.router.names, counts, strict=True))
            say(f"the router's training data are uneven ({said}): set data.balance to {label} for even batches")


def load_balance(logits: Tensor) -> Tensor:
    """Switch Transformer's load-balance term of logits ``[B, E]``: 1 for an even load, E when one expert has it all.

    E * sum over experts of f_i * P_i, where f_i is the share of the batch whose largest logit is i and P_i the mean
    probability of i (Fedus et al. 2021, eq. 4 to 6); gradients flow through P only.
    """
    probabilities = torch.softmax(logits.float(), dim=1)
    experts = logits.shape[1]
    share = torch.bincount(logits.argmax(1), minlength=experts).to(probabilities) / len(logits)
    return experts * (share * probabilities.mean(0)).sum()
