"""The Python of docs/serving.md runs, against a server; its flags and limits are the command's."""

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwm.serve.chat import BODY_SECONDS
from lwm.serve.command import serve as serve_command
from lwm.serve.options import ServeOptions


def test_every_block_runs(
    serve: Any, kit: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    text = (root / "docs" / "serving.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    np.save("capture.npy", kit.tone(1))
    with serve(name="model", max_tokens=24) as served:
        names: dict[str, Any] = {"rfgpt": kit.tiny_model()}
        for block in blocks:
            code = block.replace("http://127.0.0.1:8000/v1", served.url)
            exec(compile(code, "docs/serving.md", "exec"), names)
    assert names["reply"].choices[0].message.content.startswith('{"technology": "')
    assert capsys.readouterr().out.splitlines()[-1] == "mine"


def test_flags_and_their_defaults(root: Path) -> None:
    text = (root / "docs" / "serving.md").read_text(encoding="utf-8")
    known = inspect.signature(serve_command).parameters
    ours = text.split("## Route (b)")[0]
    flags = set(re.findall(r"--([a-z][a-z_-]+)", ours))
    # As `lwm serve --help` spells them.
    assert flags <= set(known)
    options = ServeOptions()
    for flag, value in [*re.findall(r"\| `--([a-z_]+)` (\d+)", ours), ("wait_ms", "10"), ("batch", "8")]:
        assert known[flag].default == getattr(options, flag) == float(value)
    assert f"| {BODY_SECONDS:g} s, or half of `--timeout`" in ours
