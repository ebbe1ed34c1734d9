"""What the contrastive term compares: labels made into codes, and second looks at a sample."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lwm.errors import ConfigError, DatasetError
from lwm.models.masking import generator_for
from lwm.tasks.augment import rf_views
from lwm.tasks.contrast import rank
from lwm.tasks.options import Terms
from lwm.tasks.partners import Partners

_SPLITS = {"train": "train", "val": "validation", "test": "test"}


class Views:
    """Second looks at a batch, drawn from a seed.

    Args:
        terms: which contrast, which pairs.
        seed: of the draws.

    Attributes:
        partners: split to the pairs of its data set, for ``terms.pair`` ``origin``; filled when a run is set up.
    """

    def __init__(self, terms: Terms, seed: int) -> None:
        self.terms, self.seed = terms, seed
        self.partners: dict[str, Partners] = {}
        self.floor_db = float("-inf")

    def require_grey(self, recipe: Any) -> None:
        """Take the recipe's floor; ConfigError where views are asked for of pictures that are not in dB."""
        augmented = self.terms.augment or (self.terms.contrast, self.terms.pair) == ("self", "views")
        if augmented and getattr(recipe, "channels", "") != "grey":
            raise ConfigError(
                f"augmented views of recipe {recipe.name!r} with channels {getattr(recipe, 'channels', 'of CSI')!r}",
                "a recipe with channels 'grey'",
                "set terms.pair: origin, or terms.augment: false",
            )
        self.floor_db = float(recipe.floor_db)

    def make(
        self, batch: dict[str, Tensor], first: dict[str, Tensor], contrasted: bool, split: str, *path: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the encoder sees, and the batch that reconstruction is about.

        Args:
            batch: of the data module.
            first: its pictures and ``valid``.
            contrasted: whether a contrast is computed now.
            split: ``train``, ``val`` or ``test``.
            *path: numbers that name the draw.

        Returns:
            Pictures ``[B, C, F, T]``, or ``[2 B, C, F, T]`` with second views after first ones; and ``first``, changed
            where views were made.
        """
        terms = self.terms
        if not contrasted or (terms.contrast == "supervised" and not terms.augment):
            return first["spectrogram"], first
        generator = generator_for(self.seed, "views", split, *path, rank())
        if terms.contrast == "self" and terms.pair == "origin":
            name = _SPLITS[split]
            if name not in self.partners:
                raise DatasetError(f"no pairs of the {name} split", "a data module with pairs", "pass datamodule=")
            second = self.partners[name].batch(batch["index"], generator)["spectrogram"]
            return torch.cat([first["spectrogram"], second]), first
        pictures = {name: value.float() for name, value in first.items() if name != "valid"}
        changed = rf_views(pictures, first["valid"], self.floor_db, generator) | {"valid": first["valid"]}
        if terms.contrast == "supervised":
            return changed["spectrogram"], changed
        plain = {"spectrogram": pictures["spectrogram"]}
        second = rf_views(plain, first["valid"], self.floor_db, generator)["spectrogram"]
        return torch.cat([changed["spectrogram"], second]), changed


def label_codes(batch: dict[str, Tensor], labels: Sequence[str]) -> Tensor:
    """One code int64 ``[B]`` for each combination of labels; -1 where a sample lacks one of them.

    Raises:
        DatasetError: the batch lacks a label altogether.
    """
    missing = [label for label in labels if label not in batch]
    if missing:
        raise DatasetError(f"data without the labels {missing}", f"{list(labels)} for the supervised contrast")
    columns = torch.stack([batch[label].long() for label in labels], dim=-1)
    # A data set keeps codes in 15 bits (lwm.data.index); Terms allows no more labels than fit beside each other.
    code = torch.zeros_like(columns[:, 0])
    for column in columns.T:
        code = code * 2**15 + column
    return torch.where((columns < 0).any(-1), -1, code)


def require_labels(data: Any, labels: Sequence[str]) -> None:
    """DatasetError unless the training data have all labels, on samples of at least two kinds."""
    missing = [label for label in labels if label not in data.label_names]
    if missing:
        raise DatasetError(
            f"data without the labels {missing}",
            f"labels {list(labels)} for the supervised contrast",
            f"set terms.labels to some of {sorted(data.label_names)}",
        )
    dataset = getattr(data, "datasets", {}).get("train")
    if dataset is None:
        return
    codes = label_codes({label: torch.as_tensor(dataset.labels[label]) for label in labels}, labels)
    kinds = codes[codes >= 0].unique()
    if len(kinds) < 2:
        raise DatasetError(
            f"training data in which {int((codes >= 0).sum())} of {len(codes)} samples have {list(labels)},"
            f" of {len(kinds)} kinds",
            "samples of at least two kinds for the supervised contrast",
            "choose other labels in terms.labels, or a wider data.where",
        )
