"""The language model behind RF-GPT: any causal language model that transformers can build or load."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import nn

from lwm.errors import ConfigError, ModelError
from lwm.hub_config import require_inert
from lwm.hub_weights import weights_sha256
from lwm.language.chat import Chat

Numbers = Literal["float32", "bfloat16"]
"""Type of a language model's numbers."""

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

_NOT_KEPT = ("transformers_version", "architectures", "dtype", "torch_dtype", "quantization_config", "_name_or_path")

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")

_COMMON: dict[str, Any] = {"max_position_embeddings": 1024, "tie_word_embeddings": True, "attention_dropout": 0.0}


def build_llm(name_or_config: str | dict[str, Any], vocab_size: int) -> nn.Module:
    """A causal language model with fresh weights.

    Args:
        name_or_config: a key of :data:`LLM_SIZES`, or a transformers config as a dict with ``model_type``.
        vocab_size: number of tokens; decides over what a named shape says, and over a config that has fewer.

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
    dtype = _numbers(plain.pop("dtype", "float32"))
    # The embeddings of a pretrained model may have more rows than its tokenizer has tokens.
    vocab_size = max(vocab_size, plain.get("vocab_size", 0))
    kind = plain.pop("model_type", None)
    try:
        # No token of the family's own tokenizer (Qwen2's begin and end numbers, say) may end or begin a text here.
        own = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        config = AutoConfig.for_model(kind, **(plain | own | {"vocab_size": vocab_size}))
        return AutoModelForCausalLM.from_config(config, dtype=dtype)
    except (ValueError, TypeError) as error:
        given = str(error).splitlines()[0]
        raise ConfigError(
            f"language model config of model_type {kind!r} ({given})", "a causal one of transformers"
        ) from None


def llm_config(llm: Any) -> dict[str, Any]:
    """Config of a model as the dict that :func:`build_llm` takes: what differs from the family's defaults."""
    plain: dict[str, Any] = llm.config.to_diff_dict()
    kept = {key: value for key, value in plain.items() if key not in _NOT_KEPT}
    numbers = str(llm.dtype).removeprefix("torch.")
    return kept | ({} if numbers == "float32" else {"dtype": numbers})


class Source(NamedTuple):
    """Where a pretrained language model was: ``path`` as it was given, ``sha256`` of its weights as they were loaded
    (see :func:`lwm.hub.weights_sha256`), ``dtype`` in which they were, ``revision`` on the hub."""

    path: str
    sha256: str
    dtype: Numbers
    revision: str | None = None


class Loaded(NamedTuple):
    """A pretrained language model with its weights, its chat, where it came from, and whether its weights were
    dequantised from a GGUF file of fewer bits (they are what these bits can say, no more)."""

    llm: Any
    chat: Chat
    source: Source
    dequantised: bool


def is_pretrained(llm: str | Mapping[str, Any]) -> bool:
    """Whether a setting names a language model to load (a folder, a hub id, a ``.gguf`` file or ``smollm2-135m``)
    rather than a shape to train from scratch."""
    return isinstance(llm, str) and llm not in LLM_SIZES


def load_llm(
    path: str | Path,
    dtype: Numbers = "float32",
    template: str | None = None,
    options: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> Loaded:
    """A pretrained causal language model of transformers, with its tokenizer and chat template.

    Args:
        path: a folder, ``owner/name`` on the Hugging Face Hub, a ``.gguf`` file (its weights are dequantised), or
            ``smollm2-135m`` (see :mod:`lwm.language.smollm`).
        dtype: type of its numbers.
        template: chat template in jinja; None takes the tokenizer's own.
        options: variables for the template.
        revision: branch, tag or commit on the hub.

    Raises:
        ModelError: nothing there, no causal language model, or no chat template.
        ConfigError: no such type of numbers.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lwm.language.pretrained_chat import PretrainedChat
    from lwm.language.smollm import SMOLLM, smollm_file

    numbers = _numbers(dtype)
    given = smollm_file() if str(path) == SMOLLM else path
    where, gguf = _place(str(given))
    if Path(where).is_dir() and not gguf and not any((Path(where) / name).is_file() for name in _TOKENIZER_FILES):
        # transformers would make an empty tokenizer of the family and say nothing.
        raise ModelError(f"language model {path} without a tokenizer", f"one of {list(_TOKENIZER_FILES)} in the folder")
    more: dict[str, Any] = {"gguf_file": gguf} if gguf else {"revision": revision}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **more)
        # Only safetensors: a pickle would run its author's code.
        kind: dict[str, Any] = {} if gguf else {"use_safetensors": True}
        llm = AutoModelForCausalLM.from_pretrained(where, dtype=numbers, trust_remote_code=False, **more, **kind)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(
            f"no language model {path} ({type(error).__name__}: {str(error).strip().splitlines()[0]:.200})",
            "a folder with config.json, weights in safetensors and a tokenizer; owner/name on the hub; or a .gguf file",
        ) from error
    llm.eval()
    chat = PretrainedChat(tokenizer, template, options)
    source = Source(str(path), weights_sha256(llm), dtype, revision)
    return Loaded(llm, chat, source, gguf is not None and _quantised(Path(where) / gguf))


def _place(path: str) -> tuple[str, str | None]:
    """What transformers is to load from, and the GGUF file in it."""
    if not path.endswith(".gguf"):
        return path, None
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"no language model {path}", "a .gguf file")
    return str(file.parent), file.name


def _quantised(file: Path) -> bool:
    from gguf import GGMLQuantizationType, GGUFReader

    plain = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}
    return any(tensor.tensor_type not in plain for tensor in GGUFReader(file).tensors)


def _numbers(name: Any) -> torch.dtype:
    if name not in get_args(Numbers):
        raise ConfigError(f"language model in {name!r}", f"one of {list(get_args(Numbers))}")
    return getattr(torch, name)
