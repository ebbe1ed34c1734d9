"""Emissions as boxes in a picture's unit square: what detection heads learn and give."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lwm.errors import ConfigError

ABSENT = -1
"""Label of a row that pads a sample with fewer boxes than the batch's fullest."""


class Boxes(NamedTuple):
    """Boxes of a batch.

    ``places``: ``[B, M, 4]``, centre in time, centre in frequency, duration, bandwidth, as shares of the picture.
    ``labels``: int64 ``[B, M]``, :data:`ABSENT` where a row is padding.
    ``scores``: ``[B, M]`` between 0 and 1 of boxes that a head found; None of true ones.
    """

    places: Tensor
    labels: Tensor
    scores: Tensor | None = None

    def to(self, device: torch.device | str) -> "Boxes":
        """The same on another device."""
        scores = None if self.scores is None else self.scores.to(device)
        return Boxes(self.places.to(device), self.labels.to(device), scores)


def pad_boxes(places: Sequence[Tensor], labels: Sequence[Tensor]) -> Boxes:
    """Boxes of a batch from one tensor ``[m, 4]`` and one ``[m]`` a sample, which may be empty."""
    if len(places) != len(labels) or any(len(p) != len(n) for p, n in zip(places, labels, strict=False)):
        raise ConfigError(f"boxes of {len(places)} samples with labels of {len(labels)}", "a label for each box")
    pad = torch.nn.utils.rnn.pad_sequence
    rows = [part.reshape(-1, 4).float() for part in places]
    codes = [part.reshape(-1).long() for part in labels]
    return Boxes(pad(rows, batch_first=True), pad(codes, batch_first=True, padding_value=ABSENT))


def unit_boxes(
    places: Tensor, duration: float, low_hz: float, high_hz: float, picture_size: tuple[int, int] | None = None
) -> Tensor:
    """A shard's boxes (start s, stop s, low Hz, high Hz) ``[..., 4]`` in the picture's unit square ``[..., 4]``.

    Boxes are cut at the picture's borders; with ``picture_size`` (rows, columns) none is thinner than a cell, as a tone
    or an impulse would be.

    Args:
        places: float ``[..., 4]``.
        duration: of the picture, s.
        low_hz: lowest frequency of the picture, of the same reference as the boxes', Hz.
        high_hz: highest, Hz.
        picture_size: rows (frequency) and columns (time) of the picture.
    """
    if not (duration > 0 and high_hz > low_hz):
        raise ConfigError(f"a picture of {duration} s, {low_hz} to {high_hz} Hz", "a duration and a bandwidth above 0")
    span = high_hz - low_hz
    x0, x1 = ((places[..., side] / duration).clamp(0, 1) for side in (0, 1))
    y0, y1 = (((places[..., side] - low_hz) / span).clamp(0, 1) for side in (2, 3))
    rows, columns = picture_size or (torch.inf, torch.inf)
    width, height = (x1 - x0).clamp(min=1 / columns), (y1 - y0).clamp(min=1 / rows)
    return torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, width, height], dim=-1)


def physical_boxes(places: Tensor, duration: float, low_hz: float, high_hz: float) -> Tensor:
    """Inverse of :func:`unit_boxes`: ``[..., 4]`` of start s, stop s, low Hz, high Hz."""
    x0, y0, x1, y1 = corners(places).unbind(-1)
    span = high_hz - low_hz
    return torch.stack([x0 * duration, x1 * duration, low_hz + y0 * span, low_hz + y1 * span], dim=-1)


def corners(places: Tensor) -> Tensor:
    """(centre x, centre y, width, height) ``[..., 4]`` to (x0, y0, x1, y1) ``[..., 4]``."""
    centre, half = places[..., :2], places[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def overlaps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union and generalised IoU (Rezatofighi et al. 2019) of boxes ``[..., 4]``, broadcast.

    IoU = |A n B| / |A u B|; GIoU = IoU - (|C| - |A u B|) / |C| with C the smallest box around both: -1 far apart, 1 for
    the same box. Float32; a union or hull without area gives zeros.

    Args:
        first: centre, width and height.
        second: likewise.

    Returns:
        Two tensors ``[...]``.
    """
    a, b = corners(first.float()), corners(second.float())
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = first[..., 2:].float().prod(-1) + second[..., 2:].float().prod(-1) - shared
    tiny = torch.finfo(torch.float32).tiny
    iou = shared / union.clamp(min=tiny)
    return iou, iou - (hull - union) / hull.clamp(min=tiny)
