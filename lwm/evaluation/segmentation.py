"""Segmentation of scenes (arXiv 2411.09996, section III-D): a class for every cell, one encoder in several regimes.

    segmentation_report(load_segmentation_task("tasks/segmentation"), data="scenes", out="result", model="model")

The data set is one of scenes (``lwm generate --config generate/scenes``). Without a model folder the regimes that need
pretrained weights are left out and the encoder is a fresh one of a named size.
"""

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm.console import progress, say
from lwm.data.dataset import SpectrogramDataset
from lwm.data.masks import PADDED
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
from lwm.evaluation.metrics import class_f1, confusion_matrix, natural
from lwm.output import require_empty, write_json
from lwm.seeding import rng_for
from lwm.settings import load_settings, to_plain

RESULTS, PICTURE = "results.json", "masks.png"
"""Files of a report."""

_DRAWN = 5
"""Test scenes whose masks are drawn."""

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SegmentationTask:
    """One comparison of regimes on scenes.

    Args:
        name: in titles and results.
        head: ``lwm.heads`` entry of kind segmentation.
        k: numbers of labelled scenes to train on; the first so many of one random order for each seed.
        episodes: draws of them.
        regimes: see :data:`lwm.evaluation.dense.Regime`.
        where: selection of scenes (:mod:`lwm.data.expression`).
        train: split to learn from.
        validation: split that chooses the learning rate.
        test: split that is scored.
        validation_scenes: at most so many of the validation split.
        training: the budget, one for all regimes.
        head_options: of the head, for example ``{depth: 2, smoothing: 0.1}``.
        size: named size of the encoder where no model is given.
    """

    name: str
    head: str = "segmentation"
    k: tuple[int, ...] = (100,)
    episodes: int = 1
    regimes: tuple[Regime, ...] = REGIMES
    where: str | None = None
    train: str = "train"
    validation: str = "validation"
    test: str = "test"
    validation_scenes: int = 100
    training: Training = field(default_factory=Training)
    head_options: dict[str, Any] = field(default_factory=dict)
    size: str = "small"

    def __post_init__(self) -> None:
        if not self.k or min(self.k) < 1 or self.episodes < 1 or self.validation_scenes < 1 or not self.regimes:
            raise ConfigError(f"task {self.name!r} with k {list(self.k)}, {self.episodes} episodes", "at least 1")


def load_segmentation_task(config: str) -> SegmentationTask:
    """The task in a YAML file or of a shipped name; ConfigError for an unknown key or an impossible value."""
    return load_settings(SegmentationTask, config)


