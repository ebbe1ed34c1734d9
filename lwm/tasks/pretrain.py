"""Pretraining of one encoder: masked spectrogram modelling, latent targets, contrast, or several at once."""

from dataclasses import asdict
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy

from lwm.errors import ConfigError, DatasetError
from lwm.models.encoder import SpectrogramEncoder
from lwm.models.lean import EncoderTokens
from lwm.models.mae import MaskedAutoencoder, MaskedConfig
from lwm.models.masking import MaskKind, generator_for
from lwm.models.sizes import encoder_size
from lwm.signal.recipe import Recipe
from lwm.tasks.base import STATE_KEY, Task
from lwm.tasks.compute import Compute
from lwm.tasks.contrast import rank, supervised_contrast
from lwm.tasks.objectives import PretrainingModel, Step, build_model, masked_loss
from lwm.tasks.occupancy import occupied_cells, on_all_patches
from lwm.tasks.options import Shape, Target, Terms, Training, group_of
from lwm.tasks.partners import Partners
from lwm.tasks.schedule import adamw_cosine, layer_scales
from lwm.tasks.sharding import is_sharded, shard
from lwm.tasks.teacher import MovingAverage, latent_target, rising_decay
from lwm.tasks.views import Views, label_codes, require_labels
from lwm.tasks.warm_start import require_same_shape, warm_start


