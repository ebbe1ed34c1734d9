"""Technologies and heads, found through entry points and imported only when asked for."""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from lwm.errors import ConfigError

TECHNOLOGIES = "lwm.technologies"
HEADS = "lwm.heads"
MODELS = "lwm.models"


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}


def names(group: str) -> list[str]:
    """Sorted names registered under an entry-point group."""
    return sorted(_entries(group))


def load(group: str, name: str) -> Any:
    """The registered object; a failing import of it is raised as it is, never swallowed.

    Raises:
        ConfigError: no such name; the message lists those that exist.
    """
    try:
        entry = _entries(group)[name]
    except KeyError:
        raise ConfigError(f"no {group} entry named {name!r}", f"one of {names(group)}") from None
    return entry.load()
