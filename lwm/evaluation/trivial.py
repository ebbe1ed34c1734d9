"""The yardstick that a model has to beat: a linear classifier on what a picture tells without a closer look."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lwm.data.trivial import trivial_features
from lwm.errors import DatasetError
from lwm.evaluation.metrics import Codes
from lwm.evaluation.probe import Features, fit_probe
from lwm.seeding import rng_for

if TYPE_CHECKING:
    from lwm.data.dataset import SpectrogramDataset


def trivial_accuracy(
    train: "SpectrogramDataset", test: "SpectrogramDataset", label: str, seed: int = 0, batch_size: int = 512
) -> float:
    """Accuracy on ``test`` of a linear classifier on trivial features of ``train``.

    A fifth of the training samples chooses the regularisation. Samples without the label are left out.

    Args:
        train: samples to learn from.
        test: samples to score.
        label: label column.
        seed: seed of the choice of validation samples.
        batch_size: pictures read at a time.

    Raises:
        DatasetError: the label is not in both, or fewer than two of its values are in ``train``.
    """
    features, names = zip(*(_labelled(part, label, batch_size) for part in (train, test)), strict=True)
    classes, codes = np.unique(names[0], return_inverse=True)
    if len(classes) < 2 or not len(names[1]):
        raise DatasetError(f"label {label!r} takes the values {classes.tolist()}", "two or more, and samples to score")
    codes = codes.astype(np.int64)
    held = _every_fifth_of_class(codes, rng_for(seed, "trivial", label))
    train_part, validation = np.flatnonzero(~held), np.flatnonzero(held)
    probe = fit_probe([features[0]], codes, train_part, validation if len(validation) else train_part)
    return float((classes[probe.predict(features[1])] == names[1]).mean())


def _every_fifth_of_class(codes: Codes, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Marks a fifth of each class, rounded down, at random."""
    held = np.zeros(len(codes), bool)
    for code in np.unique(codes):
        of_class = rng.permutation(np.flatnonzero(codes == code))
        held[of_class[: len(of_class) // 5]] = True
    return held


def _labelled(dataset: "SpectrogramDataset", label: str, batch_size: int) -> tuple[Features, NDArray[np.str_]]:
    if label not in dataset.labels:
        raise DatasetError(f"no label {label!r} in {dataset.root}", f"one of {sorted(dataset.labels)}")
    codes: Codes = dataset.labels[label]
    chosen = np.flatnonzero(codes >= 0)
    parts = [
        trivial_features(batch["spectrogram"], batch["valid"], dataset.recipe)
        for batch in map(dataset.batch, np.array_split(chosen, max(1, -(-len(chosen) // batch_size))))
    ]
    return np.concatenate(parts), np.array(dataset.label_names[label], dtype=str)[codes[chosen]]
