"""The router's training: labels by name, frozen experts, checkpoints that refuse other experts."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lwm.data.datamodule import ShardDataModule
from lwm.data.shard import write_dataset
from lwm.errors import ConfigError, DatasetError, ModelError
from lwm.export import export
from lwm.hub import check_model, from_pretrained, save_pretrained, weights_sha256
from lwm.models.encoder import build_encoder
from lwm.models.router import fit_temperature
from lwm.signal.recipe import recipe_named
from lwm.tasks.routing import Gate, RouterShape, RouterTraining, load_balance


def expert_folder(path: Path, name: str, seed: int) -> str:
    return str(save_pretrained(build_encoder("tiny", recipe_named("small"), -12, 18, name, seed), path, overwrite=True))


@pytest.fixture
def experts(tmp_path: Path) -> list[str]:
    # Not in the order of the data's codes: the names decide.
    return [expert_folder(tmp_path / name, name, seed) for seed, name in enumerate(("nr", "lte"))]


def test_router_learns_and_exports_a_mixture(
    toy: Any, quiet: dict[str, Any], experts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pl.seed_everything(0, verbose=False)
    data, task = toy(16), RouterTraining(experts, augment=False)
    trainer = pl.Trainer(max_epochs=20, **quiet)
    trainer.fit(task, datamodule=data)
    trainer.save_checkpoint(tmp_path / "router.ckpt")
    (tested,) = trainer.test(task, datamodule=data, verbose=False)
    assert tested["test_accuracy"] == 1.0
    assert task.provenance["confusion"] == {"names": ["nr", "lte"], "counts": [[8, 0], [0, 8]]}
    kept = torch.load(tmp_path / "router.ckpt", weights_only=True)
    assert all(name.startswith("router.") for name in kept["state_dict"])
    mixture = from_pretrained(export(str(tmp_path / "router.ckpt"), str(tmp_path / "moe")))
    # The toy data have no splits to fit a detector on.
    assert "router.ckpt has no novelty detector" in capsys.readouterr().out
    assert check_model(tmp_path / "moe") == []
    batch = data.batch()
    chosen = [mixture.expert_names[i] for i in mixture.route(batch["spectrogram"]).argmax(1)]
    assert chosen == [data.label_names["technology"][code] for code in batch["technology"]]
    frozen = from_pretrained(experts[1])
    torch.testing.assert_close(mixture.experts["lte"].state_dict(), frozen.state_dict())


def test_checkpoint_refuses_other_experts(toy: Any, quiet: dict[str, Any], experts: list[str], tmp_path: Path) -> None:
    trainer = pl.Trainer(max_steps=1, **quiet)
    trainer.fit(RouterTraining(experts), datamodule=toy())
    trainer.save_checkpoint(tmp_path / "router.ckpt")
    expert_folder(tmp_path / "lte", "lte", seed=7)
    with pytest.raises(ModelError, match=r"\['lte'\].*SHA-256"):
        RouterTraining.load_from_checkpoint(tmp_path / "router.ckpt", weights_only=True)
    moved = [experts[0], expert_folder(tmp_path / "moved", "lte", seed=1)]
    again = RouterTraining.load_from_checkpoint(tmp_path / "router.ckpt", weights_only=True, experts=moved)
    assert again.export_model().expert_names == ("nr", "lte")


def test_refusals(toy: Any, quiet: dict[str, Any], experts: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two or more"):
        RouterTraining(experts[:1])
    unnamed = expert_folder(tmp_path / "unnamed", "", seed=0)
    with pytest.raises(ModelError, match="name of its own"):
        RouterTraining([*experts, unnamed]).load_experts()
    with pytest.raises(ModelError, match="name of its own"):
        RouterTraining([experts[0], experts[0]]).load_experts()

    class Other(toy):
        label_names = {"technology": ["lte", "radar"]}  # noqa: RUF012

    with pytest.raises(DatasetError, match="no expert has"):
        pl.Trainer(max_steps=1, **quiet).fit(RouterTraining(experts), datamodule=Other())
    with pytest.raises(DatasetError, match="no label 'protocol'"):
        pl.Trainer(max_steps=1, **quiet).fit(RouterTraining(experts, label="protocol"), datamodule=toy())


def test_gradients_reach_the_router_only(
    toy: Any, quiet: dict[str, Any], experts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []
    load_experts = RouterTraining.load_experts

    def remembered(task: RouterTraining) -> Any:
        loaded.append(load_experts(task))
        return loaded[-1]

    monkeypatch.setattr(RouterTraining, "load_experts", remembered)
    task = RouterTraining(experts, gate=Gate(load_balance=0.1, noise=0.1))
    data, trainer = toy(), pl.Trainer(max_steps=2, **quiet)
    trainer.fit(task, datamodule=data)
    trained = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert trained == {id(p) for p in task.router.parameters()} == {id(p) for p in task.parameters()}
    mixture = task.export_model()
    mixture.route(data.batch()["spectrogram"])[:, 0].sum().backward()
    assert all(p.grad is not None for p in mixture.router.parameters())
    for found in loaded:
        for expert, folder in zip(found.values(), experts, strict=True):
            assert all(p.grad is None and not p.requires_grad for p in expert.parameters())
            assert weights_sha256(expert) == weights_sha256(from_pretrained(folder))


def test_temperature_is_fitted_to_validation_and_travels(
    toy: Any, quiet: dict[str, Any], experts: list[str], tmp_path: Path
) -> None:
    pl.seed_everything(0, verbose=False)
    task, data = RouterTraining(experts, learning_rate=1e-3), toy(16)
    trainer = pl.Trainer(max_epochs=2, **quiet)
    trainer.fit(task, datamodule=data)
    with torch.no_grad():
        batch = data.batch()
        logits = task.router(batch["spectrogram"])
        fitted = float(task.router.temperature)
        assert fitted == pytest.approx(fit_temperature(logits, task.targets(batch)), rel=1e-3)
    assert fitted != 1.0
    assert {"val_ece", "val_accuracy"} <= set(trainer.callback_metrics)
    trainer.save_checkpoint(tmp_path / "router.ckpt")
    # Neither a test nor a validation of the finished router may fit it again.
    trainer.test(task, datamodule=data, verbose=False)
    trainer.validate(task, datamodule=data, verbose=False)
    assert float(task.router.temperature) == fitted
    folder = export(str(tmp_path / "router.ckpt"), str(tmp_path / "moe"))
    assert float(from_pretrained(folder).router.temperature) == fitted


@pytest.mark.parametrize("kind", ["cnn", "full"])
def test_shapes_and_gates_survive_a_checkpoint(
    kind: str, toy: Any, quiet: dict[str, Any], experts: list[str], tmp_path: Path
) -> None:
    shape = RouterShape("cnn", 16, 32) if kind == "cnn" else RouterShape(grid="full", width=32)
    gate = Gate(load_balance=0.01, noise=0.5, temperature=2.0)
    trainer = pl.Trainer(max_steps=1, **quiet)
    trainer.fit(RouterTraining(experts, shape=shape, gate=gate), datamodule=toy())
    trainer.save_checkpoint(tmp_path / "router.ckpt")
    again = RouterTraining.load_from_checkpoint(tmp_path / "router.ckpt", weights_only=True)
    assert (again.shape_options, again.gate) == (shape, gate)
    assert again.router.trunk.grid_size == ((16, 16) if kind == "cnn" else (4, 4))  # The experts': 64 / 16.
    folder = export(str(tmp_path / "router.ckpt"), str(tmp_path / "moe"))
    assert check_model(folder) == []
    with pytest.raises(ConfigError, match="unknown options"):
        RouterTraining(experts, gate={"noise": 0.1, "nose": 1})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="temperature above 0"):
        Gate(temperature=0)


def test_noise_is_a_function_of_seed_and_step(toy: Any, quiet: dict[str, Any], experts: list[str]) -> None:
    def weights(noise: float, seed: int) -> str:
        pl.seed_everything(0, verbose=False)
        task = RouterTraining(experts, augment=False, seed=seed, gate=Gate(noise=noise))
        pl.Trainer(max_steps=2, **quiet).fit(task, datamodule=toy())
        return weights_sha256(task.router)

    assert weights(0.5, 1) == weights(0.5, 1) != weights(0.5, 2)
    assert weights(0.0, 1) == weights(0.0, 2)


def test_load_balance_by_hand() -> None:
    even = torch.eye(4).repeat(2, 1) * 30
    assert load_balance(even) == pytest.approx(1.0)
    assert load_balance(torch.tensor([[30.0, 0, 0, 0]] * 8)) == pytest.approx(4.0)
    # Three of four samples go to the first of two experts: f = (3/4, 1/4).
    logits = torch.tensor([[2.0, 0], [2.0, 0], [2.0, 0], [0, 2.0]], requires_grad=True)
    high, low = logits.detach()[0].softmax(0).tolist()
    share = (3 * high + low) / 4
    balance = load_balance(logits)
    assert balance.item() == pytest.approx(2 * (0.75 * share + 0.25 * (1 - share)))
    balance.backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0] > 0).all()  # Descent takes probability from the expert with more load.


def test_uneven_training_data_are_said(
    tmp_path: Path, quiet: dict[str, Any], experts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = torch.randn(12, 1, 64, 64).numpy()
    labels = {"technology": ["lte", "lte", "lte", "nr"] * 3}
    write_dataset(tmp_path / "data", pictures, recipe_named("small"), labels, split=["train"] * 8 + ["validation"] * 4)

    def said(balance: str | None) -> str:
        data = ShardDataModule(str(tmp_path / "data"), 4, balance=balance)
        pl.Trainer(max_steps=1, **quiet).fit(RouterTraining(experts), datamodule=data)
        return capsys.readouterr().out

    assert "uneven (nr 2, lte 6): set data.balance to technology" in said(None)
    assert "uneven" not in said("technology")
