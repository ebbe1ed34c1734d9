"""The baseline without a language model: one head for each kind of question on the encoder that RF-GPT has."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lwm.console import progress
from lwm.data.dataset import SpectrogramDataset
from lwm.errors import ConfigError, DatasetError
from lwm.language.answerers import Replies
from lwm.language.questions import PROSE, Question, questions_about
from lwm.models.cores import in_parts
from lwm.models.pooling import pool, pooled_features
from lwm.seeding import rng_for
from lwm.tasks.schedule import adamw_cosine

MOST_ANSWERS = 64
"""A kind with more different answers is none that a classifier can be asked."""
_ENCODE_BATCH = 64
_MISSING = -1
# A rate of 1 Msample/s enters as 0; every doubling adds 1.
_REFERENCE_RATE = 1e6


class Targets(NamedTuple):
    """What the heads learn: ``codes`` int64 ``[N, K]`` (-1: not known), the answers behind the codes by kind, and the
    sample rates ``[N]`` in Hz (the reference rate where unknown)."""

    codes: Tensor
    answers: dict[str, list[str]]
    rates: Tensor

    def labels(self) -> dict[str, int]:
        """How many samples' answers each head sees."""
        known = (self.codes != _MISSING).sum(0).tolist()
        return dict(zip(self.answers, known, strict=True))

    def weights(self) -> dict[str, Tensor]:
        """Weight of each head's answers ``[answers]``: the inverse of their frequency, 1 where all are as frequent.

        RF-GPT's instructions are balanced (:mod:`lwm.language.balance`); without it the heads would learn what is
        common and be scored on balanced questions.
        """
        counts = {
            kind: torch.bincount(self.codes[self.codes[:, number] != _MISSING, number], minlength=len(values))
            for number, (kind, values) in enumerate(self.answers.items())
        }
        return {kind: count.sum() / (len(count) * count.clamp(min=1).float()) for kind, count in counts.items()}


class MultiHeadViT(nn.Module):
    """An encoder's pooled tokens and the sample rate, standardised, and a head for each kind.

    It is told what RF-GPT is told: the picture and, in numbers instead of words, the sample rate.

    Args:
        encoder: any encoder of LWM.
        answers: for each topic (:attr:`~lwm.language.questions.Question.topic`) the answers that its head tells apart.
        hidden: width of each head's hidden layer; None for linear heads.
        frozen: leave the encoder as it is.

    Raises:
        ConfigError: no kind.
    """

    def __init__(
        self, encoder: Any, answers: Mapping[str, Sequence[str]], hidden: int | None = None, frozen: bool = True
    ) -> None:
        super().__init__()
        if not answers:
            raise ConfigError("no kind with a head", f"kinds of at most {MOST_ANSWERS} different answers")
        self.encoder, self.frozen = encoder.requires_grad_(not frozen), frozen
        self.answers = {kind: list(values) for kind, values in answers.items()}
        width = pooled_features(encoder.num_features) + 1
        # As in linear probing of masked autoencoders (He et al. 2022): without it the scale of features decides.
        self.standardise = nn.BatchNorm1d(width, affine=False)
        self.heads = nn.ModuleList(_head(width, hidden, len(values)) for values in self.answers.values())

    def train(self, mode: bool = True) -> Self:
        """Training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """Pooled tokens ``[B, P]`` of dB pictures ``[B, C, F, T]``, without gradient where the encoder is frozen."""
        if torch.is_grad_enabled() and not self.frozen:
            return self._pooled(x)
        return in_parts(lambda part: [self._pooled(part)], x, self.encoder)[0]

    def _pooled(self, x: Tensor) -> Tensor:
        tokens = self.encoder.forward_features(x)[:, self.encoder.num_prefix_tokens :]
        return pool(tokens, self.encoder.grid_size)

    def forward(self, features: Tensor, rates: Tensor) -> dict[str, Tensor]:
        """Logits ``[B, answers]`` by kind of :meth:`features` and sample rates ``[B]`` in Hz."""
        scale = torch.log2(rates / _REFERENCE_RATE)[:, None].to(features)
        whole = self.standardise(torch.cat([features, scale], dim=1))
        return {kind: head(whole) for kind, head in zip(self.answers, self.heads, strict=True)}

    def loss(self, logits: Mapping[str, Tensor], codes: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Mean over kinds of the cross entropy over samples whose code ``codes [B, K]`` is known.

        Args:
            logits: of :meth:`forward`.
            codes: int64 ``[B, K]``, -1 where not known.
            weights: of each kind's answers, see :meth:`Targets.weights`; None for equal ones.
        """
        weigh = dict[str, Tensor]() if weights is None else weights
        parts = [
            nn.functional.cross_entropy(logits[kind], codes[:, number], weigh.get(kind), ignore_index=_MISSING)
            for number, kind in enumerate(self.answers)
            if bool((codes[:, number] != _MISSING).any())
        ]
        nothing = sum((part.sum() for part in logits.values()), torch.zeros(())) * 0
        return torch.stack(parts).mean() if parts else nothing


