"""Instruction data: questions and answers about a data set's samples, in padded batches of like length."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from lwm.console import progress
from lwm.data.dataset import SpectrogramDataset
from lwm.data.manifest import Statistics
from lwm.errors import ConfigError, DatasetError
from lwm.language.captions import title_of
from lwm.language.instructions import all_pairs, draw_pair
from lwm.language.tokenizer import IGNORED, ChatTokenizer
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe

Encode = Callable[[Tensor], Tensor]

# Batches are made of pairs of like length out of pools of this many batches: little padding, and still another mix
# in every epoch.
_POOL = 16
_ENCODE_BATCH = 64
# Texts from this many samples are enough for a tokenizer: templates repeat.
_TOKENIZER_SAMPLES = 512


class _Encoded(NamedTuple):
    """One tokenised pair of the sample in row ``row`` of the RF tokens."""

    row: int
    ids: list[int]
    labels: list[int]


class InstructionDataset(Dataset[dict[str, Tensor]]):
    """One pair for every sample and epoch; an item is a whole batch, asked for by ``(epoch, number)``.

    Args:
        data: what is asked about.
        samples: which of its samples, int64 ``[N]``.
        tokenizer: makes tokens of the pairs.
        rf_tokens: ``<rf>`` places of a conversation.
        batch_size: pairs a batch.
        seed: of kinds, phrasings and order.
        shuffle: mix samples anew in every epoch.
    """

    def __init__(
        self,
        data: SpectrogramDataset,
        samples: npt.NDArray[np.int64],
        tokenizer: ChatTokenizer,
        rf_tokens: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
    ) -> None:
        self.data, self.samples, self.tokenizer, self.rf_tokens = data, samples, tokenizer, rf_tokens
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.rf: Tensor | None = None
        self._planned: tuple[int, list[list[_Encoded]]] | None = None

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.samples) // self.batch_size)

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Tensor]:
        """Batch ``number`` of ``epoch``: ``rf [B, n, features]``, ``input_ids``, ``labels``, ``attention_mask`` int64
        ``[B, S]`` padded at the right, ``index [B]``."""
        epoch, number = place
        if self.rf is None:
            raise DatasetError("instruction data without RF tokens", remedy="call encode() with the tower first")
        chosen = self._plan(epoch)[number]
        batch = collate([pair.ids for pair in chosen], [pair.labels for pair in chosen], self.tokenizer.pad_id)
        index = torch.tensor([pair.row for pair in chosen])
        return batch | {"rf": self.rf[index], "index": index}

    def encode(self, encode: Encode, what: str) -> Tensor:
        """Compute and keep the RF tokens ``[N, n, features]`` of all samples: of a frozen tower, once is enough."""
        parts: list[Tensor] = []
        with progress(f"RF tokens of {what}", len(self.samples), "spectrograms") as bar:
            for first in range(0, len(self.samples), _ENCODE_BATCH):
                chosen = self.samples[first : first + _ENCODE_BATCH]
                parts.append(encode(self.data.batch(chosen)["spectrogram"]).cpu())
                bar.update(len(chosen))
        self.rf = torch.cat(parts)
        return self.rf

    def _plan(self, epoch: int) -> list[list[_Encoded]]:
        """All batches of an epoch, made once for it."""
        if self._planned is None or self._planned[0] != epoch:
            self._planned = (epoch, self._make_plan(epoch))
        return self._planned[1]

    def _make_plan(self, epoch: int) -> list[list[_Encoded]]:
        count = len(self.samples)
        order = rng_for(self.seed, "order", epoch).permutation(count) if self.shuffle else np.arange(count)
        pairs = [self._encoded(int(index), epoch) for index in order]
        if not self.shuffle:
            return list(_chunks(pairs, self.batch_size))
        pools = _chunks(pairs, self.batch_size * _POOL)
        batches = [batch for pool in pools for batch in _chunks(sorted(pool, key=_length), self.batch_size)]
        mixed = rng_for(self.seed, "batches", epoch).permutation(len(batches))
        return [batches[number] for number in mixed]

    def _encoded(self, row: int, epoch: int) -> _Encoded:
        sample, columns = int(self.samples[row]), self.data.recipe.size[1]
        pair = draw_pair(self.data.record(sample), columns, self.seed, sample, epoch)
        return _Encoded(row, *self.tokenizer.pair(pair.question, pair.answer, self.rf_tokens))


class EpochSampler(Sampler[tuple[int, int]]):
    """Places ``(epoch, number)`` of an epoch's batches; Lightning says which epoch it is."""

    def __init__(self, batches: int) -> None:
        self.batches, self.epoch = batches, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, number) for number in range(self.batches))


