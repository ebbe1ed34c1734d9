"""``lwm embed``: one vector a sample, with its labels, its time and its record, in one HDF5 file.

Layout for N samples: ``embedding`` float32 ``[N, P]``; ``labels/NAME`` int32 codes (-1: not labelled) into the texts
of ``names/NAME``; ``values/NAME`` float32; ``time`` float64: s from the begin of its recording (NaN: synthetic);
``source``: the recording's or waveform's name; ``record`` one JSON object a sample; attributes ``recipe`` and
``settings`` (JSON), ``model``, ``data``, ``pooling`` and ``lwm_version``. Row i is sample i of the data set, or window
i of the recordings in the order they were named.
"""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from lwm import __version__
from lwm.console import progress, say
from lwm.data.ingest import Reading
from lwm.data.lock import name_lock
from lwm.data.sources import find_sources
from lwm.errors import ConfigError, OutputError
from lwm.evaluation.embed_rows import DatasetRows, RecordingRows, Rows, ahead
from lwm.evaluation.embed_store import PartialRows
from lwm.evaluation.features import require_encoder
from lwm.hub import from_pretrained, weights_sha256
from lwm.models.cores import in_parts
from lwm.models.pooling import Pooling, pool, pooled_features
from lwm.output import atomic_file, require_empty
from lwm.signal.csi_recipe import CsiRecipe

POOLING: Pooling = "mean_spread"

_COPIED = 4096
"""Rows that are copied together into the HDF5 file."""


def embed(
    model: str,
    data: str | list[str],
    out: str,
    batch_size: int = 64,
    overwrite: bool = False,
    resume: bool = False,
    sample_rate: float | None = None,
    datatype: str | None = None,
    hop: float | None = None,
    center_frequency: float | None = None,
    dc_notch: float | None = None,
    variable: str | None = None,
) -> Path:
    """Embed every sample of a data set, or every window of recordings, with a model folder's encoder; returns the file.

    Rows that are done survive an interruption in ``FILE.partial``; with ``resume`` the run goes on after them.

    Args:
        model: model folder of an encoder or a mixture of experts.
        data: folder of a data set made with the model's recipe; or recordings, folders or tables of them.
        out: HDF5 file to write.
        batch_size: samples at a time.
        overwrite: replace the file if it exists, and begin anew.
        resume: go on after the rows of an interrupted run with the same settings.
        sample_rate: Hz, for recordings that do not state theirs; packets per second for CSI.
        datatype: sample format of raw IQ, for example ci16_le.
        hop: seconds from window to window of a recording; the recipe's duration by default.
        center_frequency: Hz, for recordings that do not state theirs.
        dc_notch: Hz on both sides of 0 below which IQ is taken away (-3 dB, first order).
        variable: variable of a .mat file, or dataset of an HDF5 file, that holds the samples.

    Raises:
        ConfigError: an impossible option, several data sets, or an interrupted run with other settings.
        ModelError, RecipeMismatch, CaptureError: no encoder, data of another recipe, a recording that cannot be used.
        OutputError: the file or an interrupted run exists, or it cannot be written.
    """
    file = Path(out)
    _check_output(file, batch_size, overwrite, resume)
    encoder: Any = require_encoder(from_pretrained(model), model)
    if hop is not None and not hop > 0:
        raise ConfigError(f"hop {hop} s", "a positive number of seconds")
    kind: Any = "csi" if isinstance(encoder.recipe, CsiRecipe) else "iq"
    reading = Reading(kind, encoder.recipe, sample_rate, datatype, center_frequency, hop, dc_notch, variable)
    rows = _rows([data] if isinstance(data, str) else data, reading)
    encoder.recipe.require_same(rows.recipe, f"model {model}", f"data set {data}")
    partial = PartialRows(
        file, _settings(encoder, rows), pooled_features(encoder.num_features, POOLING), rows.keeps_facts
    )
    with name_lock(file):
        if file.is_file() and not overwrite:
            return _finished(file, partial.settings)
        partial.open(resume, overwrite)
        _embed(encoder, rows, partial, batch_size)
        _assemble(file, rows, partial, Path(model).name)
        partial.remove()
    say(f"wrote {file}: embedding [{rows.count}, {partial.width}]")
    say(f"next: python -c \"import h5py; print(h5py.File('{file}')['embedding'][0])\"")
    return file


