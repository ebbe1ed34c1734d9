"""``lwm add-expert``: one more protocol into a mixture; only its column of the router is trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lwm.console import say
from lwm.data.datamodule import ShardDataModule
from lwm.data.mixing import MixedDataset
from lwm.errors import ConfigError, DatasetError, ModelError
from lwm.hub import from_pretrained, save_pretrained, weights_sha256
from lwm.models.encoder import SpectrogramEncoder
from lwm.models.moe import MoEEncoder, require_alike
from lwm.models.novelty import NoveltyDetector, NoveltyScore, fit_detector, silence_view
from lwm.models.router import Router
from lwm.models.router_view import Codes, RouterView, experts_of, view_dataset
from lwm.output import file_sha256, require_empty
from lwm.tasks.base import run_provenance

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""L2 penalties on the new column's weights (of standardised features), the best of which validation chooses."""

MOST_LOST = 0.02
"""Validation accuracy that an old protocol may lose to the new one before a run says so."""

_STEPS = 200
"""Most iterations of L-BFGS; the loss is convex in one row of the head, a few dozen are enough."""

_SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Cached:
    """A split as the frozen trunk sees it.

    Args:
        features: of the router, float32 ``[N, W]``.
        truth: index of the right expert int64 ``[N]``.
        weight: of each sample ``[N]``, adding up to 1 and to the same for every expert: a balanced mix.
    """

    features: Tensor
    truth: Tensor
    weight: Tensor


def add_expert(
    model: str,
    expert: str,
    data: list[str],
    out: str,
    label: str = "technology",
    batch_size: int = 128,
    overwrite: bool = False,
) -> Path:
    """Add a pretrained expert to a mixture and train the router's new column, nothing else.

    The other experts, the router's trunk and its other columns stay as they are, bit for bit. The new row of weights
    and its bias minimise the cross entropy over all protocols, each counting alike, on router features computed once.
    The temperature, in the same balance, and the novelty detector, where the mixture has one, are fitted again with the
    new protocol among those that are known.

    Args:
        model: folder of the mixture; it is not changed.
        expert: model folder of an encoder with a name of its own, of the mixture's recipe, width and grid.
        data: data sets that together hold train and validation samples of every protocol, the new one's included.
        out: folder to write.
        label: label whose names are the experts'.
        batch_size: pictures at a time.
        overwrite: replace what is in the output folder.

    Returns:
        The new model folder.

    Raises:
        ModelError: no mixture, no named encoder, a name that the mixture has, or another width or grid.
        RecipeMismatch: expert or data of another recipe.
        DatasetError: a protocol without samples.
        ConfigError: the output folder is the mixture's or the expert's.
        OutputError: the output folder is not empty.
    """
    folder = _own_folder(out, (model, expert), overwrite)
    mixture, newcomer = _load(model, expert)
    names = (*mixture.expert_names, newcomer.name)
    loaded = ShardDataModule(data, batch_size)
    loaded.setup("fit")
    mixture.recipe.require_same(loaded.recipe, f"model {model}", f"data {data}")
    train, validation = (_cached(mixture.router, loaded.datasets[s], s, label, names, batch_size) for s in _SPLITS)
    router = mixture.router.with_expert(newcomer.name)
    strength = fit_column(router, train, validation)
    figures = {
        "before": routing_figures(mixture.router, _without(validation, len(names) - 1)),
        "after": routing_figures(router, validation) | {"strength": strength},
    }
    router.calibrate(router.head(validation.features), validation.truth, validation.weight)
    experts: dict[str, Any] = {**mixture.experts, newcomer.name: newcomer}
    wider = MoEEncoder(experts, router, mixture.mode, mixture.top_k).eval()
    if mixture.detector is not None:
        silence = silence_view(router, loaded.datasets["validation"])
        if mixture.detector.config.silence and silence is None:
            say("the data have no sample rates: the new mixture's novelty detector does not test for white noise")
        wider.set_detector(refitted(mixture.detector.config.score, router, train, validation, silence))
    made = run_provenance(loaded) | _origins(wider, model, expert)
    made |= {"validation": figures, "metrics": {"val_accuracy": figures["after"]["accuracy"]}}
    save_pretrained(wider, folder, made, overwrite=overwrite)
    _conclude(folder, newcomer.name, figures)
    return folder


