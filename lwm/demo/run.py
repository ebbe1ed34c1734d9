"""``lwm demo``: the whole stack at laptop scale, stage by stage, through the commands a user would call."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lwm.cli import main
from lwm.console import say
from lwm.demo.state import DemoState
from lwm.errors import LWMError, OutputError
from lwm.output import write_json
from lwm.training import last_checkpoint

EXPERTS = ("lte", "nr", "wlan")


@dataclass(frozen=True)
class Scale:
    """How large a demo is: extra arguments of the commands, nothing else differs."""

    plan: str
    pretrain: tuple[str, ...] = ()
    router: tuple[str, ...] = ()
    fewshot: tuple[str, ...] = ()
    rfgpt: tuple[str, ...] = ()
    questions: int = 400


SCALES = {
    "laptop": Scale("generate/demo", pretrain=("--trainer.max_epochs", "3")),
    "tiny": Scale(
        "generate/tiny",
        pretrain=("--trainer.max_steps", "2", "--data.init_args.batch_size", "8"),
        router=("--trainer.max_steps", "2", "--data.init_args.batch_size", "8"),
        fewshot=("--k", "1", "--episodes", "1"),
        rfgpt=("--trainer.max_steps", "3", "--data.init_args.batch_size", "8"),
        questions=12,
    ),
}


class CommandFailed(LWMError):
    """One of the demo's commands ended with an error, which it has printed."""


def command(*words: str) -> None:
    """Run one ``lwm`` command as a user would, and show it."""
    say("$ lwm " + " ".join(words))
    code = main(words)
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise CommandFailed(f"'lwm {' '.join(words)}' ended with exit code {code}", "0", "its message is above")


def demo(
    out: str = "runs/demo",
    seed: int = 0,
    scale: Literal["laptop", "tiny"] = "laptop",
    workers: int = 2,
    overwrite: bool = False,
) -> Path:
    """Run the whole stack and write a report page; run it again to go on where it stopped.

    Args:
        out: folder of the run; finished stages in it are kept.
        seed: seed of every draw.
        scale: "laptop" (minutes) or "tiny" (a check that everything runs; its figures mean nothing).
        workers: processes that generate data.
        overwrite: delete an earlier demo in the folder first.

    Returns:
        The report page, ``OUT/index.html``; the same figures are in ``OUT/summary.json``.

    Raises:
        OutputError: the folder holds something that is no demo, or a demo of other settings.
        CommandFailed: a stage's command ended with an error.
    """
    folder = Path(out)
    if overwrite and folder.exists():
        if not (folder / "demo.json").is_file():
            raise OutputError(f"{folder} holds no demo.json", "a folder made by lwm demo", "delete it yourself")
        shutil.rmtree(folder)
    state = DemoState.open(folder, {"seed": seed, "scale": scale})
    run = _Demo(state, SCALES[scale], seed, workers)
    run.generate()
    run.pretrain()
    run.route()
    run.fewshot()
    run.instruct()
    run.recorded()
    return run.report()


