"""Instruction tuning: adapter and language model learn to answer about the RF tokens of a frozen tower."""

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from lwm.errors import ConfigError, ModelError
from lwm.hub import MODELS, from_pretrained, weights_sha256
from lwm.registry import load
from lwm.signal.recipe import Recipe
from lwm.tasks.base import Task
from lwm.tasks.schedule import adamw_cosine

_TOWER = "model.tower."


class InstructionTuning(Task):
    """RF-GPT trained on question-answer pairs, loss on answer tokens only.

    The tower is frozen: its RF tokens are computed once per data set, and a checkpoint holds adapter, language model
    and tokenizer with the SHA-256 of the tower's weights. Loading a checkpoint loads the tower's folder again and
    refuses another.

    Args:
        tower: model folder of an encoder or a mixture of experts.
        llm: language model by name (see `lwm.language.llm`) or as a transformers config with `model_type`.
        token_rows: RF tokens along frequency; divides the tower's grid.
        token_columns: RF tokens along time; divides the tower's grid.
        merge: what a merged token holds: the mean, or the mean beside the spread over time.
        layer: block of the tower whose tokens are taken (negative from the end); None for its output.
        learning_rate: peak rate of AdamW.
        weight_decay: decay of matrices.
    """

    task_name: ClassVar[str] = "instruct"
    # RF-GPT is found by its registered name: `lwm.language` stands to the right of the tasks.
    model: Any

    def __init__(
        self,
        tower: str,
        llm: str | dict[str, Any] = "tiny",
        token_rows: int = 4,
        token_columns: int = 4,
        merge: Literal["mean", "mean_spread"] = "mean_spread",
        layer: int | None = None,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__()
        self.remember(locals())
        if not (learning_rate > 0 and weight_decay >= 0):
            raise ConfigError(f"learning_rate {learning_rate}, weight_decay {weight_decay}", "> 0 and >= 0")
        self.tower_sha256 = ""
        self.parts: dict[str, Any] | None = None

    def setup(self, stage: str) -> None:
        """Build the model for the data at hand and compute the RF tokens that this stage needs, once.

        Raises:
            ConfigError: the data are no instructions.
            ModelError: the data's tokenizer is not the one of a loaded model.
            RecipeMismatch: the data are of another recipe than the tower's.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "tokenizer"):
            raise ConfigError(
                f"data of class {type(data).__name__}", "lwm.language.datamodule.InstructionDataModule", "set data"
            )
        if self.parts is None:
            self.parts = {"tokenizer": data.tokenizer.to_json(), "labels": data.labels}
        self._require_tokenizer(data.tokenizer.to_json())
        super().setup(stage)
        data.encode(stage, lambda x: self.model.encode(x.to(self.device)), self.model.rf_tokens)
        if stage == "fit":
            self.model.adapter.fit(data.rf_tokens("train"))

    def configure_models(self, recipe: Recipe, mean: float, std: float) -> None:
        """RF-GPT around the tower's folder; the tower brings its own mean and standard deviation.

        Raises:
            ModelError: the folder holds no encoder, or the text side of the model is not known yet.
            RecipeMismatch: the data are of another recipe than the tower's.
        """
        if self.parts is None:
            raise ModelError("instruction tuning without a tokenizer", "one from the data or a checkpoint", "fit it")
        options = self.hparams
        tower = from_pretrained(options["tower"])
        if not hasattr(tower, "forward_features"):
            raise ModelError(f"{options['tower']} holds a {type(tower).__name__}", "an encoder or mixture of experts")
        tower.recipe.require_same(recipe, f"the tower {options['tower']}", "the data")
        self.tower_sha256 = weights_sha256(tower)
        tokens = [options["token_rows"], options["token_columns"]]
        shape = {"llm": options["llm"], "tokens": tokens, "merge": options["merge"], "layer": options["layer"]}
        self.model = load(MODELS, "rfgpt").build(tower, self.parts | shape)

    def configure_losses(self) -> None:
        """Cross entropy over the labels that are not left out (-100)."""
        self.loss = nn.CrossEntropyLoss(ignore_index=-100)

    def configure_optimizers(self) -> Any:
        """AdamW over adapter and language model with warm-up and cosine by step."""
        return adamw_cosine(
            [self.model.adapter, self.model.llm],
            self.hparams["learning_rate"],
            self.hparams["weight_decay"],
            self.trainer.estimated_stepping_batches,
        )

    def answer_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross entropy of a batch's answer tokens, each predicted from the tokens before it."""
        logits = self.model(batch["rf"], batch["input_ids"], batch["attention_mask"])
        return self.loss(logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One step."""
        loss = self.require_finite(self.answer_loss(batch))
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch["rf"]))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Loss on the validation split."""
        self.log("val_loss", self.answer_loss(batch), prog_bar=True, batch_size=len(batch["rf"]))

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Loss on the test split; answers are scored by `lwm.language.score`."""
        self.log("test_loss", self.answer_loss(batch), prog_bar=True, batch_size=len(batch["rf"]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was trained and the text side of the model; of the tower only the SHA-256."""
        super().on_save_checkpoint(checkpoint)
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: value for key, value in weights.items() if not key.startswith(_TOWER)}
        checkpoint["lwm"] |= {"parts": self.parts, "tower_sha256": self.tower_sha256}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build with the same tower, and give its weights to the checkpoint so that loading stays strict.

        Raises:
            ModelError: the tower is another one, or the data of a resumed run have another tokenizer.
        """
        kept = checkpoint.get("lwm", {})
        if self.parts is None:
            self.parts = kept.get("parts")
        super().on_load_checkpoint(checkpoint)
        self._require_tokenizer(kept["parts"]["tokenizer"])
        if self.tower_sha256 != kept["tower_sha256"]:
            raise ModelError(
                f"tower {self.hparams['tower']} is not the one that this checkpoint was trained on (SHA-256 "
                f"{self.tower_sha256[:12]}..., not {kept['tower_sha256'][:12]}...)",
                "the same tower",
                "give its folder or tune again",
            )
        frozen = {_TOWER + key: value for key, value in self.model.tower.state_dict().items()}
        checkpoint["state_dict"] = checkpoint["state_dict"] | frozen

    def export_model(self) -> nn.Module:
        """RF-GPT with the tower's weights as they are in its folder.

        Raises:
            ModelError: the folder holds another tower by now.
        """
        found = weights_sha256(from_pretrained(self.hparams["tower"]))
        if found != self.tower_sha256:
            raise ModelError(
                f"tower {self.hparams['tower']} has changed since training (SHA-256 {found[:12]}...)",
                f"{self.tower_sha256[:12]}...",
                "give back its folder or tune again",
            )
        return self.model.eval()

    def _require_tokenizer(self, text: str) -> None:
        if self.parts is not None and text != self.parts["tokenizer"]:
            raise ModelError(
                "the tokenizer of the data is not the checkpoint's",
                "one tokenizer",
                "use the data, seed and vocab_size that the run began with",
            )
