"""The router's training: labels by name, frozen experts, checkpoints that refuse other experts."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lwm.errors import ConfigError, DatasetError, ModelError
from lwm.export import export
from lwm.hub import check_model, from_pretrained, save_pretrained
from lwm.models.encoder import build_encoder
from lwm.signal.recipe import recipe_named
from lwm.tasks.routing import RouterTraining


def expert_folder(path: Path, name: str, seed: int) -> str:
    return str(save_pretrained(build_encoder("tiny", recipe_named("small"), -12, 18, name, seed), path, overwrite=True))


@pytest.fixture
def experts(tmp_path: Path) -> list[str]:
    # Not in the order of the data's codes: the names decide.
    return [expert_folder(tmp_path / name, name, seed) for seed, name in enumerate(("nr", "lte"))]


def test_router_learns_and_exports_a_mixture(
    toy: Any, quiet: dict[str, Any], experts: list[str], tmp_path: Path
) -> None:
    pl.seed_everything(0, verbose=False)
    data, task = toy(16), RouterTraining(experts, augment=False)
    trainer = pl.Trainer(max_epochs=8, **quiet)
    trainer.fit(task, datamodule=data)
    trainer.save_checkpoint(tmp_path / "router.ckpt")
    (tested,) = trainer.test(task, datamodule=data, verbose=False)
    assert tested["test_accuracy"] == 1.0
    assert task.provenance["confusion"] == {"names": ["nr", "lte"], "counts": [[8, 0], [0, 8]]}
    kept = torch.load(tmp_path / "router.ckpt", weights_only=True)
    assert all(name.startswith("router.") for name in kept["state_dict"])
    mixture = from_pretrained(export(str(tmp_path / "router.ckpt"), str(tmp_path / "moe")))
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