class MultiHeadAnswerer:
    """A multi-head ViT as a contestant; its confidence is the head's largest probability.

    Args:
        model: trained.
    """

    def __init__(self, model: MultiHeadViT) -> None:
        self.model = model.eval()

    @torch.no_grad()
    def __call__(self, captures: Tensor, questions: Sequence[Question]) -> Replies:
        """The likeliest answer of each question's kind; empty where no head is of that kind."""
        model = self.model
        device = _device(model)
        rates = torch.full((len(captures),), _REFERENCE_RATE, device=device)
        for one in questions:
            if one.sample_rate is not None:
                rates[one.capture] = one.sample_rate
        logits = model(model.features(captures.to(device)), rates)
        texts, sure = [], []
        for one in questions:
            if one.topic not in logits:
                texts.append("")
                sure.append(0.0)
                continue
            probability, code = logits[one.topic][one.capture].softmax(0).max(0)
            texts.append(model.answers[one.topic][int(code)])
            sure.append(float(probability))
        return Replies(texts, sure)


def targets_of(
    data: SpectrogramDataset, samples: Sequence[int] | npt.NDArray[np.int64], kinds: Sequence[str], seed: int
) -> Targets:
    """True answers of some samples as codes, for the kinds of at most :data:`MOST_ANSWERS` different answers.

    Raises:
        DatasetError: no sample says any of these kinds.
    """
    place = {int(sample): number for number, sample in enumerate(samples)}
    asked = questions_about(data, samples, [kind for kind in kinds if kind not in PROSE], seed)
    counts: dict[str, Counter[str]] = {}
    for one in asked:
        counts.setdefault(one.topic, Counter())[one.pair.answer] += 1
    answers = {kind: sorted(found) for kind, found in counts.items() if len(found) <= MOST_ANSWERS}
    code = {kind: {answer: number for number, answer in enumerate(values)} for kind, values in answers.items()}
    column = {kind: number for number, kind in enumerate(answers)}
    codes = torch.full((len(place), len(answers)), _MISSING)
    rates = torch.full((len(place),), _REFERENCE_RATE)
    for one in asked:
        row = place[one.sample]
        if one.sample_rate is not None:
            rates[row] = one.sample_rate
        if one.topic in column:
            codes[row, column[one.topic]] = code[one.topic][one.pair.answer]
    return Targets(codes, answers, rates)


def fit_multihead(
    model: MultiHeadViT,
    data: SpectrogramDataset,
    samples: npt.NDArray[np.int64],
    targets: Targets,
    epochs: int,
    batch_size: int,
    seed: int,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.05,
) -> list[float]:
    """Train heads, and an encoder that is not frozen, with AdamW, warm-up and cosine; answers of a kind weigh alike.

    Args:
        model: to be trained.
        data: train split.
        samples: which of its samples.
        targets: theirs, of :func:`targets_of`.
        epochs: passes over the samples.
        batch_size: samples a step.
        seed: of the order.
        learning_rate: peak rate.
        weight_decay: of matrices.

    Returns:
        The mean loss of each epoch.

    Raises:
        DatasetError: fewer than two samples; a loss that is not finite.
    """
    count = len(samples)
    if count < 2 or batch_size < 2:
        raise DatasetError(f"{count} samples in batches of {batch_size}", "two or more of both")
    steps = -(-count // batch_size)
    planned = adamw_cosine([model.heads if model.frozen else model], learning_rate, weight_decay, epochs * steps)
    optimizer, scheduler = planned["optimizer"], planned["lr_scheduler"]["scheduler"]
    kept = _features(model, data, samples) if model.frozen else None
    weights = {kind: weight.to(_device(model)) for kind, weight in targets.weights().items()}
    losses = []
    model.train()
    with progress("multi-head", epochs * count, "samples") as bar:
        for epoch in range(epochs):
            order = rng_for(seed, "multihead", epoch).permutation(count)
            total = 0.0
            # Parts of nearly equal size: a single sample has no variance to be standardised by.
            for rows in np.array_split(order, steps):
                x = kept[rows] if kept is not None else model.features(_pictures(model, data, samples[rows]))
                chosen = torch.from_numpy(rows)
                logits = model(x, targets.rates[chosen].to(x.device))
                loss = model.loss(logits, targets.codes[chosen].to(x.device), weights)
                if not torch.isfinite(loss):
                    raise DatasetError(f"a loss of {loss.item()} in epoch {epoch}", "a finite one", "run lwm doctor")
                _step(model, loss, optimizer)
                scheduler.step()
                total += float(loss.detach()) * len(rows)
                bar.update(len(rows))
            losses.append(total / count)
    model.eval()
    return losses


def _step(model: MultiHeadViT, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def _features(model: MultiHeadViT, data: SpectrogramDataset, samples: npt.NDArray[np.int64]) -> Tensor:
    """Features of all samples of a frozen encoder, computed once."""
    model.eval()
    places = range(0, len(samples), _ENCODE_BATCH)
    return torch.cat([model.features(_pictures(model, data, samples[at : at + _ENCODE_BATCH])) for at in places])


def _pictures(model: MultiHeadViT, data: SpectrogramDataset, samples: npt.NDArray[np.int64]) -> Tensor:
    return data.batch(samples)["spectrogram"].to(_device(model))


def _device(model: MultiHeadViT) -> torch.device:
    return next(model.parameters()).device


def _head(width: int, hidden: int | None, classes: int) -> nn.Module:
    if hidden is None:
        return nn.Linear(width, classes)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, classes))
