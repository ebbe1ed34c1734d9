"""``lwm fewshot --data FOLDER``: a head from a folder of recordings, a subfolder a class, and what it is worth.

The recordings become a data set (``OUT/data``), shared out by recording (:mod:`lwm.evaluation.own_splits`); a head on
the frozen encoder, the same on random weights and the pictures' plain statistics learn from the same folds, in which
every recording is tested once. ``OUT/head`` is the first fold's model, ``OUT/results.json`` and ``OUT/report.md`` say
how good it is, by recording.
"""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lwm.console import progress, say
from lwm.data.dataset import SpectrogramDataset
from lwm.data.ingest import ingest
from lwm.data.lock import folder_lock
from lwm.data.manifest import Manifest
from lwm.data.sources import Source, find_sources, kind_of_sources, recording_name
from lwm.errors import ConfigError, OutputError
from lwm.evaluation.features import random_twin, require_encoder
from lwm.evaluation.metrics import Codes
from lwm.evaluation.own_contest import (
    LINEAR,
    HeadContestant,
    ProbeContestant,
    Result,
    classifier_named,
    encoder_features,
    plain_statistics,
)
from lwm.evaluation.own_report import Answers, summarise, tell, write_report
from lwm.evaluation.own_splits import Folds, WindowTable, draw_folds, require_enough
from lwm.hub import from_pretrained, save_pretrained, weights_sha256
from lwm.models.head import Head
from lwm.output import file_sha256, require_empty
from lwm.seeding import rng_for
from lwm.signal.csi_recipe import CsiRecipe

LABEL = "class"
DATA, HEAD, RESULTS = "data", "head", "results.json"

MOST_WINDOWS = 256
"""Windows of a recording that are used, spread over its length (ours): a long one shall not outweigh the others."""


def is_own_data(data: str) -> bool:
    """Whether ``--data`` is a folder of recordings and no data set."""
    path = Path(data)
    return path.is_dir() and not (path / "manifest.json").exists()


