"""Activity from Wi-Fi CSI (arXiv 2411.09996, section III-C), scored on recordings and on chips never trained on.

    lwm ingest csi/ --out csi-data --hop 0.25
    sensing_report(load_sensing_task("tasks/activity"), data="csi-data", out="result", model="model")

Windows of one recording are all but copies of each other: no recording is ever on both sides. Two protocols:

- ``recording``: the recordings of each class and domain (chip) are dealt into two folds in turn; every domain of the
  test recordings was trained on.
- ``domain``: each domain is left out in turn and tested; nothing of it was trained on, which is the honest figure for
  hardware that one has not recorded with.

The paper's own set (six activities, 3 antennas x 114 subcarriers x 2,000 packets) is the user's to supply: a folder an
activity, in each one file a recording, ``.npy`` or ``.mat`` with an array ``[3, 114, 2000]`` (antennas, subcarriers,
packets; complex or linear amplitude), read with ``lwm ingest FOLDER --kind csi --recipe csi-fm --sample_rate 500
--out DATA``. The activity is then the label ``class``; without a label for the domain only the first protocol is run.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from lwm.console import progress, say
from lwm.data.dataset import SpectrogramDataset
from lwm.data.reader import origin_of
from lwm.data.trivial import trivial_features
from lwm.errors import ConfigError, DatasetError
from lwm.evaluation.dense import (
    PRETRAINED,
    REGIMES,
    Examples,
    HeadSpec,
    Regime,
    Training,
    chosen_encoder,
    headed_model,
    predicted_classes,
    train_best,
)
from lwm.evaluation.fewshot import UNSEEN, compared, pretraining_of
from lwm.evaluation.metrics import scores
from lwm.evaluation.probe import fit_probe
from lwm.output import require_empty, write_json
from lwm.seeding import rng_for
from lwm.settings import load_settings, to_plain

RESULTS = "results.json"

TRIVIAL = "trivial"
"""Name of the yardstick: a linear classifier on plain statistics of the picture (:mod:`lwm.data.trivial`)."""

_RESAMPLED = 2000
"""Bootstrap draws of an interval."""

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SensingTask:
    """One comparison of regimes on CSI.

    Args:
        name: in titles and results.
        label: label column that is told.
        domain: label column that is left out in turn.
        head: ``lwm.heads`` entry of kind classification.
        regimes: see :data:`lwm.evaluation.dense.Regime`.
        trivial: compare with a linear classifier on plain statistics as well.
        where: selection of windows (:mod:`lwm.data.expression`).
        training: the budget, one for all regimes, with one rate: there are too few recordings to choose with.
        head_options: of the head.
        size: named size of the encoder where no model is given.
    """

    name: str
    label: str = "activity"
    domain: str = "chip"
    head: str = "activity"
    regimes: tuple[Regime, ...] = REGIMES
    trivial: bool = True
    where: str | None = None
    training: Training = field(default_factory=Training)
    head_options: dict[str, Any] = field(default_factory=dict)
    size: str = "small"

    def __post_init__(self) -> None:
        if not self.regimes or len(self.training.rates) != 1:
            raise ConfigError(
                f"task {self.name!r} of {len(self.regimes)} regimes and rates {list(self.training.rates)}",
                "a regime or more and one rate: there are too few recordings to choose with",
            )


@dataclass(frozen=True)
class Windows:
    """All labelled windows: pictures dB ``[N, C, F, T]`` and columns ``[N]``.

    ``codes``: classes. ``domains`` and ``recordings``: numbers. ``trivial``: plain statistics ``[N, P]``.
    """

    pictures: torch.Tensor
    codes: Codes
    domains: Codes
    recordings: Codes
    trivial: npt.NDArray[np.float32]
    classes: list[str]
    domain_names: list[str]


@dataclass(frozen=True)
class Fold:
    """Rows to learn from and rows to score: of different recordings, or of different domains."""

    protocol: str
    left_out: str
    train: Codes
    test: Codes


class _Outcome(NamedTuple):
    """Predicted classes of a fold's test rows by one regime."""

    fold: Fold
    regime: str
    found: Codes


def load_sensing_task(config: str) -> SensingTask:
    """The task in a YAML file or of a shipped name; ConfigError for an unknown key or an impossible value."""
    return load_settings(SensingTask, config)


