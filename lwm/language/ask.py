"""``lwm ask``: answers about recordings, spectrogram pictures and samples of data sets."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lwm.console import say
from lwm.errors import ConfigError
from lwm.language.attribution import attribute, draw_attribution
from lwm.language.chat import Chat, Turn
from lwm.language.converse import (
    LONGEST_ANSWER,
    confidence_of,
    device_of,
    kind_of,
    load_rfgpt,
    processors,
    read_reply,
    told,
)
from lwm.language.inputs import MOST_WINDOWS, Seen, spectrogram_of, windows_of
from lwm.language.rfgpt import RFGPT
from lwm.language.schemas import read_schema
from lwm.signal.recording import Recording

__all__ = ["MOST_WINDOWS", "Reply", "answer_recording", "answer_seen", "ask", "load_rfgpt", "windows"]


class Reply(NamedTuple):
    """An answer about a recording.

    ``text``: the answer that most windows gave, the earliest of equals. ``windows``: how many were asked.
    ``agree``: how many gave this answer. ``complete``: whether it came to its end within :data:`LONGEST_ANSWER` tokens.
    ``confidence``: that it is right: the sum over the windows that gave it of how sure the model was of each, over the
    number of windows; None of prose, of JSON and of an answer held to a schema. ``first``: the answer about the first
    window. ``parsed``, ``parser_failed``, ``cannot_tell``: see :class:`lwm.language.converse.Reply`.
    """

    text: str
    windows: int
    agree: int
    complete: bool
    confidence: float | None
    parsed: Any
    parser_failed: bool
    cannot_tell: bool
    first: str


def ask(
    model: str,
    sources: list[str],
    question: str,
    also: list[str] | None = None,
    together: bool = False,
    sample_rate: float | None = None,
    datatype: str | None = None,
    levels: tuple[float, float] | None = None,
    json: str | None = None,
    attribution: str | None = None,
    annotations: bool = False,
    stream: bool = False,
) -> str:
    """Ask RF-GPT about recordings, pictures of spectrograms or samples of data sets.

    A recording is cut into windows of the model's own recipe (at most 16, spread evenly); each is asked, and the
    answer that most of them give is the answer. The sample rate is told to the model, nothing else; what a file says
    of its own content is not, unless --annotations is given.

    Args:
        model: RF-GPT's model folder.
        sources: SigMF, .npy, .wav, raw IQ, a PNG or JPEG of a spectrogram, or DATA:INDEX for a sample of a data set.
        question: for example "Which technology is this?".
        also: further questions; every source is encoded once for all of them.
        together: show all sources in one question, instead of asking about each.
        sample_rate: Hz, for a recording that does not state it.
        datatype: sample format of raw IQ, for example ci16_le.
        levels: dB of the lower and upper end of a picture's colour scale; the recipe's own when left out.
        json: answer as JSON: a file with a JSON Schema, or "builtin".
        attribution: PNG to write: which cells of the (only) source's first window its own first answer leaned on.
        annotations: tell the model the labels in a SigMF file, quoted and cut.
        stream: show the answer as it is made; of a source's first window alone.

    Returns:
        The answers, a line each.

    Raises:
        ModelError: the folder holds no RF-GPT.
        CaptureError: a source cannot be used.
        ConfigError: an empty question, one with a token of the chat template, or a schema that is none.
    """
    rfgpt, questions = load_rfgpt(model), [question, *(also or ())]
    schema = None if json is None else read_schema(json, rfgpt.labels)
    for each in questions:
        rfgpt.chat.prompt(each, rfgpt.rf_tokens)
    if attribution is not None and len(sources) != 1:
        raise ConfigError(f"--attribution of {len(sources)} sources", "one source", "ask about them one by one")
    how: dict[str, Any] = {"sample_rate": sample_rate, "datatype": datatype, "levels": levels}
    seen = [spectrogram_of(one, rfgpt.recipe, most=1 if stream or together else MOST_WINDOWS, **how) for one in sources]
    seen = seen if annotations else [one._replace(annotations=()) for one in seen]
    lines = []
    for group in [seen] if together else [[one] for one in seen]:
        replies = answer_seen(rfgpt, group, questions, schema, together, stream)
        name = f"{group[0].name}: " if len(sources) > 1 and not together else ""
        lines += [_report(name, reply, stream) for reply in replies]
        if attribution is not None:
            _explain(rfgpt, group[0], question, replies[0], attribution)
    return "\n".join(lines)


def answer_recording(model: RFGPT, recording: Recording, question: str) -> Reply:
    """Ask a question about a recording's windows and take the answer that most of them give.

    Raises:
        CaptureError: the recording is too short for the model's recipe or not finite, naming it.
        ConfigError: an empty question, or one with a token of the chat template.
    """
    model.chat.prompt(question, model.rf_tokens)
    seen = spectrogram_of(recording, model.recipe, most=MOST_WINDOWS)._replace(annotations=())
    return answer_seen(model, [seen], [question])[0]


def answer_seen(
    model: RFGPT,
    seen: Sequence[Seen],
    questions: Sequence[str],
    schema: Mapping[str, Any] | None = None,
    together: bool = False,
    stream: bool = False,
) -> list[Reply]:
    """One answer a question; every picture is encoded once, and all questions are answered in one batch.

    Args:
        model: in evaluation mode.
        seen: sources; their windows are asked one by one.
        questions: in words.
        schema: of JSON that the answers are to be.
        together: all windows of all sources are shown in one question.
        stream: say the answers as they are made, one after the other.

    Raises:
        ConfigError: see :meth:`lwm.language.rfgpt.RFGPT.generate`.
    """
    with torch.inference_mode():
        rf = model.encode(torch.cat([one.db for one in seen]).to(device_of(model)))
    before = told(seen)
    rows = [list(range(len(rf)))] if together else [[row] for row in range(len(rf))]
    prompts = [[Turn("user", before + question, len(row))] for question in questions for row in rows]
    shown = rows * len(questions)
    texts: list[str] = []
    sure: list[float] = []
    complete: list[bool] = []
    step = 1 if stream else len(prompts)
    for first in range(0, len(prompts), step):
        found = model.generate(
            rf,
            prompts[first : first + step],
            LONGEST_ANSWER,
            captures=shown[first : first + step],
            logits_processors=processors(model, schema, None),
            streamer=Printer(model.chat) if stream else None,
        )
        texts, complete = texts + found.texts, complete + found.complete
        sure += found.log_probabilities
    each = len(rows)
    parts = [slice(number * each, (number + 1) * each) for number in range(len(questions))]
    return [
        _majority(model, question, texts[part], complete[part], sure[part], schema)
        for question, part in zip(questions, parts, strict=True)
    ]


def windows(model: Any, recording: Recording) -> Tensor:
    """Pictures ``[W, C, F, T]`` in dB of at most :data:`MOST_WINDOWS` windows of the model's recipe."""
    return windows_of(recording, model.recipe, MOST_WINDOWS)


