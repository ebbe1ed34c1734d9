"""RF-GPT's model folder without its base: adapter and low-rank updates; tower and language model are named.

``config.json`` says under ``base`` where both were, the SHA-256 of their weights and the language model's type of
numbers. A folder so small is of use only with exactly these two, so any other is refused.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from torch import Tensor, nn

from lwm.errors import LWMError, ModelError
from lwm.hub import WEIGHTS, from_pretrained, save_pretrained
from lwm.hub_config import build_checked
from lwm.hub_weights import load_strictly, read_weights, state_sha256, weights_sha256
from lwm.language.llm import Source, load_llm
from lwm.language.rfgpt import RFGPT
from lwm.models.lora import is_lora
from lwm.signal.recipe import Recipe

_OTHER = "give the one that it was tuned with, or tune again"


class AdapterPart(nn.Module):
    """What of an RF-GPT an adapter-only folder keeps; weights are the adapter's and the updates'.

    Args:
        whole: RF-GPT.
        base: what the folder says of tower and language model.
    """

    model_type: ClassVar[str] = RFGPT.model_type

    def __init__(self, whole: RFGPT, base: Mapping[str, Any]) -> None:
        super().__init__()
        self.whole, self.base = whole, dict(base)
        # Who evaluates the part and puts its mode back, as writing a folder does, must find the whole's own.
        self.training = whole.training

    @property
    def recipe(self) -> Recipe:
        """The tower's."""
        return self.whole.recipe

    def golden(self, x: Tensor) -> Tensor:
        """The whole model's."""
        return self.whole.golden(x)

    def get_config(self) -> dict[str, Any]:
        """The whole model's, with ``base`` instead of tower and language model."""
        config = {key: value for key, value in self.whole.get_config().items() if key not in ("tower", "llm")}
        return config | {"base": self.base}

    @classmethod
    def from_config(cls, config: dict[str, Any], recipe: Recipe) -> Any:
        """Not without its base: see :func:`load_adapter`."""
        raise ModelError("an adapter without its base", "a folder to load it from", "use lwm.from_pretrained")

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Those that the folder keeps."""
        return (value for name, value in self.whole.named_parameters(recurse=recurse) if _kept(name))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Weights and buffers that the folder keeps, by their names in the whole."""
        return {name: value for name, value in self.whole.state_dict().items() if _kept(name)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Put them into the whole; who calls has compared the names."""
        return self.whole.load_state_dict(state_dict, strict=False, assign=assign)


def save_adapter(
    model: RFGPT,
    folder: str | Path,
    llm: Source,
    tower: str | Path,
    provenance: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write adapter and low-rank updates into a model folder that names its base.

    Args:
        model: with a frozen tower, and a language model that learned by updates or not at all.
        folder: where to; must be empty or new unless ``overwrite``.
        llm: where its language model came from, as :func:`lwm.language.llm.load_llm` told.
        tower: the tower's model folder.
        provenance: see :func:`lwm.hub.save_pretrained`.
        overwrite: replace what is there.

    Returns:
        The folder.

    Raises:
        ModelError: tower or language model are not what their sources hold: they were trained themselves.
        OutputError: the folder is not empty or cannot be written.
    """
    mine = {"language model": base_sha256(model.llm), "tower": weights_sha256(model.tower)}
    theirs = {"language model": llm.sha256, "tower": weights_sha256(from_pretrained(tower))}
    for what, found in mine.items():
        if found != theirs[what]:
            raise ModelError(
                f"the {what} of this model has SHA-256 {found[:12]}..., its source {theirs[what][:12]}...",
                "a base that was not trained itself",
                "save the whole model with save_pretrained",
            )
    base = {"llm": llm._asdict(), "tower": {"path": str(tower), "sha256": mine["tower"]}}
    return save_pretrained(AdapterPart(model, base), folder, provenance, overwrite)


def load_adapter(
    folder: Path, config: dict[str, Any], recipe: Recipe, llm: str | Path | None = None, tower: str | Path | None = None
) -> RFGPT:
    """RF-GPT from an adapter-only folder and its base.

    Args:
        folder: the model folder.
        config: the model's part of its config.json.
        recipe: the folder's.
        llm: where the language model is now; None where it was.
        tower: where the tower's folder is now; None where it was.

    Raises:
        ModelError: the base is not there, or another one; or the weights do not fit.
        RecipeMismatch: the tower is of another recipe than the folder.
    """
    kind = SimpleNamespace(
        model_type=RFGPT.model_type, from_config=lambda plain, own: _on_base(folder, plain, own, llm, tower)
    )
    part: AdapterPart = build_checked(kind, config, recipe, str(folder / "config.json"))
    load_strictly(part, read_weights(folder, WEIGHTS), str(folder / WEIGHTS))
    return part.whole


def base_sha256(llm: nn.Module) -> str:
    """SHA-256 of a language model's weights as they were before low-rank updates were put in."""
    state = {name: value for name, value in llm.state_dict().items() if not is_lora(name)}
    return state_sha256({name.replace(".base_layer.", "."): value for name, value in state.items()})


def _on_base(
    folder: Path, config: dict[str, Any], recipe: Recipe, llm: str | Path | None, tower: str | Path | None
) -> AdapterPart:
    base = config["base"]
    told, place = base["llm"], str(llm or base["llm"]["path"])
    try:
        loaded = load_llm(place, told["dtype"], revision=None if llm else told["revision"])
    except LWMError as error:
        raise _unfound(folder, "llm", place, told["sha256"], error) from error
    _require(folder, "language model", place, loaded.source.sha256, told["sha256"])
    where = str(tower or base["tower"]["path"])
    try:
        encoder = from_pretrained(where)
    except LWMError as error:
        raise _unfound(folder, "tower", where, base["tower"]["sha256"], error) from error
    _require(folder, "tower", where, weights_sha256(encoder), base["tower"]["sha256"])
    encoder.recipe.require_same(recipe, f"the tower {where}", str(folder))
    return AdapterPart(RFGPT.build(encoder, config, loaded.llm), base)


def _unfound(folder: Path, what: str, place: str, wanted: str, error: LWMError) -> ModelError:
    return ModelError(
        f"{folder} needs the {what} {place} of SHA-256 {wanted:.12}..., which cannot be loaded ({error})",
        "its base",
        f"say where it is now: from_pretrained(folder, {what}=PATH)",
    )


def _require(folder: Path, what: str, place: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise ModelError(f"{what} {place} has SHA-256 {found:.12}...", f"{wanted:.12}... for {folder}", _OTHER)


def _kept(name: str) -> bool:
    return name.startswith("adapter.") or is_lora(name)
