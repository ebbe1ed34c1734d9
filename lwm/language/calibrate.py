"""Confidence of a trained RF-GPT calibrated on the validation split of its data, and checked on another."""

from pathlib import Path
from typing import Any

import numpy as np

from lwm.data.dataset import SpectrogramDataset
from lwm.errors import DatasetError
from lwm.hub import save_pretrained
from lwm.language.answerers import RFGPTAnswerer
from lwm.language.confidence import Confidence, Method, before_and_after, of_one_value
from lwm.language.converse import load_rfgpt
from lwm.language.datamodule import label_values
from lwm.language.metrics import Scored
from lwm.language.rfgpt import RFGPT
from lwm.language.score import ask_questions, draw_questions, merged_labels
from lwm.language.templates import library


def calibrate(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    limit: int | None = None,
    seed: int = 0,
    method: Method = "auto",
    check: str = "test",
) -> dict[str, Any]:
    """Ask a model about the validation split, fit its confidence, and write the model with it to a new folder.

    Every kind of question with one value is asked about every sample that offers it, the answers free: paragraphs, JSON
    and answers held to a form have no confidence.

    Args:
        model: RF-GPT's model folder.
        data: data set's folder.
        out: model folder to write.
        limit: at most so many questions of each split.
        seed: draws samples and phrasings.
        method: see :meth:`lwm.language.confidence.Confidence.fit`.
        check: split on which the calibration error before and after is measured.

    Returns:
        Of :func:`lwm.language.confidence.before_and_after`, with ``fitted_on`` (answers) and ``kinds``.

    Raises:
        ConfigError: fewer than ten answers, or an unknown method.
        DatasetError: no such split, or nothing in it to ask about.
        RecipeMismatch: the data are of another recipe than the model's.
        OutputError: the folder is not empty or cannot be written.
    """
    rfgpt = load_rfgpt(model)
    fitted_on = _answers(rfgpt, data, "validation", limit, seed)
    fitted = Confidence.fit(*_columns(fitted_on), method)
    found = before_and_after(fitted, *_columns(_answers(rfgpt, data, check, limit, seed)))
    rfgpt.confidence = fitted.to_dict()
    measured = found | {"fitted_on": len(fitted_on), "kinds": sorted({one.pair.kind for one in fitted_on})}
    save_pretrained(rfgpt, out, {"calibrated_from": str(model), "data": str(data), "seed": seed, "metrics": measured})
    return measured


def _answers(model: RFGPT, data: str | Path, split: str, limit: int | None, seed: int) -> list[Scored]:
    dataset = SpectrogramDataset(data, split)
    model.recipe.require_same(dataset.recipe)
    labels = merged_labels(label_values(dataset), model.labels)
    single = [name for name in library() if of_one_value(name)]
    asked = draw_questions(dataset, labels, single, seed, limit)
    if not asked:
        raise DatasetError(f"split {split!r} of {data} has nothing to ask about", "labelled samples")
    return list(ask_questions(RFGPTAnswerer(model), dataset, asked, labels))


def _columns(scored: list[Scored]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Log probabilities, verdicts and kinds of answers."""
    # The probability of a long answer may be too small for a double.
    probability = np.array([one.confidence or 0.0 for one in scored])
    return (
        np.log(np.maximum(probability, np.finfo(np.float64).tiny)),
        np.array([one.right for one in scored]),
        [one.pair.kind for one in scored],
    )
