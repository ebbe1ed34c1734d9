"""What a few-shot table compares. All learn from the same labelled samples and are scored on the same test part."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lwm.console import progress
from lwm.data.dataset import SpectrogramDataset
from lwm.data.trivial import local_features, trivial_features
from lwm.evaluation.episodes import Episode, Samples, content_key
from lwm.evaluation.features import frozen_features, in_batches, layer_tokens, random_twin
from lwm.evaluation.metrics import Codes
from lwm.evaluation.networks import Chosen, Labelled, fine_tune, network_outputs, train_head, train_scratch
from lwm.evaluation.probe import Features, Probe, fit_probe
from lwm.evaluation.regimes.names import NETWORKS, Contestant
from lwm.evaluation.regimes.neighbours import fit_neighbours
from lwm.evaluation.regimes.objective import Classification, Objective, Regression, Truth, as_target
from lwm.evaluation.regimes.ridge import Ridge, fit_ridge
from lwm.evaluation.regimes.strata import label_texts, strata
from lwm.evaluation.regimes.tuned import new_head
from lwm.evaluation.task import FewShotTask
from lwm.models.head import Head
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe

_READ = 256


@dataclass
class Bench:
    """The samples that episodes use, in memory.

    Args:
        pictures: dB ``[U, C, F, T]``.
        valid: bool ``[U, T]``.
        codes: class of each ``[U]``.
        classes: class names.
        columns: what the classes are made of, each text ``[U]``.
        snr: SNR in dB of each as text, or None where the data set does not say.
        place: place in these arrays of each sample of the selection, -1 for those that no episode uses.
        recipe: what made the pictures.
        statistics: mean and standard deviation in dB of the data set's training split.
        values: the task's target of each float64 ``[U]``, where it has one.
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
    values: NDArray[np.float64] | None = None

    @property
    def truth(self) -> Truth:
        """What is to be told: the target's values, or the classes."""
        return self.codes if self.values is None else self.values

    def labelled(self, indices: Codes, device: torch.device) -> Labelled:
        """Samples of a part on a device; ``indices`` are the selection's."""
        at = self.place[indices]
        return Labelled(self.pictures[at].to(device), as_target(self.truth[at]).to(device))


