"""What a folder of recordings is learnt with: a head on a frozen encoder, the same on random weights, and statistics.

Every contestant has the same folds, and the same validation recordings choose its settings.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lwm.console import progress
from lwm.data.dataset import SpectrogramDataset
from lwm.data.trivial import trivial_features
from lwm.errors import ConfigError
from lwm.evaluation.features import frozen_features
from lwm.evaluation.metrics import Codes, macro_f1
from lwm.evaluation.probe import Features, Probe, fit_probe
from lwm.models.head import Head, TokenShape
from lwm.models.headed import HeadedModel
from lwm.registry import HEADS, load, names
from lwm.seeding import rng_for
from lwm.signal.csi_recipe import CsiRecipe

LINEAR = "linear"

_READ = 256
_STEPS, _EPOCHS, _PATIENCE = 400, 40, 0.25
"""Of heads that are trained by gradient (ours): at most so many steps, or epochs where those are more; ended after that
share of them without a better one."""

_BATCH, _RATE, _DECAY = 32, 1e-3, 0.05


@dataclass(frozen=True)
class Result:
    """What one contestant said of a fold's test part.

    Args:
        probabilities: float64 ``[n, K]``.
        chosen: which settings the validation part chose; JSON-able.
        model: encoder and head, for contestants that have them.
    """

    probabilities: NDArray[np.float64]
    chosen: dict[str, Any]
    model: HeadedModel | None = None


def classifier_named(name: str) -> type[Head]:
    """The head registered as ``name``; ConfigError where it does not tell classes apart."""
    found: type[Head] = load(HEADS, name)
    if found.kind != "classification":
        fit = [other for other in names(HEADS) if load(HEADS, other).kind == "classification"]
        raise ConfigError(f"head {name!r} is for {found.kind}", f"one that tells classes apart: {fit}")
    return found


class ProbeContestant:
    """A linear classifier on features computed once; of an encoder it becomes a linear head.

    Args:
        layers: features ``[N, P]`` of each layer, or of the picture's statistics alone.
        codes: class of each window ``[N]``.
        encoder: whose features they are; None of statistics.
        classes: class names.
    """

    def __init__(self, layers: list[Features], codes: Codes, classes: list[str], encoder: Any = None) -> None:
        self.layers, self.codes, self.classes, self.encoder = layers, codes, classes, encoder

    def run(self, parts: dict[str, Codes], seed: int) -> Result:
        """Learn from a fold's training part, choose on its validation part, answer its test part."""
        probe = fit_probe(self.layers, self.codes, parts["train"], parts["validation"])
        scores = probe.scores(self.layers[probe.layer][parts["test"]])
        return Result(_softmax(scores), probe.chosen, None if self.encoder is None else self._headed(probe))

    def _headed(self, probe: Probe) -> HeadedModel:
        head = load(HEADS, LINEAR)(TokenShape.of(self.encoder), self.classes)
        plain = (probe.shift, probe.scale, probe.weight, probe.bias)
        head.start_from(*(torch.from_numpy(np.ascontiguousarray(part)).float() for part in plain))
        return HeadedModel(self.encoder, head, [probe.layer])


