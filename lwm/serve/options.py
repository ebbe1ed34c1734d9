"""What a server is told: its limits, and who may talk to it."""

import math
from dataclasses import dataclass
from pathlib import Path

from lwm.errors import ConfigError

MIB = 1 << 20


@dataclass(frozen=True)
class ServeOptions:
    """Limits of a server.

    Args:
        name: what the model is called in requests.
        batch: most requests that are answered together.
        wait_ms: how long the first of a batch waits for others, ms.
        max_body_mb: largest body of a request, MiB.
        max_tokens: most tokens of an answer, and how many it has unless asked otherwise.
        timeout: s from a request's arrival to the end of its answer.
        queue: requests that may wait beside those being answered; one more is told to come again later.
        cache_mb: RF tokens of recent captures kept, MiB.
        keys: API keys that are let in; empty lets everybody in.

    Raises:
        ConfigError: a limit that is not positive.
    """

    name: str = "rfgpt"
    batch: int = 8
    wait_ms: float = 10.0
    max_body_mb: float = 32.0
    max_tokens: int = 256
    timeout: float = 60.0
    queue: int = 64
    cache_mb: float = 64.0
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("batch", "max_body_mb", "max_tokens", "timeout", "queue"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} {value}", "a number above 0")
        for name in ("wait_ms", "cache_mb"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} {value}", "a number, 0 or more")
        if not self.name.strip():
            raise ConfigError("an empty name for the model", "what clients call it")

    @property
    def max_body(self) -> int:
        """Bytes."""
        return int(self.max_body_mb * MIB)


def read_keys(path: str | Path) -> tuple[str, ...]:
    """API keys of a file, one a line; empty lines and those that begin with ``#`` are left out.

    Raises:
        ConfigError: the file cannot be read, or holds no key: then nobody could be let in.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"API key file {path} ({error})", "a text file with one key a line") from None
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise ConfigError(f"API key file {path} holds no key", "one key a line", "or leave --api_key_file out")
    return keys
