"""Folders made to do harm: each is refused in one line, before anything in it is used."""

import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lwm import hub_files
from lwm.errors import LWMError, ModelError
from lwm.hub import CHECKED_FILES, WEIGHTS, check_model, from_pretrained, save_pretrained
from lwm.hub_check import ONNX
from lwm.models.encoder import SpectrogramEncoder, build_encoder
from lwm.output import file_sha256
from lwm.signal.recipe import recipe_named

RECIPE = recipe_named("small")


def expert() -> SpectrogramEncoder:
    return build_encoder("tiny", RECIPE, -10, 8, name="lte", seed=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_pretrained(expert(), tmp_path / "lte")


class Boom:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def accept(folder: Path) -> None:
    """As a tamperer would who knows the hashes."""
    files = {name: file_sha256(folder / name) for name in CHECKED_FILES}
    edit(folder / "provenance.json", lambda record: record.update(files=files))


def refused(folder: Path, said: str) -> str:
    """Loading refuses, and doctor says the same."""
    with pytest.raises(LWMError, match=said) as caught:
        from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert any(str(caught.value) in problem for problem in check_model(folder))
    return str(caught.value)


@pytest.mark.parametrize(
    "write",
    [
        lambda value, path: path.write_bytes(pickle.dumps(value)),
        lambda value, path: torch.save(value, path),
    ],
    ids=["pickle", "torch.save"],
)
def test_pickle_under_the_name_of_the_weights(folder: Path, tmp_path: Path, write: Callable[[Any, Path], None]) -> None:
    write(Boom(tmp_path / "ran"), folder / WEIGHTS)
    accept(folder)
    refused(folder, "is a pickle; expected a safetensors file")
    assert not (tmp_path / "ran").exists()


def test_pickle_beside_the_weights_is_pointed_out(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    (problem,) = check_model(folder)
    assert "pytorch_model.bin is not listed" in problem


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "..", "", ".hidden", "a\\b", "x" * 200])
def test_names_that_leave_the_folder(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("secret")
    edit(folder / "provenance.json", lambda record: record["files"].update({name: "0" * 64}))
    (problem,) = check_model(folder)
    assert "a plain name inside the folder" in problem
    assert "SHA-256" not in problem, "what lies outside is not even hashed"


@pytest.mark.parametrize("name", [*CHECKED_FILES, "provenance.json", "README.md"])
def test_links_that_leave_the_folder(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert any("outside of the folder" in problem for problem in check_model(folder))
    if name not in ("golden.npz", "provenance.json", "README.md"):  # which loading does not read
        refused(folder, "outside of the folder")


def test_links_in_a_circle_and_pipes(folder: Path) -> None:
    (folder / "recipe.json").unlink()
    (folder / "recipe.json").symlink_to("recipe.json")
    refused(folder, "leads nowhere")
    (folder / "recipe.json").unlink()
    os.mkfifo(folder / "recipe.json")  # would be waited for without end
    refused(folder, "no regular file")


def test_snapshot_of_the_hub_may_link_to_its_blobs(folder: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "c0ffee", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert check_model(snapshot) == []
    (tmp_path / "secret").write_text("{}")
    (snapshot / "recipe.json").unlink()
    (snapshot / "recipe.json").symlink_to("../../../secret")
    refused(snapshot, "outside of the folder")


def header(entry: dict[str, Any]) -> bytes:
    text = json.dumps({"norm.weight": entry}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(128)


@pytest.mark.parametrize(
    "content",
    [
        header({"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}),
        header({"dtype": "F32", "shape": [10**12], "data_offsets": [0, 128]}),
        header({"dtype": "F32", "shape": [2**63, 2**63], "data_offsets": [0, 128]}),
        header({"dtype": "F32", "shape": [-32], "data_offsets": [0, 128]}),
        header({"dtype": "F32", "shape": [32], "data_offsets": [-128, 0]}),
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 10**5) + b"[" * 10**5,
        b"",
    ],
    ids=[
        "beyond the end",
        "more than its bytes",
        "overflow",
        "negative",
        "before the start",
        "header",
        "nested",
        "empty",
    ],
)
def test_weights_with_an_absurd_header(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    accept(folder)
    refused(folder, r"model\.safetensors cannot be read")


@pytest.mark.parametrize(
    "change",
    [
        {"width": 10**9},
        {"depth": 10**9},
        {"mlp_ratio": 1e12},
        {"registers": 10**12},
        {"width": 10**9, "patch": 1, "position": "learned"},
        {"width": 2**20, "patch": 1, "heads": 4},
    ],
    ids=str,
)
def test_config_that_asks_for_absurd_sizes(folder: Path, change: dict[str, Any]) -> None:
    edit(folder / "config.json", lambda config: config["model"].update(change))
    accept(folder)
    tracemalloc.start()
    refused(folder, "asks for|describes no encoder")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize(
    "change",
    [
        {"size": [10**9, 10**9]},
        {"size": [2**13, 2**13]},
        {"n_fft": 10**12, "win_length": 1},
        {"size": "large"},
        {"size": [64]},
        {"n_fft": "256"},
        {"duration": None},
    ],
    ids=str,
)
def test_recipe_that_cannot_be(folder: Path, change: dict[str, Any]) -> None:
    edit(folder / "recipe.json", lambda recipe: recipe.update(change))
    accept(folder)
    refused(folder, "recipe")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": "128"}, "describes no encoder"),
        ({"width": [1]}, "describes no encoder"),
        ({"unknown": 1}, "unknown fields"),
        ({"heads": 0}, "positive sizes"),
        ({"depth": 3}, r"missing \[blocks\.2"),
        ({"patch": 32}, r"misshapen \[patch_embed\.weight \(32, 256\) instead of \(32, 1024\)"),
    ],
    ids=str,
)
def test_config_that_describes_another_model(folder: Path, change: dict[str, Any], said: str) -> None:
    edit(folder / "config.json", lambda config: config["model"].update(change))
    accept(folder)
    refused(folder, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": "os.system"}, "no lwm.models entry"),
        ({"type": ["moe"]}, "names no model"),
        ({"model": []}, "names no model"),
        ({"shared": {"a": 1}}, "shared weights"),
        ({"golden_tolerance": {"float32": "high"}}, "golden_tolerance"),
        ({"format_version": "2"}, "format_version '2'"),
        ({"format_version": True}, "format_version True"),
    ],
    ids=str,
)
def test_config_with_parts_of_another_kind(folder: Path, change: dict[str, Any], said: str) -> None:
    edit(folder / "config.json", lambda config: config.update(change))
    accept(folder)
    refused(folder, said)


@pytest.mark.parametrize("name", ["config.json", "recipe.json"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ('{"name": 1, "name": 2}', "a key twice"),
        ('{"a": NaN}', "not finite"),
        ('{"a": -Infinity}', "not finite"),
        ('{"a": 1e999}', "not finite"),
        ('{"a": ' + "9" * 5000 + "}", "out of range"),
        ('{"a": 99999999999999999}', "out of range"),
        ("[]", "holds a list"),
        ("\udcff", "not JSON"),
    ],
    ids=range(10),
)
def test_json_made_to_break_its_reader(folder: Path, name: str, text: str, said: str) -> None:
    (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    accept(folder)
    refused(folder, said)


def test_json_of_absurd_length(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / "config.json").open("ab") as handle:
        handle.truncate(hub_files.LARGEST_JSON + 1)  # a hole, no disk
    refused(folder, "bytes; expected at most")


def npz(path: Path, output: bytes, kind: int = zipfile.ZIP_STORED) -> None:
    given = np.lib.format
    with zipfile.ZipFile(path) as old:
        kept = old.read("input.npy")
    assert kept[:6] == given.MAGIC_PREFIX
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("input.npy", kept)
        archive.writestr("output.npy", output)


def npy(shape: str, descr: str = "<f4", rest: bytes = bytes(16)) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + rest


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (npy("(1000000000000,)"), "in 16 bytes"),
        (npy("(2, -2)"), "in 16 bytes"),
        (npy("(2,)", "|O", pickle.dumps([1])), "an array of object"),
        (npy("(2,)", "<f8"), "an array of float64"),
        (npy("(" * 3000 + ")" * 3000), "cannot be read"),
        (b"\x93NUMPY\x03\x00", "array format"),
        (b"", "cannot be read"),
    ],
    ids=range(7),
)
def test_golden_output_that_lies(folder: Path, output: bytes, said: str) -> None:
    npz(folder / "golden.npz", output)
    accept(folder)
    (problem,) = check_model(folder)
    assert "golden.npz cannot be read" in problem
    assert said in problem


def test_zip_bombs(folder: Path) -> None:
    npz(folder / "golden.npz", bytes(10**8), zipfile.ZIP_DEFLATED)
    accept(folder)
    assert (folder / "golden.npz").stat().st_size < 10**6
    (problem,) = check_model(folder)
    assert "is compressed" in problem
    # A directory that says more than there is.
    npz_bytes = bytearray(save_pretrained(expert(), folder, overwrite=True).joinpath("golden.npz").read_bytes())
    place = npz_bytes.rfind(b"PK\x01\x02")
    npz_bytes[place + 24 : place + 28] = struct.pack("<I", 2**31)
    (folder / "golden.npz").write_bytes(npz_bytes)
    accept(folder)
    (problem,) = check_model(folder)
    assert "says it has 2147483648 bytes" in problem


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(folder: Path, value: float) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["norm.weight"] = weights["norm.weight"].clone().fill_(value)
    save_file(weights, folder / WEIGHTS)
    accept(folder)
    refused(folder, r"norm\.weight is not finite")


def test_weights_of_another_kind_of_number(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["norm.weight"] = weights["norm.weight"].to(torch.int32)
    save_file(weights, folder / WEIGHTS)
    accept(folder)
    refused(folder, "of another type")


@pytest.mark.parametrize("key", ["attn_implementation", "auto_map", "transformers_weights", "num_labels", "recipe"])
def test_config_with_keys_that_are_for_others(folder: Path, key: str) -> None:
    edit(folder / "config.json", lambda config: config.update({key: "someone/kernel"}))
    accept(folder)
    refused(folder, rf"unknown keys \['{key}'\]")


def test_config_that_sends_transformers_elsewhere(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(model_type="llava"))
    accept(folder)
    refused(folder, "tells transformers")


@pytest.mark.parametrize("listed", [None, "0" * 64], ids=["not listed", "another hash"])
def test_graph_that_nobody_vouches_for_is_never_opened(
    folder: Path, listed: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr("lwm.export_onnx.compare_onnx", lambda *given: opened.append(given))
    (folder / ONNX).write_bytes(b"graph")
    if listed:
        edit(folder / "provenance.json", lambda record: record["files"].update({ONNX: listed}))
    (problem,) = check_model(folder)
    assert ("was changed" if listed else "is not listed") in problem
    assert opened == []
    edit(folder / "provenance.json", lambda record: record["files"].update({ONNX: file_sha256(folder / ONNX)}))
    assert check_model(folder) == []
    assert len(opened) == 1


def test_hidden_files_are_pointed_out_but_the_hubs(folder: Path) -> None:
    for name in (".gitattributes", ".huggingface"):
        (folder / name).write_text("")
    (folder / ".cache").mkdir()
    assert check_model(folder) == []
    (folder / ".payload.py").write_text("")
    (problem,) = check_model(folder)
    assert ".payload.py is not listed" in problem


def test_card_with_recursive_yaml_is_never_parsed(folder: Path) -> None:
    (folder / "README.md").write_text("---\na: &a [*a, *a]\n---\n")
    assert check_model(folder) == []


@pytest.mark.parametrize(
    "record",
    [{1: "a"}, {"a": {2: "b"}}, {"a": object()}, {"a": [{None: 1}]}],
    ids=["number as key", "deep key", "object", "none as key"],
)
def test_what_json_would_change_is_not_written(tmp_path: Path, record: dict[Any, Any]) -> None:
    with pytest.raises(ModelError, match="cannot be kept as JSON"):
        save_pretrained(expert(), tmp_path / "lte", record)
    assert list(tmp_path.iterdir()) == []
    circle: dict[str, Any] = {}
    circle["self"] = circle
    with pytest.raises(ModelError, match="cannot be kept as JSON"):
        save_pretrained(expert(), tmp_path / "lte", circle)