class MaskedModeling(Task):
    """Pretrain one encoder (arXiv 2411.09996, 2601.08780; latent targets as I-JEPA, Assran et al. 2023).

    Args:
        size: encoder size by name: ``tiny``, ``small``, ``lwm``, ``rf``, ``s``, ``m`` or ``l``.
        name: what the encoder becomes an expert of, for example ``lte``; the router maps labels by it.
        mask: shape of what is hidden: scattered patches, rectangles, time strips or frequency strips.
        mask_ratio: share of the patches hidden, between 0 and 1.
        mode: ``drop`` sends only visible patches through the encoder (MAE: about three times faster); ``replace`` puts
            a learned embedding in place of hidden ones (LWM-Spectro).
        target: predict the spectrogram as it is (``input``), its noise-free version where the data hold one
            (``clean``), or the standardised features of a teacher that follows the encoder (``latent``). Most of a
            noisy picture is noise that nobody can predict.
        loss_on: ``masked`` patches only, or ``all`` (denoising the visible ones too; not with ``input``).
        normalize_target: standardise every target patch by its own mean and deviation (latent ones always are).
        terms: terms of the loss and the contrast among them.
        training: optimizer, schedule, averages, speed, seed.
        shape: changes to the size's shape.

    Raises:
        ConfigError: options that do not go together.
    """

    task_name: ClassVar[str] = "pretrain"
    model: PretrainingModel

    def __init__(
        self,
        size: str = "small",
        name: str = "",
        mask: MaskKind = "random",
        mask_ratio: float = 0.75,
        mode: Literal["drop", "replace"] = "drop",
        target: Target = "input",
        loss_on: Literal["masked", "all"] = "masked",
        normalize_target: bool = False,
        terms: Terms | None = None,
        training: Training | None = None,
        shape: Shape | None = None,
    ) -> None:
        super().__init__()
        terms, training, shape = group_of(Terms, terms), group_of(Training, training), group_of(Shape, shape)
        self.remember(locals())
        self.terms, self.training_options, self.shape_options = terms, training, shape
        encoder_size(size)
        self.config = MaskedConfig(mode, mask, mask_ratio, loss_on, normalize_target)
        if not 0 < mask_ratio < 1:
            raise ConfigError(f"mask ratio {mask_ratio}", "a share between 0 and 1, both excluded")
        self.target = target
        self.computing = Compute(training.compile or training.checkpointing)
        self.views = Views(terms, training.seed)
        # Steps do not tell the batches of one accumulation apart, and Lightning's count of batches is one less after
        # a checkpoint in the middle of an epoch.
        self.batches_seen = 0

    @property
    def encoder(self) -> SpectrogramEncoder:
        """What is pretrained."""
        return self.model.mae.encoder

    @property
    def mae(self) -> MaskedAutoencoder:
        """Encoder and decoder."""
        return self.model.mae

    def configure_models(self, recipe: Recipe, mean: float, std: float) -> None:
        """Encoder, decoder, projector, teacher and average, as far as the options ask for them."""
        options = self.training_options
        name, size = self.hparams["name"], self.hparams["size"]
        mae = build_model(size, name, self.shape_options, self.config, recipe, mean, std)
        weights = self.terms.all_weights()
        projection = self.terms.projection if any(contrast for _, contrast in weights) else 0
        latent = self.target == "latent"
        self.model = PretrainingModel(mae, latent, projection, any(masked for masked, _ in weights))
        self.model.mae.encoder.set_grad_checkpointing(options.checkpointing)
        self.teacher = MovingAverage(mae.encoder) if latent else None
        self.average = MovingAverage(mae.encoder) if options.ema_decay else None
        if options.compile:
            self.model.compile()

    def configure_model(self) -> None:
        """Shard what is trained and what follows it, where the strategy asks for it (:mod:`lwm.tasks.sharding`)."""
        if self.device_mesh is None or is_sharded(self.model):
            return
        averages = [average.encoder for average in (self.teacher, self.average) if average is not None]
        for model in (self.model, *averages):
            shard(model, self.device_mesh["data_parallel"])

    def configure_metrics(self) -> None:
        """Reconstruction accuracy: occupied or vacant, hidden square by hidden square (arXiv 2411.09996)."""
        self.val_metrics = MetricCollection({"accuracy": BinaryAccuracy()}, prefix="val_")
        self.test_metrics = self.val_metrics.clone(prefix="test_")

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine by step, and a rate that falls towards the first layers where asked."""
        options = self.training_options
        scales = layer_scales(self.encoder, options.layer_decay) if options.layer_decay < 1 else None
        return adamw_cosine(
            [self.model],
            options.learning_rate,
            options.weight_decay,
            self.trainer.estimated_stepping_batches,
            warmup_share=options.warmup_share,
            final_share=options.final_share,
            scales=scales,
        )

    def setup(self, stage: str) -> None:
        """Build, start from given weights, and check that the data hold what the terms need.

        Raises:
            DatasetError: the data lack clean pictures, labels or pairs that the options ask for.
            ModelError: the weights to start from are of another architecture.
            RecipeMismatch: the data are of another recipe than the model or the weights.
        """
        fresh = self.recipe is None
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and fresh and self.training_options.weights and not self.trainer.ckpt_path:
            warm_start(self.encoder, self.training_options.weights)
            self.mean, self.std = float(self.encoder.mean), float(self.encoder.std)
            for average in (self.teacher, self.average):
                if average is not None:
                    average.copy_from(self.encoder)
        if self.terms.contrast != "none":
            self.views.require_grey(self.encoder.recipe)
        if data is not None and self.terms.contrast == "supervised":
            require_labels(data, self.terms.labels)
        if data is not None and (self.terms.contrast, self.terms.pair) == ("self", "origin"):
            splits = {"fit": ("train", "validation")}.get(stage, (stage,))
            found = {split: data.datasets[split] for split in splits if split in data.datasets}
            self.views.partners = {split: Partners(dataset) for split, dataset in found.items()}

    def draw(self, batch: int, *path: int | str) -> Tensor:
        """Masks bool ``[B, L]`` on the task's device; ``path`` names the draw, for example ``("train", step)``."""
        return self.mae.draw(batch, generator_for(self.training_options.seed, "mask", *path)).to(self.device)

    def compute(self, module: nn.Module, *args: Any) -> Any:
        """``module(*args)`` in the trainer's precision (:mod:`lwm.tasks.compute`)."""
        return self.computing.call(self, module, *args)

    def masked_term(self, batch: dict[str, Tensor], step: Step, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of a step's predictions and their target ``[B, L, K]``.

        Raises:
            DatasetError: the target is ``clean`` and the data have none.
        """
        encoder = self.encoder
        weight = self.mae.weight_of(mask, batch["valid"].bool(), encoder.grid_of(batch["spectrogram"]))
        if self.teacher is None:
            wanted = self.mae.target_of(self.target_picture(batch))
        else:
            with torch.no_grad():
                teacher = EncoderTokens(self.teacher.encoder, None)
                (tokens,) = self.compute(teacher, batch["spectrogram"].float())
            wanted = latent_target(tokens, encoder.num_prefix_tokens)
            # A patch's features count as far as the patch is real.
            weight = weight.mean(-1, keepdim=True)
        return masked_loss(step, wanted, weight), wanted

    def target_picture(self, batch: dict[str, Tensor]) -> Tensor:
        """dB picture ``[B, C, F, T]`` to be predicted; DatasetError where the clean one is missing."""
        wanted = "clean" if self.target == "clean" else "spectrogram"
        if wanted not in batch:
            raise DatasetError(
                "a data set without clean spectrograms", "one with them for target 'clean'", "set target: input"
            )
        return batch[wanted].float()

    def losses(
        self, batch: dict[str, Tensor], weights: tuple[float, float], split: str, *path: int
    ) -> tuple[dict[str, Tensor], tuple[Step, Tensor, Tensor | None]]:
        """Terms of the loss by name with their weighted sum under ``loss``, and step, mask and target.

        Args:
            batch: of the data module.
            weights: of reconstruction and contrast.
            split: ``train``, ``val`` or ``test``.
            *path: numbers that name the draws of masks and views.
        """
        by_reconstruction, by_contrast = weights
        first = {key: value for key, value in batch.items() if key in ("spectrogram", "clean", "valid")}
        first["spectrogram"] = first["spectrogram"].float()
        seen, first = self.views.make(batch, first, by_contrast > 0, split, *path)
        mask = self.draw(len(seen), split, *path, rank())
        count = len(first["spectrogram"]) if by_reconstruction else 0
        step = self.computing.step(self, seen, mask, count)
        terms: dict[str, Tensor] = {}
        total, wanted = seen.new_zeros(()), None
        if by_reconstruction:
            terms["reconstruction"], wanted = self.masked_term(first, step, mask[:count])
            total = total + by_reconstruction * terms["reconstruction"]
        if by_contrast:
            assert step.embedding is not None
            codes = (
                label_codes(batch, self.terms.labels) if self.terms.labels else self._pair_codes(len(batch["valid"]))
            )
            terms["contrast"] = supervised_contrast(step.embedding, codes, self.terms.temperature)
            total = total + by_contrast * terms["contrast"]
        return terms | {"loss": total}, (step, mask[:count], wanted)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One step; masks and views are drawn from the seed and the number of batches before."""
        weights = self.terms.weights(self.progress)
        terms, _ = self.losses(batch, weights, "train", self.batches_seen)
        self.batches_seen += 1
        loss = self.require_finite(terms.pop("loss"))
        if len(self.terms.all_weights()) > 1 and not is_sharded(self.model):
            # A term that rests in this stage: its parameters get a gradient of zero, not none.
            loss = loss + 0.0 * sum(p.sum() for p in self.model.parameters() if p.requires_grad)
        size = len(batch["spectrogram"])
        self.log("train_loss", loss, prog_bar=True, batch_size=size)
        if len(terms) > 1:
            self.log_dict({f"train_{name}": value for name, value in terms.items()}, batch_size=size)
        return loss

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        total = self.trainer.estimated_stepping_batches
        return min(1.0, self.global_step / total) if 0 < total < float("inf") else 0.0

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then let teacher and average follow."""
        super().optimizer_step(*args, **kwargs)
        if self.teacher is not None:
            self.teacher.update(self.encoder, rising_decay(self.training_options.teacher_decay, self.progress))
        if self.average is not None:
            self.average.update(self.encoder, self.training_options.ema_decay)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Loss and accuracy with masks and views that are the same in every epoch."""
        self._evaluate(batch, batch_idx, "val", self.val_metrics)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Loss and accuracy on the test split."""
        self._evaluate(batch, batch_idx, "test", self.test_metrics)

    def export_model(self) -> SpectrogramEncoder:
        """The encoder, or the average of its weights; everything else is thrown away."""
        return self.encoder if self.average is None else self.average.encoder

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the encoder's shape, so that another one is refused by its numbers."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[STATE_KEY] |= {"encoder": asdict(self.encoder.config), "batches_seen": self.batches_seen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build, or refuse a checkpoint of another architecture.

        Raises:
            ModelError: no checkpoint of this task, or an encoder of another shape; both values are named.
            RecipeMismatch: the data of a resumed run are of another recipe.
        """
        super().on_load_checkpoint(checkpoint)
        kept = checkpoint[STATE_KEY]
        require_same_shape(kept["encoder"], asdict(self.encoder.config), "a checkpoint")
        self.batches_seen = kept["batches_seen"]

    def figures(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """Up to three samples, one a row: original, what the encoder saw, prediction, and the clean target if any."""
        if self.target == "latent" or not self.terms.final[0]:
            return {}
        from lwm.tasks.pictures import picture_grid

        # Spread over the batch: neighbours share a waveform.
        rows = torch.linspace(0, len(batch["spectrogram"]) - 1, min(3, len(batch["spectrogram"]))).long()
        few = {key: value[rows.to(value.device)] for key, value in batch.items() if isinstance(value, Tensor)}
        mask = self.draw(len(few["spectrogram"]), "figure")
        shown, predicted = self.reconstruct(few, mask)
        original = few["spectrogram"].float()
        columns = {"original": original, "masked": shown, "reconstructed": predicted}
        if self.target == "clean":
            columns["clean"] = self.target_picture(few)
        recipe = self.encoder.recipe
        low, high = (recipe.floor_db, float(original.max())) if recipe.channels == "grey" else (0.0, 255.0)
        return {"reconstruction": picture_grid({key: value[:, 0] for key, value in columns.items()}, low, high)}

    @torch.no_grad()
    def reconstruct(self, batch: dict[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures in dB ``[B, C, F, T]``: what the encoder saw (NaN where hidden), and the prediction.

        What the loss does not cover, patches outside it and padding, is copied from the original into the prediction.
        """
        x = batch["spectrogram"].float()
        predicted = self.mae.reconstruct(x, mask, self.target_picture(batch))
        side, (rows, columns) = self.encoder.config.patch, self.encoder.grid_of(x)
        hidden = mask.unflatten(1, (1, rows, columns)).repeat_interleave(side, 2).repeat_interleave(side, 3)
        real = batch["valid"].bool()[:, None, None, :]
        return x.masked_fill(hidden, torch.nan), torch.where(real, predicted, x)

    def _evaluate(self, batch: dict[str, Tensor], batch_idx: int, split: str, metrics: MetricCollection) -> None:
        terms, (step, mask, wanted) = self.losses(batch, self.terms.final, split, batch_idx)
        size = len(batch["spectrogram"])
        self.log(f"{split}_loss", terms.pop("loss"), prog_bar=True, batch_size=size, sync_dist=True)
        if len(terms) > 1:
            logged = {f"{split}_{name}": value for name, value in terms.items()}
            self.log_dict(logged, batch_size=size, sync_dist=True)
        if wanted is not None and self.teacher is None and not self.config.normalize_target:
            assert step.prediction is not None
            predicted = on_all_patches(step.prediction, step.places, wanted)
            grid = self.encoder.grid_of(batch["spectrogram"])
            valid, patch = batch["valid"].bool(), self.encoder.config.patch
            metrics.update(*occupied_cells(predicted, wanted, mask, valid, patch, grid))
            self.log_dict(metrics, batch_size=size)

    def _pair_codes(self, size: int) -> Tensor:
        """Codes of ``[first views, second views]``: equal for the two of a pair, different between processes."""
        return (torch.arange(size, device=self.device) + size * rank()).repeat(2)
