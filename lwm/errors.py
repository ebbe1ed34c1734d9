"""The one hierarchy of errors that LWM raises on purpose.

Every message is a single line: what was given, what was expected, how to mend it. The command line prints it
without a traceback and exits with code 2.
"""


class LWMError(Exception):
    """Base of every error a user can mend.

    Args:
        given: what was found, naming the file, flag or value.
        expected: what should have been there.
        remedy: what to do about it.
    """

    def __init__(self, given: str, expected: str = "", remedy: str = "") -> None:
        parts = [given.strip()]
        if expected:
            parts.append(f"expected {expected.strip()}")
        if remedy:
            parts.append(remedy.strip())
        super().__init__("; ".join(" ".join(part.split()) for part in parts))


class ConfigError(LWMError):
    """A setting, flag or YAML key that does not exist or has an impossible value."""


class CaptureError(LWMError):
    """A recording that cannot be read or used: empty, truncated, not finite, without a sample rate, too short."""


class RecipeMismatch(LWMError):
    """Data of one recipe offered to a model of another."""


class RejectedConfig(LWMError):
    """A waveform configuration outside the standard; the message names the clause."""


class DatasetError(LWMError):
    """A shard or manifest that is missing, truncated or does not match."""


class ModelError(LWMError):
    """A model folder or checkpoint that cannot be loaded strictly, or models that do not fit together."""


class OutputError(LWMError):
    """An output that cannot be written: folder not empty, disk full, no permission."""
