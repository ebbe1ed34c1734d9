"""A few-shot task: which labels make a class, which samples count, how episodes are drawn and trained on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lwm.errors import ConfigError
from lwm.evaluation.regimes.names import FAMILIES, Contestant
from lwm.settings import load_plain, read_settings, to_plain

MODELS = ("frozen", "finetuned", "random", "cnn", "resnet18", "trivial")
"""What a task compares where it does not say; see :mod:`lwm.evaluation.regimes.names` for all that can be written."""

Metric = Literal["macro_f1", "accuracy", "mae"]
"""What a table shows: two of classes, where more is better, and the mean absolute error of a quantity."""


@dataclass(frozen=True)
class Budget:
    """How much gradient training a family of regimes gets; linear models are solved, not trained.

    Args:
        samples: samples that pass through a network in training, repeats counted, for each rate.
        passes: at least so many passes over the training part, where ``samples`` would give fewer.
        rates: peak learning rates tried; the validation part chooses.
        batch_size: samples a step.
        weight_decay: AdamW's.
        patience: epochs (of four steps or more) without a better validation score before training stops.
        blocks: blocks of an encoder that are used at most, from the input; all where None.
        layer_decay: factor on a fine-tuned encoder's learning rate from each block to the one before it.
        last: blocks that the regime ``partial`` trains.
        rank: rank of LoRA's matrices.
    """

    samples: int
    rates: tuple[float, ...]
    passes: int = 0
    batch_size: int = 16
    weight_decay: float = 0.05
    patience: int = 10
    blocks: int | None = None
    layer_decay: float = 0.75
    last: int = 2
    rank: int = 8

    def __post_init__(self) -> None:
        sizes = (self.samples, self.batch_size - 1, self.patience, self.blocks or 1, self.layer_decay, *self.rates)
        if not self.rates or min(*sizes, self.last, self.rank) <= 0 or self.blocks == 0 or self.passes < 0:
            raise ConfigError(f"training {self}", "positive numbers, at least one rate and batch_size > 1")

    def steps(self, count: int) -> int:
        """Optimizer steps with ``count`` training samples."""
        batch = min(self.batch_size, count)
        return max(1, self.samples // batch, -(-self.passes * count // batch))


# As many samples and as many rates for encoders as for the networks from scratch.
BUDGETS = {
    "head": Budget(samples=6400, rates=(1e-3, 4e-3), batch_size=64, patience=20),
    "tuned": Budget(samples=1600, rates=(1e-4, 1e-3), passes=5),
    "scratch": Budget(samples=1600, rates=(5e-4, 4e-3), passes=5, patience=20),
}
"""What each family of regimes gets where a task does not say otherwise."""


@dataclass(frozen=True)
class FewShotTask:
    """One few-shot comparison.

    Args:
        name: name in titles and results.
        labels: label columns; a class is one combination of their values.
        label: class to the expression (:mod:`lwm.data.expression`) that its samples fulfil, in place of ``labels``.
        target: value column to be told instead of a class. Classes then only share out the draws; fifths of the
            target's range of values do where there are none.
        metric: what tables and curves show; macro-F1, of a target the mean absolute error.
        where: selection of samples (:mod:`lwm.data.expression`), for example ``technology == "lte"``; None for all.
        split: which split of the data set episodes are drawn from: one that pretraining never saw.
        k: training samples a class.
        episodes: draws of the training and validation part.
        test_per_class: test samples a class, at most (fewer where the rarest class has fewer).
        test_channels: share of the channel draws that only the test part uses.
        validation_share: validation samples a class as a share of k, at least two.
        models: what is compared; see :mod:`lwm.evaluation.regimes.names`.
        head: registered head (``lwm.heads``) of tuned encoders; ``linear``, of a target ``regression``.
        training: gradient training by family of regimes; what is not given is that of BUDGETS.
    """

    name: str
    labels: tuple[str, ...] = ()
    label: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    metric: Metric | None = None
    where: str | None = None
    split: str = "test"
    k: tuple[int, ...] = (5, 20)
    episodes: int = 3
    test_per_class: int = 50
    test_channels: float = 0.35
    validation_share: float = 0.25
    models: tuple[str, ...] = MODELS
    head: str | None = None
    training: Mapping[str, Budget] = field(default_factory=lambda: dict(BUDGETS))

    def __post_init__(self) -> None:
        if bool(self.labels) == bool(self.label) and (self.labels or self.target is None):
            raise ConfigError(
                f"task {self.name!r} with labels {list(self.labels)} and label {dict(self.label)}",
                "at least one label column, or an expression for each class, or a target",
            )
        if not self.k or min(self.k) < 1 or self.episodes < 1 or self.test_per_class < 1:
            raise ConfigError(
                f"task {self.name!r} with k {list(self.k)}, {self.episodes} episodes", "at least 1 of each"
            )
        if not (0 < self.test_channels < 1 and self.validation_share > 0):
            raise ConfigError(f"task {self.name!r}", "test_channels between 0 and 1 and validation_share above 0")
        fits = ("mae",) if self.target else ("macro_f1", "accuracy")
        object.__setattr__(self, "metric", self.metric or fits[0])
        if self.metric not in fits:
            raise ConfigError(f"task {self.name!r} with metric {self.metric!r}", f"one of {list(fits)}")
        object.__setattr__(self, "head", self.head or ("regression" if self.target else "linear"))
        object.__setattr__(self, "k", tuple(sorted(set(self.k))))
        parsed = [Contestant.parse(name) for name in self.models]
        if not parsed or len({(one.model, one.regime, one.head) for one in parsed}) < len(parsed):
            raise ConfigError(f"models {list(self.models)} of task {self.name!r}", "one contestant or more, each once")

    @property
    def seen_as(self) -> tuple[str, ...]:
        """What its classes are made of, in words."""
        return self.labels or tuple(self.label) or (str(self.target),)

    @property
    def contestants(self) -> list[Contestant]:
        """What ``models`` stands for."""
        return [Contestant.parse(name) for name in self.models]

    def budget(self, contestant: Contestant) -> Budget:
        """What a contestant that is trained by gradient gets."""
        return self.training[str(contestant.family)]

    def head_of(self, contestant: Contestant) -> str:
        """Registered head that a contestant carries; of frozen tokens the paper's residual CNN where none is said."""
        if contestant.regime == "head" and not self.target:
            return contestant.head or "residual_cnn"
        return contestant.head or str(self.head)

    def validation_per_class(self, k: int) -> int:
        """Validation samples a class beside ``k`` training samples: what chooses settings and stops training."""
        return max(2, round(self.validation_share * k))

    def overridden(self, k: list[int] | None, episodes: int | None, models: list[str] | None = None) -> "FewShotTask":
        """The task with other ``k``, ``episodes`` and ``models`` where given."""
        draws = self.episodes if episodes is None else episodes
        return replace(self, k=tuple(k or self.k), episodes=draws, models=tuple(models or self.models))


def load_task(path: str | Path) -> FewShotTask:
    """Read a task's YAML file, given by its path or by the name of one that ships (``tasks/snr_mobility``).

    Raises:
        ConfigError: no such file, no YAML mapping, an unknown key (the message lists those that exist), a missing
            one or a value of the wrong type.
    """
    return task_from_dict(load_plain(str(path), FewShotTask), str(path))


def task_from_dict(plain: Any, source: str) -> FewShotTask:
    """Task from YAML's plain values; ``source`` names where they came from in messages.

    What a task says of the training of a family changes that family's :data:`BUDGETS`.
    """
    if isinstance(plain, dict) and isinstance(plain.get("training"), dict):
        merged = {family: to_plain(budget) for family, budget in BUDGETS.items()}
        for family, changes in plain["training"].items():
            if family not in FAMILIES:
                raise ConfigError(f"{source}: training of {family!r}", f"keys among {list(FAMILIES)}")
            merged[family] = merged[family] | changes if isinstance(changes, dict) else changes
        plain = plain | {"training": merged}
    return read_settings(FewShotTask, plain, source)
