"""RF-GPT beside its baselines at one budget: captures and questions drawn alike for every contestant.

A pretrained language model, which is slower by two orders, gets fewer of both, and heads are asked only what a head can
answer; every record says how many.

Each contestant is a stage with a folder of its own. Its ``record.json`` is written last: a stage that has one is not
run again.
"""

import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from lwm.console import say
from lwm.data.dataset import SpectrogramDataset
from lwm.data.manifest import FILE_NAME
from lwm.errors import ConfigError, LWMError, OutputError
from lwm.hub import WEIGHTS
from lwm.language.answerers import Answerer
from lwm.language.confidence import LEAST, Confidence, before_and_after
from lwm.language.datamodule import drawn, label_values
from lwm.language.facts import CANNOT_TELL
from lwm.language.instructions import KINDS, Pair
from lwm.language.metrics import Scored, summary
from lwm.language.questions import Asked, balanced, questions_about
from lwm.language.recorded import ASKED, answer_recordings
from lwm.language.score import ask_questions, merged_labels
from lwm.language.templates import Wording
from lwm.output import file_sha256, write_json
from lwm.tasks.base import source_commit

Command = Callable[[Sequence[str]], int]
"""Runs one ``lwm`` command and gives its exit code."""

_PACKAGES = ("lwm", "torch", "transformers", "tokenizers", "peft", "pytorch_lightning", "numpy")
# Samples of a split that questions are drawn from at most: reading the records of more takes minutes.
_DRAWN_FROM = 6000


class StageFailed(LWMError):
    """One of a stage's commands ended with an error, which it has printed."""


@dataclass(frozen=True)
class Budget:
    """What every contestant is given.

    Args:
        captures: of the train split, drawn by the seed; None for all.
        epochs: passes over them.
        batch_size: pairs or captures a step.
        per_kind: questions of each kind that are asked, all answers of a kind equally often.
        llm: size of the language model from scratch.
        tokens: rows and columns of RF tokens.
        pretrained_captures: of the train split for the pretrained language model, which is slower by two orders.
        pretrained_epochs: passes over those.
        pretrained_per_kind: questions of each kind asked of it.
    """

    captures: int | None
    epochs: int
    batch_size: int
    per_kind: int
    llm: str = "tiny"
    tokens: tuple[int, int] = (8, 4)
    pretrained_captures: int = 256
    pretrained_epochs: int = 1
    pretrained_per_kind: int = 24


BUDGETS = {
    "tiny": Budget(24, 2, 8, 6, "test", (2, 2), 8, 2, 2),
    "small": Budget(2000, 10, 32, 210, pretrained_captures=512, pretrained_epochs=2, pretrained_per_kind=12),
    "full": Budget(None, 12, 32, 420, pretrained_captures=2000, pretrained_epochs=3, pretrained_per_kind=105),
}
"""By name; ``tiny`` checks that everything runs, its figures mean nothing."""


