"""RF-GPT as a model of ``transformers``: generation, training, peft."""

from inspect import signature
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from lwm.errors import ConfigError, ModelError
from lwm.hf.config import HUB_OPTIONS, model_folder
from lwm.hf.rfgpt_config import RFGPTConfig
from lwm.hub import MODELS, WEIGHTS, from_pretrained, save_pretrained
from lwm.models.lora import is_lora
from lwm.registry import load

_DEFAULTS = {
    "trust_remote_code": False,
    "use_safetensors": True,
    "output_loading_info": False,
    "low_cpu_mem_usage": True,
}
"""Options of ``from_pretrained`` that a model folder follows anyway, with what they may say."""


def _dtype(name: Any) -> torch.dtype:
    """A floating type of torch, or its name."""
    found = getattr(torch, name, None) if isinstance(name, str) else name
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ConfigError(f"dtype {name!r}", "a floating type of torch, for example 'bfloat16', or 'auto'")
    return found


class RFGPTForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """An RF-GPT behind ``transformers``' interface; it answers exactly as :class:`lwm.language.rfgpt.RFGPT` does.

    Args:
        config: of a model folder, or :meth:`RFGPTConfig.of` a model.
        rfgpt: the model itself; None makes one with fresh weights.

    Raises:
        ModelError: the config is of no RF-GPT.
    """

    config_class = RFGPTConfig
    base_model_prefix = "rfgpt"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]  # noqa: RUF012 -- transformers' own declaration
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: RFGPTConfig, rfgpt: Any = None) -> None:
        super().__init__(config)
        if rfgpt is None:
            if config.model is None:
                raise ModelError("a config that names no model", "one of a model folder")
            rfgpt = load(MODELS, "rfgpt").from_config(config.model, config.require_recipe())
        for module in rfgpt.modules():  # every part has its weights by now
            module._is_hf_initialized = True
        self.rfgpt: Any = rfgpt
        self.post_init()
        chat = rfgpt.chat
        self.generation_config = GenerationConfig(eos_token_id=sorted(chat.end_ids), pad_token_id=chat.pad_id)
        # What forward() takes is what generate() may pass on.
        self._passed = set(signature(rfgpt.llm.forward).parameters)

    @classmethod
    def of(cls, rfgpt: nn.Module) -> Self:
        """The very RF-GPT, wrapped; its weights are shared, not copied."""
        return cls(RFGPTConfig.of(rfgpt), rfgpt).train(rfgpt.training)

    def _init_weights(self, module: nn.Module) -> None:
        """An RF-GPT makes its own."""

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether the language model computes activations again in the backward pass; ``transformers`` sets it."""
        return self.__dict__.get("_recompute", False)

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        self.__dict__["_recompute"] = enable

    def get_input_embeddings(self) -> nn.Module:
        """Embedding of the words."""
        return self.rfgpt.llm.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Layer to the logits."""
        return self.rfgpt.llm.get_output_embeddings()

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Next-token logits, and the loss on what is labelled.

        Args:
            input_ids: int64 ``[B, S]``.
            pixel_values: dB pictures ``[captures, C, F, T]`` of the recipe, all conversations' one after the other;
                needed where ``input_ids`` has places for them, that is in the first step of a generation.
            attention_mask: int64 ``[B, S]``, 0 on padding.
            position_ids: int64 ``[B, S]``.
            past_key_values: cache of the tokens before.
            inputs_embeds: ``[B, S, width]`` in place of ``input_ids`` and pictures.
            labels: int64 ``[B, S]``, -100 where there is no loss.
            use_cache: give a cache back.
            logits_to_keep: so many of the last logits; 0 for all.
            **kwargs: the language model's own; the loss takes ``num_items_in_batch``.

        Returns:
            ``loss`` (mean over labelled tokens), ``logits [B, S, V]``, ``past_key_values``.

        Raises:
            ModelError: places and pictures do not match.
        """
        given: dict[str, Any] = {"attention_mask": attention_mask, "past_key_values": past_key_values}
        begun = past_key_values is not None and past_key_values.get_seq_length() > 0
        if inputs_embeds is None and begun and not bool((input_ids == self.rfgpt.chat.rf_id).any()):
            given["input_ids"] = input_ids
        elif inputs_embeds is None:
            given["inputs_embeds"] = self.rfgpt.embed(self._encoded(pixel_values, input_ids), input_ids)
        else:
            given["inputs_embeds"] = inputs_embeds
        more = {"position_ids": position_ids, "logits_to_keep": logits_to_keep, "use_cache": use_cache}
        given |= {key: value for key, value in more.items() if value is not None and key in self._passed}
        given |= {key: value for key, value in kwargs.items() if key in _LLM_OPTIONS}
        output = self.rfgpt.llm(**given)
        loss = None
        if labels is not None:
            counted = {key: value for key, value in kwargs.items() if key == "num_items_in_batch"}
            size = output.logits.shape[-1]
            loss = self.loss_function(logits=output.logits, labels=labels, vocab_size=size, **counted)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=output.logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def _encoded(self, pixel_values: Tensor | None, input_ids: Tensor | None) -> Tensor:
        if input_ids is None:
            raise ModelError("neither input_ids nor inputs_embeds", "one of them")
        if pixel_values is None:
            return torch.zeros(0, self.rfgpt.rf_tokens, 0, device=input_ids.device)
        # The tower normalises before it casts to its weights' type: bfloat16 keeps 0.25 dB of -70 dB.
        return self.rfgpt.encode(pixel_values.float())

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Beams and several answers a prompt: a prompt's pictures stay together."""
        pictures = kwargs.pop("pixel_values", None)
        if pictures is not None and expand_size > 1 and input_ids is not None:
            shown = (input_ids == self.rfgpt.chat.rf_id).sum(1) // self.rfgpt.rf_tokens
            parts = pictures.split(shown.tolist())
            pictures = torch.cat([part for part in parts for _ in range(expand_size)])
        base: Any = super()
        ids, given = base._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        return ids, given if pictures is None else given | {"pixel_values": pictures}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        config: Any = None,
        dtype: torch.dtype | str | None = None,
        device_map: Any = None,
        attn_implementation: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a folder of RF-GPT, a whole one or one that names its base, or an id on the hub.

        Args:
            pretrained_model_name_or_path: folder or id.
            *model_args: none.
            config: not looked at: the folder's own decides.
            dtype: of the weights; None or ``"auto"`` leaves them as they are kept.
            device_map: one device, or None.
            attn_implementation: of the language model.
            **kwargs: ``transformers``' own; only where to fetch from, and defaults.

        Raises:
            ModelError: see :func:`lwm.from_pretrained`; or the folder holds another model.
            ConfigError: an option that a model folder cannot follow.
            OSError: no such folder and no such id.
        """
        options = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        # What the Auto classes add: where to look for adapters of peft, which a model folder never has.
        kwargs = {key: value for key, value in kwargs.items() if key != "adapter_kwargs" and not key.startswith("_")}
        strange = sorted(key for key in kwargs if kwargs[key] is not None and kwargs[key] != _DEFAULTS.get(key))
        places = device_map.values() if isinstance(device_map, dict) else [device_map]
        if strange or model_args or len(set(places)) > 1 or device_map == "auto":
            raise ConfigError(
                f"from_pretrained with {strange or device_map}", "one device and the folder's own weights"
            )
        found = from_pretrained(model_folder(pretrained_model_name_or_path, options, (WEIGHTS,)))
        if not hasattr(found, "chat"):
            raise ModelError(f"{pretrained_model_name_or_path} holds a {type(found).__name__}", "an RF-GPT")
        if attn_implementation is not None:
            found.llm.set_attn_implementation(attn_implementation)
        model = cls.of(found)
        model.config.name_or_path = str(pretrained_model_name_or_path)
        for weight in model.parameters() if dtype not in (None, "auto") else ():
            # Statistics and rotary frequencies are buffers, and stay float32.
            weight.data = weight.data.to(_dtype(dtype))
        device = next(iter(places), None)
        moved: Any = model
        return moved if device is None else moved.to(device)

    def save_pretrained(  # type: ignore[override] # the other parameters are refused by name
        self, save_directory: Any, is_main_process: bool = True, provenance: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Write a model folder of LWM, which :meth:`from_pretrained` and :func:`lwm.from_pretrained` both load.

        A model folder that is there is replaced, anything else in the way is refused.

        Args:
            save_directory: the folder.
            is_main_process: only this one writes.
            provenance: what ``provenance.json`` says.
            **kwargs: ``transformers``' other options; only their defaults are taken.

        Raises:
            ConfigError: an option that a model folder cannot follow.
            ModelError: low-rank updates of peft are still beside the weights.
            OutputError: the folder holds something else.
        """
        strange = sorted(name for name, value in kwargs.items() if name not in _HARMLESS and value not in (None, False))
        if strange:
            raise ConfigError(f"save_pretrained with {strange}", "a folder", "push it with `lwm.push_to_hub`")
        if any(is_lora(name) for name, _ in self.named_parameters()):
            raise ModelError("low-rank updates beside the weights", "merged ones", "call merge_and_unload() of peft")
        if is_main_process:
            folder = Path(save_directory)
            ours = (folder / "config.json").is_file() and (folder / "recipe.json").is_file()
            save_pretrained(self.rfgpt, folder, provenance, overwrite=ours)


_LLM_OPTIONS = ("output_attentions", "output_hidden_states")
_HARMLESS = ("max_shard_size", "safe_serialization", "save_peft_format", "save_original_format")
"""Options of ``save_pretrained`` that change nothing about a model of one file."""
