"""Encoders, mixtures of experts and RF-GPT for ``transformers``: importing this registers them with its Auto classes.

After ``import lwm.hf``, ``AutoModel.from_pretrained(folder)``, for RF-GPT ``AutoModelForImageTextToText``, and
``AutoProcessor.from_pretrained(folder)`` take a model folder as LWM writes it (or its id on the Hugging Face Hub); no
code is downloaded and no pickle is read.
"""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from lwm.hf.config import LWMConfig
from lwm.hf.model import LWMModel
from lwm.hf.processor import LWMProcessor
from lwm.hf.rfgpt import RFGPTForConditionalGeneration
from lwm.hf.rfgpt_config import RFGPTConfig
from lwm.hf.rfgpt_processor import RFGPTProcessor

__all__ = [
    "LWMConfig",
    "LWMModel",
    "LWMProcessor",
    "RFGPTConfig",
    "RFGPTForConditionalGeneration",
    "RFGPTProcessor",
]

AutoConfig.register(LWMConfig.model_type, LWMConfig, exist_ok=True)
AutoModel.register(LWMConfig, LWMModel, exist_ok=True)
AutoProcessor.register(LWMConfig, LWMProcessor, exist_ok=True)
AutoFeatureExtractor.register(LWMConfig, LWMProcessor, exist_ok=True)
AutoConfig.register(RFGPTConfig.model_type, RFGPTConfig, exist_ok=True)
AutoModelForImageTextToText.register(RFGPTConfig, RFGPTForConditionalGeneration, exist_ok=True)
AutoProcessor.register(RFGPTConfig, RFGPTProcessor, exist_ok=True)
