"""Folders made to do harm, through ``transformers``: refused as :func:`lwm.from_pretrained` refuses them."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from lwm.errors import ConfigError, ModelError
from lwm.hf import LWMConfig, LWMModel
from lwm.hf import config as module
from lwm.models.encoder import SpectrogramEncoder

Edit = Callable[[Callable[[dict[str, Any]], None]], None]


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    shutil.copytree(folder, tmp_path / "broken")
    return tmp_path / "broken"


@pytest.fixture
def edit(broken: Path) -> Edit:
    def change(how: Callable[[dict[str, Any]], None]) -> None:
        config = json.loads((broken / "config.json").read_text())
        how(config)
        (broken / "config.json").write_text(json.dumps(config))

    return change


@pytest.mark.parametrize("auto", [AutoConfig, AutoModel])
def test_a_model_far_larger_than_its_weights_is_refused_early(auto: Any, broken: Path, edit: Edit) -> None:
    """CPU time: 3000 blocks would take tens of seconds to be built."""
    edit(lambda config: config["model"].update(depth=3000))
    begin = time.process_time()
    with pytest.raises(ModelError, match=r"asks for a model of \d+ bytes .*model\.safetensors has"):
        auto.from_pretrained(broken)
    assert time.process_time() - begin < 8


def test_without_weights_there_is_a_limit_too(broken: Path, edit: Edit) -> None:
    edit(lambda config: config["model"].update(depth=3000))
    (broken / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights are there"):
        AutoConfig.from_pretrained(broken)


def test_each_config_is_built_once_to_be_looked_at(broken: Path, edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(lambda config: config["model"].update(name="seen nowhere else"))
    built: list[torch.device] = []
    real = module.build_checked

    def counted(*args: Any, **options: Any) -> Any:
        built.append(torch.empty(0).device)
        return real(*args, **options)

    monkeypatch.setattr(module, "build_checked", counted)
    AutoConfig.from_pretrained(broken)
    assert len(built) == 1
    AutoModel.from_pretrained(broken)
    assert len(built) == 2, "the second is the model itself"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("transformers_weights", "other.safetensors"),
        ("attn_implementation", "someone/kernel"),
        ("experts_implementation", "someone/kernel"),
        ("auto_map", {"AutoModel": "someone/code--model.Model"}),
        ("quantization_config", {"quant_method": "fp8"}),
        ("_commit_hash", "0" * 40),
        ("num_labels", 10**7),
        ("recipe", {}),
    ],
)
def test_keys_that_no_folder_of_ours_has_are_refused(key: str, value: Any, broken: Path, edit: Edit) -> None:
    edit(lambda config: config.update({key: value}))
    shutil.copy(broken / "model.safetensors", broken / "other.safetensors")
    begin = time.process_time()
    for kind in (AutoConfig, LWMModel):
        with pytest.raises(ModelError, match=rf"unknown keys \['{key}'\]"):
            kind.from_pretrained(broken)
    assert time.process_time() - begin < 3
    # The same from a dict, which names no folder.
    plain = json.loads((broken / "config.json").read_text())
    if key != "recipe":
        with pytest.raises(ModelError, match="unknown keys"):
            LWMConfig.from_dict(plain)


@pytest.mark.parametrize(
    "given",
    [
        {"attn_implementation": "someone/kernel"},
        {"attn_implementation": {"": "someone/kernel"}},
        {"transformers_weights": "other.safetensors"},
        {"auto_map": {"AutoModel": "code"}},
        {"num_labels": 10**7},
    ],
    ids=str,
)
def test_configs_inside_others_configs_are_refused_too(given: dict[str, Any]) -> None:
    """As a vision-language model's config builds the one of its tower."""
    with pytest.raises(ModelError, match="a config"):
        LWMConfig(**given)
    assert LWMConfig(attn_implementation="eager", num_labels=3).num_labels == 3


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(broken: Path, value: float) -> None:
    weights = load_file(broken / "model.safetensors")
    weights["norm.weight"][3] = value
    save_file(weights, broken / "model.safetensors")
    with pytest.raises(ModelError, match=r"norm\.weight is not finite"):
        AutoModel.from_pretrained(broken)


def test_weights_of_another_kind_of_number(broken: Path) -> None:
    weights = load_file(broken / "model.safetensors")
    weights["norm.weight"] = weights["norm.weight"].int()
    save_file(weights, broken / "model.safetensors")
    with pytest.raises(ModelError, match="of another type"):
        AutoModel.from_pretrained(broken)


@pytest.mark.parametrize("change", [{"width": "32"}, {"width": [1]}, {"heads": None}], ids=str)
def test_a_config_of_other_types_is_one_line(change: dict[str, Any], broken: Path, edit: Edit) -> None:
    edit(lambda config: config["model"].update(change))
    for auto in (AutoConfig, AutoModel):
        with pytest.raises(ModelError, match="describes no encoder") as caught:
            auto.from_pretrained(broken)
        assert "\n" not in str(caught.value)


def test_other_files_are_never_loaded(broken: Path) -> None:
    shutil.copy(broken / "model.safetensors", broken / "model.fp16.safetensors")
    with pytest.raises(ConfigError, match="variant"):
        AutoModel.from_pretrained(broken, variant="fp16")
    (broken / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        LWMModel.from_pretrained(broken)


def test_a_config_saved_alone_is_read_again(encoder: SpectrogramEncoder, tmp_path: Path) -> None:
    config = LWMConfig.of(encoder)
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == config.to_dict() | {"_name_or_path": str(tmp_path)}
