"""``lwm embed``: one vector a sample, with its labels and its record, in one HDF5 file.

Layout for N samples: ``embedding`` float32 ``[N, P]``; ``labels/NAME`` int32 codes (-1: not labelled) into the texts
of ``names/NAME``; ``values/NAME`` float32; ``record`` one JSON object a sample (what it is, source and time);
attributes ``recipe`` (JSON), ``model``, ``data``, ``pooling`` and ``lwm_version``. Row i is sample i of the data set.
"""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from lwm import __version__
from lwm.console import progress, say
from lwm.data.dataset import SpectrogramDataset
from lwm.errors import ConfigError
from lwm.evaluation.features import require_encoder
from lwm.hub import from_pretrained
from lwm.models.pooling import Pooling, pool
from lwm.output import atomic_file, require_empty

POOLING: Pooling = "mean_spread"


def embed(model: str, data: str, out: str, batch_size: int = 64, overwrite: bool = False) -> Path:
    """Embed every sample of a data set with a model folder's encoder.

    Args:
        model: model folder of an encoder or a mixture of experts.
        data: folder of a data set made with the model's recipe.
        out: HDF5 file to write.
        batch_size: samples at a time.
        overwrite: replace the file if it exists.

    Returns:
        The file.

    Raises:
        ConfigError: a batch size below one.
        ModelError: the model is no encoder.
        RecipeMismatch: the data set was made with another recipe than the model's.
        OutputError: the file exists, or cannot be written.
    """
    file = Path(out)
    if batch_size < 1:
        raise ConfigError(f"--batch_size {batch_size}", "1 or more")
    if file.is_dir():
        raise ConfigError(
            f"--out {file} is a folder", "the name of an HDF5 file", f"try --out {file / 'embeddings.h5'}"
        )
    require_empty(file, overwrite=overwrite)
    encoder: Any = require_encoder(from_pretrained(model), model)
    dataset = SpectrogramDataset(data)
    encoder.recipe.require_same(dataset.recipe, f"model {model}", f"data set {data}")
    with atomic_file(file) as partial, h5py.File(partial, "w") as target:
        target.attrs["recipe"] = json.dumps(dataset.recipe.to_dict())
        target.attrs.update(
            {"model": Path(model).name, "data": Path(data).name, "pooling": POOLING, "lwm_version": __version__}
        )
        _write_facts(target, dataset)
        width = _write_embeddings(target, encoder, dataset, batch_size)
    say(f"wrote {file}: embedding [{len(dataset)}, {width}], labels {', '.join(sorted(dataset.labels))}")
    say(f"next: python -c \"import h5py; print(h5py.File('{file}')['embedding'][0])\"")
    return file


@torch.inference_mode()
def _write_embeddings(target: h5py.File, encoder: Any, dataset: SpectrogramDataset, batch_size: int) -> int:
    """Embed batch by batch; gives the width of a row."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = encoder.to(device).eval()
    rows: Any = None
    with progress("embed", len(dataset), "samples") as bar:
        for first in range(0, len(dataset), batch_size):
            indices = np.arange(first, min(first + batch_size, len(dataset)))
            tokens = encoder.forward_features(dataset.batch(indices)["spectrogram"].float().to(device))
            vectors = pool(tokens[:, encoder.num_prefix_tokens :], encoder.grid_size, POOLING).float().cpu().numpy()
            if rows is None:
                rows = target.create_dataset("embedding", (len(dataset), vectors.shape[1]), "<f4")
            rows[first : first + len(indices)] = vectors
            bar.update(len(indices))
    return int(rows.shape[1])


def _write_facts(target: h5py.File, dataset: SpectrogramDataset) -> None:
    for name, codes in dataset.labels.items():
        target.create_dataset(f"labels/{name}", data=codes.astype("<i4"))
        # A data set of its own: an attribute holds 64 KiB, too little for the names of many channel draws.
        target.create_dataset(f"names/{name}", data=dataset.label_names[name], dtype=h5py.string_dtype())
    for name, numbers in dataset.values.items():
        target.create_dataset(f"values/{name}", data=numbers.astype("<f4"))
    records = target.create_dataset("record", (len(dataset),), h5py.string_dtype())
    for first in range(0, len(dataset), 512):
        stop = min(first + 512, len(dataset))
        records[first:stop] = [json.dumps(dataset.record(index)) for index in range(first, stop)]
