"""The report: what it warns of, and a page that needs no other file."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwm.data.shard import write_dataset
from lwm.evaluation.fewshot import fewshot
from lwm.evaluation.report import warnings
from lwm.seeding import rng_for
from lwm.signal.recipe import Recipe


def results_with(**means: float) -> dict[str, Any]:
    """What `warnings` reads, of models with these macro-F1 and intervals of ± 0.05."""
    rows = [
        {"model": name, "title": name, "k": 5, "macro_f1_mean": mean, "macro_f1_half_width": 0.05}
        for name, mean in means.items()
    ]
    task = {"models": list(means), "metric": "macro_f1", "k": [5], "labels": ["snr"], "target": None}
    records = [{"labels_seen": ["technology"]}, {"labels_seen": None}]
    return {"task": task, "summary": rows, "records": records}


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ({"frozen": 0.8, "random": 0.6, "trivial": 0.5}, []),
        ({"frozen": 0.8, "random": 0.6, "trivial": 0.76}, ["plain statistics of the picture reach frozen"]),
        ({"frozen": 0.8, "random": 0.9, "trivial": 0.5}, ["random weights reach frozen"]),
        # The best pretrained one counts.
        ({"frozen": 0.8, "random": 0.85, "lora": 0.95}, []),
        ({"cnn": 0.4, "trivial": 0.6}, []),
    ],
)
def test_warnings(means: dict[str, float], words: list[str]) -> None:
    found = warnings(results_with(**means))
    assert len(found) == len(words)
    assert all(text.startswith(word) for text, word in zip(found, words, strict=True))


def test_a_label_that_pretraining_saw_is_told() -> None:
    results = results_with(frozen=0.8)
    results["records"].append({"labels_seen": ["snr"]})
    assert warnings(results) == ["pretraining saw the label snr: no few-shot result of the pretrained encoder"]


def test_a_planted_shortcut_is_flagged_in_table_and_page(tmp_path: Path, model: Path, small_recipe: Recipe) -> None:
    rng = rng_for(0, "test", "shortcut")
    kinds = np.tile(np.arange(2), 60)
    pictures = rng.normal(-20, 1, (120, 1, 32, 32)) + 8 * kinds[:, None, None, None]  # the level says it all
    labels = {"kind": [str(k) for k in kinds], "channel": [f"test/{n // 20}" for n in range(120)]}
    write_dataset(tmp_path / "data", pictures.astype(np.float32), small_recipe, labels, split="test")
    task = tmp_path / "task.yaml"
    task.write_text("{name: shortcut, labels: [kind], k: [5], episodes: 2, models: [frozen, knn, trivial]}")
    results = fewshot(str(task), str(model), str(tmp_path / "data"), str(tmp_path / "out"))
    assert [warning.split(" of ")[0] for warning in results["warnings"]] == ["plain statistics"]
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "**Plain statistics of the picture reach" in table
    assert "cannot fall below 0.5." in table
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Plain statistics of the picture reach" in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 3  # no SNR, no picture by SNR
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in sources)
    assert "One tuning grid a family" in page
