"""What the commands say: lines on standard output, progress with rate and time left on standard error."""

import sys
from typing import Any

from tqdm import tqdm


def say(text: str = "") -> None:
    """One line to standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def progress(what: str, total: int | None, unit: str, done: int = 0) -> "tqdm[Any]":
    """Progress bar with rate and time left on standard error; a line every ten seconds where that is no terminal."""
    quick = sys.stderr.isatty()
    return tqdm(
        desc=what,
        total=total,
        unit=f" {unit}",
        initial=done,
        file=sys.stderr,
        mininterval=0.2 if quick else 10.0,
        dynamic_ncols=quick,
        leave=True,
    )
