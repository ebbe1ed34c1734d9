"""``lwm demo`` at tiny scale: every stage through the commands, interrupted and run again, its report and summary."""

import json
from pathlib import Path
from typing import Any

import pytest

from lwm.cli import main

STAGES = ["generate", "pretrain lte", "pretrain nr", "pretrain wlan", "route", "few-shot", "ask", "recorded", "report"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny demo that was stopped by Ctrl-C after its first two stages and then run again."""
    import lwm.demo.run as module

    out = tmp_path_factory.mktemp("demo") / "demo"
    words = ["demo", "--out", str(out), "--scale", "tiny", "--workers", "1"]
    real = module.command

    def until_pretrain_nr(*command: str) -> None:
        if "pretrain/nr" in command:
            raise KeyboardInterrupt
        real(*command)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "command", until_pretrain_nr)
        assert main(words) == 130
    kept = json.loads((out / "demo.json").read_text())
    assert kept["finished"] == ["generate", "pretrain lte"]
    before = (out / "data" / "manifest.json").stat().st_mtime_ns
    assert main(words) == 0
    assert (out / "data" / "manifest.json").stat().st_mtime_ns == before, "a finished stage was made again"
    return out


@pytest.fixture(scope="module")
def summary(run: Path) -> dict[str, Any]:
    """Its figures."""
    return json.loads((run / "summary.json").read_text())


def test_summary_has_every_stage_and_figure(summary: dict[str, Any]) -> None:
    assert [stage["name"] for stage in summary["stages"]] == STAGES
    assert all(stage["seconds"] >= 0 for stage in summary["stages"])
    assert set(summary["pretrain"]) == {"lte", "nr", "wlan"}
    assert all(0 < loss["first_loss"] < 100 and 0 < loss["last_loss"] < 100 for loss in summary["pretrain"].values())
    assert 0 <= summary["router"]["accuracy"] <= 1
    assert 0 <= summary["router"]["trivial_accuracy"] <= 1
    assert {row["k"] for row in summary["fewshot"]} == {1}
    assert len({row["model"] for row in summary["fewshot"]}) >= 6
    assert all({"macro_f1_mean", "macro_f1_std"} <= set(row) for row in summary["fewshot"])
    assert summary["rfgpt"]["questions"] == 12
    assert {"technology_accuracy", "link_accuracy", "parse_failures"} <= set(summary["rfgpt"])


def test_recordings_are_shown_beside_what_they_are(summary: dict[str, Any], shared: Path) -> None:
    rows = summary["recorded"]
    assert len(rows) == len(list((shared / "captures").glob("*.sigmf-meta")))
    assert all(row["truth"] and row["routed"] in ("lte", "nr", "wlan") and row["answer"] is not None for row in rows)


def test_report_needs_no_network(run: Path) -> None:
    page = (run / "index.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("data:image/png;base64,") >= 8
    assert "<script" not in page


def test_other_settings_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(run), "--scale", "tiny", "--seed", "5"]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_a_folder_that_is_no_demo_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert main(["demo", "--out", str(tmp_path), "--overwrite"]) == 2
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_exported_mixture_loads_in_a_fresh_process(run: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, torch, lwm\n"
        "model = lwm.from_pretrained(sys.argv[1]).eval()\n"
        "x = torch.randn(3, model.in_chans, *model.recipe.size)\n"
        "tokens = model.forward_features(x)\n"
        "assert tokens.shape == (3, model.grid_size[0] * model.grid_size[1], model.num_features), tokens.shape\n"
        "assert torch.allclose(model.route(x).sum(1), torch.ones(3), atol=1e-5)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run / "moe")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert main(["doctor", str(run / "moe")]) == 0
    assert main(["doctor", str(run / "data")]) == 0
    assert main(["doctor", str(run / "rfgpt")]) == 0
