"""Recordings cut into windows, each a sample of a shard."""

import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from lwm.data.shard import Sample, described, main_emission
from lwm.data.sources import Source
from lwm.errors import ConfigError
from lwm.signal.capture import Capture, Emission
from lwm.signal.csi import CsiRecording
from lwm.signal.csi_recipe import CsiRecipe
from lwm.signal.recipe import Recipe
from lwm.signal.recording import Recording
from lwm.technology import technology, technology_names

SHORTEST_TAIL = 0.25
"""Share of a window that the end of a recording must fill to become a sample of its own (ours)."""

SPAN_SHARE = 0.5
"""Share of a window that a labelled span must cover to label it (ours)."""

UNKNOWN_LICENCE = "unknown"


class Windows(NamedTuple):
    """A recording's windows.

    ``starts``: s. ``left_out``: whether a rest at its end, or a gap, gave none. ``sample``: the window at a start.
    ``name``: what shards are called. ``licence``: of the recording.
    """

    starts: list[float]
    left_out: bool
    sample: Callable[[float], Sample]
    name: str
    licence: str


def iq_windows(recording: Recording, source: Source, recipe: Recipe, hop: float | None) -> Windows:
    """Windows of an IQ recording; nothing is read before a sample is asked for.

    Raises:
        ConfigError: a labelled span ends after the recording.
    """
    _check_spans(source, recording.duration)
    starts, left_out = window_starts(recording, recipe, hop)
    named = recording.emissions[0].technology if recording.emissions else _named(source.labels)
    licence = str(recording.facts.get("license", UNKNOWN_LICENCE))

    def sample(start: float) -> Sample:
        return _iq_sample(recording, source, recipe, start)

    return Windows(starts, left_out, sample, slug(named), licence)


def csi_windows(recording: CsiRecording, source: Source, recipe: CsiRecipe, hop: float | None) -> Windows:
    """Windows of CSI; those that packets cover for less than a quarter are left out.

    Raises:
        ConfigError: a labelled span ends after the recording.
    """
    _check_spans(source, recording.duration)
    micro = 1e6
    firsts, left_out = cut(
        round(recording.duration * micro),
        round(recipe.duration * micro),
        max(1, round((recipe.duration if hop is None else hop) * micro)),
        SHORTEST_TAIL * recipe.duration * micro,
    )
    needed = SHORTEST_TAIL * min(recipe.duration, recording.duration) / recording.interval
    inside = [np.searchsorted(recording.times, (first / micro, first / micro + recipe.duration)) for first in firsts]
    starts = [first / micro for first, (low, high) in zip(firsts, inside, strict=True) if high - low >= needed]
    labels = recording.labels | source.labels

    def sample(start: float) -> Sample:
        return _csi_sample(recording, source, recipe, start)

    return Windows(
        starts, left_out or len(starts) < len(firsts), sample, slug("csi-" + _named(labels)), UNKNOWN_LICENCE
    )


def window_starts(recording: Recording, recipe: Recipe, hop: float | None) -> tuple[list[float], bool]:
    """Where the windows of a recording begin (s), and whether a rest at its end was left out.

    The first window that reaches the end is the last one. It counts when it fills :data:`SHORTEST_TAIL` of a window and
    one STFT window, or when it is the only one; a recipe that does not pad takes whole windows only.
    """
    rate = recording.sample_rate
    length = recipe.window_samples(rate)
    step = max(1, round((recipe.duration if hop is None else hop) * rate))
    needed = max(SHORTEST_TAIL * length, recipe.win_length * rate / recipe.rate_for(rate))
    if recipe.short == "error":
        needed = length
    firsts, left_out = cut(recording.samples, length, step, needed)
    return [first / rate for first in firsts], left_out