class InstructionDataModule(pl.LightningDataModule):
    """Questions and answers about the samples of a data set.

    Args:
        data: data set's folder.
        batch_size: pairs a batch.
        seed: of kinds, phrasings and order.
        limit: at most so many samples of each split, drawn by the seed; None for all.
        vocab_size: most tokens of the tokenizer that is made from the train split's texts.
        num_workers: processes that make batches.

    Attributes (after ``setup``):
        recipe, statistics: of the data set.
        tokenizer: made from the train split.
        labels: for each categorical kind of question the values that exist, technologies by their title.
    """

    recipe: Recipe
    statistics: Statistics
    tokenizer: ChatTokenizer
    labels: dict[str, list[str]]

    def __init__(
        self,
        data: str,
        batch_size: int = 64,
        seed: int = 0,
        limit: int | None = None,
        vocab_size: int = 1024,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or (limit is not None and limit < 1):
            raise ConfigError(f"batch_size {batch_size}, limit {limit}", "positive numbers")
        self.save_hyperparameters()
        self.data, self.batch_size, self.seed, self.limit = data, batch_size, seed, limit
        self.vocab_size, self.num_workers = vocab_size, num_workers
        self._parts: dict[str, InstructionDataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Open the data set and make the tokenizer; RF tokens come with :meth:`encode`."""
        if self._parts or hasattr(self, "tokenizer"):
            return
        train = SpectrogramDataset(self.data, "train")
        self.recipe, self.statistics = train.recipe, train.statistics
        self.labels = label_values(train)
        self.tokenizer = ChatTokenizer.train(_texts(train, self.seed), self.vocab_size)

    def encode(self, stage: str, encode: Encode, rf_tokens: int) -> None:
        """Make the splits that ``stage`` (fit, validate, test) needs and compute their RF tokens once."""
        splits = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",)}
        for split in splits.get(stage, ("test",)):
            if split not in self._parts:
                data = SpectrogramDataset(self.data, split)
                chosen = drawn(len(data), self.limit or len(data), self.seed, split)
                kept = (self.tokenizer, rf_tokens, self.batch_size, self.seed)
                part = InstructionDataset(data, chosen, *kept, shuffle=split == "train")
                part.encode(encode, split)
                self._parts[split] = part

    def rf_tokens(self, split: str) -> Tensor:
        """RF tokens ``[N, n, features]`` of a split, once :meth:`encode` has run."""
        tokens = self._parts[split].rf if split in self._parts else None
        if tokens is None:
            raise DatasetError(f"no RF tokens of split {split!r}", "encode() to have run")
        return tokens

    def _loader(self, split: str) -> DataLoader[dict[str, Tensor]]:
        part = self._parts[split]
        return DataLoader(part, batch_size=None, sampler=EpochSampler(len(part)), num_workers=self.num_workers)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of the train split, other pairs in every epoch."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of the validation split."""
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of the test split."""
        return self._loader("test")


def collate(ids: Sequence[list[int]], labels: Sequence[list[int]], pad_id: int) -> dict[str, Tensor]:
    """Conversations padded at the right: ``input_ids``, ``labels`` and ``attention_mask``, int64 ``[B, S]``."""
    tokens = [torch.tensor(row) for row in ids]
    return {
        "input_ids": pad_sequence(tokens, batch_first=True, padding_value=pad_id),
        "labels": pad_sequence([torch.tensor(row) for row in labels], batch_first=True, padding_value=IGNORED),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True),
    }


def drawn(count: int, limit: int, seed: int, what: str) -> npt.NDArray[np.int64]:
    """At most ``limit`` of ``count`` indices, drawn by the seed, rising."""
    return np.sort(rng_for(seed, "limit", what).permutation(count)[:limit])


def label_values(data: SpectrogramDataset) -> dict[str, list[str]]:
    """Values that each categorical kind can have in a data set, technologies by their title."""
    names = data.label_names
    found = {kind: list(names[kind]) for kind in ("link", "mobility", "modulation") if kind in names}
    return {"technology": [title_of(name) for name in names.get("technology", [])]} | found


def _texts(data: SpectrogramDataset, seed: int) -> Iterator[str]:
    columns = data.recipe.size[1]
    for index in drawn(len(data), _TOKENIZER_SAMPLES, seed, "tokenizer"):
        for pair in all_pairs(data.record(int(index)), columns, seed, int(index)):
            yield pair.question
            yield pair.answer


def _chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    return (list(items[first : first + size]) for first in range(0, len(items), size))


def _length(pair: _Encoded) -> int:
    return len(pair.ids)
