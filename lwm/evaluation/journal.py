"""Finished runs of a sweep, one JSON line each, so that an interrupted sweep goes on where it stopped."""

import json
from pathlib import Path
from typing import Any

from lwm.errors import ConfigError, OutputError
from lwm.output import atomic_file, disk_errors

Record = dict[str, Any]


class Journal:
    """An append-only file whose first line holds the sweep's settings.

    Args:
        path: the file; made when there is none.
        settings: what decides about the results, JSON-able.

    Raises:
        ConfigError: the file was begun with other settings; the message names them.
        OutputError: the file is none of ours.
    """

    def __init__(self, path: Path, settings: Record) -> None:
        self.path = path
        self.records: list[Record] = []
        if path.exists():
            self.records = self._read(settings)
        with atomic_file(path) as partial:
            lines = [json.dumps(item) + "\n" for item in ({"settings": settings}, *self.records)]
            partial.write_text("".join(lines), encoding="utf-8")

    def add(self, record: Record) -> None:
        """Keep a finished run."""
        with disk_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.records.append(record)

    def _read(self, settings: Record) -> list[Record]:
        lines = self.path.read_text(encoding="utf-8").splitlines()
        found = []
        for number, line in enumerate(lines):
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError as error:
                if number == len(lines) - 1 and found:
                    break  # cut off in the middle of its last line: that run is done again
                raise OutputError(f"{self.path} is not a journal of few-shot runs", remedy="add --overwrite") from error
        if not found or "settings" not in found[0]:
            raise OutputError(f"{self.path} is not a journal of few-shot runs", remedy="add --overwrite")
        begun = found[0]["settings"]
        wanted = json.loads(json.dumps(settings))
        differ = sorted(key for key in begun.keys() | wanted.keys() if begun.get(key) != wanted.get(key))
        if differ:
            raise ConfigError(
                f"{self.path.parent} was begun with another {', '.join(differ)}",
                "the settings it was begun with",
                "use another --out, or --overwrite",
            )
        return found[1:]
