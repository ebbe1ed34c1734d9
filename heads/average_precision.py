"""Mean average precision of boxes; torchmetrics' own needs pycocotools, which is compiled and not a dependency."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lwm.errors import ConfigError
from lwm.models.boxes import ABSENT, Boxes, overlaps


class BoxAveragePrecision(Metric):
    """Mean over classes of the area under the precision-recall curve of boxes.

    Within a picture, boxes take turns by falling score; each takes the free true box of its class that it overlaps
    most, is right if that overlap reaches the threshold, and wrong otherwise. Over all pictures, precision at a recall
    is the best at that recall or a higher one (VOC 2010: every point counts, none is sampled).

    Args:
        num_classes: K; classes without a true box do not count.
        iou: least overlap of a right box, above 0.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self, num_classes: int, iou: float = 0.5) -> None:
        super().__init__()
        if num_classes < 1 or not 0 < iou <= 1:
            raise ConfigError(f"average precision of {num_classes} classes at IoU {iou}", "a class and 0 < IoU <= 1")
        self.num_classes, self.iou = num_classes, iou
        for name in ("scores", "labels", "hits"):
            self.add_state(name, [], dist_reduce_fx="cat")
        self.add_state("truths", torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Boxes, target: Boxes) -> None:
        """Take in a batch of found boxes with scores, and of true ones."""
        states: Any = self
        if preds.scores is None:
            raise ConfigError("boxes without scores", "boxes that a head predicted")
        hits = matched(preds, target, self.iou)
        there = preds.labels != ABSENT
        states.scores.append(preds.scores[there].float())
        states.labels.append(preds.labels[there])
        states.hits.append(hits[there])
        known = target.labels[target.labels != ABSENT]
        states.truths += torch.bincount(known, minlength=self.num_classes)

    def compute(self) -> Tensor:
        """The mean float32; NaN where no class has a true box."""
        each = self.by_class()
        return each[~each.isnan()].mean()

    def by_class(self) -> Tensor:
        """Average precision float32 ``[K]``, NaN of a class without a true box."""
        states: Any = self
        # After a gather of several processes a list state is one tensor.
        scores, labels, hits = (
            torch.cat(part) if isinstance(part, list) and part else torch.as_tensor(part, device=states.truths.device)
            for part in (states.scores, states.labels, states.hits)
        )
        order = scores.argsort(descending=True, stable=True)
        labels, hits = labels[order], hits[order]
        areas = [curve_area(hits[labels == name], int(count)) for name, count in enumerate(states.truths)]
        return torch.tensor(areas, device=states.truths.device)


def matched(preds: Boxes, target: Boxes, iou: float) -> Tensor:
    """Which found boxes are right, bool ``[B, Q]``; see :class:`BoxAveragePrecision`."""
    assert preds.scores is not None
    hits = torch.zeros_like(preds.labels, dtype=torch.bool)
    if not target.labels.shape[1]:
        return hits
    free = target.labels != ABSENT
    overlap, _ = overlaps(preds.places[:, :, None], target.places[:, None])
    overlap = overlap.where(preds.labels[:, :, None] == target.labels[:, None], -1.0)
    turns = preds.scores.where(preds.labels != ABSENT, -torch.inf).argsort(dim=1, descending=True, stable=True)
    row = torch.arange(len(hits), device=hits.device)
    # One turn depends on the one before; all pictures take it at once.
    for turn in turns.unbind(1):
        best, box = overlap[row, turn].where(free, -1.0).max(1)
        right = best >= iou
        hits[row, turn] = right
        free[row, box] &= ~right
    return hits


def curve_area(hits: Tensor, truths: int) -> float:
    """Area under the precision-recall curve of boxes bool ``[n]`` by falling score; NaN without true boxes."""
    if not truths:
        return float("nan")
    right = hits.double().cumsum(0)
    precision = right / torch.arange(1, len(hits) + 1, device=hits.device)
    best = precision.flip(0).cummax(0).values.flip(0) if len(hits) else precision
    return float((best * hits).sum() / truths)
