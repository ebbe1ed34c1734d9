"""The shipped configs for a GPU box fit the real signatures and say what the paper says."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from lwm.language.datamodule import InstructionDataModule
from lwm.tasks.instruct import InstructionTuning

FOLDER = Path(__file__).parents[3] / "configs" / "rfgpt"
NAMES = ("qwen2_5_vl_3b", "qwen2_5_vl_7b", "qwen2_5_1_5b")
# config.json of the hub folders: what the count of parameters follows from.
SHAPES: dict[str, dict[str, Any]] = {
    "3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16}
    | {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
}
PARAMETERS = {"3b": 3.75e9, "7b": 8.29e9}
"""As the model cards state them (3.75 and 8.29 billion)."""


@pytest.mark.parametrize("name", NAMES)
def test_a_config_builds_task_and_data(name: str) -> None:
    plain = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    built: dict[str, Any] = {}
    for kind, key in ((InstructionTuning, "model"), (InstructionDataModule, "data")):
        parser = ArgumentParser()
        parser.add_class_arguments(kind, "it")
        built[key] = parser.instantiate_classes(parser.parse_object({"it": plain[key]["init_args"]})).it
        assert isinstance(built[key], kind)
    trainer = plain["trainer"]
    pairs = trainer["devices"] * trainer["accumulate_grad_batches"] * built["data"].batch_size
    assert (pairs, trainer["max_epochs"], trainer["precision"][:4]) == (256, 3, "bf16")
    assert built["model"].tuning.warmup_share == 0.05
    assert built["model"].stages[-1].llm == 2e-4


@pytest.mark.parametrize("size", SHAPES)
def test_the_parts_of_the_real_shapes_are_all_of_them(size: str) -> None:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from lwm.language.qwen_places import Speaker
    from lwm.language.qwen_vl import QwenTower

    shape = dict(SHAPES[size])
    tied = shape.pop("tie_word_embeddings")
    vision = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "out_hidden_size": shape["hidden_size"]}
    text = shape | {"rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)
    with torch.device("meta"):
        whole = Qwen2_5_VLForConditionalGeneration(config)
    count = sum(parameter.numel() for parameter in set(whole.parameters()))
    assert count == pytest.approx(PARAMETERS[size], rel=0.01)
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    from lwm.signal.recipe import recipe_named

    tower = QwenTower(whole.model.visual, Qwen2VLImageProcessor(), recipe_named("rf-gpt"))
    assert (tower.grid_size, tower.num_features) == ((36, 36), 1280)
    parts = [tower, whole.model.visual.merger, Speaker(whole)]
    assert count == sum(parameter.numel() for part in parts for parameter in set(part.parameters()))
