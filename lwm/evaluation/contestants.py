"""What a few-shot table compares. All learn from the same labelled samples and are scored on the same test part."""

from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lwm.console import progress
from lwm.data.dataset import SpectrogramDataset
from lwm.data.trivial import trivial_features
from lwm.errors import DatasetError
from lwm.evaluation.episodes import Episode, Samples, content_key, join_labels
from lwm.evaluation.features import frozen_features, random_twin
from lwm.evaluation.metrics import Codes, scores
from lwm.evaluation.networks import Labelled, class_scores, fine_tune, train_scratch
from lwm.evaluation.probe import Features, Probe, fit_probe
from lwm.evaluation.task import FewShotTask
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe

REGIMES = {
    "frozen": "frozen",
    "finetuned": "fine-tuned",
    "random": "frozen, random weights",
    "cnn": "from scratch",
    "resnet18": "from scratch",
    "trivial": "trivial statistics",
}
"""How each contestant uses the labels; a linear model on fixed features wherever not said otherwise."""

PRETRAINED = ("frozen", "finetuned")
"""Contestants whose weights come from pretraining, and with them the question which labels that saw."""

_READ = 256


@dataclass
class Bench:
    """The samples that episodes use, in memory.

    Args:
        pictures: dB ``[U, C, F, T]``.
        valid: bool ``[U, T]``.
        codes: class of each ``[U]``.
        classes: class names.
        columns: the task's label columns, each text ``[U]``.
        snr: SNR in dB of each as text, or None where the data set does not say.
        place: place in these arrays of each sample of the selection, -1 for those that no episode uses.
        recipe: what made the pictures.
        statistics: mean and standard deviation in dB of the data set's training split.
    """

    pictures: Tensor
    valid: Tensor
    codes: Codes
    classes: list[str]
    columns: list[NDArray[np.str_]]
    snr: list[str] | None
    place: Codes
    recipe: Recipe
    statistics: tuple[float, float]

    def labelled(self, indices: Codes, device: torch.device) -> Labelled:
        """Samples of a part on a device; ``indices`` are the selection's."""
        at = self.place[indices]
        return Labelled(self.pictures[at].to(device), torch.from_numpy(self.codes[at]).to(device))


