"""``lwm ingest``: recordings into a data set, cut into windows of a recipe."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lwm.console import progress, say
from lwm.data.finish import finish_dataset
from lwm.data.lock import name_lock
from lwm.data.manifest import Manifest, package_versions
from lwm.data.replacement import require_replaceable
from lwm.data.shard import ShardWriter, shard_name
from lwm.data.sources import Kind, Source, assign_splits, find_sources, kind_of_sources, recording_name
from lwm.data.windows import SHORTEST_TAIL, Windows, csi_windows, iq_windows
from lwm.errors import CaptureError, ConfigError, ModelError
from lwm.output import atomic_folder, recover_folder, require_empty
from lwm.signal.csi_formats import open_csi
from lwm.signal.csi_recipe import CSI_PRESETS, CsiRecipe
from lwm.signal.io import open_segments
from lwm.signal.notch import without_dc
from lwm.signal.recipe import PRESETS, Recipe

SPLIT = "all"
"""Split of recordings unless told otherwise: none of them was made for training."""

SHARD_BYTES = 32 * 2**20
"""Pictures of one shard: what is held in memory of a recording, however long it is."""

DEFAULT_RECIPE = {"iq": "small", "csi": "csi"}


@dataclass(frozen=True)
class Reading:
    """How recordings are opened and cut; the fields are :func:`ingest`'s."""

    kind: Literal["iq", "csi"]
    recipe: Recipe | CsiRecipe
    sample_rate: float | None
    datatype: str | None
    center_frequency: float | None
    hop: float | None
    dc_notch: float | None
    variable: str | None

    def windows(self, source: Source) -> Iterator[Windows]:
        """The windows of each part of a recording."""
        if isinstance(self.recipe, CsiRecipe):
            found = open_csi(source.path, self.sample_rate, self.variable)
            yield csi_windows(found, source, self.recipe, self.hop)
            return
        opened = open_segments(
            source.path, self.sample_rate, self.datatype, self.center_frequency, variable=self.variable
        )
        for recording in opened:
            cleaned = recording if self.dc_notch is None else without_dc(recording, self.dc_notch)
            yield iq_windows(cleaned, source, self.recipe, self.hop)


def ingest(
    paths: list[str],
    out: str,
    recipe: str | None = None,
    model: str | None = None,
    sample_rate: float | None = None,
    datatype: str | None = None,
    hop: float | None = None,
    overwrite: bool = False,
    center_frequency: float | None = None,
    duration: float | None = None,
    dc_notch: float | None = None,
    kind: Kind = "auto",
    variable: str | None = None,
    split: list[float] | None = None,
    seed: int = 0,
) -> Path:
    """Turn recordings into a data set (returns its folder): shards of windows, a recording in one or more of its own.

    A recording shorter than a window is padded and marked so where the recipe allows it; a shorter rest at its end
    becomes a sample when it fills a quarter of a window. A long recording is read window by window. Either all
    recordings get in or nothing is written.

    Args:
        paths: recordings (SigMF, raw IQ, .npy, .mat, HDF5, WAV; Wi-Fi CSI as .npz, CSV of an ESP32 or Nexmon, arrays);
            folders of them, where each subfolder is a class; or a CSV with a column file, perhaps start and stop (s),
            and one column per label.
        out: folder to make.
        recipe: preset that makes the pictures; small by default, csi for CSI.
        model: model folder whose recipe is taken instead.
        sample_rate: Hz, for recordings that do not state theirs; packets per second for CSI.
        datatype: sample format of raw IQ, for example ci16_le.
        hop: seconds from window to window; the recipe's duration by default.
        overwrite: replace the data set that the folder holds.
        center_frequency: Hz, for recordings that do not state theirs.
        duration: seconds of a window, in place of the recipe's.
        dc_notch: Hz on both sides of 0 below which IQ is taken away (-3 dB, first order).
        kind: iq or csi; auto takes .npz and .csv for CSI and all else for IQ.
        variable: variable of a .mat file, or dataset of an HDF5 file, that holds the samples.
        split: shares of recordings for train, validation and test; by default all go to one split, "all".
        seed: of the split.

    Raises:
        CaptureError: a recording that cannot be used, naming it.
        ConfigError: no recording found, a wrong row in a table of labels, or a setting out of range.
        OutputError: the folder is not empty or holds more than a data set, or another run is making it.
    """
    root = Path(out)
    if hop is not None and not hop > 0:
        raise ConfigError(f"hop {hop} s", "a positive number of seconds")
    require_empty(root, overwrite=overwrite)
    sources = find_sources(paths, kind, any_suffix=datatype is not None)
    found = kind_of_sources(sources, kind)
    chosen = choose_recipe(found, recipe, model, duration)
    if found == "csi" and (dc_notch is not None or datatype is not None):
        raise ConfigError("--dc_notch or --datatype with CSI", "IQ", "leave it out, or add --kind iq")
    reading = Reading(found, chosen, sample_rate, datatype, center_frequency, hop, dc_notch, variable)
    _make(root, reading, sources, (split, seed), overwrite)
    return root


