"""Encoders and mixtures of experts for ``transformers``: importing this module registers them with its Auto classes.

After ``import lwm.hf``, ``AutoModel.from_pretrained(folder)`` and ``AutoProcessor.from_pretrained(folder)`` take a
model folder as LWM writes it (or its id on the Hugging Face Hub); no code is downloaded and no pickle is read.
"""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

from lwm.hf.config import LWMConfig
from lwm.hf.model import LWMModel
from lwm.hf.processor import LWMProcessor

__all__ = ["LWMConfig", "LWMModel", "LWMProcessor"]

AutoConfig.register(LWMConfig.model_type, LWMConfig, exist_ok=True)
AutoModel.register(LWMConfig, LWMModel, exist_ok=True)
AutoProcessor.register(LWMConfig, LWMProcessor, exist_ok=True)
AutoFeatureExtractor.register(LWMConfig, LWMProcessor, exist_ok=True)
