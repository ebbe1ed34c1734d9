"""A loader that can be interrupted at any batch and goes on with the next one."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Sampler

from lwm.data.mixing import MixedDataset
from lwm.data.sampler import BatchOrder
from lwm.errors import ConfigError


class _Remaining(Sampler[npt.NDArray[np.int64]]):
    """Batches of this rank that are left of the epoch; read anew for every epoch."""

    def __init__(self, loader: "ShardLoader") -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        loader = self.loader
        return loader.order.walk(loader.epoch, loader.start, loader.rank, loader.world)


class ShardLoader:
    """Batches of a data set in an order, read by worker processes or in this one.

    No ``DataLoader`` itself, so that Lightning puts no distributed sampler of its own into it: ranks are dealt with
    here. Lightning saves and restores it through :meth:`state_dict`.

    Args:
        dataset: what is read; its items are whole batches.
        order: which samples make up each batch.
        num_workers: loading processes; 0 loads in this one.
        rank: this process among those that train together.
        world: their number.
        key: what the order follows from (data, selection, seed ...), so that a state of another is refused.

    Raises:
        ConfigError: fewer batches than ranks.
    """

    def __init__(
        self, dataset: MixedDataset, order: BatchOrder, num_workers: int, rank: int = 0, world: int = 1, key: str = ""
    ) -> None:
        if order.total < world:
            raise ConfigError(
                f"{order.total} batches for {world} processes", "at least one for each", "make the batch smaller"
            )
        self.dataset, self.order, self.rank, self.world, self.key = dataset, order, rank, world, key
        self.epoch = self.start = self.done = 0
        # Lightning tells `sampler` the epoch, and looks at `batch_sampler` to see whether evaluation is shuffled.
        self.sampler, self.batch_sampler = self, None
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=None,
            sampler=_Remaining(self),
            num_workers=num_workers,
            collate_fn=_as_it_is,  # type: ignore[arg-type] # without batch_size it gets a batch, not a list
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    @property
    def _iterator(self) -> Any:
        """Lightning stops the workers through it when a run ends, however that happens."""
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self._loader._iterator = iterator

    def __len__(self) -> int:
        """Batches of an epoch for this rank, also when part of it is done."""
        return self.order.total // self.world

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is read next; a position inside another one is given up. Lightning calls it."""
        if epoch != self.epoch:
            self.epoch, self.start, self.done = epoch, 0, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Nothing is read before the first batch is asked for: Lightning sets the epoch after it calls iter().
        if self.start >= len(self):
            self.set_epoch(self.epoch + 1)
        self.done = self.start
        iterator = iter(self._loader)
        self.start = 0
        for batch in iterator:
            # Counted when it is handed out: what workers have read ahead is read again after an interruption.
            self.done += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where this run is: the epoch and the batches handed out in it, of all ranks together."""
        return {"epoch": self.epoch, "batches": self.done * self.world, "key": self.key}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a run stopped, also one with another number of processes.

        Raises:
            ConfigError: the state is of other data, selection, batch size, weights or seed.
        """
        if state["key"] != self.key:
            raise ConfigError(
                f"a run that was stopped read {state['key']}, this one reads {self.key}",
                "the same data, selection, batches and seed",
                "resume with the options of that run, or start anew from its weights",
            )
        self.epoch = int(state["epoch"])
        self.start = self.done = -(-int(state["batches"]) // self.world)


def _as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    return batch
