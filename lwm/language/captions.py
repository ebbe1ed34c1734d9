"""What a record says, as plain facts and as a paragraph."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from lwm.registry import TECHNOLOGIES, names
from lwm.technology import technology

SNR_STEP_DB = 5
"""Grid in dB to which answers round the signal-to-noise ratio."""
SHARE_STEP = 10
"""Grid in percent to which answers round the valid share of a window."""
DETAIL_SENTENCES = 2
"""How many of a technology's own sentences enter a caption. Later ones tell what such a picture does not show (a cell
identity, say), and a model trained on them learns to make things up."""


@cache
def title_of(name: str) -> str:
    """Name of a technology in captions and answers; the name itself when no such technology is installed."""
    return technology(name).title if name in names(TECHNOLOGIES) else name


def facts_of(record: Mapping[str, Any], columns: int) -> dict[str, str]:
    """Facts of one sample as the strings that answers are made of; what the record does not know is left out.

    Args:
        record: a shard's JSON record.
        columns: columns of the recipe's picture, of which ``valid_columns`` are real.

    Returns:
        Any of ``technology`` (title), ``link``, ``modulation``, ``mobility``, ``snr`` (dB, on the grid of
        :data:`SNR_STEP_DB`), ``bandwidth`` (MHz), ``sample_rate`` (MHz), ``duration`` (ms, rounded, at least 1),
        ``valid`` (percent of the window, on the grid of :data:`SHARE_STEP`), ``padded`` (yes or no) and ``details``
        (the first sentences of what the technology itself tells).
    """
    facts: dict[str, str] = {}
    if record.get("technology"):
        facts["technology"] = title_of(record["technology"])
    for name in ("link", "modulation", "mobility"):
        if record.get(name):
            facts[name] = str(record[name])
    if record.get("snr_db") is not None:
        facts["snr"] = str(SNR_STEP_DB * round(float(record["snr_db"]) / SNR_STEP_DB))
    for name in ("bandwidth", "sample_rate"):
        if record.get(name):
            facts[name] = megahertz(float(record[name]))
    if record.get("duration"):
        facts["duration"] = str(max(1, round(float(record["duration"]) * 1e3)))
    if record.get("valid_columns"):
        share = int(record["valid_columns"]) / columns
        facts["padded"] = "yes" if share < 1 else "no"
        facts["valid"] = str(max(SHARE_STEP, SHARE_STEP * round(100 * share / SHARE_STEP)))
    details = _details(record)
    if details:
        facts["details"] = details
    return facts


def megahertz(hertz: float) -> str:
    """A frequency as MHz with at most two decimals, without trailing zeros: ``15.36``, ``20``."""
    return f"{hertz / 1e6:.2f}".rstrip("0").rstrip(".")


def context_of(sample_rate: float) -> str:
    """What is said before a question when the sample rate (Hz) is known: a picture has no scale of its own."""
    return f"Sampled at {megahertz(sample_rate)} MHz. "


def caption(facts: Mapping[str, str]) -> str:
    """One paragraph of everything that ``facts`` hold, in a fixed order."""
    link = facts.get("link", "")
    subject = " ".join(word for word in (facts.get("technology", ""), link if link != "both" else "") if word)
    both = " of both link directions" if link == "both" else ""
    sentences = [
        f"The capture shows one {subject} signal{both}." if subject else f"The capture shows one signal{both}."
    ]
    if "bandwidth" in facts:
        sentences.append(f"Its channel is {facts['bandwidth']} MHz wide.")
    if "modulation" in facts:
        sentences.append(f"The modulation is {facts['modulation']}.")
    if "snr" in facts:
        sentences.append(f"The SNR is about {facts['snr']} dB.")
    if "mobility" in facts:
        sentences.append(f"The channel is {facts['mobility']}.")
    if "duration" in facts:
        sentences.append(f"It lasts {facts['duration']} ms.")
    if "padded" in facts:
        short = f"It was padded; {facts['valid']} % of the window is valid."
        sentences.append(short if facts["padded"] == "yes" else "It fills the window.")
    if "details" in facts:
        sentences.append(facts["details"])
    return " ".join(sentences)


@cache
def _describer(name: str) -> Callable[[dict[str, Any]], list[str]] | None:
    """The ``describe(facts)`` of a technology, where it is installed and offers one."""
    return getattr(technology(name), "describe", None) if name in names(TECHNOLOGIES) else None


def _details(record: Mapping[str, Any]) -> str:
    """First sentences of what the technology itself says about the record's facts."""
    describe = _describer(record.get("technology", ""))
    return " ".join(describe(record["facts"])[:DETAIL_SENTENCES]) if describe and record.get("facts") else ""