def segmentation_report(
    task: SegmentationTask,
    data: str,
    out: str,
    model: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train and score every regime at every k and episode; write ``results.json`` and ``masks.png``.

    Args:
        task: what is compared.
        data: folder of a data set of scenes.
        out: folder of the report.
        model: model folder of an encoder; None for a fresh one, with the regimes that need none.
        seed: of draws, random weights and the order of batches.
        overwrite: replace the report that ``out`` holds.

    Returns:
        What ``results.json`` holds. A record has ``accuracy``, ``macro_f1`` and ``mean_iou`` over cells, ``per_class``
        (share of the class's cells that are found), ``mean_class_accuracy`` (the paper's) and ``per_snr`` (the same by
        the scenes' SNR).

    Raises:
        DatasetError: no masks, or fewer scenes than the largest k.
        RecipeMismatch: scenes of another recipe than the model's.
        OutputError: ``out`` is not empty.
    """
    folder = Path(out)
    require_empty(folder, overwrite=overwrite)
    parts = {name: _open(data, split, task.where) for name, split in _splits(task).items()}
    spec = _spec(task, parts["train"])
    encoder, regimes = chosen_encoder(model, task.regimes, task.size, spec.recipe, spec.statistics, seed)
    if len(parts["train"]) < max(task.k):
        raise DatasetError(f"{len(parts['train'])} training scenes in {data}", f"{max(task.k)}, the largest k")
    test = _examples(parts["test"], np.arange(len(parts["test"])))
    held = _examples(parts["validation"], _some(len(parts["validation"]), task.validation_scenes, seed, "validation"))
    snr = _names(parts["test"], "snr")
    pretraining = pretraining_of(model)
    records: list[dict[str, Any]] = []
    drawn: dict[str, Any] = {}
    with progress(task.name, len(task.k) * task.episodes * len(regimes), "runs") as bar:
        for k, episode in product(task.k, range(task.episodes)):
            train = _examples(parts["train"], _some(len(parts["train"]), k, seed, "episode", episode))
            for regime in regimes:
                found, said = _run(encoder, spec, regime, (train, held, test), task.training, seed + episode)
                seen = pretraining if regime in PRETRAINED else UNSEEN
                head = {"task": task.name, "model": "encoder", "regime": regime, **seen, "k": k, "episode": episode}
                scored = mask_scores(test.target.numpy(), found, list(spec.targets), snr)
                records.append(head | {"seed": seed} | said | scored)
                drawn[regime] = found[:_DRAWN]
                bar.update()
    results = compared(to_plain(task), model, data, seed) | {
        "classes": list(spec.targets),
        "chance": 1 / len(spec.targets),
        "test_samples": len(test),
        "records": records,
    }
    _write(folder, results, parts["test"], test, drawn)
    return results


def mask_scores(truth: Mask, predicted: npt.NDArray[Any], names: list[str], snr: list[str] | None) -> dict[str, Any]:
    """Scores of masks ``[N, F, T]`` against the true ones; padded cells do not count.

    The mean class accuracy is over the classes that occur in the truth, the mean IoU over those in either.
    """
    seen = truth != PADDED
    total = confusion_matrix(truth[seen].astype(np.int64), predicted[seen].astype(np.int64), len(names))
    hit, of_class = np.diag(total), total.sum(1)
    union = of_class + total.sum(0) - hit
    recall = hit / np.maximum(of_class, 1)
    levels = np.asarray(snr if snr is not None else [], dtype=str)
    by_snr = {}
    for level in sorted(set(levels.tolist()), key=natural):
        here = levels == level
        by_snr[level] = mask_scores(truth[here], predicted[here], names, None)["mean_class_accuracy"]
    return {
        "accuracy": float(hit.sum() / max(1, of_class.sum())),
        "macro_f1": float(class_f1(total).mean()),
        "mean_class_accuracy": float(recall[of_class > 0].mean()),
        "mean_iou": float((hit / np.maximum(union, 1))[union > 0].mean()),
        "per_class": dict(zip(names, recall.tolist(), strict=True)),
        "per_snr": by_snr,
        "confusion": total.tolist(),
    }


def _splits(task: SegmentationTask) -> dict[str, str]:
    return {"train": task.train, "validation": task.validation, "test": task.test}


def _open(data: str, split: str, where: str | None) -> SpectrogramDataset:
    dataset = SpectrogramDataset(data, split=split, where=where)
    if not dataset.has_mask or not dataset.mask_names:
        raise DatasetError(f"data set {data} has no masks", "scenes", "see lwm generate --config generate/scenes")
    return dataset


def _spec(task: SegmentationTask, dataset: SpectrogramDataset) -> HeadSpec:
    levels = (dataset.statistics.mean, dataset.statistics.std)
    return HeadSpec(task.head, tuple(dataset.mask_names), dataset.recipe, levels, dict(task.head_options))


def _some(count: int, wanted: int, seed: int, *path: int | str) -> npt.NDArray[np.int64]:
    """``wanted`` of ``count`` rows (or all): the first of one random order, so that more contains less."""
    return rng_for(seed, "segmentation", *path).permutation(count)[:wanted].astype(np.int64)


def _examples(dataset: SpectrogramDataset, rows: npt.NDArray[np.int64]) -> Examples:
    batch = dataset.batch(rows)
    return Examples(batch["spectrogram"].clone(), batch["mask"].clone())


def _names(dataset: SpectrogramDataset, label: str) -> list[str] | None:
    if label not in dataset.labels:
        return None
    return [dataset.label_names[label][code] for code in dataset.labels[label]]


def _run(
    encoder: Any,
    spec: HeadSpec,
    regime: Regime,
    parts: tuple[Examples, Examples, Examples],
    training: Training,
    seed: int,
) -> tuple[npt.NDArray[np.int64], dict[str, Any]]:
    """Predicted masks of the test part, and what the record says about the training."""
    device = next(encoder.parameters()).device
    train, held, test = (Examples(part.pictures.to(device), part.target.to(device)) for part in parts)
    pretrained = regime in PRETRAINED
    trained, said = train_best(
        lambda: headed_model(encoder, spec, regime, training.blocks, seed), train, held, training, seed, pretrained
    )
    return predicted_classes(trained, test).numpy(), said


def _write(
    folder: Path, results: dict[str, Any], dataset: SpectrogramDataset, test: Examples, drawn: dict[str, Mask]
) -> None:
    from lwm.evaluation.mask_plots import mask_figure
    from lwm.evaluation.plots import save

    folder.mkdir(parents=True, exist_ok=True)
    masks = {"truth": test.target[:_DRAWN].numpy(), **drawn}
    save(mask_figure(test.pictures[:_DRAWN].numpy(), masks, dataset.mask_names), folder / PICTURE)
    write_json(folder / RESULTS, results)
    for record in results["records"]:
        values = [100 * record[name] for name in ("mean_class_accuracy", "accuracy", "mean_iou")]
        said = "mean class accuracy {:5.1f} %, accuracy {:5.1f} %, mean IoU {:5.1f} %".format(*values)
        say(f"  {record['regime']:<10} k = {record['k']:<5} episode {record['episode']}  {said}")
    say(f"wrote {folder}: {RESULTS}, {PICTURE}")
