"""``lwm inspect``: the card and a picture of a capture, a data set or a model folder."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lwm.console import say
from lwm.doctor import kind_of
from lwm.output import atomic_file
from lwm.signal.capture import Emission

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lwm.data.dataset import SpectrogramDataset


def inspect(
    path: str,
    out: str = "runs/inspect",
    recipe: str = "small",
    sample_rate: float | None = None,
    datatype: str | None = None,
) -> None:
    """Show what a capture, a data set or a model folder is.

    Args:
        path: SigMF, raw IQ or .npy file; data set folder; model folder.
        out: folder for the picture.
        recipe: preset that a capture is drawn with.
        sample_rate: Hz, for captures that do not say it.
        datatype: SigMF sample type such as cu8 or cf32_le, for raw captures.
    """
    place = Path(path)
    kind = kind_of(place)
    if kind == "model":
        _inspect_model(place)
    elif kind == "dataset":
        _inspect_dataset(place, Path(out))
    else:
        _inspect_capture(place, Path(out), recipe, sample_rate, datatype)


def sample_figure(dataset: "SpectrogramDataset", index: int, title: str = "") -> "Figure":
    """One sample of a data set with its emissions boxed and its padding hatched."""
    from lwm.signal.plot import spectrogram_figure

    sample, record = dataset[index], dataset.record(index)
    return spectrogram_figure(
        sample["spectrogram"],
        dataset.recipe,
        [Emission(**emission) for emission in record.get("emissions", [])],
        sample_rate=record["sample_rate"],
        valid=sample["valid"],
        title=title,
    )


def example_samples(dataset: "SpectrogramDataset") -> dict[str, int]:
    """For each technology (or class) the sample that shows most: the longest, then the one with the highest SNR."""
    label = next((name for name in ("technology", "class") if name in dataset.label_names), None)
    codes = dataset.labels[label] if label else np.zeros(len(dataset), int)
    names = dataset.label_names[label] if label else ["sample"]
    nothing = np.zeros(len(dataset), np.float32)
    duration, snr = (np.nan_to_num(dataset.values.get(key, nothing)) for key in ("duration", "snr_db"))
    best = np.lexsort((snr, duration))[::-1]
    return {names[code]: int(best[codes[best] == code][0]) for code in np.unique(codes) if code >= 0}


def _save(figure: "Figure", path: Path) -> None:
    from lwm.signal.plot import png_bytes

    with atomic_file(path) as temporary:
        temporary.write_bytes(png_bytes(figure))
    say(f"wrote {path}")


def _inspect_capture(place: Path, out: Path, recipe_name: str, sample_rate: float | None, datatype: str | None) -> None:
    from lwm.signal.io import read_capture
    from lwm.signal.plot import spectrogram_figure
    from lwm.signal.recipe import recipe_named

    recipe = recipe_named(recipe_name)
    capture = read_capture(place, sample_rate=sample_rate, datatype=datatype)
    capture.require_finite()
    center = "unknown" if capture.center_frequency is None else f"{capture.center_frequency / 1e6:g} MHz"
    say(f"{place}: {capture.iq.size} samples at {capture.sample_rate / 1e6:g} Msamples/s")
    say(f"  duration {capture.duration * 1e3:.4g} ms, centre {center}, {len(capture.emissions)} emission(s)")
    for emission in capture.emissions:
        band = f"{emission.low / 1e6:+.3f} to {emission.high / 1e6:+.3f} MHz"
        say(f"  {emission.technology}: {emission.start * 1e3:.3f} to {emission.stop * 1e3:.3f} ms, {band}")
    for key, value in capture.facts.items():
        say(f"  {key}: {value}")
    _save(spectrogram_figure(capture, recipe), out / f"{place.stem}.png")


def _inspect_dataset(place: Path, out: Path) -> None:
    from lwm.data.dataset import SpectrogramDataset
    from lwm.data.inspection import describe_dataset

    say(describe_dataset(place))
    dataset = SpectrogramDataset(place)
    for name, index in example_samples(dataset).items():
        _save(sample_figure(dataset, index, name), out / f"{place.name}-{name}.png")


def _inspect_model(place: Path) -> None:
    config = json.loads((place / "config.json").read_text())
    provenance = place / "provenance.json"
    say(f"{place}: model folder, type {config.get('type')}, format {config.get('format_version')}")
    say(json.dumps(config, indent=1)[:2000])
    if provenance.is_file():
        say(f"provenance: {provenance.read_text().strip()[:2000]}")
