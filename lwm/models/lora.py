"""Low-rank updates (LoRA, Hu et al., arXiv 2106.09685) of an encoder or a language model, by the library peft."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from lwm.errors import ConfigError

_KEYS = {"rank", "alpha", "dropout", "targets"}
_MARK = "lora_"


def lora_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with every one stated.

    Args:
        options: ``rank`` of the updates (8), ``alpha`` (twice the rank; an update is scaled by alpha / rank),
            ``dropout`` on an update's input (0), ``targets``: names of linear layers or one pattern of
            whole names, None for all but the output layer.

    Raises:
        ConfigError: an unknown option or an impossible value.
    """
    unknown = sorted(set(options) - _KEYS)
    if unknown:
        raise ConfigError(f"LoRA options {unknown}", f"some of {sorted(_KEYS)}")
    rank = options.get("rank", 8)
    stated = {"rank": rank, "alpha": 2 * rank, "dropout": 0.0, "targets": None} | dict(options)
    alpha, dropout = stated["alpha"], stated["dropout"]
    if type(rank) is not int or rank < 1 or not (alpha > 0 and math.isfinite(alpha)) or not 0 <= dropout < 1:
        raise ConfigError(
            f"LoRA rank {rank}, alpha {alpha}, dropout {dropout}", "rank >= 1, alpha > 0, 0 <= dropout < 1"
        )
    return stated


def add_lora(model: Any, options: Mapping[str, Any]) -> None:
    """Put updates into a model, in place; they begin as zero, and nothing else of it learns any more.

    Raises:
        ConfigError: no linear layer has the name of a target.
    """
    from peft import LoraConfig, inject_adapter_in_model

    stated = lora_options(options)
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    layers = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    linear = sorted({name.rpartition(".")[2] for name, part in layers if part is not output})
    targets = linear if stated["targets"] is None else stated["targets"]
    config = LoraConfig(
        r=stated["rank"], lora_alpha=stated["alpha"], lora_dropout=stated["dropout"], target_modules=targets
    )
    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:
        raise ConfigError(f"LoRA targets {targets}", f"some of {linear}") from error
    for name, weight in model.named_parameters():
        weight.requires_grad_(is_lora(name))


def is_lora(name: str) -> bool:
    """Whether a weight of this name belongs to an update."""
    return any(part.startswith(_MARK) for part in name.split("."))


def merge_lora(model: Any) -> None:
    """Add the updates to the layers that they belong to, in place, and take them out.

    Raises:
        ConfigError: there are none.
    """
    from peft.tuners.lora import LoraLayer

    found = [(name, part) for name, part in model.named_modules() if isinstance(part, LoraLayer)]
    if not found:
        raise ConfigError("a model without LoRA", "one with updates to merge")
    for name, part in found:
        layer: Any = part
        layer.merge(safe_merge=True)
        place, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(place), leaf, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