class Printer:
    """Writes the text of one answer to standard output as its tokens come.

    Args:
        chat: whose tokens they are.
    """

    def __init__(self, chat: Chat) -> None:
        self._chat, self._ids, self._said = chat, list[int](), ""

    def put(self, value: Tensor) -> None:
        """The next token, int64 ``[1]``."""
        self._ids += value.tolist()
        text = self._chat.decode(self._ids)
        # A character of several tokens is not whole before its last one.
        if not text.endswith("\N{REPLACEMENT CHARACTER}") and text.startswith(self._said):
            sys.stdout.write(text[len(self._said) :])
            sys.stdout.flush()
            self._said = text

    def end(self) -> None:
        """After the last token."""
        sys.stdout.write("\n")
        sys.stdout.flush()


def _majority(
    model: RFGPT,
    question: str,
    texts: Sequence[str],
    complete: Sequence[bool],
    log_probabilities: Sequence[float],
    schema: Mapping[str, Any] | None,
) -> Reply:
    # Counter keeps the order of first appearance among equals.
    text, agree = Counter(texts).most_common(1)[0]
    kind, curves = kind_of(question), confidence_of(model)
    mine = [log_p for said, log_p in zip(texts, log_probabilities, strict=True) if said == text]
    votes = [curves.of(log_p, kind, free=schema is None) for log_p in mine]
    known = [vote for vote in votes if vote is not None]
    sure = sum(known) / len(texts) if known else None
    read = read_reply(model, text, kind, schema)
    whole = complete[list(texts).index(text)]
    shape = (read.parsed, read.parser_failed, read.cannot_tell)
    return Reply(text, len(texts), agree, whole, sure, *shape, texts[0])


def _explain(model: RFGPT, seen: Seen, question: str, reply: Reply, path: str) -> None:
    """Draw what the first window's own answer leaned on, and say so where most windows gave another."""
    found = attribute(model, seen.db[:1], told([seen]) + question, reply.first)
    draw_attribution(path, seen.db[0], found, model.recipe, seen.sample_rate)
    other = "" if reply.first == reply.text else f" (of the first window's own answer, {reply.first!r})"
    say(f"attribution: {path}{other}")


def _report(name: str, reply: Reply, streamed: bool) -> str:
    if not streamed:
        say(name + reply.text)
    notes = [] if reply.confidence is None else [f"confidence {reply.confidence:.2f}"]
    if reply.windows > 1:
        notes.append(f"{reply.agree} of {reply.windows} windows say so")
    if not reply.complete:
        notes.append(f"cut off after {LONGEST_ANSWER} tokens")
    if reply.parser_failed:
        notes.append("not in the form that was asked for")
    if notes:
        say(f"({', '.join(notes)})")
    return reply.text