def _make(
    root: Path, reading: Reading, sources: list[Source], parts: tuple[list[float] | None, int], overwrite: bool
) -> None:
    """The data set's folder, whole or not at all; ``parts``: shares and seed of the split."""
    # The name is held as long as another may be made under it; what a killed run left of it goes first.
    root = root if root.name else root.absolute()
    with name_lock(root):
        recover_folder(root)
        _fill(root, reading, sources, parts, overwrite)


def _fill(
    root: Path, reading: Reading, sources: list[Source], parts: tuple[list[float] | None, int], overwrite: bool
) -> None:
    settings = {key: value for key, value in asdict(reading).items() if key != "recipe"}
    plan = {"files": [str(source.path) for source in sources], **settings, "kind": f"{reading.kind} recordings"}
    plan |= {"split": parts[0], "split_seed": parts[1]}
    manifest = Manifest(reading.recipe.to_dict(), plan, None, "", package_versions())
    if overwrite:
        require_replaceable(root)
    with atomic_folder(root, overwrite=overwrite) as folder:
        total, left_out = _count(reading, sources)
        splits = _splits(reading, sources, *parts)
        _write(folder, manifest, reading, list(zip(sources, splits, strict=True)), total)
        finish_dataset(folder, manifest, name=root.name)
        if overwrite:
            require_replaceable(root)  # again: it took a while
    _tell(root, manifest, len(sources), left_out)


def _tell(root: Path, manifest: Manifest, recordings: int, left_out: int) -> None:
    size = sum(entry.bytes for entry in manifest.shards) / 1e6
    say(f"wrote {root}: {manifest.count} samples of {recordings} recordings, {size:.1f} MB")
    if left_out:
        say(f"note: the ends of {left_out} recordings, each under {SHORTEST_TAIL:.0%} of a window, were left out")
    say(f"next: lwm inspect {root}")


def choose_recipe(
    kind: Literal["iq", "csi"], name: str | None = None, model: str | None = None, duration: float | None = None
) -> Recipe | CsiRecipe:
    """The recipe that a command asks for.

    Raises:
        ConfigError: no such preset for this kind of recording, or a duration beside a model's own.
        ModelError: the model folder has none, or one of the other kind.
    """
    if model is not None:
        if duration is not None:
            raise ConfigError("--duration beside --model", "one of them", "a model fixes its own duration")
        found = model_recipe(Path(model))
        if isinstance(found, CsiRecipe) != (kind == "csi"):
            raise ModelError(f"{model} has recipe {found.name!r}", f"one for {kind.upper()}", "take another model")
        return found
    presets: dict[str, Any] = PRESETS if kind == "iq" else CSI_PRESETS
    wanted = DEFAULT_RECIPE[kind] if name is None else name
    if wanted not in presets:
        raise ConfigError(f"no recipe named {wanted!r} for {kind.upper()}", f"one of {sorted(presets)}")
    recipe: Recipe | CsiRecipe = presets[wanted]
    if duration is None:
        return recipe
    return replace(recipe, name=f"{wanted}-{duration:g}s", duration=duration)


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


@contextmanager
def named_errors(source: Source) -> Iterator[None]:
    """Put the recording's name before an error that cannot know it."""
    try:
        yield
    except CaptureError as error:
        named = str(source.path) in str(error)
        raise CaptureError(str(error) if named else f"{source.path}: {error}") from error


def _count(reading: Reading, sources: list[Source]) -> tuple[int, int]:
    """Windows of all recordings, and how many left a rest out; a bad header is found here, before the long part."""
    total = left_out = 0
    for source in sources:
        with named_errors(source):
            for windows in reading.windows(source):
                total += len(windows.starts)
                left_out += windows.left_out
    return total, left_out


def _splits(reading: Reading, sources: list[Source], shares: list[float] | None, seed: int) -> list[str]:
    if shares is None:
        return [SPLIT] * len(sources)
    groups = []
    for source in sources:
        labels = dict(source.labels)
        if reading.kind == "csi":
            labels = open_csi(source.path, reading.sample_rate, reading.variable).labels | labels
        name = recording_name(source.path)
        groups.append((f"{source.path.parent.name}/{name}", json.dumps(labels, sort_keys=True)))
    return assign_splits(groups, shares, seed)


def _write(folder: Path, manifest: Manifest, reading: Reading, sources: list[tuple[Source, str]], total: int) -> None:
    """Every recording's shards; the licences go into the manifest."""
    licences: set[str] = set()
    numbers: Counter[tuple[str, str]] = Counter()
    recipe = reading.recipe
    # Two bytes a cell: half precision.
    most = max(1, SHARD_BYTES // (2 * recipe.in_chans * recipe.size[0] * recipe.size[1]))
    with progress("ingest", total, "windows") as bar:
        for source, split in sources:
            with named_errors(source):
                for windows in reading.windows(source):
                    licences.add(windows.licence)
                    for first in range(0, len(windows.starts), most):
                        number = numbers[windows.name, split]
                        numbers[windows.name, split] += 1
                        path = folder / shard_name(windows.name, split, number)
                        starts = windows.starts[first : first + most]
                        # A CSI recipe is a recipe to whoever writes and reads shards.
                        args: Any = (recipe, split, windows.name, None, windows.licence)
                        writer = ShardWriter(path, len(starts), *args)
                        for start in starts:
                            writer.add(windows.sample(start))
                            bar.update()
                        manifest.shards.append(writer.save())
    manifest.licence = "; ".join(sorted(licences))
