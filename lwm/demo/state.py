"""What a demo run has finished, so that it can be interrupted and run again."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lwm.console import say
from lwm.errors import OutputError
from lwm.output import write_json

_FILE = "demo.json"


@dataclass
class DemoState:
    """Stages that are done, their seconds and figures, kept in ``demo.json`` of the run's folder."""

    out: Path
    settings: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, out: Path, settings: dict[str, Any]) -> "DemoState":
        """The state in ``out``, or a new one when the folder is new or empty.

        Raises:
            OutputError: the folder holds something else, or a demo with other settings.
        """
        path = out / _FILE
        if path.is_file():
            kept = json.loads(path.read_text())
            if kept["settings"] != settings:
                raise OutputError(
                    f"{out} holds a demo with settings {kept['settings']}",
                    f"{settings}",
                    "choose another --out or add --overwrite",
                )
            return cls(out, settings, kept["seconds"], kept["finished"], kept["figures"])
        if out.exists() and any(out.iterdir()):
            raise OutputError(f"{out} is not empty and holds no demo", "a new folder", "choose another --out")
        state = cls(out, settings)
        state.save()
        return state

    def save(self) -> None:
        """Write ``demo.json``."""
        content = {key: getattr(self, key) for key in ("settings", "seconds", "finished", "figures")}
        write_json(self.out / _FILE, content)

    @contextmanager
    def stage(self, name: str) -> Iterator[bool]:
        """Time one stage; yields False when an earlier run has finished it. Interrupted time is counted too."""
        if name in self.finished:
            say(f"== {name}: done before in {self.seconds[name]:.0f} s")
            yield False
            return
        say(f"\n== {name}")
        begin = time.monotonic()
        try:
            yield True
            self.finished.append(name)
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begin
            self.save()
        say(f"== {name}: {self.seconds[name]:.0f} s")