def own_data(
    model: str,
    data: str,
    out: str,
    head: str = LINEAR,
    seed: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    split_within_recordings: bool = False,
    reading: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Learn the classes of a folder of recordings on a frozen encoder, and say how well that works.

    Args:
        model: model folder of an encoder or a mixture of experts.
        data: folder with a subfolder of recordings for each class.
        out: folder for the data set, the head, results.json and report.md.
        head: registered head that tells classes apart; a linear one is solved on features of the best layer.
        seed: of the folds, of random weights and of training.
        overwrite: replace what a run left in ``out``.
        resume: go on with the data set that an interrupted run left in ``out``.
        split_within_recordings: cut the recordings of a class that has too few of them in time.
        reading: how recordings are read: options of :func:`lwm.data.ingest.ingest` among sample_rate (Hz), datatype,
            center_frequency (Hz), hop (s), dc_notch (Hz) and variable.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: a folder without classes, a class without a recording, two classes of one name or with one
            recording, or a head for something else.
        DatasetError: too few recordings of a class; the message says how many are needed.
        CaptureError: a recording that cannot be used, naming it.
        ModelError, RecipeMismatch: the model is no encoder, or one for other recordings.
        OutputError: the folder is not empty, or another run is writing to it.
    """
    folder, root = Path(out), Path(data)
    _check_output(folder, root, overwrite, resume)
    options = {name: value for name, value in (reading or {}).items() if value is not None}
    sources, groups = class_recordings(root, "datatype" in options)
    counts = {name: len({groups[source.path] for source in found}) for name, found in sources.items()}
    require_enough(counts, split_within_recordings)
    classifier = classifier_named(head)
    encoder: Any = require_encoder(from_pretrained(model), model)
    with folder_lock(folder):
        (folder / RESULTS).unlink(missing_ok=True)
        every = [source for found in sources.values() for source in found]
        adapts = _kind(every) != _kind_of(encoder) and _adapts(classifier)
        _take_in(root, folder / DATA, None if adapts else model, options, overwrite, resume)
        dataset = SpectrogramDataset(folder / DATA)
        mean, std = dataset.statistics[:2]
        encoder = classifier.prepare_encoder(encoder, dataset.recipe, (mean, std))
        encoder = encoder.to("cuda" if torch.cuda.is_available() else "cpu")
        rows, table = window_table(dataset, groups)
        folds = draw_folds(table, seed, split_within_recordings)
        answers, first = _contest(encoder, dataset, (rows, table), folds, (head, seed))
        results = summarise(answers, table, folds, dataset, rows)
        results |= {"head": head, "seed": seed, "model": Path(model).name, "reading": options}
        assert first.model is not None
        provenance = _provenance(results, encoder, folder / DATA, first)
        save_pretrained(first.model.cpu(), folder / HEAD, provenance, overwrite=overwrite or resume)
        write_report(folder, results, answers[0], table)
    tell(results)
    say(f"wrote {folder}: {DATA}/, {HEAD}/, report.md, {RESULTS}")
    say(f"next: lwm predict RECORDING --model {folder / HEAD} --out {folder / 'predictions'}")
    return results


def _check_output(folder: Path, root: Path, overwrite: bool, resume: bool) -> None:
    """Refuse to write among the recordings, or over a folder that is no earlier run's."""
    if resume and overwrite:
        raise ConfigError("--resume beside --overwrite", "one of them")
    require_empty(folder, resume=resume, overwrite=overwrite)
    if folder.resolve().is_relative_to(root.resolve()):
        raise OutputError(f"--out {folder} is inside {root}", "a folder outside of the recordings'")
    head = folder / HEAD
    if head.is_dir() and any(head.iterdir()) and not (head / "provenance.json").is_file():
        raise OutputError(f"{head} is no model folder", "one to overwrite", "choose another --out")


def class_recordings(root: Path, any_suffix: bool = False) -> tuple[dict[str, list[Source]], dict[Path, str]]:
    """The recordings of each class, and what belongs together: formats and copies of one recording.

    Returns:
        Class to recordings, in the order of the names; file to the name of its recording, one for copies.

    Raises:
        ConfigError: no or only one class folder, one without a recording, names that differ in case only, recordings
            outside of the class folders, or a recording that lies in two of them.
    """
    folders = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not folders:
        raise ConfigError(f"{root} holds no folder", "a folder of recordings for each class")
    clash: dict[str, list[str]] = defaultdict(list)
    for child in folders:
        clash[child.name.strip().casefold()].append(child.name)
    for same in clash.values():
        if len(same) > 1:
            raise ConfigError(f"class folders {same} of {root}", "names that differ", "join them or rename one")
    found: dict[str, list[Source]] = {child.name: [] for child in folders}
    for source in find_sources([str(root)], any_suffix=any_suffix):
        if LABEL not in source.labels:
            raise ConfigError(f"{source.path} lies in no class folder", "every recording in a folder of its class")
        found[source.labels[LABEL]].append(source)
    empty = [name for name, sources in found.items() if not sources]
    if empty:
        raise ConfigError(
            f"class folder {root / empty[0]} holds no readable recording",
            "SigMF, raw IQ, .npy, .wav, ... in every folder",
            "remove it, or state --datatype for raw IQ of another ending",
        )
    if len(found) < 2:
        raise ConfigError(f"{root} holds one class folder, {folders[0].name}", "two or more")
    return found, _groups(found)


def _groups(found: dict[str, list[Source]]) -> dict[Path, str]:
    """Name of the recording of each file; files of one name and folder, and copies, share theirs."""
    groups, sizes = {}, defaultdict(list)
    for name, sources in found.items():
        for source in sources:
            groups[source.path] = f"{name}/{recording_name(source.path)}"
            data = source.path.with_suffix(".sigmf-data")
            file = data if source.path.suffix == ".sigmf-meta" and data.is_file() else source.path
            if file.is_file():
                sizes[file.stat().st_size].append((source.path, name, file))
    for alike in sizes.values():
        first: dict[str, tuple[Path, str]] = {}
        for path, name, file in alike if len(alike) > 1 else ():
            original, its_class = first.setdefault(file_sha256(file), (path, name))
            if its_class != name:
                raise ConfigError(
                    f"{path} is a copy of {original}", "one class for each recording", "remove it from one of them"
                )
            groups[path] = groups[original]
    return groups


def window_table(dataset: SpectrogramDataset, groups: dict[Path, str]) -> tuple[Codes, WindowTable]:
    """The samples that are used, at most MOST_WINDOWS of a recording, and where they come from."""
    names: list[str] = []
    starts = np.empty(len(dataset))
    for row in range(len(dataset)):
        record = dataset.record(row)
        names.append(groups[Path(record["recording"])])
        starts[row] = record["start"] + float(record["facts"].get("segment_start_s") or 0.0)
    recordings, of = np.unique(names, return_inverse=True)
    kept = []
    for number in range(len(recordings)):
        own = np.flatnonzero(of == number)
        own = own[np.argsort(starts[own], kind="stable")]
        kept.append(own[np.unique(np.linspace(0, len(own) - 1, min(len(own), MOST_WINDOWS)).round().astype(np.int64))])
    rows = np.sort(np.concatenate(kept))
    codes = np.asarray(dataset.labels[LABEL])[rows]
    classes = list(dataset.label_names[LABEL])
    table = WindowTable(classes, codes, recordings.tolist(), of[rows], starts[rows], dataset.recipe.duration)
    return rows, table


def _contest(
    encoder: Any, dataset: SpectrogramDataset, windows: tuple[Codes, WindowTable], folds: Folds, how: tuple[str, int]
) -> tuple[list[Answers], Result]:
    """Every contestant's answers to all tested windows, the encoder's first; and the encoder's result of fold 0."""
    (rows, table), (head, seed) = windows, how
    twin = random_twin(encoder, int(rng_for(seed, "own data", "random").integers(2**31)))
    made: list[tuple[str, ProbeContestant | HeadContestant]] = []
    for key, one in (("encoder", encoder), ("random", twin)):
        if head == LINEAR:
            layers = encoder_features(one, dataset, rows, f"embed, {key}")
            made.append((key, ProbeContestant(layers, table.codes, table.classes, one)))
        else:
            made.append((key, HeadContestant(one, dataset, rows, table.codes, table.classes, head)))
    made.append(("statistics", ProbeContestant([plain_statistics(dataset, rows)], table.codes, table.classes)))
    answers, first = [], None
    with progress("learn", len(made) * len(folds.parts), "folds") as bar:
        for key, contestant in made:
            said = np.full((len(rows), len(table.classes)), np.nan)
            chosen = []
            for parts in folds.parts:
                result = contestant.run(parts, seed)
                said[parts["test"]] = result.probabilities
                chosen.append(result.chosen)
                first = result if first is None else first
                bar.update()
            answers.append(Answers(key, said, chosen))
    assert first is not None
    return answers, first


def _kind(sources: list[Source]) -> str:
    return kind_of_sources(sources, "auto")


def _kind_of(encoder: Any) -> str:
    return "csi" if isinstance(encoder.recipe, CsiRecipe) else "iq"


def _adapts(classifier: type[Head]) -> bool:
    """Whether a head brings an encoder to recordings of another kind."""
    return classifier.prepare_encoder.__func__ is not Head.prepare_encoder.__func__  # type: ignore[attr-defined]


def _take_in(
    root: Path, target: Path, model: str | None, options: dict[str, Any], overwrite: bool, resume: bool
) -> None:
    """The recordings as a data set, made with the model's recipe; one that an interrupted run made is kept."""
    if resume and (target / "manifest.json").is_file():
        made = Manifest.load(target).plan
        every = [str(source.path) for source in find_sources([str(root)], any_suffix="datatype" in options)]
        differs = [name for name, value in options.items() if made.get(name) != value]
        if made.get("files") == every and not differs:
            return
        raise ConfigError(
            f"{target} was made of other recordings or with another {', '.join(differs) or 'folder'}",
            "the settings of the run that is resumed",
            "choose another --out, or --overwrite",
        )
    ingest([str(root)], str(target), model=model, overwrite=overwrite, **options)


def _provenance(results: dict[str, Any], encoder: Any, data: Path, first: Result) -> dict[str, Any]:
    from lwm.tasks.base import source_commit

    own = results["contestants"][0]["first_fold"]
    known = {
        "command": os.environ.get("LWM_COMMAND", "lwm.evaluation.own_data.own_data"),
        "task": "own data",
        "seed": results["seed"],
        "commit": source_commit(),
        "encoder_sha256": weights_sha256(encoder),
        "data_sha256": file_sha256(data / "manifest.json"),
        "labels_seen": [LABEL],
        "chosen": first.chosen,
        "reading": results["reading"] | {"sample_rates": results["sample_rates"]},
        "metrics": {name: own[name] for name in ("recording_accuracy", "window_accuracy", "recordings")},
    }
    return {name: value for name, value in known.items() if value is not None}
