"""Rows of embeddings that are done, kept in a form that survives being killed at any moment."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm.errors import ConfigError, OutputError
from lwm.output import disk_errors, write_json

SUFFIX = ".partial"


class PartialRows:
    """A folder ``FILE.partial`` beside the output: settings, rows as float32 one after the other, facts as JSON lines.

    Both files are only appended to; rows that lack their facts, or are cut off, are made again.

    Args:
        file: the output.
        settings: what the rows depend on, JSON-able.
        width: numbers of a row.
        keeps_facts: whether each row has a line of facts.

    Attributes:
        folder: where the rows are.
        done: rows.
        facts: the file with a JSON line a row.
    """

    def __init__(self, file: Path, settings: dict[str, Any], width: int, keeps_facts: bool) -> None:
        self.folder = file.with_name(file.name + SUFFIX)
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.width, self.keeps_facts = width, keeps_facts
        self.rows, self.facts = self.folder / "rows.f32", self.folder / "facts.jsonl"
        self.done = 0

    def open(self, resume: bool, overwrite: bool) -> None:
        """Begin, or go on after the rows that are there.

        Raises:
            OutputError: rows of an interrupted run are there, and neither is told.
            ConfigError: they were made with other settings.
        """
        stated = self.folder / "settings.json"
        if overwrite:
            self.remove()
        if self.folder.exists() and not resume:
            raise OutputError(
                f"{self.folder} holds an interrupted run", "no such folder", "add --resume to go on, or --overwrite"
            )
        with disk_errors(self.folder):
            if not stated.is_file():
                self.remove()
                self.folder.mkdir(parents=True)
                self.rows.touch()
                self.facts.touch()
                write_json(stated, self.settings)
        self._require_same(stated)
        self._cut()

    def _require_same(self, stated: Path) -> None:
        try:
            before = json.loads(stated.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{stated} is damaged ({error})", "an interrupted run", "add --overwrite") from error
        differ = [key for key in sorted(before | self.settings) if before.get(key) != self.settings.get(key)]
        if differ:
            said = "; ".join(
                f"{key} {_short(before.get(key))} against {_short(self.settings.get(key))}" for key in differ
            )
            raise ConfigError(
                f"{self.folder} was made with other settings ({said})", "the same", "repeat them, or add --overwrite"
            )

    def _cut(self) -> None:
        """Leave only whole rows with their facts."""
        self.done = self.rows.stat().st_size // (4 * self.width)
        if self.keeps_facts:
            end = lines = 0
            with self.facts.open("rb") as file:
                for line in file:
                    if lines == self.done or not line.endswith(b"\n"):
                        break
                    end, lines = end + len(line), lines + 1
            self.done = lines
            with self.facts.open("r+b") as file:
                file.truncate(end)
        with self.rows.open("r+b") as file:
            file.truncate(self.done * 4 * self.width)

    def append(self, vectors: npt.NDArray[np.float32], facts: list[dict[str, Any]]) -> None:
        """Keep rows ``[B, width]`` and their facts."""
        with disk_errors(self.folder):
            if self.keeps_facts:
                with self.facts.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(each) + "\n" for each in facts)
            with self.rows.open("ab") as rows:
                rows.write(np.ascontiguousarray(vectors, "<f4").tobytes())
        self.done += len(vectors)

    def read(self, first: int, count: int) -> npt.NDArray[np.float32]:
        """Rows ``[count, width]`` from row ``first``."""
        found = np.fromfile(self.rows, "<f4", count * self.width, offset=4 * first * self.width)
        return found.reshape(count, self.width)

    def remove(self) -> None:
        """Delete the folder."""
        if self.folder.exists():
            shutil.rmtree(self.folder)


def _short(value: Any, most: int = 60) -> str:
    text = json.dumps(value)
    return text if len(text) <= most else text[: most - 3] + "..."
