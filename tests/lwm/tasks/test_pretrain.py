"""Masked modelling: what the loss counts, that it learns, and that checkpoints stand alone."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lwm.errors import ConfigError, DatasetError, LWMError, ModelError, RecipeMismatch
from lwm.export import export, load_task
from lwm.hub import check_model, from_pretrained
from lwm.models.encoder import patchify, unpatchify
from lwm.signal.recipe import recipe_named
from lwm.tasks.base import best_precision
from lwm.tasks.monitors import feature_spread
from lwm.tasks.options import Shape, Terms, Training
from lwm.tasks.pretrain import MaskedModeling
from lwm.tasks.schedule import FINAL_SHARE, decay_groups, layer_scales, warmup_cosine


def task_for(data: Any, **options: Any) -> MaskedModeling:
    torch.manual_seed(0)
    return MaskedModeling(**({"size": "tiny", "name": "lte"} | options)).build(data.recipe, *data.statistics)


def changed_patches(x: torch.Tensor, which: torch.Tensor, by: float) -> torch.Tensor:
    return unpatchify(patchify(x, 16) + by * which[..., None], 16, (4, 4))


def loss_of(task: MaskedModeling, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return task.losses(batch, (1.0, 0.0), "train", 0)[0]["loss"]


@pytest.mark.parametrize("mode", ["drop", "replace"])
@torch.no_grad()
def test_only_masked_patches_of_the_target_count(toy: Any, mode: str) -> None:
    task, batch = task_for(toy(), target="clean", mode=mode), toy().batch()
    mask = task.draw(8, "train", 0, 0)
    before = loss_of(task, batch)
    visible = batch | {"clean": changed_patches(batch["clean"], ~mask, 7.0)}
    assert loss_of(task, visible) == before
    hidden = batch | {"clean": changed_patches(batch["clean"], mask, 7.0)}
    assert loss_of(task, hidden) != before
    both = task_for(toy(), target="clean", mode=mode, loss_on="all")
    assert loss_of(both, visible) != loss_of(both, batch)


@pytest.mark.parametrize("loss_on", ["masked", "all"])
@torch.no_grad()
def test_padded_columns_of_the_target_do_not_count(toy: Any, loss_on: str) -> None:
    task, batch = task_for(toy(), target="clean", loss_on=loss_on), toy().batch()
    padding = (~batch["valid"])[:, None, None, :]
    assert padding.any()
    other = batch | {"clean": batch["clean"] + 50.0 * padding}
    assert loss_of(task, other) == loss_of(task, batch)


OBJECTIVES: dict[str, dict[str, Any]] = {
    "clean": {"target": "clean", "loss_on": "all"},
    "replace": {"target": "clean", "mode": "replace", "mask": "block"},
    "normalized": {"target": "clean", "normalize_target": True},
    "latent": {"target": "latent"},
    "supervised": {"terms": Terms(0.0, 1.0, "supervised", ["technology"])},
    "self": {"terms": Terms(0.0, 1.0, "self")},
    "joint": {"target": "clean", "terms": Terms(1.0, 0.3, "supervised", ["technology"])},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_overfits_eight_samples(toy: Any, quiet: dict[str, Any], name: str) -> None:
    pl.seed_everything(0, verbose=False)
    training = Training(learning_rate=5e-3, teacher_decay=0.99)
    task = MaskedModeling(size="tiny", name="lte", mask_ratio=0.5, training=training, **OBJECTIVES[name])
    data = toy()
    if name == "self":
        # Samples that a look at a few patches tells apart, whatever the gain.
        items = [item | {"spectrogram": item["spectrogram"] + 12.0 * i - 40} for i, item in enumerate(data.items())]
        data.items = lambda: items
    data.train_dataloader = lambda: DataLoader(data.items(), batch_size=8)
    batch = data.batch()
    task.build(data.recipe, *data.statistics)
    task.views.require_grey(data.recipe)
    with torch.no_grad():
        before = task.losses(batch, task.terms.final, "val", 0)[0]
    pl.Trainer(max_steps=120, limit_val_batches=0, **quiet).fit(task, datamodule=data)
    with torch.no_grad():
        after = task.eval().losses(batch, task.terms.final, "val", 0)[0]
    assert task.encoder.recipe == data.recipe
    if "contrast" in after:
        # Positives at cosine 1, negatives far away: what is left is the choice among the positives alone.
        count = 3 if task.terms.labels else 1
        assert after["contrast"] < math.log(count) + 0.35 * (before["contrast"] - math.log(count))
    if name == "latent":
        assert feature_spread(task.encoder(batch["spectrogram"]).detach()) > 0.1
    if "reconstruction" in after:
        # Predicting the mean gives a loss of about 1.2 (clean), 1 (standardised): the stripes were learned.
        assert after["reconstruction"] < (0.3 if name != "normalized" else 0.7) * before["reconstruction"]


def test_masks_depend_on_seed_and_step_alone(toy: Any) -> None:
    task, other = task_for(toy()), task_for(toy(), training=Training(seed=1))
    torch.manual_seed(99)
    assert torch.equal(task.draw(4, "train", 3), task_for(toy()).draw(4, "train", 3))
    assert not torch.equal(task.draw(4, "train", 3), task.draw(4, "train", 4))
    assert not torch.equal(task.draw(4, "train", 3), other.draw(4, "train", 3))


def test_checkpoints_are_whole_in_a_fresh_process(toy: Any, quiet: dict[str, Any], tmp_path: Path) -> None:
    options = {"size": "tiny", "name": "nr", "mask": "block"}
    groups = {"training": {"learning_rate": 2e-3, "ema_decay": 0.9}, "terms": {"lambda_contrast": [0.0, 0.5]}}
    made = {"training": Training(learning_rate=2e-3, ema_decay=0.9), "terms": Terms(lambda_contrast=[0.0, 0.5])}
    flags = options | {f"{group}.{key}": value for group, given in groups.items() for key, value in given.items()}
    tasks = {"python": MaskedModeling(**options, **made), "cli": built_by_cli(flags)}  # type: ignore[arg-type]
    for way, task in tasks.items():
        trainer = pl.Trainer(max_steps=2, limit_val_batches=1, **quiet)
        trainer.fit(task, datamodule=toy())
        trainer.save_checkpoint(tmp_path / f"{way}.ckpt")
        kept = torch.load(tmp_path / f"{way}.ckpt", weights_only=True)
        assert kept["hyper_parameters"] == dict(task_for(toy(), **options, **made).hparams)
        assert kept["hyper_parameters"]["training"]["ema_decay"] == 0.9
    code = (
        "import torch\n"
        "from lwm.tasks.pretrain import MaskedModeling\n"
        "for way in ('python', 'cli'):\n"
        "    task = MaskedModeling.load_from_checkpoint(way + '.ckpt', weights_only=True).eval()\n"
        "    assert task.hparams['mask'] == 'block' and task.encoder.name == 'nr' and task.recipe.name == 'small'\n"
        "    assert (float(task.encoder.mean), float(task.encoder.std)) == (-12, 18)\n"
        "    assert task.training_options.learning_rate == 2e-3 and task.terms.weights(0.9) == (1.0, 0.0)\n"
        "    torch.save(task.export_model()(torch.zeros(1, 1, 64, 64)).detach(), way + '.pt')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    for way, task in tasks.items():
        with torch.no_grad():
            assert task.average is not None
            expected = task.eval().export_model()(torch.zeros(1, 1, 64, 64))
            assert not torch.equal(expected, task.encoder(torch.zeros(1, 1, 64, 64)))
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
        loss_of(task_for(toy(), target="clean"), toy(clean=False).batch())
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
    task = task_for(toy(), mode="replace", shape=Shape(cls_token=True, position="learned"))
    decayed, spared = decay_groups([task], 0.05)
    assert all(p.ndim == 2 for p in decayed["params"])
    for learned in (task.mae.mask_token, task.encoder.prefix, task.encoder.positions):
        assert any(p is learned for p in spared["params"])
    total = len(decayed["params"]) + len(spared["params"])
    assert total == sum(1 for p in task.parameters() if p.requires_grad)


def test_layer_decay_slows_what_comes_first(toy: Any) -> None:
    encoder = task_for(toy(), shape=Shape(position="learned")).encoder
    scales = layer_scales(encoder, 0.5)
    assert scales[encoder.norm.weight] == scales[encoder.blocks[1].mlp.fc1.weight] == 1.0
    assert scales[encoder.blocks[0].attn.qkv.weight] == 0.5
    assert scales[encoder.positions] == scales[encoder.patch_embed.bias] == 0.25
    groups = decay_groups([encoder], 0.05, scales)
    assert sorted({group["lr_scale"] for group in groups}) == [0.25, 0.5, 1.0]
    assert sum(len(group["params"]) for group in groups) == len(list(encoder.parameters()))


def test_precision_is_one_that_lightning_knows() -> None:
    found = best_precision()
    assert pl.Trainer(precision=found, logger=False, accelerator="cpu").precision == found