@dataclass
class Setting:
    """Where a comparison runs and on what.

    Args:
        out: folder of all stages.
        data: data set with the splits train, validation and test.
        tower: model folder of the pretrained tower.
        budget: a key of :data:`BUDGETS`.
        seed: of draws, weights and order.
        command: runs ``lwm`` commands.
        recordings: SigMF recordings that every contestant that sees is asked about.
        written: commands that were run, in order; of the stage at hand.

    Raises:
        ConfigError: no such budget.
    """

    out: Path
    data: Path
    tower: Path
    budget: str
    seed: int
    command: Command
    recordings: Sequence[Path] = ()
    written: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.budget not in BUDGETS:
            raise ConfigError(f"budget {self.budget!r}", f"one of {sorted(BUDGETS)}")

    @property
    def limits(self) -> Budget:
        """The budget."""
        return BUDGETS[self.budget]

    def lwm(self, *words: str) -> None:
        """Run one command; StageFailed when it does not end well."""
        line = "lwm " + shlex.join(words)
        say(f"$ {line}")
        self.written.append(line)
        code = self.command(words)
        if code == 130:
            raise KeyboardInterrupt
        if code:
            raise StageFailed(f"'{line}' ended with exit code {code}", "0", "its message is above")

    @cached_property
    def test(self) -> SpectrogramDataset:
        """Captures that nobody was trained on, from a site of their own."""
        return SpectrogramDataset(self.data, "test")

    @cached_property
    def train(self) -> SpectrogramDataset:
        """Captures to train on."""
        return SpectrogramDataset(self.data, "train")

    def samples(self, captures: int | None) -> np.ndarray:
        """Training captures that a limit leaves: those that the data module of instructions takes."""
        return drawn(len(self.train), captures or len(self.train), self.seed, "train")

    @cached_property
    def labels(self) -> dict[str, list[str]]:
        """Values that categorical answers may have."""
        return merged_labels(label_values(self.train), label_values(self.test))

    @cached_property
    def training_pairs(self) -> list[Pair]:
        """A question of each kind about each training capture, for who needs no picture."""
        return [
            one.pair for one in questions_about(self.train, self.samples(self.limits.captures), [*KINDS], self.seed)
        ]

    @cached_property
    def kinds(self) -> list[str]:
        """Kinds of question with something to tell: two answers or more in training beside "cannot tell"."""
        answers: dict[str, set[str]] = {}
        for pair in self.training_pairs:
            answers.setdefault(pair.kind, set()).add(pair.answer)
        return [kind for kind in KINDS if len(answers.get(kind, set()) - {CANNOT_TELL}) > 1]

    def questions(self, split: str, per_kind: int, wording: Wording = "known") -> list[Asked]:
        """The questions that every contestant is asked about a split, in phrasings of the tuning or in others."""
        data = self.test if split == "test" else SpectrogramDataset(self.data, split)
        chosen = drawn(len(data), _DRAWN_FROM, self.seed, "questions")
        asked = questions_about(data, chosen, self.kinds, self.seed, wording)
        return balanced(asked, per_kind, self.seed, self.labels)


@dataclass(frozen=True)
class Contestant:
    """What a stage brings to the scorer.

    ``answerer``: who answers. ``topics``: of questions that it can be asked; None for all. ``sees``: whether it looks
    at captures, so that recordings and a calibration mean something. ``reads``: whether it reads the question's
    words, so that other phrasings than those of the tuning mean something. ``more``: JSON-able, goes into the record.
    """

    answerer: Answerer
    topics: Sequence[str] | None = None
    sees: bool = True
    reads: bool = False
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One contestant to be made and scored.

    ``name``: of its folder and in records. ``title``: in tables. ``make``: trains it in a folder. ``pretrained``:
    folder, hub id or .gguf of its pretrained language model, which is asked as few questions as the budget gives one.
    """

    name: str
    title: str
    make: Callable[[Setting, Path], Contestant]
    pretrained: str | None = None


def run_stages(setting: Setting, stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Records of all stages, those that are there already read from their files.

    Raises:
        OutputError: a record that is there, of these stages or others, is of other settings.
        StageFailed: a command ended with an error.
    """
    stored_records(setting)
    return [_stage(setting, stage) for stage in stages]


def stored_records(setting: Setting) -> list[dict[str, Any]]:
    """Records of all stages that are there, by name of their folders.

    Raises:
        OutputError: one is of other settings.
    """
    settings = _settings(setting)
    return [_stored(done, settings) for done in sorted(setting.out.glob("*/record.json"))]


def read_answers(out: Path, name: str) -> list[dict[str, Any]]:
    """Every answer of a stage: question, truth, what was said and how it was read."""
    return json.loads((out / name / "answers.json").read_text(encoding="utf-8"))["answers"]