class _Demo:
    """The stages; each is a few commands and the figures read from what they wrote."""

    def __init__(self, state: DemoState, scale: Scale, seed: int, workers: int) -> None:
        self.state, self.scale, self.seed, self.workers = state, scale, seed, workers
        self.out = state.out
        self.data = self.out / "data"
        self.moe = self.out / "moe"
        self.rfgpt = self.out / "rfgpt"

    def _train(self, config: str, name: str, *options: str) -> Path:
        """``lwm fit`` into OUT/runs/NAME, then ``lwm export`` into OUT/NAME; returns the run's folder."""
        run = self.out / "runs" / name
        seed = ("--seed_everything", str(self.seed))
        data = ("--data.init_args.data", str(self.data))
        command("fit", "--config", config, *seed, *data, "--out", str(run), "--resume", *options)
        checkpoint = str(last_checkpoint(run))
        command("export", "--checkpoint", checkpoint, "--out", str(self.out / name), "--overwrite")
        return run

    def generate(self) -> None:
        """Shards of three protocols."""
        with self.state.stage("generate") as wanted:
            if wanted:
                options = ("--seed", str(self.seed), "--workers", str(self.workers), "--resume")
                command("generate", "--config", self.scale.plan, "--out", str(self.data), *options)

    def pretrain(self) -> None:
        """One expert per protocol."""
        for name in EXPERTS:
            with self.state.stage(f"pretrain {name}") as wanted:
                if wanted:
                    run = self._train(f"pretrain/{name}", f"experts/{name}", *self.scale.pretrain)
                    record = json.loads((run / "run.json").read_text())
                    losses = {key: record[key] for key in ("first_loss", "last_loss")}
                    self.state.figures.setdefault("pretrain", {})[name] = losses

    def route(self) -> None:
        """Router on frozen experts, then the top-1 mixture as a model folder."""
        with self.state.stage("route") as wanted:
            if wanted:
                experts = "[" + ",".join(f'"{self.out / "experts" / name}"' for name in EXPERTS) + "]"
                self._train("router/demo", "moe", "--model.init_args.experts", experts, *self.scale.router)
                from lwm.evaluation.routing import routing_report

                self.state.figures["router"] = routing_report(str(self.moe), str(self.data), str(self.out / "routing"))

    def fewshot(self) -> None:
        """Joint SNR and mobility from a few labels on unseen channels."""
        with self.state.stage("few-shot") as wanted:
            if wanted:
                place = ("--model", str(self.out / "experts" / "lte"), "--data", str(self.data))
                where = ("--out", str(self.out / "fewshot"), "--seed", str(self.seed), "--resume")
                command("fewshot", "--config", "tasks/snr_mobility_quick", *place, *where, *self.scale.fewshot)
                results = json.loads((self.out / "fewshot" / "results.json").read_text())
                self.state.figures["fewshot"] = results["summary"]

    def instruct(self) -> None:
        """RF-GPT: adapter and language model on the frozen mixture."""
        with self.state.stage("ask") as wanted:
            if wanted:
                self._train("rfgpt/demo", "rfgpt", "--model.init_args.tower", str(self.moe), *self.scale.rfgpt)
                from lwm.demo.answers import example_answers
                from lwm.language.score import score

                limit = self.scale.questions
                scores = score(str(self.rfgpt), str(self.data), limit=limit, seed=self.seed)
                examples = example_answers(self.rfgpt, self.data, self.seed)
                self.state.figures["rfgpt"] = scores | {"examples": examples}

    def recorded(self) -> None:
        """Every recording in LWM_SHARED: ingested, embedded, routed and asked about."""
        with self.state.stage("recorded") as wanted:
            if wanted:
                from lwm.demo.recordings import ask_recordings, find_recordings, readable
                from lwm.hub import read_recipe

                shared = Path(os.environ.get("LWM_SHARED", "../shared"))
                files, rows = readable(find_recordings(shared), read_recipe(self.moe))
                self.state.figures["recorded"] = rows
                if not files:
                    say("no recordings: set LWM_SHARED to a folder with captures/*.sigmf-meta")
                    return
                data = self.out / "recorded"
                names = [str(path) for path in files]
                command("ingest", *names, "--model", str(self.moe), "--out", str(data), "--overwrite")
                table = str(self.out / "recorded.h5")
                command("embed", "--model", str(self.moe), "--data", str(data), "--out", table, "--overwrite")
                rows += ask_recordings(self.moe, self.rfgpt, data, files)

    def report(self) -> Path:
        """The page and the summary."""
        with self.state.stage("report"):
            from lwm.demo.report import write_report

            page = write_report(self.out, self.state)
        write_json(self.out / "summary.json", summary(self.state))
        say(f"wrote {page} and {self.out / 'summary.json'}")
        say(f"next: open {page}, or lwm ask --model {self.rfgpt} CAPTURE 'Which technology is this?'")
        return page


def summary(state: DemoState) -> dict[str, object]:
    """The figures of a run, as in ``summary.json``."""
    stages = [{"name": name, "seconds": round(seconds, 1)} for name, seconds in state.seconds.items()]
    keys = ("pretrain", "router", "fewshot", "rfgpt", "recorded")
    return {"stages": stages, "settings": state.settings} | {key: state.figures.get(key) for key in keys}
