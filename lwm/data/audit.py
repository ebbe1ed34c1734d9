"""The shortcut audit: which labels can be told from a picture without looking at it closely.

A logistic regression learns each label from :func:`lwm.data.trivial.trivial_features` on the train split and is scored
on the test split (on another one where there is none; on held-out recordings or waveforms where there is one split).
Scores are balanced accuracies, so that a frequent class helps nobody. A label is *marked* when the features reach
:func:`bar`, halfway between chance and perfect: a model's score on it then says little about what it understood.
"""

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lwm.data.manifest import MOST_COUNTED, Manifest
from lwm.data.reader import ShardReader
from lwm.data.trivial import FAMILIES, trivial_features
from lwm.seeding import rng_for

MOST_SAMPLES = 4000
"""Samples looked at in all, half for learning and half for scoring."""

FEWEST_SAMPLES = 30
"""Samples on either side below which nothing is said about a label."""

_SHARDS = 48
"""Shards that samples are taken from, evenly spaced: a big data set is not opened as a whole."""

_FOLDS = 4
_ITERATIONS = 300
Names = npt.NDArray[Any]
Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Verdict:
    """What trivial features tell about one label.

    Args:
        classes: of the label, as far as they are on both sides.
        train: samples learnt from (all of them under cross-validation).
        scored: samples scored.
        accuracy: share of right guesses.
        majority: share of the most frequent class among the scored.
        balanced: mean of the classes' shares of right guesses.
        chance: balanced accuracy of guessing.
        best: feature family that does best alone, of a marked label; else empty.
        marked: whether ``balanced`` reaches :func:`bar`.
    """

    classes: int
    train: int
    scored: int
    accuracy: float
    majority: float
    balanced: float
    chance: float
    best: str
    marked: bool


def bar(classes: int) -> float:
    """Balanced accuracy from which a label counts as told by trivial features: halfway from chance to 1 (ours)."""
    return (1 / classes + 1) / 2


