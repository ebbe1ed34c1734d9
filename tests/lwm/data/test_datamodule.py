"""Loaders of each stage: splits, mixtures, balance, interruption, processes, statistics."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lwm.data.datamodule import ShardDataModule
from lwm.data.loader import ShardLoader
from lwm.data.manifest import Manifest
from lwm.data.shard import write_dataset
from lwm.errors import ConfigError, DatasetError, RecipeMismatch
from lwm.signal.recipe import PRESETS


def _make(root: Path, count: int, technology: list[str], seed: int, snr: list[str] | None = None, **more: Any) -> str:
    rng = np.random.default_rng(seed)
    pictures = rng.uniform(-30, 30, (count, 1, 64, 64)).astype(np.float16)
    names = [technology[i % len(technology)] for i in range(count)]
    labels = {"technology": names} | ({"snr": [snr[i % len(snr)] for i in range(count)]} if snr else {})
    write_dataset(root, pictures, PRESETS["small"], labels, samples_per_shard=16, **more)
    return str(root)


def _order(loader: ShardLoader) -> list[int]:
    return torch.cat([batch["index"] for batch in loader]).tolist()


def _opened(data: str | list[str], stage: str | None = None, **options: Any) -> ShardDataModule:
    module = ShardDataModule(data, **options)
    module.setup(stage)
    return module


def _epoch(folder: Path, seed: int, epoch: int) -> list[int]:
    loader = _opened(str(folder), batch_size=4, seed=seed).train_dataloader()
    loader.set_epoch(epoch)
    return _order(loader)


def test_training_order_depends_on_seed_and_epoch_only(folder: Path) -> None:
    first = _epoch(folder, 1, 0)
    assert first == _epoch(folder, 1, 0)
    assert len({tuple(first), tuple(_epoch(folder, 1, 1)), tuple(_epoch(folder, 2, 0))}) == 3
    assert len(set(first)) == 12  # 14 samples: three whole batches of four


def test_stages_have_their_splits(folder: Path) -> None:
    module = ShardDataModule(str(folder), batch_size=8, where='technology == "lte"')
    module.setup("test")
    assert set(module.datasets) == {"test"}
    assert _order(module.test_dataloader()) == [0, 1, 2]
    assert module.statistics == Manifest.load(folder).training_statistics()
    assert module.recipe.name == "small"
    assert module.label_names["technology"] == ["lte", "nr"]
    module.setup("predict")
    assert _order(module.predict_dataloader()) == list(range(10))


def test_small_training_sets_keep_their_only_batch(folder: Path) -> None:
    assert sorted(_order(_opened(str(folder), batch_size=64).train_dataloader())) == list(range(14))


def test_workers_read_the_same_batches(folder: Path) -> None:
    here = list(_opened(str(folder), batch_size=4).train_dataloader())
    there = list(_opened(str(folder), batch_size=4, num_workers=2).train_dataloader())
    assert len(here) == len(there) == 3
    for ours, theirs in zip(here, there, strict=True):
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_pictures_are_half_in_the_loader_and_single_after_transfer(folder: Path) -> None:
    module = _opened(str(folder), batch_size=4)
    batch = next(iter(module.train_dataloader()))
    assert batch["spectrogram"].dtype == torch.float16
    moved = module.on_after_batch_transfer(batch, 0)
    assert moved["spectrogram"].dtype == moved["clean"].dtype == torch.float32
    expected = module.datasets["train"].batch(batch["index"].numpy())
    assert torch.equal(moved["spectrogram"], expected["spectrogram"])
    assert torch.equal(moved["technology"], expected["technology"])


def test_mixture_merges_labels_and_reads_each_data_set(tmp_path: Path) -> None:
    one = _make(tmp_path / "one", 40, ["lte", "nr"], 0, snr=["0", "10"])
    two = _make(tmp_path / "two", 24, ["wlan", "lte"], 1, values={"speed_kmh": np.arange(24)})
    module = _opened([one, two], "predict", batch_size=16)
    assert module.label_names == {"snr": ["0", "10"], "technology": ["lte", "nr", "wlan"]}
    batches = list(module.predict_dataloader())
    codes = torch.cat([batch["technology"] for batch in batches])
    names = [module.label_names["technology"][code] for code in codes]
    alone = [next(iter(_opened(folder, "predict", batch_size=64).predict_dataloader())) for folder in (one, two)]
    assert [names.count(name) for name in ("lte", "nr", "wlan")] == [32, 20, 12]
    pictures = torch.cat([batch["spectrogram"] for batch in batches])
    assert torch.equal(pictures, torch.cat([part["spectrogram"] for part in alone]))
    assert (torch.cat([batch["snr"] for batch in batches])[40:] == -1).all()
    both = module.datasets[None].batch([63, 0, 41])
    assert torch.equal(both["spectrogram"], pictures[[63, 0, 41]].float())
    assert np.isnan(module.datasets[None].values["speed_kmh"][:40]).all()


def test_weights_mix_and_weight_the_statistics(tmp_path: Path) -> None:
    one, two = _make(tmp_path / "one", 96, ["lte"], 0), _make(tmp_path / "two", 32, ["nr"], 1)
    module = _opened([one, two], batch_size=16, weights=[1, 3])
    drawn = np.array(_order(module.train_dataloader()))
    assert len(drawn) == 128
    assert (drawn >= 96).sum() == 96
    parts = [Manifest.load(Path(folder)).training_statistics() for folder in (one, two)]
    mean = (parts[0].mean + 3 * parts[1].mean) / 4
    square = (parts[0].std ** 2 + parts[0].mean ** 2 + 3 * (parts[1].std ** 2 + parts[1].mean ** 2)) / 4
    assert module.statistics == pytest.approx((mean, (square - mean**2) ** 0.5))
    grouped = _opened([one, two], batch_size=16, weights=[1, 3], group="technology").train_dataloader()
    kinds = [batch["technology"].unique().tolist() for batch in grouped]
    assert sorted(kinds) == [[0]] * 2 + [[1]] * 6


def test_identifiers_of_two_data_sets_are_kept_apart(tmp_path: Path) -> None:
    """Channel 3 of one data set is not channel 3 of the other; few names are classes and are merged."""
    names = [f"train/{i}" for i in range(104)]
    for name, count in (("one", 104), ("two", 8)):
        labels = {"channel": names[:count], "kind": ["a", "b"] * (count // 2)}
        pictures = np.random.default_rng(count).uniform(-30, 30, (count, 1, 64, 64)).astype(np.float16)
        write_dataset(tmp_path / name, pictures, PRESETS["small"], labels, split=["train", "test"] * (count // 2))
    both = [str(tmp_path / "one"), str(tmp_path / "two")]
    module = _opened(both)
    assert module.label_names["kind"] == ["a", "b"]
    assert len(module.label_names["channel"]) == 112
    codes = module.datasets[None].labels["channel"]
    assert len(np.unique(codes)) == 112
    members = [[module.label_names["channel"][code] for code in part] for part in (codes[:104], codes[104:])]
    assert [{name.split(":")[0] for name in part} for part in members] == [{"0"}, {"1"}]
    assert {name.split(":")[1] for name in members[1]} == set(names[:8])
    chosen = _opened(both[:1], "predict", where='channel == "train/4"')
    assert chosen.label_names["channel"] == sorted(names), "alone they stay as they are"


def test_balanced_and_grouped_batches(tmp_path: Path) -> None:
    data = _make(tmp_path / "set", 60, ["lte"] * 4 + ["nr"], 0)
    for batch in _opened(data, batch_size=12, balance="technology").train_dataloader():
        assert torch.bincount(batch["technology"]).tolist() == [6, 6]
    grouped = _opened(data, batch_size=12, group="technology").train_dataloader()
    kinds = [batch["technology"].unique().tolist() for batch in grouped]
    assert sorted(kinds) == [[0]] * 4 + [[1]]
    with pytest.raises(DatasetError, match="no label 'link'"):
        _opened(data, balance="link").train_dataloader()


def test_what_is_missing_or_impossible_is_refused(folder: Path, tmp_path: Path, spectrograms: np.ndarray) -> None:
    with pytest.raises(DatasetError, match="no split 'validation'"):
        ShardDataModule(str(folder)).setup("fit")
    with pytest.raises(ConfigError, match="batch_size 0"):
        ShardDataModule(str(folder), batch_size=0)
    with pytest.raises(ConfigError, match=r"weights \[1.0\] for 2 data sets"):
        ShardDataModule(["a", "b"], weights=[1.0])
    with pytest.raises(ConfigError, match="balance with weights or group"):
        ShardDataModule("a", balance="x", group="y")
    other = tmp_path / "other"
    write_dataset(other, spectrograms, PRESETS["lwm"], {"technology": ["a"] * 20})
    with pytest.raises(RecipeMismatch, match=rf"{folder} has recipe 'small' and data set {other} recipe 'lwm'"):
        ShardDataModule([str(folder), str(other)]).setup("predict")


class _Recorder(pl.LightningModule):
    """Learns a little and writes down what it saw; stops dead at a step."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 1)
        self.dies_at, self.seen = dies_at, []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        if self.global_step == self.dies_at:
            raise KeyboardInterrupt
        self.seen.append((self.current_epoch, batch["index"].tolist()))
        return self.layer(batch["spectrogram"].mean(2) / 30).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def _fit(
    data: str | list[str], out: Path, model: _Recorder, resume: Path | None, every: int = 1, **options: Any
) -> None:
    torch.nn.init.normal_(model.layer.weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(model.layer.bias)
    keep = ModelCheckpoint(out, filename="{step}", every_n_train_steps=every, save_top_k=-1)
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        callbacks=[keep],
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    module = ShardDataModule(data, batch_size=16, seed=5, **options)
    trainer.fit(model, datamodule=module, ckpt_path=resume)


@pytest.mark.parametrize(
    ("stop", "options"),
    [
        (7, {}),
        (7, {"num_workers": 2}),
        (5, {}),
        (2, {"balance": "technology"}),
        (8, {"group": "technology"}),
        (7, {"also": 32}),
        (8, {"also": 32, "weights": [1.0, 3.0]}),
        (7, {"also": 32, "weights": [1.0, 3.0], "group": "technology"}),
    ],
)
def test_an_interrupted_run_goes_on_with_the_next_batch(tmp_path: Path, stop: int, options: dict[str, Any]) -> None:
    """Epochs of 5 batches (4 in groups; 7 of two data sets): step 7 is in the middle of one or at its end, step 5 too;
    ``also``: samples of a second data set."""
    also = options.pop("also", 0)
    data: Any = _make(tmp_path / "set", 80, ["lte", "nr"], 0, split=["train"] * 80)
    write_dataset(  # a validation split, which fitting opens
        tmp_path / "set2", np.zeros((4, 1, 64, 64)), PRESETS["small"], {"technology": ["lte"] * 4}, split="validation"
    )
    _join(Path(data), tmp_path / "set2")
    if also:
        data = [data, _make(tmp_path / "other", also, ["wlan"], 1, split="train")]
    whole = _Recorder()
    _fit(data, tmp_path / "whole", whole, None, **options)
    first = _Recorder(dies_at=stop)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        _fit(data, tmp_path / "cut", first, None, **options)
    second = _Recorder()
    _fit(data, tmp_path / "again", second, tmp_path / "cut" / f"step={stop}.ckpt", **options)
    assert len(first.seen) == stop
    assert first.seen + second.seen == whole.seen
    assert len({epoch for epoch, _ in whole.seen}) == 3
    assert torch.equal(second.layer.weight, whole.layer.weight)
    assert torch.equal(second.layer.bias, whole.layer.bias)


def _join(root: Path, other: Path) -> None:
    """Put the shards of one data set into another."""
    manifest, more = Manifest.load(root), Manifest.load(other)
    for entry in more.shards:
        (other / entry.name).rename(root / entry.name)
    manifest.shards += more.shards
    manifest.save(root)


def test_another_order_is_not_resumed(folder: Path) -> None:
    state = _opened(str(folder), batch_size=4).train_dataloader().state_dict()
    with pytest.raises(ConfigError, match="this one reads 14 samples of .*seed=1"):
        _opened(str(folder), batch_size=4, seed=1).train_dataloader().load_state_dict(state)


def test_a_state_fits_another_number_of_processes(folder: Path) -> None:
    module = _opened(str(folder), batch_size=2)
    dataset, order = module.datasets["train"], module._training_order(module.datasets["train"])
    pair = [ShardLoader(dataset, order, 0, rank, 2, "k") for rank in range(2)]
    iterators = [iter(loader) for loader in pair]
    done = [next(iterator)["index"].tolist() for _ in range(2) for iterator in iterators]
    alone = ShardLoader(dataset, order, 0, key="k")
    whole = [batch["index"].tolist() for batch in alone]
    alone.load_state_dict(pair[0].state_dict())
    assert done + [batch["index"].tolist() for batch in alone] == whole
    assert len(alone) == 7


PROCESS = """
import json, os, sys
import pytorch_lightning as pl
import torch
from lwm.data.datamodule import ShardDataModule

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(64, 1), []
        torch.nn.init.constant_(self.layer.weight, 0.1)

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch["index"].tolist()))
        return self.layer(batch["spectrogram"].mean(2) / 30).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

torch.set_num_threads(1)
data, out = sys.argv[1:]
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer = pl.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", limit_val_batches=0, **quiet)
model = Model()
trainer.fit(model, datamodule=ShardDataModule(data, batch_size=8, seed=5))
assert trainer.world_size == 2
with open(f"{out}/{trainer.global_rank}.json", "w") as file:
    json.dump([model.seen, model.layer.weight.tolist()], file)
"""


def test_two_processes_get_disjoint_equal_parts(tmp_path: Path, free_port: Callable[[], int]) -> None:
    data = _make(tmp_path / "set", 90, ["lte", "nr"], 0, split=["train"] * 84 + ["validation"] * 6)
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, data, str(tmp_path)],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=90) for process in processes] == [0, 0]
    (left, weight), (right, same) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert weight == same
    assert len(left) == len(right) == 2 * (84 // 8 // 2)
    loader = _opened(data, batch_size=8, seed=5).train_dataloader()
    for epoch in range(2):
        loader.set_epoch(epoch)
        alone = [batch["index"].tolist() for batch in loader]
        mine, theirs = ([indices for number, indices in part if number == epoch] for part in (left, right))
        assert not {i for batch in mine for i in batch} & {i for batch in theirs for i in batch}
        assert [batch for pair in zip(mine, theirs, strict=True) for batch in pair] == alone
