"""Instruction tuning: adapter, language model and tower learn, in stages, to answer about RF tokens."""

from copy import deepcopy
from dataclasses import asdict
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lwm.errors import ConfigError, ModelError
from lwm.hub import MODELS, from_pretrained, weights_sha256
from lwm.models.lora import add_lora
from lwm.registry import load
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe
from lwm.tasks.base import STATE_KEY, Task
from lwm.tasks.instruct_loss import AnswerLoss, answer_loss
from lwm.tasks.instruct_options import Lora, Schedule, Stage, Tuning, stages_of
from lwm.tasks.instruct_parts import kept_weights, let_learn, optimizer_of, part_of, trained_parts
from lwm.tasks.instruct_sharding import shard_rfgpt
from lwm.tasks.options import group_of
from lwm.tasks.sharding import is_sharded

# The mean and deviation of RF tokens that a trained tower gives at first are taken from so many samples.
_STATISTICS_SAMPLES = 512


class InstructionTuning(Task):
    """RF-GPT trained on question-answer pairs, loss on answer tokens only (Zou et al., arXiv 2602.14833).

    A run is one or more stages, each with a learning rate a part (0: frozen) and a schedule of its own; where a run
    stands follows from its step alone, so that an interrupted one goes on exactly, across a border too. The loss is
    the sum over all answer tokens of an optimizer step, of all its accumulated batches and processes, divided by
    their number: every answer token counts alike, however batches are cut.

    RF tokens of a tower that no stage trains are computed once per data set, otherwise in every step. A checkpoint
    holds what was trained, and the SHA-256 of the tower and of a pretrained language model; loading it loads these
    again and refuses others.

    Args:
        tower: model folder of an encoder or a mixture of experts; the same as `llm` for a vision-language model that
            has a tower of its own (Qwen2.5-VL), which then decides over RF tokens, merge and adapter.
        llm: shape trained from scratch, by name (see `lwm.language.llm`) or as a transformers config with
            `model_type`; or a pretrained model with its tokenizer: a folder, hub id, `.gguf` file or `smollm2-135m`.
        token_rows: RF tokens along frequency; divides the tower's grid.
        token_columns: RF tokens along time; divides the tower's grid.
        merge: how the tower's tokens become RF tokens (see `lwm.language.merge`).
        layer: block of the tower whose tokens are taken (negative from the end); None for its output.
        adapter: one linear layer, or two.
        lora: low-rank updates in place of all of the language model's weights; None trains these.
        stages: in order; None for one of adapter and language model.
        tuning: decay, schedule, memory, seed.
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
        merge: Literal["mean", "mean_spread", "pixel_shuffle", "none"] = "mean_spread",
        layer: int | None = None,
        adapter: Literal["linear", "mlp"] = "linear",
        lora: Lora | None = None,
        stages: list[Stage] | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        super().__init__()
        listed, lora = stages_of(stages), None if lora is None else group_of(Lora, lora)
        tuning = group_of(Tuning, tuning)
        self.remember(locals() | {"stages": [asdict(stage) for stage in listed]})
        del self.hparams["listed"]
        self.stages, self.lora, self.tuning = listed, lora, tuning
        self.trained = trained_parts(listed)
        self.base_sha256 = {"tower": "", "llm": ""}
        self.parts: dict[str, Any] | None = None
        self._loaded: Any = None

    @property
    def is_whole(self) -> bool:
        """Whether tower and language model come as one: a vision-language model with an encoder of its own."""
        return self.hparams["tower"] == self.hparams["llm"]

    @property
    def context(self) -> int | None:
        """Most tokens of a conversation, where the language model says so."""
        return getattr(self.model.llm.config, "max_position_embeddings", None)

    def setup(self, stage: str) -> None:
        """Build the model for the data at hand, make the batches' conversations, compute a frozen tower's RF tokens.

        Raises:
            ConfigError: the data are no instructions; a conversation is longer than the language model's context or
                cannot be aligned with the chat template.
            ModelError: the data's tokenizer is not the one of a loaded model.
            RecipeMismatch: the data are of another recipe than the tower's.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "make_chat"):
            raise ConfigError(
                f"data of class {type(data).__name__}", "lwm.language.datamodule.InstructionDataModule", "set data"
            )
        self._learn_text_side(data)
        super().setup(stage)
        frozen = "tower" not in self.trained
        encode = self._encode if frozen else None
        data.prepare(stage, self.model.chat, self.model.rf_tokens, self.context, encode)
        if stage == "fit" and not self.is_whole:
            part = data.part("train")
            first = part.rf if frozen else part.encoded_part(self._encode, "train", _STATISTICS_SAMPLES)
            self.model.adapter.fit(first)

    def configure_models(self, recipe: Recipe, mean: float, std: float) -> None:
        """RF-GPT around the tower's folder; the tower brings its own mean and standard deviation.

        Raises:
            ModelError: the tower's folder holds no encoder, the language model cannot be loaded, or the text side of
                the model is not known yet.
            RecipeMismatch: the data are of another recipe than the tower's.
        """
        if self.parts is None:
            raise ModelError("instruction tuning without a tokenizer", "one from the data or a checkpoint", "fit it")
        if self.is_whole:
            self._configure_whole(recipe)
        else:
            self._configure_parts(recipe)
        # A model that is loaded is in evaluation mode: nothing would be computed again, nothing dropped.
        self.model.train()
        if self.tuning.checkpointing:
            self.model.llm.activation_checkpointing_enable({"use_reentrant": False})
        let_learn(self.model, self.trained, self.lora is not None)

    def _configure_parts(self, recipe: Recipe) -> None:
        options = self.hparams
        tower = from_pretrained(options["tower"])
        if not hasattr(tower, "forward_features"):
            raise ModelError(f"{options['tower']} holds a {type(tower).__name__}", "an encoder or mixture of experts")
        tower.recipe.require_same(recipe, f"the tower {options['tower']}", "the data")
        rfgpt = load(MODELS, "rfgpt")
        loaded = self._loaded or rfgpt.base_llm(options["llm"])
        self._loaded = None
        self.base_sha256 = {"tower": weights_sha256(tower), "llm": loaded.source.sha256 if loaded else ""}
        shape = {name: options[name] for name in ("llm", "merge", "layer", "adapter")}
        shape |= {"tokens": [options["token_rows"], options["token_columns"]]}
        shape |= {"lora": None if self.lora is None else self.lora.plain()}
        assert self.parts is not None
        self.model = rfgpt.build(tower, self.parts | shape, loaded.llm if loaded else None)

    def _configure_whole(self, recipe: Recipe) -> None:
        assert self.parts is not None
        self.model = self._loaded or self._load_whole(recipe, self.parts["labels"])
        self._loaded = None
        self.base_sha256 = {part: weights_sha256(part_of(self.model, part)) for part in ("tower", "llm")}
        if self.lora is not None:
            add_lora(self.model.llm, self.lora.plain())

    def _load_whole(self, recipe: Recipe, labels: Any) -> Any:
        # Weights that learn are float32; the trainer's precision says what is computed in.
        return load(MODELS, "qwen_vl").from_pretrained(self.hparams["llm"], recipe, labels, dtype=torch.float32)

    def configure_model(self) -> None:
        """Shard the model where the strategy asks for it (:mod:`lwm.tasks.sharding`)."""
        if self.device_mesh is not None and not is_sharded(self.model):
            shard_rfgpt(self.model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        """AdamW over every part that some stage trains; in each stage a warm-up and a cosine by step."""
        total = self.trainer.estimated_stepping_batches
        if not 0 < total < float("inf"):
            raise ConfigError("a trainer without an end", "max_epochs or max_steps", "set trainer.max_epochs")
        self.schedule = Schedule(self.stages, int(total), self.tuning)
        fused = self.device.type in ("cpu", "cuda")
        return optimizer_of(self.model, self.schedule, self.tuning.weight_decay, fused)

    def rf_of(self, batch: dict[str, Tensor]) -> Tensor:
        """RF tokens ``[P, n, features]`` of a batch: cached, or of its pictures."""
        return batch["rf"] if "rf" in batch else self.model.encode(batch["spectrogram"].float())

    def answer_loss(self, batch: dict[str, Tensor]) -> AnswerLoss:
        """Cross entropy of a batch's answer tokens, each predicted from the tokens before it.

        Raises:
            DatasetError: no token has a label.
        """
        return answer_loss(self.model, self.rf_of(batch), batch)

    def on_train_start(self) -> None:
        """Go on where a resumed run stopped, in its stage."""
        super().on_train_start()
        self._enter_stage()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One batch, weighed so that the step's gradient is that of its mean over all answer tokens.

        Lightning divides by the batches of a step, and processes are averaged; both are undone here.
        """
        place = [int(number) for number in batch["place"]]
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(rng_for(self.tuning.seed, "dropout", *place).integers(2**62)))
            found = self.answer_loss(batch)
        tokens, batches = (int(number) for number in batch["step"])
        loss = self.require_finite(found.total * (batches / tokens))
        self.log("train_loss", found.mean.detach(), prog_bar=True, batch_size=found.tokens)
        self.log("stage", float(self.schedule.at(self.global_step)), batch_size=1)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Where parts cannot be frozen on the way (several processes), drop the gradients of those that rest."""
        for part in self._resting():
            for parameter in part_of(self.model, part).parameters():
                parameter.grad = None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Go into the next stage once its first step is next."""
        self._enter_stage()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Loss on the validation split, a mean over answer tokens."""
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Loss on the test split; answers are scored by `lwm.language.score`."""
        self._evaluate(batch, "test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was trained and the text side of the model; of the bases only the SHA-256."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"] = self._kept(checkpoint["state_dict"])
        checkpoint[STATE_KEY] |= {"parts": self.parts, "base_sha256": self.base_sha256}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build with the same bases, and give their weights to the checkpoint so that loading stays strict.

        Raises:
            ModelError: a base is another one, or the data of a resumed run have another tokenizer.
        """
        kept = checkpoint.get(STATE_KEY, {})
        if self.parts is None:
            self.parts = kept.get("parts")
        super().on_load_checkpoint(checkpoint)
        self._require_chat(kept["parts"]["chat"])
        for base, wanted in kept["base_sha256"].items():
            if self.base_sha256[base] != wanted:
                raise ModelError(
                    f"{base} {self.hparams[base]} is not the one that this checkpoint was trained on (SHA-256 "
                    f"{self.base_sha256[base][:12]}..., not {wanted[:12]}...)",
                    f"the same {base}",
                    "give it or tune again",
                )
        own = self.state_dict()
        bases = {name: value for name, value in own.items() if name not in self._kept(own)}
        checkpoint["state_dict"] = checkpoint["state_dict"] | bases

    def export_model(self) -> nn.Module:
        """RF-GPT; low-rank updates become part of the language model's weights, a frozen tower is as in its folder.

        Raises:
            ModelError: the folder holds another tower by now.
        """
        wanted = self.base_sha256["tower"]
        found = wanted if self.is_whole else weights_sha256(from_pretrained(self.hparams["tower"]))
        if found != wanted:
            raise ModelError(
                f"tower {self.hparams['tower']} has changed since training (SHA-256 {found[:12]}...)",
                f"{wanted[:12]}...",
                "give back its folder or tune again",
            )
        if self.lora is None:
            return self.model.eval()
        merged = deepcopy(self.model)
        merged.merge_lora()
        return merged.eval()

    def _encode(self, x: Tensor) -> Tensor:
        # In `setup` the model is not on its device yet.
        device = self.trainer.strategy.root_device
        self.model.tower.to(device)
        with torch.no_grad():
            return self.model.encode(x.to(device))

    def _evaluate(self, batch: dict[str, Tensor], split: str) -> None:
        found = self.answer_loss(batch)
        self.log(f"{split}_loss", found.mean, prog_bar=True, batch_size=found.tokens, sync_dist=True)

    def _enter_stage(self) -> None:
        """Freeze what rests in the stage of the next step, to save its gradients; several processes keep them all,
        because their strategies look once at what learns."""
        if self.trainer.world_size == 1 and not is_sharded(self.model):
            resting = self._resting()
            let_learn(self.model, [part for part in self.trained if part not in resting], self.lora is not None)

    def _resting(self) -> list[Any]:
        """Parts that this run trains, but not in the stage of the next step."""
        stage = self.stages[self.schedule.at(self.global_step)]
        return [part for part in self.trained if stage.rate(part) == 0]

    def _kept(self, state: dict[str, Any]) -> dict[str, Any]:
        return kept_weights(state, self.trained, bool(self.base_sha256["llm"]), self.lora is not None)

    def _learn_text_side(self, data: Any) -> None:
        """Chat and labels: of the pretrained language model and the data, or all of the data."""
        if self.parts is not None and self.base_sha256["llm"]:
            return
        if self.parts is None and self.is_whole:
            self._loaded = self._load_whole(data.recipe, data.labels)
        elif self.parts is None:
            self._loaded = load(MODELS, "rfgpt").base_llm(self.hparams["llm"])
        chat = self._loaded.chat if self._loaded else data.make_chat()
        if self.parts is None:
            self.parts = {"chat": chat.get_config(), "labels": data.labels}
        self._require_chat(chat.get_config())

    def _require_chat(self, chat: dict[str, Any]) -> None:
        if self.parts is not None and chat != self.parts["chat"]:
            raise ModelError(
                "the tokenizer of the data is not the checkpoint's",
                "one tokenizer",
                "use the data, seed and vocab_size that the run began with",
            )
