"""``lwm embed``: rows are the encoder's output, labels, times and records beside them; interrupted runs go on."""

import json
import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lwm.cli import main
from lwm.data.dataset import SpectrogramDataset
from lwm.data.ingest import Reading, ingest
from lwm.errors import CaptureError, ConfigError, OutputError, RecipeMismatch
from lwm.evaluation import embed as module
from lwm.evaluation.embed import embed
from lwm.hub import from_pretrained
from lwm.models.encoder import SpectrogramEncoder
from lwm.models.pooling import pool
from lwm.seeding import rng_for
from lwm.signal.capture import Capture, Emission
from lwm.signal.io import write_sigmf

RATE = 1e6


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two classes of one recording each, 5 and 3 windows of 16 ms long and a rest."""
    rng = rng_for(0, "test", "recordings")
    for name, samples in (("idle", 83_000), ("busy", 50_000)):
        folder = tmp_path / "recordings" / name
        folder.mkdir(parents=True)
        iq = (rng.normal(size=samples) + 1j * rng.normal(size=samples)).astype(np.complex64)
        burst = Emission("lte", start=0.0, stop=0.01, low=-1e5, high=1e5)
        write_sigmf(Capture(iq, RATE, 2.4e9, [burst] if name == "busy" else []), folder / f"{name}.sigmf-meta")
    return tmp_path / "recordings"


def interrupt_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Ctrl-C when batch number ``batches`` (from 0) is pooled."""
    calls = iter(range(batches))

    def stop(*args: object) -> torch.Tensor:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return pool(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "pool", stop)


def contents(file: Path) -> dict[str, object]:
    """Every data set of a file, as lists."""
    found: dict[str, object] = {}
    with h5py.File(file) as read:
        read.visititems(lambda name, item: found.update({name: item[()].tolist()} if hasattr(item, "dtype") else {}))
    return found


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
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["e.h5"]


def test_refuses_an_existing_file_a_folder_and_a_bad_batch(tmp_path: Path, model: Path, data: Path) -> None:
    file = tmp_path / "e.h5"
    file.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        embed(str(model), str(data), str(file))
    with pytest.raises(OutputError, match="other settings"):
        embed(str(model), str(data), str(file), resume=True)
    assert file.read_text() == "mine"
    embed(str(model), str(data), str(file), overwrite=True)
    assert h5py.is_hdf5(file)
    with pytest.raises(ConfigError, match="is a folder"):
        embed(str(model), str(data), str(tmp_path))
    with pytest.raises(ConfigError, match="batch_size 0"):
        embed(str(model), str(data), str(tmp_path / "f.h5"), batch_size=0)
    with pytest.raises(ConfigError, match="--hop"):
        embed(str(model), str(data), str(tmp_path / "f.h5"), hop=0.1)
    with pytest.raises(ConfigError, match="one data set"):
        embed(str(model), [str(data), str(model)], str(tmp_path / "f.h5"))


