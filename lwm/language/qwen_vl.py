"""Route (b), the paper's model: Qwen2.5-VL looks at spectrogram pictures with its own vision encoder.

Zou et al., "RF-GPT" (arXiv 2602.14833), tune Qwen2.5-VL 3B and 7B. Here its parts stand behind RF-GPT's interface: the
vision blocks are an encoder of LWM, the 2x2 patch merger is the adapter (its gathering of four patches is the
``pixel_shuffle`` merge), the language model keeps its three-axis rotary positions. What is saved is a folder of
transformers that vLLM serves as it is.

The count of RF tokens a picture is the image processor's, see :func:`visual_tokens`: 324 (18 x 18) for 512 x 512 as it
comes, 1369 (37 x 37) when the processor enlarges it to a side of 1036 pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lwm.errors import ConfigError, ModelError
from lwm.hub import WHOLE, read_recipe
from lwm.hub_files import read_json
from lwm.language.pretrained_chat import PretrainedChat
from lwm.language.qwen_places import Places, Speaker
from lwm.language.rfgpt import RFGPT
from lwm.models.lora import is_lora
from lwm.output import atomic_folder, write_json
from lwm.signal.recipe import Recipe, recipe_named

PATCH = 28
"""Pixels a side of what becomes one visual token: 2 x 2 patches of 14."""


def rgb(pictures: Tensor, recipe: Recipe) -> Tensor:
    """dB pictures as what an image file of them holds: uint8 ``[B, 3, F, T]``, rows from low to high frequency.

    Grey recipes are spread over floor..ceiling; a recipe's colour map is what it is.
    """
    if recipe.in_chans == 1:
        level = (pictures - recipe.floor_db) / (recipe.ceiling_db - recipe.floor_db)
        pictures = (level * 255).expand(-1, 3, -1, -1)
    return pictures.round().clamp(0, 255).to(torch.uint8)


def set_side(image_processor: Any, side: int) -> None:
    """Make an image processor of Qwen2-VL resize every square picture to ``side`` x ``side`` pixels.

    Raises:
        ConfigError: the side is no multiple of :data:`PATCH`.
    """
    if side < PATCH or side % PATCH:
        raise ConfigError(f"pictures of {side} pixels a side", f"a multiple of {PATCH}", "504 leaves 512 x 512 nearly")
    # It rounds to multiples of 28 whose product lies between the two; half a step on either side leaves one.
    low, high = side - PATCH // 2, side + PATCH // 2
    image_processor.size = type(image_processor.size)(shortest_edge=low**2, longest_edge=high**2)


def visual_tokens(image_processor: Any, size: Sequence[int]) -> int:
    """Tokens that a picture of ``size`` rows and columns becomes, by the image processor's own count."""
    return int(image_processor.get_number_of_image_patches(*size)) // image_processor.merge_size**2


class QwenTower(nn.Module):
    """The vision encoder without its merger, as an encoder of LWM.

    Args:
        visual: ``Qwen2_5_VisionTransformerPretrainedModel``; its parts are shared, not copied.
        image_processor: the model's own.
        recipe: what the pictures are made with.
    """

    model_type: ClassVar[str] = "qwen2_5_vl_tower"
    num_prefix_tokens = 0

    def __init__(self, visual: Any, image_processor: Any, recipe: Recipe) -> None:
        super().__init__()
        self.patch_embed, self.rotary_pos_emb, self.blocks = visual.patch_embed, visual.rotary_pos_emb, visual.blocks
        # The whole has the merger too, which is the adapter's.
        self._whole = (visual,)
        self.image_processor, self.recipe = image_processor, recipe
        self.in_chans, self.num_features = recipe.in_chans, int(visual.config.hidden_size)
        self.depth = len(self.blocks)
        _, rows, columns = self._patches(torch.zeros(1, recipe.in_chans, *recipe.size))[1][0].tolist()
        self.grid_size = (rows, columns)

    def _patches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        made = self.image_processor(images=list(rgb(x, self.recipe)), return_tensors="pt")
        return made["pixel_values"], made["image_grid_thw"]

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens ``[B, rows * columns, D]``, row by row, of dB pictures ``[B, C, F, T]``."""
        from transformers.vision_utils import get_vision_window_index

        visual = self._whole[0]
        patches, grid = self._patches(x)
        hidden = visual(patches.to(x.device, visual.dtype), grid_thw=grid.to(x.device)).last_hidden_state
        side = visual.spatial_merge_size
        # The blocks see windows of patches; this is where each group of side x side patches belongs.
        index, _ = get_vision_window_index(grid, side, visual.window_size, visual.patch_size)
        groups = hidden.unflatten(0, (-1, side * side))[index.argsort().to(hidden.device)]
        rows, columns = self.grid_size
        cells = groups.reshape(len(x), rows // side, columns // side, side, side, -1)
        return cells.transpose(2, 3).reshape(len(x), rows * columns, -1)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations again in the backward pass."""
        switch = "gradient_checkpointing_enable" if enable else "gradient_checkpointing_disable"
        getattr(self._whole[0], switch)()

    def get_config(self) -> dict[str, Any]:
        """JSON-able description of the vision encoder."""
        config: dict[str, Any] = self._whole[0].config.to_diff_dict()
        return config