def _stage(setting: Setting, stage: Stage) -> dict[str, Any]:
    folder = setting.out / stage.name
    done = folder / "record.json"
    settings = _settings(setting) | ({} if stage.pretrained is None else {"llm": _identity(stage.pretrained)})
    if done.is_file():
        kept = _stored(done, settings)
        say(f"{stage.title}: there already")
        return kept
    say(f"== {stage.title}")
    setting.written.clear()
    start = time.perf_counter()
    contestant = stage.make(setting, folder)
    made = time.perf_counter()
    scored = _score(setting, stage, contestant)
    record: dict[str, Any] = {"name": stage.name, "title": stage.title, "settings": settings}
    record |= {"commands": list(setting.written), "seconds_to_make": round(made - start, 1)}
    record |= {"seconds_to_score": round(time.perf_counter() - made, 1), "versions": _versions()}
    record["summary"] = _summary(scored)
    record |= {"captures_asked": len({one.sample for one in scored})} | contestant.more
    if contestant.reads:
        other = _summary(_score(setting, stage, contestant, "held_out"))
        record["held_out_wording"] = {kind: table["accuracy"] for kind, table in other["kinds"].items()}
        record["held_out_wording_unread"] = other["parse_failure_share"]
    if contestant.sees:
        record |= _calibrated(setting, stage, contestant, scored)
        known = [kind for kind in ASKED if contestant.topics is None or kind in contestant.topics]
        shown = (setting.recordings, setting.test.recipe, setting.labels, known)
        record["recordings"] = answer_recordings(contestant.answerer, *shown)
    write_json(folder / "answers.json", {"answers": [one.record() for one in scored]})
    write_json(done, record)
    _say_result(record)
    return record


def _stored(done: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """A record; OutputError where a setting that it states is another."""
    kept: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    differing = sorted(key for key, value in settings.items() if kept["settings"].get(key, value) != value)
    if differing:
        raise OutputError(f"{done} is of other settings ({differing})", "the same", "choose another --out")
    return kept


def _asked(
    setting: Setting, stage: Stage, contestant: Contestant, split: str, wording: Wording = "known"
) -> list[Asked]:
    limits = setting.limits
    asked = setting.questions(split, limits.pretrained_per_kind if stage.pretrained else limits.per_kind, wording)
    return [one for one in asked if contestant.topics is None or one.topic in contestant.topics]


def _score(setting: Setting, stage: Stage, contestant: Contestant, wording: Wording = "known") -> list[Scored]:
    asked = _asked(setting, stage, contestant, "test", wording)
    return ask_questions(contestant.answerer, setting.test, asked, setting.labels)


def _summary(scored: Sequence[Scored]) -> dict[str, Any]:
    return summary(scored, list(dict.fromkeys(one.pair.kind for one in scored)))


def _calibrated(
    setting: Setting, stage: Stage, contestant: Contestant, scored: Sequence[Scored]
) -> dict[str, dict[str, float]]:
    """Calibration error on the test split before and after curves were fitted on the validation split."""
    if stage.pretrained or any(one.confidence is None for one in scored):
        return {}
    asked = _asked(setting, stage, contestant, "validation")
    known = ask_questions(contestant.answerer, SpectrogramDataset(setting.data, "validation"), asked, setting.labels)
    if len(known) < LEAST:
        return {}
    fitted = Confidence.fit(*_evidence(known))
    return {"calibration": before_and_after(fitted, *_evidence(scored))}


def _evidence(scored: Sequence[Scored]) -> tuple[list[float], list[bool], list[str]]:
    """Log probabilities (nats), verdicts and kinds."""
    tiny = float(np.finfo(np.float64).tiny)
    logs = [float(np.log(max(one.confidence or 0.0, tiny))) for one in scored]
    return logs, [one.right for one in scored], [one.pair.kind for one in scored]


def _settings(setting: Setting) -> dict[str, Any]:
    limits = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(setting.limits).items()}
    return {
        "budget": setting.budget,
        "limits": limits,
        "seed": setting.seed,
        "data_manifest_sha256": file_sha256(setting.data / FILE_NAME),
        "tower_config_sha256": file_sha256(setting.tower / "config.json"),
        "tower_weights_sha256": file_sha256(setting.tower / WEIGHTS),
    }


def _identity(llm: str) -> str:
    """SHA-256 of a language model's .gguf or single safetensors file here, else how it is named."""
    files = [path for path in (Path(llm), Path(llm) / WEIGHTS) if path.is_file()]
    return file_sha256(files[0]) if files else llm


def _versions() -> dict[str, str | None]:
    return dict(_installed()) | {
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "commit": source_commit(),
        "command": shlex.join(sys.argv),
    }


def _installed() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _say_result(record: dict[str, Any]) -> None:
    tables = record["summary"]["kinds"].items()
    said = ", ".join(f"{kind} {100 * table['accuracy']:.1f} %" for kind, table in tables)
    say(f"{record['title']}: {said}; {100 * record['summary']['parse_failure_share']:.1f} % could not be read")