def _own_folder(out: str, sources: tuple[str, ...], overwrite: bool) -> Path:
    folder = Path(out)
    if folder.resolve() in [Path(source).resolve() for source in sources]:
        raise ConfigError(f"--out {out} is what the new mixture is made from", "a folder of its own")
    require_empty(folder, overwrite=overwrite)
    return folder


def _load(model: str, expert: str) -> tuple[MoEEncoder, SpectrogramEncoder]:
    """The mixture and the newcomer, which fit together."""
    mixture, newcomer = from_pretrained(model), from_pretrained(expert)
    if not isinstance(mixture, MoEEncoder):
        raise ModelError(f"{model} holds a {type(mixture).__name__}", "a mixture of experts", "lwm export writes one")
    if not isinstance(newcomer, SpectrogramEncoder) or not newcomer.name:
        raise ModelError(
            f"{expert} holds a {type(newcomer).__name__} without a name",
            "an encoder with a name of its own",
            "pretrain it with model.name",
        )
    if newcomer.name in mixture.expert_names:
        raise ModelError(
            f"{expert} is named {newcomer.name!r}, as an expert of {model} is",
            f"a name other than {list(mixture.expert_names)}",
        )
    require_alike({**mixture.experts, newcomer.name: newcomer})  # type: ignore[dict-item]
    return mixture, newcomer


def _cached(
    router: Router, dataset: MixedDataset, split: str, label: str, names: tuple[str, ...], batch_size: int
) -> Cached:
    """Router features of every sample that an expert is for."""
    truth = experts_of(dataset, names, label)
    kept = np.flatnonzero(truth >= 0)
    counts = np.bincount(truth[kept], minlength=len(names))
    if not counts.all():
        missing = [name for name, count in zip(names, counts, strict=True) if not count]
        raise DatasetError(
            f"no {split} samples of {missing}", f"some of every {label} of the mixture", "give more folders to --data"
        )
    weight = 1 / (len(names) * counts[truth[kept]])
    return Cached(
        _features(router, dataset, kept, batch_size), torch.from_numpy(truth[kept]), torch.from_numpy(weight).float()
    )


def _features(router: Router, dataset: MixedDataset, kept: Codes, batch_size: int) -> Tensor:
    """float32 ``[N, W]`` on the CPU."""
    router.to("cuda" if torch.cuda.is_available() else "cpu")
    features = view_dataset(router, dataset, kept, batch_size).features
    router.to("cpu")
    return features


def _without(split: Cached, expert: int) -> Cached:
    """The samples of all other experts, still balanced."""
    kept = split.truth != expert
    weight = split.weight[kept]
    return Cached(split.features[kept], split.truth[kept], weight / weight.sum())


def fit_column(router: Router, train: Cached, validation: Cached) -> float:
    """Fit the last row of the router's head, weights and bias; returns the strength that validation chose.

    Multinomial logistic regression in which all logits but the last are given: convex, solved by L-BFGS on
    standardised features, from zero, so that the same data give the same column.

    Args:
        router: changed in place, in that row only.
        train: to fit on.
        validation: on which the lowest balanced cross entropy wins.
    """
    weight, bias = router.head.weight, router.head.bias
    shift, scale = train.features.mean(0), train.features.std(0).clamp(min=1e-6)
    best: tuple[float, float, Tensor, Tensor] | None = None
    for strength in STRENGTHS:
        row, offset = _solve(router, train, shift, scale, strength)
        row, offset = row / scale, offset - (row * shift / scale).sum()
        loss = float(_cross_entropy(_logits(router, validation.features, row, offset), validation))
        if best is None or loss < best[0]:
            best = (loss, strength, row, offset)
    assert best is not None
    with torch.no_grad():
        weight[-1], bias[-1] = best[2], best[3]
    return best[1]


