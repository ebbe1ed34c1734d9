"""``lwm ask``: one answer about a recording."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lwm.console import say
from lwm.data.windows import window_starts
from lwm.errors import CaptureError, ModelError
from lwm.hub import from_pretrained
from lwm.language.captions import context_of
from lwm.language.rfgpt import RFGPT
from lwm.signal.io import open_recording
from lwm.signal.recording import Recording

MOST_WINDOWS = 16
"""Windows of a long recording that are looked at, spread evenly over it."""
LONGEST_ANSWER = 160
"""Most tokens of an answer."""


class Reply(NamedTuple):
    """An answer about a recording.

    ``text``: the answer that most windows gave, the earliest of equals. ``windows``: how many were asked.
    ``agree``: how many gave this answer. ``complete``: whether it came to its end within :data:`LONGEST_ANSWER` tokens.
    """

    text: str
    windows: int
    agree: int
    complete: bool


def ask(model: str, capture: str, question: str, sample_rate: float | None = None, datatype: str | None = None) -> str:
    """Ask RF-GPT one question about a recording.

    The recording is cut into windows of the model's own recipe (at most 16, spread evenly); each is asked, and the
    answer that most of them give is the answer. The sample rate is told to the model, nothing else.

    Args:
        model: RF-GPT's model folder.
        capture: recording: SigMF, .npy or raw IQ.
        question: for example "Which technology is this?".
        sample_rate: Hz, for a recording that does not state it.
        datatype: sample format of raw IQ, for example ci16_le.

    Returns:
        The answer.

    Raises:
        ModelError: the folder holds no RF-GPT.
        CaptureError: the recording cannot be used.
        ConfigError: an empty question, or one with a token of the chat template.
    """
    recording = open_recording(capture, sample_rate, datatype)
    reply = answer_recording(load_rfgpt(model), recording, question)
    say(reply.text)
    if reply.windows > 1:
        say(f"({reply.agree} of {reply.windows} windows say so)")
    if not reply.complete:
        say(f"(cut off after {LONGEST_ANSWER} tokens)")
    return reply.text


def load_rfgpt(folder: str | Path) -> RFGPT:
    """RF-GPT from its model folder; ModelError when another model is in it."""
    model = from_pretrained(folder)
    if not isinstance(model, RFGPT):
        raise ModelError(f"{folder} holds a model of type {model.model_type!r}", "'rfgpt'", "train one with lwm fit")
    return model


def answer_recording(model: RFGPT, recording: Recording, question: str) -> Reply:
    """Ask a question about a recording's windows and take the answer that most of them give.

    Raises:
        CaptureError: the recording is too short for the model's recipe or not finite, naming it.
        ConfigError: an empty question, or one with a token of the chat template.
    """
    model.tokenizer.prompt(question, model.rf_tokens)
    x = windows(model, recording)
    asked = [context_of(recording.sample_rate) + question] * len(x)
    answers = model.answer(x, asked, LONGEST_ANSWER)
    # Counter keeps the order of first appearance among equals.
    text, agree = Counter(answers.texts).most_common(1)[0]
    return Reply(text, len(x), agree, answers.complete[answers.texts.index(text)])


def windows(model: Any, recording: Recording) -> torch.Tensor:
    """Pictures ``[W, C, F, T]`` in dB of at most :data:`MOST_WINDOWS` windows of the model's recipe."""
    recipe = model.recipe
    starts, _ = window_starts(recording, recipe, None)
    chosen = np.unique(np.linspace(0, len(starts) - 1, min(len(starts), MOST_WINDOWS)).round().astype(int))
    try:
        pictures = [recipe.of_capture(recording.read(starts[i], recipe.duration)).db for i in chosen]
    except CaptureError as error:
        named = str(recording.path) in str(error)
        raise CaptureError(str(error) if named else f"{recording.path}: {error}") from error
    return torch.cat(pictures)
