"""The script behind the table of unknown protocols runs and measures what it says."""

import json
import runpy
from pathlib import Path

from lwm.cli import main
from lwm.hub import save_pretrained
from lwm.models.encoder import EncoderConfig, SpectrogramEncoder
from lwm.signal.recipe import recipe_named

NAMES = ("lte", "nr", "wlan")


def test_every_protocol_is_left_out_once(root: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    # Fourteen validation captures of each: a false alarm rate of 5 % needs twenty-four.
    assert (
        main(["generate", "--config", "generate/tiny", "--samples", "630", "--out", str(data), "--workers", "0"]) == 0
    )
    experts = []
    for name in NAMES:
        shape = EncoderConfig(name=name, patch=16, width=32, depth=1, heads=2)
        experts.append(str(save_pretrained(SpectrogramEncoder(shape, recipe_named("small")), tmp_path / name)))
    script = runpy.run_path(str(root / "docs" / "leave_one_out.py"))
    script["main"](["--experts", *experts, "--data", str(data), "--out", str(out), "--epochs", "1"])
    records = json.loads((out / "novelty.json").read_text())["records"]
    assert {row["left_out"] for row in records} == set(NAMES)
    for left in NAMES:
        mine = [row for row in records if row["left_out"] == left]
        assert {row["score"] for row in mine} == {"energy", "mahalanobis"}
        assert {row["source"] for row in mine} == {"all known", "white noise", *NAMES}
        unknown = next(row for row in mine if row["kind"] == "unknown")
        assert unknown["source"] == left
        assert unknown["captures"] == 140
        assert 0 <= unknown["auroc"] <= 1
