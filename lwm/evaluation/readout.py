"""What a head's prediction says of one window: a row of a table and annotations, by the kind of the head.

| kind | rows | columns beside COLUMNS | label |
|---|---|---|---|
| classification | one a window | ``p_CLASS`` probabilities | the likeliest class |
| multilabel | one a window | ``p_LABEL`` probabilities | labels over the threshold, joined by + |
| segmentation | one a window | ``share_CLASS`` of its valid cells | the class of most cells |
| regression | one a window | the quantities, in their units | none |
| detection | one a box over the threshold | ``low_hz``, ``high_hz``, ``center_frequency_hz`` | the box's class |
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lwm.models.boxes import Boxes, physical_boxes
from lwm.models.head import Head
from lwm.signal.recipe import Recipe

COLUMNS = ("source", "start_s", "stop_s", "label", "probability")


class Place(NamedTuple):
    """A window of a recording: ``start`` and ``duration`` (s) from the begin of the recording, the Hz of its samples,
    its centre frequency (Hz, None when unknown), its valid columns and the number of its capture segment."""

    start: float
    duration: float
    sample_rate: float
    center_frequency: float | None
    valid_columns: int
    segment: int = 0


class Finding(NamedTuple):
    """What is said of a part of a recording.

    ``start``, ``stop``: s from its begin. ``band``: lowest and highest Hz from its centre frequency. ``cells``: the
    kind's own columns. ``names``: labels that it is annotated with, and the probability of each. ``segment``: number of
    the capture segment. ``center_frequency``: Hz, None when unknown.
    """

    start: float
    stop: float
    band: tuple[float, float]
    label: str
    probability: float | None
    cells: list[float | None]
    names: dict[str, float]
    segment: int = 0
    center_frequency: float | None = None


class Readout:
    """Findings of a head's predictions.

    Args:
        head: the head.
        recipe: what makes its pictures; one of CSI has no band.
        threshold: probability from which a label or a box counts.
    """

    def __init__(self, head: Head, recipe: Recipe, threshold: float) -> None:
        self.kind, self.targets, self.threshold, self.recipe = head.kind, head.targets, threshold, recipe
        own = {
            "classification": [f"p_{name}" for name in head.targets],
            "multilabel": [f"p_{name}" for name in head.targets],
            "segmentation": [f"share_{name}" for name in head.targets],
            "regression": list(head.targets),
            "detection": ["low_hz", "high_hz", "center_frequency_hz"],
        }
        self.columns = [*COLUMNS, *own[head.kind]]

    @property
    def merges(self) -> bool:
        """Whether neighbouring windows of one label become one annotation."""
        return self.kind not in ("regression", "detection")

    def findings(self, predicted: Any, places: list[Place]) -> Iterator[tuple[int, Finding]]:
        """Findings of a batch's windows and the number of the window of each, in their order."""
        if isinstance(predicted, Boxes):
            found = predicted.to("cpu")
            for number, place in enumerate(places):
                for finding in self._boxes(found, number, place):
                    yield number, finding
            return
        values = predicted.float().cpu().numpy()
        for number, (place, value) in enumerate(zip(places, values, strict=True)):
            yield number, self._window(place, value)

    def _window(self, place: Place, value: NDArray[np.float32]) -> Finding:
        if self.kind == "segmentation":
            value = self._shares(value, place.valid_columns)
        cells: list[float | None] = [float(number) for number in value]
        if self.kind == "regression":
            texts = {f"{name}={number:.4g}": 1.0 for name, number in zip(self.targets, value, strict=True)}
            return self._finding(place, "", None, cells, texts)
        if self.kind == "multilabel":
            over = {name: float(p) for name, p in zip(self.targets, value, strict=True) if p >= self.threshold}
            sure = min(over.values()) if over else 1 - float(value.max())
            return self._finding(place, "+".join(over), sure, cells, over)
        best = int(value.argmax())
        label, sure = self.targets[best], float(value[best])
        return self._finding(place, label, sure, cells, {label: sure})

    def _shares(self, probabilities: NDArray[np.float32], valid_columns: int) -> NDArray[np.float32]:
        """Share of the valid cells of each class ``[K]`` of probabilities ``[K, F, T]``."""
        classes = probabilities.argmax(0)
        if getattr(self.recipe, "axes", "") == "time-frequency":
            classes = classes.T
        inside = classes[:, : max(1, valid_columns)]
        counts = np.bincount(inside.ravel(), minlength=len(self.targets))
        return (counts / inside.size).astype(np.float32)

    def _boxes(self, found: Boxes, sample: int, place: Place) -> Iterator[Finding]:
        """Boxes of one window over the threshold, cut at its borders, in the order of their starts."""
        assert found.scores is not None
        half = self.recipe.rate_for(place.sample_rate) / 2
        physical = physical_boxes(found.places[sample].double(), self.recipe.duration, -half, half).numpy()
        labels, scores = found.labels[sample].numpy(), found.scores[sample].numpy()
        kept = np.flatnonzero((scores >= self.threshold) & (labels >= 0))
        for number in kept[np.argsort(physical[kept, 0], kind="stable")]:
            start, stop = np.clip(physical[number, :2], 0.0, place.duration).tolist()
            low, high = np.clip(physical[number, 2:], *self._band(place)).tolist()
            if stop > start and high > low:
                label, sure = self.targets[int(labels[number])], float(scores[number])
                cells = [low, high, place.center_frequency]
                yield self._finding(place, label, sure, cells, {label: sure}, ((start, stop), (low, high)))

    def _finding(
        self,
        place: Place,
        label: str,
        sure: float | None,
        cells: list[float | None],
        names: dict[str, float],
        box: tuple[tuple[float, float], tuple[float, float]] | None = None,
    ) -> Finding:
        """A finding of a whole window, or of a box in it."""
        (start, stop), band = box or ((0.0, place.duration), self._band(place))
        begin, center = place.start, place.center_frequency
        return Finding(begin + start, begin + stop, band, label, sure, cells, names, place.segment, center)

    def _band(self, place: Place) -> tuple[float, float]:
        """The band that a window's picture and its samples both cover, Hz from the centre frequency."""
        rate_for = getattr(self.recipe, "rate_for", lambda rate: rate)
        half = min(rate_for(place.sample_rate), place.sample_rate) / 2
        return -half, half


class RunMerger:
    """Joins findings of one label that follow each other without a gap; the probability is their mean over time.

    Args:
        merges: False gives out each finding as it is.
    """

    def __init__(self, merges: bool) -> None:
        self.merges = merges
        self._open: dict[str, tuple[Finding, float, float]] = {}

    def add(self, finding: Finding) -> Iterator[Finding]:
        """Take a finding in; gives out runs that ended before it."""
        if not self.merges:
            yield finding
            return
        for name in list(self._open):
            run = self._open[name][0]
            reaches = finding.start <= run.stop + 1e-6 * max(run.stop - run.start, finding.stop - finding.start)
            if name not in finding.names or finding.segment != run.segment or not reaches:
                yield self._close(name)
        length = finding.stop - finding.start
        for name, sure in finding.names.items():
            run, weight, total = self._open.get(name, (finding._replace(label=name), 0.0, 0.0))
            self._open[name] = (run._replace(stop=finding.stop), weight + length, total + sure * length)

    def end(self) -> Iterator[Finding]:
        """Runs that last to the end of the recording."""
        for name in list(self._open):
            yield self._close(name)

    def _close(self, name: str) -> Finding:
        run, weight, total = self._open.pop(name)
        return run._replace(label=name, names={name: total / weight})
