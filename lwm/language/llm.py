"""The language model behind RF-GPT: any causal language model that transformers can build from a config."""

from typing import Any

from torch import nn

from lwm.errors import ConfigError
from lwm.hub_config import require_inert

LLM_SIZES: dict[str, dict[str, Any]] = {
    "test": {
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "initializer_range": 0.125,
    },
    "tiny": {
        "model_type": "qwen2",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "initializer_range": 0.088,
    },
}
"""Qwen2 shapes by name, trained from scratch: ``test`` for tests, ``tiny`` for a laptop.

``initializer_range`` is 1/sqrt(hidden_size). The family's 0.02 is made for widths of thousands: at 128 a layer passes
on a quarter of its input's scale. After 200 steps of 32 pairs about three made-up classes (two seeds each) 0.02 got
0.53 and 0.79 of them right, 0.088 0.81 and 0.82; three layers got 0.70 and 0.83 and took longer, so there are two.
"""

_COMMON: dict[str, Any] = {"max_position_embeddings": 1024, "tie_word_embeddings": True, "attention_dropout": 0.0}


def build_llm(name_or_config: str | dict[str, Any], vocab_size: int) -> nn.Module:
    """A causal language model with fresh weights.

    Args:
        name_or_config: a key of :data:`LLM_SIZES`, or a transformers config as a dict with ``model_type``.
        vocab_size: number of tokens; decides over what the config says.

    Raises:
        ConfigError: no such name, or not the config of a causal language model.
        ModelError: the config names code to fetch, or absurd numbers of layers.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if isinstance(name_or_config, str):
        if name_or_config not in LLM_SIZES:
            raise ConfigError(f"no language model named {name_or_config!r}", f"one of {sorted(LLM_SIZES)} or a config")
        plain = _COMMON | LLM_SIZES[name_or_config]
    else:
        plain = dict(name_or_config)
        require_inert(plain, "language model config")
    kind = plain.pop("model_type", None)
    try:
        # No token of the family's own tokenizer (Qwen2's begin and end numbers, say) may end or begin a text here.
        own = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        config = AutoConfig.for_model(kind, **(plain | own | {"vocab_size": vocab_size}))
        return AutoModelForCausalLM.from_config(config)
    except (ValueError, TypeError) as error:
        given = str(error).splitlines()[0]
        raise ConfigError(
            f"language model config of model_type {kind!r} ({given})", "a causal one of transformers"
        ) from None


def llm_config(llm: Any) -> dict[str, Any]:
    """Config of a model as the dict that :func:`build_llm` takes: what differs from the family's defaults."""
    plain: dict[str, Any] = llm.config.to_diff_dict()
    return {key: value for key, value in plain.items() if key not in ("transformers_version", "architectures", "dtype")}
