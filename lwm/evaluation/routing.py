"""How well a mixture's router tells protocols apart, beside logistic regression on trivial features."""

from typing import Any

import numpy as np
import torch

from lwm.console import progress, say
from lwm.data.dataset import SpectrogramDataset
from lwm.evaluation.trivial import trivial_accuracy
from lwm.hub import from_pretrained


def route_dataset(moe: Any, dataset: SpectrogramDataset, batch_size: int = 128) -> torch.Tensor:
    """Router probabilities, float32 ``[N, experts]``, of every sample in order.

    Raises:
        RecipeMismatch: the data has another recipe than the model.
    """
    moe.recipe.require_same(dataset.recipe, "the model", f"data set {dataset.root}")
    parts = []
    with torch.inference_mode(), progress("route", len(dataset), "captures") as bar:
        for start in range(0, len(dataset), batch_size):
            batch = dataset.batch(range(start, min(start + batch_size, len(dataset))))
            parts.append(moe.route(batch["spectrogram"]))
            bar.update(len(parts[-1]))
    return torch.cat(parts)


def routing_report(model: str, data: str) -> dict[str, Any]:
    """Accuracy of top-1 routing on the test split, and what trivial features reach on the same samples.

    Args:
        model: folder of a mixture whose experts are named by technology.
        data: data set with train and test splits and the label ``technology``.

    Returns:
        ``accuracy``, ``trivial_accuracy``, ``chance``, ``experts``, ``confusion`` (rows: truth), ``accuracy_by_snr``.
    """
    moe = from_pretrained(model).eval()
    names = list(moe.expert_names)
    test = SpectrogramDataset(data, "test", f"technology in {names}")
    train = SpectrogramDataset(data, "train", f"technology in {names}")
    chosen = route_dataset(moe, test).argmax(1).numpy()
    position = np.array([names.index(name) if name in names else -1 for name in test.label_names["technology"]])
    truth = position[test.labels["technology"]]
    confusion = np.zeros((len(names), len(names)), int)
    np.add.at(confusion, (truth, chosen), 1)
    report = {
        "accuracy": float((truth == chosen).mean()),
        "trivial_accuracy": trivial_accuracy(train, test, "technology"),
        "chance": float(confusion.sum(1).max() / confusion.sum()),
        "experts": names,
        "confusion": confusion.tolist(),
        "accuracy_by_snr": _by_snr(test, truth == chosen),
    }
    say(f"router accuracy {report['accuracy']:.3f}, trivial features {report['trivial_accuracy']:.3f}")
    return report


def _by_snr(dataset: SpectrogramDataset, right: Any) -> dict[str, float]:
    codes = dataset.labels["snr"]
    names = dataset.label_names["snr"]
    return {names[code]: float(right[codes == code].mean()) for code in np.unique(codes) if code >= 0}