def selected_samples(dataset: SpectrogramDataset, task: FewShotTask) -> tuple[Codes, Samples]:
    """The samples a task draws from: their indices in the data set and what drawing needs to know.

    Raises:
        DatasetError: see :func:`lwm.evaluation.regimes.strata.strata`.
    """
    chosen, classes, codes, _ = strata(dataset, task)
    keys: list[str] = []
    for indices in np.array_split(chosen, -(-len(chosen) // _READ)):
        pictures = dataset.batch(indices)["spectrogram"].numpy()
        keys.extend(content_key(np.ascontiguousarray(picture).tobytes()) for picture in pictures)
    return chosen, Samples(classes, codes, label_texts(dataset, "channel", chosen), np.array(keys, dtype=str))


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
        columns=[column[used] for column in strata(dataset, task)[3]],
        snr=label_texts(dataset, "snr", chosen[used]).tolist() if "snr" in dataset.labels else None,
        place=place,
        recipe=dataset.recipe,
        statistics=(float(dataset.statistics.mean), float(dataset.statistics.std)),
        values=None if task.target is None else dataset.values[task.target][chosen[used]].astype(np.float64),
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
        self._probes: dict[tuple[str, int, int, int], Probe | Ridge] = {}

    @cached_property
    def frozen(self) -> list[Features]:
        """Features of the pretrained encoder by layer."""
        return self._extract(self.encoder, "features")

    @cached_property
    def twin(self) -> nn.Module:
        """The encoder with random weights."""
        return random_twin(self.encoder, self._torch_seed("random", 0, 0))

    @cached_property
    def random(self) -> list[Features]:
        """Features of the encoder with random weights by layer."""
        return self._extract(self.twin, "features, random weights")

    @cached_property
    def trivial(self) -> list[Features]:
        """Trivial statistics, as the only layer."""
        return [trivial_features(self.bench.pictures, self.bench.valid, self.bench.recipe)]

    @cached_property
    def local(self) -> list[Features]:
        """Trivial and local statistics, as the only layer."""
        return [local_features(self.bench.pictures, self.bench.valid, self.bench.recipe)]

    def prepare(self, names: Iterable[str]) -> None:
        """Compute now what runs of these contestants will share: features of what does not start from nothing."""
        for contestant in map(Contestant.parse, names):
            if contestant.family != "scratch":
                self.features(contestant.model)

    def features(self, model: str) -> list[Features]:
        """Features by layer of the model ``encoder``, ``random``, ``trivial`` or ``local``."""
        return getattr(self, "frozen" if model == "encoder" else model)

    def run(self, name: str, episode: Episode) -> dict[str, Any]:
        """One contestant on one episode: its scores and what was chosen on the validation part, JSON-able."""
        start = perf_counter()
        contestant = Contestant.parse(name)
        solved = {"frozen": self._linear, "knn": self._neighbours}
        answers, chosen = solved.get(contestant.regime, self._trained)(contestant, episode)
        bench = self.bench
        at = bench.place[episode.test]
        snr = None if bench.snr is None else [bench.snr[i] for i in at]
        result = self._objective(episode).scores(bench.truth[at], answers, bench.codes[at], snr)
        sizes = {"train": len(episode.train), "validation": len(episode.validation), "test": len(episode.test)}
        return result | {"samples": sizes, "chosen": chosen, "seconds": round(perf_counter() - start, 2)}

    def probe(self, model: str, episode: Episode, blocks: int | None = None) -> Any:
        """The linear model on a model's features, on the first ``blocks`` only if given; fitted once.

        Returns:
            :class:`~lwm.evaluation.probe.Probe`, of a target :class:`~lwm.evaluation.regimes.ridge.Ridge`.
        """
        features = self.features(model)[:blocks]
        key = (model, episode.k, episode.number, len(features))
        if key not in self._probes:
            parts = self.bench.place[episode.train], self.bench.place[episode.validation]
            fit: Any = fit_probe if self.bench.values is None else fit_ridge
            self._probes[key] = fit(features, self.bench.truth, *parts)
        return self._probes[key]

    def _objective(self, episode: Episode) -> Objective:
        if self.bench.values is None:
            return Classification(self.bench.classes)
        known = self.bench.truth[self.bench.place[episode.train]]
        return Regression([str(self.task.target)], self.bench.classes).fitted(known)

    def _linear(self, contestant: Contestant, episode: Episode) -> tuple[Truth, Chosen]:
        probe = self.probe(contestant.model, episode)
        answers = probe.predict(self.features(contestant.model)[probe.layer][self.bench.place[episode.test]])
        return answers, probe.chosen

    def _neighbours(self, contestant: Contestant, episode: Episode) -> tuple[Truth, Chosen]:
        layers, place = self.features(contestant.model), self.bench.place
        found = fit_neighbours(layers, self.bench.truth, place[episode.train], place[episode.validation])
        answers = found.predict(layers[found.layer][place[episode.test]])
        return answers, {"layer": found.layer, "neighbours": found.count}

    def _trained(self, contestant: Contestant, episode: Episode) -> tuple[Truth, Chosen]:
        seed = self._torch_seed(contestant.name, episode.k, episode.number)
        objective, budget = self._objective(episode), self.task.budget(contestant)
        if contestant.regime == "head":
            return self._head(contestant, episode, objective, seed)
        parts = [self.bench.labelled(part, self.device) for part in (episode.train, episode.validation, episode.test)]
        train, validation, test = parts
        if contestant.model in NETWORKS:
            network, chosen = train_scratch(
                contestant.model, self.bench.statistics, train, validation, budget, seed, objective
            )
        else:
            base, start = self._base(contestant, episode, seed)
            head = self.task.head_of(contestant)
            network, chosen = fine_tune(
                base, start, head, train, validation, budget, seed, contestant.regime, objective
            )
        return objective.answers(network_outputs(network, test.pictures)), chosen

    def _base(self, contestant: Contestant, episode: Episode, seed: int) -> tuple[Any, Any]:
        """Encoder that is trained, and the probe whose layer its head reads."""
        blocks = self.task.budget(contestant).blocks
        if contestant.regime == "scratch":
            twin = random_twin(self.encoder, seed)
            # Nothing is known of an untrained encoder: its head reads the last block.
            with torch.no_grad():
                depth = len(layer_tokens(twin, self.bench.pictures[:1].to(self.device)))
            return twin, _LastBlock(min(depth, blocks or depth) - 1)
        base = self.encoder if contestant.model == "encoder" else self.twin
        return base, self.probe(contestant.model, episode, blocks)

    def _head(self, contestant: Contestant, episode: Episode, objective: Objective, seed: int) -> tuple[Truth, Chosen]:
        """A head on frozen tokens of the layer that the linear probe chose; pooled features are there already."""
        layer = self.probe(contestant.model, episode).layer
        encoder: Any = self.encoder if contestant.model == "encoder" else self.twin
        name = self.task.head_of(contestant)

        def build() -> Head:
            return new_head(name, objective.kind, encoder, objective.names)

        with torch.random.fork_rng(devices=[]):
            pooled = build()
        ready = getattr(pooled, "reads", "tokens") == "pooled" and getattr(pooled, "pooling", "") == "mean_spread"
        inputs = [
            torch.from_numpy(self.features(contestant.model)[layer][self.bench.place[part]]).to(self.device)
            if ready
            else self._tokens(encoder, part, layer)
            for part in (episode.train, episode.validation, episode.test)
        ]
        targets = [as_target(self.bench.truth[self.bench.place[part]]).to(self.device) for part in _learnt(episode)]
        train, validation = (Labelled(x, target) for x, target in zip(inputs[:2], targets, strict=True))
        network, chosen = train_head(build, train, validation, self.task.budget(contestant), seed, objective)
        return objective.answers(network_outputs(network, inputs[2])), {"layer": layer} | chosen

    def _tokens(self, encoder: Any, part: Codes, layer: int) -> Tensor:
        """Tokens ``[N, L, D]`` of a part after one block, computed once a run."""
        encoder.eval()
        pictures = self.bench.pictures[self.bench.place[part]]
        return in_batches(lambda some: layer_tokens(encoder, some, layer), pictures, encoder)[0]

    def _extract(self, encoder: Any, what: str) -> list[Features]:
        with progress(what, len(self.bench.codes), "pictures") as bar:
            return frozen_features(encoder, self.bench.pictures, tick=bar.update)

    def _torch_seed(self, *path: str | int) -> int:
        return int(rng_for(self.seed, "fewshot", *path).integers(2**31))


@dataclass(frozen=True)
class _LastBlock:
    """Stands in for a probe where there is none."""

    layer: int

    @property
    def chosen(self) -> Chosen:
        """What a record says."""
        return {"layer": self.layer}


def _learnt(episode: Episode) -> tuple[Codes, Codes]:
    return episode.train, episode.validation
