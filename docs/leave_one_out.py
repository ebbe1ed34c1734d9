"""What a mixture makes of protocols that it was not trained on: the table of docs/results.md.

For every expert in turn a router is trained on the others, and its novelty detector (both scores) meets the captures of
the one left out, white noise, and, where given, recordings of other technologies.

    python docs/leave_one_out.py --experts LTE NR WLAN --data DIR --out DIR [--others DIR] [--epochs 10]
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lwm import from_pretrained
from lwm.cli import main as lwm
from lwm.data.dataset import SpectrogramDataset
from lwm.evaluation.novelty import novelty_report, novelty_table
from lwm.models.novelty import fit_novelty
from lwm.output import write_json


def selection(names: Sequence[str]) -> str:
    """A `where` for some technologies."""
    return f"technology in {json.dumps(list(names))}"


def unknown_sources(data: Path, left: str, others: Path | None, known: Sequence[str]) -> dict[str, SpectrogramDataset]:
    """The technology left out, and every technology of ``others`` that no expert is for."""
    found = {left: SpectrogramDataset(data, "test", selection([left]))}
    if others is not None:
        names = SpectrogramDataset(others).label_names.get("technology", [])
        strange = [name for name in names if name not in (*known, left)]
        found |= {f"{name} (recorded)": SpectrogramDataset(others, where=selection([name])) for name in strange}
    return found


def without(left: str, folders: dict[str, str], given: Any) -> list[dict[str, Any]]:
    """Records of a mixture that lacks one expert."""
    names = [name for name in folders if name != left]
    run, moe = given.out / f"without-{left}", given.out / f"without-{left}-model"
    words = ["fit", "--config", "router/demo", "--data.init_args.data", str(given.data), "--out", str(run)]
    words += ["--data.init_args.where", selection(names), "--trainer.max_epochs", str(given.epochs)]
    words += ["--model.init_args.experts", json.dumps([folders[name] for name in names]), "--resume"]
    if not moe.is_dir() and (lwm(words) or lwm(["export", "--checkpoint", str(run / LAST), "--out", str(moe)])):
        raise SystemExit(1)
    mixture = from_pretrained(moe)
    parts = [SpectrogramDataset(given.data, split, selection(names)) for split in ("train", "validation", "test")]
    detectors = [fit_novelty(mixture, parts[0], parts[1], score) for score in ("energy", "mahalanobis")]
    sources = unknown_sources(given.data, left, given.others, names)
    return [{"left_out": left} | row for row in novelty_report(mixture, parts[2], sources, detectors=detectors)]


LAST = "checkpoints/last.ckpt"


def main(args: Sequence[str] | None = None) -> None:
    """Train, measure, write ``novelty.json`` and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", nargs="+", required=True, help="model folders of experts")
    parser.add_argument("--data", type=Path, required=True, help="data set of all their protocols")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--others", type=Path, help="data set of recordings")
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args(args)
    folders = {from_pretrained(folder).name: folder for folder in given.experts}
    records = []
    for left in folders:
        found = without(left, folders, given)
        print(f"without {left}\n\n{novelty_table(found)}")
        records += found
    write_json(given.out / "novelty.json", {"records": records})


if __name__ == "__main__":
    main()