def selected_samples(dataset: SpectrogramDataset, task: FewShotTask) -> tuple[Codes, Samples]:
    """The samples a task draws from: their indices in the data set and what drawing needs to know.

    Raises:
        DatasetError: a label of the task, or ``channel``, is not in the data set, or no sample has all of them.
    """
    needed = [*task.labels, "channel"]
    lacks = [label for label in needed if label not in dataset.labels]
    if lacks:
        raise DatasetError(f"{dataset.root} has no label {lacks}", f"labels among {sorted(dataset.labels)}")
    chosen = np.flatnonzero(np.all([dataset.labels[label] >= 0 for label in needed], axis=0))
    if not len(chosen):
        raise DatasetError(f"no sample of {dataset.root} has all of {needed}", "labelled samples")
    classes, codes = join_labels([label_texts(dataset, label, chosen) for label in task.labels])
    keys: list[str] = []
    for indices in np.array_split(chosen, -(-len(chosen) // _READ)):
        pictures = dataset.batch(indices)["spectrogram"].numpy()
        keys.extend(content_key(np.ascontiguousarray(picture).tobytes()) for picture in pictures)
    return chosen, Samples(classes, codes, label_texts(dataset, "channel", chosen), np.array(keys, dtype=str))


def label_texts(dataset: SpectrogramDataset, label: str, indices: Codes) -> NDArray[np.str_]:
    """Names of a label at ``indices``, text ``[len(indices)]``; empty where a sample lacks it."""
    names = np.array([*dataset.label_names[label], ""], dtype=str)
    return names[dataset.labels[label][indices]]


def load_bench(dataset: SpectrogramDataset, task: FewShotTask, chosen: Codes, samples: Samples, used: Codes) -> Bench:
    """Read the samples that episodes use; ``used`` are indices into the selection ``chosen``."""
    used = np.unique(used)
    batch = dataset.batch(chosen[used])
    place = np.full(len(chosen), -1, dtype=np.int64)
    place[used] = np.arange(len(used))
    return Bench(
        pictures=batch["spectrogram"].float(),
        valid=batch["valid"].bool(),
        codes=samples.codes[used],
        classes=samples.classes,
        columns=[label_texts(dataset, label, chosen[used]) for label in task.labels],
        snr=label_texts(dataset, "snr", chosen[used]).tolist() if "snr" in dataset.labels else None,
        place=place,
        recipe=dataset.recipe,
        statistics=(float(dataset.statistics.mean), float(dataset.statistics.std)),
    )


class Contest:
    """Runs contestants on episodes; what several runs share is computed once, when it is first asked for.

    Args:
        encoder: the pretrained encoder, never changed.
        bench: the samples.
        task: the task.
        seed: the sweep's seed.
    """

    def __init__(self, encoder: Any, bench: Bench, task: FewShotTask, seed: int) -> None:
        self.encoder, self.bench, self.task, self.seed = encoder, bench, task, seed
        self.device = next(encoder.parameters()).device
        self._probes: dict[tuple[str, int, int, int], Probe] = {}

    @cached_property
    def frozen(self) -> list[Features]:
        """Features of the pretrained encoder by layer."""
        return self._extract(self.encoder, "features")

    @cached_property
    def random(self) -> list[Features]:
        """Features of the encoder with random weights by layer."""
        twin = random_twin(self.encoder, self._torch_seed("random", 0, 0))
        return self._extract(twin, "features, random weights")

    @cached_property
    def trivial(self) -> list[Features]:
        """Trivial statistics, as the only layer."""
        return [trivial_features(self.bench.pictures, self.bench.valid, self.bench.recipe)]

    def run(self, model: str, episode: Episode) -> dict[str, Any]:
        """One contestant on one episode: its scores and what was chosen on the validation part, JSON-able."""
        start = perf_counter()
        predicted, chosen = (self._network if model in _NETWORKS else self._linear)(model, episode)
        at = self.bench.place[episode.test]
        snr = None if self.bench.snr is None else [self.bench.snr[i] for i in at]
        result = scores(self.bench.codes[at], predicted, self.bench.classes, snr)
        sizes = {"train": len(episode.train), "validation": len(episode.validation), "test": len(episode.test)}
        return result | {"samples": sizes, "chosen": chosen, "seconds": round(perf_counter() - start, 2)}

    def probe(self, model: str, episode: Episode, blocks: int | None = None) -> Probe:
        """The logistic regression on a contestant's features, on the first ``blocks`` only if given; fitted once."""
        features: list[Features] = getattr(self, model)[:blocks]
        key = (model, episode.k, episode.number, len(features))
        if key not in self._probes:
            place = self.bench.place
            self._probes[key] = fit_probe(features, self.bench.codes, place[episode.train], place[episode.validation])
        return self._probes[key]

    def _linear(self, model: str, episode: Episode) -> tuple[Codes, dict[str, Any]]:
        probe = self.probe(model, episode)
        features: list[Features] = getattr(self, model)
        predicted = probe.predict(features[probe.layer][self.bench.place[episode.test]])
        return predicted, {"layer": probe.layer, "strength": probe.strength}

    def _network(self, model: str, episode: Episode) -> tuple[Codes, dict[str, Any]]:
        seed = self._torch_seed(model, episode.k, episode.number)
        train, validation = (self.bench.labelled(part, self.device) for part in (episode.train, episode.validation))
        budget = self.task.training[model]
        if model == "finetuned":
            start = self.probe("frozen", episode, budget.blocks)
            network, chosen = fine_tune(self.encoder, start, self.task.head, train, validation, budget, seed)
        else:
            network, chosen = train_scratch(model, self.bench.statistics, train, validation, budget, seed)
        test = self.bench.labelled(episode.test, self.device)
        return class_scores(network, test.pictures).argmax(1).cpu().numpy(), chosen

    def _extract(self, encoder: Any, what: str) -> list[Features]:
        with progress(what, len(self.bench.codes), "pictures") as bar:
            return frozen_features(encoder, self.bench.pictures, tick=bar.update)

    def _torch_seed(self, *path: str | int) -> int:
        return int(rng_for(self.seed, "fewshot", *path).integers(2**31))


_NETWORKS = ("finetuned", "cnn", "resnet18")
