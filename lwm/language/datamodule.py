"""Instruction data: questions and answers about a data set's samples, in batches that waste little."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lwm.console import progress
from lwm.data.dataset import SpectrogramDataset
from lwm.data.loader import ShardLoader
from lwm.data.manifest import FILE_NAME, Statistics
from lwm.data.sampler import BatchOrder
from lwm.errors import ConfigError, DatasetError
from lwm.language.balance import UNBALANCED, Balance, balance_of_facts, read_facts
from lwm.language.batches import Encoded, chunks, collate, collate_packed, pack, planned, require_trainable
from lwm.language.captions import title_of
from lwm.language.chat import Chat
from lwm.language.facts import columns_of
from lwm.language.instructions import all_pairs, draw_from
from lwm.language.tokenizer import ChatTokenizer
from lwm.output import file_sha256
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe

Encode = Callable[[Tensor], Tensor]

_ENCODE_BATCH = 64
# Texts from this many samples are enough for a tokenizer: templates repeat.
_TOKENIZER_SAMPLES = 512
_SPLITS = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",)}


class InstructionDataset(Dataset[dict[str, Tensor]]):
    """One pair for every sample and epoch; an item is a whole batch, asked for by ``(epoch, number)``.

    Args:
        data: what is asked about.
        samples: which of its samples, int64 ``[N]``.
        chat: makes tokens of the pairs.
        rf_tokens: ``<rf>`` places of a conversation.
        context: most tokens of a conversation; None for no limit.
        batch_size: pairs a batch.
        seed: of kinds, phrasings and order.
        shuffle: mix samples anew in every epoch.
        packed: tokens of a row into which conversations are packed; 0 for one conversation a row.
        balance: draws kinds and answers evenly.
        facts: of the samples, where somebody has read them; None reads them.

    Attributes:
        rf: RF tokens ``[N, n, features]`` once :meth:`encode` has run; without them batches hold the pictures.
        window: batches, of all processes together, that make one optimizer step.
        used: batches of an epoch that are used: as many for each process.
    """

    def __init__(
        self,
        data: SpectrogramDataset,
        samples: npt.NDArray[np.int64],
        chat: Chat,
        rf_tokens: int,
        context: int | None,
        batch_size: int,
        seed: int,
        shuffle: bool,
        packed: int = 0,
        balance: Balance = UNBALANCED,
        facts: list[dict[str, str]] | None = None,
    ) -> None:
        self.data, self.samples, self.chat, self.rf_tokens, self.context = data, samples, chat, rf_tokens, context
        self.batch_size, self.seed, self.shuffle, self.packed = batch_size, seed, shuffle, packed
        self.balance = balance
        self.window, self.used = 1, len(self)
        self.rf: Tensor | None = None
        # Reading a record takes longer than to draw from it, and every epoch draws again.
        self._facts = read_facts(data, samples) if facts is None else facts
        self._planned: tuple[int, list[list[Encoded]], list[int]] | None = None

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.samples) // self.batch_size)

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Tensor]:
        """Batch ``number`` of ``epoch``.

        ``index`` int64 ``[P]``: rows of the samples in the order of their places; ``rf [P, n, features]``, or the dB
        pictures ``spectrogram [P, C, F, T]``; tokens as of :func:`~lwm.language.batches.collate` or
        :func:`~lwm.language.batches.collate_packed`; ``place`` int64 ``[2]``: epoch and number; ``step`` int64
        ``[2]``: answer tokens of the optimizer step that the batch is part of, and the batches in a whole one.
        """
        # Validation asks the same in every epoch, whatever epoch the loader is told.
        epoch, number = int(place[0]) if self.shuffle else 0, int(place[1])
        plan, tokens = self.plan(epoch)
        chosen = plan[number]
        if self.packed:
            rows = pack(chosen, self.packed)
            chosen = [pair for row in rows for pair in row]
            made = collate_packed(rows, self.chat.pad_id)
        else:
            made = collate([pair.ids for pair in chosen], [pair.labels for pair in chosen], self.chat.pad_id)
        index = torch.tensor([pair.row for pair in chosen])
        first = number // self.window * self.window
        step = torch.tensor([sum(tokens[first : min(first + self.window, self.used)]), self.window])
        return {"index": index} | made | self._seen(index) | {"place": torch.tensor([epoch, number]), "step": step}

    def encode(self, encode: Encode, what: str) -> Tensor:
        """Compute and keep the RF tokens ``[N, n, features]`` of all samples: of a frozen tower, once is enough."""
        self.rf = self.encoded_part(encode, what, len(self.samples))
        return self.rf

    def encoded_part(self, encode: Encode, what: str, most: int) -> Tensor:
        """RF tokens of at most so many samples, spread over the split."""
        chosen = self.samples[
            np.unique(np.linspace(0, len(self.samples) - 1, min(most, len(self.samples))).astype(int))
        ]
        parts: list[Tensor] = []
        with progress(f"RF tokens of {what}", len(chosen), "spectrograms") as bar:
            for some in chunks(chosen, _ENCODE_BATCH):
                parts.append(encode(self.data.batch(np.asarray(some))["spectrogram"]).cpu())
                bar.update(len(some))
        return torch.cat(parts)

    def plan(self, epoch: int) -> tuple[list[list[Encoded]], list[int]]:
        """All batches of an epoch and their answer tokens, made once for it.

        Raises:
            ConfigError: a pair that does not fit into the context or cannot be aligned with the chat template.
        """
        if self._planned is None or self._planned[0] != epoch:
            batches = planned(
                len(self.samples), self.batch_size, self.seed, epoch, self.shuffle, lambda row: self._pair(row, epoch)
            )
            tokens = [sum(pair.answer_tokens for pair in batch) for batch in batches]
            self._planned = (epoch, batches, tokens)
        return self._planned[1:]

    def _seen(self, index: Tensor) -> dict[str, Tensor]:
        """What the model sees of the samples in these rows."""
        if self.rf is not None:
            return {"rf": self.rf[index]}
        return {"spectrogram": self.data.batch(self.samples[index.numpy()])["spectrogram"]}

    def _pair(self, row: int, epoch: int) -> Encoded:
        sample = int(self.samples[row])
        pair = draw_from(self._facts[row], self.seed, sample, epoch, self.balance)
        encoded = Encoded(row, *self.chat.pair(pair.question, pair.answer, self.rf_tokens))
        return require_trainable(encoded, f"the conversation {pair.question!r} about sample {sample}", self.context)


class PlannedOrder(BatchOrder):
    """Places ``(epoch, number)`` of an epoch's batches, dealt out to the processes in turns."""

    def __init__(self, total: int) -> None:
        self.total = total

    def walk(self, epoch: int, start: int, rank: int, world: int) -> Iterator[Any]:
        """Places of one rank from its ``start``-th on."""
        return ((epoch, number) for number in range(start * world + rank, self.total // world * world, world))


class InstructionDataModule(pl.LightningDataModule):
    """Questions and answers about the samples of a data set.

    Args:
        data: data set's folder.
        batch_size: pairs a batch.
        seed: of kinds, phrasings and order.
        limit: at most so many samples of each split, drawn by the seed; None for all.
        vocab_size: most tokens of a tokenizer that is made from the train split's texts.
        num_workers: processes that make batches.
        packed: tokens of a row into which several conversations are packed, at most the language model's context;
            0 for one conversation a row, those of like length together.
        balanced: draw kinds and answers evenly (:mod:`lwm.language.balance`), or kinds by their weights alone.

    Attributes (after ``setup``):
        recipe, statistics: of the data set.
        labels: for each categorical kind of question the values that exist, technologies by their title.
    """

    recipe: Recipe
    statistics: Statistics
    labels: dict[str, list[str]]

    def __init__(
        self,
        data: str,
        batch_size: int = 64,
        seed: int = 0,
        limit: int | None = None,
        vocab_size: int = 1024,
        num_workers: int = 0,
        packed: int = 0,
        balanced: bool = True,
    ) -> None:
        super().__init__()
        if batch_size < 1 or (limit is not None and limit < 1) or packed < 0:
            raise ConfigError(f"batch_size {batch_size}, limit {limit}, packed {packed}", "positive numbers")
        self.save_hyperparameters()
        self.data, self.batch_size, self.seed, self.limit = data, batch_size, seed, limit
        self.vocab_size, self.num_workers, self.packed, self.balanced = vocab_size, num_workers, packed, balanced
        self._parts: dict[str, InstructionDataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Open the data set; batches come with :meth:`prepare`, once the chat is known."""
        if not hasattr(self, "labels"):
            train = SpectrogramDataset(self.data, "train")
            self.recipe, self.statistics = train.recipe, train.statistics
            self.labels = label_values(train)
            self._manifest = file_sha256(Path(self.data) / FILE_NAME)[:16]
            chosen = drawn(len(train), self.limit or len(train), self.seed, "train")
            self._train_facts = read_facts(train, chosen) if self.balanced else None
            self._balance = UNBALANCED if self._train_facts is None else balance_of_facts(self._train_facts)

    def make_chat(self) -> ChatTokenizer:
        """A tokenizer of the train split's texts, for a language model without one of its own."""
        train = SpectrogramDataset(self.data, "train")
        return ChatTokenizer.train(_texts(train, self.seed), self.vocab_size)

    def prepare(self, stage: str, chat: Chat, rf_tokens: int, context: int | None, encode: Encode | None) -> None:
        """Make the splits that ``stage`` (fit, validate, test) needs.

        Args:
            stage: Lightning's.
            chat: makes tokens of texts.
            rf_tokens: of a picture.
            context: most tokens of a conversation; None for no limit.
            encode: computes RF tokens, once; None puts pictures into the batches instead.

        Raises:
            ConfigError: a conversation of the first epoch does not fit into the context or cannot be aligned, or a
                packed row is longer than the context.
        """
        if context is not None and self.packed > context:
            raise ConfigError(f"packed rows of {self.packed} tokens", f"at most {context}, the context")
        for split in _SPLITS.get(stage, ("test",)):
            data = SpectrogramDataset(self.data, split)
            chosen = drawn(len(data), self.limit or len(data), self.seed, split)
            kept = (chat, rf_tokens, context, self.batch_size, self.seed, split == "train")
            facts = self._train_facts if split == "train" else None
            part = InstructionDataset(data, chosen, *kept, self.packed, self._balance, facts)
            part.plan(0)
            if encode is not None:
                part.encode(encode, split)
            self._parts[split] = part

    def part(self, split: str) -> InstructionDataset:
        """Batches of a split; DatasetError before :meth:`prepare`."""
        if split not in self._parts:
            raise DatasetError(f"no batches of split {split!r}", "prepare() to have run")
        return self._parts[split]

    def rf_tokens(self, split: str) -> Tensor:
        """RF tokens ``[N, n, features]`` of a split whose tower is frozen; DatasetError when there are none."""
        tokens = self.part(split).rf
        if tokens is None:
            raise DatasetError(f"no RF tokens of split {split!r}", "prepare() with a frozen tower to have run")
        return tokens

    def train_dataloader(self) -> ShardLoader:
        """Batches of the train split, other pairs in every epoch."""
        part, world = self.part("train"), 1 if self.trainer is None else self.trainer.world_size
        part.window = world * (1 if self.trainer is None else self.trainer.accumulate_grad_batches)
        part.used = len(part) // world * world
        return self._loader("train")

    def val_dataloader(self) -> ShardLoader:
        """Batches of the validation split."""
        return self._loader("validation")

    def test_dataloader(self) -> ShardLoader:
        """Batches of the test split."""
        return self._loader("test")

    def _loader(self, split: str) -> ShardLoader:
        part = self.part(split)
        place = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        # A loader of shards reads whatever places its order names.
        return ShardLoader(cast("Any", part), PlannedOrder(len(part)), self.num_workers, *place, key=self._key(part))

    def _key(self, part: InstructionDataset) -> str:
        """What the order of batches follows from."""
        of_chat = hashlib.sha256(repr(sorted(part.chat.get_config().items())).encode()).hexdigest()[:16]
        return (
            f"{len(part.samples)} samples of {self._manifest} (batch_size={self.batch_size}, seed={self.seed}, "
            f"packed={self.packed}, balanced={self.balanced}, tokenizer {of_chat})"
        )


def drawn(count: int, limit: int, seed: int, what: str) -> npt.NDArray[np.int64]:
    """At most ``limit`` of ``count`` indices, drawn by the seed, rising."""
    return np.sort(rng_for(seed, "limit", what).permutation(count)[:limit])


def label_values(data: SpectrogramDataset) -> dict[str, list[str]]:
    """Values that each categorical kind can have in a data set, technologies by their title."""
    names = data.label_names
    found = {kind: list(names[kind]) for kind in ("link", "mobility", "modulation") if kind in names}
    return {"technology": [title_of(name) for name in names.get("technology", [])]} | found


def _texts(data: SpectrogramDataset, seed: int) -> Iterator[str]:
    for index in drawn(len(data), _TOKENIZER_SAMPLES, seed, "tokenizer"):
        for pair in all_pairs(data.record(int(index)), columns_of(data.recipe), seed, int(index)):
            yield pair.question
            yield pair.answer
