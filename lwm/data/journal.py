"""Shards that are done, one JSON line each, so that nothing but the shard being written is ever lost.

The manifest of a large data set takes too long to be saved after every shard; a line does not.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

from lwm.data.manifest import ShardEntry
from lwm.output import disk_errors

FILE_NAME = ".finished.jsonl"
"""Stands beside the manifest while shards are being made."""


class Journal:
    """Finished shards of the data set in ``root`` that its manifest may not know yet."""

    def __init__(self, root: Path) -> None:
        self.path = root / FILE_NAME

    def add(self, entry: ShardEntry) -> None:
        """Keep one; it is on the disk when this returns. A line that was cut off before it stays a line of its own.

        Raises:
            OutputError: no space or permission.
        """
        with disk_errors(self.path), self.path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            cut = file.read(1) not in (b"", b"\n")
            file.write(b"\n" * cut + json.dumps(asdict(entry)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[ShardEntry]:
        """All that were kept; a line that was cut off (killed run, full disk) is left out."""
        if not self.path.is_file():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                found.append(ShardEntry(**json.loads(line)))
            except (ValueError, TypeError):
                continue
        return found

    def remove(self) -> None:
        """Forget them: the manifest knows them now."""
        self.path.unlink(missing_ok=True)