def _solve(router: Router, train: Cached, shift: Tensor, scale: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Row ``[W]`` and bias of standardised features."""
    standard = (train.features - shift) / scale
    with torch.no_grad():
        given = router.head(train.features)[:, :-1]
    row = torch.zeros(standard.shape[1], requires_grad=True)
    offset = torch.zeros((), requires_grad=True)
    solver = torch.optim.LBFGS([row, offset], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        logits = torch.cat([given, (standard @ row + offset)[:, None]], 1)
        loss = _cross_entropy(logits, train) + strength * row.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    return row.detach(), offset.detach()


@torch.no_grad()
def _logits(router: Router, features: Tensor, row: Tensor, offset: Tensor) -> Tensor:
    return torch.cat([router.head(features)[:, :-1], (features @ row + offset)[:, None]], 1)


def _cross_entropy(logits: Tensor, split: Cached) -> Tensor:
    return (split.weight * functional.cross_entropy(logits, split.truth, reduction="none")).sum()


def refitted(
    score: NoveltyScore, router: Router, train: Cached, validation: Cached, silence: RouterView | None
) -> NoveltyDetector:
    """A novelty detector for the router's protocols as they are now, from cached features."""
    seen, held = (RouterView(part.features, router.head(part.features)) for part in (train, validation))
    return fit_detector(score, router.names, seen, train.truth.numpy(), held, silence)


@torch.no_grad()
def routing_figures(router: Router, split: Cached) -> dict[str, Any]:
    """JSON-able ``accuracy`` (each protocol counting alike) and ``accuracy_by_protocol`` of a split."""
    right = (router.head(split.features).argmax(1) == split.truth).float()
    present = split.truth.unique().tolist()
    return {
        "accuracy": float((right * split.weight).sum()),
        "accuracy_by_protocol": {router.names[e]: float(right[split.truth == e].mean()) for e in present},
    }


def _origins(wider: MoEEncoder, model: str, expert: str) -> dict[str, Any]:
    """Provenance: where each expert and each part of the router came from.

    Of an expert the folder, the SHA-256 of its weights, and that of the folder's own provenance, where it has one.
    """
    *known, added = wider.expert_names
    records = {place: Path(place) / "provenance.json" for place in (model, expert)}
    hashes = {place: file_sha256(path) for place, path in records.items() if path.is_file()}
    experts = {}
    for name, encoder in wider.experts.items():
        place = expert if name == added else model
        experts[name] = {"from": place, "weights_sha256": weights_sha256(encoder)}
        experts[name] |= {"provenance_sha256": hashes[place]} if place in hashes else {}
    router = {
        "trunk": model,
        "columns": dict.fromkeys(known, model) | {added: "trained here"},
        "temperature": float(wider.router.temperature),
    }
    options = {"model": model, "expert": expert}
    return {"task": "add-expert", "options": options, "experts": experts, "router": router}


def _conclude(folder: Path, added: str, figures: dict[str, Any]) -> None:
    before, after = figures["before"]["accuracy_by_protocol"], figures["after"]["accuracy_by_protocol"]
    said = ", ".join(
        f"{name} {share:.3f}" + (f" (was {before[name]:.3f})" if name in before else "")
        for name, share in after.items()
    )
    say(f"validation samples routed to their own expert: {said}")
    lost = {name: share - after[name] for name, share in before.items() if share - after[name] > MOST_LOST}
    if lost:
        losses = ", ".join(f"{name} {100 * share:.1f}" for name, share in lost.items())
        say(f"warning: {added} takes points of validation accuracy from old protocols: {losses}")
    say(f"wrote {folder} with {added}; check it with `lwm doctor {folder}`")