def test_nothing_is_left_of_a_run_that_did_nothing(
    tmp_path: Path, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        embed(str(model), str(data), str(tmp_path / "out" / "e.h5"))
    assert not [path for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize("kind", ["data", "recordings"])
def test_an_interrupted_run_goes_on_to_the_same_file(
    kind: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    given = str(request.getfixturevalue(kind))
    whole = contents(embed(str(model), given, str(tmp_path / "whole.h5"), batch_size=3))
    out = str(tmp_path / "part.h5")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            embed(str(model), given, out, batch_size=3)
    with pytest.raises(OutputError, match="--resume"):
        embed(str(model), given, out, batch_size=3)
    # A kill in the middle of a write: half a row, half a line.
    partial = tmp_path / "part.h5.partial"
    for name, cut in (("rows.f32", b"\0\0\0\0\0"), ("facts.jsonl", b'{"labels": {"cl')):
        with (partial / name).open("ab") as file:
            file.write(cut)
    pooled = 0

    def counted(*args: object) -> torch.Tensor:
        nonlocal pooled
        vectors = pool(*args)  # type: ignore[arg-type]
        pooled += len(vectors)
        return vectors

    monkeypatch.setattr(module, "pool", counted)
    found = contents(embed(str(model), given, out, batch_size=3, resume=True))
    assert repr(found) == repr(whole)  # NaN equals no NaN
    assert pooled == len(whole["time"]) - 6  # type: ignore[arg-type]
    assert not partial.exists()
    assert embed(str(model), given, out, batch_size=3, resume=True) == Path(out)
    assert pooled == len(whole["time"]) - 6  # type: ignore[arg-type]


def test_going_on_with_other_settings_is_refused(
    tmp_path: Path, model: Path, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "e.h5")
    interrupt_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        embed(str(model), str(recordings), out, batch_size=2)
    with pytest.raises(ConfigError, match=r"hop null against 0\.008"):
        embed(str(model), str(recordings), out, hop=0.008, resume=True)
    with pytest.raises(ConfigError, match="--resume beside"):
        embed(str(model), str(recordings), out, resume=True, overwrite=True)
    monkeypatch.undo()
    with h5py.File(embed(str(model), str(recordings), out, hop=0.008, overwrite=True)) as found:
        assert np.allclose(np.diff(found["time"][:5]), 0.008)


def test_what_the_rows_depend_on(model: Path, recordings: Path) -> None:
    """Another way of pooling or of routing with the same weights, and a file changed without another size."""
    encoder = from_pretrained(model)
    rows = module._rows([str(recordings)], Reading("iq", encoder.recipe, *[None] * 6))
    before = json.loads(json.dumps(module._settings(encoder, rows)))
    assert json.loads(json.dumps(module._settings(from_pretrained(model), rows))) == before
    encoder.config = replace(encoder.config, heads=1 if encoder.config.heads > 1 else 2)
    changed = module._settings(encoder, rows)
    assert changed["weights"] == before["weights"]
    assert changed["model"] != before["model"]
    samples = recordings / "busy" / "busy.sigmf-data"
    size, stamp = samples.stat().st_size, samples.stat().st_mtime_ns
    samples.write_bytes(bytes(size))
    os.utime(samples, ns=(stamp, stamp + 1_000_000_000))
    later = json.loads(json.dumps(module._settings(from_pretrained(model), rows)))
    assert {key for key in before if later[key] != before[key]} == {"files"}


def test_recordings_give_what_their_data_set_gives(tmp_path: Path, model: Path, recordings: Path) -> None:
    """Independent of the shards: the same windows, labels and vectors with and without a data set between."""
    ingest([str(recordings)], str(tmp_path / "data"), model=str(model))
    by_shards = contents(embed(str(model), str(tmp_path / "data"), str(tmp_path / "a.h5"), batch_size=4))
    direct = contents(embed(str(model), [str(recordings)], str(tmp_path / "b.h5"), batch_size=4))
    key = [(source, time) for source, time in zip(direct["source"], direct["time"], strict=True)]  # type: ignore[call-overload]
    other = [(source, time) for source, time in zip(by_shards["source"], by_shards["time"], strict=True)]  # type: ignore[call-overload]
    assert sorted(key) == sorted(other)
    assert set(direct) == set(by_shards)
    order = [other.index(each) for each in key]
    for name in ("embedding", "labels/class", "labels/technology", "values/start", "values/duration"):
        ours, theirs = np.array(direct[name]), np.array(by_shards[name])[order]
        assert np.allclose(ours, theirs, atol=1e-5, equal_nan=True), name
    assert [json.loads(text) for text in direct["record"]] == [json.loads(by_shards["record"][i]) for i in order]  # type: ignore[attr-defined, index]


def test_times_are_from_the_recordings_begin(tmp_path: Path, model: Path, recordings: Path) -> None:
    with h5py.File(embed(str(model), str(recordings), str(tmp_path / "e.h5"))) as found:
        source, time = found["source"].asstr()[:], found["time"][:]
        assert np.allclose(time[source == "busy.sigmf-meta"], np.arange(3) * 0.016)
        # 83 ms: five whole windows; the rest of 3 ms is under a quarter of one.
        assert np.allclose(time[source == "idle.sigmf-meta"], np.arange(5) * 0.016)
        names = found["names/class"].asstr()[:]
        assert [names[code] for code in found["labels/class"][:]] == [name.split(".")[0] for name in source]


def test_refuses_another_recipe_and_broken_recordings(tmp_path: Path, model: Path, recordings: Path) -> None:
    ingest([str(recordings)], str(tmp_path / "other"), recipe="small")
    with pytest.raises(RecipeMismatch, match="size"):
        embed(str(model), str(tmp_path / "other"), str(tmp_path / "e.h5"))
    (recordings / "busy" / "busy.sigmf-data").write_bytes(b"123")
    with pytest.raises(CaptureError, match="busy"):
        embed(str(model), str(recordings), str(tmp_path / "e.h5"))
    assert not (tmp_path / "e.h5").exists()


def test_the_command_takes_several_recordings(
    tmp_path: Path, model: Path, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(path) for path in sorted(recordings.rglob("*.sigmf-meta"))]
    out = tmp_path / "e.h5"
    command = ["embed", "--model", str(model), "--data", *files, "--out", str(out)]
    assert main(command) == 0
    assert "embedding [8, 96]" in capsys.readouterr().out
    assert main(command) == 2
    assert main([*command, "--resume"]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_memory_does_not_grow_with_the_recordings_length(tmp_path: Path, model: Path) -> None:
    """Peak of traced allocations (numpy's too) for a recording eight times as long."""
    import tracemalloc

    def peak(windows: int) -> int:
        path = tmp_path / f"{windows}.cf32"
        iq = rng_for(0, "test", str(windows)).normal(size=2 * 16_000 * windows)
        iq.astype("<f4").tofile(path)
        tracemalloc.start()
        embed(str(model), str(path), str(tmp_path / f"{windows}.h5"), batch_size=4, sample_rate=RATE)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(4)  # what is imported and cached once
    assert peak(128) < peak(16) + 2**20
