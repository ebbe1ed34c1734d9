"""Does a mixture know what it does not know: left-out technologies, and noise, against the protocols it knows."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lwm.channel.limits import require_number
from lwm.console import say
from lwm.data.dataset import SpectrogramDataset
from lwm.errors import DatasetError, ModelError
from lwm.evaluation.metrics import natural
from lwm.models.novelty import NoveltyDetector, expert_codes, sample_rates
from lwm.models.router_view import RouterView, joined, router_view, view_dataset
from lwm.seeding import rng_for
from lwm.signal.silence import noise_pictures

_NOISE_BATCH = 16

Scores = NDArray[np.floating[Any]] | NDArray[np.integer[Any]]


class Area(NamedTuple):
    """Area under the ROC curve in 0..1, and the standard error of it."""

    value: float
    error: float


class _Source(NamedTuple):
    name: str
    kind: str
    view: RouterView
    snr: NDArray[np.str_] | None


def novelty_report(
    moe: Any,
    known: SpectrogramDataset,
    unknown: Mapping[str, SpectrogramDataset],
    noise: int = 256,
    false_alarm: float = 0.05,
    seed: int = 0,
    detectors: Sequence[NoveltyDetector] | None = None,
    label: str = "technology",
) -> list[dict[str, Any]]:
    """How well a mixture's detector tells unknown signals and noise from the protocols that it knows.

    Args:
        moe: mixture with a detector.
        known: captures of its protocols that neither the router nor the detector has seen: a test split.
        unknown: captures of other technologies by name, for example
            ``{"wlan": SpectrogramDataset(folder, "test", 'technology == "wlan"')}``.
        noise: pictures of white noise, made by the recipe at the sample rates of ``known``; 0 for none.
        false_alarm: nominal share of known captures called unknown.
        seed: of the noise.
        detectors: to be compared on the same captures; the mixture's own by default.
        label: label whose names are the experts'.

    Returns:
        For each detector a record of all known captures, of each protocol, of each unknown source and of noise:
        ``score``, ``source``, ``kind`` (known, unknown or noise), ``captures``, ``false_alarm``, ``flagged`` (share
        called unknown: measured false alarms of known captures, detection rate of others), ``flagged_by_snr`` where
        the data tell the SNR, ``auroc`` against all known captures and ``auroc_error`` (None for known ones).
        Captures rank by novelty and, where that is the same, by the raw score: p-values are all alike beyond the
        strangest capture of the calibration.

    Raises:
        ModelError: no detector, or one fitted on too few captures for so few false alarms.
        DatasetError: a capture of ``known`` that no expert is for, one of ``unknown`` that an expert is for, or no
            sample rates to make noise at.
        RecipeMismatch: data of another recipe.
    """
    chosen = list(detectors) if detectors is not None else [one for one in [moe.detector] if one is not None]
    if not chosen:
        raise ModelError("a mixture without a novelty detector", "one", "fit it with lwm.models.novelty")
    sources = _sources(moe, known, unknown, label)
    if require_number("noise", noise):
        pictures = noise_pictures(moe.recipe, noise, _rates(known), rng_for(seed, "novelty", "noise"))
        parts = [router_view(moe.router, part) for part in pictures.split(_NOISE_BATCH)]
        sources.append(_Source("white noise", "noise", joined(parts), None))
    records = [record for detector in chosen for record in _records(detector, sources, false_alarm)]
    for record in records:
        if record["auroc"] is not None:
            say(f"{record['score']}: {record['source']} AUROC {record['auroc']:.3f}, flagged {record['flagged']:.3f}")
    return records


def auroc(known: Scores, unknown: Scores) -> Area:
    """Chance that an unknown capture is stranger than a known one, ties counting half, from scores ``[n]`` and ``[m]``.

    The standard error is Hanley and McNeil's (1982, Radiology 143:29), for captures that are independent of each
    other; several pictures of one waveform are not, and the error is then larger.

    Raises:
        DatasetError: no scores on one side.
    """
    if not len(known) or not len(unknown):
        raise DatasetError(f"{len(known)} known and {len(unknown)} unknown captures", "some of both")
    ordered = np.sort(known)
    wins = np.searchsorted(ordered, unknown, "left").sum() + np.searchsorted(ordered, unknown, "right").sum()
    area = float(wins / (2 * len(known) * len(unknown)))
    of_unknown, of_known = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area)
    variance += (len(unknown) - 1) * (of_unknown - area**2) + (len(known) - 1) * (of_known - area**2)
    return Area(area, float(np.sqrt(max(variance, 0.0) / (len(known) * len(unknown)))))


def ranked(first: Scores, second: Scores) -> NDArray[np.int64]:
    """Rank of each pair ``(first, second)`` ``[n]`` in lexicographic order, int64 ``[n]``; equal pairs share one."""
    pairs = np.column_stack([first, second])
    ranks: NDArray[np.int64] = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
    return ranks


def novelty_table(records: list[dict[str, Any]]) -> str:
    """The records of :func:`novelty_report` as a Markdown table."""
    lines = [
        "| score | source | kind | captures | AUROC ± standard error | called unknown (nominal false alarms) |",
        "|---|---|---|---|---|---|",
    ]
    for row in records:
        area = "–" if row["auroc"] is None else f"{row['auroc']:.3f} ± {row['auroc_error']:.3f}"
        lines.append(
            f"| {row['score']} | {row['source']} | {row['kind']} | {row['captures']} | {area}"
            f" | {100 * row['flagged']:.1f} % ({100 * row['false_alarm']:g} %) |"
        )
    return "\n".join(lines) + "\n"


def _sources(
    moe: Any, known: SpectrogramDataset, unknown: Mapping[str, SpectrogramDataset], label: str
) -> list[_Source]:
    """Views of all known captures, of each protocol's, and of each unknown source."""
    names = list(moe.expert_names)
    codes, view, snr = expert_codes(known, names, label), view_dataset(moe.router, known), _snr(known)
    sources = [_Source("all known", "known", view, snr)]
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        part = RouterView(*(values[torch.from_numpy(rows)] for values in view))
        sources.append(_Source(names[code], "known", part, None if snr is None else snr[rows]))
    for name, dataset in unknown.items():
        found = set(_texts(dataset, label).tolist()) if label in dataset.labels else set()
        if found & set(names):
            raise DatasetError(
                f"unknown source {name!r} with {label} {sorted(found & set(names))}", f"none of {names}", "use where"
            )
        sources.append(_Source(name, "unknown", view_dataset(moe.router, dataset), _snr(dataset)))
    return sources


