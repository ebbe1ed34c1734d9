"""Stages of one run: what moves in which, exact continuation, LoRA, a trained tower, accumulation, context."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lwm.data.shard import write_dataset
from lwm.errors import ConfigError, ModelError
from lwm.export import export, load_task
from lwm.hub import from_pretrained, save_pretrained
from lwm.language.datamodule import InstructionDataModule
from lwm.language.tokenizer import ChatTokenizer
from lwm.models.encoder import build_encoder
from lwm.signal.recipe import recipe_named
from lwm.tasks.instruct import InstructionTuning
from lwm.tasks.instruct_options import Lora, Stage, Tuning

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
TWO = [Stage(adapter=5e-3), Stage(adapter=1e-3, llm=1e-3)]


class Watch(pl.Callback):
    """Keeps the weights before every optimizer step, and a checkpoint after one."""

    def __init__(self, save_at: int = -1, to: Path | None = None) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.save_at, self.to, self.step = save_at, to, -1

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step != self.step:
            self.step = trainer.global_step
            self.states.append(weights(pl_module))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.save_at and self.to is not None and not self.to.exists():
            trainer.save_checkpoint(self.to)


def weights(task: pl.LightningModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in task.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Parts with a weight that differs."""
    return {name.split(".")[1] for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of 16 training samples, a tower, and a small pretrained language model with its tokenizer."""
    root = tmp_path_factory.mktemp("stages")
    picture = np.random.Generator(np.random.PCG64(0)).normal(size=(24, 1, 64, 64))
    labels = {"technology": ["alpha", "beta"] * 12, "link": ["downlink"] * 24}
    split = ["train"] * 16 + ["validation"] * 4 + ["test"] * 4
    write_dataset(root / "data", picture, recipe_named("small"), labels, split=split)
    save_pretrained(build_encoder("tiny", recipe_named("small"), seed=0), root / "tower")
    pretrained(root / "llm")
    return root


def pretrained(folder: Path, seed: int = 0) -> None:
    """A folder as transformers writes it."""
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    chat = ChatTokenizer.train(["Which technology is this? alpha beta downlink in JSON"], 300)
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=chat._tokenizer, eos_token="<|im_end|>", pad_token="<pad>", chat_template=template
    )
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def task_of(root: Path, **options: Any) -> InstructionTuning:
    given: dict[str, Any] = {"llm": "test", "token_rows": 2, "token_columns": 2, "stages": TWO} | options
    return InstructionTuning(str(root / "tower"), **given)


def fit(
    root: Path, task: InstructionTuning, checkpoint: Path | None = None, data: dict[str, Any] | None = None, **more: Any
) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(default_root_dir=root, **(QUIET | {"max_epochs": 2, "gradient_clip_val": 1.0} | more))
    module = InstructionDataModule(str(root / "data"), **({"batch_size": 2} | (data or {})))
    trainer.fit(task, datamodule=module, ckpt_path=checkpoint)
    return trainer


def test_each_stage_moves_its_parts_and_no_other(root: Path) -> None:
    watch, task = Watch(), task_of(root)
    fit(root, task, callbacks=[watch])
    assert len(watch.states) == 16
    assert moved(watch.states[0], watch.states[8]) == {"adapter"}
    assert moved(watch.states[8], weights(task)) == {"adapter", "llm"}


# Saved in the middle of an epoch in the first stage, at the border of the stages, and in the second stage.
@pytest.mark.parametrize("step", [1, 4, 5])
def test_an_interrupted_run_ends_bit_for_bit_like_one_that_was_not(root: Path, tmp_path: Path, step: int) -> None:
    options: dict[str, Any] = {"lora": Lora(rank=2, dropout=0.2), "adapter": "mlp"}
    how: dict[str, Any] = {"accumulate_grad_batches": 2}
    whole = task_of(root, **options)
    fit(root, whole, callbacks=[Watch(step, tmp_path / "half.ckpt")], **how)
    resumed = task_of(root, **options)
    trainer = fit(root, resumed, tmp_path / "half.ckpt", **how)
    assert trainer.global_step == 8
    assert moved(torch.load(tmp_path / "half.ckpt", weights_only=True)["state_dict"], weights(whole))
    for name, value in weights(resumed).items():
        assert torch.equal(value, weights(whole)[name]), name


def test_the_gradient_of_a_step_is_that_of_all_its_answer_tokens_however_it_is_cut(root: Path) -> None:
    class Keep(pl.Callback):
        def __init__(self) -> None:
            self.gradients: list[dict[str, Tensor]] = []

        def on_before_optimizer_step(self, trainer: pl.Trainer, task: pl.LightningModule, optimizer: Any) -> None:
            self.gradients.append({name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None})

    found = []
    for size, accumulated in ((16, 1), (5, 4)):  # 16 samples: 5 + 5 + 5 + 1
        keep = Keep()
        task = task_of(root, stages=[Stage(adapter=1e-3, llm=1e-3)])
        more: dict[str, Any] = {"accumulate_grad_batches": accumulated, "max_epochs": 1, "gradient_clip_val": None}
        fit(root, task, data={"batch_size": size}, callbacks=[keep], **more)
        assert len(keep.gradients) == 1
        found.append(keep.gradients[0])
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-6, msg=name)


def test_a_trained_tower_moves_and_its_checkpoint_holds_it(root: Path, tmp_path: Path) -> None:
    watch = Watch()
    task = task_of(root, stages=[Stage(adapter=5e-3), Stage(adapter=1e-3, llm=1e-3, tower=1e-3)])
    trainer = fit(root, task, callbacks=[watch])
    assert moved(watch.states[0], watch.states[8]) == {"adapter"}
    assert moved(watch.states[8], weights(task)) == {"adapter", "llm", "tower"}
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    exported = from_pretrained(export(str(tmp_path / "last.ckpt"), str(tmp_path / "model")))
    for name, value in exported.tower.state_dict().items():
        assert torch.equal(value, task.model.tower.state_dict()[name]), name


def test_lora_moves_its_updates_only_and_is_merged_on_export(root: Path, tmp_path: Path) -> None:
    task = task_of(root, llm=str(root / "llm"), lora=Lora(rank=2))
    trainer = fit(root, task)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert {name.split(".")[1] for name in kept["state_dict"]} == {"adapter", "llm"}
    assert all("lora_" in name for name in kept["state_dict"] if name.startswith("model.llm."))
    assert len(kept["lwm"]["base_sha256"]["llm"]) == 64
    loaded = load_task(tmp_path / "last.ckpt")
    base = from_llm(root / "llm")
    for name, value in loaded.model.llm.state_dict().items():
        if "lora_" not in name:
            assert torch.equal(value, base[name.replace(".base_layer", "")]), name
    merged = from_pretrained(export(str(tmp_path / "last.ckpt"), str(tmp_path / "model")))
    assert not [name for name in merged.state_dict() if "lora" in name]
    rf = torch.randn(1, 4, 64)
    ids = torch.tensor([merged.chat.prompt("Which technology is this?", 4)])
    with torch.no_grad():
        ours, theirs = (model.eval()(rf, ids, torch.ones_like(ids)) for model in (merged, task.model))
        unchanged = torch.equal(theirs, base_logits(task, rf, ids))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not unchanged


def from_llm(folder: Path) -> dict[str, Tensor]:
    from transformers import Qwen2ForCausalLM

    return Qwen2ForCausalLM.from_pretrained(folder).state_dict()


def base_logits(task: InstructionTuning, rf: Tensor, ids: Tensor) -> Tensor:
    """Logits with the updates taken out."""
    for name, parameter in task.model.llm.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    return task.model(rf, ids, torch.ones_like(ids))


def test_another_language_model_under_the_same_path_is_refused(root: Path, tmp_path: Path) -> None:
    pretrained(tmp_path / "llm")
    task = task_of(root, llm=str(tmp_path / "llm"), stages=[Stage(adapter=1e-3)])
    trainer = fit(root, task, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert not [n for n in torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"] if "model.llm" in n]
    load_task(tmp_path / "last.ckpt")
    pretrained(tmp_path / "llm", seed=1)
    with pytest.raises(ModelError, match=r"llm .*SHA-256.*the same llm"):
        load_task(tmp_path / "last.ckpt")


def test_recomputed_activations_and_bfloat16_train_too(root: Path) -> None:
    # As near to each other as two ways of one computation; bfloat16 has 8 bits.
    losses = {}
    for name, options, precision in (
        ("plain", Tuning(), "32-true"),
        ("recomputed", Tuning(checkpointing=True), "32-true"),
        ("bf16", Tuning(), "bf16-mixed"),
    ):
        task = task_of(root, tuning=options)
        trainer = fit(root, task, max_epochs=1, precision=precision)
        losses[name] = float(trainer.callback_metrics["val_loss"])
    assert losses["recomputed"] == pytest.approx(losses["plain"], rel=1e-5)
    assert losses["bf16"] == pytest.approx(losses["plain"], rel=0.02)


def test_packed_rows_train_to_what_padded_rows_do(root: Path) -> None:
    tasks = [task_of(root) for _ in range(2)]
    for task, packed in zip(tasks, (0, 200), strict=True):
        fit(root, task, max_epochs=1, data={"batch_size": 8, "packed": packed})
    for name, value in weights(tasks[0]).items():
        torch.testing.assert_close(weights(tasks[1])[name], value, rtol=1e-2, atol=2e-4, msg=name)


def test_a_conversation_longer_than_the_context_is_refused_before_the_first_step(root: Path) -> None:
    llm = {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    llm |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 24}
    watch = Watch()
    with pytest.raises(ConfigError, match=r"conversation .* of \d+ tokens.*at most 24, the language model's context"):
        fit(root, task_of(root, llm=llm, token_rows=4, token_columns=4), callbacks=[watch])
    assert not watch.states
    with pytest.raises(ConfigError, match=r"packed rows of 2000 tokens; expected at most 1024"):
        fit(root, task_of(root), data={"packed": 2000})