def cut(total: int, length: int, step: int, needed: float) -> tuple[list[int], bool]:
    """Firsts of the windows of ``length`` every ``step`` in ``total``; whether a rest under ``needed`` was left out."""
    whole = max(0, (total - length) // step + 1)
    firsts = [number * step for number in range(whole)]
    reached = firsts[-1] + length if firsts else 0
    if reached >= total:
        return firsts, False
    if total - whole * step >= needed or not firsts:
        return [*firsts, whole * step], False
    return firsts, True


def span_labels(source: Source, start: float, duration: float) -> dict[str, str]:
    """Labels of a window: its recording's, and of each label the span's that covers most of it, half of it at least."""
    best: dict[str, tuple[float, str]] = {}
    for span in source.spans:
        stop = np.inf if span.stop is None else span.stop
        overlap = min(stop, start + duration) - max(span.start, start)
        if overlap >= SPAN_SHARE * duration:
            for label, name in span.labels.items():
                best[label] = max(best.get(label, (0.0, "")), (overlap, name), key=lambda pair: pair[0])
    return source.labels | {label: name for label, (_, name) in best.items()}


def registered_name(given: str) -> str:
    """Registry name of the technology whose name or title is ``given``, in any case; else ``given`` itself."""
    for name in technology_names():
        if given.casefold() in (name.casefold(), technology(name).title.casefold()):
            return name
    return given


def slug(name: str) -> str:
    """A name as it stands in a file name."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "recording"


def _named(labels: dict[str, str]) -> str:
    return next((labels[label] for label in ("technology", "class", "activity") if label in labels), "recording")


def _check_spans(source: Source, duration: float) -> None:
    for span in source.spans:
        end = span.start if span.stop is None else span.stop
        # A millisecond is what rounded times in a table may be off.
        if end > duration + 1e-3:
            raise ConfigError(
                f"{source.table}, line {span.line}: {end:g} s in {source.path.name}", f"times up to {duration:.6g} s"
            )


def _iq_sample(recording: Recording, source: Source, recipe: Recipe, start: float) -> Sample:
    capture = recording.read(start, recipe.duration)
    spectrogram = recipe.of_capture(capture)
    labels = _iq_labels(capture) | span_labels(source, start, capture.duration)
    values = {"sample_rate": capture.sample_rate, "start": start, "duration": capture.duration}
    if capture.center_frequency is not None:
        values["center_frequency"] = capture.center_frequency
    record: dict[str, Any] = {
        **values,
        **described(labels),
        "center_frequency": capture.center_frequency,
        "valid_columns": int(spectrogram.valid.sum()),
        "emissions": [asdict(emission) for emission in capture.emissions],
        "facts": capture.facts,
        "source": source.path.name,
        "recording": str(source.path),
    }
    boxes, names = _boxes(capture.emissions, capture.duration, recipe.rate_for(capture.sample_rate) / 2)
    return Sample(
        spectrogram.db[0].numpy(),
        spectrogram.valid[0].numpy(),
        labels,
        values,
        record,
        boxes=boxes,
        box_labels=names,
    )


def _boxes(emissions: list[Emission], duration: float, half_band: float) -> tuple[np.ndarray, list[str]]:
    """Boxes float32 ``[M, 4]`` (start s, stop s, low Hz, high Hz) inside the picture, and their technologies."""
    inside = [emission.clipped(duration, half_band) for emission in emissions]
    kept = [emission for emission in inside if emission is not None]
    boxes = np.array([(e.start, e.stop, e.low, e.high) for e in kept], np.float32).reshape(-1, 4)
    return boxes, [registered_name(e.technology) or "signal" for e in kept]


def _iq_labels(capture: Capture) -> dict[str, str]:
    if not capture.emissions:
        return {}
    main = main_emission(capture.emissions)
    named = {"technology": registered_name(main.technology), "link": main.link, "modulation": main.modulation}
    return {label: name for label, name in named.items() if name}


def _csi_sample(recording: CsiRecording, source: Source, recipe: CsiRecipe, start: float) -> Sample:
    picture, valid = recipe.picture(recording, start)
    duration = min(recipe.duration, recording.duration - start)
    labels = recording.labels | span_labels(source, start, duration)
    low, high = np.searchsorted(recording.times, (start, start + recipe.duration))
    values = {
        "start": start,
        "duration": duration,
        "sample_rate": 1 / recording.interval,
        "packets": float(high - low),
    }
    record: dict[str, Any] = {
        **values,
        **described(labels),
        "valid_columns": int(valid.sum()),
        "emissions": [],
        "facts": recording.facts,
        "source": source.path.name,
        "recording": str(source.path),
    }
    return Sample(picture, valid, labels, values, record)
