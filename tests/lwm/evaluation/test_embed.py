"""``lwm embed``: rows are the encoder's output, labels and records beside them."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lwm.data.dataset import SpectrogramDataset
from lwm.errors import ConfigError, OutputError
from lwm.evaluation import embed as module
from lwm.evaluation.embed import embed
from lwm.models.encoder import SpectrogramEncoder


def test_rows_are_the_encoders_output_with_labels_and_records(
    tmp_path: Path, model: Path, data: Path, encoder: SpectrogramEncoder
) -> None:
    file = embed(str(model), str(data), str(tmp_path / "e.h5"), batch_size=7)
    dataset = SpectrogramDataset(data)
    with torch.no_grad():
        expected = encoder.eval()(dataset.batch(np.arange(len(dataset)))["spectrogram"].float())
    with h5py.File(file) as found:
        assert np.allclose(found["embedding"][:], expected.numpy(), atol=1e-4)
        names = found["names/mobility"].asstr()[:]
        assert names[found["labels/mobility"][5]] == dataset.record(5)["mobility"]
        assert np.array_equal(found["labels/channel"][:], dataset.labels["channel"])
        assert json.loads(found["record"].asstr()[3]) == dataset.record(3)
        assert json.loads(found.attrs["recipe"]) == dataset.recipe.to_dict()


def test_refuses_an_existing_file_a_folder_and_a_bad_batch(tmp_path: Path, model: Path, data: Path) -> None:
    file = tmp_path / "e.h5"
    file.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        embed(str(model), str(data), str(file))
    assert file.read_text() == "mine"
    embed(str(model), str(data), str(file), overwrite=True)
    assert h5py.is_hdf5(file)
    with pytest.raises(ConfigError, match="is a folder"):
        embed(str(model), str(data), str(tmp_path))
    with pytest.raises(ConfigError, match="batch_size 0"):
        embed(str(model), str(data), str(tmp_path / "f.h5"), batch_size=0)


def test_nothing_is_left_after_an_interruption(
    tmp_path: Path, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "pool", stop)
    with pytest.raises(KeyboardInterrupt):
        embed(str(model), str(data), str(tmp_path / "out" / "e.h5"))
    assert not list((tmp_path / "out").iterdir())
