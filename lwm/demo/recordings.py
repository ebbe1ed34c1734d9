"""Recorded input: found, ingested with the model's own recipe, routed and asked about."""

from pathlib import Path
from typing import Any

import numpy as np

from lwm.console import say
from lwm.data.dataset import SpectrogramDataset
from lwm.errors import LWMError
from lwm.evaluation.routing import route_dataset
from lwm.hub import from_pretrained
from lwm.signal.io import read_capture

QUESTION = "Which technology is this?"


def find_recordings(shared: Path) -> list[Path]:
    """SigMF recordings below ``SHARED/captures``, or below ``shared`` itself where it has no such folder."""
    root = shared / "captures" if (shared / "captures").is_dir() else shared
    return sorted(root.rglob("*.sigmf-meta")) if root.is_dir() else []


def readable(files: list[Path]) -> tuple[list[Path], list[dict[str, Any]]]:
    """Recordings that can be read, and a row of the report for each that cannot, with the reason."""
    good, bad = [], []
    for path in files:
        try:
            read_capture(path).require_finite()
            good.append(path)
        except LWMError as error:
            say(f"not used: {path.name}: {error}")
            bad.append(_row(path.stem, "unreadable", "", f"not asked: {error}"))
    return good, bad


def _row(file: str, truth: str, routed: str, answer: str, **more: Any) -> dict[str, Any]:
    extra = {"confidence": 0.0, "windows": 0, "padded": 0} | more
    return {"file": file, "truth": truth, "routed": routed, "answer": answer, **extra}


def ask_recordings(moe_folder: Path, rfgpt_folder: Path, data: Path) -> list[dict[str, Any]]:
    """One row a recording: what it is, where the router sends it, what RF-GPT says of its first window.

    The route is the expert with the largest mean probability over the recording's windows.

    Args:
        moe_folder: the mixture.
        rfgpt_folder: RF-GPT on that mixture.
        data: the ingested recordings.
    """
    moe = from_pretrained(str(moe_folder)).eval()
    rfgpt = from_pretrained(str(rfgpt_folder)).eval()
    dataset = SpectrogramDataset(data)
    probabilities = route_dataset(moe, dataset).numpy()
    records = [dataset.record(i) for i in range(len(dataset))]
    columns = dataset.recipe.size[1]
    rows = []
    for source in sorted({record["source"] for record in records}):
        mine = [i for i, record in enumerate(records) if record["source"] == source]
        mean = probabilities[mine].mean(0)
        answer = rfgpt.answer(dataset[mine[0]]["spectrogram"][None], [QUESTION])[0]
        best = int(np.argmax(mean))
        row = _row(
            Path(source).name,
            records[mine[0]].get("technology") or "unlabelled",
            moe.expert_names[best],
            answer,
            confidence=float(mean[best]),
            windows=len(mine),
            padded=sum(records[i]["valid_columns"] < columns for i in mine),
        )
        say(f"{row['file']}: {row['truth']} -> {row['routed']} ({row['confidence']:.2f}); {answer}")
        rows.append(row)
    return rows
