"""``lwm export``: graphs that give what the model gives, and refusals of those that do not."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from lwm import export_onnx
from lwm.cli import main
from lwm.errors import CaptureError, ConfigError, ModelError, OutputError
from lwm.export import export
from lwm.export_graph import RecipeGraph, graph_of
from lwm.export_onnx import ONNX_IQ, run_onnx
from lwm.hub import check_model, from_pretrained, golden_input, save_pretrained
from lwm.hub_check import ONNX, deviation
from lwm.models.encoder import SpectrogramEncoder, build_encoder
from lwm.models.moe import MoEEncoder
from lwm.models.novelty import NoveltyConfig, NoveltyDetector
from lwm.models.router import Router, RouterConfig
from lwm.output import file_sha256
from lwm.seeding import rng_for
from lwm.signal.recipe import PRESETS, Recipe, recipe_named

RECIPE = recipe_named("small")
RATE = 1.024e6
NAMES = ("lte", "nr")


def expert(name: str = "lte", seed: int = 1) -> SpectrogramEncoder:
    return build_encoder("tiny", RECIPE, -10, 8, name=name, seed=seed)


def mixture() -> MoEEncoder:
    """Two experts, an untrained router and a detector of novelty."""
    torch.manual_seed(0)
    router = Router(RouterConfig(NAMES), RECIPE, -10, 8)
    detector = NoveltyDetector(NoveltyConfig("mahalanobis", router.head.in_features, len(NAMES), 10))
    torch.nn.init.normal_(detector.means)
    return MoEEncoder({n: expert(n, seed) for seed, n in enumerate(NAMES)}, router, detector=detector).eval()


def pictures(count: int) -> torch.Tensor:
    """Pictures of many kinds: noise of other levels, spreads and slopes."""
    rng = rng_for(3, "pictures")
    level, spread = rng.uniform(-35, 30, (2, count, 1, 1, 1))
    slope = rng.uniform(-20, 20, (count, 1, 1, 1)) * np.linspace(-1, 1, 64)
    return torch.from_numpy((level + spread / 10 * rng.standard_normal((count, 1, 64, 64)) + slope).astype(np.float32))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("export")
    folder = save_pretrained(expert(), place / "lte", {"command": "a test"})
    assert main(["export", "--model", str(folder), "--onnx", "--pt2", "--sample_rate", str(RATE)]) == 0
    return folder


@pytest.fixture(scope="module")
def exported_mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("export-moe")
    folder = save_pretrained(mixture(), place / "moe")
    return export(model=str(folder), out=str(place / "moe-onnx"), onnx=True)


@torch.inference_mode()
def test_graph_gives_what_the_model_gives(exported: Path) -> None:
    model, x = from_pretrained(exported), pictures(5)
    tokens, features = run_onnx(exported / ONNX, x.numpy())
    assert deviation(tokens, model.forward_features(x).numpy()) < 1e-5
    assert deviation(features, model(x).numpy()) < 1e-5


@torch.inference_mode()
def test_mixture_graph_is_top_1(exported_mixture: Path) -> None:
    model, x = from_pretrained(exported_mixture), pictures(24)
    tokens, _, probabilities, _, novelty = run_onnx(exported_mixture / ONNX, x.numpy())
    chosen = model.route(x).argmax(1)
    assert len(chosen.unique()) > 1, "else the choice is not tested"
    np.testing.assert_array_equal(probabilities.argmax(1), chosen.numpy())
    assert deviation(tokens, model.forward_features(x).numpy()) < 1e-5
    alone = torch.cat([model.experts[NAMES[n]].forward_features(x[i : i + 1]) for i, n in enumerate(chosen.tolist())])
    assert deviation(tokens, alone.numpy()) < 1e-5
    assert deviation(novelty, model.novelty_score(x).numpy()) < 1e-4


@pytest.mark.parametrize("mode", ["top-1", "top-k", "soft"])
@torch.inference_mode()
def test_graph_mixes_as_the_mixture_does(mode: Any) -> None:
    model, x = mixture(), pictures(12)
    model.set_mode(mode, top_k=2)
    torch.testing.assert_close(graph_of(model)(x)[0], model.forward_features(x))


@torch.inference_mode()
def test_iq_graph_has_the_recipe_inside(exported: Path) -> None:
    model, rng = from_pretrained(exported), rng_for(4, "iq")
    iq = rng.standard_normal((3, RECIPE.window_samples(RATE), 2)).astype(np.float32)
    iq[:, :5000] *= 20  # something to see
    spectrogram, tokens, _ = run_onnx(exported / ONNX_IQ, iq)
    expected = RECIPE(torch.view_as_complex(torch.from_numpy(iq)), RATE).db
    np.testing.assert_allclose(spectrogram, expected.numpy(), atol=0.01)
    assert deviation(tokens, model.forward_features(expected).numpy()) < 1e-3


def test_program_runs_without_lwm_and_holds_no_pickle(exported: Path) -> None:
    import zipfile

    x = pictures(4)
    program: Any = torch.export.load(str(exported / "model.pt2")).module()
    with torch.inference_mode():
        assert deviation(program(x)[1].numpy(), from_pretrained(exported)(x).numpy()) < 1e-5
    with zipfile.ZipFile(exported / "model.pt2") as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    assert not any(content[:2] in (b"\x80\x02", b"\x80\x04", b"PK") for content in contents)


def test_graphs_are_listed_and_described(exported: Path, exported_mixture: Path) -> None:
    record = json.loads((exported / "provenance.json").read_text())
    for name in (ONNX, ONNX_IQ, "model.pt2"):
        assert record["files"][name] == file_sha256(exported / name)
        assert 0 <= record["graphs"][name]["off"] <= record["graphs"][name]["tolerance"]
    card = (exported / "README.md").read_text()
    assert card.count("## Graphs") == 1
    assert "`model-iq.onnx` has the recipe inside: IQ at 1.024e+06 Hz" in card
    assert "cost of all its experts" in (exported_mixture / "README.md").read_text()


def test_doctor_replays_the_graph(exported: Path, exported_mixture: Path, tmp_path: Path) -> None:
    assert check_model(exported) == []
    other = save_pretrained(expert(seed=2), tmp_path / "other")
    record = json.loads((other / "provenance.json").read_text())
    (other / ONNX).write_bytes((exported / ONNX).read_bytes())
    record["files"][ONNX] = file_sha256(other / ONNX)
    (other / "provenance.json").write_text(json.dumps(record))
    (problem,) = check_model(other)
    assert "model.onnx: onnxruntime is off by" in problem
    (other / ONNX).write_bytes((exported_mixture / ONNX).read_bytes()[:5000])
    record["files"][ONNX] = file_sha256(other / ONNX)
    (other / "provenance.json").write_text(json.dumps(record))
    assert any("model.onnx is no" in said for said in check_model(other))


def test_weights_outside_of_the_graph_are_refused(exported: Path, tmp_path: Path) -> None:
    import onnx

    graph = onnx.load(str(exported / ONNX))
    tensor = graph.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    (tmp_path / ONNX).write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match="weights in other files"):
        run_onnx(tmp_path / ONNX, golden_input(RECIPE))


def test_graph_that_is_off_is_refused_and_leaves_nothing(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_pretrained(expert(seed=2), tmp_path / "lte")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def exporter(graph: Any, given: Any, entry: str, path: Path, recipe: Recipe, extra: dict[str, str]) -> None:
        path.write_bytes((exported / ONNX).read_bytes())  # of an expert with other weights

    monkeypatch.setattr(export_onnx, "_export", exporter)
    with pytest.raises(ModelError, match="onnxruntime is off by"):
        export(model=str(folder), onnx=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(ModelError, match="onnxruntime is off by"):
        export(model=str(folder), out=str(tmp_path / "new"), onnx=True)
    assert [path.name for path in tmp_path.iterdir()] == ["lte"]


@pytest.mark.parametrize(
    "changes",
    [
        {"center": True, "hop": 100},
        {"fftshift": False, "n_fft": 512, "window": "blackman", "power_reference": "full_scale"},
        {"n_fft": 255, "win_length": 200, "size": (48, 40)},
        {"resize": "none", "size": (256, 64)},
        {"channels": "viridis", "hop": 64},
    ],
    ids=str,
)
def test_recipe_as_matrices(changes: dict[str, Any]) -> None:
    """Against the recipe itself, which transforms with an FFT."""
    plain = RECIPE.to_dict() | {"name": "other"} | changes
    recipe = Recipe(**plain)
    iq = torch.from_numpy(rng_for(5, "iq").standard_normal((2, recipe.window_samples(RATE), 2)).astype(np.float32))
    iq[:, 3000:9000] *= 30
    made = RecipeGraph(recipe, RATE)(iq)
    expected = recipe(torch.view_as_complex(iq), RATE).db
    assert made.shape == expected.shape
    off = (made - expected).abs()
    assert off.quantile(0.999) < 1e-3
    assert off.max() < (0.01 if recipe.channels == "grey" else 5)


def test_refusals(exported: Path, tmp_path: Path) -> None:
    folder = str(exported)
    with pytest.raises(ConfigError, match="one of --checkpoint and --model"):
        export(out=str(tmp_path / "x"))
    with pytest.raises(ConfigError, match="--onnx or --pt2"):
        export(model=folder)
    with pytest.raises(ConfigError, match="together with --onnx"):
        export(model=folder, pt2=True, sample_rate=1e6)
    with pytest.raises(ConfigError, match="without --out"):
        export("last.ckpt")
    with pytest.raises(OutputError, match="model.onnx exists"):
        export(model=folder, onnx=True)
    with pytest.raises(ModelError, match="an expert or a mixture"):
        graph_of(torch.nn.Linear(1, 1))
    with pytest.raises(CaptureError, match="the recipe's 2e\\+06 Hz"):
        RecipeGraph(Recipe(**(RECIPE.to_dict() | {"sample_rate": 2e6})), 1e6)
    with pytest.raises(ModelError, match="a matrix of at most"):
        RecipeGraph(Recipe(**(PRESETS["lwm"].to_dict() | {"n_fft": 8192, "win_length": 8192})), 1e7)


def test_checkpoint_with_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Task:
        provenance: ClassVar[dict[str, Any]] = {"command": "lwm fit"}

        def export_model(self) -> SpectrogramEncoder:
            return expert()

    monkeypatch.setattr("lwm.export.load_task", lambda checkpoint: Task())
    (tmp_path / "last.ckpt").write_bytes(b"weights")
    out = export(str(tmp_path / "last.ckpt"), str(tmp_path / "lte"), pt2=True)
    assert check_model(out) == []
    record = json.loads((out / "provenance.json").read_text())
    assert record["command"] == "lwm fit"
    assert record["checkpoint_sha256"] == file_sha256(tmp_path / "last.ckpt")
    assert "model.pt2" in record["files"]
    assert (out / "README.md").read_text().startswith("---\nlicense:")