def audit(root: Path, manifest: Manifest, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Verdicts about every label that has enough samples of at least two classes, as plain dicts.

    Labels with more than :data:`lwm.data.manifest.MOST_COUNTED` names are identifiers and left out, as are those whose
    names differ from split to split.

    Args:
        root: the data set's folder.
        manifest: with all shards and labels.
        seed: of the choice of samples.

    Raises:
        DatasetError: a shard is missing or damaged.
    """
    splits = list(manifest.splits)
    rest = [split for split in splits if split != "train"]
    if "train" in splits and rest:
        scored = "test" if "test" in rest else rest[-1]
        parts = [_gather(root, manifest, {split}, MOST_SAMPLES // 2, seed) for split in ("train", scored)]
    elif splits:
        parts = [_gather(root, manifest, set(splits), MOST_SAMPLES, seed)]
    else:
        return {}
    verdicts = {label: _verdict(label, parts, seed) for label in manifest.labels}
    return {label: asdict(verdict) for label, verdict in verdicts.items() if verdict is not None}


@dataclass
class _Part:
    """Samples of one side: features ``[N, P]``, label to a name or None ``[N]``, where each comes from ``[N]``."""

    features: Features
    names: dict[str, Names]
    groups: Names


def _gather(root: Path, manifest: Manifest, splits: set[str], most: int, seed: int) -> _Part:
    """At most ``most`` samples of some splits, as many from each of the shards that are looked at."""
    recipe, labels = manifest.read_recipe(), list(manifest.labels)
    entries = [entry for entry in manifest.shards if entry.split in splits]
    places = np.unique(np.linspace(0, len(entries) - 1, min(_SHARDS, len(entries))).astype(int))
    # Small shards first: what they cannot give, the larger ones do.
    entries = sorted((entries[place] for place in places), key=lambda entry: (entry.count, entry.name))
    features: list[Features] = []
    groups: list[str] = []
    names: dict[str, list[Names]] = {label: [] for label in labels}
    for number, entry in enumerate(entries):
        count = min(entry.count, most // (len(entries) - number))
        if not count:
            continue
        most -= count
        shard = ShardReader(root / entry.name, entry)
        rows = np.sort(rng_for(seed, "audit", entry.name).choice(entry.count, count, replace=False))
        pictures = torch.from_numpy(shard.read(rows))
        features.append(trivial_features(pictures, torch.from_numpy(shard.valid[rows]), recipe))
        groups += shard.origins(rows)
        for label in labels:
            codes, known = shard.labels.get(label, (np.full(shard.count, -1), []))
            names[label].append(np.array([*known, None], dtype=object)[codes[rows]])
    together = {label: np.concatenate(column) for label, column in names.items()}
    return _Part(np.concatenate(features), together, np.array(groups, dtype=object))


def _verdict(label: str, parts: list[_Part], seed: int) -> Verdict | None:
    sides = []
    for part in parts:
        names = part.names.get(label, np.full(len(part.features), None, dtype=object))
        known = np.array([name is not None for name in names], bool)
        sides.append((part.features[known], names[known].astype(str), part.groups[known]))
    common = set(sides[0][1]).intersection(*(set(names) for _, names, _ in sides))
    kept = [np.isin(names, sorted(common)) for _, names, _ in sides]
    if not 2 <= len(common) <= MOST_COUNTED or min(int(keep.sum()) for keep in kept) < FEWEST_SAMPLES:
        return None
    features = [side[0][keep].astype(np.float64) for side, keep in zip(sides, kept, strict=True)]
    classes = np.array(sorted(common))
    codes = [np.searchsorted(classes, side[1][keep]) for side, keep in zip(sides, kept, strict=True)]
    groups = sides[0][2][kept[0]]
    guessed = _guess(features, codes, groups, seed)
    if guessed is None:
        return None
    scored = guessed >= 0
    truth, guessed = codes[-1][scored], guessed[scored]
    balanced, chance = _balanced(truth, guessed), 1 / len(classes)
    marked = balanced >= bar(len(classes))
    return Verdict(
        classes=len(classes),
        train=len(codes[0]),
        scored=len(truth),
        accuracy=float((truth == guessed).mean()),
        majority=float(np.bincount(truth).max() / len(truth)),
        balanced=balanced,
        chance=chance,
        best=_best_family(features, codes, groups, seed) if marked else "",
        marked=marked,
    )


def _best_family(features: list[Any], codes: list[Any], groups: Names, seed: int) -> str:
    """The feature family that alone scores best."""
    scores = {}
    for family, columns in FAMILIES.items():
        guessed = _guess([part[:, columns] for part in features], codes, groups, seed)
        if guessed is not None:
            scores[family] = _balanced(codes[-1][guessed >= 0], guessed[guessed >= 0])
    return max(scores, key=lambda family: scores[family])


def _balanced(truth: Any, guessed: Any) -> float:
    return float(np.mean([(guessed[truth == code] == code).mean() for code in np.unique(truth)]))


def _guess(features: list[Any], codes: list[Any], groups: Names, seed: int) -> Any:
    """Guesses for the last part, -1 where a sample was in no fold; None where no fold could be scored."""
    if len(features) == 2:
        return _fit(features[0], codes[0]).predict(features[1])
    from sklearn.model_selection import StratifiedGroupKFold

    folds = min(_FOLDS, len(set(groups)))
    if folds < 2:
        return None
    guessed = np.full(len(codes[0]), -1)
    with warnings.catch_warnings():
        # A class of one recording cannot be in every fold; it is left out of those below.
        warnings.simplefilter("ignore", UserWarning)
        parts = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(features[0], codes[0], groups))
    for train, test in parts:
        known = np.isin(codes[0][test], codes[0][train])
        if len(set(codes[0][train])) > 1 and known.any():
            guessed[test[known]] = _fit(features[0][train], codes[0][train]).predict(features[0][test[known]])
    enough = (guessed >= 0).sum() >= FEWEST_SAMPLES and len(set(codes[0][guessed >= 0])) > 1
    return guessed if enough else None


def _fit(features: Any, codes: Any) -> Any:
    """Logistic regression on standardised features, every class of equal weight."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=10.0, class_weight="balanced", max_iter=_ITERATIONS, tol=1e-3)
    )
    with warnings.catch_warnings():
        # A fit that ends before it converged is as good a guess; nothing depends on its last digits.
        warnings.simplefilter("ignore")
        return model.fit(features, codes)
