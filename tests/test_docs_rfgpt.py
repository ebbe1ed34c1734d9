"""Every command and snippet of docs/rfgpt.md runs as written, in order, in one folder with a small model."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from lwm.cli import main
from lwm.data.shard import write_dataset
from lwm.hub import save_pretrained
from lwm.language.llm import build_llm
from lwm.language.rfgpt import RFGPT
from lwm.language.tokenizer import ChatTokenizer
from lwm.models.encoder import build_encoder
from lwm.seeding import rng_for
from lwm.signal.capture import Capture, Emission
from lwm.signal.io import write_sigmf
from lwm.signal.recipe import recipe_named

BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TECHNOLOGIES = ["alpha", "beta", "gamma"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the page names: a model, a data set, a capture in two formats."""
    recipe, labels = recipe_named("small"), {"technology": TECHNOLOGIES, "link": ["downlink", "uplink"]}
    chat = ChatTokenizer.train(["Which technology is this?", "Answer in JSON.", *TECHNOLOGIES, *labels["link"]], 330)
    with torch.random.fork_rng(devices=[]):
        pl.seed_everything(0, verbose=False)
        tower = build_encoder("tiny", recipe, -3.0, 10.0, seed=1)
        model = RFGPT(tower, build_llm("test", chat.vocab_size), chat, labels, (2, 2)).eval()
    save_pretrained(model, tmp_path / "runs" / "rfgpt")
    iq = (rng_for(0, "page").normal(size=(16_000, 2)) @ [1, 1j]).astype(np.complex64)
    iq.tofile(tmp_path / "capture.cf32")
    note = Emission("alpha", start=0.0, stop=0.016, low=-1e5, high=1e5)
    write_sigmf(Capture(iq, 1e6, emissions=[note]), tmp_path / "capture")
    pictures = rng_for(0, "pictures").normal(-10, 3, (60, 1, 64, 64)).astype(np.float32)
    split = ["train", "validation", "test"] * 20
    classes = {"technology": TECHNOLOGIES * 20, "link": ["downlink", "uplink"] * 30}
    records = [{name: values[n] for name, values in classes.items()} for n in range(60)]
    write_dataset(tmp_path / "data" / "world", pictures, recipe, classes, split=split, records=records)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_runs_as_written(root: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = BLOCK.findall((root / "docs" / "rfgpt.md").read_text(encoding="utf-8"))
    assert {kind for kind, _ in blocks} == {"sh", "python"}
    for kind, block in blocks:
        if kind == "python":
            names: dict[str, Any] = {}
            exec(compile(block, "docs/rfgpt.md", "exec"), names)
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "lwm"
            assert main(arguments) == 0, capsys.readouterr().err
    assert (here / "leaned.png").stat().st_size > 1000
    assert (here / "runs" / "rfgpt-sure" / "model.safetensors").is_file()
