"""Options of pretraining in groups; a checkpoint keeps them as plain dicts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar, cast, get_args

from lwm.errors import ConfigError

Target = Literal["input", "clean", "latent"]
Contrast = Literal["none", "supervised", "self"]
Pair = Literal["views", "origin"]

MOST_LABELS = 4
"""Labels whose codes fit into one number beside each other."""


@dataclass(frozen=True)
class Terms:
    """What the loss is made of: lambda_r * reconstruction + lambda_c * contrast.

    A list of weights divides the run into as many equal stages: ``[0, 0.3]`` brings a term in at half time.

    Args:
        lambda_reconstruction: weight of the masked term (of the latent one, where the target is latent).
        lambda_contrast: weight of the contrastive term.
        contrast: ``supervised`` pulls samples of equal labels together (Khosla et al. 2020); ``self`` pulls the two
            halves of a pair together and needs no labels.
        labels: of ``supervised``; samples are alike when they agree in all of them.
        pair: of ``self``: two augmented ``views`` of one picture, or another picture of the same ``origin``: a second
            channel draw of one waveform, a second window of one recording.
        augment: also give ``supervised`` a changed view of each picture (``self`` with ``views`` always does).
        temperature: of the contrast.
        projection: width of the embedding that is contrasted, made by a two-layer head that is thrown away.
    """

    lambda_reconstruction: float | list[float] = 1.0
    lambda_contrast: float | list[float] = 0.3
    contrast: Contrast = "none"
    labels: list[str] = field(default_factory=list)
    pair: Pair = "views"
    augment: bool = False
    temperature: float = 0.2
    projection: int = 128

    def __post_init__(self) -> None:
        _require_known("contrast", self.contrast, Contrast)
        _require_known("pair", self.pair, Pair)
        for name in ("lambda_reconstruction", "lambda_contrast"):
            weights = stages(getattr(self, name))
            if not weights or min(weights) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}", "a weight >= 0, or one for each stage of the run")
        if not (self.temperature > 0 and self.projection > 0):
            raise ConfigError(f"temperature {self.temperature}, projection {self.projection}", "both above 0")
        if (self.contrast == "supervised") != bool(self.labels):
            raise ConfigError(f"contrast {self.contrast!r} with labels {self.labels}", "labels for 'supervised' only")
        if len(self.labels) > MOST_LABELS:
            raise ConfigError(f"{len(self.labels)} labels for the contrast", f"at most {MOST_LABELS}")
        if not any(max(pair) > 0 for pair in self.all_weights()):
            raise ConfigError("a loss without terms", "a weight above 0", "set terms.contrast or the weights")

    def all_weights(self) -> list[tuple[float, float]]:
        """Weights (reconstruction, contrast) of every stage that differs from its neighbours."""
        marks = {0.0}
        for given in (self.lambda_reconstruction, self.lambda_contrast):
            count = len(stages(given))
            marks |= {number / count for number in range(count)}
        return [self.weights(mark) for mark in sorted(marks)]

    def weights(self, progress: float) -> tuple[float, float]:
        """Weights (reconstruction, contrast) at a share of the run, 0 to 1."""
        contrast = _at(self.lambda_contrast, progress) if self.contrast != "none" else 0.0
        return _at(self.lambda_reconstruction, progress), contrast

    @property
    def final(self) -> tuple[float, float]:
        """Weights of the last stage; validation uses them throughout."""
        return self.weights(1.0)


@dataclass(frozen=True)
class Training:
    """How the weights move.

    Args:
        learning_rate: peak rate of AdamW.
        weight_decay: decay of matrices.
        warmup_share: share of the steps in which the rate rises.
        final_share: where the cosine ends, as a share of the peak.
        layer_decay: factor on the rate for each block further from the output; 1: all alike.
        teacher_decay: of the latent target's teacher at the start; it rises to 1 in a straight line (I-JEPA).
        ema_decay: of an average of the encoder's weights, which is then what is exported; 0: none.
        compile: ``torch.compile`` the model.
        checkpointing: recompute activations in the backward pass.
        weights: start from these: a model folder, a run's ``.ckpt``, or a timm ViT's ``.safetensors``/``.pth``. Only
            weights are taken; ``--resume`` goes on with a run.
        seed: of masks and views; step n of a run has the same ones however often it was interrupted.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_share: float = 0.1
    final_share: float = 1e-3
    layer_decay: float = 1.0
    teacher_decay: float = 0.996
    ema_decay: float = 0.0
    compile: bool = False
    checkpointing: bool = False
    weights: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and self.weight_decay >= 0 and self.seed >= 0):
            raise ConfigError(
                f"learning_rate {self.learning_rate}, weight_decay {self.weight_decay}, seed {self.seed}",
                "a rate above 0, decay and seed of 0 or more",
            )
        for name, least in (("warmup_share", 0.0), ("final_share", 0.0), ("teacher_decay", 0.0), ("ema_decay", 0.0)):
            if not least <= getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}", "at least 0 and below 1")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay {self.layer_decay}", "above 0 and at most 1")


@dataclass(frozen=True)
class Shape:
    """Changes to a named size's encoder and decoder; None keeps the size's.

    Args:
        patch: side of a patch in cells.
        position: fixed sines or a learned table.
        cls_token: a learned token before the patches'.
        registers: further learned tokens.
        stem: one linear layer a patch, or a pyramid of them.
        decoder: attention of the decoder: among all tokens, or from hidden to visible ones only (CrossMAE).
    """

    patch: int | None = None
    position: Literal["sinusoidal", "learned"] | None = None
    cls_token: bool = False
    registers: int = 0
    stem: Literal["linear", "pyramid"] | None = None
    decoder: Literal["self", "cross"] = "self"


Group = TypeVar("Group")


def group_of(kind: type[Group], given: Group | Mapping[str, Any] | None) -> Group:
    """A group of options (a dataclass) from itself, from a checkpoint's dict, or its defaults.

    Raises:
        ConfigError: an option that does not exist, or a value out of range.
    """
    if given is None:
        return kind()
    if isinstance(given, kind):
        return given
    plain = dict(cast("Mapping[str, Any]", given))
    known = [option.name for option in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(plain) - set(known))
    if unknown:
        raise ConfigError(f"{kind.__name__.lower()} with unknown options {unknown}", f"some of {known}")
    return kind(**plain)


def stages(weight: float | list[float]) -> list[float]:
    """Weights of the stages of a run, one where it is a plain number."""
    return [float(value) for value in weight] if isinstance(weight, list) else [float(weight)]


def _at(weight: float | list[float], progress: float) -> float:
    values = stages(weight)
    return values[min(int(progress * len(values)), len(values) - 1)]


def _require_known(what: str, value: str, kind: Any) -> None:
    if value not in get_args(kind):
        raise ConfigError(f"{what} {value!r}", f"one of {list(get_args(kind))}")
