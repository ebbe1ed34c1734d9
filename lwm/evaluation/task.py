"""A few-shot task: which labels make a class, which samples count, how episodes are drawn and trained on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lwm.errors import ConfigError
from lwm.settings import load_plain, read_settings, to_plain

MODELS = ("frozen", "finetuned", "random", "cnn", "resnet18", "trivial")
"""What a task can compare, in the order of its table; see :mod:`lwm.evaluation.contestants`."""


TITLES = {
    "frozen": "encoder, frozen",
    "finetuned": "encoder, fine-tuned",
    "random": "encoder, random weights",
    "cnn": "small CNN",
    "resnet18": "ResNet-18",
    "trivial": "trivial statistics",
}
"""Names of the contestants in tables and pictures."""


@dataclass(frozen=True)
class Budget:
    """How much gradient training a network gets; linear models are solved, not trained.

    Args:
        samples: samples that pass through the network in training, repeats counted.
        rates: peak learning rates tried; the validation part chooses.
        batch_size: samples a step.
        weight_decay: AdamW's.
        patience: epochs without a better validation score before training stops.
        blocks: blocks of a fine-tuned encoder that are used at most, from the input; all where None.
        layer_decay: factor on a fine-tuned encoder's learning rate from each block to the one before it.
    """

    samples: int
    rates: tuple[float, ...]
    batch_size: int = 16
    weight_decay: float = 0.05
    patience: int = 8
    blocks: int | None = None
    layer_decay: float = 0.75

    def __post_init__(self) -> None:
        sizes = (self.samples, self.batch_size - 1, self.patience, self.blocks or 1, self.layer_decay, *self.rates)
        if not self.rates or min(sizes) <= 0 or self.blocks == 0:
            raise ConfigError(f"training {self}", "positive numbers, at least one rate and batch_size > 1")


# For two cores: about ten seconds a run. A step of ResNet-18 costs six of the small CNN's; both take no fewer steps
# than the encoder, at the rate that served them best. Half an encoder's blocks carry as much as all of them, at half
# the cost.
BUDGETS = {
    "finetuned": Budget(samples=640, rates=(1e-4,), blocks=3),
    "cnn": Budget(samples=3200, rates=(4e-3,), patience=20),
    "resnet18": Budget(samples=640, rates=(3e-3,)),
}
"""What each network gets where a task does not say otherwise."""


@dataclass(frozen=True)
class FewShotTask:
    """One few-shot comparison.

    Args:
        name: name in titles and results.
        labels: label columns; a class is one combination of their values.
        where: selection of samples (:mod:`lwm.data.expression`), for example ``technology == "lte"``; None for all.
        split: which split of the data set episodes are drawn from: one that pretraining never saw.
        k: training samples a class.
        episodes: draws of the training and validation part.
        test_per_class: test samples a class, at most (fewer where the rarest class has fewer).
        test_channels: share of the channel draws that only the test part uses.
        validation_share: validation samples a class as a share of k, at least two.
        models: what is compared, out of MODELS.
        head: registered head (``lwm.heads``) that a fine-tuned encoder carries.
        training: gradient training by network; what is not given is that of BUDGETS.
    """

    name: str
    labels: tuple[str, ...]
    where: str | None = None
    split: str = "test"
    k: tuple[int, ...] = (5, 20)
    episodes: int = 3
    test_per_class: int = 50
    test_channels: float = 0.35
    validation_share: float = 0.25
    models: tuple[str, ...] = MODELS
    head: str = "linear"
    training: Mapping[str, Budget] = field(default_factory=lambda: dict(BUDGETS))

    def __post_init__(self) -> None:
        if not self.labels:
            raise ConfigError(f"task {self.name!r} without labels", "at least one label column")
        if not self.k or min(self.k) < 1 or self.episodes < 1 or self.test_per_class < 1:
            raise ConfigError(
                f"task {self.name!r} with k {list(self.k)}, {self.episodes} episodes", "at least 1 of each"
            )
        if not (0 < self.test_channels < 1 and self.validation_share > 0):
            raise ConfigError(f"task {self.name!r}", "test_channels between 0 and 1 and validation_share above 0")
        object.__setattr__(self, "k", tuple(sorted(set(self.k))))
        unknown = sorted(set(self.models) - set(MODELS))
        if unknown or not self.models:
            raise ConfigError(f"task {self.name!r} compares {unknown or 'nothing'}", f"some of {list(MODELS)}")

    def validation_per_class(self, k: int) -> int:
        """Validation samples a class beside ``k`` training samples: what chooses settings and stops training."""
        return max(2, round(self.validation_share * k))

    def overridden(self, k: list[int] | None, episodes: int | None) -> "FewShotTask":
        """The task with other ``k`` and ``episodes`` where given."""
        return replace(self, k=tuple(k or self.k), episodes=self.episodes if episodes is None else episodes)


def load_task(path: str | Path) -> FewShotTask:
    """Read a task's YAML file, given by its path or by the name of one that ships (``tasks/snr_mobility``).

    Raises:
        ConfigError: no such file, no YAML mapping, an unknown key (the message lists those that exist), a missing
            one or a value of the wrong type.
    """
    return task_from_dict(load_plain(str(path), FewShotTask), str(path))


def task_from_dict(plain: Any, source: str) -> FewShotTask:
    """Task from YAML's plain values; ``source`` names where they came from in messages.

    What a task says of a network's training changes that network's :data:`BUDGETS`.
    """
    if isinstance(plain, dict) and isinstance(plain.get("training"), dict):
        merged = {network: to_plain(budget) for network, budget in BUDGETS.items()}
        for network, changes in plain["training"].items():
            if network not in merged:
                raise ConfigError(f"{source}: training of {network!r}", f"keys among {list(BUDGETS)}")
            merged[network] = merged[network] | changes if isinstance(changes, dict) else changes
        plain = plain | {"training": merged}
    return read_settings(FewShotTask, plain, source)
