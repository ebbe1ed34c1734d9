"""What the emissions of a record look like in a picture: how many, how wide, when, and where."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lwm.channel.noise import occupied_band
from lwm.signal.capture import Emission
from lwm.signal.recipe import Recipe

CANNOT_TELL = "cannot tell"
"""The answer to a question about a signal where there is none."""
MOST_COUNTED = 8
"""Largest number that is told apart; beyond it an answer says "more than 8"."""
CONTINUOUS_SHARE = 0.95
"""Share of the window on the air from which a signal is continuous (ours)."""
WHOLE_SHARE = 2 / 3
"""Share of the band or of the window above which a place is the whole of it (ours)."""
BANDWIDTH_STEP_MHZ = 1
"""Width in MHz of the buckets of the occupied bandwidth: answers round to its multiples, at least one."""
_THIRDS = ("lower third", "middle third", "upper third")
_TIMES = ("early", "middle", "late")

Floats = npt.NDArray[np.float64]


class Seen(NamedTuple):
    """What a picture shows of a record.

    Args:
        boxes: start and stop (s), low and high (Hz) of each emission, cut to the capture, ``[N, 4]``.
        carriers: number of each emission's technology, ``[N]``.
        duration: of the capture, s.
        sample_rate: Hz.
        column: time that one column of the picture takes, s: closer things run into one.
    """

    boxes: Floats
    carriers: npt.NDArray[np.int64]
    duration: float
    sample_rate: float
    column: float


def seen_of(record: Mapping[str, Any], columns: int) -> Seen | None:
    """Emissions of a record whose duration and sample rate are known; None where there are none.

    Args:
        record: a shard's JSON record.
        columns: of a whole picture.
    """
    emissions, duration, rate = record.get("emissions"), record.get("duration"), record.get("sample_rate")
    if not (emissions and duration and rate):
        return None
    edges = np.array([(each["start"], each["stop"], each["low"], each["high"]) for each in emissions], np.float64)
    limits = np.array([0.0, 0.0, -rate / 2, -rate / 2]), np.array([duration, duration, rate / 2, rate / 2])
    edges = np.clip(edges, *limits)
    kept = (edges[:, 1] > edges[:, 0]) & (edges[:, 3] > edges[:, 2])
    names = [str(each.get("technology", "")) for each in emissions]
    carriers = np.unique(names, return_inverse=True)[1]
    if not kept.any():
        return None
    column = float(duration) / int(record.get("valid_columns") or columns)
    return Seen(edges[kept], carriers[kept], float(duration), float(rate), column)


def picture_facts(record: Mapping[str, Any], columns: int) -> dict[str, str]:
    """``emissions``, ``bandwidth`` (MHz), ``temporal`` and, where one emission is longest, ``place`` of a record.

    Args:
        record: a shard's JSON record.
        columns: of a whole picture.
    """
    seen = seen_of(record, columns)
    if seen is None:
        return {}
    regions = regions_of(seen)
    facts = {"emissions": counted(len(regions)), "bandwidth": occupied_bucket(seen), "temporal": temporal_kind(seen)}
    place = place_of(regions, seen)
    return facts | ({"place": place} if place else {})


def columns_of(recipe: Recipe) -> int:
    """Time columns of a recipe's pictures."""
    return recipe.size[1] if recipe.axes == "frequency-time" else recipe.size[0]


def counted(number: int) -> str:
    """A count as answers say it: exact up to :data:`MOST_COUNTED`."""
    return str(number) if number <= MOST_COUNTED else f"more than {MOST_COUNTED}"


def regions_of(seen: Seen) -> Floats:
    """Bounding boxes ``[R, 4]``, by start, of the regions of time and frequency that a picture shows apart.

    Emissions of one technology are of one region where they overlap in frequency and their gap in time is less than a
    column, or a chain of others joins them so.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    start, stop, low, high = seen.boxes.T
    near = np.maximum(start[:, None], start) - np.minimum(stop[:, None], stop) < seen.column
    beside = np.maximum(low[:, None], low) <= np.minimum(high[:, None], high)
    joined = near & beside & (seen.carriers[:, None] == seen.carriers)
    count, names = connected_components(coo_array(joined), directed=False)
    found = np.empty((count, 4))
    for edge, (pick, first) in enumerate(((np.minimum, np.inf), (np.maximum, -np.inf)) * 2):
        found[:, edge] = first
        pick.at(found[:, edge], names, seen.boxes[:, edge])
    return found[np.lexsort((found[:, 2], found[:, 0]))]


def occupied_bucket(seen: Seen) -> str:
    """Hz inside the capture's band that any emission occupies, as MHz on the grid of :data:`BANDWIDTH_STEP_MHZ`."""
    emissions = [Emission("", low=low, high=high) for low, high in seen.boxes[:, 2:].tolist()]
    steps = occupied_band(emissions, seen.sample_rate) / 1e6 / BANDWIDTH_STEP_MHZ
    return str(BANDWIDTH_STEP_MHZ * max(1, int(np.floor(steps + 0.5))))


def bursts_of(seen: Seen) -> Floats:
    """Start and stop ``[B, 2]`` in s of the stretches in which anything is on the air; gaps below a column are none."""
    order = np.argsort(seen.boxes[:, 0], kind="stable")
    start, stop = seen.boxes[order, 0], np.maximum.accumulate(seen.boxes[order, 1])
    begins = np.append(True, start[1:] - stop[:-1] >= seen.column)
    ends = np.append(begins[1:], True)
    return np.stack([start[begins], stop[ends]], axis=1)


def temporal_kind(seen: Seen) -> str:
    """``continuous``: on the air in at least :data:`CONTINUOUS_SHARE` of the capture; ``periodic``: starts or stops of
    bursts, at least three that the capture's ends did not make, are a column or less from even spacing; else
    ``bursty``.
    """
    bursts = bursts_of(seen)
    if float(np.diff(bursts, axis=1).sum()) >= CONTINUOUS_SHARE * seen.duration:
        return "continuous"
    starts = bursts[bursts[:, 0] > seen.column, 0]
    stops = bursts[bursts[:, 1] < seen.duration - seen.column, 1]
    return "periodic" if _even(starts, seen.column) or _even(stops, seen.column) else "bursty"


def _even(moments: Floats, tolerance: float) -> bool:
    """Whether at least three moments, and the others too, are near a line of even spacing through their ends."""
    if len(moments) < 3:
        return False
    return bool(np.abs(moments - np.linspace(moments[0], moments[-1], len(moments))).max() <= tolerance)


def place_of(regions: Floats, seen: Seen) -> str | None:
    """Place of the region that lasts longest, by at least a column, on the coarse grid; None where none does."""
    lasts = regions[:, 1] - regions[:, 0]
    order = np.argsort(-lasts, kind="stable")
    if len(order) > 1 and lasts[order[0]] - lasts[order[1]] < seen.column:
        return None
    start, stop, low, high = regions[order[0]]
    half = seen.sample_rate / 2
    band = _part(low, high, -half, half, ("whole band", *_THIRDS))
    time = _part(start, stop, 0.0, seen.duration, ("throughout", *_TIMES))
    return "whole window" if (band, time) == ("whole band", "throughout") else f"{band}, {time}"


def _part(low: float, high: float, bottom: float, top: float, names: Sequence[str]) -> str:
    """The first name where more than :data:`WHOLE_SHARE` is taken, else that of the third in which the middle lies."""
    if high - low > WHOLE_SHARE * (top - bottom):
        return names[0]
    return names[1 + min(2, int(3 * ((low + high) / 2 - bottom) / (top - bottom)))]