def _records(detector: NoveltyDetector, sources: list[_Source], false_alarm: float) -> list[dict[str, Any]]:
    limit, device = detector.threshold(false_alarm), detector.calibration.device
    views = [[values.to(device) for values in source.view] for source in sources]
    novelty = [detector.novelty(*view).cpu().numpy() for view in views]
    scores = [detector.score(*view).cpu().numpy() for view in views]
    ranks = np.split(ranked(np.concatenate(novelty), np.concatenate(scores)), np.cumsum([*map(len, novelty)])[:-1])
    records = []
    for source, strange, rank in zip(sources, novelty, ranks, strict=True):
        # In float32 as the values are, so that one at the limit is called unknown.
        flagged = strange >= np.float32(limit)
        area = auroc(ranks[0], rank) if source.kind != "known" else None
        record = {
            "score": detector.config.score,
            "source": source.name,
            "kind": source.kind,
            "captures": len(flagged),
            "false_alarm": false_alarm,
            "flagged": float(flagged.mean()),
            "auroc": area and area.value,
            "auroc_error": area and area.error,
        }
        if source.snr is not None:
            levels = sorted(set(source.snr.tolist()), key=natural)
            record["flagged_by_snr"] = {level: float(flagged[source.snr == level].mean()) for level in levels}
        records.append(record)
    return records


def _snr(dataset: SpectrogramDataset) -> NDArray[np.str_] | None:
    return _texts(dataset, "snr") if "snr" in dataset.labels else None


def _texts(dataset: SpectrogramDataset, label: str) -> NDArray[np.str_]:
    """Name of each sample's label ``[N]``, ``""`` where it has none."""
    return np.array([*dataset.label_names[label], ""], dtype=str)[dataset.labels[label]]


def _rates(dataset: SpectrogramDataset) -> NDArray[np.float64]:
    """Sample rates in Hz of captures; DatasetError where there are none."""
    rates = sample_rates(dataset)
    if not len(rates):
        raise DatasetError(f"no sample rates in {dataset.root}", "captures of IQ", "ask for no noise")
    return rates
