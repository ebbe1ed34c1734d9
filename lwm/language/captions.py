"""What a record says, as plain facts and as a paragraph."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from lwm.data.plan import NOISE
from lwm.language.facts import CANNOT_TELL, counted, picture_facts
from lwm.language.templates import library
from lwm.registry import TECHNOLOGIES, names
from lwm.technology import technology

SNR_STEP_DB = 5
"""Grid in dB to which answers round the signal-to-noise ratio."""
SHARE_STEP = 10
"""Grid in percent to which answers round the valid share of a window."""
DETAIL_SENTENCES = 2
"""How many of a technology's own sentences enter a caption. Later ones tell what such a picture does not show (a cell
identity, say), and a model trained on them learns to make things up."""
OF_SIGNAL = (
    "technology",
    "link",
    "modulation",
    "mobility",
    "snr",
    "bandwidth",
    "temporal",
    "place",
    "numerology",
    "users",
)
"""Facts about a signal: none of them can be told of noise alone."""


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
        :data:`SNR_STEP_DB`), ``numerology`` (subcarrier spacing in kHz), ``users`` (scheduled), those of
        :func:`lwm.language.facts.picture_facts`, ``sample_rate`` (MHz), ``duration`` (ms, rounded, at least 1),
        ``valid`` (percent of the window, on the grid of :data:`SHARE_STEP`), ``padded`` (yes or no) and ``details``
        (the first sentences of what the technology itself tells). Of noise alone (technology
        :data:`lwm.data.plan.NOISE`) those of :data:`OF_SIGNAL` are "cannot tell", and ``emissions`` is 0.
    """
    facts = _silent() if record.get("technology") == NOISE else _signal_facts(record, columns)
    if record.get("sample_rate"):
        facts["sample_rate"] = megahertz(float(record["sample_rate"]))
    if record.get("duration"):
        facts["duration"] = str(max(1, round(float(record["duration"]) * 1e3)))
    if record.get("valid_columns"):
        share = int(record["valid_columns"]) / columns
        facts["padded"] = "yes" if share < 1 else "no"
        facts["valid"] = str(max(SHARE_STEP, SHARE_STEP * round(100 * share / SHARE_STEP)))
    return facts


def megahertz(hertz: float) -> str:
    """A frequency as MHz with at most two decimals, without trailing zeros: ``15.36``, ``20``."""
    return f"{hertz / 1e6:.2f}".rstrip("0").rstrip(".")


def context_of(sample_rate: float) -> str:
    """What is said before a question when the sample rate (Hz) is known: a picture has no scale of its own."""
    return f"Sampled at {megahertz(sample_rate)} MHz. "


def caption(facts: Mapping[str, str]) -> str:
    """One paragraph of everything that ``facts`` hold, in the order of the template library's description."""
    chosen = (next((each for each in group if each.fits(facts)), None) for group in library()["description"].sentences)
    return " ".join(sentence.say.format(**facts) for sentence in chosen if sentence is not None)


def _silent() -> dict[str, str]:
    """Facts of noise alone."""
    return dict.fromkeys(OF_SIGNAL, CANNOT_TELL) | {"emissions": counted(0)}


def _signal_facts(record: Mapping[str, Any], columns: int) -> dict[str, str]:
    """Facts about the signal of a record."""
    facts: dict[str, str] = {}
    if record.get("technology"):
        facts["technology"] = title_of(record["technology"])
    for name in ("link", "modulation", "mobility"):
        if record.get(name):
            facts[name] = str(record[name])
    if record.get("snr_db") is not None:
        facts["snr"] = str(SNR_STEP_DB * round(float(record["snr_db"]) / SNR_STEP_DB))
    facts |= picture_facts(record, columns)
    known = record.get("facts") or {}
    if known.get("subcarrier_spacing"):
        facts["numerology"] = f"{known['subcarrier_spacing'] / 1e3:.7g}"
    if known.get("number_of_ues") is not None:
        facts["users"] = counted(int(known["number_of_ues"]))
    details = _details(record)
    return facts | ({"details": details} if details else {})


@cache
def _describer(name: str) -> Callable[[dict[str, Any]], list[str]] | None:
    """The ``describe(facts)`` of a technology, where it is installed and offers one."""
    return getattr(technology(name), "describe", None) if name in names(TECHNOLOGIES) else None


def _details(record: Mapping[str, Any]) -> str:
    """First sentences of what the technology itself says about the record's facts."""
    describe = _describer(record.get("technology", ""))
    return " ".join(describe(record["facts"])[:DETAIL_SENTENCES]) if describe and record.get("facts") else ""
