"""Masked spectrogram modelling: hide patches, predict them, keep the encoder."""

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy

from lwm.errors import DatasetError
from lwm.models.decoder import PatchDecoder
from lwm.models.encoder import SpectrogramEncoder, encoder_size, unpatchify
from lwm.models.masking import (
    MaskKind,
    cell_weight,
    draw_mask,
    generator_for,
    masked_count,
    visible_index,
    weighted_mse,
)
from lwm.signal.recipe import Recipe
from lwm.tasks.base import Task
from lwm.tasks.schedule import adamw_cosine


class MaskedModeling(Task):
    """Pretrain one encoder by masked modelling (arXiv 2411.09996, 2601.08780).

    Args:
        size: encoder size by name: ``small``, ``lwm`` or ``tiny``.
        name: what the encoder becomes an expert of, for example ``lte``; the router maps labels by it.
        mask: shape of what is hidden: scattered patches, rectangles, time strips or frequency strips.
        mask_ratio: share of the patches hidden, between 0 and 1.
        mode: ``drop`` sends only visible patches through the encoder (MAE: about three times faster); ``token`` puts a
            learned embedding in place of hidden ones (LWM-Spectro).
        target: predict the spectrogram as it is, or its noise-free version where the data hold one. Most of a noisy
            picture is noise that nobody can predict; the clean one is what carries signal.
        loss_on: ``masked`` patches only, or ``all`` (denoising the visible ones too; only of use with ``clean``).
        normalize_target: standardise every target patch by its own mean and deviation.
        learning_rate: peak rate of AdamW.
        weight_decay: decay of matrices.
        seed: of the masks; step n of a run has the same masks however often it was interrupted.
    """

    task_name: ClassVar[str] = "pretrain"
    encoder: SpectrogramEncoder
    decoder: PatchDecoder

    def __init__(
        self,
        size: str = "small",
        name: str = "",
        mask: MaskKind = "random",
        mask_ratio: float = 0.75,
        mode: Literal["drop", "token"] = "drop",
        target: Literal["noisy", "clean"] = "noisy",
        loss_on: Literal["masked", "all"] = "masked",
        normalize_target: bool = False,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.remember(locals())
        encoder_size(size)
        masked_count(1024, mask_ratio)

    def configure_models(self, recipe: Recipe, mean: float, std: float) -> None:
        """Encoder, decoder and, in token mode, the embedding of hidden patches."""
        config = replace(encoder_size(self.hparams["size"]), name=self.hparams["name"])
        self.encoder = SpectrogramEncoder(config, recipe, mean, std)
        self.decoder = PatchDecoder(self.encoder)
        if self.hparams["mode"] == "token":
            self.mask_token = nn.Parameter(torch.randn(config.width) * 0.02)

    def configure_losses(self) -> None:
        """Squared error, averaged over the cells that count."""
        self.loss = weighted_mse

    def configure_metrics(self) -> None:
        """Reconstruction accuracy: occupied or vacant, hidden patch by hidden patch (arXiv 2411.09996)."""
        self.val_metrics = MetricCollection({"accuracy": BinaryAccuracy()}, prefix="val_")
        self.test_metrics = self.val_metrics.clone(prefix="test_")

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine by step."""
        return adamw_cosine(
            [self],
            self.hparams["learning_rate"],
            self.hparams["weight_decay"],
            self.trainer.estimated_stepping_batches,
        )

    def draw(self, batch: int, *path: int | str) -> Tensor:
        """Masks bool ``[B, L]`` on the task's device; ``path`` names the draw, for example ``("train", step)``."""
        generator = generator_for(self.hparams["seed"], "mask", *path)
        mask = draw_mask(self.hparams["mask"], self.encoder.grid_size, self.hparams["mask_ratio"], batch, generator)
        return mask.to(self.device)

    def predict_patches(self, x: Tensor, mask: Tensor) -> Tensor:
        """Predicted patches float32 ``[B, L, C*patch*patch]`` of dB pictures; ``mask`` bool ``[B, L]`` is hidden."""
        if self.hparams["mode"] == "token":
            return self.decoder(self.encoder.encode_masked(x, mask, self.mask_token)).float()
        visible = visible_index(mask)
        return self.decoder(self.encoder.encode_visible(x, visible), visible).float()

    def target_patches(self, batch: dict[str, Tensor]) -> Tensor:
        """What is to be predicted, ``[B, L, C*patch*patch]`` in the encoder's normalised units.

        Raises:
            DatasetError: the target is ``clean`` and the data have none.
        """
        patches = self.encoder.patches(self._target_picture(batch))
        if self.hparams["normalize_target"]:
            mean, deviation = _patch_statistics(patches)
            patches = (patches - mean) / deviation
        return patches

    def loss_of(self, batch: dict[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, prediction and target for one batch and its masks."""
        prediction = self.predict_patches(batch["spectrogram"].float(), mask)
        target = self.target_patches(batch)
        counted = torch.ones_like(mask) if self.hparams["loss_on"] == "all" else mask
        weight = self._cells(batch, counted)
        return self.loss(prediction, target, weight), prediction, target

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One step; masks are drawn from the seed and the step's number."""
        mask = self.draw(len(batch["spectrogram"]), "train", self.global_step)
        loss = self.require_finite(self.loss_of(batch, mask)[0])
        self.log("train_loss", loss, prog_bar=True, batch_size=len(mask))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Loss and accuracy with masks that are the same in every epoch."""
        self._evaluate(batch, batch_idx, "val", self.val_metrics)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Loss and accuracy on the test split."""
        self._evaluate(batch, batch_idx, "test", self.test_metrics)

    def export_model(self) -> SpectrogramEncoder:
        """The encoder; the decoder is thrown away."""
        return self.encoder

    def figures(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """Up to three samples, one a row: original, what the encoder saw, prediction, and the clean target if any."""
        from lwm.tasks.pictures import picture_grid

        # Spread over the batch: neighbours share a waveform.
        rows = torch.linspace(0, len(batch["spectrogram"]) - 1, min(3, len(batch["spectrogram"]))).long()
        few = {key: value[rows.to(value.device)] for key, value in batch.items() if isinstance(value, Tensor)}
        mask = self.draw(len(few["spectrogram"]), "figure")
        shown, predicted = self.reconstruct(few, mask)
        original = few["spectrogram"].float()
        columns = {"original": original, "masked": shown, "reconstructed": predicted}
        if self.hparams["target"] == "clean":
            columns["clean"] = self._target_picture(few)
        recipe = self.encoder.recipe
        low, high = (recipe.floor_db, float(original.max())) if recipe.channels == "grey" else (0.0, 255.0)
        return {"reconstruction": picture_grid({key: value[:, 0] for key, value in columns.items()}, low, high)}

    @torch.no_grad()
    def reconstruct(self, batch: dict[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures in dB ``[B, C, F, T]``: what the encoder saw (NaN where hidden), and the prediction.

        What the loss does not cover, patches outside it and padding, is copied from the original into the prediction.
        """
        encoder = self.encoder
        patches = encoder.patches(batch["spectrogram"].float())
        prediction = self.predict_patches(batch["spectrogram"].float(), mask)
        if self.hparams["normalize_target"]:
            mean, deviation = _patch_statistics(encoder.patches(self._target_picture(batch)))
            prediction = prediction * deviation + mean
        if self.hparams["loss_on"] == "masked":
            prediction = torch.where(mask[..., None], prediction, patches)
        seen = patches.masked_fill(mask[..., None], torch.nan)
        side, grid = encoder.config.patch, encoder.grid_size
        shown, predicted = (unpatchify(p, side, grid) * encoder.std + encoder.mean for p in (seen, prediction))
        real = batch["valid"].bool()[:, None, None, :]
        return shown, torch.where(real, predicted, batch["spectrogram"].float())

    def _target_picture(self, batch: dict[str, Tensor]) -> Tensor:
        wanted = "clean" if self.hparams["target"] == "clean" else "spectrogram"
        if wanted not in batch:
            raise DatasetError(
                "a data set without clean spectrograms", "one with them for target clean", "set target: noisy"
            )
        return batch[wanted].float()

    def _cells(self, batch: dict[str, Tensor], counted: Tensor) -> Tensor:
        encoder = self.encoder
        return cell_weight(counted, batch["valid"].bool(), encoder.config.patch, encoder.in_chans, encoder.grid_size)

    def _evaluate(self, batch: dict[str, Tensor], batch_idx: int, split: str, metrics: MetricCollection) -> None:
        mask = self.draw(len(batch["spectrogram"]), split, batch_idx)
        loss, prediction, target = self.loss_of(batch, mask)
        self.log(f"{split}_loss", loss, prog_bar=True, batch_size=len(mask))
        if not self.hparams["normalize_target"]:
            metrics.update(*self._occupied(batch, mask, prediction, target))
            self.log_dict(metrics, batch_size=len(mask))

    def _occupied(
        self, batch: dict[str, Tensor], mask: Tensor, prediction: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Whether hidden patches are above mean + 0.5 deviations of their sample's target, predicted and true.

        One patch is 4 x 4 cells in ``small`` and ``lwm``: the pooling of the paper. Only wholly real patches count.
        """
        cells = self._cells(batch, torch.ones_like(mask))
        count = cells.sum((1, 2)).clamp(min=1)
        mean = (target * cells).sum((1, 2)) / count
        variance = ((target - mean[:, None, None]).square() * cells).sum((1, 2)) / count
        threshold = (mean + 0.5 * variance.sqrt())[:, None]
        asked = mask & cells.bool().all(-1)
        return (prediction.mean(-1) > threshold)[asked].int(), (target.mean(-1) > threshold)[asked].int()


def _patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation ``[B, L, 1]`` of every patch; the deviation is kept from zero as in MAE."""
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()