def _settings(encoder: Any, rows: Rows) -> dict[str, Any]:
    """What the rows depend on."""
    return {
        "lwm_version": __version__,
        "weights": weights_sha256(encoder),
        # The same weights give other vectors with other heads, or another way of mixing experts.
        "model": {"type": encoder.model_type, "config": encoder.get_config()},
        "recipe": encoder.recipe.identity,
        "pooling": POOLING,
        "count": rows.count,
        **rows.settings(),
    }


def _check_output(file: Path, batch_size: int, overwrite: bool, resume: bool) -> None:
    if batch_size < 1:
        raise ConfigError(f"--batch_size {batch_size}", "1 or more")
    if resume and overwrite:
        raise ConfigError("--resume beside --overwrite", "one of them")
    if file.is_dir():
        raise ConfigError(
            f"--out {file} is a folder", "the name of an HDF5 file", f"try --out {file / 'embeddings.h5'}"
        )
    if not resume:
        require_empty(file, overwrite=overwrite)


def _finished(file: Path, settings: dict[str, Any]) -> Path:
    """The file, where a run with the same settings made it; OutputError otherwise."""
    made: Any = None
    if h5py.is_hdf5(file):
        with h5py.File(file) as found:
            made = found.attrs.get("settings")
    if made is None or json.loads(made) != settings:
        raise OutputError(
            f"{file} exists and is of other settings", "a new name", "choose another --out or --overwrite"
        )
    say(f"{file} is complete; nothing to do")
    return file


def _rows(paths: list[str], reading: Reading) -> Rows:
    """A data set's samples where one is named, else windows of recordings."""
    sets = [path for path in paths if (Path(path) / "manifest.json").is_file()]
    if not sets:
        sources = find_sources(paths, reading.kind, any_suffix=reading.datatype is not None)
        return RecordingRows(sources, reading)
    if len(paths) > 1:
        raise ConfigError(f"data set {sets[0]} among {len(paths)} paths", "one data set, or recordings only")
    options = ("sample_rate", "datatype", "hop", "center_frequency", "dc_notch", "variable")
    given = [f"--{name}" for name in options if getattr(reading, name) is not None]
    if given:
        raise ConfigError(f"{', '.join(given)} with data set {sets[0]}", "recordings", "leave it out")
    return DatasetRows(Path(sets[0]))


@torch.inference_mode()
def _embed(encoder: Any, rows: Rows, partial: PartialRows, batch_size: int) -> None:
    """Embed what is not done, batch by batch; the next is read meanwhile."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = encoder.to(device).eval()

    def pooled(part: Tensor) -> list[Tensor]:
        tokens = encoder.forward_features(part)[:, encoder.num_prefix_tokens :]
        return [pool(tokens, encoder.grid_size, POOLING).float()]

    try:
        with progress("embed", rows.count, "samples", partial.done) as bar:
            for batch in ahead(rows.batches(partial.done, batch_size), pin=device.type == "cuda"):
                # Half the bytes travel to the device: nothing finer is stored.
                (vectors,) = in_parts(pooled, batch.pictures.to(device, non_blocking=True).float(), encoder)
                partial.append(np.asarray(vectors.cpu().numpy()), batch.facts)
                bar.update(len(batch.pictures))
    finally:
        if not partial.done:
            partial.remove()


def _assemble(file: Path, rows: Rows, partial: PartialRows, model: str) -> None:
    """All rows and their facts in one HDF5 file."""
    with atomic_file(file) as temporary, h5py.File(temporary, "w") as target:
        target.attrs["recipe"] = json.dumps(rows.recipe.to_dict())
        target.attrs["settings"] = json.dumps(partial.settings)
        target.attrs.update(
            {"model": model, "data": partial.settings["data"], "pooling": POOLING, "lwm_version": __version__}
        )
        rows.write_facts(target, partial.facts)
        embedding = target.create_dataset("embedding", (rows.count, partial.width), "<f4")
        for first in range(0, rows.count, _COPIED):
            stop = min(first + _COPIED, rows.count)
            embedding[first:stop] = partial.read(first, stop - first)
