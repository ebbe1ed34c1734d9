"""Bad input at the command line: one line with what, expected and remedy; exit 2; nothing left behind."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lwm.cli import main
from lwm.data.shard import write_dataset
from lwm.hub import save_pretrained
from lwm.models.encoder import build_encoder
from lwm.signal.capture import Capture
from lwm.signal.io import write_sigmf
from lwm.signal.recipe import recipe_named


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of eight noise pictures of recipe ``small``."""
    pictures = np.random.default_rng(0).normal(0, 5, (8, 1, 64, 64))
    write_dataset(tmp_path / "data", pictures, recipe_named("small"), {"technology": ["lte", "nr"] * 4})
    return tmp_path / "data"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny expert of recipe ``small``."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return save_pretrained(build_encoder("tiny", recipe_named("small"), name="lte", seed=0), folder)


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    """A tiny expert of recipe ``lwm``."""
    return save_pretrained(build_encoder("tiny", recipe_named("lwm"), name="lte", seed=0), tmp_path / "other")


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line of a command that must end with exit code 2."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lwm: error: ")]
    assert len(errors) == 1, errors
    return errors[0]


def iq_file(folder: Path, samples: int, name: str = "iq.cf32") -> Path:
    """Raw complex float noise."""
    rng = np.random.default_rng(0)
    path = folder / name
    (rng.standard_normal(samples) + 1j * rng.standard_normal(samples)).astype(np.complex64).tofile(path)
    return path


def ingest_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, path: Path, *options: str) -> str:
    """What ``lwm ingest`` says; it must leave no data set."""
    said = refused(capsys, "ingest", path, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".partial")]
    return said


def test_recordings_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = iq_file(tmp_path, 40_000)
    assert "sample_rate" in ingest_refused(capsys, tmp_path, good)
    assert "positive" in ingest_refused(capsys, tmp_path, good, "--sample_rate", "-1e6")
    empty = tmp_path / "empty.cf32"
    empty.touch()
    assert "empty.cf32" in ingest_refused(capsys, tmp_path, empty, "--sample_rate", "2e6")
    short = iq_file(tmp_path, 100, "short.cf32")
    assert "at least 256 samples" in ingest_refused(capsys, tmp_path, short, "--sample_rate", "2e6")
    odd = tmp_path / "odd.cf32"
    odd.write_bytes(good.read_bytes()[:-3])
    assert "odd.cf32" in ingest_refused(capsys, tmp_path, odd, "--sample_rate", "2e6")
    broken = np.fromfile(good, np.complex64)
    broken[777] = np.nan
    broken.tofile(tmp_path / "nan.cf32")
    assert "777" in ingest_refused(capsys, tmp_path, tmp_path / "nan.cf32", "--sample_rate", "2e6")
    assert "nothing.cf32" in ingest_refused(capsys, tmp_path, tmp_path / "nothing.cf32", "--sample_rate", "2e6")


def test_truncated_sigmf_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture = Capture(np.ones(40_000, np.complex64), 2e6)
    meta = write_sigmf(capture, tmp_path / "cut")
    content = json.loads(meta.read_text())
    content["annotations"] = [{"core:sample_start": 0, "core:sample_count": 40_000, "core:label": "x"}]
    meta.write_text(json.dumps(content))
    binary = tmp_path / "cut.sigmf-data"
    binary.write_bytes(binary.read_bytes()[:80_000])
    assert "cut" in ingest_refused(capsys, tmp_path, meta)


def test_damaged_shards(data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = next(data.glob("*.h5"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    said = refused(capsys, "embed", "--model", model, "--data", data, "--out", tmp_path / "e.h5")
    assert shard.name in said
    assert "lwm doctor" in said
    assert not (tmp_path / "e.h5").exists()
    capsys.readouterr()
    assert main(["doctor", str(data)]) == 1
    assert shard.name in capsys.readouterr().out
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    shard.write_bytes(bytes(flipped))
    assert main(["doctor", str(data)]) == 1
    shard.unlink()
    assert shard.name in refused(capsys, "inspect", data)


def test_another_recipe_names_both(data: Path, other_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "embed", "--model", other_model, "--data", data, "--out", data.parent / "e.h5")
    assert "'lwm'" in said
    assert "'small'" in said


def test_outputs_that_hold_something(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in data.iterdir())
    assert "--overwrite" in refused(capsys, "generate", "--config", "generate/tiny", "--out", data)
    assert "--overwrite" in refused(capsys, "ingest", iq_file(tmp_path, 40_000), "--out", data, "--sample_rate", "2e6")
    assert "--overwrite" in refused(capsys, "fit", "--config", "pretrain/lte", "--out", data)
    assert "config.yaml" in refused(capsys, "fit", "--config", "pretrain/lte", "--out", data, "--overwrite")
    assert sorted((path.name, path.stat().st_mtime_ns) for path in data.iterdir()) == before
    assert "--overwrite" in refused(
        capsys, "embed", "--model", model, "--data", data, "--out", iq_file(tmp_path, 10, "taken.h5")
    )


def test_a_model_that_is_none(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(data) in refused(capsys, "embed", "--model", data, "--data", data, "--out", tmp_path / "e.h5")
    checkpoint = tmp_path / "no.ckpt"
    checkpoint.write_bytes(b"not a checkpoint")
    assert "no.ckpt" in refused(capsys, "export", "--checkpoint", checkpoint, "--out", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_full_disk_leaves_nothing_under_a_final_name(tmp_path: Path) -> None:
    """A limit on file size stands in for a full disk: the write fails in the middle of the first shard."""
    words = ["generate", "--config", "generate/tiny", "--out", str(tmp_path / "data"), "--workers", "0"]
    ignore = "import signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    code = f"{ignore}\nfrom lwm.cli import main\nsys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, preexec_fn=_small_files, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "data").glob("*.h5"))
    assert not list((tmp_path / "data").glob(".*partial"))


def test_a_run_that_is_refused_does_not_bar_the_next_try(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = np.random.default_rng(0).normal(0, 5, (8, 1, 64, 64))
    write_dataset(tmp_path / "all", pictures, recipe_named("small"), {"technology": ["lte"] * 8}, split="all")
    words = ("fit", "--config", "pretrain/lte", "--data.init_args.data", tmp_path / "all", "--out", tmp_path / "run")
    for _ in range(2):
        said = refused(capsys, *words)
        assert "has no split 'train'; expected one of ['all']; share recordings out with lwm ingest" in said
        assert not (tmp_path / "run").exists()
