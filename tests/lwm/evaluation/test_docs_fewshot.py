"""The script behind the few-shot tables: figures are the reports', marks say what intervals say."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from lwm.evaluation.fewshot import fewshot
from lwm.evaluation.sensing import TRIVIAL


@pytest.fixture(scope="module")
def script(root: Path) -> Any:
    return runpy.run_path(str(root / "docs" / "fewshot_results.py"))


def test_tables_and_records_of_a_sweep(
    script: Any, tmp_path: Path, model: Path, data: Path, quick_task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "task.yaml").write_text(quick_task)
    results = fewshot(
        str(tmp_path / "task.yaml"), str(model), str(data), str(tmp_path / "joint"), models=["frozen", "trivial"]
    )
    capsys.readouterr()
    script["main"]([str(tmp_path / "joint"), "--out", str(tmp_path / "all.json")])
    lines = capsys.readouterr().out.splitlines()
    row = next(s for s in results["summary"] if (s["model"], s["k"]) == ("trivial", 2))
    test = next(t for t in results["paired_tests"] if t["k"] == 2)
    line = next(line for line in lines if line.startswith("| trivial statistics"))
    assert f"| {100 * row['macro_f1_mean']:.1f} ± {100 * row['macro_f1_std']:.1f} |" in line
    assert f"| {100 * test['difference']:+.1f} ± {100 * test['half_width']:.1f}" in line
    lead = f"{100 * test['difference']:+.1f} ± {100 * test['half_width']:.1f}"
    found = list(script["overview"]({"joint": results}))
    frozen = next(s for s in results["summary"] if (s["model"], s["k"]) == ("frozen", 2))
    start = (
        f"| joint | 2 | {100 * frozen['macro_f1_mean']:.1f} | – | trivial statistics {100 * row['macro_f1_mean']:.1f} |"
    )
    assert found[2].startswith(f"{start} {lead}")
    kept = json.loads((tmp_path / "all.json").read_text())["reports"]["joint"]
    assert [r["macro_f1"] for r in kept["records"]] == [r["macro_f1"] for r in results["records"]]
    assert not any("confusion" in record for record in kept["records"])


def test_marks_say_whether_an_interval_leaves_out_zero(script: Any) -> None:
    def said(mean: float, *of: Any) -> str:
        return script["lead"]({("frozen", "cnn", 5): {"difference": mean, "half_width": 0.02}}, *of)

    assert said(0.03, "frozen", "cnn", 5) == "+3.0 ± 2.0 ✓"
    assert said(0.01, "frozen", "cnn", 5) == "+1.0 ± 2.0"
    assert said(0.03, "cnn", "frozen", 5) == "-3.0 ± 2.0 ✗"
    assert said(0.03, "frozen", "cnn", 20) == "–"
    assert said(0.03, "frozen", "cnn", 5, 1) == "+0.0 ± 0.0 ✓"  # a quantity, in its own unit


def test_reports_that_are_not_there_or_alike_are_refused(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([str(tmp_path)], [str(tmp_path / "a"), str(tmp_path / "b" / "a")]):
        with pytest.raises(SystemExit):
            script["main"]([*words, "--out", str(tmp_path / "all.json")])
        assert "--resume" in capsys.readouterr().err
    assert not (tmp_path / "all.json").exists()


def test_scenes_and_sensing(script: Any) -> None:
    record = {"regime": "frozen", "k": 20, "mean_class_accuracy": 0.5, "mean_iou": 0.25, "per_class": {"lte": 0.75}}
    lines = list(script["table"]({"records": [record], "classes": ["lte"]}))
    assert lines[-1] == "| frozen | 20 | 50.0 | 75.0 | 25.0 |"
    found = {"protocol": "domain", "regime": TRIVIAL, "accuracy": 0.9, "low": 0.8, "high": 1.0}
    summary = [found | {"recordings": 8, "recordings_right": 0.5}]
    assert list(script["table"]({"summary": summary, "records": [{"protocol": "domain"}]}))[-1] == (
        "| another chip | trivial | 90.0 [80.0, 100.0] | 50.0 % of 8 |"
    )