class QwenMerger(nn.Module):
    """Qwen's patch merger as RF-GPT's adapter: norm of each patch, four of them beside each other, two layers."""

    kind = "qwen2_5_vl"

    def __init__(self, merger: nn.Module) -> None:
        super().__init__()
        self.merger = merger

    def fit(self, tokens: Tensor) -> None:
        """Nothing to take from the data: the merger's own norm standardises each patch."""

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, n, 4 D]`` to ``[B, n, width]``."""
        norm: Any = self.merger.ln_q
        patches = tokens.to(norm.weight.dtype).unflatten(-1, (-1, norm.weight.shape[0]))
        return self.merger(patches.flatten(0, 2)).unflatten(0, tokens.shape[:2])


class VisionChat(PretrainedChat):
    """The chat of a vision-language model: a capture is an image of the template, RF tokens take its image tokens.

    Args:
        tokenizer: the model's.
        template: see :class:`~lwm.language.pretrained_chat.PretrainedChat`.
        options: see there.
        image_token: what the template writes once for an image.

    Raises:
        ModelError: the tokenizer has no such token; see there for others.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str | None = None,
        options: Mapping[str, Any] | None = None,
        image_token: str = "<|image_pad|>",
    ) -> None:
        self.image_token = image_token
        super().__init__(tokenizer, template, options)
        number = self._tokenizer.token_to_id(image_token)
        if number is None:
            raise ModelError(f"a tokenizer without {image_token}", "one of a vision-language model")
        self.rf_id = number

    def _messages(self, turns: Sequence[Any], rf_tokens: int) -> list[dict[str, Any]]:
        return [
            {"role": turn.role, "content": [*[{"type": "image"}] * turn.captures, {"type": "text", "text": turn.text}]}
            if turn.captures
            else {"role": turn.role, "content": turn.text}
            for turn in turns
        ]

    def _render(self, turns: Sequence[Any], rf_tokens: int = 0, opened: bool = False) -> str:
        return super()._render(turns, rf_tokens, opened).replace(self.image_token, self.image_token * rf_tokens)

    def get_config(self) -> dict[str, Any]:
        """JSON-able dict for :meth:`from_config`."""
        return super().get_config() | {"kind": "vision", "image_token": self.image_token}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The chat that :meth:`get_config` described."""
        plain = PretrainedChat.from_config({key: config[key] for key in config if key != "image_token"})
        return cls(plain._renderer, plain.template, plain.options, config["image_token"])


class QwenVL(RFGPT):
    """Qwen2.5-VL behind RF-GPT's interface; its parts are ``tower``, ``adapter`` (the merger) and ``llm``.

    Args:
        whole: ``Qwen2_5_VLForConditionalGeneration`` or another of its make; its parts are shared.
        processor: its processor.
        recipe: what the pictures are made with.
        labels: see :class:`~lwm.language.rfgpt.RFGPT`.
        side: pixels a side that the processor resizes pictures to; None leaves the processor as it is.

    Raises:
        ModelError: no model of that make.
        ConfigError: see :func:`set_side`.
    """

    model_type: ClassVar[str] = "qwen_vl"

    def __init__(
        self,
        whole: Any,
        processor: Any,
        recipe: Recipe,
        labels: Mapping[str, Sequence[str]],
        side: int | None = None,
    ) -> None:
        inner: Any = getattr(whole, "model", None)
        if not hasattr(getattr(inner, "visual", None), "merger"):
            raise ModelError(f"a {type(whole).__name__}", "Qwen2.5-VL")
        if side is not None:
            set_side(processor.image_processor, side)
        tower = QwenTower(inner.visual, processor.image_processor, recipe)
        merged = [count // inner.visual.spatial_merge_size for count in tower.grid_size]
        chat = VisionChat(processor.tokenizer, _template(processor), image_token=processor.image_token)
        with torch.device("meta"):  # an adapter that is replaced needs no memory
            super().__init__(tower, Speaker(whole), chat, labels, merged, "pixel_shuffle")
        self.adapter = QwenMerger(inner.visual.merger)  # type: ignore[assignment]
        # Hidden from torch, which has all parts by now.
        self._whole, self.processor = (whole,), processor
        self.places = Places(self.chat.rf_id, (merged[0], merged[1]))

    @property
    def whole(self) -> Any:
        """The model of transformers, of the same parts."""
        return self._whole[0]

    def forward(
        self, rf: Tensor, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None = None
    ) -> Tensor:
        """Next-token logits ``[B, S, V]``; see :meth:`lwm.language.rfgpt.RFGPT.forward`."""
        return super().forward(rf, input_ids, attention_mask, self.positions(input_ids, attention_mask, position_ids))

    def positions(self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> Tensor:
        """Rotary positions int64 ``[3, B, S]``: time, row and column of the picture; see :class:`Places`."""
        return self.places(input_ids, attention_mask, position_ids)

    def speaker(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """The language model that knows where the prompts' pictures stand."""
        return self.llm.placed(self.places, input_ids, attention_mask)

    def save_pretrained(self, folder: str | Path, provenance: Mapping[str, Any] | None = None) -> Path:
        """Write a folder of transformers (``AutoModelForImageTextToText``, vLLM), with recipe and labels beside it.

        Args:
            folder: must be empty or new.
            provenance: JSON-able: command, seed, metrics, whatever is known.

        Raises:
            OutputError: the folder is not empty or cannot be written.
            ModelError: low-rank updates that were not merged.
        """
        target = Path(folder)
        with atomic_folder(target) as partial:
            self.write_files(partial, provenance)
        return target

    def write_files(self, folder: Path, provenance: Mapping[str, Any] | None = None) -> None:
        """Write what :meth:`save_pretrained` says into an existing folder; ModelError as there."""
        _require_plain(self.whole)
        self.whole.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        write_json(folder / "recipe.json", self.recipe.to_dict())
        write_json(folder / WHOLE, {"labels": self.labels, "provenance": dict(provenance or {})})

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        recipe: Recipe | str | None = None,
        labels: Mapping[str, Sequence[str]] | None = None,
        side: int | None = None,
        dtype: torch.dtype = torch.bfloat16,
        revision: str | None = None,
    ) -> Self:
        """A model with its weights, in evaluation mode.

        Args:
            path: a folder that :meth:`save_pretrained` wrote, or any of Qwen2.5-VL, or an id on the hub.
            recipe: what the pictures are made with; None takes the folder's.
            labels: None takes the folder's.
            side: see the class.
            dtype: of the weights.
            revision: branch, tag or commit on the hub.

        Raises:
            ModelError: no such model, or one without recipe when none is given.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        kept = Path(path) if (Path(path) / WHOLE).is_file() else None
        if recipe is None and kept is None:
            raise ModelError(f"{path} without a recipe", "recipe=, for example 'rf-gpt'")
        recipe = recipe_named(recipe) if isinstance(recipe, str) else recipe or read_recipe(Path(path))
        labels = labels if labels is not None else read_json(kept, WHOLE)["labels"] if kept else {}
        options: dict[str, Any] = {"trust_remote_code": False, "revision": revision or "main"}
        try:
            processor = AutoProcessor.from_pretrained(path, **options)
            whole = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype, use_safetensors=True, **options)
        except (OSError, ValueError) as error:
            said = str(error).strip().splitlines()[0]
            raise ModelError(f"{path}: {said:.300}", "a folder of Qwen2.5-VL or its id on the hub") from error
        return cls(whole, processor, recipe, labels, side).eval()


def _template(processor: Any) -> str | None:
    return getattr(processor, "chat_template", None)


def _require_plain(whole: Any) -> None:
    """vLLM and transformers load weights, no updates beside them."""
    if any(is_lora(name) for name, _ in whole.named_parameters()):
        raise ModelError("a model with low-rank updates", "merged weights", "merge_lora(model.llm) first")
