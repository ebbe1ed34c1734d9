"""Every command and snippet of the README runs as written, in order, in one folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from lwm.channel.sites.tracer import require_tracer
from lwm.cli import main
from lwm.errors import ConfigError

BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of each fenced block."""
    return BLOCK.findall(text)


def commands(block: str) -> list[list[str]]:
    """Words of each ``lwm`` command; make targets are what continuous integration and the demo test run."""
    joined = block.replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in joined.splitlines()]
    lines = [words for words in lines if words and words[0] != "make"]
    assert all(words[0] == "lwm" for words in lines), lines
    return [words[1:] for words in lines]


def traces() -> bool:
    """Whether sionna-rt and its LLVM work here."""
    try:
        require_tracer()
    except ConfigError:
        return False
    return True


def serve(words: list[str]) -> None:
    """Start a server on a free port, ask whether it is well, and tell it to stop."""
    port = words.index("--port") + 1
    asked = [*words[:port], "0", *words[port + 1 :]]
    with subprocess.Popen([sys.executable, "-m", "lwm.cli", *asked], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        found = re.search(r"http://127.0.0.1:\d+", run.stdout.readline())
        assert found is not None
        with urlopen(f"{found[0]}/healthz") as reply:
            assert reply.status == 200
        run.terminate()
        run.communicate(timeout=60)
    assert run.returncode == 0


def test_readme_runs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks((root / "README.md").read_text())
    ran = 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LWM_SHARED", str(tmp_path / "nothing"))
    for language, block in found:
        if language == "python":
            exec(compile(block, "README.md", "exec"), {})
            continue
        for words in commands(block):
            if words[0] == "serve":
                serve(words)
                ran += 1
                continue
            # Ray tracing needs a system library that a fresh machine may lack; then the command must say so.
            expected = 2 if words[0] == "trace-site" and not traces() else 0
            assert main(words) == expected, f"lwm {shlex.join(words)}"
            ran += 1
    assert ran >= 12
    assert not [name for name in os.listdir(tmp_path) if name != "runs"], "the README writes only below runs/"


def test_every_verb_has_an_example(root: Path) -> None:
    from lwm.cli import FUNCTIONS, TRAINING

    text = (root / "README.md").read_text()
    shown = {words[0] for language, block in blocks(text) if language == "sh" for words in commands(block)}
    assert shown >= {*FUNCTIONS, *TRAINING}
