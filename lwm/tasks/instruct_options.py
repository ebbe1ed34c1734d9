"""Options of instruction tuning in groups; a checkpoint keeps them as plain dicts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from lwm.errors import ConfigError
from lwm.tasks.options import group_of
from lwm.tasks.schedule import warmup_cosine

Part = Literal["adapter", "llm", "tower"]
PARTS: tuple[Part, ...] = get_args(Part)
"""What has a learning rate of its own."""


@dataclass(frozen=True)
class Stage:
    """A stretch of the run with one peak learning rate a part; 0 freezes the part.

    Args:
        share: length, relative to the other stages'.
        adapter: rate of the adapter.
        llm: rate of the language model, or of its LoRA weights where it has any.
        tower: rate of the tower.
    """

    share: float = 1.0
    adapter: float = 0.0
    llm: float = 0.0
    tower: float = 0.0

    def __post_init__(self) -> None:
        rates = [self.rate(part) for part in PARTS]
        if not (0 < self.share < float("inf") and all(0 <= rate < float("inf") for rate in rates) and any(rates)):
            raise ConfigError(
                f"a stage of share {self.share} with rates {dict(zip(PARTS, rates, strict=True))}",
                "a share above 0, rates of 0 or more and one of them above 0",
            )

    def rate(self, part: Part) -> float:
        """Peak learning rate of a part."""
        return float(getattr(self, part))


@dataclass(frozen=True)
class Lora:
    """Low-rank updates of a language model (Hu et al. 2021, arXiv 2106.09685); its own weights stay frozen.

    Args:
        rank: of an update.
        alpha: an update counts alpha / rank.
        dropout: share of an update's inputs that are dropped in training.
        targets: names of the linear layers that get one, or ``all-linear``: all but the output layer.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str | list[str] = "all-linear"

    def __post_init__(self) -> None:
        if not (self.rank >= 1 and self.alpha > 0 and 0 <= self.dropout < 1 and self.targets):
            raise ConfigError(
                f"LoRA of rank {self.rank}, alpha {self.alpha}, dropout {self.dropout}, targets {self.targets}",
                "rank of 1 or more, alpha above 0, dropout below 1, some targets",
            )

    def plain(self) -> dict[str, Any]:
        """Options as :func:`lwm.models.lora.add_lora` takes them."""
        return asdict(self) | {"targets": None if self.targets == "all-linear" else self.targets}


@dataclass(frozen=True)
class Tuning:
    """How the weights move; lengths and rates are the stages'.

    Args:
        weight_decay: decay of matrices.
        warmup_share: share of a stage's steps in which its rates rise (5 % in arXiv 2602.14833).
        final_share: where a stage's cosine ends, as a share of the peaks.
        checkpointing: recompute the language model's activations in the backward pass: less memory, more time.
        seed: of dropout; step n of a run has the same one however often it was interrupted.
    """

    weight_decay: float = 0.05
    warmup_share: float = 0.05
    final_share: float = 1e-3
    checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        shares = (self.warmup_share, self.final_share)
        if not (self.weight_decay >= 0 and all(0 <= share < 1 for share in shares) and self.seed >= 0):
            raise ConfigError(
                f"weight_decay {self.weight_decay}, warmup_share and final_share {shares}, seed {self.seed}",
                "decay and seed of 0 or more, shares of at least 0 and below 1",
            )


@dataclass(frozen=True)
class Schedule:
    """Stages laid over a run's steps.

    Args:
        stages: in order.
        total: optimizer steps of the run.
        options: warm-up and end of each stage's cosine.

    Raises:
        ConfigError: fewer steps than stages.
    """

    stages: Sequence[Stage]
    total: int
    options: Tuning = field(default_factory=Tuning)

    def __post_init__(self) -> None:
        if self.total < len(self.stages):
            raise ConfigError(
                f"{self.total} steps for {len(self.stages)} stages", "at least one step a stage", "train longer"
            )

    @property
    def borders(self) -> list[int]:
        """First step of every stage, and the number of steps behind them: shares rounded, each at least one step."""
        whole = sum(stage.share for stage in self.stages)
        found, passed = [0], 0.0
        for number, stage in enumerate(self.stages, start=1):
            passed += stage.share
            left = len(self.stages) - number
            found.append(min(max(round(self.total * passed / whole), found[-1] + 1), self.total - left))
        return found

    def at(self, step: int) -> int:
        """Which stage a step is in; the last one from the end on."""
        return min(sum(step >= border for border in self.borders[1:]), len(self.stages) - 1)

    def rate(self, part: Part, step: int) -> float:
        """Learning rate of a part at a step: in every stage a warm-up and a cosine of its own."""
        borders, number = self.borders, self.at(step)
        first, last = borders[number], borders[number + 1]
        factor = warmup_cosine(last - first, self.options.warmup_share, self.options.final_share)
        return self.stages[number].rate(part) * factor(step - first)


def stages_of(given: Sequence[Stage | Mapping[str, Any]] | None) -> list[Stage]:
    """Stages from themselves or a checkpoint's dicts; None: one stage of adapter and language model, as for a model
    from scratch.

    Raises:
        ConfigError: no stage, an unknown option or a value out of range.
    """
    if given is None:
        return [Stage(adapter=2e-3, llm=2e-3)]
    if not given:
        raise ConfigError("no stage", "one or more", "set model.stages")
    return [group_of(Stage, stage) for stage in given]
