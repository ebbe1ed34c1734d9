"""Masked modelling: what the loss counts, that it learns, and that checkpoints stand alone."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lwm.errors import ConfigError, DatasetError, LWMError, ModelError, RecipeMismatch
from lwm.export import export, load_task
from lwm.hub import check_model, from_pretrained
from lwm.models.encoder import patchify, unpatchify
from lwm.signal.recipe import recipe_named
from lwm.tasks.base import best_precision
from lwm.tasks.pretrain import MaskedModeling
from lwm.tasks.schedule import FINAL_SHARE, decay_groups, warmup_cosine


def task_for(data: Any, **options: Any) -> MaskedModeling:
    torch.manual_seed(0)
    return MaskedModeling(**({"size": "tiny", "name": "lte"} | options)).build(data.recipe, *data.statistics)


def changed_patches(x: torch.Tensor, which: torch.Tensor, by: float) -> torch.Tensor:
    return unpatchify(patchify(x, 16) + by * which[..., None], 16, (4, 4))


@pytest.mark.parametrize("mode", ["drop", "token"])
@torch.no_grad()
def test_only_masked_patches_of_the_target_count(toy: Any, mode: str) -> None:
    task, batch = task_for(toy(), target="clean", mode=mode), toy().batch()
    mask = task.draw(8, "train", 0)
    before = task.loss_of(batch, mask)[0]
    visible = batch | {"clean": changed_patches(batch["clean"], ~mask, 7.0)}
    assert task.loss_of(visible, mask)[0] == before
    hidden = batch | {"clean": changed_patches(batch["clean"], mask, 7.0)}
    assert task.loss_of(hidden, mask)[0] != before
    both = task_for(toy(), target="clean", mode=mode, loss_on="all")
    assert both.loss_of(visible, mask)[0] != both.loss_of(batch, mask)[0]


@pytest.mark.parametrize("mode", ["drop", "token"])
@torch.no_grad()
def test_masked_input_never_reaches_the_prediction(toy: Any, mode: str) -> None:
    task, batch = task_for(toy(), mode=mode), toy().batch()
    mask = task.draw(8, "train", 0)
    x = batch["spectrogram"]
    before = task.predict_patches(x, mask)
    torch.testing.assert_close(task.predict_patches(changed_patches(x, mask, 30.0), mask), before)
    assert not torch.allclose(task.predict_patches(changed_patches(x, ~mask, 30.0), mask), before)


@pytest.mark.parametrize("loss_on", ["masked", "all"])
@torch.no_grad()
def test_padded_columns_of_the_target_do_not_count(toy: Any, loss_on: str) -> None:
    task, batch = task_for(toy(), target="clean", loss_on=loss_on), toy().batch()
    mask = task.draw(8, "train", 0)
    padding = (~batch["valid"])[:, None, None, :]
    assert padding.any()
    other = batch | {"clean": batch["clean"] + 50.0 * padding}
    assert task.loss_of(other, mask)[0] == task.loss_of(batch, mask)[0]


def test_normalized_targets_have_no_mean_and_unit_deviation(toy: Any) -> None:
    patches = task_for(toy(), normalize_target=True).target_patches(toy().batch())
    assert patches.mean(-1).abs().max() < 1e-4
    torch.testing.assert_close(patches.std(-1), torch.ones_like(patches.std(-1)), atol=1e-3, rtol=0)


def test_overfits_eight_samples(toy: Any, quiet: dict[str, Any]) -> None:
    pl.seed_everything(0, verbose=False)
    task = MaskedModeling(size="tiny", name="lte", target="clean", loss_on="all", mask_ratio=0.5, learning_rate=5e-3)
    data = toy()
    pl.Trainer(max_epochs=120, limit_val_batches=0, **quiet).fit(task, datamodule=data)
    with torch.no_grad():
        task.eval()
        after = task.loss_of(data.batch(), task.draw(8, "figure"))[0]
        target = task.target_patches(data.batch())
    # Predicting the mean gives the variance of the target; a tenth of it says the stripes were learned.
    assert after < 0.1 * target.var()
    assert task.encoder.recipe == data.recipe


def test_masks_depend_on_seed_and_step_alone(toy: Any) -> None:
    task, other = task_for(toy()), task_for(toy(), seed=1)
    torch.manual_seed(99)
    assert torch.equal(task.draw(4, "train", 3), task_for(toy()).draw(4, "train", 3))
    assert not torch.equal(task.draw(4, "train", 3), task.draw(4, "train", 4))
    assert not torch.equal(task.draw(4, "train", 3), other.draw(4, "train", 3))


@torch.no_grad()
def test_accuracy_is_one_for_the_truth(toy: Any) -> None:
    task, batch = task_for(toy(), target="clean"), toy().batch()
    mask = task.draw(8, "val", 0)
    # Every other patch on the air.
    target = torch.where(torch.arange(16) % 2 == 0, 1.0, -1.0)[None, :, None].expand(8, -1, 256)
    predicted, truth = task._occupied(batch, mask, target, target)
    assert torch.equal(predicted, truth)
    # Twelve hidden patches a sample, fewer where half of the columns are padding.
    assert 0 < len(truth) < 8 * 12
    inverted, truth = task._occupied(batch, mask, -target, target)
    assert torch.equal(inverted, 1 - truth)


def test_checkpoints_are_whole_in_a_fresh_process(toy: Any, quiet: dict[str, Any], tmp_path: Path) -> None:
    options = {"size": "tiny", "name": "nr", "mask": "block", "learning_rate": 2e-3}
    tasks = {"python": MaskedModeling(**options), "cli": built_by_cli(options)}  # type: ignore[arg-type]
    for way, task in tasks.items():
        trainer = pl.Trainer(max_steps=2, limit_val_batches=1, **quiet)
        trainer.fit(task, datamodule=toy())
        trainer.save_checkpoint(tmp_path / f"{way}.ckpt")
        kept = torch.load(tmp_path / f"{way}.ckpt", weights_only=True)
        assert kept["hyper_parameters"] == dict(task_for(toy()).hparams) | options
    code = (
        "import torch\n"
        "from lwm.tasks.pretrain import MaskedModeling\n"
        "for way in ('python', 'cli'):\n"
        "    task = MaskedModeling.load_from_checkpoint(way + '.ckpt', weights_only=True).eval()\n"
        "    assert task.hparams['mask'] == 'block' and task.encoder.name == 'nr' and task.recipe.name == 'small'\n"
        "    assert (float(task.encoder.mean), float(task.encoder.std)) == (-12, 18)\n"
        "    torch.save(task.encoder(torch.zeros(1, 1, 64, 64)).detach(), way + '.pt')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    for way, task in tasks.items():
        with torch.no_grad():
            expected = task.eval().encoder(torch.zeros(1, 1, 64, 64))
        torch.testing.assert_close(torch.load(tmp_path / f"{way}.pt"), expected)


def built_by_cli(options: dict[str, Any]) -> MaskedModeling:
    from pytorch_lightning.cli import LightningCLI

    flags = [f"--model.init_args.{key}={value}" for key, value in options.items()]
    cli = LightningCLI(
        pl.LightningModule,
        subclass_mode_model=True,
        run=False,
        save_config_callback=None,
        args=["--model=lwm.tasks.pretrain.MaskedModeling", *flags, "--trainer.logger=false"],
    )
    assert isinstance(cli.model, MaskedModeling)
    return cli.model


def test_export_makes_a_sound_folder(toy: Any, quiet: dict[str, Any], tmp_path: Path) -> None:
    task = MaskedModeling(size="tiny", name="lte")
    trainer = pl.Trainer(max_epochs=1, **quiet)
    trainer.fit(task, datamodule=toy())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    folder = export(str(tmp_path / "run.ckpt"), str(tmp_path / "model"))
    assert check_model(folder) == []
    model = from_pretrained(folder)
    torch.testing.assert_close(model.state_dict(), task.encoder.state_dict())
    provenance = (folder / "provenance.json").read_text()
    for said in ('"task": "pretrain"', '"command"', '"val_loss"', '"checkpoint_sha256"'):
        assert said in provenance
    with pytest.raises(LWMError, match="not empty"):
        export(str(tmp_path / "run.ckpt"), str(tmp_path / "model"))


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no checkpoint"):
        load_task(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ModelError, match="cut short"):
        load_task(tmp_path / "text.ckpt")
    torch.save({"code": Path}, tmp_path / "code.ckpt")
    with pytest.raises(ModelError, match="cannot be read"):
        load_task(tmp_path / "code.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ModelError, match="no checkpoint of an LWM task"):
        load_task(tmp_path / "other.ckpt")


def test_loss_that_is_not_finite_stops_and_names_the_step(toy: Any, quiet: dict[str, Any]) -> None:
    class Broken(toy):
        def items(self) -> list[dict[str, Any]]:
            items = super().items()
            items[5]["spectrogram"][0, 3, 3] = torch.nan
            return items

    with pytest.raises(LWMError, match="loss of step 1 is nan"):
        pl.Trainer(max_epochs=1, limit_val_batches=0, **quiet).fit(MaskedModeling(size="tiny"), datamodule=Broken())


def test_refusals(toy: Any, quiet: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="mask ratio"):
        MaskedModeling(mask_ratio=1.5)
    with pytest.raises(ConfigError, match="no encoder size"):
        MaskedModeling(size="huge")
    with pytest.raises(DatasetError, match="without clean"):
        task_for(toy(), target="clean").target_patches(toy(clean=False).batch())
    task = task_for(toy())
    with pytest.raises(RecipeMismatch, match="'small'.*'lwm'"):
        pl.Trainer(max_steps=1, **quiet).fit(task, datamodule=toy(recipe=recipe_named("lwm")))


def test_schedule_rises_then_falls() -> None:
    factor = warmup_cosine(100)
    values = [factor(step) for step in range(101)]
    assert values[:11] == sorted(values[:11])
    assert values[10] == pytest.approx(1.0)
    assert values[10:] == sorted(values[10:], reverse=True)
    assert values[100] == pytest.approx(FINAL_SHARE)


def test_decay_spares_vectors_and_mask_tokens(toy: Any) -> None:
    task = task_for(toy(), mode="token")
    decayed, spared = decay_groups([task], 0.05)
    assert all(p.ndim == 2 for p in decayed["params"])
    assert any(p is task.mask_token for p in spared["params"])
    total = len(decayed["params"]) + len(spared["params"])
    assert total == sum(1 for p in task.parameters() if p.requires_grad)


def test_attention_kernel_does_not_change_the_result(toy: Any) -> None:
    encoder, x = task_for(toy()).encoder, toy().batch()["spectrogram"]
    fused = encoder(x)
    with torch.autocast("cpu", torch.bfloat16):
        plain = encoder(x)
    first: Any = encoder.blocks[0]
    assert not first.attn.fused_attn
    with torch.no_grad():
        encoder(x)
    assert first.attn.fused_attn
    torch.testing.assert_close(plain.float(), fused, atol=0.05, rtol=0.05)


def test_precision_is_one_that_lightning_knows() -> None:
    found = best_precision()
    assert pl.Trainer(precision=found, logger=False, accelerator="cpu").precision == found
