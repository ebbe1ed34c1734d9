"""Recorded input: found, ingested with the model's own recipe, routed and asked about."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lwm.console import say
from lwm.data.dataset import SpectrogramDataset
from lwm.errors import LWMError
from lwm.evaluation.routing import route_dataset
from lwm.hub import from_pretrained
from lwm.language.ask import answer_recording, load_rfgpt
from lwm.language.captions import title_of
from lwm.signal.io import open_recording, read_capture
from lwm.signal.recipe import Recipe

QUESTION = "Which technology is this?"


def find_recordings(shared: Path) -> list[Path]:
    """SigMF recordings below ``SHARED/captures``, or below ``shared`` itself where it has no such folder."""
    root = shared / "captures" if (shared / "captures").is_dir() else shared
    return sorted(root.rglob("*.sigmf-meta")) if root.is_dir() else []


def readable(files: list[Path], recipe: Recipe) -> tuple[list[Path], list[dict[str, Any]]]:
    """Recordings that the recipe takes, and a row of the report for each that it cannot take, with the reason."""
    good, bad = [], []
    for path in files:
        try:
            recipe.of_capture(read_capture(path))
            good.append(path)
        except LWMError as error:
            say(f"not used: {path.name}: {error}")
            bad.append(_row(path.name, "not known", "", f"not asked: {error}"))
    return good, bad


def _row(file: str, truth: str, routed: str, answer: str, **more: Any) -> dict[str, Any]:
    extra: dict[str, Any] = {"confidence": 0.0, "novelty": None, "windows": 0, "padded": 0} | more
    return {"file": file, "truth": truth, "routed": routed, "answer": answer, **extra}


def ask_recordings(moe_folder: Path, rfgpt_folder: Path, data: Path, files: list[Path]) -> list[dict[str, Any]]:
    """One row a recording: what it is, where the router sends it, what RF-GPT says of it.

    The route is the expert with the largest mean probability over the recording's windows; the answer is that of
    ``lwm ask``. ``novelty`` is the median over the windows of the share of known captures that are less strange.

    Args:
        moe_folder: the mixture.
        rfgpt_folder: RF-GPT on that mixture.
        data: the ingested recordings.
        files: the recordings, in any order.
    """
    moe = from_pretrained(str(moe_folder)).eval()
    rfgpt = load_rfgpt(rfgpt_folder)
    dataset = SpectrogramDataset(data)
    probabilities = route_dataset(moe, dataset).numpy()
    records = [dataset.record(i) for i in range(len(dataset))]
    columns = dataset.recipe.size[1]
    rows = []
    for path in sorted(files):
        mine = [i for i, record in enumerate(records) if Path(record["source"]).stem == path.stem]
        mean = probabilities[mine].mean(0)
        best = int(np.argmax(mean))
        row = _row(
            path.name,
            title_of(records[mine[0]].get("technology") or "unlabelled"),
            moe.expert_names[best],
            answer_recording(rfgpt, open_recording(path), QUESTION).text,
            confidence=float(mean[best]),
            novelty=_novelty(moe, dataset, mine),
            windows=len(mine),
            padded=sum(records[i]["valid_columns"] < columns for i in mine),
        )
        say(f"{row['file']}: {row['truth']} -> {row['routed']} ({row['confidence']:.2f}); {row['answer']}")
        rows.append(row)
    return rows


@torch.inference_mode()
def _novelty(moe: Any, dataset: SpectrogramDataset, indices: list[int]) -> float | None:
    if moe.detector is None:
        return None
    return float(moe.novelty(dataset.batch(indices)["spectrogram"].float()).median())
