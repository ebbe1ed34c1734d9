"""Contestants by name: ``model/regime/head``, and the short names of those that every table has.

| regime | what learns from the labels |
|---|---|
| frozen | a linear model on pooled features: logistic regression or a discriminant, for quantities ridge regression |
| knn | nothing: the nearest training samples vote, by cosine of standardised features |
| head | a registered head, trained by gradient on the frozen tokens |
| lora | low-rank changes of the blocks' linear layers (Hu et al. 2022) and the head |
| partial | the last blocks and the head |
| finetuned | all weights and the head, learning rates falling from block to block towards the input |
| scratch | all weights, from random ones |

Short forms: a regime alone is the encoder's (``lora``), a model alone has its only or first regime (``random``,
``cnn``), ``head/NAME`` is the encoder's head of that name.
"""

from dataclasses import dataclass
from typing import Self

from lwm.errors import ConfigError

REGIMES = ("frozen", "knn", "head", "lora", "partial", "finetuned", "scratch")

FAMILIES = {"head": ("head",), "tuned": ("lora", "partial", "finetuned"), "scratch": ("scratch",)}
"""Families of regimes that are trained by gradient: each has one budget and one tuning grid for all its models."""

NETWORKS = ("cnn", "deep_cnn", "resnet18", "efficientnet_b0", "mobilenetv3")
"""Networks of :mod:`lwm.evaluation.regimes.scratch`."""

_OF_MODEL = {
    "encoder": REGIMES,
    "random": REGIMES[:-1],
    "trivial": ("frozen", "knn"),
    "local": ("frozen", "knn"),
    **dict.fromkeys(NETWORKS, ("scratch",)),
}
"""Regimes that a model can be in, the one it is in where none is said first."""

MODELS = tuple(_OF_MODEL)

_MODEL_TITLES = {
    "encoder": "encoder",
    "random": "encoder, random weights",
    "trivial": "trivial statistics",
    "local": "trivial and local statistics",
    "cnn": "small CNN",
    "deep_cnn": "deep CNN",
    "resnet18": "ResNet-18",
    "efficientnet_b0": "EfficientNet-B0",
    "mobilenetv3": "MobileNet-V3",
}
_REGIME_TITLES = {
    "frozen": "frozen",
    "knn": "nearest neighbours",
    "head": "frozen",
    "lora": "LoRA",
    "partial": "last blocks tuned",
    "finetuned": "fine-tuned",
    "scratch": "from scratch",
}
_HEAD_REGIMES = ("head", "lora", "partial", "finetuned")


@dataclass(frozen=True)
class Contestant:
    """One row of a table.

    Args:
        name: as the task writes it; identifies the contestant in records.
        model: one of MODELS.
        regime: one of REGIMES.
        head: registered head, or None for the regime's own (the task's, where the regime takes one).
    """

    name: str
    model: str
    regime: str
    head: str | None = None

    @classmethod
    def parse(cls, name: str) -> Self:
        """The contestant that a name stands for; ConfigError says what can be written."""
        parts = name.split("/")
        if parts[0] in REGIMES:
            parts.insert(0, "encoder")
        if parts[0] not in MODELS or len(parts) > 3:
            raise ConfigError(f"contestant {name!r}", f"model/regime/head with a model of {list(MODELS)}")
        model, regime, head = (*parts, None, None)[:3]
        allowed = _OF_MODEL[parts[0]]
        regime = regime or allowed[0]
        if regime not in allowed:
            raise ConfigError(f"contestant {name!r}", f"{model} with a regime of {list(allowed)}")
        found = cls(name, str(model), regime, head)
        if head is not None and not found.carries_head:
            raise ConfigError(f"contestant {name!r} with a head", f"one of {list(_HEAD_REGIMES)}, which takes one")
        return found

    @property
    def carries_head(self) -> bool:
        """Whether it is an encoder under a registered head."""
        return self.regime in _HEAD_REGIMES or (self.model, self.regime) == ("encoder", "scratch")

    @property
    def family(self) -> str | None:
        """Family whose budget it is trained with; None where nothing is trained by gradient."""
        return next((name for name, regimes in FAMILIES.items() if self.regime in regimes), None)

    @property
    def pretrained(self) -> bool:
        """Whether it starts from pretrained weights."""
        return self.model == "encoder" and self.regime != "scratch"

    @property
    def title(self) -> str:
        """Name in tables and pictures; a head is named where the contestant's name does."""
        said = _MODEL_TITLES[self.model]
        if self.model in NETWORKS or (self.model in ("random", "trivial", "local") and self.regime == "frozen"):
            return said
        if (self.model, self.regime) == ("encoder", "scratch"):
            said = "same ViT"
        said = f"{said}, {_REGIME_TITLES[self.regime]}"
        head = self.head or ("trained" if self.regime == "head" else "")
        return f"{said}, {head} head" if head else said
