"""``lwm ingest``: recordings into a data set, cut into windows of a recipe."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lwm.console import progress, say
from lwm.data.generation import require_replaceable
from lwm.data.manifest import Manifest, ShardEntry, ordered_labels, package_versions
from lwm.data.shard import Sample, ShardWriter, main_emission, shard_name
from lwm.errors import CaptureError, ConfigError, ModelError
from lwm.output import atomic_folder, require_empty
from lwm.signal.capture import Capture
from lwm.signal.io import open_recording
from lwm.signal.recipe import Recipe, recipe_named
from lwm.signal.recording import SIGMF_SUFFIXES, SUFFIXES, Recording
from lwm.technology import technology, technology_names

SPLIT = "all"
"""Split of recordings: none of them was made for training."""

SHORTEST_TAIL = 0.25
"""Share of a window that the end of a recording must fill to become a sample of its own (ours)."""

_UNKNOWN_LICENCE = "unknown"


@dataclass(frozen=True)
class _Source:
    """A recording's file and the class that its folder gives it."""

    path: Path
    label: str | None


def ingest(
    paths: list[str],
    out: str,
    recipe: str = "small",
    model: str | None = None,
    sample_rate: float | None = None,
    datatype: str | None = None,
    hop: float | None = None,
    overwrite: bool = False,
) -> Path:
    """Turn recordings into a data set: one shard for each, cut into windows.

    A recording shorter than a window is padded and marked so where the recipe allows it; a shorter rest at its end
    becomes a sample when it fills a quarter of a window. Either all recordings get in or nothing is written.

    Args:
        paths: recordings (SigMF, raw IQ, .npy) and folders of them; in a folder of folders each is a class.
        out: folder to make.
        recipe: preset that makes the spectrograms.
        model: model folder whose recipe is taken instead.
        sample_rate: Hz, for recordings that do not state theirs.
        datatype: sample format of raw IQ, for example ci16_le.
        hop: seconds from window to window; the recipe's duration by default.
        overwrite: replace the data set that the folder holds.

    Returns:
        The folder.

    Raises:
        CaptureError: a recording that cannot be used, naming it.
        ConfigError: no recording found, or a hop that is not positive.
        OutputError: the folder is not empty.
    """
    root = Path(out)
    chosen = recipe_named(recipe) if model is None else model_recipe(Path(model))
    if hop is not None and not hop > 0:
        raise ConfigError(f"hop {hop} s", "a positive number of seconds")
    require_empty(root, overwrite=overwrite)
    sources = find_recordings(paths, any_suffix=datatype is not None)
    plan = {
        "kind": "recordings",
        "files": [str(source.path) for source in sources],
        "sample_rate": sample_rate,
        "datatype": datatype,
        "hop": hop,
    }
    manifest = Manifest(chosen.to_dict(), plan, None, _UNKNOWN_LICENCE, package_versions())
    if overwrite:
        require_replaceable(root)
    with atomic_folder(root, overwrite=overwrite) as folder:
        dropped = _write(folder, manifest, sources, chosen, hop, (sample_rate, datatype))
    size = sum(entry.bytes for entry in manifest.shards) / 1e6
    say(f"wrote {root}: {manifest.count} samples of {len(sources)} recordings, {size:.1f} MB")
    if dropped:
        say(f"note: the ends of {dropped} recordings, each under {SHORTEST_TAIL:.0%} of a window, were left out")
    say(f"next: lwm inspect {root}")
    return root


def model_recipe(folder: Path) -> Recipe:
    """The recipe that a model folder states in its ``recipe.json``.

    Raises:
        ModelError: there is none or it is damaged.
    """
    path = folder / "recipe.json"
    try:
        return Recipe.from_dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read ({error})", "a model folder with its recipe", "check --model"
        ) from error


def find_recordings(paths: list[str], any_suffix: bool = False) -> list[_Source]:
    """Recordings that are named or lie in named folders, in order; the subfolders of a folder are classes.

    Args:
        paths: files and folders.
        any_suffix: take every file of a folder, for raw IQ of a stated datatype.

    Raises:
        ConfigError: nothing named, or a folder without any recording.
    """
    sources: list[_Source] = []
    for name in paths:
        path = Path(name)
        if not path.is_dir():
            sources.append(_Source(path, None))
            continue
        inside = [_Source(file, None) for file in _recordings_in(path, any_suffix)]
        for folder in sorted(child for child in path.iterdir() if child.is_dir()):
            inside += [_Source(file, folder.name) for file in _recordings_in(folder, any_suffix)]
        if not inside:
            known = ", ".join((*SUFFIXES, ".npy", *SIGMF_SUFFIXES))
            raise ConfigError(f"folder {path} holds no recording", f"files ending in {known}", "or state --datatype")
        sources += inside
    if not sources:
        raise ConfigError("no recording named", "at least one path")
    return sources


