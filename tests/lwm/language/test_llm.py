"""Language model configs of somebody else's folder: nothing is fetched or made before they were looked at."""

import time
from typing import Any

import pytest

from lwm.errors import ModelError
from lwm.hub_config import require_inert
from lwm.language.llm import LLM_SIZES, build_llm


@pytest.mark.parametrize(
    "given",
    [
        {"attn_implementation": "someone/kernel"},
        {"_attn_implementation": "someone/kernel"},
        {"experts_implementation": "someone/kernel"},
        {"auto_map": {"AutoConfig": "code"}},
        {"quantization_config": {"quant_method": "fp8"}},
        {"text_config": {"sub": [{"attn_implementation": "someone/kernel"}]}},
        {"kernel_config": {}},
        {"use_kernels": True},
        {"num_labels": 10**7},
        {"num_hidden_layers": 10**9},
    ],
    ids=str,
)
def test_language_models_that_name_code_or_are_absurd_are_refused(given: dict[str, Any]) -> None:
    begin = time.process_time()
    with pytest.raises(ModelError, match="language model config"):
        build_llm(LLM_SIZES["test"] | given, 300)
    assert time.process_time() - begin < 2


def test_a_kernels_size_names_nothing() -> None:
    require_inert({"conv_kernel": 4, "kernel_sizes": [3, 1.5], "use_mamba_kernels": False, "auto_map": None}, "it")
