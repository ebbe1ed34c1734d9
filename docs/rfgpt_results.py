"""RF-GPT beside its baselines: the table, the picture and the records behind docs/results.md.

    python docs/rfgpt_results.py --out DIR --data DATA --tower MOE_DIR [--smollm PATH] [--budget small|full] [--resume]

Captures to train on and questions about the unseen site are drawn alike for every contestant, fewer of both for a
pretrained language model. Each contestant has a folder in --out; one whose record is there is not run again, and is in
the table even where --only leaves it out. Set LWM_SHARED to the folder with captures/*.sigmf-meta to ask
about recordings too.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from lwm.cli import main as lwm
from lwm.console import say
from lwm.language.compare import BUDGETS, Setting, run_stages, stored_records
from lwm.language.contestants import default_stages
from lwm.language.results import write_results
from lwm.output import require_empty


def recordings(shared: str | None) -> list[Path]:
    """SigMF recordings below a folder, or below its ``captures``."""
    return [] if shared is None else sorted(Path(shared).rglob("*.sigmf-meta"))


def main(args: Sequence[str] | None = None) -> None:
    """Run what is not there yet, and write rfgpt.json, rfgpt.md and rfgpt.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="data set with train, validation and test")
    parser.add_argument("--tower", type=Path, required=True, help="model folder of the pretrained mixture")
    parser.add_argument("--smollm", help="folder, hub id or .gguf of the pretrained language model; without it none")
    parser.add_argument("--budget", choices=sorted(BUDGETS), default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="names of stages; the others are left out")
    parser.add_argument("--shared", default=os.environ.get("LWM_SHARED"), help="folder with recordings")
    parser.add_argument("--resume", action="store_true", help="go on in a folder that is not empty")
    given = parser.parse_args(args)
    require_empty(given.out, resume=given.resume)
    stages = default_stages(given.smollm)
    unknown = sorted(set(given.only or ()) - {stage.name for stage in stages})
    if unknown:
        parser.error(f"no stages {unknown}; there are {[stage.name for stage in stages]}")
    chosen = [stage for stage in stages if given.only is None or stage.name in given.only]
    found = recordings(given.shared)
    setting = Setting(given.out, given.data, given.tower, given.budget, given.seed, lwm, found)
    run_stages(setting, chosen)
    # All names, whether a language model was given this time or not.
    order = [stage.name for stage in default_stages(given.smollm or "")]
    records = sorted(stored_records(setting), key=lambda record: order.index(record["name"]))
    for path in write_results(given.out, records):
        say(f"wrote {path}")


if __name__ == "__main__":
    main()
