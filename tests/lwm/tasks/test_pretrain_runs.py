"""Runs on a data set on disk: interrupted in the middle of an epoch, begun from weights, refused before a step."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lwm.data.datamodule import ShardDataModule
from lwm.data.shard import write_dataset
from lwm.errors import ConfigError, DatasetError, ModelError, RecipeMismatch
from lwm.signal.recipe import recipe_named
from lwm.tasks.callbacks import StopBetweenSteps
from lwm.tasks.monitors import FeatureMonitor, StepMonitor
from lwm.tasks.options import Shape, Terms, Training
from lwm.tasks.partners import Partners
from lwm.tasks.pretrain import MaskedModeling

COUNT = 24
SELF = Terms(1.0, 0.3, "self", pair="origin")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """16 + 8 pictures, two of each waveform."""
    root = tmp_path_factory.mktemp("runs") / "set"
    pictures = np.random.default_rng(0).normal(-10, 8, (COUNT, 1, 64, 64)).clip(-40, 40).astype(np.float16)
    labels = {"technology": ["lte", "nr"] * (COUNT // 2), "link": ["uplink"] * COUNT}
    split = ["train"] * 16 + ["validation"] * 8
    records = [{"waveform": f"{i // 4}-{i % 2}"} for i in range(COUNT)]
    write_dataset(root, pictures, recipe_named("small"), labels, split=split, clean=pictures, records=records)
    return str(root)


def run(task: MaskedModeling, folder: str, quiet: dict[str, Any], *, ckpt: Path | None = None, **options: Any) -> Any:
    trainer = pl.Trainer(**(quiet | {"max_epochs": 2, "limit_val_batches": 0} | options))
    trainer.fit(task, datamodule=ShardDataModule(folder, batch_size=4), ckpt_path=ckpt, weights_only=ckpt and True)
    return trainer


@pytest.mark.parametrize(
    "options",
    [
        {"target": "latent", "mask": "block"},
        {"terms": SELF, "training": Training(ema_decay=0.9, seed=3)},
        {"target": "clean", "terms": Terms([1.0, 0.5], [0.0, 0.4], "supervised", ["technology"], augment=True)},
    ],
    ids=["latent", "self", "joint"],
)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_run_stopped_in_an_epoch_goes_on_bit_for_bit(
    options: dict[str, Any],
    precision: str,
    folder: str,
    quiet: dict[str, Any],
    tmp_path: Path,
    threads: Callable[[int], None],
) -> None:
    threads(2)  # pairs of views are then cut into two parts

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "stopped.ckpt")

    def fresh() -> MaskedModeling:
        pl.seed_everything(0, verbose=False)
        return MaskedModeling(size="tiny", **options)

    more = {"precision": precision, "gradient_clip_val": 1.0, "accumulate_grad_batches": 1}
    whole, resumed = fresh(), fresh()
    run(whole, folder, quiet, callbacks=[Stop()], **more)
    torch.manual_seed(77)
    trainer = run(resumed, folder, quiet, ckpt=tmp_path / "stopped.ckpt", **more)
    assert trainer.global_step == 8
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("where", "at", "steps"),
    [("train", (0, 2), 2), ("train", (0, 3), 2), ("validation", (0, 0), 2), ("train", (1, 3), 4)],
    ids=["in an accumulation", "in the last batch", "in validation", "in the very last batch"],
)
def test_ctrl_c_stops_between_steps_and_the_run_goes_on_bit_for_bit(
    where: str, at: tuple[int, int], steps: int, folder: str, quiet: dict[str, Any], tmp_path: Path
) -> None:
    class CtrlC(pl.Callback):
        """Once, in a batch of an epoch."""

        def on_train_batch_start(self, trainer: pl.Trainer, task: Any, batch: Any, batch_idx: int) -> None:
            if where == "train" and (trainer.current_epoch, batch_idx) == at:
                signal.raise_signal(signal.SIGINT)

        def on_validation_batch_start(
            self, trainer: pl.Trainer, task: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
        ) -> None:
            if where == "validation" and (trainer.current_epoch, batch_idx) == at:
                signal.raise_signal(signal.SIGINT)

    class Validated(pl.Callback):
        def __init__(self, steps: list[int]) -> None:
            self.steps = steps

        def on_validation_end(self, trainer: pl.Trainer, task: Any) -> None:
            self.steps.append(trainer.global_step)

    def fresh() -> MaskedModeling:
        pl.seed_everything(0, verbose=False)
        return MaskedModeling(size="tiny", target="latent", training=Training(ema_decay=0.9))

    more: dict[str, Any] = {"accumulate_grad_batches": 2, "gradient_clip_val": 1.0}
    more |= {"limit_val_batches": 1, "num_sanity_val_steps": 0}
    whole, validated, parts = fresh(), list[int](), list[int]()
    run(whole, folder, quiet, callbacks=[Validated(validated)], **more)
    keep = ModelCheckpoint(tmp_path, "last", every_n_epochs=1, save_on_train_epoch_end=True, save_on_exception=True)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit):
            callbacks = [CtrlC(), StopBetweenSteps(), Validated(parts), keep]
            run(fresh(), folder, quiet | {"enable_checkpointing": True}, callbacks=callbacks, **more)
        assert signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.default_int_handler)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert torch.load(tmp_path / "last.ckpt", weights_only=False)["global_step"] == steps
    resumed = fresh()
    trainer = run(resumed, folder, quiet, ckpt=tmp_path / "last.ckpt", callbacks=[Validated(parts)], **more)
    assert trainer.global_step == 4
    assert parts == validated == [2, 4]
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_second_ctrl_c_stops_at_once(folder: str, quiet: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    class Twice(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, task: Any, batch: Any, batch_idx: int) -> None:
            signal.raise_signal(signal.SIGINT)

    task = MaskedModeling(size="tiny")
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit):
            run(task, folder, quiet, callbacks=[StopBetweenSteps(), Twice()], accumulate_grad_batches=3)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert task.batches_seen == 1
    assert "Ctrl-C again stops at once" in capsys.readouterr().out


def test_warm_start_takes_weights_and_refuses_other_shapes(folder: str, quiet: dict[str, Any], tmp_path: Path) -> None:
    first = MaskedModeling(size="tiny", name="lte")
    run(first, folder, quiet, max_epochs=1).save_checkpoint(tmp_path / "run.ckpt")
    again = MaskedModeling(size="tiny", training=Training(weights=str(tmp_path / "run.ckpt"), ema_decay=0.9))
    run(again, folder, quiet, max_steps=0)
    torch.testing.assert_close(again.encoder.state_dict(), first.encoder.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(again.export_model().state_dict(), first.encoder.state_dict(), rtol=0, atol=0)
    for key in ("weights", "ckpt"):
        training = Training(weights=str(tmp_path / "run.ckpt") if key == "weights" else "")
        other = MaskedModeling(size="tiny", training=training, shape=Shape(patch=8))
        with pytest.raises(ModelError, match=r"patch 16; expected patch 8"):
            run(other, folder, quiet, ckpt=tmp_path / "run.ckpt" if key == "ckpt" else None)
    with pytest.raises(ModelError, match="no checkpoint"):
        run(MaskedModeling(size="tiny", training=Training(weights=str(tmp_path / "none.ckpt"))), folder, quiet)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"terms": Terms(1.0, 0.3, "supervised", ["modulation"])}, DatasetError, "labels.*'modulation'.*'technology'"),
        ({"terms": Terms(1.0, 0.3, "supervised", ["link"])}, DatasetError, "16 of 16 samples.*of 1 kinds"),
        ({"mask_ratio": 0.99}, ConfigError, "hides 16 of 16"),
        ({"shape": Shape(patch=24)}, ModelError, r"\(64, 64\).*24"),
        ({"shape": Shape(decoder="cross"), "mode": "replace"}, ConfigError, "cross-attention.*'replace'"),
    ],
)
def test_refused_before_the_first_step(
    options: dict[str, Any], error: type[Exception], said: str, folder: str, quiet: dict[str, Any]
) -> None:
    task = MaskedModeling(**({"size": "tiny"} | options))
    with pytest.raises(error, match=said):
        run(task, folder, quiet)
    assert task.global_step == 0


def test_refused_options() -> None:
    for wrong in (
        {"contrast": "supervised"},
        {"labels": ["snr"]},
        {"temperature": 0.0},
        {"lambda_reconstruction": [0.0]},
        {"lambda_contrast": -1.0},
        {"contrast": "both"},
    ):
        with pytest.raises(ConfigError):
            Terms(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"unknown options \['temprature'\]"):
        MaskedModeling(terms={"temprature": 1.0})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="ema_decay"):
        Training(ema_decay=1.0)
    assert Terms([1.0, 0.5], [0.0, 0.3, 0.6], "self").weights(0.4) == (1.0, 0.3)
    assert Terms([1.0, 0.5], [0.0, 0.3, 0.6], "self").final == (0.5, 0.6)


def test_views_of_coloured_pictures_are_refused(folder: str, quiet: dict[str, Any]) -> None:
    task = MaskedModeling(size="tiny", terms=Terms(contrast="self"))
    coloured = replace(recipe_named("small"), channels="viridis")
    with pytest.raises(ConfigError, match="'viridis'"):
        task.views.require_grey(coloured)
    with pytest.raises(RecipeMismatch):
        run(task.build(coloured, 0.0, 1.0), folder, quiet)


def test_partners_share_a_waveform_and_are_another_sample(folder: str) -> None:
    data = ShardDataModule(folder, batch_size=4)
    data.setup("fit")
    partners = Partners(data.datasets["train"])
    index = torch.arange(16).repeat(20)
    found = torch.from_numpy(partners.draw(index, torch.Generator().manual_seed(0)))
    assert (found != index).all()
    for one, other in zip(index.tolist(), found.tolist(), strict=True):
        assert one // 4 == other // 4
    batch = partners.batch(index[:4], torch.Generator().manual_seed(0))
    assert torch.equal(batch["spectrogram"], data.datasets["train"].batch(found[:4].numpy())["spectrogram"].float())


def test_what_is_watched_reaches_the_table(folder: str, quiet: dict[str, Any], tmp_path: Path) -> None:
    from pytorch_lightning.loggers import CSVLogger

    callbacks = [StepMonitor(), FeatureMonitor(["technology"], samples=8)]
    terms = Terms(1.0, 0.3, "supervised", ["technology"])
    more = {"logger": CSVLogger(str(tmp_path), name="", version=""), "log_every_n_steps": 1, "limit_val_batches": 2}
    run(MaskedModeling(size="tiny", terms=terms), folder, quiet, callbacks=callbacks, **more)
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    watched = {"gradient_norm", "learning_rate", "feature_spread", "knn_technology", "probe_technology"}
    losses = {f"{split}_{name}" for split in ("train", "val") for name in ("loss", "reconstruction", "contrast")}
    assert watched | losses | {"val_accuracy"} <= set(header)
    with pytest.raises(DatasetError, match="'colour'"):
        run(MaskedModeling(size="tiny"), folder, quiet, callbacks=[FeatureMonitor(["colour"])])
