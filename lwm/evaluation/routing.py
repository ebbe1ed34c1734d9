"""How well a mixture's router tells protocols apart, beside a linear classifier on trivial features."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lwm.console import say
from lwm.data.dataset import SpectrogramDataset
from lwm.errors import DatasetError
from lwm.evaluation.calibration import calibration
from lwm.evaluation.metrics import Codes, confusion_matrix
from lwm.evaluation.plots import save
from lwm.evaluation.routing_plots import accuracy_figure, confusion_figure, reliability_figure
from lwm.evaluation.trivial import trivial_accuracy
from lwm.hub import from_pretrained
from lwm.models.router_view import experts_of, view_dataset
from lwm.output import write_json

SNR_STEP_DB = 5
"""Width of a group of SNR, where the data give SNR as a number and not as a label."""


def route_dataset(moe: Any, dataset: SpectrogramDataset, batch_size: int = 128) -> torch.Tensor:
    """Router probabilities, float32 ``[N, experts]``, of every sample in order.

    Raises:
        RecipeMismatch: the data has another recipe than the model.
    """
    moe.recipe.require_same(dataset.recipe, "the model", f"data set {dataset.root}")
    view = view_dataset(moe.router, dataset, batch_size=batch_size)
    probabilities: torch.Tensor = moe.router.calibrated(view.logits.to(moe.router.temperature.device)).cpu()
    return probabilities


def routing_report(
    model: str, data: str, out: str | None = None, split: str = "test", label: str = "technology"
) -> dict[str, Any]:
    """Accuracy, confusion and calibration of top-1 routing, and what trivial features reach on the same samples.

    Samples of protocols that no expert knows are left out.

    Args:
        model: folder of a mixture whose experts are named by ``label``.
        data: data set with a train split, for the trivial features, and ``split``.
        out: folder for ``routing.json`` and the pictures; None: nothing is written.
        split: what is scored.
        label: label whose names are the experts'.

    Returns:
        ``samples``, ``accuracy``, ``trivial_accuracy``, ``chance`` (of the most frequent protocol), ``experts``,
        ``confusion`` (rows: truth; columns: chosen expert), ``accuracy_by_protocol``, ``accuracy_by_snr``,
        ``confusion_by_snr``, ``temperature``, and ``calibrated`` and ``uncalibrated`` (temperature 1), each as of
        :func:`lwm.evaluation.calibration.calibration`.

    Raises:
        DatasetError: the data lack the label, the split, or every protocol that an expert knows.
        RecipeMismatch: the data has another recipe than the model.
    """
    moe = from_pretrained(model).eval()
    (test, truth), (train, _) = (_of_experts(data, part, label, moe.expert_names) for part in (split, "train"))
    moe.recipe.require_same(test.recipe, "the model", f"data set {data}")
    report = score_routing(view_dataset(moe.router, test).logits, truth, moe.router, snr_groups(test))
    report["trivial_accuracy"] = trivial_accuracy(train, test, label)
    say(
        f"router accuracy {report['accuracy']:.3f}, trivial features {report['trivial_accuracy']:.3f}, "
        f"calibration error {report['calibrated']['ece']:.3f} (before the temperature "
        f"{report['uncalibrated']['ece']:.3f})"
    )
    if out is not None:
        write_routing(report, Path(out))
    return report


def score_routing(logits: torch.Tensor, truth: Codes, router: Any, snr: NDArray[np.str_]) -> dict[str, Any]:
    """The figures of :func:`routing_report` that need no pictures.

    Args:
        logits: the router's ``[N, E]``, before its temperature.
        truth: index of the right expert ``[N]``.
        router: whose names and temperature count.
        snr: name of each sample's group of SNR ``[N]``, empty where it has none.
    """
    names = list(router.names)
    probabilities = router.calibrated(logits).cpu().numpy()
    chosen = probabilities.argmax(1)
    counts = confusion_matrix(truth, chosen, len(names))
    groups = {name: snr == name for name in sorted(set(snr.tolist()) - {""}, key=_by_number)}
    by_snr = {name: confusion_matrix(truth[inside], chosen[inside], len(names)) for name, inside in groups.items()}
    return {
        "samples": len(truth),
        "accuracy": _share_right(counts),
        "chance": float(counts.sum(1).max() / counts.sum()),
        "experts": names,
        "confusion": counts.tolist(),
        "accuracy_by_protocol": {
            name: float(row[number] / row.sum())
            for number, (name, row) in enumerate(zip(names, counts, strict=True))
            if row.sum()
        },
        "accuracy_by_snr": {name: _share_right(matrix) for name, matrix in by_snr.items()},
        "confusion_by_snr": {name: matrix.tolist() for name, matrix in by_snr.items()},
        "temperature": float(router.temperature),
        "calibrated": calibration(probabilities, truth),
        "uncalibrated": calibration(torch.softmax(logits.float(), 1).cpu().numpy(), truth),
    }


def write_routing(report: dict[str, Any], out: Path) -> list[Path]:
    """Write ``routing.json``, ``reliability.png``, ``confusion.png`` and, where SNR is known, ``accuracy.png``."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "routing.json", report)
    drawn = {"reliability": reliability_figure, "confusion": confusion_figure}
    if report["accuracy_by_snr"]:
        drawn["accuracy"] = accuracy_figure
    for name, draw in drawn.items():
        save(draw(report), out / f"{name}.png")
    written = [out / "routing.json", *(out / f"{name}.png" for name in drawn)]
    say("wrote " + ", ".join(map(str, written)))
    return written


def snr_groups(dataset: SpectrogramDataset) -> NDArray[np.str_]:
    """Name of each sample's SNR group ``[N]``: the label ``snr``, else the value ``snr_db`` to the nearest
    :data:`SNR_STEP_DB`; empty where the data give neither."""
    if "snr" in dataset.labels:
        return np.array([*dataset.label_names["snr"], ""])[dataset.labels["snr"]]
    given = dataset.values.get("snr_db")
    if given is None:
        return np.full(len(dataset), "")
    known = np.isfinite(given)
    nearest = (SNR_STEP_DB * np.round(np.where(known, given, 0) / SNR_STEP_DB)).astype(int).astype(str)
    return np.where(known, nearest, "")


def _of_experts(data: str, split: str, label: str, names: tuple[str, ...]) -> tuple[SpectrogramDataset, Codes]:
    """Samples of a split that an expert is for, and the index of that expert for each."""
    dataset = SpectrogramDataset(data, split)
    truth = experts_of(dataset, names, label)
    kept = np.flatnonzero(truth >= 0)
    if not len(kept):
        raise DatasetError(
            f"split {split!r} of {data} has no sample of {list(names)}", f"some by their label {label!r}"
        )
    dataset.keep(kept)
    return dataset, truth[kept]


def _share_right(counts: NDArray[np.int64]) -> float:
    return float(np.trace(counts) / counts.sum())


def _by_number(name: str) -> tuple[float, str]:
    """Numbers first, by size; then other names."""
    try:
        return float(name), name
    except ValueError:
        return float("inf"), name
