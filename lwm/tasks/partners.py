"""Pairs for self-supervised contrast: another picture of the same waveform or recording."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lwm.data.reader import origin_of
from lwm.errors import DatasetError


class Partners:
    """Which samples of a data set have one origin: channel draws of one waveform, windows of one recording.

    Args:
        dataset: a :class:`lwm.data.mixing.MixedDataset`; the record of each of its samples is read once, here.

    Raises:
        DatasetError: no two samples share an origin.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        names = [
            f"{member.root}/{origin_of(member.record(number)) or number}"
            for member in dataset.members
            for number in range(len(member))
        ]
        codes = np.unique(names, return_inverse=True)[1]
        self._order: npt.NDArray[np.int64] = np.argsort(codes, kind="stable")
        self._count = np.bincount(codes)[codes]
        first = np.concatenate([[0], np.cumsum(np.bincount(codes))])
        self._start = first[codes]
        self._place = np.empty(len(codes), np.int64)
        self._place[self._order] = np.arange(len(codes))
        self._place -= self._start
        if not len(codes) or self._count.max() < 2:
            raise DatasetError(
                "a data set in which no two samples share a waveform or recording",
                "pairs for terms.pair 'origin'",
                "generate with samples_per_waveform of 2 or more, or set terms.pair: views",
            )

    def draw(self, index: Tensor, generator: torch.Generator) -> npt.NDArray[np.int64]:
        """Numbers ``[B]`` of samples with the origin of samples ``index [B]``: another one wherever there is one."""
        own = index.cpu().numpy()
        others = self._count[own] - 1
        step = (torch.rand(len(own), generator=generator).numpy() * others).astype(np.int64) + (others > 0)
        return self._order[self._start[own] + (self._place[own] + step) % self._count[own]]

    def batch(self, index: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """A partner of each sample, as a batch with pictures in float32 on the device of ``index``."""
        found = self.dataset.batch(self.draw(index, generator), torch.float16)
        pictures = {name: found[name].float() for name in ("spectrogram", "clean") if name in found}
        return {name: value.to(index.device) for name, value in (pictures | {"valid": found["valid"]}).items()}
