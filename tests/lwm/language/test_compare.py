"""The comparison end to end at tiny size: every contestant, its record, the table and the picture."""

import importlib.util
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lwm.cli import main
from lwm.data.dataset import SpectrogramDataset
from lwm.errors import ConfigError, OutputError
from lwm.hub import from_pretrained
from lwm.language.answerers import MajorityAnswerer
from lwm.language.compare import Contestant, Setting, Stage, StageFailed, read_answers, run_stages
from lwm.language.contestants import default_stages, holds_word, random_tower
from lwm.language.datamodule import label_values
from lwm.language.facts import CANNOT_TELL
from lwm.language.inputs import Seen, spectrogram_of
from lwm.language.recorded import answer_recordings, is_right, known_truths
from lwm.language.results import kinds_figure, markdown, write_results
from lwm.signal.capture import Emission
from lwm.signal.recipe import recipe_named

SCRIPT = Path(__file__).parents[3] / "docs" / "rfgpt_results.py"


def setting(world, out: Path, **changes: Any) -> Setting:
    """A tiny comparison on the world."""
    known = {"data": world.data, "tower": world.tower, "budget": "tiny", "seed": 0, "command": main}
    return Setting(**{"out": out, **known, **changes})


@pytest.fixture(scope="module")
def run(world, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """All stages that need no pretrained language model."""
    out = tmp_path_factory.mktemp("compare") / "out"
    records = run_stages(setting(world, out), default_stages())
    write_results(out, records)
    return out, records


def test_every_contestant_is_trained_and_scored_on_the_same_questions(run) -> None:
    out, records = run
    assert [record["name"] for record in records] == [stage.name for stage in default_stages()]
    asked = {
        record["name"]: {(a["sample"], a["question"]) for a in read_answers(out, record["name"])} for record in records
    }
    assert asked["rfgpt"] == asked["rfgpt-random"] == asked["rfgpt-scratch"] == asked["majority"]
    assert asked["multihead"] <= asked["rfgpt"]
    for record in records:
        tables = record["summary"]["kinds"]
        assert {"technology", "link"} <= set(tables)
        assert tables["technology"]["majority"] == pytest.approx(1 / 3)
        assert record["versions"]["torch"] == torch.__version__.split("+")[0] or record["versions"]["torch"]
        assert record["seconds_to_make"] >= 0
        assert record["settings"]["seed"] == 0
    by_name = {record["name"]: record for record in records}
    fits = [line for name in ("rfgpt", "rfgpt-random", "rfgpt-scratch") for line in by_name[name]["commands"]]
    assert sum(line.startswith("lwm fit ") for line in fits) == 3
    assert by_name["rfgpt"]["weights_sha256"] != by_name["rfgpt-random"]["weights_sha256"]


def test_only_the_towers_that_are_to_learn_move(run, world) -> None:
    out, _ = run
    fresh = from_pretrained(out / "random-tower").state_dict()
    kept = from_pretrained(out / "rfgpt-random" / "model").tower.state_dict()
    moved = from_pretrained(out / "rfgpt-scratch" / "model").tower.state_dict()
    known = from_pretrained(world.tower).state_dict()
    stays, goes = (from_pretrained(out / name / "model").tower.state_dict() for name in ("rfgpt", "rfgpt-along"))
    assert all(torch.equal(stays[name], value) for name, value in known.items())
    assert any(not torch.equal(goes[name], value) for name, value in known.items())
    assert all(torch.equal(kept[name], value) for name, value in fresh.items())
    assert any(not torch.equal(moved[name], value) for name, value in fresh.items())
    assert any(not torch.equal(known[name], value) for name, value in fresh.items())
    # Data statistics are no training.
    assert all(torch.equal(fresh[name], known[name]) for name in ("mean", "std"))


def test_a_stage_that_is_there_is_not_run_again_and_others_settings_are_refused(run, world) -> None:
    out, records = run

    def refuse(words: Sequence[str]) -> int:
        raise AssertionError(words)

    assert run_stages(setting(world, out, command=refuse), default_stages()) == records
    with pytest.raises(OutputError, match=r"other settings \(\['seed'\]\)"):
        run_stages(setting(world, out, seed=1), default_stages()[:1])
    with pytest.raises(ConfigError, match="budget 'huge'"):
        setting(world, out, budget="huge")


def test_a_command_that_fails_leaves_no_record(world, tmp_path: Path) -> None:
    stages = [stage for stage in default_stages() if stage.name == "rfgpt"]
    with pytest.raises(StageFailed, match="exit code 3"):
        run_stages(setting(world, tmp_path, command=lambda words: 3), stages)
    assert not (tmp_path / "rfgpt" / "record.json").exists()


def test_table_and_picture_say_what_the_records_say(run) -> None:
    out, records = run
    text = (out / "rfgpt.md").read_text()
    for record in records:
        row = next(line for line in text.splitlines() if line.startswith(f"| {record['title']} |"))
        accuracy = record["summary"]["kinds"]["technology"]["accuracy"]
        assert re.search(rf"\| {100 * accuracy:.1f} \(", row)
    assert json.loads((out / "rfgpt.json").read_text())["records"] == json.loads(json.dumps(records))
    assert (out / "rfgpt.png").read_bytes().startswith(b"\x89PNG")
    bars = [bar for axes in kinds_figure(records).axes for bar in axes.patches]
    assert len(bars) == sum(len(record["summary"]["kinds"]) for record in records)


def test_general_questions_and_recordings_are_in_the_table() -> None:
    shown = {"title": "one", "summary": {"kinds": {}, "cannot_tell": {}, "questions": 0, "parse_failure_share": 0.0}}
    asked = {"file": "a|b.sigmf-meta", "kind": "technology", "said": "LTE|", "truth": "LTE", "right": False}
    shown |= {"seconds_to_make": 1.0, "seconds_to_score": 1.0, "recordings": [asked]}
    shown["general"] = [{"question": "Capital?", "said": "Paris,\nof course", "sensible": True}]
    text = markdown([shown])
    assert "| one | Capital? | Paris, of course | yes |" in text
    assert "LTE\\| (wrong)" in text


def test_a_random_tower_is_the_seeds(world, tmp_path: Path) -> None:
    towers = [
        from_pretrained(random_tower(setting(world, tmp_path / str(n), seed=seed))) for n, seed in enumerate((0, 0, 1))
    ]
    first, again, other = (tower.patch_embed.weight if hasattr(tower, "patch_embed") else next(tower.parameters())
                           for tower in towers)  # fmt: skip
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_recordings_are_answered_beside_what_their_metadata_say(shared: Path) -> None:
    files = sorted((shared / "captures").glob("*.sigmf-meta"))
    recipe, labels = recipe_named("small"), {"technology": ["LTE", "WLAN"], "link": ["downlink", "uplink", "both"]}
    truths = {path.stem: known_truths(path, spectrogram_of(path, recipe), labels) for path in files}
    assert truths["lte_fdd_1860mhz_rtlsdr"] == {"technology": "LTE", "link": "downlink"}
    assert truths["lte_tdd_2605mhz_rtlsdr"] == {"technology": "LTE"}
    assert truths["wlan_11n_mcs3_n210"] == {"technology": "WLAN"}
    assert truths["ble_124byte_pluto"] == {"technology": "BLE"}
    assert is_right(CANNOT_TELL, "BLE", "technology", labels) is True
    assert is_right("LTE", "BLE", "technology", labels) is False
    assert is_right("LTE", None, "technology", labels) is None


def test_a_recording_that_cannot_be_used_is_named_and_the_others_are_answered(
    world, shared: Path, tmp_path: Path
) -> None:
    test = SpectrogramDataset(world.data, "test")
    files = [shared / "captures" / "wlan_11n_mcs3_n210.sigmf-meta", tmp_path / "missing.sigmf-meta"]
    labels = label_values(test) | {"technology": ["LTE", "WLAN"]}
    records = answer_recordings(MajorityAnswerer([]), files, test.recipe, labels, ("technology", "snr"))
    assert [record["file"] for record in records] == [files[0].name] * 2 + [files[1].name]
    assert (records[0]["truth"], records[0]["right"], records[1]["right"]) == ("WLAN", False, None)
    assert "missing" in records[2]["error"]


def test_the_script_runs_the_stages_that_are_named(world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("rfgpt_results", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    words = ["--out", str(tmp_path / "out"), "--data", str(world.data), "--tower", str(world.tower), "--budget", "tiny"]
    monkeypatch.delenv("LWM_SHARED", raising=False)
    script.main([*words, "--only", "majority"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "majority",
        "rfgpt.json",
        "rfgpt.md",
        "rfgpt.png",
    ]
    script.main([*words, "--only", "wording", "--resume"])
    kept = json.loads((tmp_path / "out" / "rfgpt.json").read_text())["records"]
    assert [record["name"] for record in kept] == ["majority", "wording"]
    with pytest.raises(OutputError, match="not empty"):
        script.main(words)
    with pytest.raises(SystemExit):
        script.main([*words, "--resume", "--only", "nobody"])


def test_a_contestant_is_all_that_a_stage_needs(world, tmp_path: Path) -> None:
    stage = Stage("mute", "says nothing", lambda setting, folder: Contestant(MajorityAnswerer([]), sees=False))
    (record,) = run_stages(setting(world, tmp_path), [stage])
    assert record["summary"]["parse_failure_share"] == 1.0


def test_weights_and_language_model_are_settings_and_older_records_lack_them(world, tmp_path: Path) -> None:
    def mute(llm: str) -> list[Stage]:
        return [
            Stage("mute", "mute", lambda setting, folder: Contestant(MajorityAnswerer([]), sees=False), pretrained=llm)
        ]

    tower = Path(shutil.copytree(world.tower, tmp_path / "tower"))
    mine = setting(world, tmp_path / "out", tower=tower)
    (record,) = run_stages(mine, mute("one/llm"))
    with pytest.raises(OutputError, match=r"\['llm'\]"):
        run_stages(mine, mute("other/llm"))
    with (tower / "model.safetensors").open("ab") as file:
        file.write(b"0")
    with pytest.raises(OutputError, match="tower_weights_sha256"):
        run_stages(mine, mute("one/llm"))
    older = {key: value for key, value in record["settings"].items() if key not in ("llm", "tower_weights_sha256")}
    done = tmp_path / "out" / "mute" / "record.json"
    done.write_text(json.dumps(record | {"settings": older}))
    assert run_stages(mine, mute("other/llm"))[0]["settings"] == older


def test_a_word_is_a_word_of_its_own() -> None:
    assert holds_word("It is Paris.", ("paris",))
    assert not holds_word("By comparison, 17", ("paris", "7"))


def test_a_blank_technology_is_no_truth() -> None:
    seen = Seen(torch.zeros(1, 1, 4, 4), 1e6, 1e-3, "a", (Emission("  ", link="uplink"),))
    assert known_truths(Path("nothing.sigmf-meta"), seen, {"technology": ["LTE"]}) == {"link": "uplink"}


def test_a_recording_may_call_a_technology_by_its_short_name() -> None:
    for written, meant in (("NR", "5G NR"), ("5G NR", "5G NR"), ("WLAN 802.11a", "WLAN"), ("BLE", "BLE")):
        seen = Seen(torch.zeros(1, 1, 4, 4), 1e6, 1e-3, "a", (Emission(written),))
        found = known_truths(Path("nothing.sigmf-meta"), seen, {"technology": ["LTE", "5G NR", "WLAN"]})
        assert found == {"technology": meant}