def sensing_report(
    task: SensingTask,
    data: str,
    out: str,
    model: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train and score every regime on every fold of both protocols; write ``results.json``.

    Args:
        task: what is compared.
        data: folder of a data set of CSI (``lwm ingest``).
        out: folder of the report.
        model: model folder of a spectrogram encoder, whose patch embedding and positions are adapted to CSI; None for
            a fresh one, with the regimes that need no pretrained weights.
        seed: of random weights, the order of batches and the bootstrap.
        overwrite: replace the report that ``out`` holds.

    Returns:
        What ``results.json`` holds: ``records`` (one a fold) and ``summary``: for each protocol and regime the
        accuracy over all windows tested, its 95 % interval by bootstrap over recordings (windows of one are not
        independent), and the share of recordings whose windows' majority is right.

    Raises:
        DatasetError: no such label, one class only, or recordings too few to be split.
        ConfigError: no regime is left without a model.
        OutputError: ``out`` is not empty.
    """
    folder = Path(out)
    require_empty(folder, overwrite=overwrite)
    dataset = SpectrogramDataset(data, where=task.where)
    windows = load_windows(dataset, task.label, task.domain)
    encoder, regimes = chosen_encoder(model, task.regimes, task.size, dataset.recipe, (0.0, 1.0), seed)
    pretraining = pretraining_of(model)
    names = [*regimes, TRIVIAL] if task.trivial else [*regimes]
    outcomes: list[_Outcome] = []
    folds = make_folds(windows)
    with progress(task.name, len(folds) * len(names), "runs") as bar:
        for fold in folds:
            for name in names:
                outcomes.append(
                    _Outcome(fold, name, _predict(encoder, task, dataset.recipe, windows, fold, name, seed))
                )
                bar.update()
    results = compared(to_plain(task), model, data, seed) | {
        "classes": windows.classes,
        "domains": windows.domain_names,
        "recordings": len(np.unique(windows.recordings)),
        "windows": len(windows.codes),
        "chance": 1 / len(windows.classes),
        "summary": _summaries(outcomes, windows, seed),
        "records": [_record(task, each, windows, pretraining, seed) for each in outcomes],
    }
    _write(folder, results)
    return results


def load_windows(dataset: SpectrogramDataset, label: str, domain: str) -> Windows:
    """Every window that has the label, with its domain (one for all where the data set has none) and recording.

    Raises:
        DatasetError: no such label, or fewer than two classes.
    """
    if label not in dataset.labels:
        raise DatasetError(f"no label {label!r} in {dataset.root}", f"one of {sorted(dataset.labels)}")
    known = np.flatnonzero(dataset.labels[label] >= 0)
    if domain in dataset.labels:
        known = known[dataset.labels[domain][known] >= 0]
    batch = dataset.batch(known)
    classes, codes = np.unique(dataset.labels[label][known], return_inverse=True)
    if len(classes) < 2:
        raise DatasetError(f"label {label!r} of {dataset.root} takes {len(classes)} value(s)", "two or more")
    names, domains = ["all"], np.zeros(len(known), np.int64)
    if domain in dataset.labels:
        kept, domains = np.unique(dataset.labels[domain][known], return_inverse=True)
        names = [dataset.label_names[domain][code] for code in kept]
    origins = [origin_of(dataset.record(int(row))) or f"window {row}" for row in known]
    recordings = np.unique(origins, return_inverse=True)[1]
    plain = trivial_features(batch["spectrogram"], batch["valid"], dataset.recipe)
    kinds = [dataset.label_names[label][code] for code in classes]
    return Windows(batch["spectrogram"].clone(), codes, domains, recordings, plain, kinds, names)


def make_folds(windows: Windows) -> list[Fold]:
    """Folds of both protocols; no recording is on both sides of any, each side has two classes or more.

    Raises:
        DatasetError: no class of any domain has two recordings.
    """
    side = np.zeros(len(windows.codes), np.int64)
    for domain in np.unique(windows.domains):
        for code in np.unique(windows.codes):
            own = np.unique(windows.recordings[(windows.domains == domain) & (windows.codes == code)])
            for turn, recording in enumerate(own):
                side[windows.recordings == recording] = turn % 2
    rows = np.arange(len(windows.codes))
    folds = [Fold("recording", f"fold {number}", rows[side != number], rows[side == number]) for number in (0, 1)]
    if len(windows.domain_names) > 1:
        folds += [
            Fold("domain", name, rows[windows.domains != number], rows[windows.domains == number])
            for number, name in enumerate(windows.domain_names)
        ]
    usable = [fold for fold in folds if len(np.unique(windows.codes[fold.train])) > 1 and len(fold.test)]
    if not any(fold.protocol == "recording" for fold in usable):
        raise DatasetError("one recording of each class", "two or more, to test on others than were trained on")
    return usable


def interval(
    recordings: Codes, right: npt.NDArray[np.bool_], rng: np.random.Generator, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of the share of right windows, whole recordings being drawn with repetition.

    Args:
        recordings: number of each window's recording ``[N]``.
        right: whether each window is told rightly ``[N]``.
        rng: of the draws.
        level: coverage.
    """
    numbers, place = np.unique(recordings, return_inverse=True)
    hits, counts = np.bincount(place, right), np.bincount(place)
    drawn = rng.integers(len(numbers), size=(_RESAMPLED, len(numbers)))
    shares = hits[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(shares, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def _record(
    task: SensingTask, outcome: _Outcome, windows: Windows, pretraining: dict[str, Any], seed: int
) -> dict[str, Any]:
    fold = outcome.fold
    return {
        "task": task.name,
        "model": "encoder",
        "regime": outcome.regime,
        **(pretraining if outcome.regime in PRETRAINED else UNSEEN),
        "protocol": fold.protocol,
        "left_out": fold.left_out,
        "train_windows": len(fold.train),
        "seed": seed,
        **scores(windows.codes[fold.test], outcome.found, windows.classes, None),
    }


def _summaries(outcomes: list[_Outcome], windows: Windows, seed: int) -> list[dict[str, Any]]:
    """One row for each protocol and regime, over all its folds."""
    rows = []
    for protocol, regime in dict.fromkeys((each.fold.protocol, each.regime) for each in outcomes):
        mine = [each for each in outcomes if (each.fold.protocol, each.regime) == (protocol, regime)]
        tested = np.concatenate([each.fold.test for each in mine])
        right = np.concatenate([each.found for each in mine]) == windows.codes[tested]
        recordings = windows.recordings[tested]
        numbers, place = np.unique(recordings, return_inverse=True)
        low, high = interval(recordings, right, rng_for(seed, "sensing", "bootstrap", protocol, regime))
        rows.append(
            {
                "protocol": protocol,
                "regime": regime,
                "accuracy": float(right.mean()),
                "low": low,
                "high": high,
                "recordings": len(numbers),
                "recordings_right": float((np.bincount(place, right) / np.bincount(place) > 0.5).mean()),
                "windows": len(right),
            }
        )
    return rows


def _predict(encoder: Any, task: SensingTask, recipe: Any, windows: Windows, fold: Fold, name: str, seed: int) -> Codes:
    """Predicted classes of the fold's test windows; level and spread are those of its training windows."""
    if name == TRIVIAL:
        return _trivial(windows, fold)
    regime: Regime = name  # type: ignore[assignment]
    device = next(encoder.parameters()).device
    examples = Examples(windows.pictures.to(device), torch.from_numpy(windows.codes).to(device))
    train, test = examples.part(fold.train), examples.part(fold.test)
    levels = (float(train.pictures.mean()), float(train.pictures.std()))
    spec = HeadSpec(task.head, tuple(windows.classes), recipe, levels, dict(task.head_options))
    trained, _ = train_best(
        lambda: headed_model(encoder, spec, regime, task.training.blocks, seed),
        train,
        train,
        task.training,
        seed,
        regime in PRETRAINED,
    )
    return predicted_classes(trained, test).numpy()


def _trivial(windows: Windows, fold: Fold) -> Codes:
    """Classes told by a linear classifier on plain statistics; every third recording chooses its strength."""
    held = np.isin(windows.recordings[fold.train], np.unique(windows.recordings[fold.train])[::3])
    learn, choose = fold.train[~held], fold.train[held]
    every = np.unique(windows.codes[fold.train])
    if not np.array_equal(np.unique(windows.codes[learn]), every) or len(np.unique(windows.codes[choose])) < 2:
        learn = choose = fold.train
    codes = np.searchsorted(every, windows.codes)
    probe = fit_probe([windows.trivial], codes, learn, choose)
    return every[probe.predict(windows.trivial[fold.test])]


def _write(folder: Path, results: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RESULTS, results)
    for row in results["summary"]:
        accuracy, low, high = (100 * row[name] for name in ("accuracy", "low", "high"))
        said = f"{accuracy:5.1f} % of {row['windows']} windows ({low:.1f} to {high:.1f}, 95 % over recordings)"
        say(f"  unseen {row['protocol']:<10} {row['regime']:<10} {said}")
    say(f"wrote {folder}: {RESULTS}")
