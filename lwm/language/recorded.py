"""Recordings and what a contestant says about them, beside what their metadata say."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lwm.console import say
from lwm.errors import LWMError
from lwm.language.answerers import Answerer
from lwm.language.captions import context_of, title_of
from lwm.language.facts import CANNOT_TELL
from lwm.language.inputs import MOST_WINDOWS, Seen, spectrogram_of
from lwm.language.instructions import KINDS
from lwm.language.questions import Labels, Question, read_value
from lwm.signal.io import open_recording
from lwm.signal.recipe import Recipe
from lwm.technology import technology_names

ASKED = ("technology", "link", "emissions", "bandwidth", "snr")
"""Kinds that every recording is asked."""

# 3GPP TS 36.101 Table 5.5-1: downlink of frequency-duplex bands 1, 3, 7, 8 and 20, in Hz.
_DOWNLINK = ((2.11e9, 2.17e9), (1.805e9, 1.88e9), (2.62e9, 2.69e9), (9.25e8, 9.6e8), (7.91e8, 8.21e8))


def answer_recordings(
    answerer: Answerer,
    files: Sequence[str | Path],
    recipe: Recipe,
    labels: Labels,
    kinds: Sequence[str] = ASKED,
) -> list[dict[str, Any]]:
    """A contestant's answers about recordings: one record a recording and kind.

    At most :data:`MOST_WINDOWS` windows of a recording are asked; the answer that most of them give counts. Nothing of
    the metadata but the sample rate is told.

    Args:
        answerer: the contestant.
        files: SigMF recordings.
        recipe: of the contestant's pictures.
        labels: for each categorical kind the values that an answer may have.
        kinds: of questions.

    Returns:
        Records with ``file``, ``kind``, ``question``, ``said``, ``parsed``, ``windows``, ``agree``, mean
        ``confidence``, ``truth`` (None where the metadata do not say it) and ``right`` (None without a truth); of a
        recording that cannot be used ``file`` and ``error``.
    """
    records: list[dict[str, Any]] = []
    for path in map(Path, files):
        try:
            seen = spectrogram_of(path, recipe, most=MOST_WINDOWS)
            truths = known_truths(path, seen, labels)
        except LWMError as error:
            say(f"not asked: {path.name}: {error}")
            records.append({"file": path.name, "error": str(error)})
            continue
        mine = [_record(path, kind, seen, truths.get(kind), answerer, labels) for kind in kinds]
        said = ", ".join(f"{one['kind']} {one['said']!r} ({_verdict(one['right'])})" for one in mine)
        say(f"{path.name}: {said}")
        records += mine
    return records


def known_truths(path: Path, seen: Seen, labels: Labels) -> dict[str, str]:
    """What a recording's metadata say, by kind of question; a kind that they do not say is left out.

    A technology that no answer names (Bluetooth, say) is the truth under its own name: only "cannot tell" is right
    about it. The link is said by the annotation, or by a centre frequency in the downlink of a frequency-duplex band.
    """
    if not seen.annotations:
        return {}
    note = seen.annotations[0]
    truths: dict[str, str] = {}
    if words := (note.technology or "").split():
        titles = labels.get("technology", ())
        named = {name: title_of(name) for name in technology_names() if title_of(name) in titles}
        named |= {title.casefold(): title for title in titles}
        # "WLAN 802.11a" is WLAN; "NR" is 5G NR.
        whole = " ".join(words)
        truths["technology"] = named.get(whole.casefold()) or named.get(words[0].casefold(), whole)
    if note.link:
        truths["link"] = note.link
    elif truths.get("technology") == "LTE":
        centre = open_recording(path).center_frequency
        if centre is not None and any(low <= centre <= high for low, high in _DOWNLINK):
            truths["link"] = "downlink"
    return truths


def is_right(parsed: str | None, truth: str | None, kind: str, labels: Labels) -> bool | None:
    """Whether an answer is right: None without a truth; about a technology without a label only "cannot tell" is."""
    if truth is None:
        return None
    strange = kind == "technology" and truth not in labels.get(kind, ())
    return parsed == (CANNOT_TELL if strange else truth)


def _record(path: Path, kind: str, seen: Seen, truth: str | None, answerer: Answerer, labels: Labels) -> dict[str, Any]:
    context = "" if seen.sample_rate is None else context_of(seen.sample_rate)
    text = context + KINDS[kind].questions[0]
    asked = [Question(row, kind, text, kind, seen.sample_rate) for row in range(len(seen.db))]
    found = answerer(seen.db, asked)
    # Counter keeps the order of first appearance among equals.
    said, agree = Counter(found.texts).most_common(1)[0]
    sure = None
    if found.confidences is not None:
        mine = [value for value, one in zip(found.confidences, found.texts, strict=True) if one == said]
        sure = sum(mine) / len(mine)
    parsed = read_value(said, kind, labels)
    record: dict[str, Any] = {"file": path.name, "kind": kind, "question": text, "said": said, "parsed": parsed}
    record |= {"windows": len(asked), "agree": agree, "confidence": sure}
    return record | {"truth": truth, "right": is_right(parsed, truth, kind, labels)}


def _verdict(right: bool | None) -> str:
    return {True: "right", False: "wrong", None: "not known"}[right]
