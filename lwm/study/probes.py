"""What linear probes find in frozen features: of whole pictures by their labels, of patches by what is on the air."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from lwm.data.dataset import SpectrogramDataset
from lwm.data.expression import select
from lwm.data.trivial import trivial_features
from lwm.evaluation.episodes import EpisodeDraw, Samples, content_key, join_labels
from lwm.evaluation.metrics import Codes, macro_f1
from lwm.evaluation.probe import Features, fit_layers
from lwm.evaluation.regimes.strata import label_texts
from lwm.evaluation.task import FewShotTask
from lwm.models.cores import in_parts
from lwm.models.pooling import pool
from lwm.seeding import rng_for
from lwm.tasks.occupancy import DEVIATIONS

Record = dict[str, Any]

PATCHES = 16
"""Patches of a picture that are probed: neighbours say much the same."""

PICTURES = 300
"""Pictures at most whose patches are the test part of the occupancy probe."""


@dataclass
class Pictures:
    """The pictures of a test split, in memory.

    Args:
        dataset: where labels are.
        db: float32 ``[N, C, F, T]``.
        clean: the same without noise, where the data have it.
        valid: bool ``[N, T]``.
        keys: identity of each, text ``[N]``.
    """

    dataset: SpectrogramDataset
    db: Tensor
    clean: Tensor | None
    valid: Tensor
    keys: Any

    @classmethod
    def of(cls, data: Any, split: str = "test") -> "Pictures":
        """All pictures of a split."""
        dataset = SpectrogramDataset(data, split=split)
        batch = dataset.batch(np.arange(len(dataset)))
        keys = np.array([content_key(np.ascontiguousarray(p).tobytes()) for p in batch["spectrogram"].numpy()])
        return cls(dataset, batch["spectrogram"], batch.get("clean"), batch["valid"], keys)


def label_records(pictures: Pictures, task: FewShotTask, layers: list[Features], seed: int) -> Iterator[Record]:
    """Macro-F1 of every episode, by layer.

    Args:
        pictures: the test split.
        task: labels, selection and episodes.
        layers: features of every picture by layer, each ``[N, P]``.
        seed: of the episodes.
    """
    dataset = pictures.dataset
    inside = np.ones(len(dataset), bool)
    if task.where is not None:
        inside = select(task.where, dataset.labels, dataset.label_names, dataset.values, len(dataset))
    for label in (*task.labels, "channel"):
        inside &= dataset.labels[label] >= 0
    chosen = np.flatnonzero(inside)
    classes, codes = join_labels([label_texts(dataset, label, chosen) for label in task.labels])
    samples = Samples(classes, codes, label_texts(dataset, "channel", chosen), pictures.keys[chosen])
    mine = [features[chosen] for features in layers]
    for episode in EpisodeDraw(samples, task, seed):
        parts = (episode.train, episode.validation, episode.test)
        for record in _by_layer(mine, codes, *parts):
            yield {"task": task.name, "labels": list(task.labels), "k": episode.k, "episode": episode.number} | record


def occupancy_records(
    pictures: Pictures, patch: int, layers: list[Features], k: tuple[int, ...], episodes: int, seed: int
) -> Iterator[Record]:
    """Macro-F1 of telling patches that are on the air from vacant ones, from features of the patches alone.

    A patch is on the air where the mean of its noise-free dB is above mean + 0.5 deviations of its picture's patches.
    ``k`` pictures of each technology are labelled; those to learn from and those to test on share no channel draw.

    Args:
        pictures: the test split with clean pictures.
        patch: side of a patch in cells.
        layers: by layer, features of the patches of :func:`probed_patches` ``[N, PATCHES, D]``.
        k: pictures of each technology to learn from.
        episodes: draws of them.
        seed: of the draws.
    """
    dataset = pictures.dataset
    # Noise alone has no technology and no channel draw.
    known = np.flatnonzero(dataset.labels["technology"] >= 0)
    truth = occupied_patches(pictures.clean, patch).gather(1, probed_patches(pictures, patch)).numpy().astype(np.int64)
    truth, sort = truth[known], dataset.labels["technology"][known]
    task = FewShotTask("occupancy", ("technology",), k=k, episodes=episodes, test_per_class=PICTURES)
    names = dataset.label_names["technology"]
    held = [code for code in range(len(names)) if (sort == code).any()]
    channels, keys = _channels(dataset)[known], pictures.keys[known]
    samples = Samples([names[code] for code in held], np.searchsorted(held, sort), channels, keys)
    if len(held) < 2:
        # Draws want classes; with one technology, halves of the pictures stand in for them.
        samples = replace(samples, classes=["even", "odd"], codes=np.argsort(np.argsort(keys)) % 2)
        task = replace(task, test_per_class=PICTURES // 2)
    for episode in EpisodeDraw(samples, task, seed):
        count = truth.shape[1]
        train, validation, test = (_rows(part, count) for part in (episode.train, episode.validation, episode.test))
        codes = truth.reshape(-1)
        flat = [features[known].reshape(len(codes), -1) for features in layers]
        for record in _by_layer(flat, codes, train, validation, test):
            yield {"task": "occupancy", "labels": [], "k": episode.k, "episode": episode.number} | record


def occupied_patches(clean: Tensor | None, patch: int) -> Tensor:
    """Bool ``[N, L]``: patches whose mean noise-free dB is above the threshold of :mod:`lwm.tasks.occupancy`."""
    assert clean is not None
    level = avg_pool2d(clean[:, :1], patch).flatten(1)
    return level > level.mean(1, keepdim=True) + DEVIATIONS * level.std(1, keepdim=True)


def probed_patches(pictures: Pictures, patch: int) -> Tensor:
    """Indices int64 ``[N, PATCHES]`` of the patches that are probed: the same for every model of a patch size."""
    rows, columns = (side // patch for side in pictures.db.shape[-2:])
    rng = rng_for(0, "study", "patches", rows, columns)
    picked = rng.random((len(pictures.db), rows * columns)).argsort(1)[:, :PATCHES]
    return torch.from_numpy(np.sort(picked, 1))


@torch.inference_mode()
def frozen_layers(encoder: Any, pictures: Pictures, batch_size: int = 64) -> tuple[list[Features], list[Features]]:
    """Features after some blocks: pooled ones of all pictures, each ``[N, 3 D]``, and those of the probed patches, each
    float32 ``[N, PATCHES, D]``; one pass gives both."""
    places = probed_patches(pictures, encoder.config.patch)
    chosen = _some(encoder.depth)
    pooled: list[list[Tensor]] = [[] for _ in chosen]
    patches: list[list[Tensor]] = [[] for _ in chosen]

    def after_blocks(part: Tensor) -> list[Tensor]:
        return encoder.forward_intermediates(part, chosen)

    for start in range(0, len(places), batch_size):
        found = in_parts(after_blocks, pictures.db[start : start + batch_size], encoder)
        index = places[start : start + batch_size, :, None]
        for number, whole in enumerate(found):
            tokens = whole[:, encoder.num_prefix_tokens :].float()
            pooled[number].append(pool(tokens, encoder.grid_size, "mean_spread"))
            patches[number].append(tokens.gather(1, index.expand(-1, -1, tokens.shape[-1])))
    return [torch.cat(kept).numpy() for kept in pooled], [torch.cat(kept).numpy() for kept in patches]


def plain_features(pictures: Pictures) -> list[Features]:
    """What a picture tells without a closer look, as the only layer."""
    return [trivial_features(pictures.db, pictures.valid, pictures.dataset.recipe)]


def plain_patches(pictures: Pictures, patch: int) -> list[Features]:
    """Cells of the probed patches and their mean, both in deviations of the picture; as the only layer."""
    db = pictures.db[:, :1]
    db = (db - db.mean((2, 3), keepdim=True)) / db.std((2, 3), keepdim=True).clamp(min=1e-6)
    cells = torch.nn.functional.unfold(db, patch, stride=patch).transpose(1, 2)
    places = probed_patches(pictures, patch)[..., None].expand(-1, -1, cells.shape[-1])
    cells = cells.gather(1, places)
    return [torch.cat([cells, cells.mean(-1, keepdim=True)], -1).numpy()]


def _by_layer(layers: list[Features], codes: Codes, train: Codes, validation: Codes, test: Codes) -> Iterator[Record]:
    """Macro-F1 on the test part with the layer that validation chose, with the middle and with the last one."""
    fitted = fit_layers(layers, codes, train, validation)
    best = max(range(len(fitted)), key=lambda number: fitted[number][0])
    wanted = {"chosen": best} | ({"middle": len(layers) // 2, "last": len(layers) - 1} if len(layers) > 1 else {})
    for name, number in wanted.items():
        predicted = fitted[number][1].predict(layers[number][test])
        score = macro_f1(codes[test], predicted, int(codes.max()) + 1)
        yield {"layer": name, "depth": (number + 1) / len(layers), "test_samples": len(test), "macro_f1": score}


def _some(depth: int) -> list[int]:
    """Blocks that are probed: a third, two thirds of the way, and the last; all would take twice the time."""
    return sorted({max(0, depth // 3 - 1), max(0, 2 * depth // 3 - 1), depth - 1})


def _channels(dataset: SpectrogramDataset) -> Any:
    return label_texts(dataset, "channel", np.arange(len(dataset)))


def _rows(pictures: Codes, count: int) -> Codes:
    """Rows of the patches of some pictures."""
    return (pictures[:, None] * count + np.arange(count)).reshape(-1)