def _recordings_in(folder: Path, any_suffix: bool) -> list[Path]:
    """Recordings directly in a folder; of a SigMF pair the metadata file."""
    wanted = {*SUFFIXES, ".npy", ".sigmf-meta", ".sigmf"}
    return [
        file
        for file in sorted(folder.iterdir())
        if file.is_file()
        and not file.name.startswith(".")
        and file.suffix != ".sigmf-data"
        and (any_suffix or file.suffix.lower() in wanted)
    ]


def _write(
    folder: Path,
    manifest: Manifest,
    sources: list[_Source],
    recipe: Recipe,
    hop: float | None,
    raw: tuple[float | None, str | None],
) -> int:
    """Every recording's shard and the manifest; returns how many rests were left out."""
    found: dict[str, set[str]] = {}
    licences: set[str] = set()
    numbers: Counter[str] = Counter()
    dropped = 0
    with progress("ingest", len(sources), "recordings") as bar:
        for source in sources:
            try:
                recording = open_recording(source.path, *raw)
                starts, rest = window_starts(recording, recipe, hop)
                entry, labels = _write_shard(folder, recording, source, recipe, starts, numbers)
            except CaptureError as error:
                # The reader names the file already, the recipe cannot know it.
                named = str(source.path) in str(error)
                raise CaptureError(str(error) if named else f"{source.path}: {error}") from error
            dropped += rest
            licences.add(str(recording.facts.get("license", _UNKNOWN_LICENCE)))
            manifest.shards.append(entry)
            for label, names in labels.items():
                found.setdefault(label, set()).update(names)
            bar.update()
    manifest.licence = "; ".join(sorted(licences))
    manifest.labels = ordered_labels(found, {})
    manifest.complete = True
    manifest.save(folder)
    return dropped


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
    whole = max(0, (recording.samples - length) // step + 1)
    firsts = [number * step for number in range(whole)]
    reached = firsts[-1] + length if firsts else 0
    rest = recording.samples - whole * step
    if reached >= recording.samples:
        return [first / rate for first in firsts], False
    if rest >= needed or not firsts:
        return [first / rate for first in [*firsts, whole * step]], False
    return [first / rate for first in firsts], True


def _write_shard(
    folder: Path,
    recording: Recording,
    source: _Source,
    recipe: Recipe,
    starts: list[float],
    numbers: "Counter[str]",
) -> tuple[ShardEntry, dict[str, set[str]]]:
    name = _slug(recording.emissions[0].technology if recording.emissions else source.label or "recording")
    path = folder / shard_name(name, SPLIT, numbers[name])
    numbers[name] += 1
    licence = str(recording.facts.get("license", _UNKNOWN_LICENCE))
    writer = ShardWriter(path, len(starts), recipe, SPLIT, name, None, licence)
    for sample in _samples(recording, source, recipe, starts):
        writer.add(sample)
    return writer.save(), writer.label_names


def _samples(recording: Recording, source: _Source, recipe: Recipe, starts: list[float]) -> Iterator[Sample]:
    for start in starts:
        capture = recording.read(start, recipe.duration)
        spectrogram = recipe.of_capture(capture)
        labels = _labels(capture, source)
        values = {"sample_rate": capture.sample_rate, "start": start, "duration": capture.duration}
        if capture.center_frequency is not None:
            values["center_frequency"] = capture.center_frequency
        record: dict[str, Any] = {
            **labels,
            **values,
            "center_frequency": capture.center_frequency,
            "valid_columns": int(spectrogram.valid.sum()),
            "emissions": [asdict(emission) for emission in capture.emissions],
            "facts": capture.facts,
            "source": source.path.name,
        }
        yield Sample(spectrogram.db[0].numpy(), spectrogram.valid[0].numpy(), labels, values, record)


def _labels(capture: Capture, source: _Source) -> dict[str, str]:
    labels = {} if source.label is None else {"class": source.label}
    if capture.emissions:
        main = main_emission(capture.emissions)
        named = {"technology": registered_name(main.technology), "link": main.link, "modulation": main.modulation}
        labels |= {label: name for label, name in named.items() if name}
    return labels


def registered_name(given: str) -> str:
    """Registry name of the technology whose name or title is ``given``, in any case; else ``given`` itself."""
    for name in technology_names():
        if given.casefold() in (name.casefold(), technology(name).title.casefold()):
            return name
    return given


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "recording"
