"""From IQ, a capture, a recording or a spectrogram to a model's input."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from transformers import FeatureExtractionMixin
from transformers.feature_extraction_utils import BatchFeature

from lwm.errors import CaptureError, ConfigError, ModelError
from lwm.hf.config import HUB_OPTIONS, model_folder
from lwm.hub import read_recipe
from lwm.signal.capture import Capture
from lwm.signal.csi_recipe import CsiRecipe
from lwm.signal.io import open_recording
from lwm.signal.recipe import Recipe, recipe_named

RECIPE_FILE = "recipe.json"


class LWMProcessor(FeatureExtractionMixin):
    """Makes a model's input by its recipe, and takes a spectrogram only if it was made with the same.

    Args:
        recipe: the model's, or its dict.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 -- transformers' own declaration

    def __init__(self, recipe: Recipe | dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recipe = Recipe.from_dict(recipe) if isinstance(recipe, dict) else recipe

    def __call__(
        self,
        signal: Any = None,
        sample_rate: float | None = None,
        *,
        spectrogram: Any = None,
        recipe: Recipe | dict[str, Any] | str | None = None,
        start: float = 0.0,
        return_valid: bool = False,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Pictures of signals, or spectrograms checked.

        Args:
            signal: complex IQ ``[S]`` or ``[B, S]``, a :class:`~lwm.signal.capture.Capture`, the path of a recording
                (SigMF, raw IQ, .npy, ...), or a list of these. Each gives one picture: its window at ``start``.
            sample_rate: Hz, of IQ and of recordings that do not state theirs.
            spectrogram: real, dB as the recipe leaves it (not normalised): ``[F, T]``, ``[C, F, T]`` or
                ``[B, C, F, T]``; in place of a signal.
            recipe: what the spectrogram was made with: a recipe, its dict, or a preset's name.
            start: s from a signal's begin.
            return_valid: give ``valid`` too: bool ``[B, T]``, False where a short signal was padded.
            return_tensors: ``"pt"`` or ``"np"``.

        Returns:
            ``pixel_values`` float32 ``[B, C, F, T]``.

        Raises:
            ConfigError: both or neither of signal and spectrogram, IQ without a sample rate, a spectrogram without its
                recipe, other ``return_tensors``.
            CaptureError: a signal that cannot be used, or any for a model of CSI.
            RecipeMismatch: the spectrogram is of another recipe.
        """
        if (signal is None) == (spectrogram is None):
            raise ConfigError("both or neither of signal and spectrogram", "one of them")
        if return_tensors not in ("pt", "np"):
            raise ConfigError(f"return_tensors {return_tensors!r}", "pt or np")
        if signal is None:
            pictures = self._checked(spectrogram, recipe)
            valid = torch.ones(len(pictures), pictures.shape[-1], dtype=torch.bool)
        else:
            captures = [self._capture(each, sample_rate, start) for each in _listed(signal)]
            made = [self.recipe.of_capture(capture) for capture in captures]
            pictures, valid = (torch.cat(part) for part in zip(*made, strict=True))
        found = {"pixel_values": pictures} | ({"valid": valid} if return_valid else {})
        return BatchFeature(found if return_tensors == "pt" else {key: part.numpy() for key, part in found.items()})

    def _checked(self, spectrogram: Any, recipe: Recipe | dict[str, Any] | str | None) -> Tensor:
        if recipe is None:
            raise ConfigError("a spectrogram without its recipe", "recipe=, what it was made with")
        if isinstance(recipe, str):
            recipe = recipe_named(recipe)
        elif isinstance(recipe, dict):
            recipe = Recipe.from_dict(recipe)
        self.recipe.require_same(recipe, "the model", "the spectrogram")
        pictures = torch.as_tensor(spectrogram)
        shape = (self.recipe.in_chans, *self.recipe.size)
        if pictures.ndim == 2:
            pictures = pictures[None]
        if pictures.ndim == 3:
            pictures = pictures[None]
        if pictures.is_complex() or tuple(pictures.shape[1:]) != shape or not torch.isfinite(pictures).all():
            raise CaptureError(
                f"a spectrogram {tuple(pictures.shape)} of {pictures.dtype}",
                f"finite dB, {shape} (channels, frequency, time) of recipe {self.recipe.name!r}",
            )
        return pictures.float()

    def _capture(self, signal: Any, sample_rate: float | None, start: float) -> Capture:
        """One window of a signal of any kind."""
        if isinstance(self.recipe, CsiRecipe):
            raise CaptureError("IQ", f"CSI pictures of recipe {self.recipe.name!r}", "give spectrogram=")
        if isinstance(signal, str | Path):
            return open_recording(signal, sample_rate).read(start, self.recipe.duration)
        if isinstance(signal, Capture):
            if sample_rate is not None and sample_rate != signal.sample_rate:
                raise ConfigError(f"sample_rate {sample_rate} Hz", f"{signal.sample_rate} Hz, which the capture states")
            return signal.window(start, self.recipe.duration)
        if sample_rate is None:
            raise ConfigError("IQ without its sample rate", "sample_rate= in Hz")
        iq = np.asarray(signal)
        if not np.iscomplexobj(iq) or iq.ndim != 1:
            raise CaptureError(f"{iq.dtype} of shape {iq.shape}", "complex IQ [samples]")
        return Capture(iq.astype(np.complex64), float(sample_rate)).window(start, self.recipe.duration)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able dict that :meth:`from_dict` reads back."""
        name = type(self).__name__
        return {"feature_extractor_type": name, "processor_class": name, "recipe": self.recipe.to_dict()}

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """A processor of :meth:`to_dict`; ModelError when it has no recipe."""
        if not isinstance(feature_extractor_dict.get("recipe"), dict):
            raise ModelError("preprocessor_config.json without a recipe", "one that LWMProcessor wrote")
        return cls(feature_extractor_dict["recipe"])

    @classmethod
    def from_pretrained(  # type: ignore[override] # the other parameters are passed on
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> Self:
        """The processor of a model folder or an id on the hub, or one that :meth:`save_pretrained` wrote."""
        options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir() and not (folder / RECIPE_FILE).is_file():
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        return cls(read_recipe(model_folder(pretrained_model_name_or_path, options)))

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Write ``preprocessor_config.json``; a model folder of the same recipe needs and gets nothing.

        Raises:
            RecipeMismatch: the folder is of a model with another recipe.
            ConfigError: asked to push; a model folder is pushed as a whole.
        """
        if push_to_hub:
            raise ConfigError("a processor pushed alone", "a whole model folder", "push it with `lwm.push_to_hub`")
        folder = Path(save_directory)
        if (folder / RECIPE_FILE).is_file():
            read_recipe(folder).require_same(self.recipe, f"model folder {folder}", "the processor")
            return []
        return list(super().save_pretrained(save_directory, **kwargs))


def _listed(signal: Any) -> Sequence[Any]:
    """One signal as a list of one; rows of a batch as a list."""
    if isinstance(signal, Tensor):
        signal = signal.detach().cpu().numpy()
    if isinstance(signal, np.ndarray):
        return [signal] if signal.ndim == 1 else list(signal)
    return list(signal) if isinstance(signal, list | tuple) else [signal]
