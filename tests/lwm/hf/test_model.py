"""The tower of ``transformers`` is our encoder, token for token, whoever loads it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel

import lwm
from lwm.errors import ConfigError, ModelError, OutputError
from lwm.hf import LWMConfig, LWMModel, LWMProcessor
from lwm.models.encoder import SpectrogramEncoder, patchify
from lwm.models.moe import MoEEncoder

TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.02}
"""On normalised tokens: eight mantissa bits through two blocks, and three more."""


def pictures(model: Any, batch: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    level = torch.randn(batch, 1, 1, 1, generator=generator) * 20
    return level + torch.randn(batch, model.in_chans, *model.recipe.size, generator=generator) * 8


@pytest.fixture(params=["encoder", "mixture"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Path]:
    """A model and its folder."""
    if request.param == "encoder":
        return request.getfixturevalue("encoder"), request.getfixturevalue("folder")
    return request.getfixturevalue("mixture"), request.getfixturevalue("mixture_folder")


@torch.no_grad()
def test_tokens_and_pooled_features_are_the_encoders(pair: tuple[Any, Path]) -> None:
    ours, folder = pair
    model = AutoModel.from_pretrained(folder, trust_remote_code=False)
    assert isinstance(model, LWMModel)
    assert not model.training
    x = pictures(ours)
    output = model(x, output_hidden_states=True)
    tokens = ours.forward_features(x)
    length = ours.grid_size[0] * ours.grid_size[1]
    assert output.last_hidden_state.shape == (6, length, ours.num_features)
    assert model.config.sequence_length == length
    assert torch.equal(model(x).last_hidden_state, tokens[:, ours.num_prefix_tokens :])
    assert torch.equal(model(x).pooler_output, ours.forward_head(tokens))
    assert len(output.hidden_states) == model.config.num_hidden_layers == ours.depth
    for state, expected in zip(output.hidden_states, ours.forward_intermediates(x, norm=True), strict=True):
        assert torch.equal(state, expected[:, ours.num_prefix_tokens :])
    torch.testing.assert_close(output.hidden_states[-1], output.last_hidden_state)
    last, pooled = model(x, return_dict=False)
    assert torch.equal(last, output.last_hidden_state)
    assert torch.equal(pooled, model(x, output_hidden_states=-1).pooler_output)


def test_the_mixture_routes_both_ways(mixture: MoEEncoder) -> None:
    assert len(mixture.route(pictures(mixture)).argmax(1).unique()) == 2


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@torch.no_grad()
def test_half_precisions_keep_their_statistics_and_their_tolerance(pair: tuple[Any, Path], dtype: torch.dtype) -> None:
    ours, folder = pair
    model = AutoModel.from_pretrained(folder, dtype=dtype, device_map="cpu")
    x = pictures(ours)
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert all(
        table.dtype == torch.float32 for name, table in model.named_buffers() if name.endswith((".mean", ".std"))
    )
    off = model(x).last_hidden_state.float() - ours.forward_features(x)[:, ours.num_prefix_tokens :]
    assert 0 < off.abs().mean() < TOLERANCE[dtype]


@torch.no_grad()
def test_pictures_are_normalised_before_they_are_rounded(encoder: SpectrogramEncoder, folder: Path) -> None:
    """bfloat16 has steps of 0.5 dB between 64 and 128 dB, and of 1/128 where it is normalised."""
    model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
    model.encoder.mean.fill_(-70.0)
    model.encoder.std.fill_(6.0)
    x = torch.randn(2, 1, *encoder.recipe.size, generator=torch.Generator().manual_seed(0)) * 6 - 70
    seen: list[torch.Tensor] = []
    model.encoder.patch_embed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(x)
    exact, rounded_first = (patchify((each + 70) / 6, 8) for each in (x, x.bfloat16().float()))
    assert torch.equal(seen[0], exact.bfloat16())
    off, off_before = ((each.float() - exact).abs().mean() for each in (seen[0], rounded_first))
    assert off < 0.1 * off_before


@torch.no_grad()
def test_the_grid_runs_along_time_first(encoder: SpectrogramEncoder, folder: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    assert model.config.grid_size == [4, 8]
    assert model.config.image_size == [32, 64]
    assert model.config.patch_size == [8, 8]
    x = torch.zeros(1, 1, 32, 64)
    changed = x.clone()
    changed[..., 8:16, 40:48] = 20.0
    # Before attention mixes them, only the patch of row 1 and column 5 differs.
    off = (encoder.embed(changed) - encoder.embed(x)).abs().sum(-1)
    grid = model.token_grid(off[..., None])[0, ..., 0]
    assert grid.nonzero().tolist() == [[1, 5]]
    assert model.token_places()[int(off.argmax())].tolist() == [1, 5]


def test_what_it_saves_loads_here(pair: tuple[Any, Path], tmp_path: Path) -> None:
    ours, folder = pair
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        next(iter(model.parameters())).add_(0.25)
        model.save_pretrained(tmp_path / "saved")
        x = pictures(ours)
        expected = model(x).last_hidden_state
        found = lwm.from_pretrained(tmp_path / "saved").forward_features(x)[:, ours.num_prefix_tokens :]
        again = LWMModel.from_pretrained(tmp_path / "saved")(x).last_hidden_state
    assert torch.equal(found, expected)
    assert torch.equal(again, expected)


def test_a_fresh_process_loads_the_folder(mixture: MoEEncoder, mixture_folder: Path, tmp_path: Path) -> None:
    x = pictures(mixture)
    with torch.no_grad():
        torch.save({"x": x, "expected": mixture.forward_features(x)}, tmp_path / "known.pt")
    code = (
        "import sys, torch, lwm.hf; from transformers import AutoModel;"
        "known = torch.load(sys.argv[2]); torch.set_num_threads(1);"
        "model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=False);"
        "sys.exit(not torch.equal(model(known['x']).last_hidden_state, known['expected']))"
    )
    command = [sys.executable, "-c", code, str(mixture_folder), str(tmp_path / "known.pt")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_saving_replaces_only_model_folders(folder: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "a", is_main_process=False)
    assert not (tmp_path / "a").exists()
    for _ in range(2):
        model.bfloat16().save_pretrained(tmp_path / "a", provenance={"command": "mine"})
    assert json.loads((tmp_path / "a" / "provenance.json").read_text())["command"] == "mine"
    assert {value.dtype for value in load_file(tmp_path / "a" / "model.safetensors").values()} == {torch.float32}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "diary.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        model.save_pretrained(tmp_path / "b")
    with pytest.raises(ConfigError, match="push_to_hub"):
        model.save_pretrained(tmp_path / "c", push_to_hub=True)


@pytest.mark.parametrize("change", ["missing", "unexpected", "misshapen", "pickle", "huge"])
def test_weights_that_do_not_fit_are_refused(change: str, folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weights = load_file(broken / "model.safetensors")
    if change == "missing":
        weights.pop("norm.bias")
    elif change == "unexpected":
        weights["norm.more"] = torch.zeros(3)
    elif change == "misshapen":
        weights["norm.bias"] = torch.zeros(3)
    save_file(weights, broken / "model.safetensors")
    if change == "pickle":
        torch.save(weights, broken / "model.safetensors")
    elif change == "huge":
        config = json.loads((broken / "config.json").read_text())
        config["model"]["width"] = 2**20
        (broken / "config.json").write_text(json.dumps(config))
    expected = {"pickle": "is a pickle", "huge": "asks for a model of|numbers in a table"}.get(change, change)
    with pytest.raises(ModelError, match=expected):
        AutoModel.from_pretrained(broken)


def test_weights_shared_between_experts_stay_shared(tied: tuple[MoEEncoder, Path]) -> None:
    mixture, folder = tied
    model = AutoModel.from_pretrained(folder)
    x = pictures(mixture)
    with torch.no_grad():
        assert torch.equal(model(x).last_hidden_state, mixture.forward_features(x))
    ours, theirs = (expert.patch_embed.weight for expert in model.encoder.experts.values())
    assert ours is theirs


def test_gradients_are_the_same_with_checkpointing(folder: Path, encoder: SpectrogramEncoder) -> None:
    model, x = AutoModel.from_pretrained(folder).train(), pictures(encoder)

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(x, output_hidden_states=-1).last_hidden_state.square().sum().backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    plain = gradients()
    model.activation_checkpointing_enable()
    assert model.encoder.grad_checkpointing
    assert model.is_activation_checkpointing
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = model.encoder.blocks[0].register_forward_pre_hook(count)
    recomputed = gradients()
    handle.remove()
    assert calls == 2
    assert len(plain) == len(recomputed) == len(list(model.parameters()))
    for a, b in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(a, b)
    model.activation_checkpointing_disable()
    assert not model.encoder.grad_checkpointing


def test_a_config_makes_fresh_weights_and_wrapping_shares_them(folder: Path, encoder: SpectrogramEncoder) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, LWMConfig)
    assert config.hidden_size == 32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        fresh = AutoModel.from_config(config)
    assert torch.isfinite(fresh(pictures(encoder)).last_hidden_state).all()
    assert torch.equal(fresh.encoder.norm.weight, torch.ones(32))
    assert not torch.equal(fresh.encoder.patch_embed.weight, encoder.patch_embed.weight)
    wrapped = LWMModel.of(encoder)
    assert wrapped.encoder is encoder
    assert torch.equal(wrapped(pictures(encoder)).pooler_output, encoder(pictures(encoder)))


def test_an_id_on_the_hub_is_read_from_its_cache(folder: Path, encoder: SpectrogramEncoder, tmp_path: Path) -> None:
    """What a download leaves behind: snapshots by commit, a branch that names one."""
    home, commit = tmp_path / "models--someone--tower", "a" * 40
    shutil.copytree(folder, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    options = {"cache_dir": tmp_path, "local_files_only": True}
    model = LWMModel.from_pretrained("someone/tower", **options)
    x = pictures(encoder)
    with torch.no_grad():
        assert torch.equal(model(x).pooler_output, encoder(x))
    assert LWMProcessor.from_pretrained("someone/tower", **options).recipe == encoder.recipe
    for kind in (LWMModel, LWMProcessor, LWMConfig):
        with pytest.raises(OSError, match="cached"):
            kind.from_pretrained("nobody/tower", **options)


def test_configs_of_nothing_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="without its recipe"):
        LWMModel(LWMConfig(type="encoder", model={}))
    plain = AutoConfig.from_pretrained(folder).to_dict()
    with pytest.raises(ModelError, match="'rfgpt'"):
        LWMConfig(**(plain | {"type": "rfgpt"}))
    with pytest.raises(ModelError, match="format_version"):
        LWMConfig(**(plain | {"format_version": 99}))
    with pytest.raises(ModelError, match="without a model"):
        _ = LWMConfig().sequence_length


def test_modules_are_ours_all_the_way(folder: Path) -> None:
    """No code of the folder runs: every module is of an installed package."""
    model: nn.Module = AutoModel.from_pretrained(folder, trust_remote_code=False)
    packages = {type(module).__module__.split(".")[0] for module in model.modules()}
    assert packages <= {"lwm", "torch", "timm"}
