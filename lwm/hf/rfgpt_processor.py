"""From captures and conversations to the input of RF-GPT, and back to text."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import ProcessorMixin
from transformers.feature_extraction_utils import BatchFeature

from lwm.errors import ConfigError, ModelError
from lwm.hf.config import HUB_OPTIONS, model_folder
from lwm.hf.rfgpt_config import RFGPTConfig
from lwm.hub_files import read_json
from lwm.language.chat import IGNORED, Chat, Turn, Turns, chat_from_config
from lwm.language.inputs import spectrogram_of
from lwm.output import write_json
from lwm.signal.recipe import Recipe

FILE = "processor_config.json"
_PICTURES = ("capture", "spectrogram", "image")
"""Types of a message's parts that are captures; what is shown stands under the same name."""


class RFGPTProcessor(ProcessorMixin):
    """Makes conversations about captures into the input of
    :class:`~lwm.hf.rfgpt.RFGPTForConditionalGeneration`.

    Args:
        recipe: the model's.
        chat: the model's tokenizer and template.
        rf_tokens: places that a capture takes.
    """

    def __init__(self, recipe: Recipe, chat: Chat, rf_tokens: int) -> None:
        super().__init__()
        self.recipe, self.chat, self.rf_tokens = recipe, chat, rf_tokens

    @property
    def model_input_names(self) -> list[str]:
        """What the model takes."""
        return ["input_ids", "attention_mask", "pixel_values"]

    def __call__(  # ours takes captures
        self,
        text: Any = None,
        captures: Any = None,
        *,
        answers: str | Sequence[str] | None = None,
        sample_rate: float | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Conversations, padded at the left; with their answers, padded at the right and labelled.

        Args:
            text: a question about one capture, a conversation, or a list of either. A conversation is a list of
                :class:`~lwm.language.chat.Turn` or of chat messages, whose parts of type ``capture`` may hold the
                capture themselves.
            captures: what is shown, all conversations' one after the other: a capture, IQ, the path of a recording, a
                dB spectrogram, ``DATA:INDEX``, see :func:`lwm.language.inputs.spectrogram_of`; or a list of these.
            answers: one a conversation, for training.
            sample_rate: Hz, of IQ and of recordings that do not state theirs.
            return_tensors: ``"pt"``.

        Returns:
            ``input_ids`` and ``attention_mask`` int64 ``[B, S]``, ``pixel_values`` float32 ``[captures, C, F, T]``
            where captures are shown, ``labels`` int64 ``[B, S]`` with answers.

        Raises:
            ConfigError: another number of captures than the conversations show, a text with tokens of the template,
                other ``return_tensors``.
            CaptureError: a capture that cannot be used.
        """
        if return_tensors != "pt":
            raise ConfigError(f"return_tensors {return_tensors!r}", "'pt'")
        asked, inside = zip(*map(_conversation, _several(text)), strict=True)
        if captures is not None and any(inside):
            raise ConfigError("captures in the conversations and beside them", "one of the two")
        shown = [*_listed(captures), *(one for part in inside for one in part)]
        wanted = sum(1 if isinstance(turns, str) else sum(turn.captures for turn in turns) for turns in asked)
        if len(shown) != wanted:
            raise ConfigError(f"{len(shown)} captures for conversations that show {wanted}", "as many as are shown")
        found = self._labelled(asked, answers) if answers is not None else self._prompts(asked)
        if shown:
            seen = [spectrogram_of(one, self.recipe, sample_rate=sample_rate).db for one in shown]
            found["pixel_values"] = torch.cat(seen)
        return BatchFeature(found)

    def _prompts(self, asked: Sequence[Turns]) -> dict[str, Tensor]:
        return self._padded([self.chat.prompt(turns, self.rf_tokens) for turns in asked], "left")

    def _labelled(self, asked: Sequence[Turns], answers: str | Sequence[str]) -> dict[str, Tensor]:
        given = [answers] if isinstance(answers, str) else list(answers)
        if len(given) != len(asked):
            raise ConfigError(f"{len(given)} answers to {len(asked)} conversations", "one each")
        pairs = [self.chat.pair(turns, answer, self.rf_tokens) for turns, answer in zip(asked, given, strict=True)]
        labels = [torch.tensor(part) for _, part in pairs]
        found = self._padded([ids for ids, _ in pairs], "right")
        return found | {"labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED)}

    def _padded(self, rows: Sequence[list[int]], side: str) -> dict[str, Tensor]:
        ids = [torch.tensor(row) for row in rows]
        how: dict[str, Any] = {"batch_first": True, "padding_side": side}
        return {
            "input_ids": pad_sequence(ids, padding_value=self.chat.pad_id, **how),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], **how),
        }

    def apply_chat_template(  # type: ignore[override] # what cannot be followed is refused by name
        self, conversation: Any, *, tokenize: bool = True, add_generation_prompt: bool = True, **kwargs: Any
    ) -> BatchFeature:
        """The model's input for chat messages, whose parts are text or captures::

            [{"role": "user", "content": [{"type": "capture", "capture": path_or_iq}, {"type": "text", "text": "..."}]}]

        Args:
            conversation: messages, or a list of such lists.
            tokenize: only True: as a string, a user's words could not be told from the template's.
            add_generation_prompt: only True; conversations with answers are for ``__call__``.
            **kwargs: of ``__call__``; ``return_dict=True`` is how it is anyway.

        Raises:
            ConfigError: see ``__call__``; another option.
        """
        if not (tokenize and add_generation_prompt and kwargs.pop("return_dict", True)):
            raise ConfigError("a chat template as text or without an open answer", "tokenize=True, return_dict=True")
        kwargs.pop("padding", None)
        return self(conversation, **kwargs)

    def decode(self, token_ids: Any, **kwargs: Any) -> str:
        """Text of generated tokens (the prompt cut off) up to their end of turn."""
        row = token_ids.tolist() if isinstance(token_ids, Tensor) else token_ids
        return self.chat.decode([row] if isinstance(row, int) else row)

    def batch_decode(self, sequences: Any, **kwargs: Any) -> list[str]:
        """Texts of rows of generated tokens ``[B, t]``."""
        return [self.decode(row) for row in sequences]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able dict of what the processor is."""
        kept = {"recipe": self.recipe.to_dict(), "chat": self.chat.get_config(), "rf_tokens": self.rf_tokens}
        return {"processor_class": type(self).__name__} | kept

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Write ``processor_config.json``; a model folder with the same needs and gets nothing.

        Raises:
            ConfigError: asked to push; a model folder is pushed as a whole.
            ModelError: the folder is of a model with another chat or recipe.
        """
        if push_to_hub:
            raise ConfigError("a processor pushed alone", "a whole model folder", "push it with `lwm.push_to_hub`")
        folder = Path(save_directory)
        if (folder / "recipe.json").is_file():
            if self.from_pretrained(folder).to_dict() != self.to_dict():
                raise ModelError(
                    f"{folder} of a model with another chat, recipe or count of tokens", "its own processor"
                )
            return []
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, self.to_dict())
        return [str(folder / FILE)]

    @classmethod
    def from_pretrained(  # type: ignore[override] # what it leaves out is for files that ours does not have
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> Self:
        """The processor of a model folder or an id on the hub, or one that :meth:`save_pretrained` wrote.

        Raises:
            ModelError: neither.
        """
        options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        folder = Path(pretrained_model_name_or_path)
        if (folder / FILE).is_file():
            kept = read_json(folder, FILE)
            return cls(Recipe.from_dict(kept["recipe"]), chat_from_config(kept["chat"]), kept["rf_tokens"])
        config = RFGPTConfig.from_pretrained(model_folder(pretrained_model_name_or_path, options))
        if "chat" not in (config.model or {}):
            raise ModelError(f"{pretrained_model_name_or_path} without a chat", "a folder of RF-GPT")
        return cls(config.require_recipe(), chat_from_config(config.model["chat"]), config.rf_tokens)


def _several(text: Any) -> list[Any]:
    """One conversation as a list of one."""
    if isinstance(text, str) or not text:
        return [text or ""]
    first = text[0]
    return [text] if isinstance(first, Turn | Mapping) else list(text)


def _conversation(given: Any) -> tuple[Turns, list[Any]]:
    """Turns, and the captures that messages hold themselves."""
    if isinstance(given, str) or not isinstance(given[0], Mapping):
        return given, []
    turns: list[Turn] = []
    shown: list[Any] = []
    for message in given:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
        strange = sorted({str(part.get("type")) for part in parts} - {"text", *_PICTURES})
        if strange:
            raise ConfigError(f"parts of type {strange} in a message", f"text or {list(_PICTURES)}")
        pictures = [part for part in parts if part["type"] in _PICTURES]
        shown += [part[part["type"]] for part in pictures if part["type"] in part]
        words = "\n".join(part["text"] for part in parts if part["type"] == "text")
        turns.append(Turn(message["role"], words, len(pictures)))
    return turns, shown


def _listed(captures: Any) -> Iterable[Any]:
    if captures is None:
        return []
    if isinstance(captures, Tensor) and captures.ndim == 4:
        return list(captures)
    return captures if isinstance(captures, list | tuple) else [captures]