class HeadContestant:
    """A registered head trained by gradient on the tokens of a frozen encoder.

    Args:
        encoder: stays as it is.
        dataset: whose samples ``rows`` the windows are.
        rows: sample of each window int64 ``[N]``.
        codes: class of each window ``[N]``.
        classes: class names.
        head: name of the head.
    """

    def __init__(
        self, encoder: Any, dataset: SpectrogramDataset, rows: Codes, codes: Codes, classes: list[str], head: str
    ) -> None:
        self.encoder, self.dataset, self.rows, self.codes = encoder, dataset, rows, codes
        self.classes, self.kind = classes, classifier_named(head)

    def run(self, parts: dict[str, Codes], seed: int) -> Result:
        """Train with AdamW; the epoch with the best macro-F1 on the validation part is kept."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng_for(seed, "own data", "head").integers(2**31)))
            head = self.kind(TokenShape.of(self.encoder), self.classes).to(_device(self.encoder))
            model = HeadedModel(self.encoder, head)
            epoch = self._train(model, parts, seed)
        return Result(self._answers(model, parts["test"]), {"epoch": epoch}, model)

    def _train(self, model: HeadedModel, parts: dict[str, Codes], seed: int) -> int:
        train, validation = parts["train"], parts["validation"]
        rng = rng_for(seed, "own data", "order")
        each = -(-len(train) // _BATCH)
        epochs = max(_EPOCHS, -(-_STEPS // each))
        optimizer = torch.optim.AdamW(model.head.parameters(), _RATE, weight_decay=_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=epochs * each)
        best, best_epoch, kept = (-1.0, 0.0), 0, copy.deepcopy(model.head.state_dict())
        for epoch in range(1, epochs + 1):
            model.train()
            for batch in np.array_split(rng.permutation(train), each):
                target = torch.from_numpy(self.codes[batch]).to(_device(model))
                loss = model.head.loss(model(self._pictures(batch)), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            score = self._score(model, validation)
            if score > best:
                best, best_epoch, kept = score, epoch, copy.deepcopy(model.head.state_dict())
            if epoch - best_epoch >= _PATIENCE * epochs:
                break
        model.head.load_state_dict(kept)
        model.eval()
        return best_epoch

    def _score(self, model: HeadedModel, part: Codes) -> tuple[float, float]:
        """Macro-F1 and mean log probability of the right class."""
        answers = self._answers(model, part)
        right = answers[np.arange(len(part)), self.codes[part]]
        found = macro_f1(self.codes[part], answers.argmax(1), len(self.classes))
        return found, float(np.log(np.maximum(right, 1e-12)).mean())

    def _answers(self, model: HeadedModel, part: Codes) -> NDArray[np.float64]:
        model.eval()
        found = [model.predict(self._pictures(some)).cpu() for some in np.array_split(part, -(-len(part) // _READ))]
        return torch.cat(found).double().numpy()

    def _pictures(self, windows: Codes) -> Tensor:
        return self.dataset.batch(self.rows[windows])["spectrogram"].to(_device(self.encoder))


def encoder_features(encoder: Any, dataset: SpectrogramDataset, rows: Codes, what: str) -> list[Features]:
    """Pooled features ``[N, P]`` of every layer at samples ``rows``, read some at a time."""
    parts = []
    with progress(what, len(rows), "windows") as bar:
        for pictures in _batches(dataset, rows, lambda batch: batch["spectrogram"]):
            parts.append(frozen_features(encoder, pictures, tick=bar.update))
    return [np.concatenate(layer) for layer in zip(*parts, strict=True)]


def plain_statistics(dataset: SpectrogramDataset, rows: Codes) -> Features:
    """What a picture tells without a closer look, ``[N, P]``; of CSI the level and spread of each channel."""
    if isinstance(dataset.recipe, CsiRecipe):
        return np.concatenate(list(_batches(dataset, rows, _channel_levels)))
    return np.concatenate(
        list(
            _batches(
                dataset, rows, lambda batch: trivial_features(batch["spectrogram"], batch["valid"], dataset.recipe)
            )
        )
    )


def _channel_levels(batch: dict[str, Any]) -> Features:
    pictures = batch["spectrogram"]
    return torch.cat([pictures.mean((2, 3)), pictures.std((2, 3))], 1).numpy()


def _batches(dataset: SpectrogramDataset, rows: Codes, take: Callable[[dict[str, Any]], Any]) -> Any:
    for some in np.array_split(rows, -(-len(rows) // _READ)):
        yield take(dataset.batch(some))


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    exponential = np.exp(scores - scores.max(1, keepdims=True))
    return exponential / exponential.sum(1, keepdims=True)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
