"""The encoder contract as a ``transformers`` model: a vision tower for others."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.initialization import copy_
from transformers.modeling_outputs import BaseModelOutputWithPooling

from lwm.errors import ConfigError, ModelError
from lwm.hf.config import HUB_OPTIONS, LWMConfig, build, folder_config, model_folder, require_fit_once
from lwm.hub import WEIGHTS, save_pretrained
from lwm.hub_files import file_in
from lwm.hub_weights import require_finite_file

_INNER = "encoder"


class LWMModel(PreTrainedModel):
    """An encoder or a mixture of experts behind ``transformers``' interface.

    ``config.hidden_size``, ``config.sequence_length`` and ``config.grid_size`` say what comes out. The weights of a
    model folder are used as they are, in any floating type; mean and standard deviation stay float32.

    Args:
        config: of a model folder, or :meth:`LWMConfig.of` an encoder; weights are fresh.

    Raises:
        ModelError: the config is of no encoder.
    """

    config_class = LWMConfig
    base_model_prefix = _INNER
    main_input_name = "pixel_values"
    input_modalities = "image"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012 -- transformers' own declaration

    def __init__(self, config: LWMConfig) -> None:
        super().__init__(config)
        dtype = torch.get_default_dtype()
        # Statistics and tables are made in float32, whatever the weights' type.
        torch.set_default_dtype(torch.float32)
        try:
            self.encoder: Any = build(config)
        finally:
            torch.set_default_dtype(dtype)
        for weight in self.encoder.parameters():
            weight.data = weight.data.to(dtype)
        # Loading empties buffers that no file holds; these are put back.
        self._tables = {name: table.clone() for name, table in self.named_non_persistent_buffers()}
        if config.shared:
            self._tied_weights_keys = {f"{_INNER}.{a}": f"{_INNER}.{kept}" for a, kept in config.shared.items()}
            config.tie_word_embeddings = True
        self.post_init()

    @classmethod
    def of(cls, encoder: nn.Module) -> Self:
        """The very encoder or mixture, wrapped; its weights are shared, not copied."""
        with torch.device("meta"):
            model = cls(LWMConfig.of(encoder))
        model.encoder = encoder
        return model.train(encoder.training)

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether activations are recomputed in the backward pass; ``transformers`` sets it."""
        return self.__dict__.get("_recompute", False)

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        self.__dict__["_recompute"] = enable
        self.encoder.set_grad_checkpointing(enable)

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling | tuple[Tensor, ...]:
        """Tokens and pooled features of pictures.

        Args:
            pixel_values: ``[B, C, F, T]`` of the recipe, as :class:`LWMProcessor` makes them.
            output_hidden_states: True for the tokens after every block; a block's number, or several, where only
                these are looked at (LLaVA's ``vision_feature_layer``).
            return_dict: False gives a tuple.

        Returns:
            ``last_hidden_state [B, L, D]``, row (frequency) by row, without prefix tokens; ``pooler_output
            [B, head_features]``; ``hidden_states``: one ``[B, L, D]`` a block, after the final norm, so that the last
            is ``last_hidden_state``. There is no entry for the embedded patches.
        """
        # The encoder normalises before it casts to its weights' type: bfloat16 keeps 0.25 dB of -70 dB.
        pictures = pixel_values.float()
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if wanted is False or wanted is None or self._only_last(wanted):
            tokens = self.encoder.forward_features(pictures)
            states: Any = None if wanted is False or wanted is None else (self._patches(tokens),)
        else:
            found = self.encoder.forward_intermediates(pictures, norm=True)
            tokens, states = found[-1], tuple(self._patches(each) for each in found)
        output = BaseModelOutputWithPooling(
            last_hidden_state=self._patches(tokens),
            pooler_output=self.encoder.forward_head(tokens),
            hidden_states=states,
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    @staticmethod
    def _only_last(wanted: Any) -> bool:
        """Whether only the last block is asked for, which activation checkpointing can serve."""
        return wanted is not True and (wanted == -1 or wanted == [-1])

    def _patches(self, tokens: Tensor) -> Tensor:
        return tokens[:, self.encoder.num_prefix_tokens :]

    def token_grid(self, tokens: Tensor) -> Tensor:
        """Tokens ``[B, L, D]`` as ``[B, rows, columns, D]``: frequency from low to high, time."""
        rows, columns = self.encoder.grid_size
        return tokens.unflatten(1, (rows, columns))

    def token_places(self) -> Tensor:
        """Row (frequency) and column (time) of every token, int64 ``[L, 2]``."""
        rows, columns = self.encoder.grid_size
        return torch.cartesian_prod(torch.arange(rows), torch.arange(columns))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module._non_persistent_buffers_set:
            prefix = next(name for name, each in self.named_modules() if each is module)
            for name in module._non_persistent_buffers_set:
                copy_(module.get_buffer(name), self._tables[f"{prefix}.{name}".lstrip(".")])

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        """Load a model folder or an id on the hub; the arguments are ``transformers``' own.

        Raises:
            ModelError: the weights do not fit: missing, unexpected and misshapen keys are listed; one is not finite;
                or no encoder.
            ConfigError: an option that names other files of the folder.
            OSError: no such folder and no such id.
        """
        options = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        others = [name for name in _OTHER_FILES if kwargs.get(name) is not None]
        if others:
            raise ConfigError(f"from_pretrained with {others}", f"weights in {WEIGHTS}", "leave it out")
        folder = model_folder(pretrained_model_name_or_path, options, (WEIGHTS,))
        if not isinstance(config, LWMConfig):
            config = LWMConfig.from_pretrained(folder)
        elif config.recipe is None:
            config = LWMConfig(**(config.to_dict() | folder_config(folder)))
        if (folder / _ADAPTER).exists():
            raise ModelError(f"{folder / _ADAPTER}, which names other weights", "a model folder", "remove it")
        weights = file_in(folder, WEIGHTS)
        require_fit_once(config.to_dict(), folder)
        require_finite_file(weights)
        # Never a pickle, whatever else lies in the folder.
        kwargs["use_safetensors"] = True
        # From the very files that were compared.
        return super().from_pretrained(folder, *model_args, config=config, **kwargs)

    def save_pretrained(  # type: ignore[override] # the other parameters are refused by name
        self, save_directory: Any, is_main_process: bool = True, provenance: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Write a model folder of LWM, which :meth:`from_pretrained` and :func:`lwm.from_pretrained` both load.

        A model folder that is there is replaced, anything else in the way is refused. Weights are kept as float32.

        Args:
            save_directory: the folder.
            is_main_process: only this one writes.
            provenance: what ``provenance.json`` says.
            **kwargs: ``transformers``' other options; only their defaults are taken.

        Raises:
            ConfigError: an option that a model folder cannot follow.
            OutputError: the folder holds something else.
        """
        given = {name: value for name, value in kwargs.items() if name not in _HARMLESS and value not in (None, False)}
        if given:
            raise ConfigError(f"save_pretrained with {sorted(given)}", "a folder", "push it with `lwm.push_to_hub`")
        if is_main_process:
            folder = Path(save_directory)
            encoder = self.encoder if self.dtype == torch.float32 else copy.deepcopy(self.encoder).float()
            ours = (folder / "config.json").is_file() and (folder / "recipe.json").is_file()
            save_pretrained(encoder, folder, provenance, overwrite=ours)


_ADAPTER = "adapter_config.json"

_OTHER_FILES = ("variant", "gguf_file", "state_dict")
"""Options of ``from_pretrained`` that give weights which were not looked at."""

_HARMLESS = ("max_shard_size", "safe_serialization", "save_peft_format", "save_original_format")
"""Options of ``save_pretrained`` that change nothing about a model of one file."""
