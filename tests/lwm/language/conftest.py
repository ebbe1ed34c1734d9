"""A world in which the technology is the part of the band that is lit, and RF-GPT trained on it for some seconds."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl

from lwm.data.shard import write_dataset
from lwm.export import export
from lwm.hub import save_pretrained
from lwm.language.datamodule import InstructionDataModule
from lwm.models.encoder import build_encoder
from lwm.seeding import rng_for
from lwm.signal.recipe import recipe_named
from lwm.tasks.instruct import InstructionTuning
from lwm.tasks.instruct_options import Stage

TECHNOLOGIES = ("alpha", "beta", "gamma")
LINKS = ("downlink", "uplink", "downlink")
COLUMNS = 64


class World(NamedTuple):
    """Folders: data set, tower, checkpoint, RF-GPT's model; and the trained task."""

    data: Path
    tower: Path
    checkpoint: Path
    model: Path
    task: InstructionTuning


def write_world(folder: Path, count: int = 360) -> Path:
    """Samples whose technology is the lit third of the band; a third of them are padded to half a window."""
    rng = rng_for(7, "world")
    code = np.arange(count) % 3
    picture = rng.normal(-10, 1, (count, 1, 64, COLUMNS)).astype(np.float32)
    for number in range(3):
        picture[code == number, 0, 21 * number : 21 * number + 21] += 20
    padded = rng.random(count) < 0.3
    valid = np.ones((count, COLUMNS), bool)
    valid[padded, COLUMNS // 2 :] = False
    picture = np.where(valid[:, None, None], picture, -40.0)
    labels = {
        "technology": [TECHNOLOGIES[c] for c in code],
        "link": [LINKS[c] for c in code],
        "mobility": ["static"] * count,
    }
    records = [
        {name: labels[name][i] for name in labels}
        | {"snr_db": 20.0, "sample_rate": 7.68e6, "bandwidth": 5e6, "facts": {}}
        | {"duration": float(valid[i].mean()) * 0.016, "valid_columns": int(valid[i].sum())}
        for i in range(count)
    ]
    split = [str(name) for name in rng.permutation(np.resize(["train"] * 4 + ["validation", "test"], count))]
    write_dataset(folder, picture, recipe_named("small"), labels, split=split, valid=valid, records=records)
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """RF-GPT trained on the world and exported."""
    root = tmp_path_factory.mktemp("world")
    data = write_world(root / "data")
    tower = save_pretrained(build_encoder("tiny", recipe_named("small"), -3.0, 10.0, seed=1), root / "tower")
    pl.seed_everything(0, verbose=False)
    task = InstructionTuning(
        str(tower), llm="test", token_rows=4, token_columns=2, stages=[Stage(adapter=4e-3, llm=4e-3)]
    )
    module = InstructionDataModule(str(data), batch_size=24)
    trainer = pl.Trainer(
        max_epochs=20,
        accelerator="cpu",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=root,
    )
    trainer.fit(task, datamodule=module)
    checkpoint = root / "last.ckpt"
    trainer.save_checkpoint(checkpoint)
    return World(data, tower, checkpoint, export(str(checkpoint), str(root / "model")), task)
